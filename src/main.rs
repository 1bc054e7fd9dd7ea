//! The `mapreduce` program: the command line of the library, with the word count as its first job.

use std::process::ExitCode;

use mapreduce::jobs::streaming::Streaming;
use mapreduce::jobs::word_count::WordCount;

fn main() -> ExitCode {
    mapreduce::main::<(WordCount, Streaming)>()
}
