//! Coordinator: the job's state machine: events in, commands out, time passed in.
//!
//! ```text
//!   Split -> Map -> Shuffle -> Reduce -> Merge -> Done | Failed
//! ```
//!
//! Invariant: a phase begins only when every worker has acknowledged the one before.
//! Invariant: no socket, file, thread or clock in here; the same events give the same commands.
//! Source: Dean & Ghemawat (OSDI 2004), 3.1 and 3.2.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{Epoch, SplitId, WorkerId};
use super::split::Split;

/// What a job is at. No phase begins before every live worker ended the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Workers are greeted and the input is opened, until the first split can be sent.
    Split,
    Map,
    Shuffle,
    Reduce,
    Merge,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 5] = [Phase::Split, Phase::Map, Phase::Shuffle, Phase::Reduce, Phase::Merge];
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Phase::Split => "split",
            Phase::Map => "map",
            Phase::Shuffle => "shuffle",
            Phase::Reduce => "reduce",
            Phase::Merge => "merge",
        })
    }
}

/// What the coordinator is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Map threads of each worker.
    pub worker_threads: Vec<u32>,
    /// Bytes of the input where that is known from the start.
    pub input_bytes: Option<u64>,
    /// Bytes of a split; chosen from the size of the input if `None`.
    pub split_bytes: Option<u64>,
    /// How long a worker may be silent before it is lost; `None` if workers cannot be lost (in-process).
    pub worker_timeout: Option<Duration>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The worker knows the job.
    Begun {
        worker: WorkerId,
    },
    /// The input was cut as commanded.
    SplitCut {
        split: Split,
    },
    /// The input has no more splits.
    InputEnded,
    /// The input cannot be read, or not be read again as it was.
    InputFailed {
        cause: String,
    },
    /// The worker has folded the split.
    Mapped {
        worker: WorkerId,
        split: SplitId,
        pairs: u64,
    },
    /// The execution failed on the worker.
    MapFailed {
        worker: WorkerId,
        split: SplitId,
        cause: String,
    },
    Shuffled {
        worker: WorkerId,
        epoch: Epoch,
        sent_bytes: u64,
    },
    /// A stream between the worker and its peer broke; the worker itself is well.
    PeerFailed {
        worker: WorkerId,
        epoch: Epoch,
        peer: WorkerId,
        cause: String,
    },
    Reduced {
        worker: WorkerId,
        epoch: Epoch,
        distinct: u64,
        entries: u64,
        bytes: u64,
    },
    /// The whole result is written; once the job has ended well, the client makes it final.
    Merged,
    /// The result cannot be written.
    OutputFailed {
        cause: String,
    },
    /// The worker gives up.
    Failed {
        worker: WorkerId,
        cause: String,
    },
    /// The link to the worker is gone.
    LinkClosed {
        worker: WorkerId,
        cause: String,
    },
    /// The worker gave a sign of life.
    Heard {
        worker: WorkerId,
    },
    /// Time has passed.
    Tick,
    /// The user wants to end.
    Interrupted,
}

/// What is to be done. What comes of it arrives as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell the worker of the job.
    Begin {
        worker: WorkerId,
    },
    /// Cut the next split, of about so many bytes.
    CutSplit {
        target_bytes: u64,
    },
    /// Send the split to the worker.
    Map {
        worker: WorkerId,
        split: Split,
    },
    Shuffle {
        worker: WorkerId,
        epoch: Epoch,
    },
    Reduce {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// Fetch the partitions of all workers and merge them into the output.
    Merge {
        epoch: Epoch,
    },
    /// The worker is to drop the job.
    End {
        worker: WorkerId,
    },
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(Failure),
}

/// Why the job failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    WorkerLost {
        worker: WorkerId,
        phase: Phase,
        cause: String,
        /// The peer that tells of it, where it is one.
        accuser: Option<WorkerId>,
    },
    /// The job's code, or the worker's resources, failed on this split.
    ExecutionFailed {
        worker: WorkerId,
        split: Split,
        cause: String,
    },
    Input {
        cause: String,
    },
    Output {
        cause: String,
    },
    Interrupted,
}

/// What the coordinator knows of one worker.
#[derive(Clone, Debug)]
pub struct WorkerProgress {
    pub threads: u32,
    /// Splits that were sent and are not acknowledged.
    pub in_flight: Vec<Split>,
    pub splits_mapped: u64,
    pub bytes_mapped: u64,
    /// Entries of its result, once it has announced them.
    pub entries: u64,
    /// Whether the worker has acknowledged the phase.
    pub acknowledged: bool,
    last_heard: Duration,
}

/// Sums over the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub splits: u64,
    pub cut_bytes: u64,
    pub mapped_bytes: u64,
    pub pairs: u64,
    pub shuffled_bytes: u64,
    pub reduced_bytes: u64,
    pub distinct_keys: u64,
    /// Entries that the workers will send for the merge.
    pub entries: u64,
}

/// Splits that a worker may hold beyond one for each of its threads: they are on their way or wait, which hides the
/// round trip of the network. More would only be lost with the worker.
const WINDOW_AHEAD_SPLITS: usize = 2;

/// Largest split that is chosen: large enough that a message a split costs nothing, small enough that the last ones
/// end at about the same time.
const MAX_SPLIT_BYTES: u64 = 4 << 20;

/// Smallest split that is chosen, below which the work on a split is comparable to the message about it.
const MIN_SPLIT_BYTES: u64 = 64 << 10;

/// Ticks come several times a second. When they have not for so long, it was the client that stood still (a terminal
/// that takes no output, a suspended machine), and the workers' silence meanwhile says nothing.
const MAX_TICK_GAP: Duration = Duration::from_secs(1);

/// The job's state machine.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    phase: Phase,
    epoch: Epoch,
    began: BTreeMap<Phase, Duration>,
    ended: Option<Duration>,
    last_tick: Duration,
    workers: Vec<WorkerProgress>,
    /// Cut, and not sent to any worker.
    pending: VecDeque<Split>,
    /// Sizes of the splits that are being cut, in the order in which they were asked for.
    asked: VecDeque<u64>,
    input_ended: bool,
    totals: Totals,
    outcome: Option<Outcome>,
}

impl Coordinator {
    /// Makes the state machine of a new job and the commands that start it.
    ///
    /// # Panics
    /// If there is no worker: the client does not start a job without one.
    pub fn start(config: Config, now: Duration) -> (Self, Vec<Command>) {
        assert!(!config.worker_threads.is_empty(), "a job has at least one worker");
        let workers = config
            .worker_threads
            .iter()
            .map(|&threads| WorkerProgress {
                threads,
                in_flight: Vec::new(),
                splits_mapped: 0,
                bytes_mapped: 0,
                entries: 0,
                acknowledged: false,
                last_heard: now,
            })
            .collect();
        let mut coordinator = Self {
            config,
            phase: Phase::Split,
            epoch: Epoch(1),
            began: BTreeMap::from([(Phase::Split, now)]),
            ended: None,
            last_tick: now,
            workers,
            pending: VecDeque::new(),
            asked: VecDeque::new(),
            input_ended: false,
            totals: Totals::default(),
            outcome: None,
        };
        let mut commands = coordinator.worker_ids().map(|worker| Command::Begin { worker }).collect();
        coordinator.advance(now, &mut commands);
        (coordinator, commands)
    }

    /// Takes an event and returns what is to be done. After an outcome there is nothing more to do.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        if self.outcome.is_some() {
            return Vec::new();
        }
        self.hear(&event, now);
        let mut commands = Vec::new();
        match event {
            Event::Begun { worker } if self.phase == Phase::Split => self.acknowledge(worker),
            Event::SplitCut { split } => self.take_split(split),
            Event::InputEnded => {
                self.asked.clear();
                self.input_ended = true;
            }
            Event::Mapped { worker, split, pairs } => self.mapped(worker, split, pairs),
            Event::Shuffled { worker, epoch, sent_bytes } if self.expects(Phase::Shuffle, worker, epoch) => {
                add(&mut self.totals.shuffled_bytes, sent_bytes);
                self.acknowledge(worker);
            }
            Event::Reduced { worker, epoch, distinct, entries, bytes }
                if self.expects(Phase::Reduce, worker, epoch) =>
            {
                add(&mut self.totals.distinct_keys, distinct);
                add(&mut self.totals.entries, entries);
                add(&mut self.totals.reduced_bytes, bytes);
                self.workers[worker.index()].entries = entries;
                self.acknowledge(worker);
            }
            Event::Merged if self.phase == Phase::Merge => self.end(Outcome::Done, now, &mut commands),
            Event::Heard { .. } => {}
            Event::Tick => self.check_deadlines(now, &mut commands),
            other => self.fail(other, now, &mut commands),
        }
        self.advance(now, &mut commands);
        commands
    }

    /// Returns how the job ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub fn workers(&self) -> &[WorkerProgress] {
        &self.workers
    }

    /// Returns how long `phase` took, or has taken until `now`.
    pub fn phase_time(&self, phase: Phase, now: Duration) -> Duration {
        let Some(&began) = self.began.get(&phase) else { return Duration::ZERO };
        let next = self.began.range(phase..).nth(1).map(|(_, &next)| next);
        next.or(self.ended).unwrap_or(now).saturating_sub(began)
    }

    fn worker_ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..self.workers.len() as u32).map(WorkerId)
    }

    fn hear(&mut self, event: &Event, now: Duration) {
        if let Event::Begun { worker }
        | Event::Mapped { worker, .. }
        | Event::Shuffled { worker, .. }
        | Event::Reduced { worker, .. }
        | Event::Heard { worker } = event
            && let Some(progress) = self.workers.get_mut(worker.index())
        {
            progress.last_heard = now;
        }
    }

    fn acknowledge(&mut self, worker: WorkerId) {
        if let Some(progress) = self.workers.get_mut(worker.index()) {
            progress.acknowledged = true;
        }
    }

    fn expects(&self, phase: Phase, worker: WorkerId, epoch: Epoch) -> bool {
        let acknowledged = self.workers.get(worker.index()).is_none_or(|progress| progress.acknowledged);
        self.phase == phase && self.epoch == epoch && !acknowledged
    }

    fn take_split(&mut self, split: Split) {
        self.asked.pop_front();
        self.totals.splits += 1;
        self.totals.cut_bytes += split.length;
        self.pending.push_back(split);
    }

    fn mapped(&mut self, worker: WorkerId, split: SplitId, pairs: u64) {
        let Some(progress) = self.workers.get_mut(worker.index()) else { return };
        // An acknowledgement of a split that the worker does not hold counts nothing.
        let Some(at) = progress.in_flight.iter().position(|held| held.id == split) else { return };
        let split = progress.in_flight.swap_remove(at);
        progress.splits_mapped += 1;
        progress.bytes_mapped += split.length;
        self.totals.mapped_bytes += split.length;
        add(&mut self.totals.pairs, pairs);
    }

    fn check_deadlines(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let stood_still = now.saturating_sub(self.last_tick) > MAX_TICK_GAP;
        self.last_tick = now;
        if stood_still {
            self.workers.iter_mut().for_each(|progress| progress.last_heard = now);
        }
        let Some(timeout) = self.config.worker_timeout else { return };
        let silent = |progress: &WorkerProgress| now.saturating_sub(progress.last_heard) > timeout;
        let Some(at) = self.workers.iter().position(silent) else { return };
        let cause = format!("nothing heard of it for {} s", timeout.as_secs());
        let failure = self.lost(WorkerId(at as u32), cause);
        self.end(Outcome::Failed(failure), now, commands);
    }

    fn lost(&self, worker: WorkerId, cause: String) -> Failure {
        Failure::WorkerLost { worker, phase: self.phase, cause, accuser: None }
    }

    /// Ends the job for an event that no phase goes on after, or that does not belong to the phase.
    fn fail(&mut self, event: Event, now: Duration, commands: &mut Vec<Command>) {
        let failure = match event {
            Event::MapFailed { worker, split, cause } => {
                let held = self.workers.get(worker.index()).map(|progress| progress.in_flight.as_slice());
                match held.unwrap_or_default().iter().find(|held| held.id == split) {
                    Some(&split) => Failure::ExecutionFailed { worker, split, cause },
                    None => self.lost(worker, cause),
                }
            }
            Event::LinkClosed { worker, cause } | Event::Failed { worker, cause } => self.lost(worker, cause),
            Event::PeerFailed { epoch, .. } if epoch != self.epoch => return,
            // The one that does not answer its peer is out, not the one that says so; unless that accuses nobody.
            Event::PeerFailed { worker, peer, cause, .. } => {
                if peer == worker || peer.index() >= self.workers.len() {
                    self.lost(worker, cause)
                } else {
                    let accuser = Some(worker);
                    Failure::WorkerLost { worker: peer, phase: self.phase, cause, accuser }
                }
            }
            Event::InputFailed { cause } => Failure::Input { cause },
            Event::OutputFailed { cause } => Failure::Output { cause },
            Event::Interrupted => Failure::Interrupted,
            Event::Begun { worker } | Event::Shuffled { worker, .. } | Event::Reduced { worker, .. } => {
                self.lost(worker, format!("it acknowledged what it was not asked for in {}", self.phase))
            }
            Event::Merged
            | Event::SplitCut { .. }
            | Event::InputEnded
            | Event::Mapped { .. }
            | Event::Heard { .. }
            | Event::Tick => return,
        };
        self.end(Outcome::Failed(failure), now, commands);
    }

    fn end(&mut self, outcome: Outcome, now: Duration, commands: &mut Vec<Command>) {
        self.outcome = Some(outcome);
        self.ended = Some(now);
        commands.extend(self.worker_ids().map(|worker| Command::End { worker }));
    }

    /// Hands out splits and goes to the next phase where the barrier allows it.
    fn advance(&mut self, now: Duration, commands: &mut Vec<Command>) {
        if self.outcome.is_some() {
            return;
        }
        if matches!(self.phase, Phase::Split | Phase::Map) {
            self.ask_for_splits(commands);
        }
        if self.phase == Phase::Split
            && self.all_acknowledged()
            && (self.input_ended || !self.pending.is_empty())
        {
            self.enter(Phase::Map, now);
        }
        if self.phase == Phase::Map {
            self.assign_splits(commands);
            let idle = self.workers.iter().all(|progress| progress.in_flight.is_empty());
            if self.input_ended && self.pending.is_empty() && idle {
                self.enter(Phase::Shuffle, now);
                let epoch = self.epoch;
                commands.extend(self.worker_ids().map(|worker| Command::Shuffle { worker, epoch }));
            }
        }
        if self.phase == Phase::Shuffle && self.all_acknowledged() {
            self.enter(Phase::Reduce, now);
            let epoch = self.epoch;
            commands.extend(self.worker_ids().map(|worker| Command::Reduce { worker, epoch }));
        }
        if self.phase == Phase::Reduce && self.all_acknowledged() {
            self.enter(Phase::Merge, now);
            commands.push(Command::Merge { epoch: self.epoch });
        }
    }

    fn all_acknowledged(&self) -> bool {
        self.workers.iter().all(|progress| progress.acknowledged)
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        self.phase = phase;
        self.began.insert(phase, now);
        for progress in &mut self.workers {
            progress.acknowledged = false;
        }
    }

    /// Keeps as many splits cut as the workers' windows have room for.
    fn ask_for_splits(&mut self, commands: &mut Vec<Command>) {
        if self.input_ended {
            return;
        }
        let room: usize =
            self.workers.iter().map(|progress| window(progress.threads) - progress.in_flight.len()).sum();
        while self.pending.len() + self.asked.len() < room {
            let target_bytes = self.split_bytes();
            self.asked.push_back(target_bytes);
            commands.push(Command::CutSplit { target_bytes });
        }
    }

    /// Chooses the size of the next split: an even share of what is left for each thread, twice over, so that sizes
    /// shrink toward the end of the input and threads end together (guided self-scheduling, Polychronopoulos & Kuck
    /// 1987).
    fn split_bytes(&self) -> u64 {
        if let Some(bytes) = self.config.split_bytes {
            return bytes.max(1);
        }
        let Some(input_bytes) = self.config.input_bytes else { return MAX_SPLIT_BYTES };
        let asked: u64 = self.asked.iter().sum();
        let left = input_bytes.saturating_sub(self.totals.cut_bytes + asked);
        let threads: u64 = self.workers.iter().map(|progress| u64::from(progress.threads)).sum();
        (left / (2 * threads.max(1))).clamp(MIN_SPLIT_BYTES, MAX_SPLIT_BYTES)
    }

    /// Sends pending splits, always to the worker that holds the fewest for its threads.
    fn assign_splits(&mut self, commands: &mut Vec<Command>) {
        while !self.pending.is_empty() {
            let open = self.worker_ids().filter(|worker| {
                let progress = &self.workers[worker.index()];
                progress.in_flight.len() < window(progress.threads)
            });
            let load = |worker: &WorkerId| {
                let progress = &self.workers[worker.index()];
                (progress.in_flight.len() * 1024 / progress.threads.max(1) as usize, worker.0)
            };
            let Some(worker) = open.min_by_key(load) else { return };
            let Some(split) = self.pending.pop_front() else { return };
            self.workers[worker.index()].in_flight.push(split);
            commands.push(Command::Map { worker, split });
        }
    }
}

/// Adds what a worker says, which may be anything.
fn add(total: &mut u64, more: u64) {
    *total = total.saturating_add(more);
}

/// Returns how many splits a worker with `threads` map threads may hold.
pub fn window(threads: u32) -> usize {
    threads as usize + WINDOW_AHEAD_SPLITS
}

#[cfg(test)]
mod tests;
