//! Languages: how many lines are in each language. A whole program: `discover`, `deploy` and `run` included.
//!
//! Try it on one machine: `cargo run --release --example languages -- run README.md examples/alice.txt`

use std::process::ExitCode;

use mapreduce::{Emit, Job, Records};

fn main() -> ExitCode {
    mapreduce::main::<Languages>()
}

/// Counts lines by the code of their language (ISO 639-3); most lines first, then by the code. Blank lines do not count.
pub struct Languages {
    min_letters: usize,
}

/// What is told apart.
#[derive(Clone, serde::Serialize, serde::Deserialize, clap::Args)]
pub struct Params {
    /// Count lines with fewer letters as unknown, and all of which one cannot be sure
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub min_letters: usize,
}

/// Letters of a line that are looked at: more make it no clearer.
const ENOUGH: usize = 400;

impl Job for Languages {
    const NAME: &'static str = "languages";
    const ABOUT: &'static str = "Count the lines in each language";
    const COLUMNS: [&'static str; 2] = ["language", "lines"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        match params.min_letters {
            min_letters @ 1..=ENOUGH => Ok(Self { min_letters }),
            many => Err(format!("--min-letters {many}: it must be from 1 to {ENOUGH}")),
        }
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        for line in records.lines().filter(|line| !line.text.trim_ascii().is_empty()) {
            emit.pair(self.language(&String::from_utf8_lossy(line.text)).as_bytes(), 1);
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

impl Languages {
    fn language(&self, line: &str) -> &'static str {
        let mut letters = line.char_indices().filter(|(_, letter)| letter.is_alphabetic()).map(|(at, _)| at);
        if letters.nth(self.min_letters - 1).is_none() {
            return "unknown";
        }
        let end = letters.nth(ENOUGH - self.min_letters).unwrap_or(line.len());
        let found = whatlang::detect(&line[..end]).filter(|found| found.is_reliable());
        found.map_or("unknown", |found| found.lang().code())
    }
}
