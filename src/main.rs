//! The `mapreduce` program: the command line of the library, with the jobs that people reach for daily.

use std::process::ExitCode;

use mapreduce::jobs::grep::Grep;
use mapreduce::jobs::histogram::Histogram;
use mapreduce::jobs::ngrams::Ngrams;
use mapreduce::jobs::streaming::Streaming;
use mapreduce::jobs::word_count::WordCount;

#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../examples/domains.rs"]
mod domains;
#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../examples/inverted_index.rs"]
mod inverted_index;
#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../examples/languages.rs"]
mod languages;

use domains::Domains;
use inverted_index::InvertedIndex;
use languages::Languages;

fn main() -> ExitCode {
    mapreduce::main::<(WordCount, Grep, Ngrams, Histogram, InvertedIndex, Domains, Languages, Streaming)>()
}
