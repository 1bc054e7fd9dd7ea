//! Machines: the state machines of both sides, to whom the other side says what it likes, whenever it likes.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mapreduce::logic::coordinator::{Command, Config, Coordinator, Event, Outcome, Phase};
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};
use mapreduce::logic::split::Split;
use mapreduce::logic::worker::{self, Execution, Reduced, Worker};

use super::{KIB, MIB, Target};

/// The client's machine, whose workers say anything; the input and the merge do as they are commanded.
pub const COORDINATOR: Target = Target {
    name: "coordinator",
    read: coordinate,
    seeds: || vec![honest_workers()],
    most_allocated: |bytes| MIB + KIB * bytes,
};

/// A worker's machine, whose client and peers say anything; its own threads do as they are commanded.
pub const WORKER: Target = Target {
    name: "worker",
    read: work,
    seeds: || vec![honest_client()],
    most_allocated: |bytes| 64 * KIB + KIB * bytes,
};

const WORKERS: u32 = 3;
const SPARES: usize = 1;
const SPLITS: u64 = 4;
const WINDOW: usize = 4;

/// What is said, a few bytes each.
struct Script<'b>(&'b [u8]);

impl Script<'_> {
    /// The next byte; zero at the end.
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *byte
    }

    fn worker(&mut self) -> WorkerId {
        WorkerId(match self.byte() {
            255 => u32::MAX,
            byte => u32::from(byte),
        })
    }

    fn split(&mut self) -> SplitId {
        SplitId(self.large())
    }

    fn epoch(&mut self) -> Epoch {
        Epoch(u32::try_from(self.large()).unwrap_or(u32::MAX))
    }

    fn large(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            byte => u64::from(byte),
        }
    }
}

/// Feeds the coordinator; whether the job was done.
fn coordinate(bytes: &[u8]) -> bool {
    let mut script = Script(bytes);
    let config = Config {
        worker_threads: vec![2; WORKERS as usize + SPARES],
        spares: SPARES,
        input_bytes: None,
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        skip_bad_input: false,
    };
    let mut now = Duration::ZERO;
    let (mut coordinator, mut commands) = Coordinator::start(config, now);
    let mut own = VecDeque::new();
    let mut cut = 0;
    while coordinator.outcome().is_none() && !script.0.is_empty() {
        for command in commands {
            match command {
                Command::CutSplit { .. } if cut < SPLITS => {
                    let split = Split { id: SplitId(cut), file: 0, offset: cut * 100, length: 100 };
                    own.push_back(Event::SplitCut { split });
                    cut += 1;
                }
                Command::CutSplit { .. } => own.push_back(Event::InputEnded),
                Command::Merge { epoch } => own.push_back(Event::Merged { epoch }),
                _ => {}
            }
        }
        let event = match script.byte() {
            b'!' => own.pop_front().unwrap_or(Event::Tick),
            b'+' => {
                now += Duration::from_millis(20 * script.large().min(1000));
                Event::Tick
            }
            said => match said_by_worker(said, &mut script) {
                // The client's loop hears of nobody else.
                Some((worker, event)) if worker.index() < coordinator.workers().len() => event,
                _ => Event::Tick,
            },
        };
        commands = coordinator.handle(event, now);
    }
    let _ = (
        coordinator.members(),
        coordinator.losses(),
        Phase::ALL.map(|phase| coordinator.phase_time(phase, now)),
    );
    matches!(coordinator.outcome(), Some(Outcome::Done))
}

/// What a worker says.
fn said_by_worker(said: u8, script: &mut Script<'_>) -> Option<(WorkerId, Event)> {
    let worker = script.worker();
    let cause = String::new();
    let event = match said {
        b'B' => Event::Begun { worker },
        b'M' => Event::Mapped { worker, split: script.split(), pairs: script.large() },
        b'F' => {
            let (split, dropped) = (script.split(), vec![script.split(), script.split()]);
            Event::MapFailed { worker, split, cause, dropped, unreadable: false }
        }
        b'D' => Event::Dropped { worker, split: script.split() },
        b'S' => Event::Shuffled { worker, epoch: script.epoch(), sent_bytes: script.large() },
        b'P' => Event::PeerFailed { worker, epoch: script.epoch(), peer: script.worker(), cause },
        b'R' => {
            let (epoch, n) = (script.epoch(), script.large());
            Event::Reduced { worker, epoch, distinct: n, entries: n, bytes: n }
        }
        b'E' => Event::Delivered { worker, epoch: script.epoch() },
        b'G' => Event::Failed { worker, cause },
        b'C' => Event::LinkClosed { worker, cause },
        b'H' => Event::Heard { worker },
        _ => return None,
    };
    Some((worker, event))
}

/// Feeds a worker; whether it came to send its result.
fn work(bytes: &[u8]) -> bool {
    let mut script = Script(bytes);
    let mut machine = Worker::new(WorkerId(0), WINDOW);
    let mut own = VecDeque::new();
    let mut executing = BTreeSet::new();
    let mut fetched = false;
    while !script.0.is_empty() {
        let event = match script.byte() {
            b'!' => own.pop_front(),
            said => said_to_worker(said, &mut script),
        };
        let Some(event) = event else { continue };
        if let worker::Event::Executed { split, .. } = &event {
            executing.remove(split);
        }
        for command in machine.handle(event) {
            match command {
                worker::Command::Execute { split, .. } => {
                    assert!(executing.insert(split), "no split is executed twice at a time");
                    assert!(executing.len() <= WINDOW, "no more are held than the window has places");
                    let end = match split.0 % 4 {
                        3 => Execution::Failed {
                            cause: String::new(),
                            dropped: vec![SplitId(0)],
                            unreadable: false,
                        },
                        _ => Execution::Folded { pairs: 1 },
                    };
                    own.push_back(worker::Event::Executed { split, end });
                }
                worker::Command::Send { epoch } => own.push_back(worker::Event::SentAll { epoch, bytes: 1 }),
                worker::Command::Reduce { epoch, .. } => {
                    own.push_back(worker::Event::ReducedAll { epoch, result: Ok(Reduced::default()) });
                }
                worker::Command::Fetch { .. } => fetched = true,
                // The job ends here, for it was not what it should be.
                worker::Command::Refuse { .. } => return false,
                _ => {}
            }
        }
    }
    fetched
}

/// What the client and peers say.
fn said_to_worker(said: u8, script: &mut Script<'_>) -> Option<worker::Event> {
    use worker::Event;
    Some(match said {
        b'M' => Event::Split { split: script.split(), provisional: script.byte() == 1 },
        b'C' => Event::Commit { split: script.split() },
        b'D' => Event::Discard { split: script.split() },
        b'S' => {
            let (epoch, n) = (script.epoch(), script.byte() % 4);
            Event::Shuffle { epoch, workers: (0..n).map(|_| script.worker()).collect() }
        }
        b'E' => Event::StreamEnded { epoch: script.epoch(), source: script.worker() },
        b'P' => {
            let (epoch, peer) = (script.epoch(), script.worker());
            Event::StreamFailed { epoch, peer, cause: String::new() }
        }
        b'R' => Event::Reduce { epoch: script.epoch(), top: Some(script.large()) },
        b'F' => Event::Fetch { epoch: script.epoch(), credit: 4 },
        b'+' => Event::Credit { epoch: script.epoch(), batches: 1 },
        _ => return None,
    })
}

/// All begin, the splits are cut; each worker maps whatever was sent, shuffles, reduces, delivers.
fn honest_workers() -> Vec<u8> {
    let mut script = Vec::new();
    let each = |script: &mut Vec<u8>, words: &[u8]| {
        for worker in 0..WORKERS as u8 {
            script.extend([words[0], worker]);
            script.extend(&words[1..]);
        }
    };
    each(&mut script, b"B");
    script.extend([b'!'; 16]);
    for split in 0..SPLITS as u8 {
        each(&mut script, &[b'M', split, 3]);
    }
    script.extend([b'!'; 16]);
    each(&mut script, &[b'S', 1, 9]);
    each(&mut script, &[b'R', 1, 9]);
    each(&mut script, &[b'E', 1]);
    script.extend([b'!'; 4]);
    script
}

/// Two splits, of which one is committed, a shuffle with one peer, the reduce, the result.
fn honest_client() -> Vec<u8> {
    let splits = [b'M', 0, 0, b'M', 1, 1, b'!', b'!', b'C', 1];
    let shuffle = [b'E', 1, 7, b'S', 1, 2, 0, 7, b'!'];
    let result = [b'R', 1, 5, b'!', b'F', 1, b'+', 1];
    [&splits[..], &shuffle, &result].concat()
}
