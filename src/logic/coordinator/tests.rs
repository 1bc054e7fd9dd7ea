//! One promise of the coordinator each; the workers are played by the test.

use super::*;
use crate::logic::ids::SplitId;
use crate::logic::split::Split;

mod backups;
mod bad_input;
mod losses;

const EPOCH: Epoch = Epoch(1);

/// A coordinator with what it commanded and has not been played yet.
struct Game {
    coordinator: Coordinator,
    commands: Vec<Command>,
    now: Duration,
    cut: u64,
}

impl Game {
    fn new(worker_threads: &[u32]) -> Self {
        let config = Config {
            worker_threads: worker_threads.to_vec(),
            spares: 0,
            input_bytes: Some(1 << 20),
            split_bytes: Some(100),
            worker_timeout: Some(Duration::from_secs(10)),
            backups: true,
            skip_bad_input: false,
        };
        Self::with(config)
    }

    fn with(config: Config) -> Self {
        let (coordinator, commands) = Coordinator::start(config, Duration::ZERO);
        Self { coordinator, commands, now: Duration::ZERO, cut: 0 }
    }

    fn tell(&mut self, event: Event) {
        self.commands.extend(self.coordinator.handle(event, self.now));
    }

    /// Lets `seconds` pass, with ticks as the client gives them.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            self.now += Duration::from_millis(500);
            self.tell(Event::Tick);
        }
    }

    /// Takes out the commands that `pick` wants.
    fn take<T>(&mut self, pick: impl Fn(&Command) -> Option<T>) -> Vec<T> {
        let picked = self.commands.iter().filter_map(&pick).collect();
        self.commands.retain(|command| pick(command).is_none());
        picked
    }

    fn begin(&mut self) {
        for worker in self.take(|command| match command {
            Command::Begin { worker } => Some(*worker),
            _ => None,
        }) {
            self.tell(Event::Begun { worker });
        }
    }

    /// Answers every wish for a split, until `n` are cut; then the input ends.
    fn cut(&mut self, n: u64) {
        loop {
            let asked = self.take(|command| matches!(command, Command::CutSplit { .. }).then_some(()));
            if asked.is_empty() {
                return;
            }
            for () in asked {
                if self.cut == n {
                    self.tell(Event::InputEnded);
                    continue;
                }
                let split = Split { id: SplitId(self.cut), file: 0, offset: self.cut * 100, length: 100 };
                self.cut += 1;
                self.tell(Event::SplitCut { split });
            }
        }
    }

    fn sent(&mut self) -> Vec<(WorkerId, Split)> {
        self.take(|command| match command {
            Command::Map { worker, split, .. } => Some((*worker, *split)),
            _ => None,
        })
    }

    /// Takes out what was sent, with whether it is provisional.
    fn executions(&mut self) -> Vec<(WorkerId, SplitId, bool)> {
        self.take(|command| match command {
            Command::Map { worker, split, provisional } => Some((*worker, split.id, *provisional)),
            _ => None,
        })
    }

    fn committed(&mut self) -> Vec<(WorkerId, SplitId)> {
        self.take(|command| match command {
            Command::Commit { worker, split } => Some((*worker, *split)),
            _ => None,
        })
    }

    fn discarded(&mut self) -> Vec<(WorkerId, SplitId)> {
        self.take(|command| match command {
            Command::Discard { worker, split } => Some((*worker, *split)),
            _ => None,
        })
    }

    fn mapped(&mut self, worker: u32, split: u64) {
        self.tell(Event::Mapped { worker: WorkerId(worker), split: SplitId(split), pairs: 10 });
    }

    fn lose(&mut self, worker: u32) {
        self.tell(Event::LinkClosed { worker: WorkerId(worker), cause: "it is gone".into() });
    }

    /// Returns who was lost, in order.
    fn lost(&self) -> Vec<WorkerId> {
        self.coordinator.losses().iter().map(|loss| loss.worker).collect()
    }

    /// Goes on from wherever the job is until it is in `phase`, `n` splits being the input.
    fn reach(&mut self, phase: Phase, n: u64) {
        let rounds = (0..1000).find(|_| {
            if self.coordinator.phase() == phase {
                return true;
            }
            self.begin();
            match self.coordinator.phase() {
                Phase::Split => self.cut(n),
                Phase::Map => self.map_all(n),
                Phase::Shuffle => {
                    self.coordinator.members().into_iter().for_each(|worker| self.shuffled(worker))
                }
                Phase::Reduce => {
                    self.coordinator.members().into_iter().for_each(|worker| self.reduced(worker))
                }
                Phase::Merge => {}
            }
            false
        });
        assert!(rounds.is_some(), "the job does not get to {phase}");
    }

    /// Ends the job from its merge on.
    fn finish(&mut self) {
        let epoch = self.coordinator.epoch();
        for worker in self.coordinator.members() {
            self.tell(Event::Delivered { worker, epoch });
        }
        self.tell(Event::Merged { epoch });
        assert_eq!(self.coordinator.outcome(), Some(&Outcome::Done));
    }

    /// Takes out the epochs and the workers of the shuffles that were commanded.
    fn shuffles(&mut self) -> Vec<(WorkerId, Epoch, Vec<WorkerId>)> {
        self.take(|command| match command {
            Command::Shuffle { worker, epoch, assignment } => {
                Some((*worker, *epoch, assignment.workers.clone()))
            }
            _ => None,
        })
    }

    /// Has whatever is in flight answered until nothing is, `n` splits being the input.
    fn map_all(&mut self, n: u64) {
        loop {
            self.cut(n);
            let held = self.coordinator.workers().iter().enumerate().flat_map(|(index, progress)| {
                progress.in_flight.iter().map(move |held| (WorkerId(index as u32), *held))
            });
            let held: Vec<_> = held.collect();
            if held.is_empty() {
                return;
            }
            for (worker, Execution { split, discarded, .. }) in held {
                let split = split.id;
                self.tell(match discarded {
                    true => Event::Dropped { worker, split },
                    false => Event::Mapped { worker, split, pairs: 10 },
                });
            }
        }
    }

    /// Forgets what was commanded, but for what is answered as it comes.
    fn forget_commands(&mut self) {
        self.commands.retain(|command| matches!(command, Command::CutSplit { .. } | Command::Begin { .. }));
    }

    fn workers(&self) -> Vec<WorkerId> {
        self.coordinator.numbered(|_| true)
    }

    fn shuffled(&mut self, worker: WorkerId) {
        let epoch = self.coordinator.epoch();
        self.tell(Event::Shuffled { worker, epoch, sent_bytes: 5 });
    }

    fn reduced(&mut self, worker: WorkerId) {
        let epoch = self.coordinator.epoch();
        self.tell(Event::Reduced { worker, epoch, distinct: 3, entries: 2, bytes: 5 });
    }

    fn failure(&self) -> &Failure {
        match self.coordinator.outcome() {
            Some(Outcome::Failed(failure)) => failure,
            other => panic!("the job should have failed, not {other:?}"),
        }
    }
}

#[test]
fn goes_through_all_phases_and_adds_up() {
    let mut game = Game::new(&[2, 1]);
    game.begin();
    game.map_all(50);
    assert_eq!(game.coordinator.phase(), Phase::Shuffle);
    game.workers().into_iter().for_each(|worker| game.shuffled(worker));
    game.workers().into_iter().for_each(|worker| game.reduced(worker));
    assert_eq!(game.coordinator.phase(), Phase::Merge);
    assert_eq!(game.commands.last(), Some(&Command::Merge { epoch: EPOCH }));
    game.finish();
    let totals = game.coordinator.totals();
    assert_eq!((totals.splits, totals.mapped_bytes, totals.pairs), (50, 5000, 500));
    assert_eq!((totals.distinct_keys, totals.entries, totals.shuffled_bytes), (6, 4, 10));
}

#[test]
fn an_empty_input_goes_through_all_phases_too() {
    let mut game = Game::new(&[1]);
    game.begin();
    game.map_all(0);
    assert_eq!(game.coordinator.phase(), Phase::Shuffle);
}

#[test]
fn no_split_is_sent_before_every_worker_knows_the_job() {
    let mut game = Game::new(&[1, 1]);
    game.cut(10);
    game.tell(Event::Begun { worker: WorkerId(0) });
    assert_eq!(game.sent(), []);
    game.tell(Event::Begun { worker: WorkerId(1) });
    assert!(!game.sent().is_empty());
}

/// The barrier that the original project got wrong: its shuffle was not acknowledged.
#[test]
fn no_phase_begins_before_the_slowest_worker_ended_the_last() {
    let mut game = Game::new(&[1, 1, 1]);
    game.begin();
    game.map_all(20);
    game.forget_commands();
    game.shuffled(WorkerId(0));
    game.shuffled(WorkerId(1));
    assert_eq!((game.coordinator.phase(), game.commands.len()), (Phase::Shuffle, 0));
    game.shuffled(WorkerId(2));
    let reduces = game.take(|command| matches!(command, Command::Reduce { .. }).then_some(()));
    assert_eq!((game.coordinator.phase(), reduces.len()), (Phase::Reduce, 3));
    game.reduced(WorkerId(2));
    game.reduced(WorkerId(0));
    assert_eq!((game.coordinator.phase(), game.commands.len()), (Phase::Reduce, 0));
}

#[test]
fn the_shuffle_waits_for_the_last_split_in_flight() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(2);
    let sent = game.sent();
    game.cut(2);
    let (worker, split) = sent[0];
    game.tell(Event::Mapped { worker, split: split.id, pairs: 1 });
    assert_eq!(game.coordinator.phase(), Phase::Map);
    let (worker, split) = sent[1];
    game.tell(Event::Mapped { worker, split: split.id, pairs: 1 });
    assert_eq!(game.coordinator.phase(), Phase::Shuffle);
}

#[test]
fn a_worker_holds_no_more_splits_than_its_window() {
    let mut game = Game::new(&[4, 1]);
    game.begin();
    game.cut(1000);
    let sent = game.sent();
    for (worker, threads) in [(WorkerId(0), 4), (WorkerId(1), 1)] {
        let held = sent.iter().filter(|(to, _)| *to == worker).count();
        assert_eq!(held, window(threads), "{worker:?}");
    }
}

#[test]
fn an_acknowledgement_that_comes_twice_counts_once() {
    let mut game = Game::new(&[1]);
    game.begin();
    game.cut(3);
    let (worker, split) = game.sent()[0];
    for _ in 0..2 {
        game.tell(Event::Mapped { worker, split: split.id, pairs: 10 });
    }
    assert_eq!(game.coordinator.totals().pairs, 10);
    assert_eq!(game.coordinator.totals().mapped_bytes, split.length);
}

#[test]
fn time_in_which_the_client_stood_still_is_held_against_nobody() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.cut(20);
    game.now += Duration::from_secs(3600);
    game.tell(Event::Tick);
    game.wait(9);
    assert_eq!(game.coordinator.outcome(), None);
    game.wait(2);
    assert!(matches!(game.failure(), Failure::NoWorkerLeft(_)));
}

#[test]
fn figures_that_cannot_be_do_not_overflow() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.map_all(20);
    let most = u64::MAX;
    for worker in game.workers() {
        game.tell(Event::Shuffled { worker, epoch: EPOCH, sent_bytes: most });
    }
    for worker in game.workers() {
        game.tell(Event::Reduced { worker, epoch: EPOCH, distinct: most, entries: most, bytes: most });
    }
    let totals = game.coordinator.totals();
    assert_eq!((totals.shuffled_bytes, totals.distinct_keys, totals.entries), (most, most, most));
}

#[test]
fn an_acknowledgement_of_an_older_epoch_is_late_and_any_other_is_a_breach() {
    let mut game = Game::new(&[1, 1]);
    game.begin();
    game.map_all(20);
    game.tell(Event::Shuffled { worker: WorkerId(0), epoch: Epoch(0), sent_bytes: 5 });
    assert_eq!(game.lost(), []);
    for breach in [
        Event::Shuffled { worker: WorkerId(0), epoch: Epoch(2), sent_bytes: 5 },
        Event::Reduced { worker: WorkerId(0), epoch: EPOCH, distinct: 0, entries: 0, bytes: 0 },
        Event::Delivered { worker: WorkerId(0), epoch: EPOCH },
        Event::Begun { worker: WorkerId(0) },
    ] {
        let mut game = Game::new(&[1, 1]);
        game.begin();
        game.map_all(20);
        game.tell(breach.clone());
        assert_eq!(game.lost(), [WorkerId(0)], "{breach:?}");
    }
}

#[test]
fn sizes_shrink_toward_the_end_of_the_input() {
    let config = Config {
        worker_threads: vec![2, 2],
        spares: 0,
        input_bytes: Some(64 << 20),
        split_bytes: None,
        worker_timeout: None,
        backups: false,
        skip_bad_input: false,
    };
    let (mut coordinator, mut commands) = Coordinator::start(config, Duration::ZERO);
    for worker in [WorkerId(0), WorkerId(1)] {
        commands.extend(coordinator.handle(Event::Begun { worker }, Duration::ZERO));
    }
    let mut sizes = Vec::new();
    let (mut offset, total) = (0, 64 << 20);
    while coordinator.phase() < Phase::Shuffle {
        let mut next = Vec::new();
        for command in commands {
            let event = match command {
                Command::CutSplit { .. } if offset == total => Event::InputEnded,
                Command::CutSplit { target_bytes } => {
                    let length = target_bytes.min(total - offset);
                    let split = Split { id: SplitId(sizes.len() as u64), file: 0, offset, length };
                    offset += length;
                    sizes.push(length);
                    Event::SplitCut { split }
                }
                Command::Map { worker, split, .. } => Event::Mapped { worker, split: split.id, pairs: 0 },
                _ => continue,
            };
            next.extend(coordinator.handle(event, Duration::ZERO));
        }
        commands = next;
    }
    assert_eq!(sizes.iter().sum::<u64>(), total);
    assert_eq!(sizes.iter().max(), Some(&pace::MAX_SPLIT_BYTES));
    let last = &sizes[sizes.len() - 3..];
    assert!(last.iter().all(|&size| size < pace::MAX_SPLIT_BYTES / 4), "the last splits are small: {last:?}");
}
