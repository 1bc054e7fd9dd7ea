//! Mutants: the machines made wrong on purpose, each in one way.
//!
//! A simulator that does not notice proves nothing. The real machines stay as they are: what they are told, and what
//! they say, is rewritten on the way.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mapreduce::logic::coordinator::{Command, Config, Coordinator, Event, Standing};
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};
use mapreduce::logic::worker;

/// In which way something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An acknowledgement of an older epoch counts.
    HearsStaleEpoch,
    /// One of the splits that are to be mapped again counts as mapped.
    ForgetsSplit,
    /// Of two executions of a split, both are committed.
    CommitsBoth,
    /// The loser of two executions is not discarded.
    KeepsLoser,
    /// What a lost worker has mapped counts, in the name of who maps it now.
    HearsZombie,
    /// After a loss the epoch stays the same.
    KeepsEpoch,
    /// The reduce begins as soon as one worker has acknowledged the shuffle.
    ReducesEarly,
    /// A merge that begins anew goes on with the results of the epoch before.
    MergesOldResults,
    /// Complaints of peers are not heard.
    IgnoresComplaints,
    /// Silence is not noticed.
    NoticesNoSilence,
    /// A split that a lost worker had in flight is never sent again.
    LosesSplit,
    /// A worker counts a stream that broke as one that ended.
    CountsBrokenStreams,
    /// A worker takes batches of an older epoch in.
    TakesOldBatches,
    /// A worker folds provisional executions into its map tables at once.
    FoldsProvisionalAtOnce,
    /// A worker keeps the job of a client that is gone.
    KeepsJobs,
}

impl Mutant {
    pub const ALL: [Mutant; 15] = [
        Mutant::HearsStaleEpoch,
        Mutant::ForgetsSplit,
        Mutant::CommitsBoth,
        Mutant::KeepsLoser,
        Mutant::HearsZombie,
        Mutant::KeepsEpoch,
        Mutant::ReducesEarly,
        Mutant::MergesOldResults,
        Mutant::IgnoresComplaints,
        Mutant::NoticesNoSilence,
        Mutant::LosesSplit,
        Mutant::CountsBrokenStreams,
        Mutant::TakesOldBatches,
        Mutant::FoldsProvisionalAtOnce,
        Mutant::KeepsJobs,
    ];
}

/// The coordinator, as it is or broken.
pub struct Brain {
    real: Coordinator,
    first: Vec<Command>,
    mutant: Option<Mutant>,
    /// Splits that were sent before.
    sent: BTreeSet<SplitId>,
    /// The split that the mutant deals with, once it has chosen.
    victim: Option<SplitId>,
    /// Executions that should have been discarded.
    losers: BTreeSet<(WorkerId, SplitId)>,
}

impl Brain {
    pub fn new(config: Config, mutant: Option<Mutant>) -> Self {
        let (real, first) = Coordinator::start(config, Duration::ZERO);
        Self { real, first, mutant, sent: BTreeSet::new(), victim: None, losers: BTreeSet::new() }
    }

    /// Takes the commands that begin the job.
    pub fn take_first(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.first)
    }

    pub fn coordinator(&self) -> &Coordinator {
        &self.real
    }

    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        let Some(mutant) = self.mutant else { return self.real.handle(event, now) };
        let held = self.held_by_speaker(&event);
        let n_lost = self.real.losses().len();
        let mut commands = VecDeque::new();
        let Some(event) = self.rewrite(mutant, event, &mut commands, now) else { return Vec::new() };
        commands.extend(self.real.handle(event.clone(), now));
        if mutant == Mutant::LosesSplit && self.real.losses().len() > n_lost && self.victim.is_none() {
            self.victim = held.first().copied();
        }
        self.add(mutant, &event, &mut commands, now);
        let mut rewritten = Vec::new();
        while let Some(command) = commands.pop_front() {
            if let Some(command) = self.rewrite_command(mutant, command, &mut commands, now) {
                rewritten.push(command);
            }
        }
        rewritten
    }

    /// Returns the splits in flight on the worker that is heard of, or on those that are about to be lost.
    fn held_by_speaker(&self, event: &Event) -> Vec<SplitId> {
        let of = |worker: WorkerId| {
            self.real.workers()[worker.index()].in_flight.iter().map(|held| held.split.id).collect()
        };
        match event {
            Event::LinkClosed { worker, .. } | Event::Failed { worker, .. } => of(*worker),
            _ => Vec::new(),
        }
    }

    /// Returns what the coordinator is told in place of an event.
    fn rewrite(
        &mut self,
        mutant: Mutant,
        event: Event,
        commands: &mut VecDeque<Command>,
        now: Duration,
    ) -> Option<Event> {
        let newest = self.real.epoch();
        let counted = |epoch: Epoch| match mutant {
            Mutant::HearsStaleEpoch => epoch.max(newest),
            Mutant::KeepsEpoch if epoch == Epoch(1) => newest,
            _ => epoch,
        };
        match (mutant, event) {
            (Mutant::IgnoresComplaints, Event::PeerFailed { .. }) => None,
            (Mutant::NoticesNoSilence, Event::Tick) => {
                for index in 0..self.real.workers().len() {
                    commands.extend(self.real.handle(Event::Heard { worker: WorkerId(index as u32) }, now));
                }
                Some(Event::Tick)
            }
            (Mutant::HearsZombie, Event::Mapped { worker, split, pairs })
                if self.real.workers()[worker.index()].standing == Standing::Lost =>
            {
                let holds = |worker: &WorkerId| {
                    let in_flight = &self.real.workers()[worker.index()].in_flight;
                    in_flight.iter().any(|held| held.split.id == split && !held.discarded)
                };
                let all = (0..self.real.workers().len() as u32).map(WorkerId);
                let worker = all.into_iter().find(holds).unwrap_or(worker);
                Some(Event::Mapped { worker, split, pairs })
            }
            (_, Event::Shuffled { worker, epoch, sent_bytes }) => {
                Some(Event::Shuffled { worker, epoch: counted(epoch), sent_bytes })
            }
            (_, Event::Reduced { worker, epoch, distinct, entries, bytes }) => {
                Some(Event::Reduced { worker, epoch: counted(epoch), distinct, entries, bytes })
            }
            (_, event) => Some(event),
        }
    }

    /// Adds to the commands that an event led to.
    fn add(&mut self, mutant: Mutant, event: &Event, commands: &mut VecDeque<Command>, now: Duration) {
        match (mutant, event) {
            (Mutant::CommitsBoth, Event::Mapped { worker, split, .. })
                if self.losers.remove(&(*worker, *split)) =>
            {
                commands.push_back(Command::Commit { worker: *worker, split: *split });
            }
            (Mutant::ReducesEarly, Event::Shuffled { epoch, .. }) => {
                for worker in self.real.members() {
                    if !self.real.workers()[worker.index()].acknowledged {
                        let shuffled = Event::Shuffled { worker, epoch: *epoch, sent_bytes: 0 };
                        commands.extend(self.real.handle(shuffled, now));
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns what is commanded in place of a command.
    fn rewrite_command(
        &mut self,
        mutant: Mutant,
        command: Command,
        more: &mut VecDeque<Command>,
        now: Duration,
    ) -> Option<Command> {
        match (mutant, command) {
            (_, Command::Map { worker, split, provisional }) => {
                let again = !self.sent.insert(split.id);
                if mutant == Mutant::ForgetsSplit
                    && again
                    && self.victim.is_none()
                    && !self.real.losses().is_empty()
                {
                    self.victim = Some(split.id);
                    more.extend(self.real.handle(Event::Mapped { worker, split: split.id, pairs: 0 }, now));
                }
                (self.victim != Some(split.id)).then_some(Command::Map { worker, split, provisional })
            }
            (Mutant::ForgetsSplit, Command::Commit { split, .. }) if self.victim == Some(split) => None,
            (Mutant::CommitsBoth | Mutant::KeepsLoser, Command::Discard { worker, split }) => {
                let held = &self.real.workers()[worker.index()].in_flight;
                let provisional = held.iter().any(|held| held.split.id == split && held.provisional);
                if !provisional {
                    return Some(Command::Discard { worker, split });
                }
                self.losers.insert((worker, split));
                None
            }
            (Mutant::KeepsEpoch, Command::Shuffle { worker, assignment, .. }) => {
                Some(Command::Shuffle { worker, epoch: Epoch(1), assignment })
            }
            (Mutant::KeepsEpoch, Command::Reduce { worker, .. }) => {
                Some(Command::Reduce { worker, epoch: Epoch(1) })
            }
            (Mutant::MergesOldResults, Command::BreakOffMerge) => None,
            (_, command) => Some(command),
        }
    }
}

/// Tells the machine of a worker what happened, or something else.
pub fn tell(
    mutant: Option<Mutant>,
    machine: &mut worker::Worker,
    event: worker::Event,
) -> Vec<worker::Command> {
    match (mutant, event) {
        (Some(Mutant::CountsBrokenStreams), worker::Event::StreamFailed { epoch, peer, .. }) => {
            machine.handle(worker::Event::StreamEnded { epoch, source: peer })
        }
        (_, event) => machine.handle(event),
    }
}
