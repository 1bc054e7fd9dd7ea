//! Parted: `--partitioned` gives a directory of sorted files, one for each reducer, whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;

use super::{Bench, names, text};
use crate::faults::stage::{LIMIT, Stage};
use crate::harness::clients::Task;
use crate::harness::processes::signal;
use crate::harness::proxy::{Direction, Fault, Selection};
use crate::harness::{wait_until, with_deadline};
use crate::reference;

/// Asserts that the lines of the parts are those of `expected`, each in one part, in the same order there.
#[track_caller]
fn assert_parts_of(directory: &Path, expected: &[u8]) {
    let lines: Vec<&[u8]> = expected.split_inclusive(|byte| *byte == b'\n').collect();
    let place: std::collections::HashMap<_, _> =
        lines.iter().zip(0..).map(|(line, at)| (*line, at)).collect();
    let mut seen = BTreeSet::new();
    for name in names(directory) {
        let part = fs::read(directory.join(&name)).expect("a part");
        let places: Vec<usize> = part
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| *place.get(line).unwrap_or_else(|| panic!("{name}: {}", line.escape_ascii())))
            .collect();
        assert!(places.is_sorted(), "{name} is not in order");
        assert!(places.into_iter().all(|place| seen.insert(place)), "{name} has what another part has");
    }
    assert_eq!(seen.len(), lines.len(), "not all of it is there");
}

#[test]
fn each_worker_gives_a_part() {
    with_deadline(LIMIT, || {
        let text = text();
        let expected = reference::word_count(&[&text], Tokens::Word, false);
        for (workers, parts) in [(0, 1), (1, 1), (4, 4)] {
            let bench = Bench::start(workers, &text);
            bench.run(&["--partitioned", "out", "--report", "report.json"]).expect_code(0);
            let wanted: Vec<String> = (0..parts).map(|n| format!("part-{n:05}.tsv")).collect();
            assert_eq!(names(&bench.path("out")), wanted);
            assert_parts_of(&bench.path("out"), &expected);
            let report: serde_json::Value = serde_json::from_slice(&bench.read("report.json")).expect("JSON");
            assert_eq!(report["output_bytes"].as_u64(), Some(expected.len() as u64));
            assert_eq!(report["output_entries"], report["distinct_keys"]);
            bench.run(&["--partitioned", "more", "--format", "csv", "--min-count", "2"]).expect_code(0);
            for name in names(&bench.path("more")) {
                assert!(name.ends_with(".csv"), "{name}");
                let part = bench.read(&format!("more/{name}"));
                assert!(part.starts_with(b"word,count\r\n"), "{name}");
            }
            assert!(!names(&bench.lab.client_dir()).iter().any(|name| name.ends_with(".part")));
        }
    });
}

#[test]
fn a_directory_must_be_new_or_empty() {
    let bench = Bench::start(0, b"a b a");
    let refused = |directory: &str, why: &str| {
        let said = bench.run(&["--partitioned", directory]).expect_code(1).stderr;
        assert!(said.contains(&format!("error: {directory}: {why}")), "{said}");
    };
    fs::create_dir(bench.path("full")).expect("a directory");
    fs::write(bench.path("full/kept"), "kept").expect("a file");
    refused("full", "is not empty");
    refused("text.txt", "is not a directory");
    refused("no/out", "cannot be created");
    assert_eq!(bench.read("full/kept"), b"kept");

    fs::create_dir(bench.path("empty")).expect("a directory");
    fs::set_permissions(bench.path("empty"), Permissions::from_mode(0o750)).expect("it is ours");
    bench.run(&["--partitioned", "empty/"]).expect_code(0);
    assert_eq!(bench.read("empty/part-00000.tsv"), b"a\t2\nb\t1\n");
    let mode = |name: &str| fs::metadata(bench.path(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode("empty"), 0o750);
    bench.run(&["--partitioned", "new", "--format", "json"]).expect_code(0);
    assert_eq!(names(&bench.path("new")), ["part-00000.jsonl"]);
    fs::create_dir(bench.path("usual")).expect("a directory");
    assert_eq!(mode("new"), mode("usual"));
}

#[test]
fn what_has_no_parts_is_refused() {
    let bench = Bench::start(0, b"a b a");
    for args in [["--top", "1"], ["-o", "out.tsv"]] {
        let said = bench.run(&[&["--partitioned", "out"], &args[..]].concat()).expect_code(2).stderr;
        assert!(said.contains("cannot be used with"), "{said}");
    }
    assert!(!bench.path("out").exists());
}

/// A job that fails leaves the directory as it was.
#[test]
fn a_failed_run_leaves_nothing() {
    let bench = Bench::start(0, b"a b a");
    fs::create_dir(bench.path("empty")).expect("a directory");
    let before = names(&bench.lab.client_dir());
    for directory in ["empty", "out"] {
        bench.run(&["no-such-file", "--partitioned", directory]).expect_code(1);
    }
    assert_eq!(names(&bench.lab.client_dir()), before);
    assert!(names(&bench.path("empty")).is_empty());
}

/// The survivors own other partitions than before, so that all parts are written anew.
#[test]
fn a_worker_lost_in_the_merge_changes_the_parts_but_not_the_whole() {
    with_deadline(LIMIT, || {
        let text: Vec<u8> = (0..600_000u32).flat_map(|n| format!("w{n} ").into_bytes()).collect();
        let counted = reference::word_count(&[&text], Tokens::Word, false);
        let set_up = |setup: crate::harness::workers::WorkerSetup<'static>, index| match index {
            1 => setup.hold(Phase::Merge).proxied(),
            _ => setup,
        };
        let stage = Stage::set(3, set_up).about_counted(&text, counted);
        let task = Task { partitioned: true, split_size: Some(200_000), ..stage.hasty_task() };
        let job = stage.begin(&task);
        let worker = &stage.workers[1];
        worker.await_held();
        worker.proxy().inject(Fault::Quota(Direction::FromWorker, 300_000), Selection::client());
        worker.release();
        let has_begun = || {
            let entries = fs::read_dir(stage.directory.path()).expect("it is there").flatten();
            let mut places =
                entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".output."));
            places.any(|place| fs::read_dir(place.path()).is_ok_and(|parts| parts.count() > 1))
        };
        wait_until(LIMIT, "parts to be written", || stage.output().exists() || has_begun());
        signal(worker.child.id(), Signal::KILL);
        let told = stage.well(job);
        assert_eq!(stage.lost(&told, 1), Phase::Merge);
        stage.assert_tidy();
        assert_eq!(names(&stage.output()), ["part-00000.tsv", "part-00001.tsv"]);
        assert_parts_of(&stage.output(), stage.expected());
        assert_eq!(told.figure("output_bytes"), stage.expected().len() as u64);
        assert_eq!(told.figure("output_entries"), told.figure("distinct_keys"));
        assert_eq!(told.figure("epochs"), 2);
    });
}

/// Ctrl-C while the parts are being written.
#[test]
fn an_interrupted_merge_leaves_nothing() {
    with_deadline(LIMIT, || {
        let hold = |setup: crate::harness::workers::WorkerSetup<'static>, index| match index {
            1 => setup.hold(Phase::Merge),
            _ => setup,
        };
        let stage = Stage::set(2, hold);
        let job = stage.begin_held(&Task { partitioned: true, ..stage.task() }, &[1]);
        signal(job.pid(), Signal::INT);
        stage.ended(job, 130);
    });
}
