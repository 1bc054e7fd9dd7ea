//! Inverted index: the files that each word is in. A whole program: `discover`, `deploy` and `run` included.
//!
//! Try it on one machine: `cargo run --release --example inverted_index -- run README.md examples/alice.txt`

use std::collections::HashSet;
use std::process::ExitCode;

use mapreduce::jobs::word_count::Params;
use mapreduce::values::Set;
use mapreduce::{Emit, Job, Records, Tokenizer};

fn main() -> ExitCode {
    mapreduce::main::<InvertedIndex>()
}

/// Lists the files of each word, in the order of the words' bytes, which is that of the result unless a job ranks it.
pub struct InvertedIndex {
    tokenizer: Tokenizer,
}

impl Job for InvertedIndex {
    const NAME: &'static str = "inverted-index";
    const ABOUT: &'static str = "List the files that each word is in";
    const COLUMNS: [&'static str; 2] = ["word", "files"];
    // What a word is, as the word count asks it.
    type Params = Params;
    type Value = Set;

    fn new(params: Params) -> Result<Self, String> {
        Ok(Self { tokenizer: Tokenizer::new(params.tokens, params.ignore_case) })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Set>) -> Result<(), String> {
        // Once for each word is enough: a set is no cheap thing to make.
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        self.tokenizer.for_each(records.bytes(), |word| {
            if !seen.contains(word) {
                seen.insert(word.to_vec());
                emit.pair(word, Set::one(records.file()));
            }
        });
        Ok(())
    }

    fn combine(&self, into: &mut Set, other: Set) {
        into.merge(other);
    }
}
