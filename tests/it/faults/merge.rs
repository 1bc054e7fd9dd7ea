//! Merge: a merge that is broken off after a part of its output is written leaves the same bytes as any other.

use std::fs;
use std::io::Read;

use mapreduce::logic::coordinator::Phase;
use rustix::process::Signal;

use super::stage::{LIMIT, Stage};
use crate::harness::clients::{Task, result_on_stdout};
use crate::harness::processes::signal;
use crate::harness::{wait_until, with_deadline};

/// More words than fit what is under way between workers, client and output.
fn vocabulary() -> Vec<u8> {
    (0..180_000u32).flat_map(|n| format!("{} w{n}\n", n % 1000).into_bytes()).collect()
}

/// Values of the result that the one that is lost encodes before: the first ranges of its third.
const PASSES: u64 = 45_000;

fn stage() -> Stage<'static> {
    let hold = |setup: crate::harness::workers::WorkerSetup<'static>, index| match index {
        1 => setup.hold(Phase::Merge).after(PASSES),
        _ => setup,
    };
    Stage::set(3, hold)
}

/// Runs `task` without and with the loss of a worker in the midst of its merge, and compares the files.
fn compare_files(format: &str, top: Option<usize>) {
    let stage = stage().about(&vocabulary());
    let task = Task { format: format.to_owned(), top, split_size: Some(100_000), ..stage.task() };
    let well = Task { workers: task.workers[..1].to_vec(), ..task.clone() };
    stage.well(stage.begin(&well));
    let expected = fs::read(stage.output()).expect("there is a result");
    fs::remove_file(stage.output()).expect("it is ours");
    let job = stage.begin(&task);
    stage.workers[1].await_held();
    let grown = || {
        let entries = fs::read_dir(stage.directory.path()).expect("it is there").flatten();
        let mut hidden = entries.filter(|entry| entry.file_name().to_string_lossy().contains("tmp"));
        hidden.any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
    };
    wait_until(LIMIT, "a part of the output to be written", grown);
    signal(stage.workers[1].child.id(), Signal::KILL);
    let told = stage.well(job);
    assert_eq!(stage.lost(&told, 1), Phase::Merge);
    let result = fs::read(stage.output()).expect("there is a result");
    assert!(result == expected, "as {format}, it is not the same; the client said:\n{}", told.stderr);
    if format == "tsv" && top.is_none() {
        assert!(result == stage.expected(), "it is not exact");
    }
}

#[test]
fn file_is_the_same() {
    with_deadline(LIMIT, || {
        compare_files("tsv", None);
        compare_files("csv", None);
        compare_files("json", None);
        compare_files("json", Some(150_000));
    });
}

/// A pipe has taken what it was given, and cannot be told to forget it.
#[test]
fn pipe_gets_each_byte_once() {
    with_deadline(LIMIT, || {
        let stage = stage().about(&vocabulary());
        let task = Task { output: None, split_size: Some(100_000), ..stage.task() };
        let mut job = {
            let client = task.client().deadline(LIMIT).keep_stdout();
            client.spawn()
        };
        let mut stdout = job.stdout.take().expect("it is ours");
        stage.workers[1].await_held();
        // The runner's words, and the first of the result.
        let mut whole = vec![0; 4096];
        stdout.read_exact(&mut whole).expect("a part of the output is written");
        signal(stage.workers[1].child.id(), Signal::KILL);
        stdout.read_to_end(&mut whole).expect("the client goes on");
        let mut finished = job.wait().expect_code(0);
        finished.stdout_bytes = whole;
        assert!(finished.stderr.contains("lost in merge"), "{}", finished.stderr);
        assert!(result_on_stdout(&finished) == stage.expected(), "it is not exact:\n{}", finished.stderr);
        stage.await_idle(&[0, 2]);
    });
}

/// `--top` of a text of few words, with the loss before the first of them.
#[test]
fn top_is_the_same() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(3, |setup, index| if index == 1 { setup.hold(Phase::Merge) } else { setup });
        let job = stage.begin(&Task { top: Some(20), ..stage.task() });
        stage.workers[1].await_held();
        signal(stage.workers[1].child.id(), Signal::KILL);
        let told = stage.well(job);
        stage.assert_lost(&told, &[1]);
        let result = fs::read(stage.output()).expect("there is a result");
        let lines: Vec<&[u8]> = stage.expected().split_inclusive(|byte| *byte == b'\n').take(20).collect();
        assert!(result == lines.concat(), "it is not exact:\n{}", told.stderr);
    });
}
