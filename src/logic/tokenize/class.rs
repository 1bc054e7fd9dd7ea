//! Class: which characters stand in words.

use std::sync::LazyLock;

use regex_syntax::hir::{self, HirKind};

/// The characters that words are made of.
pub(super) trait Class {
    /// Whether bytes that are not valid UTF-8 stand in words.
    const HAS_INVALID: bool;

    /// Tells whether the ASCII byte `byte` stands in words. For other bytes, the answer means nothing.
    fn has_ascii(byte: u8) -> bool;

    /// Tells whether the character `scalar`, which is not ASCII, stands in words.
    fn has_beyond_ascii(&self, scalar: u32) -> bool;

    /// Returns the length of the character at the front of `bytes` and whether it stands in words. What is not valid
    /// UTF-8 is taken byte by byte.
    #[inline]
    fn at_front(&self, bytes: &[u8]) -> (usize, bool) {
        match decode_beyond_ascii(bytes) {
            Some((len, scalar)) => (len, self.has_beyond_ascii(scalar)),
            None => (1, Self::HAS_INVALID),
        }
    }
}

/// UTS #18 `\w`: Alphabetic, marks, decimal digits, connector punctuation, join controls.
pub(super) struct WordLike {
    set: &'static CharSet,
}

impl WordLike {
    pub(super) fn new() -> Self {
        Self { set: &WORD_LIKE }
    }
}

impl Class for WordLike {
    const HAS_INVALID: bool = false;

    #[inline]
    fn has_ascii(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || byte == b'_'
    }

    #[inline]
    fn has_beyond_ascii(&self, scalar: u32) -> bool {
        self.set.contains(scalar)
    }
}

/// Anything but Unicode White_Space.
pub(super) struct Visible;

impl Class for Visible {
    const HAS_INVALID: bool = true;

    #[inline]
    fn has_ascii(byte: u8) -> bool {
        // `u8::is_ascii_whitespace` would not do: it lacks the vertical tab.
        !matches!(byte, b'\t'..=b'\r' | b' ')
    }

    #[inline]
    fn has_beyond_ascii(&self, scalar: u32) -> bool {
        !matches!(scalar, 0x85 | 0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000)
    }
}

/// Decodes the character at the front of `bytes`: its length and scalar value. `None` if they do not begin with a
/// valid UTF-8 sequence of two bytes or more.
///
/// Source: the Unicode Standard, 3.9, table 3-7: neither overlong forms nor surrogates, nothing above U+10FFFF.
#[inline]
fn decode_beyond_ascii(bytes: &[u8]) -> Option<(usize, u32)> {
    let low_bits = |byte: u8| (byte & 0xc0 == 0x80).then_some(u32::from(byte & 0x3f));
    match *bytes {
        [a @ 0xc2..=0xdf, b, ..] => Some((2, u32::from(a & 0x1f) << 6 | low_bits(b)?)),
        [a @ 0xe0..=0xef, b, c, ..] => {
            let scalar = u32::from(a & 0x0f) << 12 | low_bits(b)? << 6 | low_bits(c)?;
            (scalar >= 0x800 && scalar >> 11 != 0xd800 >> 11).then_some((3, scalar))
        }
        [a @ 0xf0..=0xf4, b, c, d, ..] => {
            let scalar = u32::from(a & 0x07) << 18 | low_bits(b)? << 12 | low_bits(c)? << 6 | low_bits(d)?;
            (0x1_0000..=0x10_ffff).contains(&scalar).then_some((4, scalar))
        }
        _ => None,
    }
}

/// The set of `\w`, made once for a process. Its ranges are those of the `regex` crate, whose syntax crate has them.
static WORD_LIKE: LazyLock<CharSet> = LazyLock::new(|| {
    let hir =
        regex_syntax::parse(r"\w").expect("regex-syntax is built with the ranges of \\w (`unicode-perl`)");
    let HirKind::Class(hir::Class::Unicode(class)) = hir.kind() else {
        unreachable!("\\w is a class of characters");
    };
    CharSet::new(class.ranges().iter().map(|range| (range.start().into(), range.end().into())))
});

/// A set of characters: a bit for each, in blocks of 256; blocks that look the same are kept once. `\w` takes 13 KiB,
/// of which a text in one script touches a few lines.
struct CharSet {
    /// Numbers into `blocks`, by a scalar value's bits from the eighth on.
    block_of: Box<[u16; N_BLOCKS]>,
    blocks: Vec<[u64; 4]>,
}

/// Blocks of 256 scalar values, up to U+10FFFF.
const N_BLOCKS: usize = 0x11_0000 >> 8;

impl CharSet {
    /// Makes the set of all scalar values in `ranges`, whose ends belong to them.
    fn new(ranges: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut all = vec![[0u64; 4]; N_BLOCKS];
        for scalar in ranges.flat_map(|(start, end)| start..=end) {
            all[scalar as usize >> 8][scalar as usize >> 6 & 3] |= 1 << (scalar & 63);
        }
        let mut set = Self { block_of: Box::new([0; N_BLOCKS]), blocks: Vec::new() };
        for (number, block) in set.block_of.iter_mut().zip(&all) {
            let at = set.blocks.iter().position(|known| known == block).unwrap_or(set.blocks.len());
            if at == set.blocks.len() {
                set.blocks.push(*block);
            }
            *number = at as u16;
        }
        set
    }

    #[inline]
    fn contains(&self, scalar: u32) -> bool {
        let block = self.block_of[scalar as usize >> 8];
        self.blocks[usize::from(block)][scalar as usize >> 6 & 3] >> (scalar & 63) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that decoding agrees with the standard library on `bytes`, which do not begin with ASCII.
    fn assert_decodes(bytes: &[u8]) {
        let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let expected = valid.chars().next().map(|first| (first.len_utf8(), u32::from(first)));
        assert_eq!(decode_beyond_ascii(bytes), expected, "{bytes:x?}");
    }

    #[test]
    fn decodes_every_scalar_value() {
        for scalar in '\u{80}'..=char::MAX {
            let mut buffer = [b'a'; 6];
            let len = scalar.encode_utf8(&mut buffer).len();
            assert_eq!(decode_beyond_ascii(&buffer), Some((len, scalar.into())));
            for torn in 0..len {
                assert_eq!(decode_beyond_ascii(&buffer[..torn]), None, "{scalar:?} torn after {torn} bytes");
            }
        }
    }

    #[test]
    fn judges_bytes_as_the_standard_library_does() {
        // Whatever the last two bytes are, only whether they continue a sequence counts.
        let some = [0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xe1, 0xf1, 0xff];
        for first in 0x80..=0xff {
            assert_decodes(&[first]);
            for second in 0..=0xff {
                assert_decodes(&[first, second]);
                for third in some {
                    assert_decodes(&[first, second, third]);
                    some.iter().for_each(|&fourth| assert_decodes(&[first, second, third, fourth]));
                }
            }
        }
    }

    #[test]
    fn a_set_has_its_ranges() {
        let set = CharSet::new(
            [(0x100, 0x100), (0x3f, 0x40), (0xffff, 0x1_0001), (0x10_ffff, 0x10_ffff)].into_iter(),
        );
        let members: Vec<u32> = (0..0x11_0000).filter(|&scalar| set.contains(scalar)).collect();
        assert_eq!(members, [0x3f, 0x40, 0x100, 0xffff, 0x1_0000, 0x1_0001, 0x10_ffff]);
    }

    #[test]
    fn the_set_of_words_is_small() {
        let bytes = size_of_val(&*WORD_LIKE.block_of) + size_of_val(WORD_LIKE.blocks.as_slice());
        assert!(bytes < 16 << 10, "{bytes} bytes");
    }

    #[test]
    fn white_space_is_that_of_the_standard_library() {
        for scalar in '\0'..=char::MAX {
            let visible = match u8::try_from(scalar) {
                Ok(byte) if byte.is_ascii() => Visible::has_ascii(byte),
                _ => Visible.has_beyond_ascii(scalar.into()),
            };
            assert_eq!(visible, !scalar.is_whitespace(), "{scalar:?}");
        }
    }
}
