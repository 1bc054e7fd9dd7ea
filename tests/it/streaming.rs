//! Streaming: any command is a job, and its result is that of the pipe `map | sort | reduce`, wherever it is executed.

mod exact;
mod faults;
mod trust;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::processes;
use crate::harness::program::{Finished, Invocation};
use crate::harness::served::{Served, list};
use crate::harness::{Lab, entries, wait_until};

/// For a test, on a machine under load.
const LIMIT: Duration = Duration::from_secs(240);

/// How soon what is over has ended.
const SOON: Duration = Duration::from_secs(20);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

/// Writes each word with a one.
const WORDS: &str = r"#!/usr/bin/env python3
import re, sys
out = sys.stdout.buffer
for line in sys.stdin.buffer:
    for word in re.findall(rb'\w+', line):
        out.write(word + b'\t1\n')
";

/// Adds up what stands behind each key.
const SUM: &str = r"#!/usr/bin/env python3
import itertools, sys
pairs = (line.rstrip(b'\n').split(b'\t') for line in sys.stdin.buffer)
for key, group in itertools.groupby(pairs, lambda pair: pair[0]):
    sys.stdout.buffer.write(key + b'\t%d\n' % sum(int(pair[1]) for pair in group))
";

/// The same in awk.
const AWK_WORDS: &str = r#"awk '{ for (i = 1; i <= NF; i++) print $i "\t" 1 }'"#;
const AWK_SUM: &str = r#"awk -F '\t' '{ n[$1] += $2 } END { for (key in n) print key "\t" n[key] }'"#;

/// A client and workers, which run commands for it, for it has the same identity.
struct Bench {
    workers: Vec<Served>,
    lab: Lab,
}

impl Bench {
    /// Starts so many workers; without any, jobs run in-process.
    fn start(n: usize) -> Bench {
        Self::with(n, &[])
    }

    /// Starts workers with more arguments.
    fn with(n: usize, args: &[&str]) -> Bench {
        let lab = Lab::start(0);
        fs::create_dir(lab.root().join("tmp")).expect("the lab's directory is ours");
        lab.mapreduce(&["identity", "lab.identity"]).expect_code(0);
        let serve = ["serve", "--port", "0", "--threads", "2", "--identity", "lab.identity"];
        let serve = [&serve[..], args].concat();
        let start = |_| Served::start(lab.invocation(&serve).env("TMPDIR", lab.root().join("tmp")));
        let workers = (0..n).map(start).collect();
        let bench = Bench { workers, lab };
        bench.write("words.py", WORDS.as_bytes(), 0o755);
        bench.write("sum.py", SUM.as_bytes(), 0o755);
        bench.write("book.txt", BOOK, 0o644);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.client_dir().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) {
        fs::write(self.path(name), bytes).expect("the client's directory is ours");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    /// A `run` with `args` over all workers, or in-process where there are none.
    fn invocation(&self, args: &[&str]) -> Invocation {
        let workers = list(&self.workers);
        let place = match self.workers.is_empty() {
            true => &["--local", "--threads", "3"][..],
            false => &["--workers", &workers, "--identity", "lab.identity"],
        };
        let args = [&["run"], args, place].concat();
        self.lab.invocation(&args).env("TMPDIR", self.lab.root().join("tmp")).deadline(LIMIT / 2)
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.invocation(args).run()
    }

    /// Waits until nothing of a job is left on any worker: no process but their own, and no directory.
    fn await_nothing(&self) {
        wait_until(SOON, "the end of all commands and their directories", || {
            let workers: Vec<u32> = self.workers.iter().map(|worker| worker.pid()).collect();
            let all = processes::marked(self.lab.root());
            entries(&self.lab.root().join("tmp")).is_empty()
                && all.iter().all(|process| workers.contains(&process.pid))
        });
    }

    /// What `map | LC_ALL=C sort | reduce | LC_ALL=C sort` writes.
    fn pipe(&self, map: &str, reduce: &str, text: &[u8]) -> Vec<u8> {
        pipe(&self.lab.client_dir(), &format!("({map}) | LC_ALL=C sort | ({reduce}) | LC_ALL=C sort"), text)
    }
}

/// Runs a line of shell over a text.
fn pipe(directory: &Path, line: &str, text: &[u8]) -> Vec<u8> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().expect("there is a shell");
    let mut stdin = shell.stdin.take().expect("it is a pipe");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(text));
        shell.wait_with_output().expect("it is ours")
    });
    assert!(output.status.success(), "{line}");
    output.stdout
}
