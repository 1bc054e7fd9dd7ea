//! Losses: in whatever phase, of whomever, the job goes on over who is left.

use super::*;

#[test]
fn a_worker_that_is_lost_in_whatever_phase_is_mapped_again_by_the_others() {
    for phase in Phase::ALL {
        let mut game = Game::new(&[1, 1, 1]);
        game.reach(phase, 20);
        let before = game.coordinator.epoch();
        game.forget_commands();
        game.lose(1);
        assert_eq!(game.coordinator.outcome(), None, "in {phase}");
        let loss = &game.coordinator.losses()[0];
        assert_eq!((loss.worker, loss.phase, loss.survivors), (WorkerId(1), phase, 2));
        let ended = game.take(|command| matches!(command, Command::End { .. }).then(|| command.clone()));
        assert_eq!(ended, [Command::End { worker: WorkerId(1) }], "it alone is out, in {phase}");
        let broken_off = game.take(|command| matches!(command, Command::BreakOffMerge).then_some(()));
        assert_eq!(broken_off.len(), usize::from(phase == Phase::Merge));
        game.reach(Phase::Merge, 20);
        assert_eq!(game.coordinator.members(), [WorkerId(0), WorkerId(2)]);
        assert!(phase < Phase::Shuffle || game.coordinator.epoch() > before, "a new epoch, in {phase}");
        game.finish();
        let totals = game.coordinator.totals();
        assert_eq!((totals.splits, totals.mapped_bytes, totals.pairs), (20, 2000, 200), "in {phase}");
        assert_eq!((totals.distinct_keys, totals.entries), (6, 4), "of the last epoch only");
        assert_eq!(totals.executions, totals.splits + totals.reexecutions + totals.backups);
    }
}

#[test]
fn whatever_a_fenced_worker_says_changes_nothing() {
    let mut game = Game::new(&[1, 1]);
    game.reach(Phase::Map, 20);
    game.cut(20);
    let held: Vec<_> = game.sent().into_iter().filter(|(worker, _)| worker.0 == 1).collect();
    game.lose(1);
    let totals = game.coordinator.totals();
    for (worker, split) in held {
        game.tell(Event::Mapped { worker, split: split.id, pairs: 10 });
    }
    game.lose(1);
    for event in [
        Event::Heard { worker: WorkerId(1) },
        Event::Begun { worker: WorkerId(1) },
        Event::Failed { worker: WorkerId(1), cause: String::new() },
    ] {
        game.tell(event);
    }
    assert_eq!(game.coordinator.totals().mapped_bytes, totals.mapped_bytes);
    assert_eq!(game.lost(), [WorkerId(1)], "it is lost once");
    game.reach(Phase::Shuffle, 20);
    game.shuffled(WorkerId(1));
    assert_eq!(game.coordinator.phase(), Phase::Shuffle);
    game.shuffled(WorkerId(0));
    game.reach(Phase::Merge, 20);
    game.finish();
    assert_eq!(game.coordinator.totals().pairs, 200);
}

#[test]
fn a_loss_in_the_shuffle_leads_to_a_higher_epoch_over_the_others() {
    let mut game = Game::new(&[1, 1, 1]);
    game.reach(Phase::Shuffle, 20);
    let all = vec![WorkerId(0), WorkerId(1), WorkerId(2)];
    assert_eq!(game.shuffles().into_iter().map(|(_, epoch, of)| (epoch, of)).next(), Some((EPOCH, all)));
    game.shuffled(WorkerId(0));
    game.lose(2);
    game.reach(Phase::Shuffle, 20);
    let left = vec![WorkerId(0), WorkerId(1)];
    let expected = left.iter().map(|&worker| (worker, Epoch(2), left.clone()));
    assert_eq!(game.shuffles(), expected.collect::<Vec<_>>());
    // What was acknowledged in the first counts nothing in the second.
    game.shuffled(WorkerId(1));
    game.tell(Event::Shuffled { worker: WorkerId(0), epoch: EPOCH, sent_bytes: 5 });
    assert_eq!(game.coordinator.phase(), Phase::Shuffle);
    game.shuffled(WorkerId(0));
    assert_eq!(game.coordinator.phase(), Phase::Reduce);
    assert_eq!(game.lost(), [WorkerId(2)]);
}

#[test]
fn the_job_fails_only_when_nobody_is_left() {
    let mut game = Game::new(&[1, 1, 1]);
    game.reach(Phase::Reduce, 20);
    game.lose(0);
    game.reach(Phase::Reduce, 20);
    game.lose(1);
    game.reach(Phase::Merge, 20);
    assert_eq!(game.coordinator.members(), [WorkerId(2)]);
    game.lose(2);
    let Failure::NoWorkerLeft(loss) = game.failure() else { panic!("{:?}", game.failure()) };
    assert_eq!((loss.worker, loss.phase, loss.survivors), (WorkerId(2), Phase::Merge, 0));
}

#[test]
fn who_has_delivered_may_die() {
    let mut game = Game::new(&[1, 1]);
    game.reach(Phase::Merge, 20);
    let epoch = game.coordinator.epoch();
    for worker in game.workers() {
        game.tell(Event::Delivered { worker, epoch });
        game.lose(worker.0);
    }
    assert_eq!((game.coordinator.phase(), game.coordinator.outcome()), (Phase::Merge, None));
    game.tell(Event::Merged { epoch });
    assert_eq!(game.coordinator.outcome(), Some(&Outcome::Done));
}

#[test]
fn what_the_delivered_had_folded_is_mapped_again_if_another_dies_undelivered() {
    let mut game = Game::new(&[1, 1, 1]);
    game.reach(Phase::Merge, 20);
    let epoch = game.coordinator.epoch();
    game.tell(Event::Delivered { worker: WorkerId(0), epoch });
    game.lose(0);
    assert_eq!(game.coordinator.phase(), Phase::Merge);
    game.lose(1);
    assert_eq!(game.coordinator.phase(), Phase::Map);
    game.tell(Event::Merged { epoch });
    assert_eq!(game.coordinator.outcome(), None, "that merge is void");
    game.reach(Phase::Merge, 20);
    game.finish();
    assert_eq!(game.coordinator.totals().pairs, 200);
    assert!(game.coordinator.workers()[2].splits_mapped == 20, "the last one has all");
}

#[test]
fn a_worker_that_is_silent_for_too_long_is_lost_and_one_that_beats_is_not() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(20);
    for _ in 0..3 {
        game.wait(9);
        game.tell(Event::Heard { worker: WorkerId(0) });
        game.tell(Event::Heard { worker: WorkerId(1) });
    }
    assert_eq!(game.lost(), []);
    game.wait(6);
    game.tell(Event::Heard { worker: WorkerId(0) });
    game.wait(6);
    assert_eq!(game.lost(), [WorkerId(1)]);
    assert_eq!(game.coordinator.losses()[0].cause, "nothing heard of it for 10 s");
    assert_eq!(game.coordinator.outcome(), None);
}

#[test]
fn what_its_link_says_of_a_split_is_no_word_of_the_worker() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(20);
    // Both are quick, then the first falls silent with splits that cannot be executed twice.
    for _ in 0..3 {
        game.now += Duration::from_millis(1);
        for (worker, split, _) in game.executions() {
            game.mapped(worker.0, split.0);
        }
        game.cut(20);
    }
    let held: Vec<_> = game.executions();
    for (worker, split, _) in &held {
        if worker.0 == 1 {
            game.mapped(1, split.0);
        }
    }
    for _ in 0..12 {
        game.wait(1);
        game.tell(Event::Heard { worker: WorkerId(1) });
        for (worker, split) in game.discarded() {
            game.tell(Event::Unsent { worker, split });
        }
        for (worker, split, _) in game.executions() {
            if worker.0 == 1 {
                game.mapped(1, split.0);
            }
        }
    }
    assert_eq!(game.lost(), [WorkerId(0)], "though its link dropped splits meanwhile");
}

#[test]
fn workers_that_fall_silent_together_are_lost_together() {
    let mut game = Game::new(&[1, 1, 1]);
    game.reach(Phase::Shuffle, 20);
    for _ in 0..11 {
        game.tell(Event::Heard { worker: WorkerId(1) });
        game.wait(1);
    }
    assert_eq!(game.lost(), [WorkerId(0), WorkerId(2)]);
    game.reach(Phase::Merge, 20);
    assert_eq!(game.coordinator.members(), [WorkerId(1)]);
}

fn complain(game: &mut Game, worker: u32, peer: u32) {
    let (worker, peer) = (WorkerId(worker), WorkerId(peer));
    let epoch = game.coordinator.epoch();
    game.tell(Event::PeerFailed { worker, epoch, peer, cause: "connection refused".into() });
}

#[test]
fn the_one_with_whom_most_have_trouble_is_evicted() {
    for complaints in [&[(0, 1), (2, 1)][..], &[(1, 0), (1, 2)], &[(0, 1), (1, 2)]] {
        let mut game = Game::new(&[1, 1, 1]);
        game.reach(Phase::Shuffle, 20);
        complaints.iter().for_each(|&(worker, peer)| complain(&mut game, worker, peer));
        assert_eq!(game.lost(), [], "others may complain, too");
        game.wait(2);
        assert_eq!(game.lost(), [WorkerId(1)], "{complaints:?}");
        game.reach(Phase::Merge, 20);
        game.finish();
    }
}

#[test]
fn of_two_that_cannot_reach_each_other_one_is_evicted_and_the_job_ends() {
    let mut game = Game::new(&[1, 1]);
    game.reach(Phase::Shuffle, 20);
    complain(&mut game, 0, 1);
    complain(&mut game, 1, 0);
    game.wait(2);
    assert_eq!(game.lost().len(), 1);
    let loss = &game.coordinator.losses()[0];
    assert_eq!(loss.accuser, Some(WorkerId(1 - loss.worker.0)));
    game.reach(Phase::Merge, 20);
    game.finish();
}

#[test]
fn complaints_end_with_their_epoch() {
    let mut game = Game::new(&[1, 1, 1]);
    game.reach(Phase::Shuffle, 20);
    complain(&mut game, 0, 1);
    // The accused is dead, as is noticed meanwhile.
    game.lose(1);
    game.reach(Phase::Shuffle, 20);
    let late =
        Event::PeerFailed { worker: WorkerId(2), epoch: EPOCH, peer: WorkerId(0), cause: String::new() };
    game.tell(late);
    game.wait(3);
    assert_eq!(game.lost(), [WorkerId(1)]);
}

#[test]
fn a_complaint_about_nobody_or_of_another_epoch_harms_no_peer() {
    for peer in [WorkerId(0), WorkerId(2), WorkerId(u32::MAX)] {
        let mut game = Game::new(&[1, 1]);
        game.begin();
        game.map_all(20);
        let complaint = |epoch| Event::PeerFailed { worker: WorkerId(0), epoch, peer, cause: String::new() };
        game.tell(complaint(Epoch(0)));
        assert_eq!(game.lost(), []);
        game.tell(complaint(EPOCH));
        assert_eq!(game.lost(), [WorkerId(0)]);
    }
}

#[test]
fn a_job_on_which_workers_give_up_for_the_same_reason_fails_before_all_did() {
    let mut game = Game::new(&[1; 8]);
    for worker in 0..3 {
        assert_eq!(game.coordinator.outcome(), None);
        game.reach(Phase::Reduce, 20);
        game.tell(Event::Failed { worker: WorkerId(worker), cause: "the job panicked: x".into() });
    }
    assert!(matches!(game.failure(), Failure::GaveUp(Loss { worker: WorkerId(2), .. })));
    let mut game = Game::new(&[1; 5]);
    for worker in 0..4 {
        game.reach(Phase::Reduce, 20);
        game.tell(Event::Failed { worker: WorkerId(worker), cause: format!("reason {worker}") });
    }
    game.reach(Phase::Merge, 20);
    game.finish();
}

fn with_spares(n: usize, spares: usize) -> Game {
    Game::with(Config {
        worker_threads: vec![1; n + spares],
        spares,
        input_bytes: Some(1 << 20),
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        skip_bad_input: false,
    })
}

#[test]
fn a_spare_joins_in_the_place_of_a_lost_worker_and_not_before() {
    for phase in Phase::ALL {
        let mut game = with_spares(2, 2);
        game.reach(phase, 20);
        let spares = |game: &Game| {
            game.coordinator.workers().iter().filter(|progress| progress.standing == Standing::Spare).count()
        };
        assert_eq!(spares(&game), 2, "in {phase}");
        game.lose(0);
        assert_eq!(spares(&game), 1, "in {phase}");
        game.begin();
        game.reach(Phase::Merge, 20);
        assert_eq!(game.coordinator.members(), [WorkerId(1), WorkerId(2)], "in {phase}");
        game.finish();
    }
}

#[test]
fn a_spare_that_is_dead_when_it_is_wanted_gives_way_to_the_next() {
    let mut game = with_spares(1, 3);
    game.reach(Phase::Map, 20);
    game.lose(1);
    assert_eq!(game.lost(), [], "nobody misses a spare that was not needed");
    game.lose(0);
    game.wait(11);
    assert_eq!(game.lost(), [WorkerId(0), WorkerId(2)], "the first that was asked is silent");
    game.reach(Phase::Merge, 20);
    assert_eq!(game.coordinator.members(), [WorkerId(3)]);
    game.finish();
}
