//! AVX2: the kernel for x86-64 processors since 2013, 32 bytes at a time.

use std::arch::x86_64::*;

use super::Tokens;
use super::beyond;
use super::kernel::{BLOCK, Borders, Kernel};
use super::lower::{self, Cased};
use super::portable::write_borders;

/// Returns the kernel if this processor can run it.
pub(super) fn kernel() -> Option<Kernel> {
    let can_run = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt");
    can_run.then_some(Kernel { name: "avx2", words, visible, borders, lower })
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

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn words_by_vectors(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    beyond::words(
        text,
        inside,
        carried,
        |block| {
            let block = load(block);
            (!mask(block.map(|half| is_separator(half))), mask(block))
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

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn visible_by_vectors(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    beyond::visible(
        text,
        inside,
        carried,
        |block| {
            let block = load(block);
            (!mask(block.map(|half| is_white(half))), mask(block))
        },
        |block, wanted| equal(block, wanted),
    );
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn borders_by_vectors(inside: &[u64], borders: &mut Borders) -> usize {
    borders.extend(inside, write_borders)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn lower_by_vectors(text: &[u8], out: &mut [u8], tokens: Tokens) -> usize {
    lower::lower(
        text,
        out,
        tokens,
        |block, copy| {
            let block = load(block);
            store(copy, block.map(|half| ascii_lower(half)));
            mask(block)
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
#[target_feature(enable = "avx2")]
fn load(block: &[u8; BLOCK]) -> [__m256i; 2] {
    let (halves, _) = block.as_chunks::<32>();
    // SAFETY: each half is 32 bytes long, and the load asks for no alignment.
    [0, 1].map(|half| unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(block: &mut [u8; BLOCK], halves: [__m256i; 2]) {
    let (places, _) = block.as_chunks_mut::<32>();
    for (place, half) in places.iter_mut().zip(halves) {
        // SAFETY: each place is 32 bytes long, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), half) }
    }
}

/// Returns the highest bit of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn mask([low, high]: [__m256i; 2]) -> u64 {
    u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
}

/// Returns which bytes are no less than `least`.
#[inline]
#[target_feature(enable = "avx2")]
fn at_least(block: &[u8; BLOCK], least: u8) -> u64 {
    let least = _mm256_set1_epi8(least as i8);
    mask(load(block).map(|half| _mm256_cmpeq_epi8(_mm256_max_epu8(half, least), half)))
}

/// Returns which bytes are `wanted`.
#[inline]
#[target_feature(enable = "avx2")]
fn equal(block: &[u8; BLOCK], wanted: u8) -> u64 {
    let wanted = _mm256_set1_epi8(wanted as i8);
    mask(load(block).map(|half| _mm256_cmpeq_epi8(half, wanted)))
}

/// Returns for which bytes the bit of `bits` is set whose number is the six low bits of the byte.
#[inline]
#[target_feature(enable = "avx2")]
fn has(block: &[u8; BLOCK], bits: u64) -> u64 {
    let eighths = _mm256_set1_epi64x(bits as i64);
    let bit_of = twice([1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128]);
    !mask(load(block).map(|half| {
        // The high three of the six bits say which eighth it is, the low three which bit of it.
        let eighth = _mm256_and_si256(_mm256_srli_epi16::<3>(half), _mm256_set1_epi8(7));
        let bit = _mm256_shuffle_epi8(bit_of, _mm256_and_si256(half, _mm256_set1_epi8(7)));
        let found = _mm256_and_si256(_mm256_shuffle_epi8(eighths, eighth), bit);
        _mm256_cmpeq_epi8(found, _mm256_setzero_si256())
    }))
}

/// XORs to the bytes of `copy` that are `wanted` what `table` has under the six low bits of the byte of
/// `block`.
#[inline]
#[target_feature(enable = "avx2")]
fn change(copy: &mut [u8; BLOCK], wanted: u64, block: &[u8; BLOCK], table: &[u8; 64]) {
    let quarters = table.as_chunks::<16>().0;
    let quarters = [0, 1, 2, 3].map(|quarter| twice(quarters[quarter].map(|byte| byte as i8)));
    let (block, before, wanted) = (load(block), load(copy), spread(wanted));
    store(
        copy,
        [0, 1].map(|half| {
            // The low four of the six bits say which byte of a quarter it is, the high two which quarter.
            let low = _mm256_and_si256(block[half], _mm256_set1_epi8(0x0f));
            let found = quarters.map(|quarter| _mm256_shuffle_epi8(quarter, low));
            let (odd, high) = (_mm256_slli_epi16::<3>(block[half]), _mm256_slli_epi16::<2>(block[half]));
            let first = _mm256_blendv_epi8(found[0], found[1], odd);
            let second = _mm256_blendv_epi8(found[2], found[3], odd);
            let found = _mm256_blendv_epi8(first, second, high);
            _mm256_xor_si256(before[half], _mm256_and_si256(found, wanted[half]))
        }),
    );
}

/// Sets the bytes whose bits are set.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(bits: u64) -> [__m256i; 2] {
    let bit_of = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    [0, 4].map(|first| {
        let bytes = _mm256_set1_epi64x(bits as i64);
        let numbers = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        let low = i128::from_le_bytes(numbers.map(|number| number + first));
        let high = low + i128::from_le_bytes([2; 16]);
        let numbers = _mm256_set_epi64x((high >> 64) as i64, high as i64, (low >> 64) as i64, low as i64);
        let eighths = _mm256_shuffle_epi8(bytes, numbers);
        _mm256_cmpeq_epi8(_mm256_and_si256(eighths, bit_of), bit_of)
    })
}

/// Puts the letters of ASCII into lower case.
#[inline]
#[target_feature(enable = "avx2")]
fn ascii_lower(bytes: __m256i) -> __m256i {
    // Moved to the lowest numbers there are, the capital letters are all that is less than a limit.
    let moved = _mm256_add_epi8(bytes, _mm256_set1_epi8(i8::MIN.wrapping_sub(b'A' as i8)));
    let is_capital = _mm256_cmpgt_epi8(_mm256_set1_epi8(i8::MIN + 26), moved);
    _mm256_or_si256(bytes, _mm256_and_si256(is_capital, _mm256_set1_epi8(0x20)))
}

/// Sets the bytes that are not both ASCII and in words of UTS #18 `\w`.
///
/// Each range of those that are is a bit that is set for its high nibble and for its low nibbles (Langdale
/// and Lemire, "Parsing gigabytes of JSON per second", 2019). The look-up gives 0 for a byte that is not
/// ASCII, whatever its low nibble is.
#[inline]
#[target_feature(enable = "avx2")]
fn is_separator(bytes: __m256i) -> __m256i {
    // 1: digits; 2: A to O, a to o; 4: P to Z, _; 8: p to z.
    const HIGH: [i8; 16] = [0, 0, 0, 1, 2, 4, 2, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    const LOW: [i8; 16] = [13, 15, 15, 15, 15, 15, 15, 15, 15, 15, 14, 2, 2, 2, 2, 6];
    let nibbles = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0x0f));
    let by_high = _mm256_shuffle_epi8(twice(HIGH), nibbles);
    let by_low = _mm256_shuffle_epi8(twice(LOW), bytes);
    _mm256_cmpeq_epi8(_mm256_and_si256(by_low, by_high), _mm256_setzero_si256())
}

/// Sets the bytes of ASCII's white space: those that are what is found under their low nibble.
#[inline]
#[target_feature(enable = "avx2")]
fn is_white(bytes: __m256i) -> __m256i {
    const WHITE: [i8; 16] = [0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0];
    _mm256_cmpeq_epi8(bytes, _mm256_shuffle_epi8(twice(WHITE), bytes))
}

/// Returns a table for look-ups, which each half of a register makes in its own half.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(table: [i8; 16]) -> __m256i {
    let table = i128::from_le_bytes(table.map(|entry| entry as u8));
    _mm256_set_epi64x((table >> 64) as i64, table as i64, (table >> 64) as i64, table as i64)
}
