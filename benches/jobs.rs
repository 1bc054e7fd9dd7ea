//! Bench of the jobs: bytes a second that each maps and folds on one thread, and what the word count loses by being a job.
//!
//! `cargo bench --bench jobs -- --paired` runs the word count through `Job`, and written out by hand, in turns, and prints the
//! ratio of their times.

use std::hint::black_box;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::BytesCount;
use mapreduce::jobs::grep::{self, Grep};
use mapreduce::jobs::histogram::{self, Histogram};
use mapreduce::jobs::ngrams::{self, Ngrams};
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::logic::partition::Seed;
use mapreduce::logic::split::splits;
use mapreduce::logic::table::{Folder, Table};
use mapreduce::{Emit, Job, Records, Tokenizer, Tokens};

#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../examples/domains.rs"]
mod domains;
#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../examples/inverted_index.rs"]
mod inverted_index;
#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../examples/languages.rs"]
mod languages;

const SEED: Seed = Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

/// A book, again and again.
const TEXT_BYTES: usize = 16 << 20;

/// As the engine cuts a large input.
const SPLIT_BYTES: usize = 1 << 20;

/// Languages take their time.
const SHORT_BYTES: usize = 1 << 20;

/// Turns of the paired run.
const TURNS: usize = 41;

fn main() {
    match std::env::args().any(|arg| arg == "--paired") {
        true => paired(),
        false => divan::main(),
    }
}

fn text(bytes: usize) -> Vec<u8> {
    include_bytes!("../examples/alice.txt").iter().copied().cycle().take(bytes).collect()
}

/// Records of web pages, in the form of Common Crawl's WET files.
fn pages() -> Vec<u8> {
    let mut pages = Vec::new();
    for (number, page) in text(TEXT_BYTES).chunks(5000).enumerate() {
        let head = format!(
            "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://host-{}.example/{number}\r\n\
                Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            number % 97,
            page.len()
        );
        pages.extend([head.as_bytes(), page, b"\r\n\r\n"].concat());
    }
    pages
}

fn folded<J: Job>(job: &J, text: &[u8]) -> Table<J::Value> {
    let mut folder = Folder::new(SEED);
    for split in splits(text, SPLIT_BYTES, |byte| byte == b'\n') {
        let mut batch = folder.batch(|into, other| job.combine(into, other));
        job.map(Records::new(split, b"book.txt", 0), &mut batch).expect("these jobs do not fail");
        batch.finish();
    }
    folder.finish(|into, other| job.combine(into, other))
}

/// What the word count comes to where no job is.
fn counted_by_hand(tokenizer: &Tokenizer, text: &[u8]) -> Table<u64> {
    let mut folder = Folder::new(SEED);
    for split in splits(text, SPLIT_BYTES, |byte| byte == b'\n') {
        let mut batch = folder.batch(|into: &mut u64, other| *into = into.saturating_add(other));
        tokenizer.for_each_batch(split, |text, words| batch.spans(text, words, 1));
        batch.finish();
    }
    folder.finish(|into, other| *into = into.saturating_add(other))
}

/// Runs both in turns, so that whatever else the machine does falls on both.
fn paired() {
    let text = text(TEXT_BYTES);
    let job = word_count();
    let tokenizer = Tokenizer::new(Tokens::Word, false);
    let timed = |run: &dyn Fn() -> usize| -> Duration {
        let began = Instant::now();
        black_box(run());
        began.elapsed()
    };
    let [through_job, by_hand]: [&dyn Fn() -> usize; 2] =
        [&|| folded(&job, &text).len(), &|| counted_by_hand(&tokenizer, &text).len()];
    let mut ratios = Vec::new();
    let (mut best_job, mut best_hand) = (Duration::MAX, Duration::MAX);
    for turn in 0..TURNS {
        let (one, other) = match turn % 2 {
            0 => (timed(through_job), timed(by_hand)),
            _ => {
                let hand = timed(by_hand);
                (timed(through_job), hand)
            }
        };
        ratios.push(one.as_secs_f64() / other.as_secs_f64());
        (best_job, best_hand) = (best_job.min(one), best_hand.min(other));
    }
    ratios.sort_by(f64::total_cmp);
    let speed = |time: Duration| text.len() as f64 / 1e6 / time.as_secs_f64();
    println!(
        "word count: through Job {:.0} MB/s, by hand {:.0} MB/s at best; ratio of times {:.3} (median of {TURNS} \
            pairs; quartiles {:.3} to {:.3})",
        speed(best_job),
        speed(best_hand),
        ratios[TURNS / 2],
        ratios[TURNS / 4],
        ratios[3 * TURNS / 4],
    );
}

fn word_count() -> WordCount {
    WordCount::new(Params::default()).expect("they are valid")
}

fn bench<J: Job>(bencher: Bencher<'_, '_>, job: Result<J, String>, text: &[u8]) {
    let job = job.expect("the parameters are valid");
    bencher.counter(BytesCount::new(text.len())).bench_local(|| folded(&job, text));
}

fn grep_for(pattern: &str, count: bool) -> Result<Grep, String> {
    let pattern = pattern.to_owned();
    Grep::new(grep::Params { pattern, ignore_case: false, invert: false, only_matching: false, count })
}

#[divan::bench]
fn wordcount(bencher: Bencher) {
    bench(bencher, Ok(word_count()), &text(TEXT_BYTES));
}

#[divan::bench]
fn wordcount_by_hand(bencher: Bencher) {
    let (text, tokenizer) = (text(TEXT_BYTES), Tokenizer::new(Tokens::Word, false));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| counted_by_hand(&tokenizer, &text));
}

#[divan::bench(args = ["Dodo", "^.*Queen", "[a-z]+ing\\b"])]
fn grep_lines(bencher: Bencher, pattern: &str) {
    bench(bencher, grep_for(pattern, false), &text(TEXT_BYTES));
}

#[divan::bench(args = ["Dodo", "[a-z]+ing\\b"])]
fn grep_count(bencher: Bencher, pattern: &str) {
    bench(bencher, grep_for(pattern, true), &text(TEXT_BYTES));
}

#[divan::bench(args = [1, 2, 3])]
fn ngrams_of(bencher: Bencher, n: usize) {
    bench(bencher, Ngrams::new(ngrams::Params { n, words: Params::default() }), &text(TEXT_BYTES));
}

#[divan::bench]
fn histogram_of_lengths(bencher: Bencher) {
    let params = histogram::Params { column: None, delimiter: "\\t".to_owned(), bin_width: 1.0 };
    bench(bencher, Histogram::new(params), &text(TEXT_BYTES));
}

#[divan::bench]
fn histogram_of_numbers(bencher: Bencher) {
    let lines = (0..TEXT_BYTES as u32 / 16).map(|n| format!("row\t{}.{}\n", n % 9973, n % 89));
    let params = histogram::Params { column: Some(2), delimiter: "\\t".to_owned(), bin_width: 0.5 };
    bench(bencher, Histogram::new(params), lines.collect::<String>().as_bytes());
}

#[divan::bench]
fn inverted_index_of_words(bencher: Bencher) {
    bench(bencher, inverted_index::InvertedIndex::new(Params::default()), &text(TEXT_BYTES));
}

#[divan::bench]
fn domains_of_pages(bencher: Bencher) {
    bench(bencher, domains::Domains::new(domains::Params {}), &pages());
}

#[divan::bench]
fn languages_of_lines(bencher: Bencher) {
    bench(bencher, languages::Languages::new(languages::Params { min_letters: 20 }), &text(SHORT_BYTES));
}
