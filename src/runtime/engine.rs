//! Engine: the work of one job on one worker: map threads with their tables, partitioning, reduce.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::job::Job;
use crate::logic::ids::SplitId;
use crate::logic::partition::{Partition, Seed};
use crate::logic::rows::{Grouped, Row, join};
use crate::logic::split::Split;
use crate::logic::table::{Folder, Table};
use crate::logic::worker::Execution;

use super::buffers::Received;
use super::guarded;
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
    Received(Received),
    Stored(Split, Arc<dyn SplitSource>),
}

/// Threads that fold splits, each into a table of its own.
pub(crate) struct Mappers<V> {
    splits: Sender<(SplitId, SplitData)>,
    threads: Vec<JoinHandle<Table<V>>>,
}

/// Hears of each split that was executed.
pub(crate) type Executed = Arc<dyn Fn(SplitId, Execution) + Send + Sync>;

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
            Builder::new()
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
    ///
    /// # Errors
    /// If a thread has panicked: what it had folded is lost.
    pub(crate) fn finish(self) -> Result<Vec<Table<V>>, String> {
        drop(self.splits);
        let join = |thread: JoinHandle<_>| thread.join().map_err(|_| "a map thread ended early".to_owned());
        self.threads.into_iter().map(join).collect()
    }
}

fn map_splits<J: Job>(
    work: &Work<J>,
    queue: &Receiver<(SplitId, SplitData)>,
    held: &AtomicUsize,
    executed: &Executed,
) -> Table<J::Value> {
    let mut folder = Folder::new(work.seed);
    let mut text = Vec::new();
    for (split, data) in queue {
        if work.is_cancelled() {
            return Table::new(work.seed);
        }
        // All of it is guarded: a thread that ended would leave its split unanswered.
        let result = guarded(|| {
            let before = folder.memory_bytes();
            let pairs = fold_split(work, data, &mut text, &mut folder)?;
            let grown = folder.memory_bytes().saturating_sub(before);
            check_memory(held.fetch_add(grown, Ordering::Relaxed) + grown, work.memory)?;
            Ok(pairs)
        });
        let result = result.and_then(|pairs| pairs);
        executed(
            split,
            match result {
                Ok(pairs) => Execution::Folded { pairs },
                Err(cause) => Execution::Failed { cause, dropped: Vec::new() },
            },
        );
    }
    let mut table = folder.finish(|into, other| work.job.combine(into, other));
    table.release_slots();
    table
}

fn check_memory(held: usize, allowed: u64) -> Result<(), String> {
    if held as u64 <= allowed {
        return Ok(());
    }
    Err(format!(
        "the map tables need {:.1} MB, more than the {:.1} MB that this worker may use (--memory)",
        held as f64 / 1e6,
        allowed as f64 / 1e6
    ))
}

fn fold_split<J: Job>(
    work: &Work<J>,
    data: SplitData,
    buffer: &mut Vec<u8>,
    folder: &mut Folder<J::Value>,
) -> Result<u64, String> {
    let received;
    let text = match data {
        SplitData::Received(split) => {
            received = split;
            received.text(buffer).map_err(|error| error.to_string())?
        }
        SplitData::Stored(split, source) => {
            source.read(&split, buffer).map_err(|error| format!("{error:#}"))?;
            buffer.as_slice()
        }
    };
    let mut batch = folder.batch(|into, other| work.job.combine(into, other));
    work.job.map(text, &mut batch);
    Ok(batch.finish())
}

/// Groups the entries of each table by partition, on all threads.
///
/// # Errors
/// If the job is over.
pub(crate) fn group<J: Job>(
    work: &Work<J>,
    tables: &[Table<J::Value>],
    n_partitions: u32,
) -> Result<Grouped, String> {
    let fan = Grouped::fan(tables.iter().map(Table::len).sum(), n_partitions);
    let by_partition = |table: &Table<J::Value>| Ok(table.by_partition(n_partitions * fan));
    Ok(Grouped::new(map_on_all_threads(work, tables.iter().collect(), by_partition)?, fan))
}

/// Joins the entries of `partition` from all `tables`.
pub(crate) fn combine<J: Job>(
    work: &Work<J>,
    tables: &[Table<J::Value>],
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
        let input = inputs[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        let output = input.map(&each).transpose()?;
        *outputs[index].lock().unwrap_or_else(PoisonError::into_inner) = output;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::Emit;
    use crate::jobs::word_count::{Params, WordCount};
    use crate::runtime::buffers;
    use crate::runtime::reduce::{Incoming, reduce};

    /// Counts words until one of them is `panic`.
    pub(super) struct Touchy(WordCount);

    impl Job for Touchy {
        const NAME: &'static str = "touchy";
        const ABOUT: &'static str = "";
        const COLUMNS: [&'static str; 2] = ["word", "count"];
        type Params = Params;
        type Value = u64;

        fn new(params: Params) -> Result<Self, String> {
            WordCount::new(params).map(Self)
        }

        fn map(&self, split: &[u8], emit: &mut impl Emit<u64>) {
            self.0.map(split, &mut |word: &[u8], count| {
                assert!(word != b"panic", "told to {}", "x".repeat(5000));
                emit.pair(word, count);
            });
        }

        fn combine(&self, into: &mut u64, other: u64) {
            self.0.combine(into, other);
        }
    }

    fn work(threads: usize, memory: u64) -> Arc<Work<Touchy>> {
        let job = Arc::new(Touchy::new(Params::default()).expect("the parameters are good"));
        Arc::new(Work { job, seed: Seed([1, 2]), threads, memory, cancelled: AtomicBool::new(false) })
    }

    fn split(text: &str) -> SplitData {
        SplitData::Received(buffers::tests::plain(text.as_bytes()))
    }

    /// Has `texts` folded, one after the other, and returns what was heard of each.
    fn fold_all(work: &Arc<Work<Touchy>>, texts: &[&str]) -> (Vec<Result<u64, String>>, Vec<Table<u64>>) {
        let (heard, answers) = unbounded();
        let executed: Executed = Arc::new(move |split, result| {
            let _ = heard.send((split, result));
        });
        let mappers = Mappers::start(work, &executed).expect("threads can be started");
        let results = texts.iter().enumerate().map(|(id, text)| {
            mappers.execute(SplitId(id as u64), split(text));
            let (split, result) =
                answers.recv_timeout(Duration::from_secs(20)).expect("every execution is answered");
            assert_eq!(split, SplitId(id as u64));
            result
        });
        let results = results.collect();
        (results, mappers.finish().expect("no thread ended early"))
    }

    #[test]
    fn a_panic_is_a_failed_execution_and_the_threads_live_on() {
        let (results, tables) = fold_all(&work(1, u64::MAX), &["a b", "panic", "b"]);
        assert_eq!((&results[0], &results[2]), (&Ok(2), &Ok(1)));
        let cause = results[1].as_ref().expect_err("it panicked");
        assert!(cause.starts_with("the job panicked: told to x") && cause.len() < 2000, "{cause}");
        assert_eq!(tables.iter().map(Table::len).sum::<usize>(), 2);
    }

    #[test]
    fn tables_beyond_the_memory_are_a_failed_execution() {
        let (results, _) = fold_all(&work(2, 100), &["a"]);
        let cause = results[0].as_ref().expect_err("a table takes more");
        assert!(cause.contains("--memory"), "{cause}");
    }

    #[test]
    fn every_index_is_called_once_on_however_many_threads() {
        for threads in [1, 2, 7] {
            let called: Vec<_> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            let all = on_all_threads(&work(threads, 0), called.len(), |index| {
                called[index].fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            assert_eq!(all, Ok(()));
            assert!(called.iter().all(|times| times.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn the_first_error_or_panic_ends_the_work() {
        for panics in [false, true] {
            let called = AtomicUsize::new(0);
            let failed = on_all_threads(&work(1, 0), 10, |index| {
                called.fetch_add(1, Ordering::Relaxed);
                assert!(index < 3 || !panics, "index 3");
                if index < 3 { Ok(()) } else { Err("index 3".to_owned()) }
            });
            assert!(failed.is_err_and(|cause| cause.ends_with("index 3")));
            assert_eq!(called.into_inner(), 4, "none is called after it");
        }
    }

    #[test]
    fn a_job_that_is_over_computes_nothing() {
        let work = work(2, 0);
        work.cancelled.store(true, Ordering::Relaxed);
        assert!(group(&work, &[Table::new(work.seed)], 4).is_err());
    }

    #[test]
    fn malformed_batches_are_an_error() {
        for batch in [vec![0], vec![0, 0, 0, 0, 9, b'x']] {
            let incoming = Incoming { own: Vec::new(), batches: vec![batch] };
            assert!(reduce(&work(1, 0), &Arc::default(), vec![incoming], None).is_err());
        }
    }
}
