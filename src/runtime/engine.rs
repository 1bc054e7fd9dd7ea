//! Engine: the work of one job on one worker: map threads with their tables, partitioning, work on all threads.

mod emitter;
mod mappers;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use crate::job::Job;
use crate::logic::partition::{Partition, Seed};
use crate::logic::rows::{Grouped, Row, join};
use crate::logic::table::Table;

use super::guarded;

pub(crate) use emitter::Heap;
pub(crate) use mappers::{Heard, MapEvent, Mappers, SplitData};
pub(crate) use tables::MapTables;

/// What is the same for all threads that work on a job, or on one attempt at its shuffle and reduce.
pub(crate) struct Work<J> {
    pub job: Arc<J>,
    pub seed: Seed,
    pub threads: usize,
    /// Bytes that the map tables may hold together.
    pub memory: u64,
    /// Set when the job, or the attempt, is over, so that nobody goes on for nothing.
    pub cancelled: AtomicBool,
}

impl<J: Job> Work<J> {
    /// Returns the work of an attempt, which may be over before the job is.
    pub(crate) fn attempt(&self) -> Self {
        Self {
            job: self.job.clone(),
            seed: self.seed,
            threads: self.threads,
            memory: self.memory,
            cancelled: AtomicBool::new(self.is_cancelled()),
        }
    }

    /// Has all threads end as soon as they notice.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Groups the entries of each table by partition, on all threads.
///
/// # Errors
/// If the job is over.
pub(crate) fn group<J: Job>(
    work: &Work<J>,
    tables: &[Arc<Table<J::Value>>],
    n_partitions: u32,
) -> Result<Grouped, String> {
    let fan = Grouped::fan(tables.iter().map(|table| table.len()).sum(), n_partitions);
    let by_partition = |table: &Arc<Table<J::Value>>| Ok(table.by_partition(n_partitions * fan));
    Ok(Grouped::new(map_on_all_threads(work, tables.iter().collect(), by_partition)?, fan))
}

/// Joins the entries of `partition` from all `tables`.
pub(crate) fn combine<J: Job>(
    work: &Work<J>,
    tables: &[Arc<Table<J::Value>>],
    grouped: &Grouped,
    partition: Partition,
) -> Vec<Row<J::Value>> {
    let job = &work.job;
    join(tables, grouped, partition, |into, other| job.combine(into, other), |value| job.rank(value))
}

/// Makes something of each of `inputs`, on all threads; the order is kept.
///
/// # Errors
/// As [`on_all_threads`].
pub(crate) fn map_on_all_threads<J: Job, I: Send, O: Send>(
    work: &Work<J>,
    inputs: Vec<I>,
    each: impl Fn(I) -> Result<O, String> + Sync,
) -> Result<Vec<O>, String> {
    // Each lock is taken once: to take the input out, or to put the output in.
    let inputs: Vec<_> = inputs.into_iter().map(|input| Mutex::new(Some(input))).collect();
    let outputs: Vec<_> = inputs.iter().map(|_| Mutex::new(None)).collect();
    on_all_threads(work, inputs.len(), |index| {
        let input = lock(&inputs[index]).take();
        let output = input.map(&each).transpose()?;
        *lock(&outputs[index]) = output;
        Ok(())
    })?;
    let taken =
        outputs.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(taken.collect())
}

/// Calls `each` with every index below `n` once, on as many threads as the job has, this one included.
///
/// # Errors
/// The first error or panic of `each`, after which no more are called; or that the job is over.
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
            if let Err(cause) = guarded(|| each(index)).and_then(|result| result) {
                next.store(n, Ordering::Relaxed);
                return Err(cause);
            }
        }
    };
    std::thread::scope(|scope| {
        let start = |index: usize| Builder::new().name(format!("mr:work:{index}")).spawn_scoped(scope, share);
        // A helper that cannot be started is done without.
        let helpers: Vec<_> = (1..work.threads.min(n)).filter_map(|index| start(index).ok()).collect();
        let own = share();
        let joined =
            helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|_| Err("a thread ended".into())));
        // All are joined before the first error is returned.
        joined.fold(own, Result::and)
    })
}

/// Locks; what a thread that panicked has left behind is for the caller to judge.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
