//! Namespaces: workers on hosts of their own, whose links go down and up or are slow, as those of machines do.

use std::time::Duration;

use mapreduce::logic::coordinator::Phase;

use super::stage::{LIMIT, Stage};
use crate::harness::clients::Task;
use crate::harness::netns::Network;
use crate::harness::with_deadline;

/// Pulls the cables of `victims` among `n` workers in `phase`, and plugs them in again when the job has ended.
fn unplug(n: usize, victims: &[usize], phase: Phase) {
    let Some(network) = Network::start(n + 1) else { return };
    let stage = Stage::inside(&network, n, |setup, index| match victims.contains(&index) {
        true => setup.hold(phase),
        false => setup,
    });
    let job = stage.begin_held(&stage.hasty_task(), victims);
    for worker in victims {
        network.link_down(worker + 1);
        stage.workers[*worker].release();
    }
    let told = stage.exact(job);
    let first = victims.iter().map(|worker| stage.lost(&told, *worker)).max();
    assert_eq!(first, Some(phase), "{}", told.stderr);
    let others: Vec<usize> = (0..n).filter(|worker| !victims.contains(worker)).collect();
    stage.assert_usable(&others);
    victims.iter().for_each(|worker| network.link_up(worker + 1));
    // For a moment more, a host may still hold that there is no route to what it could not reach: that is no loss.
    let all: Vec<usize> = (0..n).collect();
    stage.await_idle(&all);
    let told = stage.exact(stage.begin(&stage.task()));
    stage.assert_lost(&told, &[]);
    assert!(told.figure("workers") == n as u64, "{}", told.report);
}

#[test]
fn link_down_in_map() {
    with_deadline(LIMIT, || unplug(3, &[1], Phase::Map));
}

#[test]
fn link_down_in_shuffle() {
    with_deadline(LIMIT, || unplug(3, &[1], Phase::Shuffle));
}

#[test]
fn two_links_down() {
    with_deadline(LIMIT, || unplug(4, &[1, 2], Phase::Shuffle));
}

/// A link that is down for less than the silence that counts is slow, and not lost.
#[test]
fn link_down_for_a_moment() {
    with_deadline(LIMIT, || {
        let Some(network) = Network::start(4) else { return };
        let stage = Stage::inside(&network, 3, |setup, index| match index {
            1 => setup.hold(Phase::Shuffle),
            _ => setup,
        });
        let job = stage.begin_held(&stage.task(), &[1]);
        network.link_down(2);
        stage.workers[1].release();
        std::thread::sleep(Duration::from_secs(2));
        network.link_up(2);
        let told = stage.exact(job);
        stage.assert_lost(&told, &[]);
    });
}

#[test]
fn slow_link_is_not_lost() {
    with_deadline(LIMIT, || {
        let Some(network) = Network::start(4) else { return };
        let stage = Stage::inside(&network, 3, |setup, _| setup);
        network.set_rate(2, 400_000);
        let task = Task { timeout: Duration::from_secs(4), ..stage.task() };
        let told = stage.exact(stage.begin(&task));
        stage.assert_lost(&told, &[]);
    });
}
