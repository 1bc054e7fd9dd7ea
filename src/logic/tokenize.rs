//! Tokenize: bytes -> words, borrowed.
//!
//! Words: a maximal run of characters that match UTS #18 `\w`, as the `regex` crate has it; a byte that is not valid
//! UTF-8 separates. Or: what stands between Unicode White_Space, any other bytes kept as they are.

use serde::{Deserialize, Serialize};

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
    pub fn for_each(&self, text: &[u8], word: impl FnMut(&[u8])) {
        let _ = (text, word, self.tokens, self.ignore_case);
        todo!()
    }

    /// Tells whether the ASCII byte `byte` can stand in no word.
    pub fn separates(&self, byte: u8) -> bool {
        match self.tokens {
            Tokens::Word => byte.is_ascii() && !byte.is_ascii_alphanumeric() && byte != b'_',
            Tokens::Whitespace => byte == b' ' || (b'\t'..=b'\r').contains(&byte),
        }
    }
}
