//! Bad input: splits that cannot be read, left out where that is wanted, and fatal where not.

use super::*;

fn game(n: usize, skip_bad_input: bool) -> Game {
    let mut game = Game::with(Config {
        worker_threads: vec![1; n],
        spares: 0,
        input_bytes: Some(1 << 20),
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        readers: None,
        skip_bad_input,
    });
    game.begin();
    game
}

fn failed(game: &mut Game, worker: WorkerId, split: SplitId, unreadable: bool) {
    let (cause, dropped) = ("it is torn".to_owned(), Vec::new());
    game.tell(Event::MapFailed { worker, split, cause, dropped, unreadable });
}

fn unread(game: &mut Game, worker: WorkerId, split: SplitId) {
    game.tell(Event::Unread { worker, split, cause: "it is gone".to_owned() });
}

fn skipped(game: &Game) -> Vec<u64> {
    game.coordinator.skipped().iter().map(|(split, _)| split.id.0).collect()
}

/// Has all splits below `n` mapped, but for those that nobody can unpack (every third) or that cannot be sent (every
/// fifth).
fn map_but_bad(game: &mut Game, n: u64) {
    loop {
        game.cut(n);
        let sent = game.executions();
        if sent.is_empty() {
            return;
        }
        for (worker, split, provisional) in sent {
            assert!(provisional, "nothing else is to be lost with it");
            match split.0 {
                id if id % 5 == 0 => unread(game, worker, split),
                id if id % 3 == 0 => failed(game, worker, split, true),
                id => game.mapped(worker.0, id),
            }
        }
    }
}

#[test]
fn what_nobody_can_read_is_left_out_and_costs_nothing_else() {
    for n in [1, 2, 5] {
        let mut game = game(n, true);
        map_but_bad(&mut game, 30);
        assert_eq!(game.coordinator.phase(), Phase::Shuffle, "{n} workers");
        let mut left_out = skipped(&game);
        left_out.sort_unstable();
        assert_eq!(left_out, (0..30).filter(|id| id % 3 == 0 || id % 5 == 0).collect::<Vec<_>>());
        assert_eq!(game.lost(), []);
        assert_eq!(game.coordinator.totals().mapped_bytes, 1600);
        let notices = game.take(|command| matches!(command, Command::Notice(_)).then_some(()));
        assert_eq!(notices.len(), 0, "it is listed in the end");
        game.reach(Phase::Merge, 30);
        game.finish();
    }
}

#[test]
fn what_was_left_out_stays_so_when_a_worker_is_lost() {
    let mut game = game(2, true);
    map_but_bad(&mut game, 30);
    let before = skipped(&game);
    game.lose(1);
    map_but_bad(&mut game, 30);
    assert_eq!((skipped(&game), game.coordinator.phase()), (before, Phase::Shuffle));
    assert_eq!(game.coordinator.totals().mapped_bytes, 1600);
}

#[test]
fn a_split_is_tried_on_all_workers_before_it_is_left_out() {
    let mut game = game(5, true);
    game.cut(1);
    for tried in 0..5 {
        assert!(skipped(&game).is_empty());
        let sent = game.executions();
        assert_eq!(sent.len(), 1, "tried {tried} times");
        failed(&mut game, sent[0].0, sent[0].1, true);
    }
    assert_eq!(skipped(&game), [0]);
    game.reach(Phase::Merge, 1);
    game.finish();
}

#[test]
fn a_split_that_failed_for_another_reason_is_not_left_out() {
    for other in 0..3 {
        let mut game = game(3, true);
        game.cut(1);
        for tried in 0..3 {
            let sent = game.executions();
            failed(&mut game, sent[0].0, sent[0].1, tried != other);
        }
        assert!(skipped(&game).is_empty());
        assert!(matches!(game.failure(), Failure::ExecutionFailed { workers: 3, .. }));
    }
    // Three failures of the job are enough.
    let mut game = game(5, true);
    game.cut(1);
    for tried in 0..4 {
        let sent = game.executions();
        failed(&mut game, sent[0].0, sent[0].1, tried == 0);
    }
    assert!(matches!(game.failure(), Failure::ExecutionFailed { workers: 4, .. }));
}

/// Has all splits below `n` mapped by those who can read them; returns how many executions failed.
fn map_but_blind(game: &mut Game, n: u64, can_read: impl Fn(WorkerId, SplitId) -> bool) -> usize {
    let mut n_failed = 0;
    loop {
        game.cut(n);
        let sent = game.executions();
        if sent.is_empty() {
            return n_failed;
        }
        for (worker, split, _) in sent {
            // One that was lost meanwhile is not heard.
            match can_read(worker, split) {
                true => game.mapped(worker.0, split.0),
                false => failed(game, worker, split, true),
            }
            n_failed += usize::from(!can_read(worker, split));
        }
    }
}

#[test]
fn workers_that_can_read_nothing_are_taken_out_and_nothing_is_left_out() {
    let mut game = game(5, true);
    let n_failed = map_but_blind(&mut game, 60, |worker, _| worker.0 >= 3);
    assert_eq!((skipped(&game), game.coordinator.phase()), (vec![], Phase::Shuffle));
    let mut lost = game.lost();
    lost.sort_unstable();
    assert_eq!(lost, [WorkerId(0), WorkerId(1), WorkerId(2)]);
    let causes: Vec<_> = game.coordinator.losses().iter().map(|loss| loss.cause.as_str()).collect();
    assert!(
        causes.iter().all(|cause| *cause == "it could not read 3 splits that others could"),
        "{causes:?}"
    );
    assert!(n_failed < 60, "{n_failed} executions failed");
    assert_eq!(game.coordinator.totals().mapped_bytes, 6000);
    game.reach(Phase::Merge, 60);
    game.finish();
}

/// Who lacks something may be the only one to have something else.
#[test]
fn a_worker_that_maps_what_others_cannot_read_stays() {
    let mut game = game(2, true);
    map_but_blind(&mut game, 40, |worker, split| split.0 % 2 == u64::from(worker.0));
    assert_eq!((skipped(&game), game.lost()), (vec![], vec![]));
    assert_eq!(game.coordinator.phase(), Phase::Shuffle);
}

#[test]
fn a_job_that_fails_is_no_bad_input() {
    let mut game = game(2, true);
    game.cut(1);
    for _ in 0..2 {
        let sent = game.executions();
        failed(&mut game, sent[0].0, sent[0].1, false);
    }
    assert!(matches!(game.failure(), Failure::ExecutionFailed { workers: 2, .. }));
}

#[test]
fn without_the_flag_bad_input_fails_the_job_soon() {
    let mut torn = game(5, false);
    torn.cut(1);
    for _ in 0..3 {
        let sent = torn.executions();
        failed(&mut torn, sent[0].0, sent[0].1, true);
    }
    assert!(matches!(torn.failure(), Failure::ExecutionFailed { workers: 3, .. }));
    let mut gone = game(5, false);
    gone.cut(5);
    let sent = gone.executions();
    unread(&mut gone, sent[0].0, sent[0].1);
    assert_eq!(gone.failure(), &Failure::Input { cause: "it is gone".into() });
}

/// The one who reads it first can have it all the same.
#[test]
fn what_cannot_be_read_again_is_left_to_who_has_it() {
    for holder_maps in [true, false] {
        let mut game = game(2, true);
        game.cut(1);
        let (holder, split, _) = game.executions()[0];
        game.wait(2);
        let (backup, again, _) = game.executions()[0];
        assert!(again == split && backup != holder);
        unread(&mut game, backup, split);
        assert!(skipped(&game).is_empty());
        game.wait(2);
        assert_eq!(game.executions(), [], "it would be asked for again and again");
        match holder_maps {
            true => game.mapped(holder.0, split.0),
            false => game.tell(Event::LinkClosed { worker: holder, cause: "it is gone".into() }),
        }
        if !holder_maps {
            let (worker, split, _) = game.executions()[0];
            unread(&mut game, worker, split);
        }
        assert_eq!(skipped(&game).is_empty(), holder_maps);
        assert_eq!(game.coordinator.phase(), Phase::Shuffle);
    }
}

/// A split that nobody wants any more need not be readable.
#[test]
fn a_discarded_split_that_cannot_be_read_fails_nothing() {
    let mut game = game(2, false);
    game.cut(2);
    let sent = game.executions();
    game.wait(1);
    game.mapped(sent[0].0.0, sent[0].1.0);
    game.wait(2);
    let backups = game.executions();
    if let Some((worker, split, true)) = backups.first().copied() {
        game.mapped(sent[1].0.0, sent[1].1.0);
        assert_eq!(game.discarded(), [(worker, split)]);
        unread(&mut game, worker, split);
    }
    assert_eq!(game.coordinator.outcome(), None);
    game.reach(Phase::Merge, 2);
    game.finish();
}
