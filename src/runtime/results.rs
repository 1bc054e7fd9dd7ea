//! Results: sorted partitions, sent in batches for which the receiver gives credit, and read back in order.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::logic::merge::{Cursor, merge};
use crate::logic::rows::Row;
use crate::logic::table::Table;
use crate::wire::entries::{self, Decoder};

/// Bytes after which a batch of entries is sent: large enough that a frame costs nothing, small enough that a merge
/// of many streams holds little.
pub(crate) const BATCH_BYTES: usize = 256 << 10;

/// Batches that a worker may be ahead of the merge: one is being read, the others are on their way.
pub(crate) const CREDIT_BATCHES: u32 = 4;

/// A reduced partition: its rows in the job's order.
pub struct Sorted<V> {
    tables: Arc<Vec<Table<V>>>,
    rows: Vec<Row<V>>,
    distinct: u64,
}

impl<V: Value> Sorted<V> {
    /// Sorts `rows`, whose keys stand in `tables`; with `top`, keeps only so many first ones.
    pub(crate) fn new(tables: Arc<Vec<Table<V>>>, mut rows: Vec<Row<V>>, top: Option<u64>) -> Self {
        let distinct = rows.len() as u64;
        let compare = |a: &Row<V>, b: &Row<V>| {
            (a.rank, a.front).cmp(&(b.rank, b.front)).then_with(|| a.key(&tables).cmp(b.key(&tables)))
        };
        let kept = top.map_or(rows.len(), |top| usize::try_from(top).unwrap_or(usize::MAX).min(rows.len()));
        if kept > 0 && kept < rows.len() {
            rows.select_nth_unstable_by(kept - 1, compare);
        }
        rows.truncate(kept);
        rows.sort_unstable_by(compare);
        Self { tables, rows, distinct }
    }

    /// Returns the number of distinct keys, kept or not.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// Returns the number of entries that are kept in order.
    pub(crate) fn len(&self) -> u64 {
        self.rows.len() as u64
    }
}

/// A place in a sorted partition.
pub(crate) struct SortedCursor<V> {
    sorted: Sorted<V>,
    at: usize,
}

impl<V> SortedCursor<V> {
    pub(crate) fn new(sorted: Sorted<V>) -> Self {
        Self { sorted, at: 0 }
    }
}

impl<V> Cursor for SortedCursor<V> {
    type Value = V;
    type Error = Broken;

    fn head(&self) -> Option<(&[u8], &V)> {
        let row = self.sorted.rows.get(self.at)?;
        Some((row.key(&self.sorted.tables), &row.value))
    }

    fn advance(&mut self) -> Result<(), Broken> {
        self.at += 1;
        Ok(())
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

/// Merges `cursors` in the job's order and hands the entries to `each`; with `top`, only so many.
///
/// # Errors
/// The first of a stream or of `each`.
pub(crate) fn merge_first<J: Job, C: Cursor<Value = J::Value, Error = Broken>>(
    job: &J,
    cursors: &mut [C],
    top: Option<u64>,
    mut each: impl FnMut(&[u8], &J::Value) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut left = top.unwrap_or(u64::MAX);
    merge(
        cursors,
        |a, b| job.compare(a, b),
        |key, value| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            each(key, value).map(|()| true)
        },
    )
}

/// Merges `partitions` and gives the result to `send` in batches; `send` returns `false` if nobody wants it.
pub(crate) fn send_sorted<J: Job>(
    job: &J,
    partitions: Vec<Sorted<J::Value>>,
    top: Option<u64>,
    mut send: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), Broken> {
    let mut cursors: Vec<_> = partitions.into_iter().map(SortedCursor::new).collect();
    let mut batch = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8);
    merge_first(job, &mut cursors, top, |key, value| {
        entries::encode(key, value, &mut batch);
        if batch.len() >= BATCH_BYTES {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8));
            if !send(full) {
                return Err(Broken::Ended);
            }
        }
        Ok(())
    })?;
    if !batch.is_empty() && !send(batch) {
        return Err(Broken::Ended);
    }
    Ok(())
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

/// The streams that the client merges.
pub(crate) enum ResultCursor<V> {
    Sorted(SortedCursor<V>),
    Stream(StreamCursor<V>),
}

impl<V: Value> Cursor for ResultCursor<V> {
    type Value = V;
    type Error = Broken;

    fn head(&self) -> Option<(&[u8], &V)> {
        match self {
            Self::Sorted(cursor) => cursor.head(),
            Self::Stream(cursor) => cursor.head(),
        }
    }

    fn advance(&mut self) -> Result<(), Broken> {
        match self {
            Self::Sorted(cursor) => cursor.advance(),
            Self::Stream(cursor) => cursor.advance(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::{Sender, unbounded};

    use super::*;
    use crate::jobs::word_count::{Params, WordCount};
    use crate::logic::partition::Seed;
    use crate::logic::rows::rows_of;

    fn job() -> WordCount {
        WordCount::new(Params::default()).expect("the parameters are good")
    }

    fn sorted(entries: &[(&str, u64)], top: Option<u64>) -> Sorted<u64> {
        let mut table = Table::new(Seed([1, 2]));
        for (key, count) in entries {
            table.fold(key.as_bytes(), *count, |into, other| *into += other);
        }
        let rows = rows_of(0, &table, |value| job().rank(value));
        Sorted::new(Arc::new(vec![table]), rows, top)
    }

    fn sent(partitions: Vec<Sorted<u64>>, top: Option<u64>) -> Vec<Vec<u8>> {
        let mut batches = Vec::new();
        send_sorted(&job(), partitions, top, |batch| {
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
        let whole = sent(vec![sorted(&equals, None)], None).concat();
        for top in [0, 1, 49, 50, 51, 99, 100, 1000] {
            let head = sent(vec![sorted(&equals, Some(top))], Some(top)).concat();
            assert!(whole.starts_with(&head), "top {top}");
            assert_eq!(Decoder::<u64>::new(&head).count() as u64, top.min(100));
        }
        // Of several partitions, each keeps as many as may be wanted of all.
        let (left, right) = equals.split_at(30);
        let halves = vec![sorted(left, Some(60)), sorted(right, Some(60))];
        assert!(whole.starts_with(&sent(halves, Some(60)).concat()));
    }

    #[test]
    fn a_result_is_sent_in_batches_until_nobody_wants_it() {
        let keys: Vec<String> = (0..40_000).map(|n| format!("{n:040}")).collect();
        let entries: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
        let batches = sent(vec![sorted(&entries, None)], None);
        assert!(batches.len() > 3 && batches.iter().all(|batch| batch.len() < BATCH_BYTES + 100));
        let mut wanted = 2;
        let ended = send_sorted(&job(), vec![sorted(&entries, None)], None, |_| {
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
