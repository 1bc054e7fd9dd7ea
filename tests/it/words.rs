//! Words: the kernels together give what the reference gives, byte for byte.
//!
//! Split, map, combine, partition, reduce, sort, merge: whatever the text, the size of splits, the number of workers.

use mapreduce::Value;
use mapreduce::job::{Cut, Job};
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::logic::merge::{Streams, Stretch};
use mapreduce::logic::partition::{Partition, Seed};
use mapreduce::logic::split::splits;
use mapreduce::logic::table::{Entry, Table};
use mapreduce::logic::tokenize::Tokens;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::reference;

const MODES: [(Tokens, bool); 4] =
    [(Tokens::Word, false), (Tokens::Word, true), (Tokens::Whitespace, false), (Tokens::Whitespace, true)];

/// Runs a job by the kernels alone: split `n` goes to worker `n % n_workers`, and each worker owns one partition.
fn map_reduce<J: Job<Value = u64>>(
    job: &J,
    files: &[&[u8]],
    n_workers: usize,
    split_bytes: usize,
) -> Vec<u8> {
    let seed = Seed([n_workers as u64, split_bytes as u64]);
    let combine = |into: &mut u64, other| job.combine(into, other);
    let mut maps: Vec<Table<u64>> = (0..n_workers).map(|_| Table::new(seed)).collect();
    let Cut::After(ends) = job.cut() else { panic!("words end at bytes") };
    let all = files.iter().flat_map(|file| splits(file, split_bytes, move |byte| ends.contains(byte)));
    for (number, split) in all.enumerate() {
        let table = &mut maps[number % n_workers];
        let mut fold = |key: &[u8], value| table.fold(key, value, combine);
        job.map(split.into(), &mut fold).expect("it cannot fail");
    }
    let mut reduced: Vec<Table<u64>> = (0..n_workers).map(|_| Table::new(seed)).collect();
    for map in &maps {
        let groups = map.by_partition(n_workers as u32);
        for (number, table) in reduced.iter_mut().enumerate() {
            for &index in groups.entries(Partition(number as u32)) {
                let Entry { key, value, .. } = map.entry(index as usize);
                table.fold(key, *value, combine);
            }
        }
    }
    let mut streams = Streams::new(n_workers);
    reduced.iter().enumerate().for_each(|(number, table)| streams.add(number, Some(sort(job, table))));
    let mut lines = Vec::new();
    loop {
        while let Some(empty) = streams.lacking() {
            streams.add(empty, None);
        }
        let Some(part) = streams.cut() else { return lines };
        for (key, value) in part.merged() {
            lines.extend_from_slice(key);
            lines.push(b'\t');
            value.render(&mut lines);
            lines.push(b'\n');
        }
    }
}

fn sort<J: Job<Value = u64>>(job: &J, table: &Table<u64>) -> Stretch<u64> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by(|a, b| job.compare((a.key, a.value), (b.key, b.value)));
    let mut sorted = Stretch::new();
    for entry in entries {
        sorted.push(job.rank(entry.value), 0, entry.key, *entry.value).expect("it is sorted");
    }
    sorted
}

fn assert_same(files: &[&[u8]], n_workers: usize, split_bytes: usize) {
    for (tokens, ignore_case) in MODES {
        let job = WordCount::new(Params { tokens, ignore_case }).expect("all parameters are valid");
        let result = map_reduce(&job, files, n_workers, split_bytes);
        let expected = reference::word_count(files, tokens, ignore_case);
        assert!(
            result == expected,
            "{tokens:?}, ignore case: {ignore_case}, {n_workers} workers, splits of {split_bytes}\n{files:x?}\n{}\n{}",
            String::from_utf8_lossy(&result),
            String::from_utf8_lossy(&expected),
        );
    }
}

#[test]
fn the_reference_is_right_on_a_text_counted_by_hand() {
    let files: [&[u8]; 2] = [b"The cat\tthe CAT, the end", b"The end\xff"];
    let count = |tokens, ignore_case| {
        String::from_utf8_lossy(&reference::word_count(&files, tokens, ignore_case)).into_owned()
    };
    assert_eq!(count(Tokens::Word, false), "The\t2\nend\t2\nthe\t2\nCAT\t1\ncat\t1\n");
    assert_eq!(count(Tokens::Word, true), "the\t4\ncat\t2\nend\t2\n");
    assert_eq!(count(Tokens::Whitespace, true), "the\t4\ncat\t1\ncat,\t1\nend\t1\nend\u{fffd}\t1\n");
}

#[test]
fn a_book_is_counted_by_any_number_of_workers() {
    let book = include_bytes!("../../examples/alice.txt");
    for (n_workers, split_bytes) in [(1, usize::MAX), (2, 1), (3, 1000), (8, 64), (8, 20_000)] {
        assert_same(&[book], n_workers, split_bytes);
    }
}

#[test]
fn files_without_a_final_newline_do_not_join() {
    for split_bytes in [1, 4, 100] {
        assert_same(&[b"one tw", b"o", b"", b"\xc3", b"\xa9t\xc3\xa9\r\n", b"\0"], 3, split_bytes);
    }
}

#[test]
fn a_long_line_and_a_long_word_are_one_split() {
    let line = b"word w\xc3\xb6rd ".repeat(100_000);
    let word = b"x".repeat(1 << 20);
    assert_same(&[&line, &word], 4, 1 << 16);
}

#[test]
fn scripts_of_the_world_are_counted() {
    let text = "L'e\u{301}te\u{301} – Straße, ÜBER über\r\nПривет, мир! ПРИВЕТ\nहिन्दी में हिन्दी\nالعربية ١٢٣\n\
                漢字、漢字\u{3000}かな・カナ。\0かな\u{200d}x İ ΟΔΟΣ οδος\u{2028}𐐷𐐏 🙂🙂";
    for n_workers in 1..=8 {
        assert_same(&[text.as_bytes()], n_workers, 1 + n_workers * 7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, rng_seed: RngSeed::Fixed(6), ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_counted(
        files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..4),
        n_workers in 1usize..9,
        split_bytes in 1usize..200,
    ) {
        assert_same(&files.iter().map(Vec::as_slice).collect::<Vec<_>>(), n_workers, split_bytes);
    }

    #[test]
    fn few_different_words_are_counted(
        files in prop::collection::vec("(a|B|b|_|é|É|ж|字| |\n|-|\u{a0}){0,300}", 0..4),
        n_workers in 1usize..9,
        split_bytes in 1usize..50,
    ) {
        assert_same(&files.iter().map(String::as_bytes).collect::<Vec<_>>(), n_workers, split_bytes);
    }
}
