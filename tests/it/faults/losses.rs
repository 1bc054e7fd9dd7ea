//! Losses: workers that are killed or frozen in each phase, one or several at a time; the job goes on without them.
//!
//! Each phase is held open by the job itself, in the workers that are to be lost: the test waits until they stand
//! there, then strikes.

use mapreduce::logic::coordinator::Phase;
use rustix::process::Signal;

use super::stage::{LIMIT, Stage, in_each_phase};
use crate::harness::clients::Task;
use crate::harness::processes::signal;
use crate::harness::workers::WorkerSetup;
use crate::harness::{wait_until, with_deadline};

/// `n` workers of which `victims` stand still in `phase`.
fn stage(n: usize, victims: &[usize], phase: Phase) -> Stage<'static> {
    let holds = |setup: WorkerSetup<'static>, index| match victims.contains(&index) {
        true => setup.hold(phase),
        false => setup,
    };
    Stage::set(n, holds)
}

fn strike(stage: &Stage<'_>, worker: usize, how: Signal) {
    signal(stage.workers[worker].child.id(), how);
}

/// Has `victims` struck as they are to be, all in `phase`, and checks all that must hold after it.
fn strike_all(n: usize, victims: &[(usize, Signal)], phase: Phase) {
    let who: Vec<usize> = victims.iter().map(|(worker, _)| *worker).collect();
    let stage = stage(n, &who, phase);
    let kills_only = victims.iter().all(|(_, how)| *how == Signal::KILL);
    let task = if kills_only { stage.task() } else { stage.hasty_task() };
    let job = stage.begin_held(&task, &who);
    victims.iter().for_each(|(worker, how)| strike(&stage, *worker, *how));
    let told = stage.exact(job);
    stage.assert_tidy();
    println!("{n} workers, {victims:?} in {phase}: {:.2} s", told.seconds());
    let first = who.iter().map(|worker| stage.lost(&told, *worker)).max();
    assert!(first == Some(phase), "none is lost in {phase}:\n{}", told.stderr);
    if kills_only {
        stage.assert_lost(&told, &who);
    }
    if phase > Phase::Split {
        assert!(told.figure("reexecuted_splits") > 0, "nothing was mapped again: {}", told.report);
    }
    let survivors: Vec<usize> = (0..n).filter(|worker| !who.contains(worker)).collect();
    stage.assert_usable(&survivors);
}

#[test]
fn killed() {
    in_each_phase(|phase| strike_all(3, &[(1, Signal::KILL)], phase));
}

#[test]
fn frozen() {
    in_each_phase(|phase| strike_all(3, &[(1, Signal::STOP)], phase));
}

#[test]
fn two_killed() {
    in_each_phase(|phase| strike_all(4, &[(1, Signal::KILL), (2, Signal::KILL)], phase));
}

#[test]
fn one_killed_and_one_frozen() {
    in_each_phase(|phase| strike_all(4, &[(1, Signal::KILL), (3, Signal::STOP)], phase));
}

#[test]
fn all_but_one_killed() {
    let victims = [(0, Signal::KILL), (1, Signal::KILL), (3, Signal::KILL)];
    in_each_phase(move |phase| strike_all(4, &victims, phase));
}

/// What was frozen, and wakes when the job has ended without it, changes nothing, and takes the next job.
#[test]
fn frozen_and_woken() {
    in_each_phase(|phase| {
        let stage = stage(3, &[1], phase);
        let job = stage.begin_held(&stage.hasty_task(), &[1]);
        stage.workers[1].freeze();
        let told = stage.exact(job);
        assert_eq!(stage.lost(&told, 1), phase);
        stage.assert_usable(&[0, 2]);
        stage.workers[1].release();
        stage.workers[1].thaw();
        stage.assert_usable(&[0, 1, 2]);
    });
}

/// What was frozen, and wakes while the job goes on without it, changes nothing either.
#[test]
fn woken_while_the_job_goes_on() {
    in_each_phase(|phase| {
        // The third stands still where the loss is made good, so that the job goes on when the first wakes.
        let stage = Stage::set(3, |setup, index| match index {
            1 => setup.hold(phase),
            2 => setup.hold(Phase::Map).armed_later(),
            _ => setup,
        });
        let job = stage.begin_held(&stage.hasty_task(), &[1]);
        stage.workers[2].arm();
        stage.workers[1].freeze();
        let line = format!("worker {} lost in {phase}: ", stage.workers[1].address);
        wait_until(LIMIT, &line, || job.said().contains(&line));
        stage.workers[2].await_held();
        stage.workers[1].release();
        stage.workers[1].thaw();
        stage.await_idle(&[1]);
        stage.workers[2].release();
        let told = stage.exact(job);
        assert_eq!(stage.lost(&told, 1), phase);
        stage.assert_usable(&[0, 1, 2]);
    });
}

/// A second worker is lost while the loss of the first is being made good.
fn lose_another(first: Phase, second: Phase, how: Signal) {
    let stage = Stage::set(4, |setup, index| match index {
        1 => setup.hold(first),
        2 => setup.hold(second).armed_later(),
        _ => setup,
    });
    let task = if how == Signal::KILL { stage.task() } else { stage.hasty_task() };
    let job = stage.begin_held(&task, &[1]);
    stage.workers[2].arm();
    strike(&stage, 1, Signal::KILL);
    stage.workers[2].await_held();
    strike(&stage, 2, how);
    let told = stage.exact(job);
    assert_eq!(stage.lost(&told, 1), first);
    assert_eq!(stage.lost(&told, 2), second);
    stage.assert_usable(&[0, 3]);
}

#[test]
fn another_one_lost_while_a_loss_is_made_good() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            scope.spawn(|| lose_another(Phase::Shuffle, Phase::Map, Signal::KILL));
            scope.spawn(|| lose_another(Phase::Reduce, Phase::Map, Signal::STOP));
            scope.spawn(|| lose_another(Phase::Reduce, Phase::Shuffle, Signal::KILL));
            scope.spawn(|| lose_another(Phase::Merge, Phase::Shuffle, Signal::STOP));
            scope.spawn(|| lose_another(Phase::Merge, Phase::Reduce, Signal::KILL));
        });
    });
}

/// With backups, a worker that is lost at work on a split has it folded once, by whoever came first.
#[test]
fn lost_while_its_splits_have_backups() {
    with_deadline(LIMIT, || {
        for how in [Signal::KILL, Signal::STOP] {
            let stage = Stage::set(3, |setup, index| match index {
                1 => setup.hold(Phase::Map),
                // The job does not wait for the first, and is not to end before that is lost.
                2 => setup.hold(Phase::Merge),
                _ => setup,
            });
            let job = stage.begin(&Task { backups: true, ..stage.hasty_task() });
            [1, 2].into_iter().for_each(|worker: usize| stage.workers[worker].await_held());
            strike(&stage, 1, how);
            let line = format!("worker {} lost in ", stage.workers[1].address);
            wait_until(LIMIT, &line, || job.said().contains(&line));
            stage.workers[2].release();
            let told = stage.exact(job);
            stage.lost(&told, 1);
            assert!(told.figure("backups_won") > 0, "{}", told.report);
            stage.assert_usable(&[0, 2]);
        }
    });
}
