//! Spares: with `--servers`, who is not needed joins in the place of who is lost.

use std::time::Duration;

use mapreduce::logic::coordinator::Phase;
use rustix::process::Signal;

use super::stage::{LIMIT, Stage, Told, in_each_phase};
use crate::harness::clients::Task;
use crate::harness::processes::signal;
use crate::harness::with_deadline;
use crate::harness::workers::WorkerProcess;

/// Two of four workers; the second stands still in `phase`.
fn stage(phase: Phase) -> Stage<'static> {
    Stage::set(4, |setup, index| if index == 1 { setup.hold(phase) } else { setup })
}

fn two(task: Task) -> Task {
    Task { servers: Some(2), ..task }
}

/// Tells whether a worker was told to join in the place of one of `lost`.
fn joined(stage: &Stage<'_>, told: &Told, worker: usize, lost: &[usize]) -> bool {
    let address = |worker: usize| stage.workers[worker].address;
    let line = |lost: &usize| format!("worker {} joins in the place of {}", address(worker), address(*lost));
    let lines: Vec<String> = lost.iter().map(line).collect();
    told.stderr.lines().any(|said| lines.iter().any(|line| said == line))
}

#[test]
fn spare_joins_in_each_phase() {
    in_each_phase(|phase| {
        let stage = stage(phase);
        let job = stage.begin(&two(stage.task()));
        stage.workers[1].await_held();
        signal(stage.workers[1].child.id(), Signal::KILL);
        let told = stage.exact(job);
        stage.assert_lost(&told, &[1]);
        assert_eq!(stage.lost(&told, 1), phase);
        assert!(joined(&stage, &told, 2, &[1]), "{}", told.stderr);
        assert_eq!(told.stderr.matches(" joins ").count(), 1, "{}", told.stderr);
        assert_eq!(told.figure("workers"), 3, "{}", told.report);
        stage.assert_usable(&[0, 2, 3]);
    });
}

/// One that is gone before it is wanted is passed over, without a word.
#[test]
fn spare_that_is_dead_when_it_is_wanted() {
    with_deadline(LIMIT, || {
        let stage = stage(Phase::Shuffle);
        let job = stage.begin(&two(stage.task()));
        stage.workers[1].await_held();
        signal(stage.workers[2].child.id(), Signal::KILL);
        // Nothing tells that the client has noticed.
        std::thread::sleep(Duration::from_secs(1));
        signal(stage.workers[1].child.id(), Signal::KILL);
        let told = stage.exact(job);
        assert!(joined(&stage, &told, 3, &[1]), "{}", told.stderr);
        stage.lost(&told, 1);
        stage.assert_usable(&[0, 3]);
    });
}

/// One that stands still is told to join, and nobody waits for it.
#[test]
fn spare_that_is_frozen_when_it_is_wanted() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(4, |setup, index| if index < 2 { setup.hold(Phase::Reduce) } else { setup });
        let job = stage.begin(&two(stage.hasty_task()));
        stage.workers[..2].iter().for_each(WorkerProcess::await_held);
        stage.workers[2].freeze();
        for worker in [0, 1] {
            signal(stage.workers[worker].child.id(), Signal::KILL);
        }
        let told = stage.exact(job);
        let both = joined(&stage, &told, 2, &[0, 1]) && joined(&stage, &told, 3, &[0, 1]);
        assert!(both, "{}", told.stderr);
        stage.lost(&told, 0);
        stage.lost(&told, 1);
        stage.workers[2].thaw();
        stage.assert_usable(&[2, 3]);
    });
}

/// With all but a spare lost, the spare alone does the job.
#[test]
fn spare_is_all_that_is_left() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(3, |setup, index| if index < 2 { setup.hold(Phase::Merge) } else { setup });
        let job = stage.begin(&two(stage.task()));
        for worker in [0, 1] {
            stage.workers[worker].await_held();
        }
        for worker in [0, 1] {
            signal(stage.workers[worker].child.id(), Signal::KILL);
        }
        let told = stage.exact(job);
        stage.assert_lost(&told, &[0, 1]);
        stage.assert_usable(&[2]);
    });
}
