//! Results: sorted partitions, sent in batches for which the receiver gives credit, and read back in order.

use std::ops::Range;

use crossbeam_channel::Receiver;

use crate::job::{Job, Value};
use crate::logic::merge::{Cursor, merge};
use crate::logic::table::Table;
use crate::wire::entries::{self, Decoder};

/// Bytes after which a batch of entries is sent: large enough that a frame costs nothing, small enough that a merge
/// of many streams holds little.
pub(crate) const BATCH_BYTES: usize = 256 << 10;

/// Batches that a worker may be ahead of the merge: one is being read, the others are on their way.
pub(crate) const CREDIT_BATCHES: u32 = 4;

/// A reduced partition: its entries in the job's order.
pub struct Sorted<V> {
    table: Table<V>,
    order: Vec<usize>,
}

impl<V: Value> Sorted<V> {
    /// Sorts `table`; with `top`, keeps the order of only so many first entries.
    pub(crate) fn new<J: Job<Value = V>>(job: &J, table: Table<V>, top: Option<u64>) -> Self {
        let ranked = table.iter().enumerate().map(|(at, entry)| (job.rank((entry.key, entry.value)), at));
        let mut ranked: Vec<(u128, usize)> = ranked.collect();
        let compare = |a: &(u128, usize), b: &(u128, usize)| {
            a.0.cmp(&b.0).then_with(|| {
                let (a, b) = (table.entry(a.1), table.entry(b.1));
                job.compare((a.key, a.value), (b.key, b.value))
            })
        };
        let kept =
            top.map_or(ranked.len(), |top| usize::try_from(top).unwrap_or(usize::MAX).min(ranked.len()));
        if kept > 0 && kept < ranked.len() {
            ranked.select_nth_unstable_by(kept - 1, compare);
        }
        ranked.truncate(kept);
        ranked.sort_unstable_by(compare);
        let order = ranked.into_iter().map(|(_, at)| at).collect();
        Self { table, order }
    }

    /// Returns the number of distinct keys, kept or not.
    pub(crate) fn distinct(&self) -> u64 {
        self.table.len() as u64
    }

    /// Returns the number of entries that are kept in order.
    pub(crate) fn len(&self) -> u64 {
        self.order.len() as u64
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
        let entry = self.sorted.table.entry(*self.sorted.order.get(self.at)?);
        Some((entry.key, entry.value))
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
    #[error(transparent)]
    Malformed(#[from] entries::Malformed),
    #[error(transparent)]
    Output(#[from] std::io::Error),
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
    let mut left = top.unwrap_or(u64::MAX);
    merge(
        &mut cursors,
        |a, b| job.compare(a, b),
        |key, value| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            entries::encode(key, value, &mut batch);
            if batch.len() >= BATCH_BYTES {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8));
                if !send(full) {
                    return Err(Broken::Ended);
                }
            }
            Ok(true)
        },
    )?;
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

/// A place in a stream of results that is still arriving.
pub(crate) struct StreamCursor<V> {
    pieces: Receiver<Piece>,
    /// Called for each batch that is read to its end.
    consumed: Box<dyn Fn() + Send>,
    batch: Vec<u8>,
    at: usize,
    head: Option<(Range<usize>, V)>,
}

impl<V: Value> StreamCursor<V> {
    /// Waits for the first entry.
    ///
    /// # Errors
    /// If the stream breaks before it.
    pub(crate) fn open(pieces: Receiver<Piece>, consumed: Box<dyn Fn() + Send>) -> Result<Self, Broken> {
        let mut cursor = Self { pieces, consumed, batch: Vec::new(), at: 0, head: None };
        cursor.advance()?;
        Ok(cursor)
    }
}

impl<V: Value> Cursor for StreamCursor<V> {
    type Value = V;
    type Error = Broken;

    fn head(&self) -> Option<(&[u8], &V)> {
        let (key, value) = self.head.as_ref()?;
        Some((&self.batch[key.clone()], value))
    }

    fn advance(&mut self) -> Result<(), Broken> {
        while self.at == self.batch.len() {
            if !self.batch.is_empty() {
                (self.consumed)();
            }
            self.head = None;
            self.at = 0;
            self.batch = match self.pieces.recv() {
                Ok(Piece::Batch(batch)) => batch,
                Ok(Piece::End) => {
                    self.batch = Vec::new();
                    return Ok(());
                }
                Err(_) => return Err(Broken::Ended),
            };
        }
        let mut decoder = Decoder::<V>::new(&self.batch[self.at..]);
        let Some(entry) = decoder.next_range() else { return Ok(()) };
        let (key, value) = entry?;
        self.head = Some((self.at + key.start..self.at + key.end, value));
        self.at += decoder.offset();
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
