//! Groups: the keys of each partition in order, each with what is folded under it, given to the job's own reduce.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::job::{Emit, Job};
use crate::logic::partition::{Partition, Seed};
use crate::logic::rows::{Row, front_of};
use crate::logic::table::{Batch, Folder, Table};
use crate::runtime::engine::{Heap, Work, combine, group, map_on_all_threads};
use crate::runtime::guarded;

use super::{Incoming, fold_batches};

/// Tables, and rows whose keys stand in them, of each partition.
type Reduced<V> = (Vec<Arc<Table<V>>>, Vec<Vec<Row<V>>>);

/// Reduces each of `incoming` on all threads, and joins what comes of them, so that there is one row for each key.
///
/// # Errors
/// If a batch is malformed, or the job fails, panics, or makes more than may be held.
pub(super) fn reduce_groups<J: Job>(
    work: &Work<J>,
    tables: &[Arc<Table<J::Value>>],
    incoming: Vec<Incoming<J::Value>>,
    allowance: &Allowance,
) -> Result<Reduced<J::Value>, String> {
    let n = (incoming.len() as u32).max(1);
    let incoming = incoming.into_iter().filter(|part| !part.own.is_empty() || !part.batches.is_empty());
    let reduced = map_on_all_threads(work, incoming.collect(), |part: Incoming<J::Value>| {
        if part.batches.is_empty() {
            return reduce_own(work, tables, part.own, allowance);
        }
        let (folded, mut counted) = fold_batches(work, tables, part, allowance)?;
        let reduced = reduce_table(work, &folded, allowance)?;
        drop(folded);
        allowance.recount(&mut counted, 0)?;
        Ok(reduced)
    })?;
    let reduced: Vec<_> = reduced.into_iter().map(Arc::new).collect();
    // Different groups may have led to the same key.
    let grouped = group(work, &reduced, n)?;
    let partitions = (0..n).map(Partition).collect();
    let parts =
        map_on_all_threads(work, partitions, |partition| Ok(combine(work, &reduced, &grouped, partition)))?;
    Ok((reduced, parts))
}

/// Reduces rows whose keys stand in `tables`.
fn reduce_own<J: Job>(
    work: &Work<J>,
    tables: &[Arc<Table<J::Value>>],
    mut rows: Vec<Row<J::Value>>,
    allowance: &Allowance,
) -> Result<Table<J::Value>, String> {
    rows.sort_unstable_by(|a, b| (a.front, a.key(tables)).cmp(&(b.front, b.key(tables))));
    reduce_sorted(work, &mut rows.into_iter().map(|row| (row.key(tables), row.value)), allowance)
}

/// Reduces what a table holds.
fn reduce_table<J: Job>(
    work: &Work<J>,
    table: &Table<J::Value>,
    allowance: &Allowance,
) -> Result<Table<J::Value>, String> {
    let mut order: Vec<_> = table.iter().map(|entry| (front_of(entry.key), entry.index)).collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| table.entry(a.1).key.cmp(table.entry(b.1).key)));
    let entries = order.into_iter().map(|(_, index)| table.entry(index));
    reduce_sorted(work, &mut entries.map(|entry| (entry.key, entry.value.clone())), allowance)
}

fn reduce_sorted<J: Job>(
    work: &Work<J>,
    groups: &mut dyn Iterator<Item = (&[u8], J::Value)>,
    allowance: &Allowance,
) -> Result<Table<J::Value>, String> {
    let mut folder = Folder::new(work.seed);
    let heap = Heap::default();
    let batch = folder.batch(|into, other| heap.combine(&*work.job, into, other));
    let mut made = Made { work, batch, heap: &heap, allowance, counted: 0 };
    // What is over is not given on; then what was made of it is not wanted either.
    let mut groups = groups.take_while(|_| !work.is_cancelled());
    let reduced = guarded(|| work.job.reduce(&mut groups, &mut made)).flatten();
    reduced.and_then(|()| made.may_hold(0))?;
    made.batch.finish();
    let mut table = folder.finish(|into, other| heap.combine(&*work.job, into, other));
    table.release_slots();
    Ok(table)
}

/// What a job makes of its groups.
struct Made<'m, J: Job, C> {
    work: &'m Work<J>,
    batch: Batch<'m, J::Value, Seed, C>,
    heap: &'m Heap,
    allowance: &'m Allowance,
    /// As far as the allowance knows.
    counted: usize,
}

impl<J: Job, C: Fn(&mut J::Value, J::Value)> Emit<J::Value> for Made<'_, J, C> {
    fn pair(&mut self, key: &[u8], value: J::Value) {
        self.heap.count(&value, 1);
        self.batch.pair(key, value);
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        if self.work.is_cancelled() {
            return Err("the job is over".to_owned());
        }
        let held = self.batch.memory_bytes() + self.heap.bytes() + bytes;
        self.allowance.recount(&mut self.counted, held)
    }
}

/// What all threads of a reduce may hold together, beside the tables.
pub(super) struct Allowance {
    most: u64,
    held: AtomicUsize,
}

impl Allowance {
    pub(super) fn new(most: u64) -> Self {
        Self { most, held: AtomicUsize::new(0) }
    }

    /// Counts `now` bytes instead of those counted so far.
    ///
    /// # Errors
    /// If that is too much together.
    pub(super) fn recount(&self, counted: &mut usize, now: usize) -> Result<(), String> {
        let before = std::mem::replace(counted, now);
        if before == now {
            return Ok(());
        }
        let change = now.wrapping_sub(before);
        let held = self.held.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if held as u64 <= self.most {
            return Ok(());
        }
        Err(format!(
            "the reduce needs {:.1} MB, more than the {:.1} MB that this worker may use (--memory)",
            held as f64 / 1e6,
            self.most as f64 / 1e6
        ))
    }
}
