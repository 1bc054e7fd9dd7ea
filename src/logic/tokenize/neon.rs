//! NEON: the kernel for AArch64 processors, all of which have these vectors of 16 bytes.

use std::arch::aarch64::*;

use super::Tokens;
use super::beyond;
use super::kernel::{BLOCK, Borders, Kernel};
use super::lower::{self, Cased};
use super::portable::write_borders;

pub(super) fn kernel() -> Kernel {
    Kernel { name: "neon", words, visible, borders, lower }
}

fn words(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    // SAFETY: every processor of this architecture has these vectors.
    unsafe { words_by_vectors(text, inside, carried) }
}

fn visible(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    // SAFETY: every processor of this architecture has these vectors.
    unsafe { visible_by_vectors(text, inside, carried) }
}

fn borders(inside: &[u64], borders: &mut Borders) -> usize {
    borders.extend(inside, write_borders)
}

fn lower(text: &[u8], out: &mut [u8], tokens: Tokens) -> usize {
    // SAFETY: every processor of this architecture has these vectors.
    unsafe { lower_by_vectors(text, out, tokens) }
}

#[target_feature(enable = "neon")]
fn words_by_vectors(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    beyond::words(
        text,
        inside,
        carried,
        |block| (mask(load(block).map(|quarter| is_word_like(quarter))), at_least(block, 0x80)),
        |seen, beyond_ascii| {
            beyond::word_like_by_lead(
                seen,
                beyond_ascii,
                |block, least| at_least(block, least),
                |block, wanted| equal(block, wanted),
                |block, bits| has(block, bits),
            )
        },
    );
}

#[target_feature(enable = "neon")]
fn visible_by_vectors(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    beyond::visible(
        text,
        inside,
        carried,
        |block| (!mask(load(block).map(|quarter| is_white(quarter))), at_least(block, 0x80)),
        |block, wanted| equal(block, wanted),
    );
}

#[target_feature(enable = "neon")]
fn lower_by_vectors(text: &[u8], out: &mut [u8], tokens: Tokens) -> usize {
    lower::lower(
        text,
        out,
        tokens,
        |block, copy| {
            store(copy, load(block).map(|quarter| ascii_lower(quarter)));
            at_least(block, 0x80)
        },
        |changes, seen, copy, beyond_ascii| {
            let at_least = |block: &_, least| at_least(block, least);
            let equal = |block: &_, wanted| equal(block, wanted);
            let cased = Cased::new(seen, beyond_ascii, at_least, equal);
            lower::change_by_lead(
                changes,
                cased,
                seen,
                copy,
                equal,
                |block, bits| has(block, bits),
                |copy, wanted, block, table| change(copy, wanted, block, table),
            )
        },
    )
}

#[inline]
#[target_feature(enable = "neon")]
fn load(block: &[u8; BLOCK]) -> [uint8x16_t; 4] {
    let (quarters, _) = block.as_chunks::<16>();
    // SAFETY: each quarter is 16 bytes long, and the load asks for no alignment.
    [0, 1, 2, 3].map(|quarter| unsafe { vld1q_u8(quarters[quarter].as_ptr()) })
}

#[inline]
#[target_feature(enable = "neon")]
fn store(block: &mut [u8; BLOCK], quarters: [uint8x16_t; 4]) {
    let (places, _) = block.as_chunks_mut::<16>();
    for (place, quarter) in places.iter_mut().zip(quarters) {
        // SAFETY: each place is 16 bytes long, and the store asks for no alignment.
        unsafe { vst1q_u8(place.as_mut_ptr(), quarter) }
    }
}

/// Returns one byte in each lane, of those of an array.
#[inline]
#[target_feature(enable = "neon")]
fn vector(bytes: [u8; 16]) -> uint8x16_t {
    // SAFETY: the array is 16 bytes long, and the load asks for no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Returns a bit for each byte, all of whose bits must be alike.
///
/// Each byte keeps the bit with its number in an eighth of the block; neighbours are added until each eighth
/// is one byte.
#[inline]
#[target_feature(enable = "neon")]
fn mask(quarters: [uint8x16_t; 4]) -> u64 {
    let bit_of = vector([1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]);
    let bits = quarters.map(|quarter| vandq_u8(quarter, bit_of));
    let pairs = [vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3])];
    let fours = vpaddq_u8(pairs[0], pairs[1]);
    vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(fours, fours)))
}

/// Returns which bytes are no less than `least`.
#[inline]
#[target_feature(enable = "neon")]
fn at_least(block: &[u8; BLOCK], least: u8) -> u64 {
    mask(load(block).map(|quarter| vcgeq_u8(quarter, vdupq_n_u8(least))))
}

/// Returns which bytes are `wanted`.
#[inline]
#[target_feature(enable = "neon")]
fn equal(block: &[u8; BLOCK], wanted: u8) -> u64 {
    mask(load(block).map(|quarter| vceqq_u8(quarter, vdupq_n_u8(wanted))))
}

/// Returns for which bytes the bit of `bits` is set whose number is the six low bits of the byte.
#[inline]
#[target_feature(enable = "neon")]
fn has(block: &[u8; BLOCK], bits: u64) -> u64 {
    let eighths = vreinterpretq_u8_u64(vdupq_n_u64(bits));
    mask(load(block).map(|quarter| {
        // The high three of the six bits say which eighth it is, the low three which bit of it.
        let eighth = vqtbl1q_u8(eighths, vandq_u8(vshrq_n_u8::<3>(quarter), vdupq_n_u8(7)));
        let bit = vandq_u8(quarter, vdupq_n_u8(7));
        vtstq_u8(eighth, vshlq_u8(vdupq_n_u8(1), vreinterpretq_s8_u8(bit)))
    }))
}

/// XORs to the bytes of `copy` that are `wanted` what `table` has under the six low bits of the byte of
/// `block`.
#[inline]
#[target_feature(enable = "neon")]
fn change(copy: &mut [u8; BLOCK], wanted: u64, block: &[u8; BLOCK], table: &[u8; 64]) {
    let [a, b, c, d] = load(table);
    let table = uint8x16x4_t(a, b, c, d);
    let (block, before) = (load(block), load(copy));
    let eighths = vreinterpretq_u8_u64(vdupq_n_u64(wanted));
    let bit_of = vector([1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]);
    let numbers = vector([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    let after = [0, 1, 2, 3].map(|quarter| {
        let eighth = vqtbl1q_u8(eighths, vaddq_u8(numbers, vdupq_n_u8(2 * quarter as u8)));
        let found = vqtbl4q_u8(table, vandq_u8(block[quarter], vdupq_n_u8(0x3f)));
        veorq_u8(before[quarter], vandq_u8(found, vtstq_u8(eighth, bit_of)))
    });
    store(copy, after);
}

/// Puts the letters of ASCII into lower case.
#[inline]
#[target_feature(enable = "neon")]
fn ascii_lower(bytes: uint8x16_t) -> uint8x16_t {
    let is_capital = vcltq_u8(vsubq_u8(bytes, vdupq_n_u8(b'A')), vdupq_n_u8(26));
    vorrq_u8(bytes, vandq_u8(is_capital, vdupq_n_u8(0x20)))
}

/// Sets the bytes that are ASCII and stand in words of UTS #18 `\w`.
///
/// Each range of them is a bit that is set for its high nibble and for its low nibbles (Langdale and Lemire,
/// "Parsing gigabytes of JSON per second", 2019).
#[inline]
#[target_feature(enable = "neon")]
fn is_word_like(bytes: uint8x16_t) -> uint8x16_t {
    // 1: digits; 2: A to O, a to o; 4: P to Z, _; 8: p to z.
    let high = vector([0, 0, 0, 1, 2, 4, 2, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let low = vector([13, 15, 15, 15, 15, 15, 15, 15, 15, 15, 14, 2, 2, 2, 2, 6]);
    let by_low = vqtbl1q_u8(low, vandq_u8(bytes, vdupq_n_u8(0x0f)));
    vtstq_u8(by_low, vqtbl1q_u8(high, vshrq_n_u8::<4>(bytes)))
}

/// Sets the bytes of ASCII's white space: those that are what is found under their low nibble.
#[inline]
#[target_feature(enable = "neon")]
fn is_white(bytes: uint8x16_t) -> uint8x16_t {
    let white = vector([0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0]);
    // What is not ASCII is found nowhere, which gives 0.
    vceqq_u8(bytes, vqtbl1q_u8(white, vandq_u8(bytes, vdupq_n_u8(0x8f))))
}
