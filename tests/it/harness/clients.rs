//! Clients: clients of the held word count that can be killed, each a process of its own: this test binary, run again.

use std::path::Path;

use mapreduce::cmd::cli::Console;
use mapreduce::cmd::run::{Workers, run};

use super::held::{HeldCount, NoParams};
use super::is_child;
use super::program::Invocation;
use super::workers::{WorkerProcess, addresses, run_options};

/// Variables of a client's process: the workers, the input and the output.
const WORKERS: &str = "HELD_WORKERS";
const INPUT: &str = "HELD_INPUT";
const OUTPUT: &str = "HELD_OUTPUT";

/// Exit codes: of a job that failed, and of one that did not.
pub const FAILED: i32 = 7;
pub const DONE: i32 = 0;

/// A client that counts the words of `input` on `workers`, to be spawned; spawned inside `Network::enter`, it runs on
/// that host. It says its milestones, and why its job failed, on standard error.
pub fn client(workers: &[WorkerProcess], input: &Path, output: &Path) -> Invocation {
    let program = std::env::current_exe().expect("own path");
    Invocation::of(&program, &["--exact", "harness::clients::client_process", "--nocapture"])
        .env("MAPREDUCE_TEST_CHILD", "1")
        .env(WORKERS, addresses(workers).join(","))
        .env(INPUT, input)
        .env(OUTPUT, output)
}

/// Not a test: what a client's process runs.
#[test]
fn client_process() {
    let Ok(workers) = std::env::var(WORKERS) else { return };
    if !is_child() {
        return;
    }
    let path = |name| std::env::var_os(name).expect("the test says where");
    let (input, output) = (path(INPUT), path(OUTPUT));
    let mut options = run_options(&[], Path::new(&input), Path::new(&output));
    options.workers = Workers::Named(workers.split(',').map(str::to_owned).collect());
    let console = Console { quiet: false, verbose: false, fancy: false };
    let ran = run::<HeldCount>(&options, NoParams {}, &console);
    std::process::exit(match ran {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("{:#}", error.cause);
            FAILED
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
