//! Faults: whatever is lost, slow or cut on the way of a job, its result is exact, as long as one worker lives.

mod clients;
mod links;
mod losses;
mod merge;
mod namespaces;
mod poison;
mod soak;
mod spares;
pub mod stage;

use std::fs;
use std::time::{Duration, Instant};

use mapreduce::cmd::cli::Console;
use mapreduce::cmd::run::{RunOptions, run};
use mapreduce::edge::net::{self, Wire};
use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::Tokens;
use mapreduce::wire::message::Role;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::held::{HeldCount, HeldParams};
use crate::harness::processes::signal;
use crate::harness::with_deadline;
use crate::harness::workers::{PATIENCE, WorkerProcess, await_file, run_options, run_over, text};
use crate::reference;

fn await_no_job(workers: &[WorkerProcess]) {
    let started = Instant::now();
    while workers.iter().any(|worker| worker.running_jobs() > 0) {
        assert!(started.elapsed() < PATIENCE * 3, "a worker keeps a job that is over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(directory: &TempDir, holds: [Option<Phase>; 3]) -> Vec<WorkerProcess> {
    let start = |(index, hold)| WorkerProcess::start(directory.path(), index, hold);
    holds.into_iter().enumerate().map(start).collect()
}

/// A worker that computes for long is not taken for dead, neither by the client nor by its peers: it beats meanwhile.
#[test]
fn slow_is_not_dead() {
    with_deadline(Duration::from_secs(120), || [Phase::Shuffle, Phase::Reduce].into_iter().for_each(slow_in));
}

fn slow_in(phase: Phase) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("input"), directory.path().join("output"));
    fs::write(&input, text()).expect("it is writable");
    let workers = start(&directory, [None, Some(phase), None]);
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| run_over(&workers, &input, &output));
        await_file(&workers[1].held);
        std::thread::sleep(PATIENCE * 2);
        assert!(!ran.is_finished(), "the run ended in {phase} though all its workers beat");
        workers[1].release();
        ran.join().expect("no panic").map_err(|error| error.cause).expect("nobody is lost");
    });
}

/// A worker that was greeted waits for its job while the client waits for others, which may take two time-outs of 5 s.
#[test]
fn greeted_worker_waits_for_its_job() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workers = start(&directory, [None, None, None]);
        let (mut connection, _) =
            net::reach(workers[0].address, &Wire::by_hand(), "", Role::Client, PATIENCE)
                .expect("the worker is well");
        connection.control.set_deadline(PATIENCE).expect("the connection is open");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(11) {
            // It beats, so that the client sees that it is there.
            let read = connection.reader.read(&mut [0; 64]).expect("the worker beats");
            assert!(read > 0, "the worker went away");
        }
    });
}

/// With `--servers`, as many as answer are enough: nobody waits for one that is frozen.
#[test]
fn frozen_worker_does_not_hold_up_a_run_on_the_others() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (input, output) = (directory.path().join("input"), directory.path().join("output"));
        let text = text();
        fs::write(&input, &text).expect("it is writable");
        let workers = start(&directory, [None, None, None]);
        signal(workers[0].child.id(), Signal::STOP);
        let worker_timeout = Duration::from_secs(10);
        let options =
            RunOptions { servers: Some(2), worker_timeout, ..run_options(&workers, &input, &output) };
        let began = Instant::now();
        let console = Console { quiet: true, verbose: false, fancy: false };
        run::<HeldCount>(&options, HeldParams::default(), &console)
            .map_err(|error| error.cause)
            .expect("two are well");
        assert!(began.elapsed() < Duration::from_secs(5), "waited for the frozen one: {:?}", began.elapsed());
        assert!(
            fs::read(&output).expect("there is a result")
                == reference::word_count(&[&text], Tokens::Word, false)
        );
    });
}

/// A job that panics where the input is to be cut, on the client, ends with its words, not in a wait.
#[test]
fn a_panic_where_the_input_is_cut_is_told() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (input, output) = (directory.path().join("input"), directory.path().join("output"));
        fs::write(&input, "a b\n".repeat(20_000)).expect("it is writable");
        let workers = start(&directory, [None, None, None]);
        let console = Console { quiet: true, verbose: false, fancy: false };
        let params = HeldParams { bears_no_cut: true };
        let ran = run::<HeldCount>(&run_options(&workers, &input, &output), params, &console);
        let error = ran.expect_err("the input cannot be cut");
        let said = format!("{:#}", error.cause);
        assert!(said.contains("a cut that this job does not bear"), "{said}");
        assert!(!output.exists());
        await_no_job(&workers);
    });
}
