//! Beyond: the characters that are not ASCII, for all kernels.
//!
//! A kernel says with its vectors which bytes are ASCII and stand in words, and answers a few questions about
//! the bytes of a block that has others; the rest is here. No branch depends on which character stands where.
//! All of this is inlined into the kernels, so that it is compiled for their processors.
//!
//! Whether a sequence is valid can be told at each lead byte alone, for no valid sequence contains the lead
//! byte of another. So what is not valid UTF-8 needs no attention of its own.

use super::class::WORDS;
use super::kernel::{BLOCK, Seen};

/// Sets in `inside` the bytes of words of UTS #18 `\w`; see [`Classify`](super::kernel::Classify).
///
/// For one block, `ascii` returns which bytes are ASCII and stand in words, and which are not ASCII. For
/// those, `word_like` finds which characters stand in words.
#[inline(always)]
pub(super) fn words(
    text: &[u8],
    inside: &mut [u64],
    carried: &mut u64,
    ascii: impl Fn(&[u8; BLOCK]) -> (u64, u64),
    word_like: impl Fn(&Seen, u64) -> Begins,
) {
    for (number, inside) in inside.iter_mut().enumerate() {
        let seen = seen(text, number);
        let (ascii, beyond_ascii) = ascii(part(seen, 0));
        *inside = ascii | *carried;
        *carried = 0;
        if beyond_ascii != 0 {
            let (here, behind) = word_like(seen, beyond_ascii).bytes();
            *inside |= here;
            *carried = behind;
        }
    }
}

/// Sets in `inside` the bytes that are not white space; see [`Classify`](super::kernel::Classify).
///
/// For one block, `ascii` returns which bytes are not ASCII's white space, and which are not ASCII; `equal`,
/// which bytes are the given one.
#[inline(always)]
pub(super) fn visible(
    text: &[u8],
    inside: &mut [u64],
    carried: &mut u64,
    ascii: impl Fn(&[u8; BLOCK]) -> (u64, u64),
    equal: impl Fn(&[u8; BLOCK], u8) -> u64,
) {
    for (number, inside) in inside.iter_mut().enumerate() {
        let seen = seen(text, number);
        let (ascii, beyond_ascii) = ascii(part(seen, 0));
        // What reaches behind a block is white here.
        *inside = ascii & !*carried;
        *carried = 0;
        if beyond_ascii != 0 {
            let (here, behind) = white(seen, &equal);
            *inside &= !here;
            *carried = behind;
        }
    }
}

#[inline(always)]
fn seen(text: &[u8], number: usize) -> &Seen {
    text[number * BLOCK..].first_chunk().expect("enough bytes follow a block that is classified")
}

/// Returns as many bytes as a block has, from index `from` on.
#[inline(always)]
pub(super) fn part(seen: &Seen, from: usize) -> &[u8; BLOCK] {
    seen[from..].first_chunk().expect("no index is larger than the bytes behind a block")
}

/// Where in a block there begin characters of two, of three, and of four bytes.
#[derive(Clone, Copy)]
pub(super) struct Begins {
    twos: u64,
    threes: u64,
    fours: u64,
}

impl Begins {
    /// Finds lead bytes that as many continuations follow as they announce.
    #[inline(always)]
    fn new(seen: &Seen, beyond_ascii: u64, at_least: impl Fn(&[u8; BLOCK], u8) -> u64) -> Self {
        let [twos, threes, fours] = [0xc0, 0xe0, 0xf0].map(|least| at_least(part(seen, 0), least));
        let continuations = beyond_ascii & !twos;
        let behind = [0, 1, 2].map(|at| u64::from(seen[BLOCK + at] & 0xc0 == 0x80) << at);
        let behind = behind[0] | behind[1] | behind[2];
        // For each byte, whether the next one, the second next, and the third next one continue a sequence.
        let next = [1, 2, 3].map(|n| continuations >> n | behind << (BLOCK - n));
        Self {
            twos: twos & !threes & next[0],
            threes: threes & !fours & next[0] & next[1],
            fours: fours & next[0] & next[1] & next[2],
        }
    }

    /// Returns the bytes of the characters, in the block and behind it.
    #[inline(always)]
    fn bytes(self) -> (u64, u64) {
        let (seconds, thirds) = (self.twos | self.threes | self.fours, self.threes | self.fours);
        let here = seconds | seconds << 1 | thirds << 2 | self.fours << 3;
        (here, seconds >> 63 | thirds >> 62 | self.fours >> 61)
    }
}

/// Finds the characters that stand in words, one after the other: for kernels that look at one byte at a
/// time.
#[inline(always)]
pub(super) fn word_like_one_by_one(
    seen: &Seen,
    beyond_ascii: u64,
    at_least: impl Fn(&[u8; BLOCK], u8) -> u64,
) -> Begins {
    let words = &*WORDS;
    let begins = Begins::new(seen, beyond_ascii, at_least);
    Begins {
        twos: filter(begins.twos, |at| words.with_lead(seen[at]) >> (seen[at + 1] & 0x3f)),
        threes: filter(begins.threes, |at| {
            words.with_lead_of_three(seen[at]).with_second(seen[at + 1]) >> (seen[at + 2] & 0x3f)
        }),
        fours: word_like_fours(seen, begins.fours),
    }
}

/// Finds the characters that stand in words, at once those with the same bytes before the last one: for
/// kernels that look at all bytes of a block at once. A text in one script has few kinds of them.
///
/// Of the bytes of a block, `equal` returns which are the given one, and `has` for which the bit is set whose
/// number is the six low bits of the byte.
#[inline(always)]
pub(super) fn word_like_by_lead(
    seen: &Seen,
    beyond_ascii: u64,
    at_least: impl Fn(&[u8; BLOCK], u8) -> u64,
    equal: impl Fn(&[u8; BLOCK], u8) -> u64,
    has: impl Fn(&[u8; BLOCK], u64) -> u64,
) -> Begins {
    let words = &*WORDS;
    let (block, next, next_but_one) = (part(seen, 0), part(seen, 1), part(seen, 2));
    let begins = Begins::new(seen, beyond_ascii, at_least);

    let mut twos = 0;
    for_each_kind(begins.twos, block, &equal, |lead, alike| {
        twos |= alike & has(next, words.with_lead(lead));
    });
    let mut threes = begins.threes & has(block, words.full_leads_of_three());
    for_each_kind(begins.threes & !threes, block, &equal, |lead, alike| {
        let page = words.with_lead_of_three(lead);
        let full = alike & has(next, page.full);
        threes |= full;
        for_each_kind(alike & !full & has(next, page.some), next, &equal, |second, alike| {
            threes |= alike & has(next_but_one, page.with_second(second));
        });
    });
    Begins { twos, threes, fours: word_like_fours(seen, begins.fours) }
}

/// Calls `call` with each byte that `block` has at one of `bits`, and the bits where it has it.
#[inline(always)]
pub(super) fn for_each_kind(
    mut bits: u64,
    block: &[u8; BLOCK],
    equal: impl Fn(&[u8; BLOCK], u8) -> u64,
    mut call: impl FnMut(u8, u64),
) {
    while bits != 0 {
        let byte = block[bits.trailing_zeros() as usize % BLOCK];
        let alike = bits & equal(block, byte);
        call(byte, alike);
        bits &= !alike;
    }
}

#[inline(always)]
fn word_like_fours(seen: &Seen, fours: u64) -> u64 {
    if fours == 0 {
        return 0;
    }
    let words = &*WORDS;
    filter(fours, |at| words.has_four([seen[at], seen[at + 1], seen[at + 2], seen[at + 3]]))
}

/// Returns those of `bits` whose number passes `test`.
#[inline(always)]
pub(super) fn filter(mut bits: u64, mut test: impl FnMut(usize) -> u64) -> u64 {
    let mut passed = 0;
    while bits != 0 {
        let at = bits.trailing_zeros() as usize % BLOCK;
        passed |= (test(at) & 1) << at;
        bits &= bits - 1;
    }
    passed
}

/// Returns the bytes of white space beyond ASCII, in the block and behind it: U+0085, U+00A0, U+1680, U+2000
/// to U+200A, U+2028, U+2029, U+202F, U+205F, U+3000.
#[inline(always)]
fn white(seen: &Seen, equal: impl Fn(&[u8; BLOCK], u8) -> u64) -> (u64, u64) {
    let (first, second, third) = (part(seen, 0), part(seen, 1), part(seen, 2));
    let [of_two, ogham, general, cjk] = [0xc2, 0xe1, 0xe2, 0xe3].map(|lead| equal(first, lead));
    if of_two | ogham | general | cjk == 0 {
        return (0, 0);
    }
    let any_third = |bytes: &[u8]| bytes.iter().fold(0, |found, &byte| found | equal(third, byte));
    let zeroth = equal(third, 0x80);
    let spaces = [0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0xa8, 0xa9, 0xaf];
    let page = equal(second, 0x80);
    let twos = of_two & (equal(second, 0x85) | equal(second, 0xa0));
    let threes = ogham & equal(second, 0x9a) & zeroth
        | general & page & (zeroth | any_third(&spaces))
        | general & equal(second, 0x81) & equal(third, 0x9f)
        | cjk & page & zeroth;
    let both = twos | threes;
    (both | both << 1 | threes << 2, both >> 63 | threes >> 62)
}
