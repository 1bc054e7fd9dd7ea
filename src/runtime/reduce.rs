//! Reduce: what has arrived for each of a worker's partitions, folded and sorted.

use std::sync::Arc;

use crate::job::{Emit, Job};
use crate::logic::rows::{Row, rows_of};
use crate::logic::table::{Folder, Table};
use crate::wire::entries::Decoder;
use crate::wire::message::decode_batch;

use super::engine::{Work, map_on_all_threads};
use super::results::Sorted;

/// What has arrived for one partition: the worker's own part and the batches of the others.
pub(crate) struct Incoming<V> {
    pub own: Vec<Row<V>>,
    /// As they came, headers included.
    pub batches: Vec<Vec<u8>>,
}

/// Folds and sorts each of `incoming`, on all threads. The worker's own rows point into `tables`.
///
/// # Errors
/// If a batch is malformed, or the job panics.
pub(crate) fn reduce<J: Job>(
    work: &Work<J>,
    tables: &Arc<Vec<Table<J::Value>>>,
    incoming: Vec<Incoming<J::Value>>,
    top: Option<u64>,
) -> Result<Vec<Sorted<J::Value>>, String> {
    map_on_all_threads(work, incoming, |part| {
        if part.batches.is_empty() {
            return Ok(Sorted::new(tables.clone(), part.own, top));
        }
        let table = fold_batches(work, tables, part)?;
        let rows = rows_of(0, &table, |value| work.job.rank(value));
        Ok(Sorted::new(Arc::new(vec![table]), rows, top))
    })
}

fn fold_batches<J: Job>(
    work: &Work<J>,
    tables: &[Table<J::Value>],
    part: Incoming<J::Value>,
) -> Result<Table<J::Value>, String> {
    let mut folder = Folder::new(work.seed);
    let mut folding = folder.batch(|into, other| work.job.combine(into, other));
    for row in part.own {
        folding.pair(row.key(tables), row.value);
    }
    for batch in part.batches {
        let (_, entries) = decode_batch(&batch).map_err(|error| error.to_string())?;
        for entry in Decoder::<J::Value>::new(entries) {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            folding.pair(key, value);
        }
    }
    folding.finish();
    Ok(folder.finish(|into, other| work.job.combine(into, other)))
}
