//! Portable: the kernel for processors without a kernel of their own, and the reference of the others.

use super::Tokens;
use super::beyond;
use super::kernel::{BLOCK, Borders, Kernel, ROOM};
use super::lower::{self, Cased};

pub(super) fn kernel() -> Kernel {
    Kernel { name: "portable", words, visible, borders, lower }
}

fn words(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    beyond::words(
        text,
        inside,
        carried,
        |block| (mask(block, is_word_like), mask(block, |byte| !byte.is_ascii())),
        |seen, beyond_ascii| {
            beyond::word_like_one_by_one(seen, beyond_ascii, |block, least| mask(block, |byte| byte >= least))
        },
    );
}

fn visible(text: &[u8], inside: &mut [u64], carried: &mut u64) {
    beyond::visible(
        text,
        inside,
        carried,
        |block| (mask(block, is_visible), mask(block, |byte| !byte.is_ascii())),
        |block, wanted| mask(block, |byte| byte == wanted),
    );
}

fn borders(inside: &[u64], borders: &mut Borders) -> usize {
    borders.extend(inside, write_borders)
}

fn lower(text: &[u8], out: &mut [u8], tokens: Tokens) -> usize {
    lower::lower(
        text,
        out,
        tokens,
        |block, copy| {
            *copy = block.map(|byte| byte.to_ascii_lowercase());
            if block.is_ascii() { 0 } else { mask(block, |byte| !byte.is_ascii()) }
        },
        |changes, seen, copy, beyond_ascii| {
            let at_least = |block: &_, least| mask(block, |byte| byte >= least);
            let equal = |block: &_, wanted| mask(block, |byte| byte == wanted);
            let cased = Cased::new(seen, beyond_ascii, at_least, equal);
            lower::change_one_by_one(changes, &cased, seen, copy)
        },
    )
}

/// Tells whether the ASCII byte `byte` stands in words of UTS #18 `\w`; false for other bytes.
#[inline(always)]
pub(super) const fn is_word_like(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Tells whether `byte` is none of ASCII's white space.
#[inline(always)]
pub(super) const fn is_visible(byte: u8) -> bool {
    // `u8::is_ascii_whitespace` would not do: it lacks the vertical tab.
    !matches!(byte, b'\t'..=b'\r' | b' ')
}

/// Returns one bit for each byte of `block`, the first byte's lowest: whether `test` holds for it.
///
/// The first loop is such that compilers turn it into a few vector instructions; in the second, a
/// multiplication gathers the low bits of eight bytes in the highest one.
#[inline(always)]
fn mask(block: &[u8; BLOCK], test: impl Fn(u8) -> bool) -> u64 {
    let flags = block.map(|byte| u8::from(test(byte)));
    let mut mask = 0;
    for eight in flags.as_chunks().0.iter().rev() {
        mask = mask << 8 | u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    }
    mask
}

/// Writes `base` plus the number of each bit of `borders` to the front of `room`, and returns how many there
/// are.
///
/// Goes eight bits at a time, whether set or not: each time writes eight places, of which the next time
/// writes over those in vain. So no branch depends on the text.
#[inline(always)]
pub(super) fn write_borders(borders: u64, base: u32, room: &mut [u32; ROOM]) -> usize {
    // The bits of each byte, counted in the byte; then, by a multiplication, of it and all below.
    let pairs = borders - (borders >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let counts = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let ends = counts.wrapping_mul(0x0101_0101_0101_0101);
    let starts = ends << 8;
    for group in 0..8 {
        // At most 56, which the compiler need not find out.
        let start = (starts >> (8 * group)) as usize & 63;
        let base = base + 8 * group as u32;
        let bits = &BITS[usize::from((borders >> (8 * group)) as u8)];
        let places = &mut room[start..start + 8];
        for (place, &bit) in places.iter_mut().zip(bits) {
            *place = base + u32::from(bit);
        }
    }
    (ends >> 56) as usize
}

/// The numbers of the bits that are set, for each byte.
static BITS: [[u8; 8]; 256] = {
    let mut bits = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut len) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                bits[byte][len] = bit;
                len += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    bits
};
