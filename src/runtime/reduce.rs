//! Reduce: what has arrived for a worker's partitions, folded, reduced by the job, and parted by the result's order.

mod groups;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::job::{Emit, Job};
use crate::logic::limits::Limits;
use crate::logic::rows::{Row, rows_of};
use crate::logic::table::{Folder, Table};
use crate::wire::entries::Decoder;
use crate::wire::message::decode_batch;

use super::engine::{Heap, Work, map_on_all_threads};
use super::results::Sorted;
use groups::{Allowance, reduce_groups};

/// What has arrived for one partition: the worker's own part and the batches of the others.
pub(crate) struct Incoming<V> {
    pub own: Vec<Row<V>>,
    /// As they came, headers included.
    pub batches: Vec<Vec<u8>>,
}

/// Folds each of `incoming` and parts the rows of all, on all threads. The worker's own rows point into `tables`.
///
/// # Errors
/// If a batch is malformed, or the job panics.
pub(crate) fn reduce<J: Job>(
    work: &Work<J>,
    tables: &[Arc<Table<J::Value>>],
    incoming: Vec<Incoming<J::Value>>,
    limits: Limits,
) -> Result<Sorted<J::Value>, String> {
    let allowance = Allowance::new(work.memory);
    if J::REDUCES {
        let (reduced, parts) = reduce_groups(work, tables, incoming, &allowance)?;
        return Sorted::new(work, reduced, parts, limits);
    }
    if incoming.iter().all(|part| part.batches.is_empty()) {
        let parts = incoming.into_iter().map(|part| part.own).collect();
        return Sorted::new(work, tables.to_vec(), parts, limits);
    }
    let folded = map_on_all_threads(work, incoming, |part| {
        fold_batches(work, tables, part, &allowance).map(|(table, _)| Arc::new(table))
    })?;
    let numbered = folded.iter().enumerate().collect();
    let rank = |value: &J::Value| work.job.rank(value);
    let parts = map_on_all_threads(work, numbered, |(number, table)| Ok(rows_of(number, table, rank)))?;
    Sorted::new(work, folded, parts, limits)
}

/// Bytes of an entry of which there are many: a guess, on the high side, for it only saves growing.
const USUAL_ENTRY_BYTES: usize = 32;

/// Entries for which room is made on a guess: more take their time anyway.
const MOST_RESERVED: usize = 1 << 26;

/// Folds what has arrived for a partition; returns what the allowance counts for it, too.
fn fold_batches<J: Job>(
    work: &Work<J>,
    tables: &[Arc<Table<J::Value>>],
    part: Incoming<J::Value>,
    allowance: &Allowance,
) -> Result<(Table<J::Value>, usize), String> {
    let mut folder = Folder::new(work.seed);
    let (heap, mut counted) = (Heap::default(), 0);
    // Most keys come from one source only, so there are about as many of them as entries.
    let arrived: usize = part.batches.iter().map(Vec::len).sum();
    folder.reserve((part.own.len() + arrived / USUAL_ENTRY_BYTES).min(MOST_RESERVED));
    let mut folding = folder.batch(|into, other| heap.combine(&*work.job, into, other));
    for row in part.own {
        heap.count(&row.value, 1);
        folding.pair(row.key(tables), row.value);
    }
    for batch in part.batches {
        if work.is_cancelled() {
            return Err("the job is over".to_owned());
        }
        let (_, entries) = decode_batch(&batch).map_err(malformed)?;
        for entry in Decoder::<J::Value>::new(entries) {
            let (key, value) = entry.map_err(malformed)?;
            heap.count(&value, 1);
            folding.pair(key, value);
        }
        allowance.recount(&mut counted, heap.bytes())?;
    }
    folding.finish();
    let mut table = folder.finish(|into, other| heap.combine(&*work.job, into, other));
    table.release_slots();
    Ok((table, counted))
}

fn malformed(error: impl fmt::Display) -> String {
    format!("a batch from a peer cannot be read: {error}")
}
