//! Jobs: what each job of the program finds is what standard tools find, or the obvious sequential code.
//!
//! In-process and on four real workers, in splits of many sizes.

mod archives;
mod params;
mod tables;
mod texts;

pub use params::Shipped;

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::program::Invocation;
use crate::harness::served::{Served, list};
use crate::harness::{Lab, tool, with_deadline};

const LIMIT: Duration = Duration::from_secs(120);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

/// A directory with files, and workers.
struct Bench {
    // They end before the lab, which sees to it that nothing is left.
    workers: Vec<Served>,
    lab: Lab,
}

impl Bench {
    fn new(files: &[(&str, &[u8])]) -> Bench {
        let lab = Lab::start(0);
        for (name, bytes) in files {
            fs::write(lab.client_dir().join(name), bytes).unwrap();
        }
        let serve = |_| Served::start(lab.invocation(&["serve", "--port", "0", "--threads", "2"]));
        let workers = (0..4).map(serve).collect();
        Bench { workers, lab }
    }

    /// Asserts that `run` with `args` gives `expected`, wherever it runs and however the input is cut.
    #[track_caller]
    fn assert_result(&self, args: &[&str], expected: &[u8]) {
        let workers = list(&self.workers);
        let over = ["--workers", &workers];
        for place in [&["--local"][..], &over] {
            for size in ["300B", "5KiB", "8MiB"] {
                let args = [&["run", "--quiet"], args, place, &["--split-size", size]].concat();
                let done = self.lab.invocation(&args).deadline(LIMIT).run().expect_code(0);
                let line = first_difference(&done.stdout_bytes, expected);
                assert!(line.is_none(), "{args:?}: {}", line.unwrap_or_default());
            }
        }
    }

    /// Returns what a shell script prints in the directory.
    fn shell(&self, script: &str) -> Vec<u8> {
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(self.lab.client_dir()).env("LC_ALL", "C");
        tool(&mut shell).into_bytes()
    }
}

/// Returns the first lines that differ, if any do.
fn first_difference(got: &[u8], expected: &[u8]) -> Option<String> {
    let lines = |bytes: &[u8]| -> Vec<String> {
        bytes.split(|&byte| byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    };
    if got == expected {
        return None;
    }
    let (got, expected) = (lines(got), lines(expected));
    let at = got.iter().zip(&expected).position(|(one, other)| one != other);
    let at = at.unwrap_or(got.len().min(expected.len()));
    Some(format!("line {}: {:?} is not {:?}", at + 1, got.get(at), expected.get(at)))
}

/// The word count by its name, and what there is beside it.
#[test]
fn jobs_are_listed_and_picked() {
    with_deadline(LIMIT, || {
        let program = |args: &[&str]| Invocation::new(args).run();
        let listed = program(&["run", "--job"]).expect_code(0).stdout;
        let names: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
        let expected = ["wordcount", "grep", "ngrams", "histogram", "inverted-index", "domains", "languages"];
        assert!(names.starts_with(&expected), "{listed}");
        for name in names {
            let help = program(&["run", "--job", name, "--help"]).expect_code(0).stdout;
            assert!(help.contains("--split-size"), "{help}");
        }
        let bench = Bench::new(&[("a.txt", b"b a\nb c\n")]);
        bench.assert_result(&["a.txt", "--job", "wordcount"], b"b\t2\na\t1\nc\t1\n");
        bench.assert_result(&["a.txt", "--job=inverted-index"], b"a\ta.txt\nb\ta.txt\nc\ta.txt\n");
    });
}
