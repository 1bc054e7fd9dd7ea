//! Beyond: the characters that are not ASCII, for all kernels.
//!
//! A kernel says with its vectors which bytes are ASCII and stand in words, and where characters of two, three and
//! four bytes may begin; the rest is here. No branch depends on which character stands where, only on how many begin in
//! a block. All of this is inlined into the kernels, so that it is compiled for their processors.
//!
//! Whether a sequence is valid can be told at each lead byte alone, for no valid sequence contains the lead byte of
//! another. So what is not valid UTF-8 needs no attention of its own.

use super::class::WORDS;
use super::kernel::{BLOCK, LOOKAHEAD};

/// A block, and the bytes behind it into which its last character may reach.
type Seen = [u8; BLOCK + LOOKAHEAD];

/// Sets in `inside` the bytes of words of UTS #18 `\w`; see [`Classify`](super::kernel::Classify).
///
/// For one block, `ascii` returns which bytes are ASCII and stand in words, and which are not ASCII; `at_least`, which
/// bytes are no less than the given one.
#[inline(always)]
pub(super) fn words(
    text: &[u8],
    inside: &mut [u64],
    carried: &mut u64,
    ascii: impl Fn(&[u8; BLOCK]) -> (u64, u64),
    at_least: impl Fn(&[u8; BLOCK], u8) -> u64,
) {
    for (number, inside) in inside.iter_mut().enumerate() {
        let seen = seen(text, number);
        let block = part(seen, 0);
        let (ascii, beyond_ascii) = ascii(block);
        *inside = ascii | *carried;
        *carried = 0;
        if beyond_ascii != 0 {
            let twos = at_least(block, 0xc0);
            let threes = at_least(block, 0xe0);
            let fours = at_least(block, 0xf0);
            let continuations = beyond_ascii & !twos;
            let (here, behind) = word_like(seen, continuations, twos & !threes, threes & !fours, fours);
            *inside |= here;
            *carried = behind;
        }
    }
}

/// Sets in `inside` the bytes that are not white space; see [`Classify`](super::kernel::Classify).
///
/// For one block, `ascii` returns which bytes are not ASCII's white space, and which are not ASCII; `equal`, which bytes
/// are the given one.
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
fn part(seen: &Seen, from: usize) -> &[u8; BLOCK] {
    seen[from..].first_chunk().expect("no index is larger than the bytes behind a block")
}

/// Returns the bytes of characters beyond ASCII that stand in words, in the block and behind it.
#[inline(always)]
fn word_like(seen: &Seen, continuations: u64, twos: u64, threes: u64, fours: u64) -> (u64, u64) {
    let words = &*WORDS;
    let behind = [0, 1, 2].map(|at| u64::from(seen[BLOCK + at] & 0xc0 == 0x80) << at);
    let behind = behind[0] | behind[1] | behind[2];
    // For each byte, whether the next one, the second next, and the third next one continue a sequence.
    let next = [1, 2, 3].map(|n| continuations >> n | behind << (BLOCK - n));
    let twos = twos & next[0];
    let threes = threes & next[0] & next[1];
    let fours = fours & next[0] & next[1] & next[2];

    let twos = filter(twos, |at| words.has_two([seen[at], seen[at + 1]]));
    let threes = filter(threes, |at| words.has_three([seen[at], seen[at + 1], seen[at + 2]]));
    let fours = if fours == 0 {
        0
    } else {
        filter(fours, |at| words.has_four([seen[at], seen[at + 1], seen[at + 2], seen[at + 3]]))
    };
    let (seconds, thirds) = (twos | threes | fours, threes | fours);
    let here = seconds | seconds << 1 | thirds << 2 | fours << 3;
    (here, seconds >> 63 | thirds >> 62 | fours >> 61)
}

/// Returns those of `bits` whose number passes `test`.
#[inline(always)]
fn filter(mut bits: u64, test: impl Fn(usize) -> u64) -> u64 {
    let mut passed = 0;
    while bits != 0 {
        let at = bits.trailing_zeros() as usize % BLOCK;
        passed |= (test(at) & 1) << at;
        bits &= bits - 1;
    }
    passed
}

/// Returns the bytes of white space beyond ASCII, in the block and behind it: U+0085, U+00A0, U+1680, U+2000 to
/// U+200A, U+2028, U+2029, U+202F, U+205F, U+3000.
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
