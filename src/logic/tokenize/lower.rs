//! Lower: a text in lower case, Unicode's full mapping, character by character, for all kernels.
//!
//! A kernel copies 64 bytes at a time, with the letters of ASCII in lower case, and says where there may be other
//! characters that have case. Nearly all of those become characters of the same length, so they are changed where they
//! stand, by tables; the few others are mapped one by one, and the next 64 bytes begin behind them. Text in a script
//! without case costs no more than ASCII.

use std::sync::LazyLock;

use super::kernel::BLOCK;

/// Writes `text` in lower case to the front of `out`, which has at least [`room`] bytes; returns how many it takes.
/// What is not valid UTF-8 stays as it is.
///
/// For one block, `ascii` copies it with the letters of ASCII in lower case, and returns which bytes are not ASCII;
/// `at_least` returns which bytes are no less than the given one, and `equal` which are it.
#[inline(always)]
pub(super) fn lower(
    text: &[u8],
    out: &mut [u8],
    ascii: impl Fn(&[u8; BLOCK], &mut [u8; BLOCK]) -> u64,
    at_least: impl Fn(&[u8; BLOCK], u8) -> u64,
    equal: impl Fn(&[u8; BLOCK], u8) -> u64,
) -> usize {
    let step = |text: &[u8], out: &mut [u8]| -> Option<(usize, usize)> {
        let (block, copy) = (text.first_chunk()?, out.first_chunk_mut()?);
        let beyond_ascii = ascii(block, copy);
        if beyond_ascii == 0 {
            return Some((BLOCK, BLOCK));
        }
        let leads = at_least(block, 0xc0);
        let cased = Cased {
            twos: at_least(block, TWOS[0]) & !at_least(block, TWOS[1] + 1),
            threes: THREES.iter().fold(0, |found, &lead| found | equal(block, lead)),
            fours: equal(block, FOURS),
        };
        match cased.change(block, copy, beyond_ascii & !leads) {
            0 => Some((BLOCK, BLOCK)),
            left => Some(map_one(text, out, left.trailing_zeros() as usize)),
        }
    };
    let (mut from, mut to) = (0, 0);
    while let Some((taken, written)) = step(&text[from..], &mut out[to..]) {
        from += taken;
        to += written;
    }
    // The last bytes are filled up so that a whole block begins at each.
    let tail = &text[from..];
    let mut last = [0; 2 * BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    from = 0;
    while from < tail.len() {
        let Some((taken, written)) = step(&last[from..], &mut out[to..]) else { break };
        from += taken;
        to += written;
    }
    // What was filled in has been copied byte by byte.
    to - (from - tail.len())
}

/// Returns the bytes that must be free for `len` bytes in lower case: some characters of two bytes become one of three
/// bytes, and the last block is written as a whole.
pub(super) fn room(len: usize) -> usize {
    len + len / 2 + 2 * BLOCK
}

/// The first and the last lead byte of two with a character that changes: from U+00C0 to U+057F.
const TWOS: [u8; 2] = [0xc3, 0xd5];

/// The lead bytes of three with such a character: U+1000 to U+2FFF, U+A000 to U+AFFF, and from U+F000 on.
const THREES: [u8; 4] = [0xe1, 0xe2, 0xea, 0xef];

/// The only lead byte of four with such a character; and the bytes that follow it before one.
const FOURS: u8 = 0xf0;
const FOURS_NEXT: [u8; 4] = [0x90, 0x91, 0x96, 0x9e];

/// Where in a block there are lead bytes of characters that may change.
struct Cased {
    twos: u64,
    threes: u64,
    fours: u64,
}

impl Cased {
    /// Changes in `copy` the characters that keep their length, and returns where others stand. So far only what is
    /// before the first of them is right in `copy`.
    #[inline(always)]
    fn change(self, block: &[u8; BLOCK], copy: &mut [u8; BLOCK], continuations: u64) -> u64 {
        if self.twos | self.threes | self.fours == 0 {
            return 0;
        }
        let changes = &*CHANGES;
        let (next, next_but_one) = (continuations >> 1, continuations >> 2);
        // What reaches behind the block begins the next one.
        let mut left = self.twos & 1 << 63 | self.threes & 3 << 62 | self.fours & 7 << 61;
        for_each(self.twos & next, |[first, second, _]| {
            let change = changes.two([block[first], block[second]]);
            let [a, b] = change.to_le_bytes();
            copy[first] ^= a;
            copy[second] ^= b;
            left |= u64::from(change >> 15) << first;
        });
        for_each(self.threes & next & next_but_one, |[first, second, third]| {
            let change = changes.three([block[first], block[second], block[third]]);
            let [a, b, c, _] = change.to_le_bytes();
            copy[first] ^= a;
            copy[second] ^= b;
            copy[third] ^= c;
            left |= u64::from(change >> 31) << first;
        });
        for_each(self.fours & next, |[first, second, _]| {
            left |= u64::from(FOURS_NEXT.contains(&block[second])) << first;
        });
        left
    }
}

/// Calls `call` with the number of each bit that is set, and the next two numbers. Those that are too large begin from
/// zero again: nobody has use for them, and the compiler sees that all are within a block.
#[inline(always)]
fn for_each(mut bits: u64, mut call: impl FnMut([usize; 3])) {
    while bits != 0 {
        let at = bits.trailing_zeros() as usize;
        call([at, at + 1, at + 2].map(|at| at % BLOCK));
        bits &= bits - 1;
    }
}

/// Maps the character at index `at` of `text`, by the standard library; returns how many bytes of `text` and of `out`
/// are done then. What is before it, and the byte at `at` itself, have been copied.
#[cold]
#[inline(never)]
fn map_one(text: &[u8], out: &mut [u8], at: usize) -> (usize, usize) {
    if at > BLOCK - 4 {
        // It may reach behind the block, and then it has not been looked at.
        return (at, at);
    }
    let bytes = &text[at..text.len().min(at + 4)];
    let Some(scalar) = bytes.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()) else {
        return (at + 1, at + 1);
    };
    let mut written = at;
    for lower in scalar.to_lowercase() {
        written += lower.encode_utf8(&mut out[written..]).len();
    }
    (at + scalar.len_utf8(), written)
}

/// Made once for a process, and only where a text is not all ASCII.
static CHANGES: LazyLock<Changes> = LazyLock::new(Changes::new);

/// What must be XORed to a character's bytes, the first one in the lowest bits, to have it in lower case. The highest
/// bit says that this cannot be, because the length changes.
struct Changes {
    two: [u16; 1 << 11],
    /// By the high bits of the scalar value: the number of what is in `pages` for each of the low ones. Most
    /// characters do not change, and share the first page.
    three: [u8; 1 << 10],
    pages: Vec<[u32; 64]>,
}

impl Changes {
    fn new() -> Self {
        let mut changes = Self { two: [0; 1 << 11], three: [0; 1 << 10], pages: vec![[0; 64]] };
        let twos = '\u{80}'..='\u{7ff}';
        let threes =
            ['\u{1000}'..='\u{2fff}', '\u{a000}'..='\u{afff}', '\u{f000}'..='\u{ffff}'].into_iter().flatten();
        for scalar in twos.chain(threes) {
            let Some(change) = change(scalar) else { continue };
            let at = scalar as usize;
            if scalar.len_utf8() == 2 {
                changes.two[at] = (change | change >> 16) as u16;
                continue;
            }
            let page = &mut changes.three[at >> 6];
            if *page == 0 {
                *page = changes.pages.len() as u8;
                changes.pages.push([0; 64]);
            }
            changes.pages[usize::from(*page)][at & 63] = change;
        }
        changes
    }

    #[inline(always)]
    fn two(&self, [a, b]: [u8; 2]) -> u16 {
        self.two[usize::from(a & 0x1f) << 6 | usize::from(b & 0x3f)]
    }

    #[inline(always)]
    fn three(&self, [a, b, c]: [u8; 3]) -> u32 {
        let page = self.three[usize::from(a & 0x0f) << 6 | usize::from(b & 0x3f)];
        self.pages[usize::from(page)][usize::from(c & 0x3f)]
    }
}

/// Returns what makes `scalar` its lower case, with the highest bit alone if its length changes; `None` if it is that
/// already.
fn change(scalar: char) -> Option<u32> {
    let lower: String = scalar.to_lowercase().collect();
    let (mut before, mut after) = ([0; 4], [0; 4]);
    let len = scalar.encode_utf8(&mut before).len();
    if lower.as_bytes() == &before[..len] {
        return None;
    }
    if lower.len() != len {
        return Some(1 << 31);
    }
    after[..len].copy_from_slice(lower.as_bytes());
    Some(u32::from_le_bytes(before) ^ u32::from_le_bytes(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels look only at what may change; this is what they take for granted.
    #[test]
    fn what_changes_begins_as_it_is_looked_for() {
        for scalar in '\u{80}'..=char::MAX {
            if change(scalar).is_none() {
                continue;
            }
            let mut bytes = [0; 4];
            match *scalar.encode_utf8(&mut bytes).as_bytes() {
                [a, _] => assert!((TWOS[0]..=TWOS[1]).contains(&a), "{scalar:?}"),
                [a, _, _] => assert!(THREES.contains(&a), "{scalar:?}"),
                [a, b, ..] => assert!(a == FOURS && FOURS_NEXT.contains(&b), "{scalar:?}"),
                _ => unreachable!("no character beyond ASCII has one byte"),
            }
        }
    }

    #[test]
    fn changes_are_those_of_the_standard_library() {
        for scalar in '\u{80}'..='\u{ffff}' {
            let mut bytes = [0; 4];
            let found = match *scalar.encode_utf8(&mut bytes).as_bytes() {
                [a, b] => {
                    let found = CHANGES.two([a, b]);
                    if found >> 15 == 1 { 1 << 31 } else { found.into() }
                }
                [a, b, c] => CHANGES.three([a, b, c]),
                _ => unreachable!("these characters have two or three bytes"),
            };
            assert_eq!(found, change(scalar).unwrap_or(0), "{scalar:?}");
        }
    }

    #[test]
    fn no_character_grows_by_more_than_half() {
        for scalar in '\0'..=char::MAX {
            let len: usize = scalar.to_lowercase().map(char::len_utf8).sum();
            assert!(2 * len <= 3 * scalar.len_utf8(), "{scalar:?}");
        }
    }

    #[test]
    fn tables_are_small() {
        let bytes = size_of::<Changes>() + size_of_val(CHANGES.pages.as_slice());
        assert!(bytes <= 20 << 10, "{bytes} bytes");
    }
}
