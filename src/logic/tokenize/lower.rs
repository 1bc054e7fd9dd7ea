//! Lower: a text in lower case, Unicode's full mapping, character by character, for all kernels.
//!
//! A kernel copies 64 bytes at a time, with the letters of ASCII in lower case, and finds where there may be
//! other characters that have case. Nearly all of those become characters of the same length, so they are
//! changed where they stand, by tables; the few others are mapped one by one, and the next 64 bytes begin
//! behind them. Text in a script without case costs little more than ASCII.
//!
//! Words can be found in what comes out: no character begins to separate, or ceases to. The standard library
//! may have a lower case for a character that is too new for [`WORDS`]; where it separates, it stays as it
//! is.

use std::sync::LazyLock;

use super::Tokens;
use super::beyond::{filter, for_each_kind, part};
use super::class::WORDS;
use super::kernel::{BLOCK, LOOKAHEAD, Seen};

/// Writes `text` in lower case to the front of `out`, which has at least [`room`] bytes; returns how many it
/// takes. What is not valid UTF-8 stays as it is.
///
/// For one block, `ascii` copies it with the letters of ASCII in lower case, and returns which bytes are not
/// ASCII; `change` does the rest in the copy, where characters keep their length, and returns where they do
/// not. Nothing is asked of it behind the first of these.
#[inline(always)]
pub(super) fn lower(
    text: &[u8],
    out: &mut [u8],
    tokens: Tokens,
    ascii: impl Fn(&[u8; BLOCK], &mut [u8; BLOCK]) -> u64,
    change: impl Fn(&Changes, &Seen, &mut [u8; BLOCK], u64) -> u64,
) -> usize {
    let step = |text: &[u8], out: &mut [u8]| -> Option<(usize, usize)> {
        let (seen, copy) = (text.first_chunk()?, out.first_chunk_mut()?);
        let beyond_ascii = ascii(part(seen, 0), copy);
        if beyond_ascii == 0 {
            return Some((BLOCK, BLOCK));
        }
        match change(Changes::of(tokens), seen, copy, beyond_ascii) {
            0 => Some([whole(seen); 2].into()),
            left => Some(map_one(tokens, text, out, left.trailing_zeros() as usize)),
        }
    };
    let (mut from, mut to) = (0, 0);
    while let Some((taken, written)) = step(&text[from..], &mut out[to..]) {
        from += taken;
        to += written;
    }
    // The last bytes are filled up so that enough follow each of them.
    let tail = &text[from..];
    let mut last = [0; 2 * (BLOCK + LOOKAHEAD)];
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

/// Returns the bytes that must be free for `len` bytes in lower case: some characters of two bytes become one
/// of three bytes, and the last block is written as a whole.
pub(super) fn room(len: usize) -> usize {
    len + len / 2 + 2 * BLOCK
}

/// Returns how many bytes of a block, at its front, hold no part of a character that ends behind it. Waits
/// for nothing but the last bytes, so that the next block can be begun before this one is done.
#[inline(always)]
fn whole(seen: &Seen) -> usize {
    let torn = [1, 2, 3].map(|n| n * usize::from(seen[BLOCK - n] >= FIRST_LEADS[n - 1]));
    BLOCK - torn[0].max(torn[1]).max(torn[2])
}

/// The first lead bytes of two, of three and of four.
const FIRST_LEADS: [u8; 3] = [0xc0, 0xe0, 0xf0];

/// The first and the last lead byte of two with a character that changes: from U+00C0 to U+057F.
const TWOS: [u8; 2] = [0xc3, 0xd5];

/// The lead bytes of three with such a character: U+1000 to U+2FFF, U+A000 to U+AFFF, and from U+F000 on.
const THREES: [u8; 4] = [0xe1, 0xe2, 0xea, 0xef];

/// The only lead byte of four with such a character; and the bytes that follow it before one.
const FOURS: u8 = 0xf0;
const FOURS_NEXT: [u8; 4] = [0x90, 0x91, 0x96, 0x9e];

/// Where in a block there begin characters, as a whole within it, that may change.
pub(super) struct Cased {
    twos: u64,
    threes: u64,
    fours: u64,
}

impl Cased {
    #[inline(always)]
    pub(super) fn new(
        seen: &Seen,
        beyond_ascii: u64,
        at_least: impl Fn(&[u8; BLOCK], u8) -> u64,
        equal: impl Fn(&[u8; BLOCK], u8) -> u64,
    ) -> Self {
        let block = part(seen, 0);
        let continuations = beyond_ascii & !at_least(block, FIRST_LEADS[0]);
        let next = continuations >> 1;
        Self {
            twos: at_least(block, TWOS[0]) & !at_least(block, TWOS[1] + 1) & next,
            threes: THREES.iter().fold(0, |found, &lead| found | equal(block, lead)) & next & next >> 1,
            fours: equal(block, FOURS) & next & next >> 1 & next >> 2,
        }
    }

    /// Changes the characters of three bytes and returns where the length changes; of those of four bytes, it
    /// returns where they change at all.
    #[inline(always)]
    fn change_threes_and_fours(&self, changes: &Changes, seen: &Seen, copy: &mut [u8; BLOCK]) -> u64 {
        let threes = filter(self.threes, |at| {
            let change = changes.three([seen[at], seen[at + 1], seen[at + 2]]);
            for (n, byte) in change.to_le_bytes()[..3].iter().enumerate() {
                copy[(at + n) % BLOCK] = seen[at + n] ^ byte;
            }
            u64::from(change >> 31)
        });
        threes | filter(self.fours, |at| u64::from(FOURS_NEXT.contains(&seen[at + 1])))
    }
}

/// Changes the characters of a block one after the other: for kernels that look at one byte at a time.
/// Returns where the length changes.
#[inline(always)]
pub(super) fn change_one_by_one(
    changes: &Changes,
    cased: &Cased,
    seen: &Seen,
    copy: &mut [u8; BLOCK],
) -> u64 {
    let twos = filter(cased.twos, |at| {
        let two = changes.with_lead(seen[at]);
        let low_bits = seen[at + 1] & 0x3f;
        copy[at] = seen[at] ^ two.first[usize::from(low_bits)];
        copy[(at + 1) % BLOCK] = seen[at + 1] ^ two.second[usize::from(low_bits)];
        two.longer >> low_bits
    });
    twos | cased.change_threes_and_fours(changes, seen, copy)
}

/// Changes the characters of a block, at once those with the same lead byte: for kernels that look at all
/// bytes of a block at once. Returns where the length changes.
///
/// Of the bytes of a block, `equal` returns which are the given one, and `has` for which the bit is set whose
/// number is the six low bits of the byte. Where a bit is set, `change` XORs to the copy what a table has
/// under the six low bits of the block's byte.
#[inline(always)]
pub(super) fn change_by_lead(
    changes: &Changes,
    mut cased: Cased,
    seen: &Seen,
    copy: &mut [u8; BLOCK],
    equal: impl Fn(&[u8; BLOCK], u8) -> u64,
    has: impl Fn(&[u8; BLOCK], u64) -> u64,
    change: impl Fn(&mut [u8; BLOCK], u64, &[u8; BLOCK], &[u8; 64]),
) -> u64 {
    if cased.twos | cased.threes | cased.fours == 0 {
        return 0;
    }
    let (block, next) = (part(seen, 0), part(seen, 1));
    let mut left = 0;
    for_each_kind(cased.twos, block, &equal, |lead, alike| {
        let two = changes.with_lead(lead);
        change(copy, alike, next, &two.first);
        change(copy, alike << 1, block, &two.second);
        left |= alike & has(next, two.longer);
    });
    if cased.threes != 0 {
        let have_case = THREES.map(|lead| {
            let three = changes.with_lead_of_three(lead);
            equal(block, lead) & has(next, three.seconds) & has(part(seen, 2), three.thirds)
        });
        cased.threes &= have_case.iter().fold(0, |all, some| all | some);
    }
    left | cased.change_threes_and_fours(changes, seen, copy)
}

/// Maps the character at index `at` of `text`, by the standard library; returns how many bytes of `text` and
/// of `out` are done then. What is before it has been copied.
#[cold]
#[inline(never)]
fn map_one(tokens: Tokens, text: &[u8], out: &mut [u8], at: usize) -> (usize, usize) {
    let bytes = &text[at..text.len().min(at + 4)];
    let Some(scalar) = bytes.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()) else {
        // It is left as it is.
        out[at] = text[at];
        return (at + 1, at + 1);
    };
    let mut written = at;
    if stays(scalar, tokens) {
        written += scalar.encode_utf8(&mut out[written..]).len();
        return (written, written);
    }
    for lower in scalar.to_lowercase() {
        written += lower.encode_utf8(&mut out[written..]).len();
    }
    (at + scalar.len_utf8(), written)
}

/// Tells whether `scalar` is left as it is, for it stands in no word anyway.
fn stays(scalar: char, tokens: Tokens) -> bool {
    tokens == Tokens::Word && !WORDS.has(scalar)
}

/// What must be XORed to the bytes of characters to have them in lower case.
pub(super) struct Changes {
    /// By the lead byte of two.
    two: [Two; 32],
    /// By the high bits of the scalar value, of three bytes: the number of what is in `pages` for each of the
    /// low ones. Most characters do not change, and share the first page.
    three: [u8; 1 << 10],
    /// The bytes, the first one in the lowest bits. The highest bit says that the length changes.
    pages: Vec<[u32; 64]>,
    /// By the lead byte of three.
    with_lead_of_three: [Three; 16],
}

/// A bit for each second byte, and for each third one, of characters that change and have the same first one.
#[derive(Clone, Copy, Default)]
struct Three {
    seconds: u64,
    thirds: u64,
}

/// The characters with the same first byte, of two, by the second one.
#[derive(Clone, Copy)]
struct Two {
    first: [u8; 64],
    second: [u8; 64],
    /// A bit for each character whose length changes; the bytes say nothing of it.
    longer: u64,
}

impl Changes {
    /// Returns what is made once for a process, and only where a text is not all ASCII.
    fn of(tokens: Tokens) -> &'static Self {
        static IN_WORDS: LazyLock<Changes> = LazyLock::new(|| Changes::new(Tokens::Word));
        static ALL: LazyLock<Changes> = LazyLock::new(|| Changes::new(Tokens::Whitespace));
        match tokens {
            Tokens::Word => &IN_WORDS,
            Tokens::Whitespace => &ALL,
        }
    }

    fn new(tokens: Tokens) -> Self {
        let two = Two { first: [0; 64], second: [0; 64], longer: 0 };
        let mut changes = Self {
            two: [two; 32],
            three: [0; 1 << 10],
            pages: vec![[0; 64]],
            with_lead_of_three: Default::default(),
        };
        let twos = '\u{80}'..='\u{7ff}';
        let threes =
            ['\u{1000}'..='\u{2fff}', '\u{a000}'..='\u{afff}', '\u{f000}'..='\u{ffff}'].into_iter().flatten();
        for scalar in twos.chain(threes) {
            if let Some(change) = change(scalar)
                && !stays(scalar, tokens)
            {
                changes.set(scalar, change);
            }
        }
        changes
    }

    fn set(&mut self, scalar: char, change: u32) {
        let (high, low) = (scalar as usize >> 6, scalar as usize & 63);
        if scalar.len_utf8() == 2 {
            let [first, second, _, longer] = change.to_le_bytes();
            let two = &mut self.two[high];
            (two.first[low], two.second[low]) = (first, second);
            two.longer |= u64::from(longer >> 7) << low;
            return;
        }
        let page = &mut self.three[high];
        if *page == 0 {
            *page = self.pages.len() as u8;
            self.pages.push([0; 64]);
        }
        let three = &mut self.with_lead_of_three[high >> 6];
        three.seconds |= 1 << (high & 63);
        three.thirds |= 1 << low;
        self.pages[usize::from(*page)][low] = change;
    }

    #[inline(always)]
    fn with_lead(&self, a: u8) -> &Two {
        &self.two[usize::from(a & 0x1f)]
    }

    #[inline(always)]
    fn with_lead_of_three(&self, a: u8) -> Three {
        self.with_lead_of_three[usize::from(a & 0x0f)]
    }

    #[inline(always)]
    fn three(&self, [a, b, c]: [u8; 3]) -> u32 {
        let page = self.three[usize::from(a & 0x0f) << 6 | usize::from(b & 0x3f)];
        self.pages[usize::from(page)][usize::from(c & 0x3f)]
    }
}

/// Returns what makes `scalar` its lower case, with the highest bit alone if its length changes; `None` if it
/// is that already.
fn change(scalar: char) -> Option<u32> {
    let mut lower = scalar.to_lowercase();
    if lower.clone().eq([scalar]) {
        return None;
    }
    let bytes = |scalar: char| {
        let mut bytes = [0; 4];
        scalar.encode_utf8(&mut bytes);
        u32::from_le_bytes(bytes)
    };
    match (lower.next(), lower.next()) {
        (Some(one), None) if one.len_utf8() == scalar.len_utf8() => Some(bytes(scalar) ^ bytes(one)),
        _ => Some(1 << 31),
    }
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
        let changes = Changes::of(Tokens::Whitespace);
        for scalar in '\u{80}'..='\u{ffff}' {
            let mut bytes = [0; 4];
            let found = match *scalar.encode_utf8(&mut bytes).as_bytes() {
                [a, b] => {
                    let (two, low) = (changes.with_lead(a), b & 63);
                    let [first, second] = [two.first, two.second].map(|bytes| bytes[usize::from(low)]);
                    u32::from_le_bytes([first, second, 0, (two.longer >> low << 7) as u8])
                }
                [a, b, c] => changes.three([a, b, c]),
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

    /// Else words would have to be found before they are in lower case.
    #[test]
    fn what_stands_in_words_does_so_in_lower_case() {
        let in_words =
            |scalar: char| scalar.is_ascii_alphanumeric() || !scalar.is_ascii() && WORDS.has(scalar);
        for scalar in ('\u{80}'..=char::MAX).filter(|&scalar| WORDS.has(scalar)) {
            assert!(scalar.to_lowercase().all(in_words), "{scalar:?}");
        }
        assert!(
            ('\0'..=char::MAX).all(|scalar| !scalar.is_whitespace() || scalar.to_lowercase().eq([scalar]))
        );
    }

    #[test]
    fn tables_are_small() {
        let changes = Changes::of(Tokens::Whitespace);
        let bytes = size_of::<Changes>() + size_of_val(changes.pages.as_slice());
        assert!(bytes <= 20 << 10, "{bytes} bytes");
    }
}
