//! Tables: the durable state of one job on one worker: what its splits were folded into.
//!
//! Each map thread has a *slot*, into whose folder it folds splits straight away. A split whose execution is
//! provisional gets a table of its own, which is held until it is committed, and then merged into a slot, so that many
//! small tables do not pile up. For a shuffle all are made tables that do not change any more; what is folded later,
//! because a worker was lost, goes into new ones.
//!
//! Invariant: a split that was folded, and not dropped, is in one of slots, committed tables and finished ones, also
//! while it moves: a slot is locked before a committed table is taken for it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::emitter::{Feed, Heap, fold_records};
use super::{Work, lock, map_on_all_threads};
use crate::job::{Emit, Job};
use crate::logic::ids::SplitId;
use crate::logic::table::{Folder, Table};
use crate::runtime::guarded;
use crate::runtime::pieces::Unmapped;

/// The map tables of one job on one worker.
pub(crate) struct MapTables<J: Job> {
    work: Arc<Work<J>>,
    /// One for each map thread. A lock: its thread takes it once a split, the shuffle when there are none.
    slots: Vec<Mutex<Slot<J::Value>>>,
    /// A lock: the loop and all map threads put tables in and take them out.
    apart: Mutex<Apart<J::Value>>,
    /// What does not change any more. A lock, held while tables are finished: who asks next gets those, too.
    finished: Mutex<Vec<Arc<Table<J::Value>>>>,
    /// Why what was folded here cannot be told any more. A lock, taken within that of the slot, or of what is finished,
    /// that is broken: who has had those afterwards sees it.
    broken: Mutex<Option<String>>,
    /// Bytes of all of them.
    bytes: AtomicUsize,
}

/// What one map thread has folded. Each has cache lines of its own, for its thread writes to it all the time.
#[repr(align(128))]
struct Slot<V> {
    /// `None` until there is something to fold.
    folder: Option<Folder<V>>,
    splits: Vec<SplitId>,
    /// Of what the folder's values own elsewhere.
    heap: Heap,
    /// Of all of it, as far as it was counted.
    bytes: usize,
}

/// Tables of one split each.
struct Apart<V> {
    held: HashMap<SplitId, Folded<V>>,
    committed: VecDeque<(SplitId, Folded<V>)>,
}

/// A table, and what it takes.
pub(super) struct Folded<V> {
    table: Table<V>,
    bytes: usize,
}

impl<J: Job> MapTables<J> {
    pub(super) fn new(work: Arc<Work<J>>) -> Self {
        let slot = || Slot { folder: None, splits: Vec::new(), heap: Heap::default(), bytes: 0 };
        Self {
            slots: (0..work.threads).map(|_| Mutex::new(slot())).collect(),
            apart: Mutex::new(Apart { held: HashMap::new(), committed: VecDeque::new() }),
            finished: Mutex::default(),
            broken: Mutex::default(),
            bytes: AtomicUsize::new(0),
            work,
        }
    }

    /// Folds a split into the slot of the thread `index`, and returns the number of pairs.
    ///
    /// # Errors
    /// If the job panics or the memory does not do. What the slot held may be lost with it: then the slot is empty, and
    /// the splits that were folded in it are returned.
    pub(super) fn fold(
        &self,
        index: usize,
        split: SplitId,
        feed: impl Feed,
    ) -> Result<u64, (Unmapped, Vec<SplitId>)> {
        let mut slot = lock(&self.slots[index]);
        let memory = self.check_memory(self.bytes.load(Ordering::Relaxed));
        memory.map_err(|cause| (Unmapped::Failed(cause), Vec::new()))?;
        let Slot { folder, splits, heap, bytes } = &mut *slot;
        let folder = folder.get_or_insert_with(|| Folder::new(self.work.seed));
        let mut is_touched = false;
        let may_hold = |now| self.may_hold(*bytes, now);
        let folded =
            guarded(|| fold_records(&self.work, feed, (&mut *folder, &*heap), may_hold, &mut is_touched));
        let held = self.recount(bytes, folder.memory_bytes() + heap.bytes());
        let checked = |pairs| self.check_memory(held).map(|()| pairs).map_err(Unmapped::Failed);
        match folded.map_err(Unmapped::Failed).flatten().and_then(checked) {
            Ok(pairs) => {
                splits.push(split);
                Ok(pairs)
            }
            Err(cause) if !is_touched => Err((cause, Vec::new())),
            Err(cause) => Err((cause, self.empty(&mut slot))),
        }
    }

    /// Folds a split into a table of its own, and returns the number of pairs. `folder` is used again and again.
    ///
    /// # Errors
    /// If the job panics or the memory does not do.
    pub(super) fn fold_apart(
        &self,
        split: SplitId,
        feed: impl Feed,
        folder: &mut Option<Folder<J::Value>>,
    ) -> Result<u64, Unmapped> {
        // Taken out, so that nothing of it is left should the job panic.
        let mut taken = folder.take().unwrap_or_else(|| Folder::new(self.work.seed));
        let heap = Heap::default();
        let may_hold = |now| self.may_hold(0, now);
        let folded = guarded(|| {
            let pairs = fold_records(&self.work, feed, (&mut taken, &heap), may_hold, &mut false)?;
            let mut table = taken.take(|into, other| heap.combine(&*self.work.job, into, other));
            table.release_slots();
            Ok((pairs, table))
        });
        let (pairs, table) = folded.map_err(Unmapped::Failed).flatten()?;
        *folder = Some(taken);
        let mut bytes = 0;
        let held = self.recount(&mut bytes, table.memory_bytes() + heap.bytes());
        if let Err(cause) = self.check_memory(held) {
            self.recount(&mut bytes, 0);
            return Err(Unmapped::Failed(cause));
        }
        lock(&self.apart).held.insert(split, Folded { table, bytes });
        Ok(pairs)
    }

    /// Has the table of a split count, if it is held.
    pub(super) fn commit(&self, split: SplitId) {
        let apart = &mut *lock(&self.apart);
        if let Some(folded) = apart.held.remove(&split) {
            apart.committed.push_back((split, folded));
        }
    }

    /// Takes the table of a split out, if it is held.
    pub(super) fn discard(&self, split: SplitId) -> Option<Table<J::Value>> {
        let Folded { table, mut bytes } = lock(&self.apart).held.remove(&split)?;
        self.recount(&mut bytes, 0);
        Some(table)
    }

    /// Merges a committed table, if there is one, into the slot of the thread `index`.
    ///
    /// # Errors
    /// If the job panics: then what was folded here cannot be told any more.
    pub(super) fn merge_committed(&self, index: usize) -> Result<(), String> {
        let slot = &mut *lock(&self.slots[index]);
        let Some((split, folded)) = lock(&self.apart).committed.pop_front() else { return Ok(()) };
        let Folded { table, bytes: mut freed } = folded;
        let folder = slot.folder.get_or_insert_with(|| Folder::new(self.work.seed));
        let heap = &slot.heap;
        let merged = guarded(|| {
            let mut batch = folder.batch(|into, other| heap.combine(&*self.work.job, into, other));
            for entry in table.iter() {
                let value = entry.value.clone();
                heap.count(&value, 1);
                batch.pair(entry.key, value);
            }
            batch.finish();
        });
        if let Err(cause) = merged {
            self.empty(slot);
            return Err(self.break_with(cause));
        }
        slot.splits.push(split);
        self.recount(&mut slot.bytes, folder.memory_bytes() + slot.heap.bytes());
        self.recount(&mut freed, 0);
        Ok(())
    }

    /// Returns all tables; none of them changes any more. Waits for a thread that folds into its slot, or merges.
    ///
    /// # Errors
    /// If the job panics, or is over: then what was folded here cannot be told any more.
    pub(crate) fn all(&self) -> Result<Vec<Arc<Table<J::Value>>>, String> {
        let mut finished = lock(&self.finished);
        let committed = std::mem::take(&mut lock(&self.apart).committed);
        let slots = self.slots.iter().collect();
        let made = map_on_all_threads(&self.work, slots, |slot| Ok(self.finish(&mut lock(slot))));
        let made = made.map_err(|cause| self.break_with(cause))?;
        if let Some(cause) = lock(&self.broken).clone() {
            return Err(cause);
        }
        let tables = committed.into_iter().map(|(_, folded)| folded.table).chain(made.into_iter().flatten());
        finished.extend(tables.filter(|table| !table.is_empty()).map(Arc::new));
        Ok(finished.clone())
    }

    /// Notes that the tables are not whole any more.
    fn break_with(&self, cause: String) -> String {
        lock(&self.broken).get_or_insert(cause).clone()
    }

    /// Makes what a slot holds a table, and the slot empty.
    fn finish(&self, slot: &mut Slot<J::Value>) -> Option<Table<J::Value>> {
        let folder = slot.folder.take()?;
        let heap = std::mem::take(&mut slot.heap);
        let mut table = folder.finish(|into, other| heap.combine(&*self.work.job, into, other));
        table.release_slots();
        self.recount(&mut slot.bytes, table.memory_bytes() + heap.bytes());
        // It is the table now that they are counted for.
        slot.bytes = 0;
        slot.splits.clear();
        Some(table)
    }

    /// Drops what a slot holds and returns its splits.
    fn empty(&self, slot: &mut Slot<J::Value>) -> Vec<SplitId> {
        slot.folder = None;
        slot.heap = Heap::default();
        self.recount(&mut slot.bytes, 0);
        std::mem::take(&mut slot.splits)
    }

    /// Drops what the thread `index` has folded: the job is over.
    pub(super) fn clear_slot(&self, index: usize) {
        self.empty(&mut lock(&self.slots[index]));
    }

    /// Drops everything but what threads are at work on, which they drop themselves: the job is over.
    pub(super) fn clear(&self) {
        let apart = &mut *lock(&self.apart);
        apart.held.clear();
        apart.committed.clear();
        for slot in &self.slots {
            if let Ok(mut slot) = slot.try_lock() {
                self.empty(&mut slot);
            }
        }
        if let Ok(mut finished) = self.finished.try_lock() {
            finished.clear();
        }
    }

    /// Returns the bytes of all tables.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns how many committed tables are not merged, nor being merged.
    #[cfg(test)]
    pub(super) fn committed(&self) -> usize {
        lock(&self.apart).committed.len()
    }

    /// Counts `now` bytes instead of those counted so far, and returns the bytes of all tables.
    fn recount(&self, counted: &mut usize, now: usize) -> usize {
        let before = std::mem::replace(counted, now);
        let change = now.wrapping_sub(before);
        self.bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change)
    }

    /// Says whether to go on where what counted for `counted` bytes has `now`.
    fn may_hold(&self, counted: usize, now: usize) -> Result<(), String> {
        if self.work.is_cancelled() {
            return Err("the job is over".to_owned());
        }
        let others = self.bytes.load(Ordering::Relaxed).wrapping_sub(counted);
        self.check_memory(others.wrapping_add(now))
    }

    fn check_memory(&self, held: usize) -> Result<(), String> {
        if held as u64 <= self.work.memory {
            return Ok(());
        }
        Err(format!(
            "the map tables need {:.1} MB, more than the {:.1} MB that this worker may use (--memory)",
            held as f64 / 1e6,
            self.work.memory as f64 / 1e6
        ))
    }
}
