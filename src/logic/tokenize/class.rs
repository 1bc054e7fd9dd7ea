//! Class: which characters beyond ASCII stand in words of UTS #18 `\w`.
//!
//! Alphabetic characters, marks, decimal digits, connector punctuation, join controls: the ranges are those
//! of the `regex-syntax` crate, at present Unicode 16.0.0.

use std::sync::LazyLock;

use regex_syntax::hir::{self, HirKind};

/// The set of `\w`, made once for a process, and only where a text is not all ASCII.
pub(super) static WORDS: LazyLock<Words> = LazyLock::new(|| Words::new(word_ranges()));

/// A set of characters, with a bit for each, addressed by the bytes of their UTF-8. What is no valid UTF-8 (a
/// form that is too long, a surrogate, what is beyond U+10FFFF) is in no set: Unicode, 3.9, table 3-7.
///
/// Takes 23 KiB, of which a text in one script touches a few lines.
pub(super) struct Words {
    /// By the lead byte of two: a bit for each continuation.
    two: [u64; 32],
    /// By the lead byte of three.
    three: [Three; 16],
    /// A bit for each lead byte of three all of whose characters are in the set.
    full_leads: u64,
    /// By the high bits of a scalar value: the number of what is in `pages` for each of the low bits.
    four: Box<[u16; 0x11_0000 / PAGE]>,
    pages: Vec<[u64; PAGE / 64]>,
}

/// The characters of three bytes with the same first one.
#[derive(Clone, Copy)]
pub(super) struct Three {
    /// A bit for each second byte with which all characters are in the set, and with which any is.
    pub(super) full: u64,
    pub(super) some: u64,
    /// By the second byte: a bit for each third one.
    seconds: [u64; 64],
}

impl Three {
    /// Returns a bit for each third byte with which the second byte `b` makes a character of the set.
    #[inline(always)]
    pub(super) fn with_second(&self, b: u8) -> u64 {
        self.seconds[usize::from(b & 0x3f)]
    }

    /// Returns a bit for each second byte whose third ones pass `test`.
    fn seconds(&self, test: impl Fn(u64) -> bool) -> u64 {
        self.seconds.iter().rev().fold(0, |bits, &thirds| bits << 1 | u64::from(test(thirds)))
    }
}

/// Characters of four bytes that share a place in the first table.
const PAGE: usize = 256;

impl Words {
    /// Makes the set of the characters in `ranges`, whose ends belong to them; those of ASCII are left out.
    fn new(ranges: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut two = [0; 32];
        let mut three = [Three { full: 0, some: 0, seconds: [0; 64] }; 16];
        let mut pages = vec![[0u64; PAGE / 64]; 0x11_0000 / PAGE];
        for scalar in ranges.flat_map(|(start, end)| start..=end) {
            let (high, bit) = (scalar as usize >> 6, 1 << (scalar & 63));
            match scalar {
                0..0x80 => {}
                0x80..0x800 => two[high] |= bit,
                0x800..0x1_0000 => three[high / 64].seconds[high % 64] |= bit,
                _ => pages[scalar as usize / PAGE][high % (PAGE / 64)] |= bit,
            }
        }
        let mut full_leads = 0;
        for (lead, three) in three.iter_mut().enumerate() {
            three.full = three.seconds(|thirds| thirds == u64::MAX);
            three.some = three.seconds(|thirds| thirds != 0);
            full_leads |= u64::from(three.full == u64::MAX) << (0xe0 & 0x3f | lead);
        }
        let mut kept: Vec<[u64; PAGE / 64]> = Vec::new();
        let mut four = Box::new([0; 0x11_0000 / PAGE]);
        for (number, page) in four.iter_mut().zip(&pages) {
            let at = kept.iter().position(|known| known == page).unwrap_or_else(|| {
                kept.push(*page);
                kept.len() - 1
            });
            *number = at as u16;
        }
        Self { two, three, full_leads, four, pages: kept }
    }

    /// Tells whether `scalar`, which is not ASCII, is in the set.
    pub(super) fn has(&self, scalar: char) -> bool {
        let mut bytes = [0; 4];
        scalar.encode_utf8(&mut bytes);
        self.has_at_front(bytes)
    }

    /// Tells whether the set has what stands at the front of `bytes`, by the length that the lead byte
    /// announces.
    fn has_at_front(&self, bytes: [u8; 4]) -> bool {
        let [a, b, c, _] = bytes;
        let bit = match a {
            ..0xe0 => self.with_lead(a) >> (b & 0x3f),
            0xe0..0xf0 => self.with_lead_of_three(a).with_second(b) >> (c & 0x3f),
            0xf0.. => self.has_four(bytes),
        };
        bit & 1 == 1
    }

    /// Returns a bit for each second byte with which the lead byte `a` of two makes a character of the set.
    #[inline(always)]
    pub(super) fn with_lead(&self, a: u8) -> u64 {
        self.two[usize::from(a & 0x1f)]
    }

    /// Returns the characters with the lead byte `a` of three.
    #[inline(always)]
    pub(super) fn with_lead_of_three(&self, a: u8) -> &Three {
        &self.three[usize::from(a & 0x0f)]
    }

    /// Returns a bit, by its six low bits, for each lead byte of three all of whose characters are in the
    /// set.
    #[inline(always)]
    pub(super) fn full_leads_of_three(&self) -> u64 {
        self.full_leads
    }

    /// Tells, as the lowest bit, whether a byte from 0xF0 on and three continuations make a character of the
    /// set.
    #[inline(always)]
    pub(super) fn has_four(&self, [a, b, c, d]: [u8; 4]) -> u64 {
        let low_bits = |byte: u8| usize::from(byte & 0x3f);
        let scalar = usize::from(a & 0x0f) << 18 | low_bits(b) << 12 | low_bits(c) << 6 | low_bits(d);
        // Pages below the first character of four bytes are empty.
        let Some(&page) = self.four.get(scalar / PAGE) else { return 0 };
        self.pages[usize::from(page)][scalar / 64 % (PAGE / 64)] >> (scalar % 64) & 1
    }
}

/// Returns the ranges of `\w`; their ends belong to them.
fn word_ranges() -> impl Iterator<Item = (u32, u32)> {
    let hir =
        regex_syntax::parse(r"\w").expect("regex-syntax is built with the ranges of \\w (`unicode-perl`)");
    let HirKind::Class(hir::Class::Unicode(class)) = hir.into_kind() else {
        unreachable!("\\w is a class of characters");
    };
    let ranges = class.ranges().iter().map(|range| (range.start().into(), range.end().into()));
    ranges.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_ranges() {
        let ranges = [(0x41, 0x42), (0xbf, 0xc0), (0x100, 0x100), (0xffff, 0x1_0001), (0x10_ffff, 0x10_ffff)];
        let set = Words::new(ranges.into_iter());
        let members: Vec<u32> =
            ('\u{80}'..=char::MAX).filter(|&scalar| set.has(scalar)).map(u32::from).collect();
        assert_eq!(members, [0xbf, 0xc0, 0x100, 0xffff, 0x1_0000, 0x1_0001, 0x10_ffff]);
    }

    #[test]
    fn words_are_those_of_the_regex_crate() {
        let word = regex::Regex::new(r"^\w$").expect("a valid pattern");
        for scalar in '\u{80}'..=char::MAX {
            let is_word = word.is_match(scalar.encode_utf8(&mut [0; 4]));
            assert_eq!(WORDS.has(scalar), is_word, "{scalar:?}");
        }
    }

    /// The doc names a version of Unicode: these came with 16.0 and with 17.0.
    #[test]
    fn words_are_those_of_unicode_16() {
        assert!(WORDS.has('\u{1c89}'), "CYRILLIC CAPITAL LETTER TJE, Unicode 16.0");
        assert!(!WORDS.has('\u{a7ce}'), "LATIN CAPITAL LETTER PHARYNGEAL VOICED FRICATIVE, 17.0");
    }

    #[test]
    fn no_set_has_what_is_no_valid_utf8() {
        // A set of all characters, except for surrogates, which are none.
        let set = Words::new([(0, 0xd7ff), (0xe000, 0x10_ffff)].into_iter());
        let some = [0x80, 0x81, 0x8f, 0x90, 0x9f, 0xa0, 0xbf];
        for lead in 0xc0..=0xff {
            for second in 0x80..=0xbf {
                for (third, fourth) in some.iter().flat_map(|third| some.map(|fourth| (*third, fourth))) {
                    let bytes = [lead, second, third, fourth];
                    let len = if lead < 0xe0 {
                        2
                    } else if lead < 0xf0 {
                        3
                    } else {
                        4
                    };
                    assert_eq!(
                        set.has_at_front(bytes),
                        std::str::from_utf8(&bytes[..len]).is_ok(),
                        "{bytes:x?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_set_of_words_is_small() {
        let bytes = size_of::<Words>() + size_of_val(&*WORDS.four) + size_of_val(WORDS.pages.as_slice());
        assert!(bytes <= 23 << 10, "{bytes} bytes");
    }
}
