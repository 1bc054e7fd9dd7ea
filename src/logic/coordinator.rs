//! Coordinator: the job's state machine: events in, commands out, time passed in.
//!
//! ```text
//!   Split -> Map -> Shuffle -> Reduce -> Merge -> Done | Failed
//! ```
//!
//! A loss in whatever phase leads back to the map of what was lost, and to a shuffle of a new epoch over who is left.
//!
//! Invariant: a phase begins only when every live worker has acknowledged the one before.
//! Invariant: when a shuffle begins, each split is folded into the map tables of exactly one live worker (`ledger`).
//! Invariant: no socket, file, thread or clock in here; the same events give the same commands.
//! Source: Dean & Ghemawat (OSDI 2004), 3.1, 3.2, 3.3 (fault tolerance) and 3.6 (backup tasks).

mod backup;
mod ledger;
mod loss;
mod pace;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use words::{
    Assignment, Command, Config, Event, Execution, Failure, Loss, Notice, Outcome, Phase, Readers, Standing,
    Totals,
};

use super::ids::{Epoch, WorkerId};
use super::split::Split;
use backup::Fault;
use ledger::Ledger;
use loss::Complaints;
use pace::Pace;

/// What the coordinator knows of one worker.
#[derive(Clone, Debug)]
pub struct WorkerProgress {
    pub threads: u32,
    pub standing: Standing,
    /// Executions that were sent and are not answered.
    pub in_flight: Vec<Execution>,
    pub splits_mapped: u64,
    pub bytes_mapped: u64,
    /// Entries of its result, once it has announced them.
    pub entries: u64,
    /// Whether the worker has acknowledged the phase.
    pub acknowledged: bool,
    /// Whether the worker takes part in the epoch.
    member: bool,
    /// Whether its whole result has arrived.
    delivered: bool,
    /// Executions of different splits that failed here.
    failures: u32,
    /// Different splits that could not be read here, and that others have mapped.
    unreadable: u32,
    last_heard: Duration,
    pace: Pace,
}

/// Splits that a worker may hold beyond one for each of its threads: they are on their way or wait, which hides the
/// round trip of the network. More would only be lost with the worker.
const WINDOW_AHEAD_SPLITS: usize = 2;

/// Ticks come several times a second. When they have not for so long, it was the client that stood still (a terminal
/// that takes no output), and the workers' silence meanwhile says nothing.
const MAX_TICK_GAP: Duration = Duration::from_secs(1);

/// The job's state machine.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    phase: Phase,
    /// The newest attempt at shuffle and reduce; none has begun if it is zero.
    epoch: Epoch,
    /// When the phase was entered, and what earlier stays in each took.
    entered: Duration,
    spent: [Duration; Phase::ALL.len()],
    ended: Option<Duration>,
    last_tick: Duration,
    workers: Vec<WorkerProgress>,
    ledger: Ledger,
    /// Cuts that were commanded and not answered: their sizes, and for whom.
    asked: VecDeque<(u64, WorkerId)>,
    input_ended: bool,
    totals: Totals,
    losses: Vec<Loss>,
    /// Splits that are left out, and why.
    skipped: Vec<(Split, String)>,
    complaints: Complaints,
    outcome: Option<Outcome>,
}

impl Coordinator {
    /// Makes the state machine of a new job and the commands that start it.
    ///
    /// # Panics
    /// If there is no worker that is no spare: the client does not start a job without one.
    pub fn start(config: Config, now: Duration) -> (Self, Vec<Command>) {
        let n_spares = config.spares;
        assert!(config.worker_threads.len() > n_spares, "a job has at least one worker");
        let first_spare = config.worker_threads.len() - n_spares;
        let worker = |(index, &threads)| WorkerProgress {
            threads,
            standing: if index < first_spare { Standing::Starting } else { Standing::Spare },
            in_flight: Vec::new(),
            splits_mapped: 0,
            bytes_mapped: 0,
            entries: 0,
            acknowledged: false,
            member: false,
            delivered: false,
            failures: 0,
            unreadable: 0,
            last_heard: now,
            pace: Pace::default(),
        };
        let mut coordinator = Self {
            workers: config.worker_threads.iter().enumerate().map(worker).collect(),
            config,
            phase: Phase::Split,
            epoch: Epoch(0),
            entered: now,
            spent: [Duration::ZERO; Phase::ALL.len()],
            ended: None,
            last_tick: now,
            ledger: Ledger::default(),
            asked: VecDeque::new(),
            input_ended: false,
            totals: Totals::default(),
            losses: Vec::new(),
            skipped: Vec::new(),
            complaints: Complaints::default(),
            outcome: None,
        };
        let mut commands: Vec<_> = coordinator
            .standing(|standing| standing == Standing::Starting)
            .into_iter()
            .map(|worker| Command::Begin { worker })
            .collect();
        coordinator.advance(now, &mut commands);
        (coordinator, commands)
    }

    /// Takes an event and returns what is to be done. After an outcome there is nothing more to do.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.outcome.is_some() || !self.hear(&event, now) {
            return commands;
        }
        let out = &mut commands;
        match event {
            Event::Begun { worker } => self.begun(worker, now, out),
            Event::SplitCut { split } => self.take_split(split),
            Event::InputEnded => {
                self.asked.clear();
                self.input_ended = true;
            }
            Event::Mapped { worker, split, pairs } => self.mapped(worker, split, pairs, now, out),
            Event::MapFailed { worker, split, cause, dropped, unreadable } => {
                self.map_failed(worker, split, Fault { cause, dropped, unreadable }, now, out);
            }
            Event::Dropped { worker, split } => self.dropped(worker, split, now, out),
            Event::Unsent { worker, split } => self.unsent(worker, split),
            Event::Unread { worker, split, cause } => self.unread(worker, split, cause, now, out),
            Event::Shuffled { worker, epoch, sent_bytes } => {
                if self.expects(Phase::Shuffle, worker, epoch, now, out) {
                    add(&mut self.totals.shuffled_bytes, sent_bytes);
                }
            }
            Event::Reduced { worker, epoch, distinct, entries, bytes } => {
                if self.expects(Phase::Reduce, worker, epoch, now, out) {
                    add(&mut self.totals.distinct_keys, distinct);
                    add(&mut self.totals.entries, entries);
                    add(&mut self.totals.reduced_bytes, bytes);
                    self.workers[worker.index()].entries = entries;
                }
            }
            Event::Delivered { worker, epoch } => {
                if self.expects(Phase::Merge, worker, epoch, now, out) {
                    self.workers[worker.index()].delivered = true;
                }
            }
            Event::Merged { epoch } => {
                if self.phase == Phase::Merge && self.epoch == epoch {
                    self.end(Outcome::Done, now, out);
                }
            }
            Event::PeerFailed { worker, epoch, peer, cause } => {
                self.complain(worker, epoch, peer, cause, now, out)
            }
            Event::Failed { worker, cause } => self.gave_up(worker, cause, now, out),
            Event::LinkClosed { worker, cause } => self.lose(worker, cause, None, now, out),
            Event::Heard { .. } => {}
            Event::Tick => self.check_deadlines(now, out),
            Event::InputFailed { cause } => self.fail(Failure::Input { cause }, now, out),
            Event::OutputFailed { cause } => self.fail(Failure::Output { cause }, now, out),
            Event::Interrupted => self.fail(Failure::Interrupted, now, out),
        }
        self.advance(now, out);
        commands
    }

    /// Returns how the job ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the newest attempt at shuffle and reduce.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn totals(&self) -> Totals {
        Totals { epochs: u64::from(self.epoch.0), ..self.totals }
    }

    pub fn workers(&self) -> &[WorkerProgress] {
        &self.workers
    }

    /// Returns the workers that were lost, in the order in which that was noticed.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// Returns the splits that are left out because nobody can read them, with what was said last.
    pub fn skipped(&self) -> &[(Split, String)] {
        &self.skipped
    }

    /// Returns the workers that take part in the epoch: those that a merge fetches results from.
    pub fn members(&self) -> Vec<WorkerId> {
        self.numbered(|progress| progress.member)
    }

    /// Returns how long the job has been in `phase` until `now`, all stays together.
    pub fn phase_time(&self, phase: Phase, now: Duration) -> Duration {
        let spent = self.spent[phase as usize];
        match self.phase == phase {
            true => spent + self.ended.unwrap_or(now).saturating_sub(self.entered),
            false => spent,
        }
    }

    /// Returns the workers that `pick` wants.
    fn numbered(&self, pick: impl Fn(&WorkerProgress) -> bool) -> Vec<WorkerId> {
        let picked = self.workers.iter().enumerate().filter(|(_, progress)| pick(progress));
        picked.map(|(index, _)| WorkerId(index as u32)).collect()
    }

    fn standing(&self, pick: impl Fn(Standing) -> bool) -> Vec<WorkerId> {
        self.numbered(|progress| pick(progress.standing))
    }

    fn live(&self) -> Vec<WorkerId> {
        self.standing(|standing| standing == Standing::Live)
    }

    fn progress(&mut self, worker: WorkerId) -> &mut WorkerProgress {
        &mut self.workers[worker.index()]
    }

    /// Notes the sign of life that an event is. `false` if it is of a worker that does not take part: whatever a fenced
    /// one says changes nothing.
    fn hear(&mut self, event: &Event, now: Duration) -> bool {
        let Some(worker) = speaker(event) else { return true };
        let Some(progress) = self.workers.get_mut(worker.index()) else { return false };
        progress.last_heard = now;
        match progress.standing {
            Standing::Live | Standing::Starting => true,
            // Of a spare it matters only that it is gone.
            Standing::Spare => matches!(event, Event::LinkClosed { .. } | Event::Failed { .. }),
            Standing::Lost => false,
        }
    }

    fn begun(&mut self, worker: WorkerId, now: Duration, commands: &mut Vec<Command>) {
        match self.workers[worker.index()].standing {
            Standing::Starting => self.progress(worker).standing = Standing::Live,
            _ => self.lose(worker, "it began the job twice".to_owned(), None, now, commands),
        }
    }

    /// Takes a worker's acknowledgement of a phase. `false` if it counts nothing: one of an older epoch is late, any
    /// other that was not asked for costs the worker its part in the job.
    fn expects(
        &mut self,
        phase: Phase,
        worker: WorkerId,
        epoch: Epoch,
        now: Duration,
        commands: &mut Vec<Command>,
    ) -> bool {
        // While lost splits are mapped again, the epoch before is over.
        if epoch < self.epoch || (epoch == self.epoch && self.phase == Phase::Map) {
            return false;
        }
        let progress = &mut self.workers[worker.index()];
        let is_expected =
            self.phase == phase && self.epoch == epoch && progress.member && !progress.acknowledged;
        progress.acknowledged |= is_expected;
        if !is_expected {
            let cause = format!("it acknowledged what it was not asked for in {}", self.phase);
            self.lose(worker, cause, None, now, commands);
        }
        is_expected
    }

    fn check_deadlines(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let stood_still = now.saturating_sub(self.last_tick) > MAX_TICK_GAP;
        self.last_tick = now;
        if stood_still {
            self.workers.iter_mut().for_each(|progress| progress.last_heard = now);
        }
        let Some(timeout) = self.config.worker_timeout else { return };
        let silent = self.numbered(|progress| {
            matches!(progress.standing, Standing::Live | Standing::Starting)
                && now.saturating_sub(progress.last_heard) > timeout
        });
        for worker in silent {
            let cause = format!("nothing heard of it for {} s", timeout.as_secs());
            self.lose(worker, cause, None, now, commands);
        }
        if self.phase == Phase::Map {
            self.lose_hung(now, commands);
        }
        self.settle_complaints(now, commands);
    }

    fn fail(&mut self, failure: Failure, now: Duration, commands: &mut Vec<Command>) {
        self.end(Outcome::Failed(failure), now, commands);
    }

    fn end(&mut self, outcome: Outcome, now: Duration, commands: &mut Vec<Command>) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.ended = Some(now);
            let told = self.standing(|standing| standing != Standing::Lost);
            commands.extend(told.into_iter().map(|worker| Command::End { worker }));
        }
    }

    /// Hands out splits and goes to the next phase where the barrier allows it.
    fn advance(&mut self, now: Duration, commands: &mut Vec<Command>) {
        if self.outcome.is_some() {
            return;
        }
        if self.phase == Phase::Split
            && self.standing(|standing| standing == Standing::Starting).is_empty()
            && (self.input_ended || self.ledger.has_pending())
        {
            self.enter(Phase::Map, now);
        }
        if self.phase == Phase::Map {
            self.assign_splits(now, commands);
            self.start_backups(now, commands);
        }
        if self.outcome.is_some() {
            return;
        }
        if matches!(self.phase, Phase::Split | Phase::Map) {
            self.ask_for_splits(commands);
        }
        if self.phase == Phase::Map && self.input_ended && self.ledger.all_mapped() {
            self.begin_epoch(now, commands);
        }
        if self.phase == Phase::Shuffle && self.all_acknowledged() {
            self.enter(Phase::Reduce, now);
            let epoch = self.epoch;
            commands.extend(self.members().into_iter().map(|worker| Command::Reduce { worker, epoch }));
        }
        if self.phase == Phase::Reduce && self.all_acknowledged() {
            self.enter(Phase::Merge, now);
            commands.push(Command::Merge { epoch: self.epoch });
        }
    }

    /// Starts a shuffle over all who live now, once there is anyone.
    fn begin_epoch(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let assignment = Arc::new(self.assign_partitions());
        if assignment.workers.is_empty() {
            return;
        }
        self.enter(Phase::Shuffle, now);
        self.epoch = Epoch(self.epoch.0 + 1);
        self.complaints = Complaints::default();
        let Totals { shuffled_bytes, reduced_bytes, distinct_keys, entries, .. } = &mut self.totals;
        for total in [shuffled_bytes, reduced_bytes, distinct_keys, entries] {
            *total = 0;
        }
        for progress in &mut self.workers {
            progress.member = progress.standing == Standing::Live;
            progress.delivered = false;
            progress.entries = 0;
        }
        let epoch = self.epoch;
        commands.extend(self.members().into_iter().map(|worker| Command::Shuffle {
            worker,
            epoch,
            assignment: assignment.clone(),
        }));
    }

    fn all_acknowledged(&self) -> bool {
        self.workers.iter().all(|progress| progress.acknowledged || !progress.member)
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        self.spent[self.phase as usize] += now.saturating_sub(self.entered);
        self.phase = phase;
        self.entered = now;
        for progress in &mut self.workers {
            progress.acknowledged = false;
        }
    }
}

/// Returns the worker that an event is a word of.
fn speaker(event: &Event) -> Option<WorkerId> {
    match event {
        Event::Begun { worker }
        | Event::Mapped { worker, .. }
        | Event::MapFailed { worker, .. }
        | Event::Dropped { worker, .. }
        | Event::Shuffled { worker, .. }
        | Event::PeerFailed { worker, .. }
        | Event::Reduced { worker, .. }
        | Event::Delivered { worker, .. }
        | Event::Failed { worker, .. }
        | Event::LinkClosed { worker, .. }
        | Event::Heard { worker } => Some(*worker),
        _ => None,
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
