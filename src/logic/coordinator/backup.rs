//! Backup: executions of splits: who gets which, what comes of it, and second ones for those that are late.
//!
//! Invariant: of two executions of a split, both are provisional, and one is committed: the first that ended.
//! Source: Dean & Ghemawat (OSDI 2004), 3.6.

use std::time::Duration;

use super::{
    Command, Coordinator, Execution, Failure, Notice, Phase, Readers, Standing, WorkerProgress, add,
};
use crate::logic::ids::{SplitId, WorkerId};
use crate::logic::split::Split;

/// Workers on which a split may fail before the job does: not the workers are to blame then. One that could not be
/// read is tried on all before it is left out: the others may just lack what they read it from.
const MOST_FAILURES_OF_SPLIT: usize = 3;

/// Splits that may fail on a worker before it is out: not the splits are to blame then.
const MOST_FAILURES_OF_WORKER: u32 = 3;

/// Why an execution failed, as the worker says.
pub(super) struct Fault {
    pub cause: String,
    /// Splits of which what had been folded was lost with it.
    pub dropped: Vec<SplitId>,
    /// Whether the text could not be had.
    pub unreadable: bool,
}

impl Coordinator {
    pub(super) fn take_split(&mut self, split: Split) {
        let asked = self.asked.pop_front();
        self.totals.splits += 1;
        self.totals.cut_bytes += split.length;
        self.ledger.add(split, asked.map(|(_, worker)| worker));
    }

    /// Sends pending splits, as long as there is room.
    pub(super) fn assign_splits(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let mut at = 0;
        while self.workers.iter().any(WorkerProgress::has_room)
            && let Some((split, wanted)) = self.ledger.pending_at(at)
        {
            match self.choose_worker(split, wanted, now) {
                Some(worker) => self.send_pending(at, worker, now, commands),
                None => at += 1,
            }
        }
    }

    /// Chooses who executes a split: for whom it was cut, else who would be done with it first; `None` if nobody has
    /// room who may.
    fn choose_worker(&self, split: SplitId, wanted: Option<WorkerId>, now: Duration) -> Option<WorkerId> {
        let entry = self.ledger.get(split)?;
        if !self.may_be_read(&entry.split) {
            return None;
        }
        // Where it has failed it is tried again only if nobody else is left.
        let is_new = |worker: &WorkerId| !entry.failed_on.contains(worker);
        let has_new = self.standing(|standing| standing != Standing::Lost).iter().any(is_new);
        let may = |worker: &WorkerId| !has_new || is_new(worker);
        let has_room = |worker: &WorkerId| {
            // One that was discarded there may not be answered yet.
            let progress = &self.workers[worker.index()];
            progress.has_room() && !progress.holds(split)
        };
        if let Some(wanted) = wanted.filter(|wanted| may(wanted) && has_room(wanted)) {
            return Some(wanted);
        }
        let done = |worker: &WorkerId| {
            let progress = &self.workers[worker.index()];
            let held = progress.bytes_in_flight() + entry.split.length;
            // Who has not answered for long is not as quick as it was.
            (held as f64 / self.rate(*worker)).max(progress.pace.waited(now))
        };
        let open = self.live().into_iter().filter(may).filter(has_room);
        open.min_by(|one, other| done(one).total_cmp(&done(other)))
    }

    /// Tells whether one more execution of a split is allowed: not if workers read it themselves, and enough are at
    /// that.
    fn may_be_read(&self, split: &Split) -> bool {
        let Some(Readers { most, first_file }) = self.config.readers else { return true };
        let in_flight = self.workers.iter().flat_map(|progress| &progress.in_flight);
        split.file < first_file
            || in_flight.filter(|held| held.split.file >= first_file).count() < most.max(1)
    }

    fn send_pending(&mut self, at: usize, worker: WorkerId, now: Duration, commands: &mut Vec<Command>) {
        let Some((split, _)) = self.ledger.pending_at(at) else { return };
        let Some(length) = self.ledger.get(split).map(|entry| entry.split.length) else { return };
        let may_be_late = self.may_be_late(worker, length);
        let Some(entry) = self.ledger.take(at) else { return };
        // One that was sent before might not be as innocent as others: what it does is to cost no more than itself.
        let provisional = may_be_late || entry.was_sent || self.config.skip_bad_input;
        self.totals.reexecutions += u64::from(entry.was_sent);
        entry.was_sent = true;
        entry.executions += 1;
        let split = entry.split;
        self.send(worker, Execution { split, provisional, discarded: false, backup: false }, now, commands);
    }

    fn send(&mut self, worker: WorkerId, execution: Execution, now: Duration, commands: &mut Vec<Command>) {
        self.totals.executions += 1;
        let progress = self.progress(worker);
        progress.in_flight.push(execution);
        progress.pace.sent(now);
        let Execution { split, provisional, .. } = execution;
        commands.push(Command::Map { worker, split, provisional });
    }

    /// Takes out the execution of `split` that `worker` has answered; `None` if it holds none.
    fn answered(&mut self, worker: WorkerId, split: SplitId, done: bool, now: Duration) -> Option<Execution> {
        let progress = self.progress(worker);
        let at = progress.in_flight.iter().position(|held| held.split.id == split)?;
        let execution = progress.in_flight.swap_remove(at);
        let bytes = if done { execution.split.length } else { 0 };
        progress.pace.answered(bytes, !progress.in_flight.is_empty(), now);
        Some(execution)
    }

    pub(super) fn mapped(
        &mut self,
        worker: WorkerId,
        split: SplitId,
        pairs: u64,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        // An acknowledgement of a split that the worker does not hold counts nothing.
        let Some(execution) = self.answered(worker, split, true, now) else { return };
        // A provisional one is dropped by the worker as soon as it hears that it is not wanted. One that is not was
        // too far to be taken back, and counts.
        if execution.discarded && execution.provisional {
            return;
        }
        if let Some(entry) = self.ledger.get_mut(split) {
            entry.executions = entry.executions.saturating_sub(1);
        }
        self.ledger.map(split, worker, pairs);
        let length = execution.split.length;
        let progress = self.progress(worker);
        progress.splits_mapped += 1;
        progress.bytes_mapped += length;
        self.totals.mapped_bytes += length;
        add(&mut self.totals.pairs, pairs);
        self.totals.backups_won += u64::from(execution.backup);
        if execution.provisional {
            commands.push(Command::Commit { worker, split });
        }
        self.discard_others(split, commands);
        self.blame(split, now, commands);
    }

    /// Counts against those who could not read `split` that somebody has mapped it. Who lacks several, and has mapped
    /// nothing, is of no use: it fails at once, and thus gets one after the other. What another has mapped may be what
    /// it alone can read.
    fn blame(&mut self, split: SplitId, now: Duration, commands: &mut Vec<Command>) {
        let entry = self.ledger.get_mut(split);
        let blamed = entry.map(|entry| std::mem::take(&mut entry.unreadable_on)).unwrap_or_default();
        for worker in blamed {
            let progress = self.progress(worker);
            progress.unreadable += 1;
            let missed = progress.unreadable;
            if missed >= MOST_FAILURES_OF_WORKER && progress.splits_mapped == 0 {
                let cause = format!("it could not read {missed} splits that others could");
                self.lose(worker, cause, None, now, commands);
            }
        }
    }

    /// Discards whatever executions of `split` are in flight.
    fn discard_others(&mut self, split: SplitId, commands: &mut Vec<Command>) {
        for (index, progress) in self.workers.iter_mut().enumerate() {
            for held in &mut progress.in_flight {
                if held.split.id == split && !held.discarded {
                    held.discarded = true;
                    commands.push(Command::Discard { worker: WorkerId(index as u32), split });
                }
            }
        }
        if let Some(entry) = self.ledger.get_mut(split) {
            entry.executions = 0;
        }
    }

    pub(super) fn dropped(
        &mut self,
        worker: WorkerId,
        split: SplitId,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        let Some(execution) = self.answered(worker, split, false, now) else { return };
        if execution.discarded {
            return self.taken_back(&execution);
        }
        self.ledger.give_up(split);
        let cause = "it dropped a split that it was to execute".to_owned();
        self.lose(worker, cause, None, now, commands);
    }

    /// Takes out an execution that was discarded before it was sent: nothing that the worker does, or does not.
    pub(super) fn unsent(&mut self, worker: WorkerId, split: SplitId) {
        let execution = self.take_unsent(worker, |held| held.split.id == split && held.discarded);
        if let Some(execution) = execution {
            self.taken_back(&execution);
        }
    }

    /// Takes out an execution that was not sent because the split cannot be read.
    pub(super) fn unread(
        &mut self,
        worker: WorkerId,
        split: SplitId,
        cause: String,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        let Some(execution) = self.take_unsent(worker, |held| held.split.id == split) else { return };
        if execution.discarded {
            return self.taken_back(&execution);
        }
        if !self.config.skip_bad_input {
            return self.fail(Failure::Input { cause }, now, commands);
        }
        if let Some(entry) = self.ledger.get_mut(split) {
            entry.unread = true;
        }
        self.ledger.give_up(split);
        // Somebody may have got it while it could be read.
        if self.ledger.get(split).is_some_and(|entry| entry.executions == 0 && entry.mapped_on.is_none()) {
            self.skip(execution.split, cause);
        }
    }

    fn take_unsent(&mut self, worker: WorkerId, pick: impl Fn(&Execution) -> bool) -> Option<Execution> {
        let progress = self.workers.get_mut(worker.index())?;
        let at = progress.in_flight.iter().position(pick)?;
        let execution = progress.in_flight.swap_remove(at);
        if progress.in_flight.is_empty() {
            progress.pace.rest();
        }
        Some(execution)
    }

    /// Leaves out a split that nobody can read.
    fn skip(&mut self, split: Split, cause: String) {
        self.ledger.skip(split.id);
        self.skipped.push((split, cause));
    }

    /// Notes that a discarded execution did not take place: somebody else may have the split, if nobody had before.
    fn taken_back(&mut self, execution: &Execution) {
        if !execution.provisional {
            self.totals.taken_back += 1;
            self.ledger.give_up(execution.split.id);
        }
    }

    pub(super) fn map_failed(
        &mut self,
        worker: WorkerId,
        split: SplitId,
        fault: Fault,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        let Fault { cause, dropped, unreadable } = fault;
        let Some(execution) = self.answered(worker, split, false, now) else { return };
        if self.phase > Phase::Map && !dropped.is_empty() {
            // Only a provisional execution may still run, and with it nothing else is lost.
            let cause = "it lost what it had folded".to_owned();
            return self.lose(worker, cause, None, now, commands);
        }
        dropped.iter().for_each(|&dropped| self.forget(dropped, worker));
        if execution.discarded && execution.provisional {
            return;
        }
        // That what is bad cannot be read says nothing of the worker.
        let is_expected = unreadable && self.config.skip_bad_input;
        if let Some(entry) = self.ledger.get_mut(split)
            && !entry.failed_on.contains(&worker)
        {
            entry.failed_on.push(worker);
            entry.unreadable_on.extend(is_expected.then_some(worker));
            entry.faults += usize::from(!is_expected);
        }
        self.ledger.give_up(split);
        let progress = self.progress(worker);
        progress.failures += u32::from(!is_expected);
        let failures = progress.failures;
        let entry = self.ledger.get(split);
        let failed_on = entry.map_or(0, |entry| entry.failed_on.len());
        let is_mapped = entry.is_some_and(|entry| entry.mapped_on.is_some());
        let goes_on = is_mapped || entry.is_some_and(|entry| entry.executions > 0);
        let others = self
            .standing(|standing| standing != Standing::Lost)
            .into_iter()
            .any(|other| self.ledger.get(split).is_some_and(|entry| !entry.failed_on.contains(&other)));
        let faults = entry.map_or(0, |entry| entry.faults);
        if !goes_on && (faults >= MOST_FAILURES_OF_SPLIT || !others) {
            if is_expected && faults == 0 {
                return self.skip(execution.split, cause);
            }
            let (split, workers) = (execution.split, failed_on);
            let failure = Failure::ExecutionFailed { worker, split, cause, workers, unreadable };
            return self.fail(failure, now, commands);
        }
        let retried = Notice::Retried { worker, split: execution.split, cause: cause.clone(), is_mapped };
        commands.extend((!is_expected).then_some(Command::Notice(retried)));
        if failures >= MOST_FAILURES_OF_WORKER {
            let cause = format!("{failures} splits failed on it, the last with: {cause}");
            self.lose(worker, cause, None, now, commands);
        } else if !self
            .live()
            .into_iter()
            .any(|other| self.ledger.get(split).is_none_or(|entry| !entry.failed_on.contains(&other)))
        {
            self.join_spare(None, now, commands);
        }
    }

    /// Notes that what `worker` had folded of `split` is gone.
    pub(super) fn forget(&mut self, split: SplitId, worker: WorkerId) {
        if let Some((length, pairs)) = self.ledger.unmap(split, worker) {
            self.totals.mapped_bytes -= length;
            self.totals.pairs = self.totals.pairs.saturating_sub(pairs);
            let progress = self.progress(worker);
            progress.splits_mapped -= 1;
            progress.bytes_mapped -= length;
        }
    }

    /// Gives threads that have nothing to do a second execution of a split that is late elsewhere. What waits
    /// elsewhere and cannot be executed twice is taken back.
    pub(super) fn start_backups(&mut self, now: Duration, commands: &mut Vec<Command>) {
        if !self.config.backups || !self.input_ended || self.ledger.has_pending() {
            return;
        }
        for worker in self.live() {
            let progress = &self.workers[worker.index()];
            let idle = (progress.threads as usize).saturating_sub(progress.in_flight.len());
            for _ in 0..idle {
                let Some((holder, execution)) = self.latest(worker, now) else { break };
                let split = execution.split;
                if !execution.provisional {
                    self.take_back(holder, split.id, commands);
                    continue;
                }
                if !self.may_be_read(&split) {
                    break;
                }
                if let Some(entry) = self.ledger.get_mut(split.id) {
                    entry.executions += 1;
                }
                self.totals.backups += 1;
                let backup = Execution { split, provisional: true, discarded: false, backup: true };
                self.send(worker, backup, now, commands);
            }
        }
    }

    /// Loses a worker of which an execution does not end that cannot be had twice, when all else is mapped: it beats,
    /// but its thread hangs, and everybody would wait for ever.
    pub(super) fn lose_hung(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let Some(timeout) = self.config.worker_timeout else { return };
        let all_else = self.config.backups && self.input_ended && !self.ledger.has_pending();
        for worker in self.live().into_iter().filter(|_| all_else) {
            let progress = &self.workers[worker.index()];
            let stuck = progress.in_flight.iter().find(|held| held.discarded && !held.provisional);
            let (Some(held), Some(rate)) = (stuck, progress.pace.rate()) else { continue };
            let expected = held.split.length as f64 * f64::from(progress.threads.max(1)) / rate;
            if progress.pace.waited(now) > (HUNG * expected).max(timeout.as_secs_f64()) {
                self.lose(worker, "its split does not end".to_owned(), None, now, commands);
            }
        }
    }

    /// Returns the execution that is most likely to end last, if `worker` would be done with it before.
    fn latest(&self, worker: WorkerId, now: Duration) -> Option<(WorkerId, Execution)> {
        let per_thread = self.rate(worker) / f64::from(self.workers[worker.index()].threads.max(1));
        let mut latest: Option<(f64, WorkerId, Execution)> = None;
        for holder in self.live().into_iter().filter(|&holder| holder != worker) {
            let progress = &self.workers[holder.index()];
            let wanted = |held: &&Execution| {
                let entry = self.ledger.get(held.split.id);
                // Of a split that fails wherever it is executed, there are no more executions than before the job ends.
                let is_open = entry.is_some_and(|entry| {
                    entry.executions == 1
                        && !entry.unread
                        && !entry.failed_on.contains(&worker)
                        && entry.failed_on.len() + 1 < MOST_FAILURES_OF_SPLIT
                });
                !held.discarded && is_open && !self.workers[worker.index()].holds(held.split.id)
            };
            let Some(&execution) = progress.in_flight.iter().rev().find(wanted) else { continue };
            // Who has not answered for long will most likely not do so for as long again.
            let left = (progress.bytes_in_flight() as f64 / self.rate(holder)).max(progress.pace.waited(now));
            let quicker = BACKUP_MARGIN * execution.split.length as f64 / per_thread;
            if left > quicker && latest.as_ref().is_none_or(|(most, ..)| left > *most) {
                latest = Some((left, holder, execution));
            }
        }
        latest.map(|(_, holder, execution)| (holder, execution))
    }

    /// Discards an execution that is not provisional: if it has not begun, the split is dropped and becomes pending.
    fn take_back(&mut self, holder: WorkerId, split: SplitId, commands: &mut Vec<Command>) {
        let held = self.progress(holder).in_flight.iter_mut().find(|held| held.split.id == split);
        if let Some(held) = held {
            held.discarded = true;
            commands.push(Command::Discard { worker: holder, split });
        }
    }
}

/// A thread hangs when it takes so many times as long for a split as it is expected to, and the time-out, too.
const HUNG: f64 = 50.0;

/// By how much a backup must promise to be quicker: sending it costs something, too.
const BACKUP_MARGIN: f64 = 2.0;
