//! Poison: records, and code of the job, that some or all workers cannot take.

use std::fs;

use super::stage::{LIMIT, Stage};
use crate::harness::clients::Task;
use crate::harness::held::{BANE, Touch};
use crate::harness::program::Invocation;
use crate::harness::served::{Served, list};
use crate::harness::with_deadline;
use crate::harness::workers::{PATIENCE, text};
use crate::reference;
use mapreduce::logic::tokenize::Tokens;

/// The usual text with a line in its middle; and where that is.
fn with_line(line: &str) -> (Vec<u8>, u64) {
    let mut text = text();
    let middle = text.len() / 2;
    let at = middle + text[middle..].iter().position(|byte| *byte == b'\n').expect("it has lines") + 1;
    text.splice(at..at, format!("{line}\n").into_bytes());
    (text, at as u64)
}

/// The bytes that a split is said to be of.
fn range_in(said: &str) -> (u64, u64) {
    let (_, rest) = said.split_once("bytes ").unwrap_or_else(|| panic!("no range in {said}"));
    let numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let numbers: Vec<u64> = numbers.take(2).map(|number| number.parse().expect("digits")).collect();
    (numbers[0], numbers[1])
}

/// A record that nobody can take ends the job, not the workers.
#[test]
fn poisoned_record_is_named_after_three_tries() {
    with_deadline(LIMIT, || {
        let (poisoned, at) = with_line("poison");
        let stage = Stage::set(5, |setup, _| setup).about(&poisoned);
        for backups in [false, true] {
            let said = stage.failed(stage.begin(&Task { backups, ..stage.task() }));
            let last = said.lines().find(|line| line.contains("3 workers could not map the split"));
            let last = last.unwrap_or_else(|| panic!("three are not named:\n{said}"));
            let (from, to) = range_in(last);
            assert!((from..to).contains(&at), "{at} is not in {from}..{to}: {said}");
            assert!(last.contains("a poisoned record"), "{said}");
            let tries = said.lines().filter(|line| line.contains("another worker tries")).count();
            assert_eq!(tries, 2, "{said}");
            stage.await_idle(&[0, 1, 2, 3, 4]);
        }
        let stage = stage.about(&text());
        stage.assert_usable(&[0, 1, 2, 3, 4]);
    });
}

/// A record that one worker cannot take is taken by another.
#[test]
fn record_that_one_worker_does_not_bear() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(3, |setup, index| if index == 0 { setup.touchy(Touch::Bane) } else { setup });
        // The first split is cut for the first worker.
        let stage = stage.about(&[BANE.as_bytes(), b"\n", &text()].concat());
        let told = stage.exact(stage.begin(&stage.task()));
        stage.assert_lost(&told, &[]);
        let line = format!("worker {} could not map the split of ", stage.workers[0].address);
        let retried = told.stderr.lines().find(|said| said.starts_with(&line));
        let retried = retried.unwrap_or_else(|| panic!("nothing is told:\n{}", told.stderr));
        assert_eq!(range_in(retried).0, 0, "{retried}");
        assert!(retried.ends_with("another worker tries"), "{retried}");
        assert!(told.figure("reexecuted_splits") > 0, "{}", told.report);
        stage.await_idle(&[0, 1, 2]);
        let alone = vec![stage.workers[0].address.to_string()];
        let said = stage.failed(stage.begin(&Task { workers: alone, ..stage.task() }));
        assert!(said.contains("a record that this worker does not bear"), "{said}");
    });
}

/// A worker on which nothing succeeds is out, after some tries.
#[test]
fn worker_that_fails_in_combine_or_reduce_is_out() {
    with_deadline(LIMIT, || {
        for touch in [Touch::Combine, Touch::Reduce] {
            let stage = Stage::set(3, |setup, index| if index == 1 { setup.touchy(touch) } else { setup });
            let told = stage.exact(stage.begin(&stage.task()));
            stage.assert_lost(&told, &[1]);
            let cause = match touch {
                Touch::Combine => "values that this worker cannot combine",
                _ => "a value of a peer that this worker does not bear",
            };
            assert!(told.stderr.contains(cause), "{}", told.stderr);
            // It lives, and so do the others.
            stage.await_idle(&[0, 1, 2]);
            stage.assert_usable(&[0, 2]);
        }
    });
}

/// Where the job's code fails on all, the job ends with its words.
#[test]
fn job_that_fails_in_combine_or_reduce_everywhere() {
    with_deadline(LIMIT, || {
        for touch in [Touch::Combine, Touch::Reduce] {
            let stage = Stage::set(4, |setup, _| setup.touchy(touch));
            let said = stage.failed(stage.begin(&stage.task()));
            let cause = match touch {
                Touch::Combine => "values that this worker cannot combine",
                _ => "workers gave up for the same reason",
            };
            assert!(said.contains(cause), "{said}");
            stage.await_idle(&[0, 1, 2, 3]);
        }
    });
}

/// A worker that may use too little memory fails its executions, and the others have them.
#[test]
fn worker_with_too_little_memory() {
    with_deadline(LIMIT, || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (input, output) = (directory.path().join("input"), directory.path().join("output"));
        let text: Vec<u8> = (0..400_000).flat_map(|n| format!("w{n} of many\n").into_bytes()).collect();
        fs::write(&input, &text).expect("it is writable");
        let serve = |memory: &str| {
            Served::start(Invocation::new(&["serve", "--threads", "2", "--memory", memory]).deadline(LIMIT))
        };
        let workers = [serve("1G"), serve("1M"), serve("1G")];
        let list = list(&workers);
        let [input, output] = [&input, &output].map(|path| path.to_str().expect("UTF-8"));
        let args = [
            "run",
            input,
            "-o",
            output,
            "--workers",
            &list,
            "--split-size",
            "64K",
            "--worker-timeout",
            "20s",
        ];
        let ran = Invocation::new(&args).deadline(LIMIT).run().expect_code(0);
        assert!(ran.stderr.contains("--memory"), "{}", ran.stderr);
        assert!(ran.stderr.contains("another worker tries"), "{}", ran.stderr);
        let result = fs::read(output).expect("there is a result");
        assert!(result == reference::word_count(&[&text], Tokens::Word, false), "it is not exact");

        // Nobody else is there: what helps is said, and that is not to mend the job.
        let alone = workers[1].address.to_string();
        let args = ["run", input, "--workers", &alone, "--split-size", "64K"];
        let ran = Invocation::new(&args).deadline(LIMIT).run().expect_code(1);
        assert!(
            ran.stderr.contains(&format!("worker {alone} could not map the split of ")),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("  try: let the workers use more memory"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("mend the job"), "{}", ran.stderr);
        crate::harness::served::await_jobs(&workers, 0, PATIENCE * 4);
    });
}
