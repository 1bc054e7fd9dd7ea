//! Merge: a merge that is broken off after a part of its output is written leaves the same bytes as any other.

use std::fs;
use std::io::Read;
use std::sync::LazyLock;

use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;

use super::stage::{LIMIT, Stage};
use crate::harness::clients::{DONE, Task, result_on_stdout};
use crate::harness::processes::signal;
use crate::harness::proxy::{Direction, Fault, Selection};
use crate::harness::workers::WorkerSetup;
use crate::harness::{wait_until, with_deadline};
use crate::reference;

/// A text of many words, a megabyte of results of each worker, and its words counted.
static TEXT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let text: Vec<u8> = (0..600_000u32).flat_map(|n| format!("w{n} ").into_bytes()).collect();
    let counted = reference::word_count(&[&text], Tokens::Word, false);
    (text, counted)
});

/// The bytes of a worker's result that get through: some batches, from which a part of the output can be made.
const DELIVERED: u64 = 300_000;

fn stage() -> Stage<'static> {
    let set_up = |setup: WorkerSetup<'static>, index| match index {
        1 => setup.hold(Phase::Merge).proxied(),
        _ => setup,
    };
    Stage::set(3, set_up).about_counted(&TEXT.0, TEXT.1.clone())
}

fn task(stage: &Stage<'_>) -> Task {
    Task { split_size: Some(200_000), ..stage.hasty_task() }
}

/// Waits until the merge has begun, and has the result of a worker stop in its middle.
fn stop_in_the_middle(stage: &Stage<'_>) {
    let worker = &stage.workers[1];
    worker.await_held();
    worker.proxy().inject(Fault::Quota(Direction::FromWorker, DELIVERED), Selection::client());
    worker.release();
}

fn kill(stage: &Stage<'_>) {
    signal(stage.workers[1].child.id(), Signal::KILL);
}

/// Runs a job without and with the loss of a worker in the midst of its merge, and compares the files.
fn compare_files(format: &str, top: Option<usize>) {
    let stage = stage();
    let task = Task { format: format.to_owned(), top, ..task(&stage) };
    let well = Task { workers: task.workers[..1].to_vec(), ..task.clone() };
    stage.well(stage.begin(&well));
    let expected = fs::read(stage.output()).expect("there is a result");
    fs::remove_file(stage.output()).expect("it is ours");
    let job = stage.begin(&task);
    stop_in_the_middle(&stage);
    let has_grown = || {
        let entries = fs::read_dir(stage.directory.path()).expect("it is there").flatten();
        let mut parts = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".output."));
        parts.any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
    };
    // Where the silence counts before this is seen, the rest is here already.
    wait_until(LIMIT, "a part of the output to be written", || stage.output().exists() || has_grown());
    kill(&stage);
    let told = stage.well(job);
    assert_eq!(stage.lost(&told, 1), Phase::Merge);
    stage.assert_tidy();
    let result = fs::read(stage.output()).expect("there is a result");
    assert!(result == expected, "as {format}, it is not the same; the client said:\n{}", told.stderr);
    if format == "tsv" && top.is_none() {
        assert!(result == stage.expected(), "it is not exact");
    }
}

#[test]
fn file_is_the_same() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            let cases = [("tsv", None), ("csv", None), ("json", None), ("json", Some(500_000))];
            for (format, top) in cases {
                scope.spawn(move || compare_files(format, top));
            }
        });
    });
}

/// A pipe has taken what it was given, and cannot be told to forget it.
#[test]
fn pipe_gets_each_byte_once() {
    with_deadline(LIMIT, || {
        let stage = stage();
        let task = Task { output: None, ..task(&stage) };
        let mut job = task.client().deadline(LIMIT).keep_stdout().spawn();
        let mut stdout = job.stdout.take().expect("it is ours");
        stop_in_the_middle(&stage);
        // The runner's words, and the first of the result.
        let mut whole = vec![0; 4096];
        stdout.read_exact(&mut whole).expect("a part of the output is written");
        kill(&stage);
        stdout.read_to_end(&mut whole).expect("the client goes on");
        let mut finished = job.wait().expect_code(DONE);
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
