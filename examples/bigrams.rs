//! Bigrams: how often two words stand side by side in a line. A whole program: `discover`, `deploy` and `run` included.
//!
//! Try it on one machine: `cargo run --release --example bigrams -- run examples/alice.txt`

use std::process::ExitCode;

use mapreduce::logic::tokenize::{Tokenizer, Tokens};
use mapreduce::{Emit, Job, Records};

fn main() -> ExitCode {
    mapreduce::main::<Bigrams>()
}

/// Counts pairs of adjoining words; most frequent first, then by their bytes.
struct Bigrams {
    tokenizer: Tokenizer,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, clap::Args)]
struct Params {
    /// Count pairs without regard to case, in lower case
    #[arg(long)]
    ignore_case: bool,
}

impl Job for Bigrams {
    const NAME: &'static str = "bigrams";
    const ABOUT: &'static str = "Count how often two words stand side by side in a line of a text";
    const COLUMNS: [&'static str; 2] = ["bigram", "count"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        Ok(Self { tokenizer: Tokenizer::new(Tokens::Word, params.ignore_case) })
    }

    // No pair crosses the end of a line, so splits may end there, as they do unless `cut` says otherwise.
    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        let mut pair = Vec::new();
        for line in records.lines() {
            pair.clear();
            self.tokenizer.for_each(line.text, |word| {
                let is_first = pair.is_empty();
                if !is_first {
                    pair.push(b' ');
                }
                let second = pair.len();
                pair.extend_from_slice(word);
                if !is_first {
                    emit.pair(&pair, 1);
                    pair.drain(..second);
                }
            });
        }
        Ok(())
    }

    fn combine(&self, into: &mut u64, other: u64) {
        *into = into.saturating_add(other);
    }

    fn rank(&self, count: &u64) -> u64 {
        !count
    }
}
