//! Collect: the client's end of the merge: streams of results from all workers, merged into the output.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;

use super::link::Order;
use super::results::{
    Broken, CREDIT_BATCHES, Piece, Pieces, ResultCursor, Sorted, SortedCursor, StreamCursor, merge_first,
};
use super::source::Sink;

/// An output with everything in it, but not yet final.
pub(crate) struct Written<V> {
    pub sink: Box<dyn Sink<V>>,
    pub entries: u64,
}

/// The result of one worker on its way.
pub(crate) struct Stream {
    pieces: Pieces,
    /// Takes credit for a batch that was read.
    orders: Sender<Order>,
}

impl Stream {
    /// Makes a stream of the `worker` that takes `orders` and has announced `entries`, and where its pieces go: a
    /// worker that keeps to its credit finds room.
    pub(crate) fn new(worker: WorkerId, entries: u64, orders: Sender<Order>) -> (Self, Sender<Piece>) {
        // One more for the end.
        let (to_merge, arriving) = bounded(CREDIT_BATCHES as usize + 1);
        (Self { pieces: Pieces { worker, entries, arriving }, orders }, to_merge)
    }

    fn open<V: Value>(self) -> Result<ResultCursor<V>, Broken> {
        let Self { pieces, orders } = self;
        let consumed = Box::new(move || {
            // A link that is gone is heard of elsewhere.
            let _ = orders.send(Order::Credit { batches: 1 });
        });
        StreamCursor::open(pieces, consumed).map(ResultCursor::Stream)
    }
}

/// Where the sorted partitions come from.
pub(crate) enum Streams<V> {
    /// In-process: the partitions themselves.
    Sorted(Receiver<Vec<Sorted<V>>>),
    Remote(Vec<Stream>),
}

/// Merges `streams` into `sink`, and tells through `entries` how far it is.
///
/// # Errors
/// If a stream breaks, or the sink cannot be written.
pub(crate) fn write_merged<J: Job>(
    job: &J,
    streams: Streams<J::Value>,
    top: Option<u64>,
    mut sink: Box<dyn Sink<J::Value>>,
    entries: &AtomicU64,
) -> Result<Written<J::Value>, Broken> {
    let mut cursors = match streams {
        Streams::Sorted(sorted) => {
            let sorted = sorted.recv().map_err(|_| Broken::Ended)?;
            sorted.into_iter().map(|part| ResultCursor::Sorted(SortedCursor::new(part))).collect()
        }
        Streams::Remote(streams) => streams.into_iter().map(Stream::open).collect::<Result<Vec<_>, _>>()?,
    };
    let mut count = 0;
    merge_first(job, &mut cursors, top, |key, value| {
        sink.entry(key, value)?;
        count += 1;
        if count % 1024 == 0 {
            entries.store(count, Ordering::Relaxed);
        }
        Ok(())
    })?;
    entries.store(count, Ordering::Relaxed);
    Ok(Written { sink, entries: count })
}
