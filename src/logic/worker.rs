//! Worker: one job's state machine on a worker: events in, commands out.
//!
//! A split, or a shuffle of a newer epoch, may come in whatever state: a worker was lost elsewhere, and what this one
//! has of the epoch before is void. Its map tables stay.
//!
//! Invariant: what does not belong to the state, the epoch or the window is refused, and ends this job on this worker
//! only; the process lives on.
//! Invariant: every split that comes is answered once: as mapped, failed or dropped.
//! Invariant: `Shuffled` is acknowledged once every stream of the epoch, in either direction, has ended well.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Epoch, SplitId, WorkerId};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client sent a split; a provisional execution counts only once it is committed.
    Split { split: SplitId, provisional: bool },
    /// An execution has ended. A provisional one, and no other, has a table of its own, which is held.
    Executed { split: SplitId, end: Execution },
    /// The client wants what was folded provisionally.
    Commit { split: SplitId },
    /// The client does not want the execution any more.
    Discard { split: SplitId },
    /// The client asks for the shuffle among `workers`.
    Shuffle { epoch: Epoch, workers: Vec<WorkerId> },
    /// This worker has sent all that belongs to others, and it was acknowledged.
    SentAll { epoch: Epoch, bytes: u64 },
    /// This worker could not make what belongs to others, or not hold what they sent.
    ShuffleFailed { epoch: Epoch, cause: String },
    /// The stream from `source` arrived whole.
    StreamEnded { epoch: Epoch, source: WorkerId },
    /// A stream to or from `peer` broke.
    StreamFailed { epoch: Epoch, peer: WorkerId, cause: String },
    /// The client asks to fold and sort.
    Reduce { epoch: Epoch, top: Option<u64> },
    /// Folded and sorted; or what arrived was malformed.
    ReducedAll { epoch: Epoch, result: Result<Reduced, String> },
    /// The client asks for the result.
    Fetch { epoch: Epoch, credit: u32 },
    /// The client makes room for more batches of the result.
    Credit { epoch: Epoch, batches: u32 },
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The split gave so many pairs.
    Folded { pairs: u64 },
    /// Nothing of it is folded; and with it was lost what its thread had folded of the splits `dropped`. If it is
    /// `unreadable`, the text could not be had.
    Failed { cause: String, dropped: Vec<SplitId>, unreadable: bool },
    /// It was cancelled before it began.
    Cancelled,
}

/// What a reduce gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reduced {
    /// Distinct keys of the worker's partitions.
    pub distinct: u64,
    /// Entries that will be sent: fewer where only the top is wanted.
    pub entries: u64,
    /// Bytes of the streams that were folded.
    pub bytes: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Fold the split: into a table of its own if that is provisional, else into the map tables.
    Execute {
        split: SplitId,
        provisional: bool,
    },
    /// If the execution has not begun, it is to end as cancelled; else it goes on.
    Cancel {
        split: SplitId,
    },
    /// The table of the provisional execution is one of the map tables now.
    Commit {
        split: SplitId,
    },
    /// The table of the provisional execution is not wanted.
    Drop {
        split: SplitId,
    },
    /// Whatever belongs to the epoch that runs is void: its work ends, its streams close, its results are dropped.
    /// The map tables stay.
    Abandon,
    /// Group the map tables by partition and send each to its owner.
    Send {
        epoch: Epoch,
    },
    Reduce {
        epoch: Epoch,
        top: Option<u64>,
    },
    /// Send the result, with credit for so many batches.
    Fetch {
        epoch: Epoch,
        credit: u32,
    },
    Credit {
        batches: u32,
    },
    Reply(Reply),
    /// Give up the job on this worker: the client or a peer broke the protocol, or this worker cannot go on.
    Refuse {
        cause: String,
    },
}

/// What the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Mapped { split: SplitId, pairs: u64 },
    MapFailed { split: SplitId, cause: String, dropped: Vec<SplitId>, unreadable: bool },
    Dropped { split: SplitId },
    Shuffled { epoch: Epoch, sent_bytes: u64 },
    PeerFailed { epoch: Epoch, peer: WorkerId, cause: String },
    Reduced { epoch: Epoch, reduced: Reduced },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Mapping,
    Shuffling { epoch: Epoch, sent_bytes: Option<u64> },
    Shuffled { epoch: Epoch },
    Reducing { epoch: Epoch },
    Reduced { epoch: Epoch },
    Fetching { epoch: Epoch },
}

/// An execution that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    provisional: bool,
    discarded: bool,
}

/// The state machine of one job on one worker.
#[derive(Debug)]
pub struct Worker {
    me: WorkerId,
    /// Splits that may be in flight at once: a client that sends more does not keep to the window.
    window: usize,
    state: State,
    in_flight: BTreeMap<SplitId, Running>,
    /// Executed provisionally, and neither committed nor discarded.
    held: BTreeSet<SplitId>,
    /// What the map tables are made of.
    folded: BTreeSet<SplitId>,
    /// The newest epoch that the client has spoken of.
    epoch: Epoch,
    /// Sources whose stream of the current epoch has not arrived whole.
    missing: BTreeSet<WorkerId>,
    /// Streams that ended before the client's word of their epoch arrived here.
    early: BTreeSet<(Epoch, WorkerId)>,
}

impl Worker {
    /// Makes the state machine of worker `me`, which holds at most `window` splits.
    pub fn new(me: WorkerId, window: usize) -> Self {
        Self {
            me,
            window,
            state: State::Mapping,
            in_flight: BTreeMap::new(),
            held: BTreeSet::new(),
            folded: BTreeSet::new(),
            epoch: Epoch(0),
            missing: BTreeSet::new(),
            early: BTreeSet::new(),
        }
    }

    /// Takes an event and returns what is to be done.
    pub fn handle(&mut self, event: Event) -> Vec<Command> {
        match event {
            Event::Split { split, provisional } => self.split(split, provisional),
            Event::Executed { split, end } => self.executed(split, end),
            Event::Commit { split } => match self.held.remove(&split) {
                true => {
                    self.folded.insert(split);
                    vec![Command::Commit { split }]
                }
                false => refuse("a split was to be committed that is not held"),
            },
            Event::Discard { split } => self.discard(split),
            Event::Shuffle { epoch, workers } => self.shuffle(epoch, workers),
            Event::SentAll { epoch, bytes } => {
                if let State::Shuffling { epoch: current, sent_bytes } = &mut self.state
                    && *current == epoch
                {
                    *sent_bytes = Some(bytes);
                }
                self.shuffled()
            }
            Event::ShuffleFailed { epoch, cause } => match self.state {
                State::Shuffling { epoch: current, .. } if current == epoch => {
                    vec![Command::Refuse { cause }]
                }
                _ => Vec::new(),
            },
            Event::StreamEnded { epoch, source } => {
                self.early.insert((epoch, source));
                self.shuffled()
            }
            Event::StreamFailed { epoch, peer, cause } => self.stream_failed(epoch, peer, cause),
            Event::Reduce { epoch, top } => match self.state {
                State::Shuffled { epoch: current } if current == epoch => {
                    self.state = State::Reducing { epoch };
                    vec![Command::Reduce { epoch, top }]
                }
                _ => refuse("reduce was asked for before the shuffle ended"),
            },
            Event::ReducedAll { epoch, result } => match (self.state.clone(), result) {
                (State::Reducing { epoch: current }, Ok(reduced)) if current == epoch => {
                    self.state = State::Reduced { epoch };
                    vec![Command::Reply(Reply::Reduced { epoch, reduced })]
                }
                (State::Reducing { epoch: current }, Err(cause)) if current == epoch => {
                    vec![Command::Refuse { cause }]
                }
                _ => Vec::new(),
            },
            Event::Fetch { epoch, credit } => match self.state {
                State::Reduced { epoch: current } if current == epoch => {
                    self.state = State::Fetching { epoch };
                    vec![Command::Fetch { epoch, credit }]
                }
                _ => refuse("the result was asked for before it was there"),
            },
            Event::Credit { epoch, batches } => match self.state {
                State::Fetching { epoch: current } if current == epoch => vec![Command::Credit { batches }],
                // A merge that was broken off may have given it.
                _ if epoch <= self.epoch => Vec::new(),
                _ => refuse("credit was given for a result that nobody asked for"),
            },
        }
    }

    /// Returns the splits that the map tables are made of.
    pub fn folded(&self) -> &BTreeSet<SplitId> {
        &self.folded
    }

    fn split(&mut self, split: SplitId, provisional: bool) -> Vec<Command> {
        if self.in_flight.len() >= self.window {
            return refuse("more splits came than the window holds");
        }
        if self.folded.contains(&split) || self.held.contains(&split) {
            return refuse("a split came that is folded here");
        }
        if self.in_flight.insert(split, Running { provisional, discarded: false }).is_some() {
            return refuse("a split came twice");
        }
        let mut commands = self.abandon();
        commands.push(Command::Execute { split, provisional });
        commands
    }

    /// Goes back to mapping: a worker was lost, and what it had folded is mapped again.
    fn abandon(&mut self) -> Vec<Command> {
        match std::mem::replace(&mut self.state, State::Mapping) {
            State::Mapping => Vec::new(),
            _ => vec![Command::Abandon],
        }
    }

    fn executed(&mut self, split: SplitId, end: Execution) -> Vec<Command> {
        let Some(Running { provisional, discarded }) = self.in_flight.remove(&split) else {
            return Vec::new();
        };
        let reply = match end {
            Execution::Folded { .. } if provisional && discarded => {
                return vec![Command::Drop { split }, Command::Reply(Reply::Dropped { split })];
            }
            Execution::Folded { pairs } => {
                if provisional { &mut self.held } else { &mut self.folded }.insert(split);
                Reply::Mapped { split, pairs }
            }
            Execution::Failed { cause, dropped, unreadable } => {
                for lost in &dropped {
                    self.folded.remove(lost);
                }
                Reply::MapFailed { split, cause, dropped, unreadable }
            }
            Execution::Cancelled => Reply::Dropped { split },
        };
        vec![Command::Reply(reply)]
    }

    fn discard(&mut self, split: SplitId) -> Vec<Command> {
        if let Some(running) = self.in_flight.get_mut(&split) {
            running.discarded = true;
            return vec![Command::Cancel { split }];
        }
        match self.held.remove(&split) {
            true => vec![Command::Drop { split }],
            // It has failed, or is folded: that was said while the client said this.
            false => Vec::new(),
        }
    }

    fn shuffle(&mut self, epoch: Epoch, workers: Vec<WorkerId>) -> Vec<Command> {
        if epoch <= self.epoch {
            return refuse("shuffle was asked for in an epoch that is over");
        }
        // What is discarded may still be executed: it is nobody's business any more.
        let is_open = self.in_flight.values().any(|running| !running.discarded || !running.provisional);
        if is_open || !self.held.is_empty() {
            return refuse("shuffle was asked for before all splits were mapped");
        }
        if !workers.contains(&self.me) {
            return refuse("shuffle was asked for among others only");
        }
        let mut commands = self.abandon();
        self.epoch = epoch;
        self.early.retain(|(early, _)| *early >= epoch);
        self.state = State::Shuffling { epoch, sent_bytes: None };
        self.missing = workers.into_iter().filter(|&worker| worker != self.me).collect();
        commands.push(Command::Send { epoch });
        commands.extend(self.shuffled());
        commands
    }

    /// Acknowledges the shuffle once nothing of it is open.
    fn shuffled(&mut self) -> Vec<Command> {
        let State::Shuffling { epoch, sent_bytes } = self.state else { return Vec::new() };
        self.missing.retain(|&source| !self.early.contains(&(epoch, source)));
        match sent_bytes {
            Some(sent_bytes) if self.missing.is_empty() => {
                self.state = State::Shuffled { epoch };
                vec![Command::Reply(Reply::Shuffled { epoch, sent_bytes })]
            }
            _ => Vec::new(),
        }
    }

    fn stream_failed(&mut self, epoch: Epoch, peer: WorkerId, cause: String) -> Vec<Command> {
        // Told at once, also before the client's word of the epoch: the client decides who is out.
        let concerns = match self.state {
            State::Mapping => epoch > self.epoch,
            State::Shuffling { epoch: current, .. } => epoch >= current,
            _ => epoch > self.epoch,
        };
        match concerns {
            true => vec![Command::Reply(Reply::PeerFailed { epoch, peer, cause })],
            false => Vec::new(),
        }
    }
}

fn refuse(cause: &str) -> Vec<Command> {
    vec![Command::Refuse { cause: cause.to_owned() }]
}

#[cfg(test)]
mod tests;
