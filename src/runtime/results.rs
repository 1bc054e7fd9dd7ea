//! Results: sorted partitions, sent in batches for which the receiver gives credit, and read back in order.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::logic::merge::Cursor;
use crate::logic::rows::Row;
use crate::logic::sort::{Borders, CHUNK_ROWS, Grouped, Plan, Sorter};
use crate::logic::table::Table;
use crate::wire::entries::{self, Decoder};

use super::engine::{Work, map_on_all_threads};
use super::pipeline::{Next, in_order};

/// Bytes after which a batch of entries is sent: large enough that a frame costs nothing, small enough that a merge
/// of many streams holds little.
pub(crate) const BATCH_BYTES: usize = 256 << 10;

/// Batches that a worker may be ahead of the merge: one is being read, the others are on their way.
pub(crate) const CREDIT_BATCHES: u32 = 4;

/// The rows of a worker, parted into ranges of the result's order; each is sorted when its turn has come.
pub struct Sorted<V> {
    tables: Arc<Vec<Table<V>>>,
    parts: Vec<Vec<Row<V>>>,
    /// Of every chunk of every part.
    grouped: Vec<Grouped>,
    /// How many entries of each range are wanted, until there are enough.
    wanted: Vec<usize>,
    distinct: u64,
    threads: usize,
}

impl<V: Value> Sorted<V> {
    /// Parts the rows of `parts`, whose keys stand in `tables`, on all threads; with `top`, only so many first ones
    /// are wanted.
    ///
    /// # Errors
    /// If the job is over.
    pub(crate) fn new<J: Job<Value = V>>(
        work: &Work<J>,
        tables: Arc<Vec<Table<V>>>,
        parts: Vec<Vec<Row<V>>>,
        top: Option<u64>,
    ) -> Result<Self, String> {
        let plan = Plan::new(parts.iter().map(Vec::len).sum(), work.threads, top);
        Self::planned(work, tables, parts, plan)
    }

    fn planned<J: Job<Value = V>>(
        work: &Work<J>,
        tables: Arc<Vec<Table<V>>>,
        mut parts: Vec<Vec<Row<V>>>,
        plan: Plan,
    ) -> Result<Self, String> {
        let borders = Borders::choose(&parts, &tables, plan);
        let chunks = parts.iter_mut().flat_map(|part| part.chunks_mut(CHUNK_ROWS)).collect();
        let group = |chunk: &mut [Row<V>]| Ok(Grouped::group(chunk, &tables, &borders));
        let grouped = map_on_all_threads(work, chunks, group)?;
        let distinct = parts.iter().map(|part| part.len() as u64).sum();
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
            let mut sorter = Sorter::new();
            let (chunks, make) = (&chunks, &make);
            move |range| {
                let cells =
                    self.grouped.iter().zip(chunks).map(|(grouped, chunk)| grouped.rows(range, chunk));
                let entries = sorter.sort(cells, &self.tables);
                make(&entries[..self.wanted[range]])
            }
        };
        let mut ranges = 0..self.wanted.len();
        let next = |_| Ok(ranges.next().map_or(Next::End, Next::Task));
        in_order(self.threads.min(self.wanted.len()), next, worker, take)
    }
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
    let encode = |entries: &[(&[u8], &V)]| {
        let mut batches: Vec<Vec<u8>> = Vec::new();
        for (key, value) in entries {
            if batches.last().is_none_or(|batch| batch.len() >= BATCH_BYTES) {
                batches.push(Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8));
            }
            let Some(batch) = batches.last_mut() else { break };
            entries::encode(key, *value, batch);
        }
        Ok(batches)
    };
    sorted.for_each_range(encode, |batches| {
        batches.into_iter().all(&mut send).then_some(()).ok_or(Broken::Ended)
    })
}

/// What a stream of results consists of.
pub(crate) enum Piece {
    Batch(Vec<u8>),
    End,
}

/// The result of one worker, as it comes.
pub(crate) struct Pieces {
    pub worker: WorkerId,
    /// Entries that the worker has announced.
    pub entries: u64,
    pub arriving: Receiver<Piece>,
}

/// A place in a stream of results that is still arriving.
pub(crate) struct StreamCursor<V> {
    pieces: Pieces,
    /// Entries that are still to come.
    left: u64,
    /// Called for each batch that is read to its end.
    consumed: Box<dyn Fn() + Send>,
    /// What is read of; `None` before the first batch.
    batch: Option<Vec<u8>>,
    at: usize,
    head: Option<(Range<usize>, V)>,
}

impl<V: Value> StreamCursor<V> {
    /// Waits for the first entry.
    ///
    /// # Errors
    /// If the stream breaks before it.
    pub(crate) fn open(pieces: Pieces, consumed: Box<dyn Fn() + Send>) -> Result<Self, Broken> {
        let left = pieces.entries;
        let mut cursor = Self { pieces, left, consumed, batch: None, at: 0, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn malformed(&self, cause: String) -> Broken {
        Broken::Malformed { worker: self.pieces.worker, cause }
    }

    /// Waits for a batch that is not read yet; `false` at the end.
    fn refill(&mut self) -> Result<bool, Broken> {
        while self.batch.as_ref().is_none_or(|batch| self.at == batch.len()) {
            if self.batch.take().is_some() {
                (self.consumed)();
            }
            self.at = 0;
            match self.pieces.arriving.recv() {
                Ok(Piece::Batch(batch)) => self.batch = Some(batch),
                Ok(Piece::End) if self.left == 0 => return Ok(false),
                Ok(Piece::End) => {
                    let cause = format!("its result ended {} entries before its end", self.left);
                    return Err(self.malformed(cause));
                }
                Err(_) => return Err(Broken::Ended),
            }
        }
        Ok(true)
    }
}

impl<V: Value> Cursor for StreamCursor<V> {
    type Value = V;
    type Error = Broken;

    fn head(&self) -> Option<(&[u8], &V)> {
        let (key, value) = self.head.as_ref()?;
        Some((self.batch.as_ref()?.get(key.clone())?, value))
    }

    fn advance(&mut self) -> Result<(), Broken> {
        self.head = None;
        if !self.refill()? {
            return Ok(());
        }
        let unread = self.batch.as_deref().unwrap_or_default().get(self.at..).unwrap_or_default();
        let mut decoder = Decoder::<V>::new(unread);
        let Some(entry) = decoder.next_range() else { return Ok(()) };
        let (key, value) = entry.map_err(|error| self.malformed(error.to_string()))?;
        let read = decoder.offset();
        let Some(left) = self.left.checked_sub(1) else {
            return Err(self.malformed("its result has more entries than it announced".to_owned()));
        };
        self.left = left;
        self.head = Some((self.at + key.start..self.at + key.end, value));
        self.at += read;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use crossbeam_channel::{Sender, unbounded};

    use super::*;
    use crate::jobs::word_count::{Params, WordCount};
    use crate::logic::partition::Seed;
    use crate::logic::rows::rows_of;

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
    fn sorted(entries: &[(&str, u64)], n: usize, top: Option<u64>) -> Sorted<u64> {
        let mut tables: Vec<_> = (0..n).map(|_| Table::new(Seed([1, 2]))).collect();
        for (number, (key, count)) in entries.iter().enumerate() {
            tables[number % n].fold(key.as_bytes(), *count, |into, other| *into += other);
        }
        let rows = tables.iter().enumerate().map(|(number, table)| rows_of(number, table, |count| !count));
        let rows = rows.collect();
        Sorted::new(&work(2), Arc::new(tables), rows, top).expect("the job is not over")
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

    /// A stream of a worker that has announced `entries`, where to put its pieces, and how many were consumed.
    fn stream(entries: u64) -> (Sender<Piece>, Pieces, Arc<AtomicUsize>) {
        let (to_merge, arriving) = unbounded();
        (to_merge, Pieces { worker: WorkerId(3), entries, arriving }, Arc::default())
    }

    /// Reads a stream of `pieces` to its end; its words, and the batches for which credit was given.
    fn read(entries: u64, pieces: Vec<Piece>) -> Result<(Vec<String>, usize), Broken> {
        let (to_merge, pieces_of_worker, consumed) = stream(entries);
        pieces.into_iter().for_each(|piece| to_merge.send(piece).expect("the stream is there"));
        drop(to_merge);
        let counted = consumed.clone();
        let count = Box::new(move || _ = counted.fetch_add(1, Ordering::Relaxed));
        let mut cursor = StreamCursor::<u64>::open(pieces_of_worker, count)?;
        let mut words = Vec::new();
        while let Some((key, count)) = cursor.head() {
            words.push(format!("{}={count}", String::from_utf8_lossy(key)));
            cursor.advance()?;
        }
        Ok((words, consumed.load(Ordering::Relaxed)))
    }

    fn batch(entries: &[(&str, u64)]) -> Piece {
        let mut bytes = Vec::new();
        entries.iter().for_each(|(key, count)| entries::encode(key.as_bytes(), count, &mut bytes));
        Piece::Batch(bytes)
    }

    #[test]
    fn the_top_of_many_equals_is_that_of_the_whole_order() {
        let equals: Vec<(String, u64)> =
            (0..100).map(|n| (format!("w{:02}", n * 37 % 100), 1 + n % 2)).collect();
        let equals: Vec<(&str, u64)> = equals.iter().map(|(key, count)| (key.as_str(), *count)).collect();
        for n in [1, 3] {
            let whole = sent(&sorted(&equals, n, None)).concat();
            for top in [0, 1, 49, 50, 51, 99, 100, 1000] {
                let first = sorted(&equals, n, Some(top));
                assert_eq!((first.distinct(), first.len()), (100, top.min(100)));
                let head = sent(&first).concat();
                assert!(whole.starts_with(&head), "top {top}");
                assert_eq!(Decoder::<u64>::new(&head).count() as u64, top.min(100));
            }
        }
    }

    #[test]
    fn a_result_is_sent_in_batches_until_nobody_wants_it() {
        let keys: Vec<String> = (0..40_000).map(|n| format!("{n:040}")).collect();
        let entries: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
        let batches = sent(&sorted(&entries, 1, None));
        assert!(batches.len() > 3 && batches.iter().all(|batch| batch.len() < BATCH_BYTES + 100));
        let mut wanted = 2;
        let ended = send_sorted(&sorted(&entries, 1, None), |_| {
            wanted -= 1;
            wanted > 0
        });
        assert!(matches!(ended, Err(Broken::Ended)) && wanted == 0);
    }

    #[test]
    fn credit_is_given_for_each_batch_once_it_is_read_also_for_an_empty_one() {
        let pieces = vec![batch(&[("b", 2), ("a", 1)]), batch(&[]), batch(&[("c", 1)]), Piece::End];
        let (words, consumed) = read(3, pieces).expect("a whole stream");
        assert_eq!((words.join(" ").as_str(), consumed), ("b=2 a=1 c=1", 3));
        assert_eq!(read(0, vec![Piece::End]).expect("a whole stream"), (Vec::new(), 0));
    }

    #[test]
    fn a_stream_that_is_not_what_was_announced_accuses_its_worker() {
        let accused = |broken: Result<_, Broken>, what: &str| {
            let Err(Broken::Malformed { worker: WorkerId(3), cause }) = broken else { panic!("{broken:?}") };
            assert!(cause.contains(what), "{cause}");
        };
        accused(read(3, vec![batch(&[("a", 1)]), Piece::End]), "2 entries before");
        accused(read(1, vec![batch(&[("a", 1), ("b", 1)]), Piece::End]), "more entries");
        accused(read(9, vec![Piece::Batch(vec![5, b'x'])]), "malformed");
    }

    #[test]
    fn a_stream_without_an_end_is_no_whole_one() {
        assert!(matches!(read(1, vec![batch(&[("a", 1)])]), Err(Broken::Ended)));
        assert!(matches!(read(0, Vec::new()), Err(Broken::Ended)));
    }
}
