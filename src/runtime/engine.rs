//! Engine: the work of one job on one worker: map threads with their tables, partitioning, reduce.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::job::Job;
use crate::logic::ids::SplitId;
use crate::logic::partition::{Partition, Seed, hash};
use crate::logic::split::Split;
use crate::logic::table::{Batch, ByPartition, Table};
use crate::wire::entries::Decoder;
use crate::wire::message::{decode_batch, decode_split};

use super::guarded;
use super::results::Sorted;
use super::source::SplitSource;

/// What is the same for all threads that work on a job.
pub(crate) struct Work<J> {
    pub job: Arc<J>,
    pub seed: Seed,
    pub threads: usize,
    /// Bytes that the map tables may hold together.
    pub memory: u64,
    /// Set when the job is over, so that nobody goes on for nothing.
    pub cancelled: AtomicBool,
}

impl<J: Job> Work<J> {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The bytes of a split, or where to read them.
pub(crate) enum SplitData {
    /// The payload of a split's frame.
    Received(Vec<u8>),
    Stored(Split, Arc<dyn SplitSource>),
}

/// Threads that fold splits, each into a table of its own.
pub(crate) struct Mappers<V> {
    splits: Sender<(SplitId, SplitData)>,
    threads: Vec<JoinHandle<Table<V>>>,
}

/// Hears of each split that was executed.
pub(crate) type Executed = Arc<dyn Fn(SplitId, Result<u64, String>) + Send + Sync>;

impl<V: crate::job::Value> Mappers<V> {
    /// Starts `work.threads` threads.
    pub(crate) fn start<J: Job<Value = V>>(
        work: &Arc<Work<J>>,
        executed: &Executed,
    ) -> std::io::Result<Self> {
        // The client's window bounds what waits here.
        let (splits, queue) = unbounded();
        let held = Arc::new(AtomicUsize::new(0));
        let threads = (0..work.threads).map(|index| {
            let (work, queue, held, executed) = (work.clone(), queue.clone(), held.clone(), executed.clone());
            std::thread::Builder::new()
                .name(format!("mr:map:{index}"))
                .spawn(move || map_splits(&work, &queue, &held, &executed))
        });
        let threads = threads.collect::<std::io::Result<_>>()?;
        Ok(Self { splits, threads })
    }

    /// Has a split folded by the next free thread.
    pub(crate) fn execute(&self, split: SplitId, data: SplitData) {
        // Threads end when the sender is dropped, not before, so there is always one that listens.
        let _ = self.splits.send((split, data));
    }

    /// Ends the threads and returns their tables. They are idle: all splits are acknowledged.
    pub(crate) fn finish(self) -> Vec<Table<V>> {
        drop(self.splits);
        // A panic of the job is caught within the thread; a thread that ended by another has nothing to give.
        self.threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    }
}

fn map_splits<J: Job>(
    work: &Work<J>,
    queue: &Receiver<(SplitId, SplitData)>,
    held: &AtomicUsize,
    executed: &Executed,
) -> Table<J::Value> {
    let mut table = Table::new();
    let mut text = Vec::new();
    for (split, data) in queue {
        if work.is_cancelled() {
            return Table::new();
        }
        // All of it is guarded: a thread that ended would leave its split unanswered.
        let result = guarded(|| {
            let before = table.memory_bytes();
            let pairs = fold_split(work, data, &mut text, &mut table)?;
            let grown = table.memory_bytes().saturating_sub(before);
            check_memory(held.fetch_add(grown, Ordering::Relaxed) + grown, work.memory)?;
            Ok(pairs)
        });
        let result = result.and_then(|pairs| pairs);
        executed(split, result);
    }
    table
}

fn check_memory(held: usize, allowed: u64) -> Result<(), String> {
    if held as u64 <= allowed {
        return Ok(());
    }
    Err(format!(
        "the map tables need {} MiB, more than the {} MiB that this worker may use (--memory)",
        held >> 20,
        allowed >> 20
    ))
}

fn fold_split<J: Job>(
    work: &Work<J>,
    data: SplitData,
    buffer: &mut Vec<u8>,
    table: &mut Table<J::Value>,
) -> Result<u64, String> {
    let payload;
    let text = match data {
        SplitData::Received(received) => {
            payload = received;
            decode_split(&payload).map_err(|error| error.to_string())?.1
        }
        SplitData::Stored(split, source) => {
            source.read(&split, buffer).map_err(|error| format!("{error:#}"))?;
            buffer.as_slice()
        }
    };
    let mut pairs = 0;
    let mut batch = Batch::new(table, |into, other| work.job.combine(into, other));
    work.job.map(text, &mut |key, value| {
        pairs += 1;
        batch.fold(hash(work.seed, key), key, value);
    });
    batch.finish();
    Ok(pairs)
}

/// Groups the entries of each table by partition, one thread a table.
pub(crate) fn group<V: Send + Sync>(
    tables: &[Table<V>],
    n_partitions: u32,
) -> Result<Vec<ByPartition>, String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = tables
            .iter()
            .map(|table| scope.spawn(move || guarded(|| table.by_partition(n_partitions))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread ended".into())))
            .collect()
    })
}

/// Folds the entries of `partition` from all `tables` into one.
pub(crate) fn combine<J: Job>(
    work: &Work<J>,
    tables: &[Table<J::Value>],
    grouped: &[ByPartition],
    partition: Partition,
) -> Table<J::Value> {
    let mut combined = Table::new();
    let mut batch = Batch::new(&mut combined, |into, other| work.job.combine(into, other));
    for (table, grouped) in tables.iter().zip(grouped) {
        for &index in grouped.entries(partition) {
            let entry = table.entry(index);
            batch.fold(entry.hash, entry.key, entry.value.clone());
        }
    }
    batch.finish();
    combined
}

/// What has arrived for one partition: the worker's own part and the batches of the others.
pub(crate) struct Incoming<V> {
    pub own: Option<Table<V>>,
    /// As they came, headers included.
    pub batches: Vec<Vec<u8>>,
}

/// Folds and sorts each of `incoming`, on all threads.
///
/// # Errors
/// If a batch is malformed, or the job panics.
pub(crate) fn reduce<J: Job>(
    work: &Work<J>,
    incoming: Vec<Incoming<J::Value>>,
    top: Option<u64>,
) -> Result<Vec<Sorted<J::Value>>, String> {
    let n = incoming.len();
    // Each lock is taken twice, to take the work out and to put the result in.
    let slots: Vec<_> = incoming.into_iter().map(|part| Mutex::new(Some(part))).collect();
    let sorted: Vec<_> = (0..n).map(|_| Mutex::new(None)).collect();
    on_all_threads(work, n, |index| {
        let part = slots[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(part) = part {
            let table = fold_batches(work, part)?;
            let result = Sorted::new(work.job.as_ref(), table, top);
            *sorted[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
        Ok(())
    })?;
    let taken =
        sorted.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(taken.collect())
}

fn fold_batches<J: Job>(work: &Work<J>, part: Incoming<J::Value>) -> Result<Table<J::Value>, String> {
    let mut table = part.own.unwrap_or_else(Table::new);
    let mut folding = Batch::new(&mut table, |into, other| work.job.combine(into, other));
    for batch in part.batches {
        let (_, entries) = decode_batch(&batch).map_err(|error| error.to_string())?;
        for entry in Decoder::<J::Value>::new(entries) {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            folding.fold(hash(work.seed, key), key, value);
        }
    }
    folding.finish();
    Ok(table)
}

/// Calls `each` with every index below `n` once, on as many threads as the job has.
///
/// # Errors
/// The first error or panic of `each`; or that the job is over.
pub(crate) fn on_all_threads<J: Job>(
    work: &Work<J>,
    n: usize,
    each: impl Fn(usize) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let share = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= n {
                return Ok(());
            }
            if work.is_cancelled() {
                return Err("the job is over".to_owned());
            }
            guarded(|| each(index)).and_then(|result| result)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..work.threads.min(n)).map(|_| scope.spawn(share)).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread ended".into())));
        // All are joined before the first error is returned.
        joined.fold(Ok(()), Result::and)
    })
}
