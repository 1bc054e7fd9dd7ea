//! Clients: clients of the held word count that can be killed, each a process of its own: this test binary, run again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mapreduce::cmd::cli::{Console, Exit};
use mapreduce::cmd::run::{RunOptions, Workers, run};
use mapreduce::edge::output::{Destination, Format};
use mapreduce::edge::signals;
use serde::{Deserialize, Serialize};

use super::held::{HeldCount, HeldParams};
use super::is_child;
use super::program::{Finished, Invocation};
use super::workers::{PATIENCE, WorkerProcess, addresses, run_options};

/// The variable of a client's process: its task, in JSON.
const TASK: &str = "HELD_TASK";

/// Exit codes: of a job that failed, and of one that did not.
pub const FAILED: i32 = Exit::Failure as i32;
pub const DONE: i32 = 0;

/// What the test runner says on standard output before a result.
const PREAMBLE: &[u8] = b"running 1 test\n";

/// What a client is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub workers: Vec<String>,
    pub input: PathBuf,
    /// Standard output if `None`.
    pub output: Option<PathBuf>,
    pub report: Option<PathBuf>,
    pub servers: Option<usize>,
    pub timeout: Duration,
    pub backups: bool,
    pub top: Option<usize>,
    pub min_count: Option<u64>,
    /// Whether the output is a directory of parts.
    pub partitioned: bool,
    /// That of the usual options if `None`.
    pub split_size: Option<u64>,
    /// `tsv`, `csv`, `json` or `parquet`.
    pub format: String,
}

impl Task {
    /// Counts the words of `input` on the workers at `workers`, with a file as output.
    pub fn new(workers: Vec<String>, input: &Path, output: &Path) -> Self {
        Self {
            workers,
            input: input.to_owned(),
            output: Some(output.to_owned()),
            report: None,
            servers: None,
            timeout: PATIENCE,
            backups: true,
            top: None,
            min_count: None,
            partitioned: false,
            split_size: None,
            format: "tsv".to_owned(),
        }
    }

    /// A client with this task, to be spawned; spawned inside `Network::enter`, it runs on that host. It says its
    /// milestones, and why its job failed, on standard error.
    pub fn client(&self) -> Invocation {
        let program = std::env::current_exe().expect("own path");
        // Of one thread, the runner would say more.
        let args = ["--exact", "harness::clients::client_process", "--nocapture", "--test-threads=2"];
        Invocation::of(&program, &args)
            .env("MAPREDUCE_TEST_CHILD", "1")
            .env(TASK, serde_json::to_string(self).expect("a task has a JSON form"))
    }

    fn options(&self) -> RunOptions {
        let output = self.output.clone().unwrap_or_default();
        let usual = run_options(&[], &self.input, &output);
        RunOptions {
            workers: Workers::Named(self.workers.clone()),
            servers: self.servers,
            top: self.top,
            min_count: self.min_count,
            destination: match self.output.clone() {
                Some(output) if self.partitioned => Destination::Directory(output),
                Some(output) => Destination::File(output),
                None => Destination::Stdout,
            },
            format: match self.format.as_str() {
                "csv" => Format::Csv,
                "json" => Format::Json,
                "parquet" => Format::Parquet,
                _ => Format::Tsv,
            },
            report: self.report.clone(),
            worker_timeout: self.timeout,
            backups: self.backups,
            split_size: self.split_size.or(usual.split_size),
            ..usual
        }
    }
}

/// A client that counts the words of `input` on `workers`, without backups, so that one that is held is waited for; see
/// [`Task::client`].
pub fn client(workers: &[WorkerProcess], input: &Path, output: &Path) -> Invocation {
    let task = Task { backups: false, ..Task::new(addresses(workers), input, output) };
    task.client()
}

/// What a client whose output is standard output has written there.
pub fn result_on_stdout(finished: &Finished) -> &[u8] {
    let stdout = &finished.stdout_bytes;
    let at = stdout.windows(PREAMBLE.len()).position(|window| window == PREAMBLE);
    &stdout[at.expect("the test runner says what it runs") + PREAMBLE.len()..]
}

/// Not a test: what a client's process runs.
#[test]
fn client_process() {
    let Ok(task) = std::env::var(TASK) else { return };
    if !is_child() {
        return;
    }
    let task: Task = serde_json::from_str(&task).expect("the test says what to do");
    signals::listen().expect("handlers can be set");
    let console = Console { quiet: false, verbose: false, fancy: false };
    let ran = run::<HeldCount>(&task.options(), HeldParams::default(), &console);
    std::process::exit(match ran {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("{:#}", error.cause);
            error.exit.code().into()
        }
    });
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use mapreduce::logic::coordinator::Phase;
    use mapreduce::logic::tokenize::Tokens;
    use rustix::process::Signal;

    use super::*;
    use crate::harness::processes::signal;
    use crate::harness::workers::text;
    use crate::harness::{wait_until, with_deadline};
    use crate::reference;

    #[test]
    fn client_can_be_killed_and_another_one_finishes() {
        with_deadline(Duration::from_secs(60), || {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let (input, output) = (directory.path().join("input"), directory.path().join("output"));
            fs::write(&input, text()).expect("it is writable");
            let start = |index, hold| WorkerProcess::start(directory.path(), index, hold);
            let workers = [start(0, None), start(1, Some(Phase::Map))];
            let first = client(&workers, &input, &output).spawn();
            workers[1].await_held();
            signal(first.pid(), Signal::KILL);
            assert_eq!(first.wait().code, None);
            workers[1].release();
            let ended = || workers.iter().all(|worker| worker.running_jobs() == 0);
            wait_until(Duration::from_secs(20), "the job to be dropped", ended);
            client(&workers, &input, &output).run().expect_code(DONE);
            let result = fs::read(&output).expect("there is a result");
            assert!(result == reference::word_count(&[&text()], Tokens::Word, false), "it is not exact");
            drop(workers);
            let failed = client(&[start(2, None)], Path::new("/nowhere"), &output).run().expect_code(FAILED);
            assert!(failed.stderr.contains("/nowhere"), "{}", failed.stderr);
        });
    }
}
