//! Tokenize: bytes -> words, borrowed.
//!
//! Words: a maximal run of characters that match UTS #18 `\w`, as the `regex` crate has it; a byte that is not valid
//! UTF-8 separates. Or: what stands between Unicode White_Space, any other bytes kept as they are.
//!
//! A text is gone through in blocks of 64 bytes. For each, one bit a byte says whether the byte stands inside a word;
//! words begin and end where the bits change. So the cost is one of blocks and words, not of a branch for each byte,
//! and only characters beyond ASCII are looked at one by one.

mod class;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::split::splits;
use crate::job::Span;
use class::{Class, Visible, WordLike};

/// What a word is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// A maximal run of UTS #18 `\w` characters: letters, marks, decimal digits, connectors, join controls.
    #[default]
    Word,
    /// A maximal run of anything but Unicode White_Space.
    Whitespace,
}

/// Finds the words of a text.
pub struct Tokenizer {
    tokens: Tokens,
    ignore_case: bool,
}

impl Tokenizer {
    /// Makes a tokenizer; with `ignore_case`, words come in lower case (Unicode's full mapping, character by
    /// character, so that a word's form does not depend on what stands around it).
    pub fn new(tokens: Tokens, ignore_case: bool) -> Self {
        Self { tokens, ignore_case }
    }

    /// Calls `word` with each word of `text`, in order.
    pub fn for_each(&self, text: &[u8], mut word: impl FnMut(&[u8])) {
        if !self.ignore_case {
            return self.for_each_as_it_is(text, word);
        }
        let (mut piece, mut buffer) = (Vec::new(), Vec::new());
        for original in splits(text, PIECE_BYTES, |byte| self.separates(byte)) {
            piece.clear();
            piece.extend_from_slice(original);
            piece.make_ascii_lowercase();
            if piece.is_ascii() {
                self.for_each_as_it_is(&piece, &mut word);
            } else {
                self.for_each_as_it_is(&piece, |found| word(in_lower_case(found, &mut buffer)));
            }
        }
    }

    /// Calls `each` with words by the batch: where they stand in the text that it gets beside them, which is `text` or,
    /// with `ignore_case`, a piece of it in lower case.
    pub fn for_each_batch(&self, text: &[u8], mut each: impl FnMut(&[u8], &[Span])) {
        self.for_each(text, |word| each(word, &[[0, word.len() as u32]]));
    }

    /// Tells whether the ASCII byte `byte` can stand in no word.
    pub fn separates(&self, byte: u8) -> bool {
        byte.is_ascii()
            && match self.tokens {
                Tokens::Word => !WordLike::has_ascii(byte),
                Tokens::Whitespace => !Visible::has_ascii(byte),
            }
    }

    #[inline]
    fn for_each_as_it_is(&self, text: &[u8], word: impl FnMut(&[u8])) {
        match self.tokens {
            Tokens::Word => Scanner::new(WordLike::new(), text).scan(word),
            Tokens::Whitespace => Scanner::new(Visible, text).scan(word),
        }
    }
}

/// Bytes that are put into lower case at once: few enough to stay in the fastest cache until their words are found,
/// and for most pieces of a text in English to be ASCII as a whole, which is four times as fast.
const PIECE_BYTES: usize = 4 << 10;

/// Bytes of a block: as many as bits fit the mask.
const BLOCK: usize = 64;

/// One pass over a text.
struct Scanner<'t, C> {
    class: C,
    text: &'t [u8],
    /// Whether the last byte before the block stands in a word, which began at `start`.
    is_open: bool,
    start: usize,
    /// Bytes at the front of the block that end a character which began before it, and whether it stands in a word.
    carried: usize,
    carried_inside: bool,
}

impl<'t, C: Class> Scanner<'t, C> {
    fn new(class: C, text: &'t [u8]) -> Self {
        Self { class, text, is_open: false, start: 0, carried: 0, carried_inside: false }
    }

    #[inline]
    fn scan(mut self, mut word: impl FnMut(&[u8])) {
        let (blocks, tail) = self.text.as_chunks::<BLOCK>();
        for (number, block) in blocks.iter().enumerate() {
            self.scan_block(number * BLOCK, block, &mut word);
        }
        // The last block is filled up with separators, of which there is at least one: it ends the last word.
        let mut last = [b' '; BLOCK];
        last[..tail.len()].copy_from_slice(tail);
        self.scan_block(self.text.len() - tail.len(), &last, &mut word);
    }

    /// Calls `word` with each word that ends in `block`, which begins at index `base` of the text.
    #[inline]
    fn scan_block(&mut self, base: usize, block: &[u8; BLOCK], word: &mut impl FnMut(&[u8])) {
        let mut inside = mask(block, C::has_ascii);
        let beyond_ascii = mask(block, |byte| !byte.is_ascii());
        if beyond_ascii != 0 {
            inside = inside & !beyond_ascii | self.inside_beyond_ascii(base, beyond_ascii);
        }
        let mut borders = inside ^ (inside << 1 | u64::from(self.is_open));
        while borders != 0 {
            let at = base + borders.trailing_zeros() as usize;
            borders &= borders - 1;
            if self.is_open {
                word(&self.text[self.start..at]);
            }
            self.start = at;
            self.is_open = !self.is_open;
        }
    }

    /// Returns which of the bytes `beyond_ascii` of the block at index `base` stand in a word.
    fn inside_beyond_ascii(&mut self, base: usize, beyond_ascii: u64) -> u64 {
        let mut inside = 0;
        let mut set = |bits: u64, is_inside: bool| inside |= bits & u64::from(is_inside).wrapping_neg();
        let carried = ones(self.carried);
        set(carried, self.carried_inside);
        self.carried = 0;
        let mut left = beyond_ascii & !carried;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            let (len, is_inside) = self.class.at_front(&self.text[base + at..]);
            let bits = ones(len) << at;
            set(bits, is_inside);
            left &= !bits;
            self.carried = (at + len).saturating_sub(BLOCK);
            self.carried_inside = is_inside;
        }
        inside
    }
}

/// Returns a number whose `n` low bits are set; `n` is at most 63.
#[inline]
fn ones(n: usize) -> u64 {
    (1 << n) - 1
}

/// Returns one bit for each byte of `block`, the first byte's lowest: whether `test` holds for it.
///
/// The first loop is such that compilers turn it into a few vector instructions; in the second, a multiplication
/// gathers the low bits of eight bytes in the highest one.
#[inline]
fn mask(block: &[u8; BLOCK], test: impl Fn(u8) -> bool) -> u64 {
    let flags = block.map(|byte| u8::from(test(byte)));
    let mut mask = 0;
    for eight in flags.as_chunks().0.iter().rev() {
        mask = mask << 8 | u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    }
    mask
}

/// Returns `word`, whose ASCII letters are in lower case already, in lower case as a whole: itself if it has no other
/// letters, else what it puts into `buffer`.
#[inline]
fn in_lower_case<'w>(word: &'w [u8], buffer: &'w mut Vec<u8>) -> &'w [u8] {
    if word.is_ascii() {
        return word;
    }
    buffer.clear();
    for chunk in word.utf8_chunks() {
        for lower in chunk.valid().chars().flat_map(char::to_lowercase) {
            buffer.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
        }
        buffer.extend_from_slice(chunk.invalid());
    }
    buffer
}
