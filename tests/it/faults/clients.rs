//! Clients: one that is killed, frozen or interrupted leaves its workers usable; one that loses all of them says so.

use mapreduce::logic::coordinator::Phase;
use rustix::process::Signal;

use super::stage::{LIMIT, Stage, in_each_phase};
use crate::harness::processes::signal;
use crate::harness::with_deadline;

/// Exit code of what the user interrupted.
const INTERRUPTED: i32 = 130;

const ALL: [usize; 3] = [0, 1, 2];

fn held_in(phase: Phase) -> Stage<'static> {
    Stage::set(3, |setup, index| if index == 1 { setup.hold(phase) } else { setup })
}

#[test]
fn killed_client_is_forgotten() {
    in_each_phase(|phase| {
        let stage = held_in(phase);
        let job = stage.begin_held(&stage.task(), &[1]);
        signal(job.pid(), Signal::KILL);
        assert_eq!(job.wait().code, None);
        // Also by the one that still stands where the job's own code is.
        stage.await_idle(&ALL);
        stage.workers[1].release();
        stage.assert_usable(&ALL);
    });
}

/// Nothing is heard of it, though its connections stay.
#[test]
fn frozen_client_is_given_up() {
    with_deadline(LIMIT, || {
        std::thread::scope(|scope| {
            for phase in [Phase::Map, Phase::Merge] {
                scope.spawn(move || {
                    let stage = held_in(phase);
                    let job = stage.begin_held(&stage.hasty_task(), &[1]);
                    signal(job.pid(), Signal::STOP);
                    stage.await_idle(&ALL);
                    stage.workers[1].release();
                    stage.assert_usable(&ALL);
                    // When it wakes, it finds that nobody works for it any more.
                    signal(job.pid(), Signal::CONT);
                    let said = stage.failed(job);
                    assert!(said.contains("no worker is left"), "{said}");
                });
            }
        });
    });
}

#[test]
fn all_workers_killed() {
    in_each_phase(|phase| {
        let stage = held_in(phase);
        let job = stage.begin_held(&stage.task(), &[1]);
        stage.workers.iter().for_each(|worker| signal(worker.child.id(), Signal::KILL));
        let said = stage.failed(job);
        assert!(said.contains("no worker is left: all 3 were lost"), "{said}");
        for worker in &stage.workers {
            let told =
                said.lines().filter(|line| line.starts_with(&format!("worker {} lost", worker.address)));
            assert_eq!(told.count(), 1, "{} in\n{said}", worker.address);
        }
    });
}

#[test]
fn interrupted_in_each_phase() {
    in_each_phase(|phase| {
        let stage = held_in(phase);
        let job = stage.begin_held(&stage.task(), &[1]);
        signal(job.pid(), Signal::INT);
        stage.ended(job, INTERRUPTED);
        stage.await_idle(&ALL);
        stage.workers[1].release();
        stage.assert_usable(&ALL);
    });
}

#[test]
fn interrupted_while_a_loss_is_made_good() {
    with_deadline(LIMIT, || {
        let stage = Stage::set(4, |setup, index| match index {
            1 => setup.hold(Phase::Merge),
            2 => setup.hold(Phase::Map).armed_later(),
            _ => setup,
        });
        let job = stage.begin_held(&stage.task(), &[1]);
        stage.workers[2].arm();
        signal(stage.workers[1].child.id(), Signal::KILL);
        stage.workers[2].await_held();
        signal(job.pid(), Signal::INT);
        let said = stage.ended(job, INTERRUPTED);
        assert!(said.contains("lost in merge"), "{said}");
        stage.await_idle(&[0, 2, 3]);
        stage.workers[2].release();
        stage.assert_usable(&[0, 2, 3]);
    });
}
