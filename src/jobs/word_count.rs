//! Word count: how often each word stands in the input.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::job::Job;
use crate::logic::tokenize::{Tokenizer, Tokens};

/// Counts the words of a text; most frequent first, then by the bytes of the word.
pub struct WordCount {
    tokenizer: Tokenizer,
}

/// What a word is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, clap::Args)]
pub struct Params {
    /// What a word is: `word` is a run of letters, marks, digits and connectors (UTS #18 \w); `whitespace` is what
    /// stands between white space
    #[arg(long, value_enum, value_name = "KIND", default_value = "word")]
    pub tokens: Tokens,

    /// Count words without regard to case, in lower case
    #[arg(long)]
    pub ignore_case: bool,
}

impl clap::ValueEnum for Tokens {
    fn value_variants<'a>() -> &'a [Self] {
        &[Tokens::Word, Tokens::Whitespace]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Tokens::Word => clap::builder::PossibleValue::new("word"),
            Tokens::Whitespace => clap::builder::PossibleValue::new("whitespace"),
        })
    }
}

impl Job for WordCount {
    const NAME: &'static str = "wordcount";
    const ABOUT: &'static str =
        "Count how often each word stands in a text, on as many machines as you can reach";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        Ok(Self { tokenizer: Tokenizer::new(params.tokens, params.ignore_case) })
    }

    fn map(&self, split: &[u8], emit: &mut impl FnMut(&[u8], u64)) {
        self.tokenizer.for_each(split, |word| emit(word, 1));
    }

    fn combine(&self, into: &mut u64, other: u64) {
        *into += other;
    }

    fn is_boundary(&self, byte: u8) -> bool {
        self.tokenizer.separates(byte)
    }

    fn compare(&self, a: (&[u8], &u64), b: (&[u8], &u64)) -> Ordering {
        b.1.cmp(a.1).then_with(|| a.0.cmp(b.0))
    }
}
