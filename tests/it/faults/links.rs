//! Links: what befalls connections, before the workers or between two of them, ends right and exact.

use std::time::Duration;

use mapreduce::logic::coordinator::Phase;

use super::stage::{LIMIT, Stage, Told, in_each_phase};
use crate::harness::clients::Task;
use crate::harness::proxy::{Direction, Fault, Selection};
use crate::harness::with_deadline;
use crate::harness::workers::WorkerSetup;

/// Cuts the client's link of a worker that stands still in `phase`, which then goes on, as far as it can.
fn cut_from_client(phase: Phase, fault: Fault) -> Option<Phase> {
    let stage = Stage::set(3, |setup, index| match index {
        1 => setup.hold(phase).proxied(),
        _ => setup,
    });
    let job = stage.begin_held(&stage.hasty_task(), &[1]);
    let cut = &stage.workers[1];
    cut.proxy().inject(fault, Selection::client());
    cut.release();
    let told = stage.exact(job);
    let lost_in = (!told.losses().is_empty()).then(|| stage.lost(&told, 1));
    stage.await_idle(&[0, 1, 2]);
    cut.proxy().heal();
    stage.assert_usable(&[0, 1, 2]);
    lost_in
}

#[test]
fn client_link_dropped() {
    in_each_phase(|phase| {
        assert_eq!(cut_from_client(phase, Fault::Blackhole(Direction::Both)), Some(phase));
    });
}

#[test]
fn client_link_dropped_on_the_way_back() {
    in_each_phase(|phase| {
        assert_eq!(cut_from_client(phase, Fault::Blackhole(Direction::FromWorker)), Some(phase));
    });
}

/// The worker hears nothing any more, and is heard: it gives up the job, and says so. What it has been told already it
/// does, and in the merge that is all.
#[test]
fn client_link_dropped_on_the_way_there() {
    in_each_phase(|phase| {
        let lost_in = cut_from_client(phase, Fault::Blackhole(Direction::ToWorker));
        assert!(phase == Phase::Merge || lost_in.is_some(), "it is not lost in {phase}");
    });
}

#[test]
fn client_link_reset() {
    in_each_phase(|phase| assert_eq!(cut_from_client(phase, Fault::Reset), Some(phase)));
}

#[test]
fn client_link_closed() {
    in_each_phase(|phase| assert_eq!(cut_from_client(phase, Fault::Close), Some(phase)));
}

/// Workers behind proxies.
fn proxied(n: usize) -> Stage<'static> {
    Stage::set(n, |setup: WorkerSetup<'static>, _| setup.proxied())
}

/// Has `fault` befall all streams between `one` and `others`, in these directions, from the beginning.
fn between(stage: &Stage<'_>, fault: Fault, one: u32, others: &[u32], is_mutual: bool) {
    for &other in others {
        stage.workers[one as usize].proxy().inject(fault, Selection::peer(other));
        if is_mutual {
            stage.workers[other as usize].proxy().inject(fault, Selection::peer(one));
        }
    }
}

/// Heals all links and checks that everybody takes the next job.
fn heal(stage: &Stage<'_>) {
    let all: Vec<usize> = (0..stage.workers.len()).collect();
    stage.workers.iter().for_each(|worker| worker.proxy().heal());
    stage.assert_usable(&all);
}

/// Checks that a peer is named with whom the one that was lost had no connection.
fn assert_accused(told: &Told) {
    assert!(told.stderr.contains(" cannot reach each other: "), "{}", told.stderr);
}

/// Cuts two workers off from each other, who both still reach the client and the third.
fn cut_pair(fault: Fault, is_mutual: bool) {
    let stage = proxied(3);
    between(&stage, fault, 0, &[1], is_mutual);
    let told = stage.exact(stage.begin(&stage.hasty_task()));
    let evicted: Vec<_> = told.losses().into_iter().map(|(worker, _)| worker).collect();
    assert_eq!(evicted.len(), 1, "{}", told.stderr);
    assert!(evicted[0] != stage.workers[2].address.to_string(), "the third is evicted: {}", told.stderr);
    assert_accused(&told);
    heal(&stage);
}

#[test]
fn pair_of_workers_cut() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            for fault in [Fault::Reset, Fault::Close, Fault::Blackhole(Direction::Both)] {
                scope.spawn(move || cut_pair(fault, true));
            }
            scope.spawn(|| cut_pair(Fault::Blackhole(Direction::ToWorker), true));
            scope.spawn(|| cut_pair(Fault::Blackhole(Direction::FromWorker), false));
            scope.spawn(|| cut_pair(Fault::Reset, false));
        });
    });
}

/// The one that most have trouble with is evicted, and nobody else.
#[test]
fn worker_cut_off_from_most_is_the_one_that_is_evicted() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            for fault in [Fault::Reset, Fault::Blackhole(Direction::Both)] {
                scope.spawn(move || {
                    let stage = proxied(4);
                    between(&stage, fault, 2, &[0, 1, 3], true);
                    let told = stage.exact(stage.begin(&stage.hasty_task()));
                    stage.assert_lost(&told, &[2]);
                    assert_accused(&told);
                    heal(&stage);
                });
            }
        });
    });
}

/// Streams that are there break in the middle, where new ones would do.
#[test]
fn streams_of_a_pair_break_once() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            for fault in [Fault::Reset, Fault::Close, Fault::Blackhole(Direction::Both)] {
                scope.spawn(move || {
                    let stage = Stage::set(3, |setup, index| match index {
                        0 => setup.hold(Phase::Shuffle).proxied(),
                        _ => setup.proxied(),
                    });
                    let job = stage.begin(&stage.hasty_task());
                    stage.workers[0].await_held();
                    let meant = Selection::peer(0);
                    stage.workers[1].proxy().await_connections(meant, 1, LIMIT);
                    stage.workers[1].proxy().inject(fault, meant.existing_only());
                    stage.workers[0].release();
                    let told = stage.exact(job);
                    assert_eq!(told.losses().len(), 1, "{}", told.stderr);
                    assert_accused(&told);
                    heal(&stage);
                });
            }
        });
    });
}

/// What is sent stops in its middle: a stream between peers, a split, a batch of the result.
#[test]
fn messages_stop_in_their_middle() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            scope.spawn(|| stop_in_the_middle(None, Selection::peer(0), Direction::ToWorker, 900));
            scope.spawn(|| {
                stop_in_the_middle(Some(Phase::Split), Selection::client(), Direction::ToWorker, 3000)
            });
            scope.spawn(|| {
                stop_in_the_middle(Some(Phase::Map), Selection::client(), Direction::ToWorker, 1000)
            });
            scope.spawn(|| {
                stop_in_the_middle(Some(Phase::Merge), Selection::client(), Direction::FromWorker, 700)
            });
        });
    });
}

fn stop_in_the_middle(phase: Option<Phase>, whose: Selection, direction: Direction, after: u64) {
    let stage = Stage::set(3, |setup, index| match (index, phase) {
        (1, Some(phase)) => setup.hold(phase).proxied(),
        _ => setup.proxied(),
    });
    let quota = Fault::Quota(direction, after);
    let worker = &stage.workers[1];
    if phase.is_none() {
        worker.proxy().inject(quota, whose);
    }
    let job = stage.begin(&stage.hasty_task());
    if phase.is_some() {
        worker.await_held();
        worker.proxy().inject(quota, whose);
        worker.release();
    }
    let told = stage.exact(job);
    assert_eq!(told.losses().len(), 1, "{}", told.stderr);
    heal(&stage);
}

/// A link that is slow is not lost, and neither is what is behind it.
#[test]
fn slow_link_is_not_lost() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            for backups in [false, true] {
                scope.spawn(move || {
                    let stage = proxied(3);
                    let fault = Fault::Rate(Direction::Both, 30_000);
                    stage.workers[1].proxy().inject(fault, Selection::all());
                    let task = Task { backups, timeout: Duration::from_secs(4), ..stage.task() };
                    let told = stage.exact(stage.begin(&task));
                    stage.assert_lost(&told, &[]);
                    heal(&stage);
                });
            }
        });
    });
}

/// A delay of what is said costs time, and nothing else.
#[test]
fn late_messages_are_not_lost() {
    with_deadline(LIMIT, || {
        let stage = proxied(3);
        let delays = [50, 200, 500].map(Duration::from_millis);
        for (worker, delay) in stage.workers.iter().zip(delays) {
            worker.proxy().inject(Fault::Delay(Direction::Both, delay), Selection::all());
        }
        let task = Task { backups: true, timeout: Duration::from_secs(4), ..stage.task() };
        let told = stage.exact(stage.begin(&task));
        stage.assert_lost(&told, &[]);
        heal(&stage);
    });
}

/// A worker at a small part of the others' speed is not lost; others execute its last splits, too, and are first.
#[test]
fn slow_worker_is_not_lost_and_backups_win() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(3, |setup, index| match index {
            // Half a second a split.
            1 => setup.slow(Duration::from_secs(50)),
            _ => setup,
        });
        let task = Task { backups: true, timeout: Duration::from_secs(4), ..stage.task() };
        let told = stage.exact(stage.begin(&task));
        stage.assert_lost(&told, &[]);
        assert!(told.figure("backups_won") > 0, "{}", told.report);
        assert!(told.figure("backups_started") >= told.figure("backups_won"), "{}", told.report);
        stage.assert_usable(&[0, 1, 2]);
    });
}
