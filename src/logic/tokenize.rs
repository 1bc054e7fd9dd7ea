//! Tokenize: bytes -> words, borrowed.
//!
//! Words: a maximal run of characters that match UTS #18 `\w`, as the `regex` crate has it; a byte that is
//! not valid UTF-8 separates. Or: what stands between Unicode White_Space, any other bytes kept as they are.
//!
//! A text is gone through in blocks of 64 bytes. For each, one bit a byte says whether the byte stands inside
//! a word; words begin and end where the bits change, so the places of the changed bits, one after the other,
//! are the words. The cost is one of blocks, not of a branch for each byte or word. A kernel does it with
//! the vectors of the processor that the program happens to run on.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
mod beyond;
mod class;
mod kernel;
mod lower;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::split::splits;
use crate::job::Span;
use kernel::{BLOCK, Borders, CHUNK_BLOCKS, Kernel, LOOKAHEAD};

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
    kernel: Kernel,
}

impl Tokenizer {
    /// Makes a tokenizer; with `ignore_case`, words come in lower case (Unicode's full mapping, character by
    /// character, so that a word's form does not depend on what stands around it).
    pub fn new(tokens: Tokens, ignore_case: bool) -> Self {
        let kernel = Kernel::available().next().expect("the portable kernel runs on every processor");
        Self { tokens, ignore_case, kernel }
    }

    /// Makes one for each kernel that this processor can run, with the kernel's name: for tests and benches.
    #[doc(hidden)]
    pub fn of_each_kernel(tokens: Tokens, ignore_case: bool) -> impl Iterator<Item = (&'static str, Self)> {
        Kernel::available().map(move |kernel| (kernel.name, Self { tokens, ignore_case, kernel }))
    }

    /// Calls `word` with each word of `text`, in order.
    pub fn for_each(&self, text: &[u8], mut word: impl FnMut(&[u8])) {
        self.for_each_batch(text, |text, words| {
            words.iter().for_each(|&[start, end]| word(&text[start as usize..end as usize]));
        });
    }

    /// Calls `each` with words by the batch: where they stand in the text that it gets beside them, which is
    /// `text` from some byte on or, with `ignore_case`, a piece of it in lower case.
    ///
    /// # Panics
    /// If a word is longer than 3 GiB.
    pub fn for_each_batch(&self, text: &[u8], mut each: impl FnMut(&[u8], &[Span])) {
        if !self.ignore_case {
            return self.scan(text, FORGET_BYTES, &mut each);
        }
        let mut lower = Vec::new();
        for piece in splits(text, PIECE_BYTES, |byte| self.separates(byte)) {
            lower.resize(lower.len().max(lower::room(piece.len())), 0);
            let len = (self.kernel.lower)(piece, &mut lower, self.tokens);
            self.scan(&lower[..len], FORGET_BYTES, &mut each);
        }
    }

    /// Tells whether the ASCII byte `byte` can stand in no word.
    pub fn separates(&self, byte: u8) -> bool {
        byte.is_ascii()
            && match self.tokens {
                Tokens::Word => !portable::is_word_like(byte),
                Tokens::Whitespace => !portable::is_visible(byte),
            }
    }

    /// Calls `each` with the words of `text`, as they are. From `forget` bytes on, indexes are counted anew.
    fn scan(&self, text: &[u8], forget: u32, each: &mut dyn FnMut(&[u8], &[Span])) {
        let mut scan =
            Scan { kernel: self.kernel, tokens: self.tokens, borders: Borders::new(), carried: 0, text };
        let blocks = text.len().saturating_sub(LOOKAHEAD) / BLOCK;
        for first in (0..blocks).step_by(CHUNK_BLOCKS) {
            if scan.borders.base() >= forget {
                scan.forget(each);
            }
            scan.go_through(&text[first * BLOCK..], CHUNK_BLOCKS.min(blocks - first), each);
        }
        // What is left is filled up with separators, of which there is at least one: it ends the last word.
        let tail = &text[blocks * BLOCK..];
        let mut last = [b' '; TAIL_BLOCKS * BLOCK + LOOKAHEAD];
        last[..tail.len()].copy_from_slice(tail);
        scan.go_through(&last, TAIL_BLOCKS, each);
        scan.borders.hand_on(scan.text, each);
    }
}

/// Blocks that the bytes fill which no [`LOOKAHEAD`] bytes follow, and a separator.
const TAIL_BLOCKS: usize = 2;

/// Bytes from which on indexes are counted anew, once no word needs the old ones: they have 32 bits.
const FORGET_BYTES: u32 = 1 << 30;

/// Bytes that are put into lower case at once: few enough to stay in the fastest cache until their words are
/// found.
const PIECE_BYTES: usize = 16 << 10;

/// One pass over a text.
struct Scan<'t> {
    kernel: Kernel,
    tokens: Tokens,
    borders: Borders,
    /// See [`kernel::Classify`].
    carried: u64,
    /// What indexes are counted in.
    text: &'t [u8],
}

impl Scan<'_> {
    /// Goes through the `blocks` blocks at the front of `bytes`, which come next.
    fn go_through(&mut self, bytes: &[u8], blocks: usize, each: &mut dyn FnMut(&[u8], &[Span])) {
        let mut inside = [0; CHUNK_BLOCKS];
        let mut inside = &mut inside[..blocks];
        let classify = match self.tokens {
            Tokens::Word => self.kernel.words,
            Tokens::Whitespace => self.kernel.visible,
        };
        classify(bytes, inside, &mut self.carried);
        loop {
            let done = (self.kernel.borders)(inside, &mut self.borders);
            if done == inside.len() {
                break;
            }
            inside = &mut inside[done..];
            self.borders.hand_on(self.text, each);
        }
    }

    /// Counts indexes anew, from the beginning of the open word or from here.
    fn forget(&mut self, each: &mut dyn FnMut(&[u8], &[Span])) {
        self.borders.hand_on(self.text, each);
        self.text = &self.text[self.borders.forget() as usize..];
        assert!(self.borders.base() <= 3 << 30, "a word is not longer than 3 GiB");
    }
}
