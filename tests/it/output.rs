//! Output: results come whole, in the form asked for, and nothing else is on standard output.

mod counts;
mod packed;
mod parquet;
mod parted;
mod values;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mapreduce::edge::output::{Destination, Format, open};
use mapreduce::job::Job;
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::runtime::source::{Output, Sink};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Lab;
use crate::harness::program::{Finished, Invocation};
use crate::harness::served::{Served, list};

const TEXT: &str = "the cat, the dog\nthe cat\n";

fn in_directory(directory: &Path, args: &[&str]) -> Finished {
    fs::write(directory.join("text.txt"), TEXT).expect("a file");
    Invocation::new(&[&["run", "--local", "text.txt"], args].concat())
        .current_dir(directory)
        .deadline(Duration::from_secs(30))
        .run()
}

/// Workers on loopback, and a client with a text.
struct Bench {
    workers: Vec<Served>,
    lab: Lab,
}

impl Bench {
    fn start(n: usize, text: &[u8]) -> Bench {
        let lab = Lab::start(0);
        let serve = |_| Served::start(lab.invocation(&["serve", "--port", "0", "--threads", "2"]));
        let workers = (0..n).map(serve).collect();
        fs::write(lab.client_dir().join("text.txt"), text).expect("a file");
        Bench { workers, lab }
    }

    /// A `run` over all workers, or on this machine where there are none.
    fn run(&self, args: &[&str]) -> Finished {
        let workers = list(&self.workers);
        let place = if self.workers.is_empty() { &["--local"][..] } else { &["--workers", &workers] };
        let given = ["run", "text.txt", "--split-size", "100k"];
        self.lab.invocation(&[&given, place, args].concat()).deadline(Duration::from_secs(60)).run()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.client_dir().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("it is written")
    }
}

/// A text of 40,000 different words, some of which are frequent.
fn text() -> Vec<u8> {
    (0..100_000u32).flat_map(|n| format!("w{} ", if n % 5 < 3 { n % 100 } else { n }).into_bytes()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn standard_output_has_results_only() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (args, expected) in [
        (&[][..], "the\t3\ncat\t2\ndog\t1\n"),
        (&["-q"], "the\t3\ncat\t2\ndog\t1\n"),
        (&["-v"], "the\t3\ncat\t2\ndog\t1\n"),
        (&["--top", "1"], "the\t3\n"),
        (&["--tokens", "whitespace"], "the\t3\ncat\t1\ncat,\t1\ndog\t1\n"),
        (
            &["--format", "csv", "--tokens", "whitespace"],
            "word,count\r\nthe,3\r\ncat,1\r\n\"cat,\",1\r\ndog,1\r\n",
        ),
        (&["--format", "json", "--top", "1"], "{\"word\":\"the\",\"count\":3}\n"),
    ] {
        let done = in_directory(directory.path(), args).expect_code(0);
        assert_eq!(done.stdout, expected, "{args:?}");
        assert!(!done.stderr.contains('\x1b'), "{:?}", done.stderr);
        assert_eq!(done.stderr.is_empty(), args.contains(&"-q"), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn format_follows_the_name_of_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, start) in
        [("out.tsv", "the\t3\n"), ("out.csv", "word,count\r\n"), ("out.jsonl", "{\"word\":\"the\"")]
    {
        let done = in_directory(directory.path(), &["-o", name]).expect_code(0);
        assert_eq!(done.stdout, "");
        let text = fs::read_to_string(directory.path().join(name)).expect("the result");
        assert!(text.starts_with(start), "{name}: {text}");
    }
    in_directory(directory.path(), &["-o", "out.csv", "--format", "tsv"]).expect_code(0);
    assert!(
        fs::read_to_string(directory.path().join("out.csv")).expect("the result").starts_with("the\t3\n")
    );
    assert_eq!(names(directory.path()), ["out.csv", "out.jsonl", "out.tsv", "text.txt"]);
}

#[test]
fn report_is_json() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    in_directory(directory.path(), &["--report", "report.json"]).expect_code(0);
    let text = fs::read_to_string(directory.path().join("report.json")).expect("the report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["pairs"], &report["distinct_keys"]), (&6.into(), &3.into()), "{text}");
    assert_eq!(report["phases"].as_array().map(Vec::len), Some(5), "{text}");
    assert_eq!(report["losses"].as_array().map(Vec::len), Some(0), "{text}");
    let counts = ["executions", "reexecuted_splits", "backups_started", "backups_won", "epochs"];
    assert_eq!(counts.map(|name| report[name].as_u64()), [1, 0, 0, 0, 1].map(Some), "{text}");
}

#[test]
fn full_disk_is_an_error_that_names_the_output() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let failed = in_directory(directory.path(), &["-o", "/dev/full"]).expect_code(1);
    assert!(failed.stderr.contains("error: ") && failed.stderr.contains("/dev/full"), "{}", failed.stderr);
    let failed = in_directory(directory.path(), &["-o", "no/out.tsv"]).expect_code(1);
    assert!(failed.stderr.contains("no/out.tsv"), "{}", failed.stderr);
    let failed = in_directory(directory.path(), &["-o", "."]).expect_code(1);
    assert!(failed.stderr.contains("is a directory"), "{}", failed.stderr);
}

/// An input that cannot be read ends the run before anything has its name.
#[test]
fn failed_run_leaves_no_file_and_keeps_the_old_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("old.tsv"), "old").expect("a file");
    for name in ["new.tsv", "old.tsv"] {
        in_directory(directory.path(), &["no-such-file", "-o", name]).expect_code(1);
    }
    assert_eq!(names(directory.path()), ["old.tsv", "text.txt"]);
    assert_eq!(fs::read_to_string(directory.path().join("old.tsv")).expect("there"), "old");
}

/// What cannot be written is named before the run, and by root, too.
#[test]
fn place_that_nobody_may_write_to_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for args in [["-o", "/sys/out.tsv"], ["--partitioned", "/sys/out"]] {
        let failed = in_directory(directory.path(), &args).expect_code(1);
        let named = format!("error: {}", args[1]);
        assert!(failed.stderr.contains(&named), "{}", failed.stderr);
        assert!(failed.stdout.is_empty() && !failed.stderr.contains(".part"), "{}", failed.stderr);
    }
}

/// `run ... | head` is no failure.
#[test]
fn reader_that_leaves_ends_the_run_quietly() {
    ["tsv", "csv", "json"].into_iter().for_each(leave_early);
}

fn leave_early(format: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // More than any pipe holds.
    let text: String = (0..300_000).map(|number| format!("word{number}\n")).collect();
    fs::write(directory.path().join("many.txt"), text).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mapreduce"))
        .args(["run", "--local", "-q", "many.txt", "--format", format])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut first = [0; 5];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("a first line");
    let status = wait(&mut child, Duration::from_secs(20));
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{format}");
}

/// Ctrl-C while the input is still coming: exit 130, and nothing is left.
#[test]
fn interrupted_run_leaves_no_file() {
    [["-o", "out.tsv"], ["-o", "out.csv.gz"], ["--partitioned", "out"]].iter().for_each(interrupt);
}

fn interrupt(output: &[&str; 2]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mapreduce"))
        .args([&["run", "--local", "-q", "-"], &output[..]].concat())
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let mut input = child.stdin.take().expect("a pipe");
    // More than a pipe holds: once it is written, the program is reading, and its signals are set.
    input.write_all(&b"some words\n".repeat(20_000)).expect("the program to read");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not zero");
    kill_process(pid, Signal::INT).expect("the program to be there");
    let status = wait(&mut child, Duration::from_secs(10));
    drop(input);
    assert_eq!(status.code(), Some(130));
    assert!(names(directory.path()).is_empty(), "{:?}", names(directory.path()));
}

/// Waits for `child` to end.
///
/// # Panics
/// If it has not within `limit`; it is ended then.
fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let begun = Instant::now();
    loop {
        match child.try_wait().expect("our child") {
            Some(status) => return status,
            None if begun.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it did not end within {limit:?}");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// What `run` writes to.
fn sink(path: &Path) -> Box<dyn Sink<u64>> {
    let job = Arc::new(WordCount::new(Params::default()).expect("the parameters are good"));
    match open(&Destination::File(path.to_owned()), Format::Tsv, &job).expect("a place to write to") {
        Output::Whole(sink) => sink,
        Output::Parted(_) => panic!("a file is one"),
    }
}

fn write(sink: &mut dyn Sink<u64>, key: &[u8], count: u64) {
    let mut rendered = Vec::new();
    sink.form().render(&[(key, &count)], &mut rendered).expect("a form");
    sink.write(&rendered).expect("room");
}

/// The sink that `run` writes to, dropped before its end, as an error or Ctrl-C does.
#[test]
fn sink_that_is_dropped_leaves_no_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("out.tsv");
    let mut sink = sink(&path);
    for number in 0..200_000u64 {
        write(sink.as_mut(), b"some word", number);
    }
    assert!(!path.exists() && names(directory.path()).len() == 1, "{:?}", names(directory.path()));
    drop(sink);
    assert!(names(directory.path()).is_empty(), "{:?}", names(directory.path()));
}

#[test]
fn sink_counts_the_bytes_it_wrote() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("out.tsv");
    let mut sink = sink(&path);
    let mut expected = String::new();
    for number in 0..100_000u64 {
        write(sink.as_mut(), format!("w{number}").as_bytes(), number);
        expected += &format!("w{number}\t{number}\n");
    }
    assert_eq!(sink.finish().expect("room"), expected.len() as u64);
    assert!(fs::read_to_string(&path).expect("the result") == expected, "the file differs");
}
