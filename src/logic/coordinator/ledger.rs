//! Ledger: where each split stands: pending, in flight, or folded into the tables of one worker.
//!
//! Invariant: a split that is folded anywhere is folded at one worker. Those who discard, lose or drop what was folded
//! make it pending again here.

use std::collections::{BTreeMap, VecDeque};

use crate::logic::ids::{SplitId, WorkerId};
use crate::logic::split::Split;

/// All splits that were cut.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<SplitId, Entry>,
    /// Neither folded nor in flight, with the worker that each was cut for.
    pending: VecDeque<(SplitId, Option<WorkerId>)>,
    /// Bytes of the pending ones.
    pending_bytes: u64,
    /// Splits that are not folded anywhere.
    unmapped: usize,
}

/// What is known of one split.
#[derive(Debug)]
pub(super) struct Entry {
    pub split: Split,
    /// Whose map tables it is folded into.
    pub mapped_on: Option<WorkerId>,
    /// Pairs that it gave there.
    pub pairs: u64,
    /// Executions that are in flight and wanted.
    pub executions: u32,
    /// Whether it was sent to a worker before.
    pub was_sent: bool,
    /// Workers on which an execution failed.
    pub failed_on: Vec<WorkerId>,
    /// Those of them that could not have a text that is to be left out if it is bad: while nobody has mapped it, it
    /// is not known whether the text is to blame.
    pub unreadable_on: Vec<WorkerId>,
    /// Failures on the others: these no bad text explains.
    pub faults: usize,
    /// Whether the client could not read it: then who has it is its last hope.
    pub unread: bool,
    /// Whether it is left out: nobody can read it.
    skipped: bool,
}

impl Ledger {
    /// Takes a new split, cut for `worker`.
    pub(super) fn add(&mut self, split: Split, worker: Option<WorkerId>) {
        let entry = Entry {
            split,
            mapped_on: None,
            pairs: 0,
            executions: 0,
            was_sent: false,
            failed_on: Vec::new(),
            unreadable_on: Vec::new(),
            faults: 0,
            unread: false,
            skipped: false,
        };
        if self.entries.insert(split.id, entry).is_none() {
            self.unmapped += 1;
            self.pending_bytes += split.length;
            self.pending.push_back((split.id, worker));
        }
    }

    pub(super) fn get(&self, split: SplitId) -> Option<&Entry> {
        self.entries.get(&split)
    }

    pub(super) fn get_mut(&mut self, split: SplitId) -> Option<&mut Entry> {
        self.entries.get_mut(&split)
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn n_pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Returns a pending split by its place in the order in which they go out, with the worker that it was cut for.
    pub(super) fn pending_at(&self, at: usize) -> Option<(SplitId, Option<WorkerId>)> {
        self.pending.get(at).copied()
    }

    /// Takes the pending split at `at` out, to be executed.
    pub(super) fn take(&mut self, at: usize) -> Option<&mut Entry> {
        let (split, _) = self.pending.remove(at)?;
        let entry = self.entries.get_mut(&split)?;
        self.pending_bytes -= entry.split.length;
        Some(entry)
    }

    /// Leaves out a split that is neither folded nor in flight.
    pub(super) fn skip(&mut self, split: SplitId) {
        if let Some(entry) = self.entries.get_mut(&split)
            && entry.mapped_on.is_none()
            && !entry.skipped
        {
            entry.skipped = true;
            self.unmapped -= 1;
            if let Some(at) = self.pending.iter().position(|(pending, _)| *pending == split) {
                self.pending.remove(at);
                self.pending_bytes -= entry.split.length;
            }
        }
    }

    /// Tells whether every split is folded somewhere, but for those that are left out.
    pub(super) fn all_mapped(&self) -> bool {
        self.unmapped == 0
    }

    /// Notes that `split`, which is folded nowhere, is folded at `worker`.
    pub(super) fn map(&mut self, split: SplitId, worker: WorkerId, pairs: u64) {
        if let Some(entry) = self.entries.get_mut(&split)
            && entry.mapped_on.is_none()
            && !entry.skipped
        {
            entry.mapped_on = Some(worker);
            entry.pairs = pairs;
            self.unmapped -= 1;
        }
    }

    /// Notes that what was folded of `split` at `worker` is gone. Returns what it had been: its length and pairs.
    pub(super) fn unmap(&mut self, split: SplitId, worker: WorkerId) -> Option<(u64, u64)> {
        let entry = self.entries.get_mut(&split).filter(|entry| entry.mapped_on == Some(worker))?;
        entry.mapped_on = None;
        self.unmapped += 1;
        let was = (entry.split.length, std::mem::take(&mut entry.pairs));
        self.return_unless_in_flight(split);
        Some(was)
    }

    /// Notes that an execution of `split` has ended without anything folded.
    pub(super) fn give_up(&mut self, split: SplitId) {
        if let Some(entry) = self.entries.get_mut(&split) {
            entry.executions = entry.executions.saturating_sub(1);
            self.return_unless_in_flight(split);
        }
    }

    /// Makes a split pending that is neither folded nor in flight: it goes out before those that were never sent.
    fn return_unless_in_flight(&mut self, split: SplitId) {
        if let Some(entry) = self.entries.get(&split)
            && entry.mapped_on.is_none()
            && entry.executions == 0
            && !entry.skipped
        {
            self.pending_bytes += entry.split.length;
            self.pending.push_front((split, None));
        }
    }

    /// Returns the splits that are folded at `worker`.
    pub(super) fn folded_at(&self, worker: WorkerId) -> Vec<SplitId> {
        let folded = self.entries.iter().filter(|(_, entry)| entry.mapped_on == Some(worker));
        folded.map(|(&split, _)| split).collect()
    }
}
