//! Tests of the workers themselves: that they stand still where they are to, go on, and are reached as they are to be.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::Tokens;
use tempfile::TempDir;

use super::{WorkerProcess, WorkerSetup, run_over, text};
use crate::harness::clients::{DONE, client};
use crate::harness::netns::Network;
use crate::harness::proxy::{Direction, Selection};
use crate::harness::with_deadline;
use crate::reference;

const LIMIT: Duration = Duration::from_secs(60);

/// Three workers, each as `set_up` has it by its number.
fn three<'n>(
    directory: &TempDir,
    set_up: impl Fn(WorkerSetup<'n>, usize) -> WorkerSetup<'n>,
) -> Vec<WorkerProcess> {
    (0..3).map(|index| set_up(WorkerSetup::new(directory.path(), index), index).start()).collect()
}

/// Runs a job on `workers`, does `meanwhile`, and compares the result with the sequential one.
fn assert_exact(directory: &Path, workers: &[WorkerProcess], meanwhile: impl FnOnce()) {
    let (input, output) = (directory.join("input"), directory.join("output"));
    fs::write(&input, text()).expect("it is writable");
    let ran = std::thread::scope(|scope| {
        let ran = scope.spawn(|| run_over(workers, &input, &output));
        meanwhile();
        ran.join().expect("no panic")
    });
    ran.map_err(|error| error.cause).expect("nothing is wrong with it");
    let result = fs::read(&output).expect("there is a result");
    assert!(result == reference::word_count(&[&text()], Tokens::Word, false), "the result is not exact");
}

#[test]
fn what_is_released_goes_on_in_every_phase() {
    with_deadline(LIMIT * 2, || {
        for phase in Phase::ALL {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let workers =
                three(&directory, |setup, index| if index == 1 { setup.hold(phase) } else { setup });
            assert_exact(directory.path(), &workers, || {
                workers[1].await_held();
                std::thread::sleep(Duration::from_millis(100));
                assert!(!directory.path().join("output").exists(), "the job ended though {phase} is held");
                workers[1].release();
            });
        }
    });
}

#[test]
fn hold_can_come_after_some_splits() {
    with_deadline(LIMIT, || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workers = three(&directory, |setup, index| match index {
            1 => setup.hold(Phase::Map).after(5).proxied(),
            // The others leave something to do.
            _ => setup.slow(Duration::from_secs(5)),
        });
        assert_exact(directory.path(), &workers, || {
            workers[1].await_held();
            let proxy = workers[1].proxy();
            // Each split is some 10 kB of text, unpacked, and answered.
            proxy.await_moved(Selection::client(), Direction::ToWorker, 50_000, LIMIT);
            workers[1].release();
        });
    });
}

#[test]
fn slow_worker_is_slow() {
    with_deadline(LIMIT, || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let worker = WorkerSetup::new(directory.path(), 0).slow(Duration::from_secs(2)).start();
        let began = Instant::now();
        assert_exact(directory.path(), &[worker], || {});
        // 0.6 MB on two threads.
        assert!(began.elapsed() > Duration::from_millis(500), "in {:?}", began.elapsed());
    });
}

/// All that is said to a worker, by its client and by its peers, is said through its proxy.
#[test]
fn proxies_see_the_client_and_all_peers() {
    with_deadline(LIMIT, || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workers = three(&directory, |setup, _| setup.proxied());
        assert_exact(directory.path(), &workers, || {});
        for (index, worker) in workers.iter().enumerate() {
            let seen = |selection| worker.proxy().passages(selection).len();
            assert_eq!(seen(Selection::client()), 1);
            let peers = [0, 1, 2].map(|source| seen(Selection::peer(source)));
            let all_others = [0, 1, 2].map(|source| usize::from(source != index));
            assert_eq!(peers, all_others, "before worker {index}");
        }
    });
}

#[test]
fn worker_goes_when_its_test_does() {
    with_deadline(LIMIT, || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut worker = WorkerProcess::start(directory.path(), 0, None);
        // As the kernel does for a test that was killed.
        drop(worker.child.stdin.take());
        assert_eq!(worker.child.wait().expect("it is ours").code(), Some(1));
    });
}

#[test]
fn workers_run_on_hosts_of_their_own() {
    with_deadline(LIMIT, || {
        let Some(network) = Network::start(4) else { return };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workers = three(&directory, |setup, index| {
            let setup = setup.inside(&network, index + 1);
            if index == 0 { setup.proxied() } else { setup }
        });
        network.enter(0, || assert_exact(directory.path(), &workers, || {}));
        assert_eq!(workers[0].proxy().passages(Selection::peers()).len(), 2);
        // A client that is a process of its own is where it was spawned.
        let [input, output] = ["input", "again"].map(|name| directory.path().join(name));
        network.enter(0, || client(&workers, &input, &output).spawn()).wait().expect_code(DONE);
        assert!(
            fs::read(output).expect("there is a result")
                == reference::word_count(&[&text()], Tokens::Word, false)
        );
    });
}
