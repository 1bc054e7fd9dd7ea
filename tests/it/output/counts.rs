//! Counts: `--min-count` leaves out what is rare, whoever counts it, and the report still says how much there is.

use std::fs;

use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;

use super::{Bench, text};
use crate::faults::stage::{LIMIT, Stage};
use crate::harness::clients::Task;
use crate::harness::processes::signal;
use crate::harness::with_deadline;
use crate::reference;

/// The lines of `whole` that count to `least` at least.
fn often_enough(whole: &[u8], least: u64) -> Vec<&[u8]> {
    whole.split_inclusive(|byte| *byte == b'\n').filter(|line| count(line) >= least).collect()
}

/// What stands behind the key of a line.
fn count(line: &[u8]) -> u64 {
    let digits = line.rsplit(|byte| *byte == b'\t').next().expect("a column");
    std::str::from_utf8(digits).expect("digits").trim_end().parse().expect("a number")
}

#[test]
fn only_what_was_counted_so_often_is_written() {
    with_deadline(LIMIT, || {
        let text = text();
        let whole = reference::word_count(&[&text], Tokens::Word, false);
        let distinct = whole.iter().filter(|byte| **byte == b'\n').count();
        for workers in [0, 1, 3] {
            let bench = Bench::start(workers, &text);
            for (least, top) in
                [("1", None), ("2", None), ("601", None), ("9999", None), ("2", Some(7)), ("601", Some(7))]
            {
                let mut args = vec!["--min-count", least, "-o", "out.tsv", "--report", "report.json"];
                let number = top.map(|top: usize| top.to_string());
                number.iter().for_each(|number| args.extend(["--top", number]));
                bench.run(&args).expect_code(0);
                let lines = often_enough(&whole, least.parse().expect("a number"));
                let lines = &lines[..top.unwrap_or(lines.len()).min(lines.len())];
                assert!(bench.read("out.tsv") == lines.concat(), "{workers} workers, {least}, {top:?}");
                let report: serde_json::Value =
                    serde_json::from_slice(&bench.read("report.json")).expect("JSON");
                let told = (report["distinct_keys"].as_u64(), report["output_entries"].as_u64());
                assert_eq!(told, (Some(distinct as u64), Some(lines.len() as u64)), "{workers} workers");
            }
        }
    });
}

#[test]
fn the_loss_of_a_worker_in_the_merge_changes_nothing() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(3, |setup, index| if index == 1 { setup.hold(Phase::Merge) } else { setup });
        let lines: Vec<&[u8]> = stage.expected().split_inclusive(|byte| *byte == b'\n').collect();
        let least = count(lines[lines.len() / 2]) + 1;
        let job = stage.begin(&Task { min_count: Some(least), ..stage.task() });
        stage.workers[1].await_held();
        signal(stage.workers[1].child.id(), Signal::KILL);
        let told = stage.well(job);
        stage.assert_lost(&told, &[1]);
        let result = fs::read(stage.output()).expect("there is a result");
        let expected = often_enough(stage.expected(), least);
        assert!(!expected.is_empty() && expected.len() < told.figure("distinct_keys") as usize);
        assert!(result == expected.concat(), "it is not exact:\n{}", told.stderr);
    });
}

#[test]
fn a_bound_is_a_number_that_is_not_zero() {
    let bench = Bench::start(0, b"a b a");
    for bound in ["0", "-1", "many", "1.5"] {
        bench.run(&["--min-count", bound]).expect_code(2);
    }
}
