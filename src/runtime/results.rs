//! Results: a worker's rows, sorted range by range and sent in batches for which the receiver gives credit.

use std::sync::Arc;

use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::logic::limits::Limits;
use crate::logic::rows::Row;
use crate::logic::sort::{Borders, CHUNK_ROWS, Grouped, Plan, Sorter};
use crate::logic::table::Table;
use crate::wire::entries::encode_sorted;

use super::engine::{Work, map_on_all_threads};
use super::pipeline::{Next, in_order};

/// Bytes after which a batch of a result is sent: large enough that a frame costs nothing, small enough that a merge
/// of many streams holds little, for written out it is several times as much.
pub(crate) const BATCH_BYTES: usize = 128 << 10;

/// Batches that a worker may be ahead of the merge: one is being read, the others are on their way.
pub(crate) const CREDIT_BATCHES: u32 = 4;

/// The rows of a worker, parted into ranges of the result's order; each is sorted when its turn has come.
pub struct Sorted<V> {
    tables: Vec<Arc<Table<V>>>,
    parts: Vec<Vec<Row<V>>>,
    /// Of every chunk of every part.
    grouped: Vec<Grouped>,
    /// How many entries of each range are wanted, until there are enough.
    wanted: Vec<usize>,
    distinct: u64,
    threads: usize,
}

impl<V: Value> Sorted<V> {
    /// Parts the rows of `parts`, whose keys stand in `tables`, on all threads; only those within `limits` are wanted.
    ///
    /// # Errors
    /// If the job is over.
    pub(crate) fn new<J: Job<Value = V>>(
        work: &Work<J>,
        tables: Vec<Arc<Table<V>>>,
        parts: Vec<Vec<Row<V>>>,
        limits: Limits,
    ) -> Result<Self, String> {
        let distinct = count(&parts);
        let often_enough = |mut rows: Vec<Row<V>>| {
            rows.retain(|row| limits.is_often_enough(row.value.count()));
            rows.shrink_to_fit();
            Ok(rows)
        };
        let parts = match limits.min_count {
            Some(_) => map_on_all_threads(work, parts, often_enough)?,
            None => parts,
        };
        let plan = Plan::new(count(&parts), work.threads, limits.top);
        Ok(Self { distinct: distinct as u64, ..Self::planned(work, tables, parts, plan)? })
    }

    fn planned<J: Job<Value = V>>(
        work: &Work<J>,
        tables: Vec<Arc<Table<V>>>,
        mut parts: Vec<Vec<Row<V>>>,
        plan: Plan,
    ) -> Result<Self, String> {
        let borders = Borders::choose(&parts, &tables, plan);
        let chunks = parts.iter_mut().flat_map(|part| part.chunks_mut(CHUNK_ROWS)).collect();
        let group = |chunk: &mut [Row<V>]| Ok(Grouped::group(chunk, &tables, &borders));
        let grouped = map_on_all_threads(work, chunks, group)?;
        let distinct = count(&parts) as u64;
        let mut left = plan.top.unwrap_or(u64::MAX);
        let wanted = |range| {
            let held: usize = grouped.iter().map(|grouped: &Grouped| grouped.len(range)).sum();
            let wanted = left.min(held as u64);
            left -= wanted;
            wanted as usize
        };
        let mut wanted: Vec<usize> = (0..borders.ranges()).map(wanted).collect();
        while wanted.last() == Some(&0) {
            wanted.pop();
        }
        Ok(Self { tables, parts, grouped, wanted, distinct, threads: work.threads })
    }

    /// Returns the number of distinct keys, wanted or not.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// Returns the number of entries that are wanted.
    pub(crate) fn len(&self) -> u64 {
        self.wanted.iter().map(|wanted| *wanted as u64).sum()
    }

    /// Sorts range after range on all threads; `make` makes something of a range's entries, and `take` takes what was
    /// made, in order.
    ///
    /// # Errors
    /// The first of either.
    pub(crate) fn for_each_range<O: Send>(
        &self,
        make: impl Fn(&[(&[u8], &V)]) -> Result<O, Broken> + Sync,
        take: impl FnMut(O) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let chunks: Vec<&[Row<V>]> = self.parts.iter().flat_map(|part| part.chunks(CHUNK_ROWS)).collect();
        let worker = || {
            let mut sorter = Sorter::default();
            let (chunks, make) = (&chunks, &make);
            move |range| {
                let cells =
                    self.grouped.iter().zip(chunks).map(|(grouped, chunk)| grouped.rows(range, chunk));
                sorter.sort(cells, &self.tables, |entries| make(&entries[..self.wanted[range]]))
            }
        };
        let mut ranges = 0..self.wanted.len();
        let next = |_| Ok(ranges.next().map_or(Next::End, Next::Task));
        in_order(self.threads.min(self.wanted.len()), next, worker, take)
    }
}

/// Returns the number of rows.
fn count<V>(parts: &[Vec<Row<V>>]) -> usize {
    parts.iter().map(Vec::len).sum()
}

/// Why a merge did not end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The job is over for another reason, or the link is.
    #[error("a stream of results ended early")]
    Ended,
    /// A worker sent what it should not have.
    #[error("{cause}")]
    Malformed { worker: WorkerId, cause: String },
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

/// Sorts the wanted entries of `sorted` and gives them to `send` in batches; `send` returns `false` if nobody wants it.
///
/// # Errors
/// If nobody wants it.
pub(crate) fn send_sorted<V: Value>(
    sorted: &Sorted<V>,
    mut send: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), Broken> {
    sorted.for_each_range(
        |entries| Ok(encode_sorted(entries, BATCH_BYTES)),
        |batches| batches.into_iter().all(&mut send).then_some(()).ok_or(Broken::Ended),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::jobs::word_count::{Params, WordCount};
    use crate::logic::partition::Seed;
    use crate::logic::rows::rows_of;
    use crate::wire::entries::SortedDecoder;

    fn work(threads: usize) -> Work<WordCount> {
        let job = WordCount::new(Params::default()).expect("the parameters are good");
        Work {
            job: Arc::new(job),
            seed: Seed([1, 2]),
            threads,
            memory: u64::MAX,
            cancelled: AtomicBool::new(false),
        }
    }

    /// Deals `entries` to `n` partitions.
    fn sorted(entries: &[(&str, u64)], n: usize, plan: Plan) -> Sorted<u64> {
        let mut tables: Vec<_> = (0..n).map(|_| Table::new(Seed([1, 2]))).collect();
        for (number, (key, count)) in entries.iter().enumerate() {
            tables[number % n].fold(key.as_bytes(), *count, |into, other| *into += other);
        }
        let rows = tables.iter().enumerate().map(|(number, table)| rows_of(number, table, |count| !count));
        let rows = rows.collect();
        let tables = tables.into_iter().map(Arc::new).collect();
        Sorted::planned(&work(2), tables, rows, plan).expect("the job is not over")
    }

    fn sent(sorted: &Sorted<u64>) -> Vec<Vec<u8>> {
        let mut batches = Vec::new();
        send_sorted(sorted, |batch| {
            batches.push(batch);
            true
        })
        .expect("somebody wants it");
        batches
    }

    fn entries(batches: &[Vec<u8>]) -> Vec<(Vec<u8>, u64)> {
        let mut entries = Vec::new();
        for batch in batches {
            let mut key: Vec<u8> = Vec::new();
            for entry in SortedDecoder::<u64>::new(batch) {
                let entry = entry.expect("whole");
                key.truncate(entry.shared);
                key.extend_from_slice(entry.rest);
                entries.push((key.clone(), entry.value));
            }
        }
        entries
    }

    #[test]
    fn the_top_of_many_equals_is_that_of_the_whole_order() {
        let equals: Vec<(String, u64)> =
            (0..100).map(|n| (format!("w{:02}", n * 37 % 100), 1 + n % 2)).collect();
        let mut expected: Vec<_> = equals.iter().map(|(key, n)| (key.clone().into_bytes(), *n)).collect();
        expected.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let equals: Vec<(&str, u64)> = equals.iter().map(|(key, count)| (key.as_str(), *count)).collect();
        for (n, range_rows) in [(1, 1000), (3, 1000), (1, 1), (3, 7)] {
            for top in [None, Some(0), Some(1), Some(49), Some(50), Some(51), Some(99), Some(100), Some(1000)]
            {
                let plan = Plan { range_rows, tied_rows: range_rows, top };
                let first = sorted(&equals, n, plan);
                let kept = top.unwrap_or(100).min(100);
                assert_eq!((first.distinct(), first.len()), (100, kept), "{plan:?}");
                assert_eq!(entries(&sent(&first)), expected[..kept as usize], "{plan:?}");
            }
        }
    }

    #[test]
    fn what_was_counted_too_seldom_is_not_sent_but_is_known_of() {
        let counted: Vec<(String, u64)> = (0..100).map(|n| (format!("w{n:02}"), 1 + n % 4)).collect();
        for (min_count, top, kept) in [
            (None, None, 100),
            (Some(1), None, 100),
            (Some(3), None, 50),
            (Some(5), None, 0),
            (Some(3), Some(7), 7),
        ] {
            let mut table = Table::new(Seed([1, 2]));
            counted.iter().for_each(|(key, n)| table.fold(key.as_bytes(), *n, |into, other| *into += other));
            let parts = vec![rows_of(0, &table, |count| !count)];
            let limits = Limits { top, min_count };
            let sorted = Sorted::new(&work(2), vec![Arc::new(table)], parts, limits).expect("it goes on");
            assert_eq!((sorted.distinct(), sorted.len()), (100, kept), "{limits:?}");
            let sent = entries(&sent(&sorted));
            assert_eq!(sent.len() as u64, kept, "{limits:?}");
            assert!(sent.iter().all(|(_, n)| *n >= min_count.unwrap_or(0)), "{limits:?}");
        }
    }

    #[test]
    fn a_result_is_sent_in_batches_until_nobody_wants_it() {
        let keys: Vec<String> = (0..40_000).map(|n| format!("{n:040}")).collect();
        let entries: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
        let batches = sent(&sorted(&entries, 1, Plan::new(40_000, 2, None)));
        assert!(batches.len() > 2 && batches.iter().all(|batch| batch.len() < BATCH_BYTES + 100));
        let mut wanted = 2;
        let ended = send_sorted(&sorted(&entries, 1, Plan::new(40_000, 2, None)), |_| {
            wanted -= 1;
            wanted > 0
        });
        assert!(matches!(ended, Err(Broken::Ended)) && wanted == 0);
    }
}
