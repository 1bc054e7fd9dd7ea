//! AVX-512: the kernel for x86-64 processors with VBMI2 (Intel 2019, AMD 2022), 64 bytes at a time.

use std::arch::x86_64::*;

use super::Tokens;
use super::beyond;
use super::kernel::{BLOCK, Borders, Kernel, ROOM};
use super::lower::{self, Cased};
use super::portable::is_word_like;

/// Returns the kernel if this processor can run it.
pub(super) fn kernel() -> Option<Kernel> {
    let can_run = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt");
    can_run.then_some(Kernel { name: "avx512", words, visible, borders, lower })
}

fn words(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    // SAFETY: only `kernel` gives this function away, once it has found the features.
    unsafe { words_by_vectors(text, inside, carried) }
}

fn visible(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    // SAFETY: only `kernel` gives this function away, once it has found the features.
    unsafe { visible_by_vectors(text, inside, carried) }
}

fn borders(inside: &[u64], borders: &mut Borders) -> usize {
    // SAFETY: only `kernel` gives this function away, once it has found the features.
    unsafe { borders_by_vectors(inside, borders) }
}

fn lower(text: &[u8], out: &mut [u8], tokens: Tokens) -> usize {
    // SAFETY: only `kernel` gives this function away, once it has found the features.
    unsafe { lower_by_vectors(text, out, tokens) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
fn words_by_vectors(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    let (low, high) = (load(&WORD_LIKE[0]), load(&WORD_LIKE[1]));
    beyond::words(
        text,
        inside,
        carried,
        |block| {
            let block = load(block);
            // Looks up each byte's low seven bits; bytes beyond ASCII are found under those of others.
            let found = _mm512_movepi8_mask(_mm512_permutex2var_epi8(low, block, high));
            let beyond_ascii = _mm512_movepi8_mask(block);
            (found & !beyond_ascii, beyond_ascii)
        },
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

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
fn visible_by_vectors(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    // White space stands under its low nibble. There are four copies, for a look-up stays within 16 bytes.
    let white = load(&WHITE);
    beyond::visible(
        text,
        inside,
        carried,
        |block| {
            let block = load(block);
            let is_white = _mm512_cmpeq_epi8_mask(block, _mm512_shuffle_epi8(white, block));
            (!is_white, _mm512_movepi8_mask(block))
        },
        |block, wanted| equal(block, wanted),
    );
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,bmi2,popcnt")]
fn borders_by_vectors(inside: &[u64], borders: &mut Borders) -> usize {
    let numbers = load(&NUMBERS);
    borders.extend(inside, |borders, base, room| {
        // The numbers of the bits that are set, side by side; then 16 at a time with four bytes each.
        let bytes = _mm512_maskz_compress_epi8(borders, numbers);
        let base = _mm512_set1_epi32(base as i32);
        let widen = |bytes| _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), base);
        let len = borders.count_ones() as usize;
        // Text in any language seldom has more than 32 borders in a block, and often more than 16.
        store_numbers(room, 0, widen(_mm512_castsi512_si128(bytes)));
        store_numbers(room, 16, widen(_mm512_extracti32x4_epi32::<1>(bytes)));
        if len > 32 {
            store_numbers(room, 32, widen(_mm512_extracti32x4_epi32::<2>(bytes)));
            store_numbers(room, 48, widen(_mm512_extracti32x4_epi32::<3>(bytes)));
        }
        len
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,popcnt")]
fn lower_by_vectors(text: &[u8], out: &mut [u8], tokens: Tokens) -> usize {
    lower::lower(
        text,
        out,
        tokens,
        |block, copy| {
            let bytes = load(block);
            let first = _mm512_sub_epi8(bytes, _mm512_set1_epi8(b'A' as i8));
            let is_capital = _mm512_cmplt_epu8_mask(first, _mm512_set1_epi8(26));
            let lower = _mm512_mask_add_epi8(bytes, is_capital, bytes, _mm512_set1_epi8(0x20));
            store(copy, lower);
            _mm512_movepi8_mask(bytes)
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
#[target_feature(enable = "avx512f")]
fn load(block: &[u8; BLOCK]) -> __m512i {
    // SAFETY: a block is 64 bytes long, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

/// Returns which bytes are no less than `least`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn at_least(block: &[u8; BLOCK], least: u8) -> u64 {
    _mm512_cmpge_epu8_mask(load(block), _mm512_set1_epi8(least as i8))
}

/// Returns which bytes are `wanted`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn equal(block: &[u8; BLOCK], wanted: u8) -> u64 {
    _mm512_cmpeq_epi8_mask(load(block), _mm512_set1_epi8(wanted as i8))
}

/// Returns for which bytes the bit of `bits` is set whose number is the six low bits of the byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn has(block: &[u8; BLOCK], bits: u64) -> u64 {
    _mm512_movepi8_mask(_mm512_permutexvar_epi8(load(block), _mm512_movm_epi8(bits)))
}

/// XORs to the bytes of `copy` that are `wanted` what `table` has under the six low bits of the byte of
/// `block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn change(copy: &mut [u8; BLOCK], wanted: u64, block: &[u8; BLOCK], table: &[u8; 64]) {
    let change = _mm512_maskz_permutexvar_epi8(wanted, load(block), load(table));
    store(copy, _mm512_xor_si512(load(copy), change));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(block: &mut [u8; BLOCK], bytes: __m512i) {
    // SAFETY: a block is 64 bytes long, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), bytes) }
}

/// Stores sixteen numbers at index `at` of `room`.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_numbers(room: &mut [u32; ROOM], at: usize, numbers: __m512i) {
    let places: &mut [u32] = &mut room[at..at + 16];
    // SAFETY: the slice is 64 bytes long, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(places.as_mut_ptr().cast(), numbers) }
}

/// The highest bit of an entry is set if the ASCII byte with its number stands in words of UTS #18 `\w`.
static WORD_LIKE: [[u8; BLOCK]; 2] = {
    let mut table = [[0; BLOCK]; 2];
    let mut byte = 0;
    while byte < 128 {
        table[byte / BLOCK][byte % BLOCK] = if is_word_like(byte as u8) { 0x80 } else { 0 };
        byte += 1;
    }
    table
};

/// ASCII's white space, each under its low nibble.
static WHITE: [u8; BLOCK] = {
    let mut table = [0; BLOCK];
    let mut byte = 0;
    while byte < BLOCK {
        table[byte] = match byte % 16 {
            0 => b' ',
            nibble @ 0x9..=0xd => nibble as u8,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// 0, 1, 2 and so on.
static NUMBERS: [u8; BLOCK] = {
    let mut numbers = [0; BLOCK];
    let mut number = 0;
    while number < BLOCK {
        numbers[number] = number as u8;
        number += 1;
    }
    numbers
};
