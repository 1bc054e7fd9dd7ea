//! One promise of the worker's machine each; the client and the peers are played by the test.

use super::*;

const EPOCH: Epoch = Epoch(1);

fn split(id: u64) -> Event {
    Event::Split { split: SplitId(id), provisional: false }
}

fn provisional(id: u64) -> Event {
    Event::Split { split: SplitId(id), provisional: true }
}

fn executed(id: u64, pairs: u64) -> Event {
    Event::Executed { split: SplitId(id), end: Execution::Folded { pairs } }
}

fn failed(id: u64, dropped: &[u64]) -> Event {
    let dropped = dropped.iter().copied().map(SplitId).collect();
    Event::Executed {
        split: SplitId(id),
        end: Execution::Failed { cause: "a panic".to_owned(), dropped, unreadable: false },
    }
}

fn cancelled(id: u64) -> Event {
    Event::Executed { split: SplitId(id), end: Execution::Cancelled }
}

fn commit(id: u64) -> Event {
    Event::Commit { split: SplitId(id) }
}

fn discard(id: u64) -> Event {
    Event::Discard { split: SplitId(id) }
}

fn shuffle(epoch: u32, workers: &[u32]) -> Event {
    Event::Shuffle { epoch: Epoch(epoch), workers: workers.iter().copied().map(WorkerId).collect() }
}

fn mapped(id: u64, pairs: u64) -> [Command; 1] {
    [Command::Reply(Reply::Mapped { split: SplitId(id), pairs })]
}

fn dropped(id: u64) -> Command {
    Command::Reply(Reply::Dropped { split: SplitId(id) })
}

fn execute(id: u64, provisional: bool) -> Command {
    Command::Execute { split: SplitId(id), provisional }
}

fn refused(commands: &[Command]) -> bool {
    matches!(commands, [Command::Refuse { .. }])
}

/// Returns a worker 0 that has all tables of `epoch` and is alone in it.
fn shuffled(epoch: u32) -> Worker {
    let mut worker = Worker::new(WorkerId(0), 2);
    assert_eq!(worker.handle(shuffle(epoch, &[0])), [Command::Send { epoch: Epoch(epoch) }]);
    let sent = worker.handle(Event::SentAll { epoch: Epoch(epoch), bytes: 0 });
    assert_eq!(sent, [Command::Reply(Reply::Shuffled { epoch: Epoch(epoch), sent_bytes: 0 })]);
    worker
}

/// Asserts which splits the worker has folded.
fn assert_folded(worker: &Worker, ids: &[u64]) {
    assert!(worker.folded().iter().copied().eq(ids.iter().copied().map(SplitId)), "{:?}", worker.folded());
}

#[test]
fn maps_within_its_window_only() {
    let mut worker = Worker::new(WorkerId(0), 2);
    assert_eq!(worker.handle(split(1)), [execute(1, false)]);
    assert!(refused(&worker.handle(split(1))), "a split that came twice");
    assert_eq!(worker.handle(provisional(2)), [execute(2, true)]);
    assert!(refused(&worker.handle(split(3))), "one over the window");
    assert_eq!(worker.handle(executed(1, 7)), mapped(1, 7));
    assert_eq!(worker.handle(split(3)), [execute(3, false)]);
    assert_folded(&worker, &[1]);
}

#[test]
fn what_is_folded_or_held_is_not_folded_again() {
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(split(1));
    worker.handle(executed(1, 7));
    assert!(refused(&worker.handle(provisional(1))));
    worker.handle(provisional(2));
    worker.handle(executed(2, 7));
    assert!(refused(&worker.handle(split(2))));
    assert_eq!(worker.handle(executed(2, 7)), [], "an execution ends once");
}

#[test]
fn a_provisional_execution_counts_once_it_is_committed() {
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(provisional(1));
    assert!(refused(&worker.handle(commit(1))), "it has not ended");
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(provisional(1));
    assert_eq!(worker.handle(executed(1, 7)), mapped(1, 7));
    assert_folded(&worker, &[]);
    assert!(refused(&worker.handle(shuffle(1, &[0]))), "nobody has said whether it counts");
    assert_eq!(worker.handle(commit(1)), [Command::Commit { split: SplitId(1) }]);
    assert_folded(&worker, &[1]);
    assert!(refused(&worker.handle(commit(1))), "it was committed already");
    assert_eq!(worker.handle(shuffle(1, &[0])), [Command::Send { epoch: EPOCH }]);
}

#[test]
fn what_is_held_and_discarded_is_dropped_without_a_word_for_it_was_answered() {
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(provisional(1));
    worker.handle(executed(1, 7));
    assert_eq!(worker.handle(discard(1)), [Command::Drop { split: SplitId(1) }]);
    assert_eq!(worker.handle(discard(1)), [], "it is gone");
    assert!(refused(&worker.handle(commit(1))));
    assert_eq!(worker.handle(provisional(1)), [execute(1, true)], "it may come again");
}

#[test]
fn what_is_discarded_before_it_ended_is_answered_as_dropped() {
    let mut worker = Worker::new(WorkerId(0), 4);
    // Taken back before it began, provisional or not.
    for event in [split(1), provisional(1)] {
        worker.handle(event);
        assert_eq!(worker.handle(discard(1)), [Command::Cancel { split: SplitId(1) }]);
        assert_eq!(worker.handle(cancelled(1)), [dropped(1)]);
        assert_folded(&worker, &[]);
    }
    // It had begun: only what is provisional can be dropped.
    worker.handle(provisional(2));
    worker.handle(discard(2));
    assert_eq!(worker.handle(executed(2, 7)), [Command::Drop { split: SplitId(2) }, dropped(2)]);
    worker.handle(split(3));
    worker.handle(discard(3));
    assert_eq!(worker.handle(executed(3, 7)), mapped(3, 7));
    assert_folded(&worker, &[3]);
    assert_eq!(worker.handle(discard(3)), [], "what counts stays");
}

#[test]
fn a_failed_execution_takes_what_its_thread_had_folded_with_it() {
    let mut worker = Worker::new(WorkerId(0), 4);
    for id in 1..=3 {
        worker.handle(split(id));
        worker.handle(executed(id, 7));
    }
    worker.handle(split(4));
    let told = worker.handle(failed(4, &[1, 3]));
    let lost = vec![SplitId(1), SplitId(3)];
    let reply =
        Reply::MapFailed { split: SplitId(4), cause: "a panic".to_owned(), dropped: lost, unreadable: false };
    assert_eq!(told, [Command::Reply(reply)]);
    assert_folded(&worker, &[2]);
    assert_eq!(worker.handle(split(3)), [execute(3, false)], "it is mapped again");
}

#[test]
fn a_discarded_execution_that_fails_is_answered_too() {
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(provisional(1));
    worker.handle(discard(1));
    assert!(matches!(worker.handle(failed(1, &[]))[..], [Command::Reply(Reply::MapFailed { .. })]));
}

#[test]
fn the_shuffle_does_not_wait_for_what_is_discarded_and_provisional() {
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(provisional(1));
    worker.handle(discard(1));
    assert_eq!(worker.handle(shuffle(1, &[0])), [Command::Send { epoch: EPOCH }]);
    assert_eq!(worker.handle(executed(1, 7)), [Command::Drop { split: SplitId(1) }, dropped(1)]);
    let mut worker = Worker::new(WorkerId(0), 4);
    worker.handle(split(1));
    worker.handle(discard(1));
    assert!(refused(&worker.handle(shuffle(1, &[0]))), "it may have begun, and then it counts");
}

#[test]
fn acknowledges_the_shuffle_when_the_last_stream_ended_in_either_order() {
    for early in [false, true] {
        let mut worker = Worker::new(WorkerId(1), 2);
        let ended = Event::StreamEnded { epoch: EPOCH, source: WorkerId(0) };
        if early {
            assert_eq!(worker.handle(ended.clone()), []);
        }
        assert_eq!(worker.handle(shuffle(1, &[0, 1])), [Command::Send { epoch: EPOCH }]);
        let acknowledged = [Command::Reply(Reply::Shuffled { epoch: EPOCH, sent_bytes: 9 })];
        let sent = worker.handle(Event::SentAll { epoch: EPOCH, bytes: 9 });
        if early {
            assert_eq!(sent, acknowledged);
        } else {
            assert_eq!(sent, []);
            assert_eq!(worker.handle(ended), acknowledged);
        }
    }
}

#[test]
fn a_stream_of_another_epoch_does_not_count() {
    let mut worker = Worker::new(WorkerId(1), 2);
    worker.handle(Event::StreamEnded { epoch: Epoch(1), source: WorkerId(0) });
    worker.handle(Event::StreamEnded { epoch: Epoch(3), source: WorkerId(0) });
    worker.handle(shuffle(2, &[0, 1]));
    assert_eq!(worker.handle(Event::SentAll { epoch: Epoch(2), bytes: 0 }), []);
    // The one of a later epoch was early.
    let commands = worker.handle(shuffle(3, &[0, 1]));
    assert_eq!(commands, [Command::Abandon, Command::Send { epoch: Epoch(3) }]);
    let reply = Reply::Shuffled { epoch: Epoch(3), sent_bytes: 0 };
    assert_eq!(worker.handle(Event::SentAll { epoch: Epoch(3), bytes: 0 }), [Command::Reply(reply)]);
}

#[test]
fn what_is_late_of_an_abandoned_epoch_counts_nothing() {
    let mut worker = Worker::new(WorkerId(0), 2);
    worker.handle(shuffle(1, &[0, 1]));
    worker.handle(shuffle(2, &[0, 2]));
    assert_eq!(worker.handle(Event::SentAll { epoch: Epoch(1), bytes: 5 }), []);
    assert_eq!(worker.handle(Event::ShuffleFailed { epoch: Epoch(1), cause: "it is over".into() }), []);
    assert_eq!(worker.handle(Event::StreamEnded { epoch: Epoch(1), source: WorkerId(2) }), []);
    let cause = "connection refused".to_owned();
    let broke = |epoch| Event::StreamFailed { epoch, peer: WorkerId(1), cause: cause.clone() };
    assert_eq!(worker.handle(broke(Epoch(1))), []);
    assert_eq!(worker.handle(Event::SentAll { epoch: Epoch(2), bytes: 6 }), [], "one has not sent");
    let ended = Event::StreamEnded { epoch: Epoch(2), source: WorkerId(2) };
    let reply = Reply::Shuffled { epoch: Epoch(2), sent_bytes: 6 };
    assert_eq!(worker.handle(ended), [Command::Reply(reply)]);
    worker.handle(Event::Reduce { epoch: Epoch(2), top: None });
    for result in [Ok(Reduced::default()), Err("it is over".to_owned())] {
        assert_eq!(worker.handle(Event::ReducedAll { epoch: Epoch(1), result }), []);
    }
}

#[test]
fn takes_splits_and_newer_epochs_in_every_state_and_abandons_what_runs() {
    for n_steps in 0..=4 {
        let reach = || {
            let mut worker = match n_steps {
                0 => Worker::new(WorkerId(0), 2),
                _ => shuffled(1),
            };
            if n_steps == 0 {
                worker.handle(shuffle(1, &[0]));
            }
            let steps = [
                Event::Reduce { epoch: EPOCH, top: None },
                Event::ReducedAll { epoch: EPOCH, result: Ok(Reduced::default()) },
                Event::Fetch { epoch: EPOCH, credit: 4 },
            ];
            for step in steps.into_iter().take(n_steps.max(1) - 1) {
                assert!(!refused(&worker.handle(step)));
            }
            worker
        };
        let mut worker = reach();
        assert_eq!(worker.handle(split(1)), [Command::Abandon, execute(1, false)], "{n_steps} steps");
        assert_eq!(worker.handle(split(2)), [execute(2, false)], "it is abandoned once");
        worker.handle(executed(1, 7));
        worker.handle(executed(2, 7));
        assert_eq!(worker.handle(shuffle(2, &[0])), [Command::Send { epoch: Epoch(2) }]);
        assert_folded(&worker, &[1, 2]);
        let mut worker = reach();
        let commands = worker.handle(shuffle(2, &[0]));
        assert_eq!(commands, [Command::Abandon, Command::Send { epoch: Epoch(2) }], "{n_steps} steps");
        let mut worker = reach();
        assert!(refused(&worker.handle(shuffle(1, &[0]))), "{n_steps} steps: the epoch is not newer");
    }
}

#[test]
fn refuses_what_comes_out_of_order() {
    let mut worker = Worker::new(WorkerId(0), 2);
    assert!(refused(&worker.handle(Event::Reduce { epoch: EPOCH, top: None })));
    assert!(refused(&worker.handle(Event::Fetch { epoch: EPOCH, credit: 1 })));
    assert!(refused(&worker.handle(Event::Credit { epoch: EPOCH, batches: 1 })));
    assert!(refused(&worker.handle(shuffle(1, &[1, 2]))), "a shuffle among others");
    worker.handle(split(1));
    assert!(refused(&worker.handle(shuffle(1, &[0]))), "a split is in flight");
    worker.handle(executed(1, 0));
    worker.handle(shuffle(1, &[0]));
    assert!(refused(&worker.handle(Event::Reduce { epoch: EPOCH, top: None })), "it is not shuffled");
}

#[test]
fn credit_of_a_merge_that_was_broken_off_is_for_nobody() {
    let mut worker = shuffled(2);
    let credit = |epoch| Event::Credit { epoch: Epoch(epoch), batches: 1 };
    assert_eq!(worker.handle(credit(1)), []);
    assert_eq!(worker.handle(credit(2)), []);
    worker.handle(Event::Reduce { epoch: Epoch(2), top: None });
    worker.handle(Event::ReducedAll { epoch: Epoch(2), result: Ok(Reduced::default()) });
    worker.handle(Event::Fetch { epoch: Epoch(2), credit: 4 });
    assert_eq!(worker.handle(credit(1)), []);
    assert_eq!(worker.handle(credit(2)), [Command::Credit { batches: 1 }]);
    assert!(refused(&worker.handle(credit(3))));
}

#[test]
fn a_worker_that_cannot_send_or_reduce_gives_up_and_accuses_nobody() {
    let mut worker = Worker::new(WorkerId(0), 2);
    worker.handle(shuffle(1, &[0, 1]));
    let failed = |epoch| Event::ShuffleFailed { epoch, cause: "the job panicked".to_owned() };
    assert_eq!(worker.handle(failed(Epoch(0))), [], "of an epoch that is over");
    assert!(refused(&worker.handle(failed(EPOCH))));
    let mut worker = shuffled(1);
    worker.handle(Event::Reduce { epoch: EPOCH, top: None });
    let failed = Event::ReducedAll { epoch: EPOCH, result: Err("the job panicked".to_owned()) };
    assert!(refused(&worker.handle(failed)));
}

#[test]
fn a_broken_stream_is_told_at_once() {
    let cause = "connection refused".to_owned();
    let failed = Event::StreamFailed { epoch: EPOCH, peer: WorkerId(1), cause: cause.clone() };
    let told = [Command::Reply(Reply::PeerFailed { epoch: EPOCH, peer: WorkerId(1), cause })];
    let mut worker = Worker::new(WorkerId(0), 2);
    assert_eq!(worker.handle(failed.clone()), told, "also before the client's word of the epoch");
    worker.handle(shuffle(1, &[0, 1]));
    assert_eq!(worker.handle(failed.clone()), told);
    assert_eq!(shuffled(1).handle(failed), [], "all of the epoch has been sent and received");
}

/// Whatever comes, in whatever order: each split that was accepted is answered at most once, and never both counts and
/// is dropped.
#[test]
fn each_split_is_answered_once_whatever_comes() {
    let mut random = 7u64;
    let mut next = move |n: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % n
    };
    for _ in 0..2000 {
        let mut worker = Worker::new(WorkerId(0), 3);
        let mut open: BTreeSet<SplitId> = BTreeSet::new();
        let mut epoch = 0;
        for _ in 0..60 {
            let id = next(4);
            let event = match next(9) {
                0 => split(id),
                1 => provisional(id),
                2 => executed(id, 1),
                3 => failed(id, &[next(4)]),
                4 if open.contains(&SplitId(id)) => discard(id),
                5 => commit(id),
                6 => {
                    epoch += 1;
                    shuffle(epoch, &[0])
                }
                _ => discard(id),
            };
            let commands = worker.handle(event);
            if refused(&commands) {
                break;
            }
            for command in commands {
                match command {
                    Command::Execute { split, .. } => assert!(open.insert(split), "begun twice"),
                    Command::Reply(
                        Reply::Mapped { split, .. }
                        | Reply::MapFailed { split, .. }
                        | Reply::Dropped { split },
                    ) => assert!(open.remove(&split), "answered twice"),
                    Command::Drop { split } => assert!(!worker.folded().contains(&split)),
                    Command::Commit { split } => assert!(worker.folded().contains(&split)),
                    _ => {}
                }
            }
        }
    }
}
