//! Backups: splits that are late, and executions that fail.

use super::*;

fn failed(game: &mut Game, worker: u32, split: u64, dropped: &[u64]) {
    let dropped = dropped.iter().map(|&split| SplitId(split)).collect();
    let cause = "the job panicked".to_owned();
    game.tell(Event::MapFailed {
        worker: WorkerId(worker),
        split: SplitId(split),
        cause,
        dropped,
        unreadable: false,
    });
}

/// A coordinator of `n` workers with one thread each; the input, of which the size is not known, has `splits` splits.
fn late(n: usize, splits: u64) -> Game {
    let mut game = Game::with(Config {
        worker_threads: vec![1; n],
        spares: 0,
        input_bytes: None,
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        skip_bad_input: false,
    });
    game.begin();
    game.cut(splits);
    game
}

#[test]
fn of_two_executions_the_first_is_committed_and_the_other_discarded() {
    for winner in [0, 1] {
        let mut game = late(2, 2);
        let sent = game.executions();
        assert_eq!(sent, [(WorkerId(0), SplitId(0), true), (WorkerId(1), SplitId(1), true)]);
        game.now += Duration::from_millis(10);
        game.mapped(1, 1);
        assert_eq!(game.committed(), [(WorkerId(1), SplitId(1))]);
        game.wait(1);
        assert_eq!(game.executions(), [(WorkerId(1), SplitId(0), true)], "the idle one gets a backup");
        game.wait(1);
        assert_eq!(game.executions(), [], "and no third one is started");
        game.mapped(winner, 0);
        assert_eq!(game.committed(), [(WorkerId(winner), SplitId(0))]);
        assert_eq!(game.discarded(), [(WorkerId(1 - winner), SplitId(0))]);
        assert_eq!(game.coordinator.phase(), Phase::Shuffle, "the other is not waited for");
        game.mapped(1 - winner, 0);
        assert_eq!(game.committed(), [], "the second counts nothing");
        let totals = game.coordinator.totals();
        assert_eq!((totals.pairs, totals.mapped_bytes), (20, 200));
        assert_eq!((totals.backups, totals.backups_won), (1, u64::from(winner)));
    }
}

#[test]
fn what_the_winner_had_is_mapped_again_if_it_dies_though_the_loser_still_runs() {
    let mut game = late(2, 1);
    assert_eq!(game.executions().len(), 1);
    game.wait(1);
    assert_eq!(game.executions(), [(WorkerId(1), SplitId(0), true)]);
    game.mapped(1, 0);
    assert_eq!(game.discarded(), [(WorkerId(0), SplitId(0))]);
    game.lose(1);
    assert_eq!(game.executions(), [], "the discarded execution is not answered yet");
    game.tell(Event::Dropped { worker: WorkerId(0), split: SplitId(0) });
    assert_eq!(game.executions(), [(WorkerId(0), SplitId(0), true)]);
    game.mapped(0, 0);
    game.reach(Phase::Merge, 1);
    game.finish();
    assert_eq!(game.coordinator.totals().pairs, 10);
}

#[test]
fn the_bulk_of_the_input_is_folded_directly_and_its_end_provisionally() {
    let mut game = Game::with(Config {
        worker_threads: vec![1, 1],
        spares: 0,
        input_bytes: Some(100_000),
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        skip_bad_input: false,
    });
    game.begin();
    let mut provisional = Vec::new();
    while game.coordinator.phase() == Phase::Map || provisional.is_empty() {
        game.cut(1000);
        for (worker, split, is_provisional) in game.executions() {
            provisional.push(is_provisional);
            game.now += Duration::from_millis(1);
            game.mapped(worker.0, split.0);
        }
    }
    assert_eq!(provisional.len(), 1000);
    assert!(provisional[..2].iter().all(|&is_provisional| is_provisional), "no pace is known yet");
    assert!(provisional[100..900].iter().all(|&is_provisional| !is_provisional));
    assert!(provisional[996..].iter().all(|&is_provisional| is_provisional));
    let direct = provisional.iter().filter(|&&is_provisional| !is_provisional).count();
    assert_eq!(game.committed().len(), 1000 - direct);
}

#[test]
fn without_backups_nothing_is_executed_twice() {
    let mut game = Game::new(&[1, 1]);
    game.coordinator.config.backups = false;
    game.begin();
    game.cut(2);
    assert!(game.executions().iter().all(|(.., provisional)| !provisional));
    game.mapped(1, 1);
    game.cut(2);
    game.wait(60);
    assert_eq!(game.executions(), []);
}

#[test]
fn a_split_that_fails_is_tried_elsewhere_and_names_itself_in_the_end() {
    let mut game = Game::new(&[1, 1, 1, 1]);
    game.begin();
    game.cut(1);
    let mut tried = Vec::new();
    while game.coordinator.outcome().is_none() {
        let sent = game.executions();
        let [(worker, split, _)] = sent[..] else { panic!("{sent:?}") };
        assert!(!tried.contains(&worker), "another one tries");
        tried.push(worker);
        failed(&mut game, worker.0, split.0, &[]);
    }
    assert_eq!(tried.len(), 3, "not all are used up");
    let Failure::ExecutionFailed { split, workers, cause, .. } = game.failure() else {
        panic!("{:?}", game.failure())
    };
    assert_eq!((split.id, *workers, cause.as_str()), (SplitId(0), 3, "the job panicked"));
    assert_eq!(game.lost(), [], "no worker is to blame");
}

#[test]
fn a_split_that_fails_on_all_that_there_are_ends_the_job() {
    let mut game = Game::new(&[1]);
    game.begin();
    game.cut(3);
    let (worker, split) = game.sent()[1];
    let cause = "the job panicked".to_owned();
    let (said, dropped) = (cause.clone(), Vec::new());
    game.tell(Event::MapFailed { worker, split: split.id, cause: said, dropped, unreadable: false });
    assert_eq!(
        game.failure(),
        &Failure::ExecutionFailed { worker, split, cause, workers: 1, unreadable: false }
    );
}

#[test]
fn a_split_is_tried_again_where_it_failed_if_nobody_else_is_left() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(1);
    let [(first, split, _)] = game.executions()[..] else { panic!("one split is sent") };
    failed(&mut game, first.0, split.0, &[]);
    game.lose(1 - first.0);
    assert_eq!(game.executions().last(), Some(&(first, split, true)));
    assert_eq!(game.coordinator.outcome(), None);
    game.reach(Phase::Merge, 1);
    game.finish();
}

/// Has two workers map, until the first has stopped to answer: quick before, so that not all of its splits are
/// provisional. Returns what it holds, and what of that is.
fn straggle(game: &mut Game) -> Vec<(SplitId, bool)> {
    let mut held = Vec::new();
    loop {
        let sent = game.executions();
        if sent.is_empty() {
            return held;
        }
        for (worker, split, provisional) in sent {
            game.now += Duration::from_millis(1);
            match worker.0 == 0 && split.0 >= 10 {
                true => held.push((split, provisional)),
                false => game.mapped(worker.0, split.0),
            }
        }
        game.cut(40);
    }
}

#[test]
fn a_worker_whose_thread_hangs_is_lost_when_all_else_is_mapped() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(40);
    let held = straggle(&mut game);
    let hung = held.iter().find(|(_, provisional)| !provisional).map(|(split, _)| *split);
    let hung = hung.expect("one of them is not provisional");
    for second in 0..20 {
        assert!(second > 9 || game.lost().is_empty(), "after {second} s");
        game.wait(1);
        for worker in [WorkerId(0), WorkerId(1)] {
            game.tell(Event::Heard { worker });
        }
        for (worker, split) in game.discarded() {
            if split != hung {
                game.tell(Event::Dropped { worker, split });
            }
        }
        for (worker, split, _) in game.executions() {
            if worker.0 == 1 {
                game.mapped(1, split.0);
            }
        }
        if !game.lost().is_empty() {
            break;
        }
    }
    assert_eq!(game.lost(), [WorkerId(0)]);
    game.reach(Phase::Merge, 40);
    game.finish();
}

#[test]
fn what_a_thread_had_folded_before_it_failed_is_mapped_again() {
    let mut game = Game::new(&[2, 2]);
    game.coordinator.config.backups = false;
    game.begin();
    game.cut(4);
    let held: Vec<u64> = game
        .executions()
        .into_iter()
        .filter(|(worker, ..)| worker.0 == 0)
        .map(|(_, split, _)| split.0)
        .collect();
    game.mapped(0, held[0]);
    game.cut(4);
    assert_eq!(game.coordinator.workers()[0].splits_mapped, 1);
    failed(&mut game, 0, held[1], &[held[0]]);
    assert_eq!(game.coordinator.workers()[0].splits_mapped, 0);
    let mut again: Vec<_> =
        game.executions().into_iter().map(|(_, split, provisional)| (split.0, provisional)).collect();
    again.sort_unstable();
    let mut expected = [(held[0], true), (held[1], true)];
    expected.sort_unstable();
    assert_eq!(again, expected, "and what failed once costs no more than itself");
    game.reach(Phase::Merge, 4);
}

#[test]
fn a_worker_on_which_everything_fails_is_lost() {
    let mut game = Game::new(&[2, 2]);
    game.begin();
    game.cut(20);
    let held: Vec<u64> = game
        .executions()
        .into_iter()
        .filter(|(worker, ..)| worker.0 == 0)
        .map(|(_, split, _)| split.0)
        .collect();
    held.iter().take(3).for_each(|&split| failed(&mut game, 0, split, &[]));
    assert_eq!(game.lost(), [WorkerId(0)]);
    assert_eq!(game.coordinator.outcome(), None);
    game.reach(Phase::Merge, 20);
    game.finish();
}

#[test]
fn a_spare_joins_where_a_split_has_failed_on_all_others() {
    let mut game = Game::with(Config {
        worker_threads: vec![1, 1],
        spares: 1,
        input_bytes: Some(1000),
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        skip_bad_input: false,
    });
    game.begin();
    game.cut(1);
    failed(&mut game, 0, 0, &[]);
    game.begin();
    assert_eq!(game.executions().last(), Some(&(WorkerId(1), SplitId(0), true)));
    game.reach(Phase::Merge, 1);
    game.finish();
}

#[test]
fn queued_work_is_taken_back_from_a_straggler() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(40);
    let straggling = straggle(&mut game);
    assert!(straggling.iter().any(|(_, provisional)| !provisional), "{straggling:?}");
    game.wait(2);
    let discarded = game.discarded();
    let direct = straggling.iter().find(|(_, provisional)| !provisional).map(|(split, _)| *split);
    assert!(discarded.contains(&(WorkerId(0), direct.expect("there is one"))), "{discarded:?}");
    let split = direct.expect("there is one");
    assert!(!game.executions().iter().any(|(_, sent, _)| *sent == split), "it may have begun");
    game.tell(Event::Dropped { worker: WorkerId(0), split });
    assert!(game.executions().iter().any(|&(worker, sent, _)| (worker.0, sent) == (1, split)));
}

#[test]
fn slow_workers_reduce_less() {
    let mut game = Game::new(&[4, 4, 4]);
    game.coordinator.config.backups = false;
    game.begin();
    game.cut(300);
    let mut n = 0;
    while game.coordinator.phase() == Phase::Map {
        game.cut(300);
        // The last one answers a tenth as often.
        n += 1;
        game.now += Duration::from_millis(10);
        for worker in [0, 1].into_iter().chain((n % 10 == 0).then_some(2)) {
            let held = game.coordinator.workers()[worker].in_flight.first().map(|held| held.split.id.0);
            held.into_iter().for_each(|split| game.mapped(worker as u32, split));
        }
    }
    let assignment = game.coordinator.assign_partitions();
    let owned = |worker| assignment.owners.iter().filter(|owner| **owner == WorkerId(worker)).count();
    assert_eq!((owned(0), owned(1)), (4, 4));
    assert!(owned(2) <= 1, "{assignment:?}");
    assert_eq!(assignment.workers.len(), 3, "it sends what it has all the same");
}
