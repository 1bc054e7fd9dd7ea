//! Collect: the client's end of the merge: streams of results from all workers, merged into the output.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::logic::merge::{Cursor, merge};

use super::link::Order;
use super::results::{Broken, CREDIT_BATCHES, Piece, Pieces, Sorted, StreamCursor};
use super::source::Sink;

/// An output with everything in it, but not yet final.
pub(crate) struct Written<V> {
    pub sink: Box<dyn Sink<V>>,
    pub entries: u64,
}

impl<V> Written<V> {
    fn take(&mut self, rendered: &[u8], n: u64, entries: &AtomicU64) -> Result<(), Broken> {
        self.sink.write(rendered)?;
        self.entries += n;
        entries.store(self.entries, Ordering::Relaxed);
        Ok(())
    }
}

/// Bytes that are rendered before they are written: fewer system calls gain nothing measurable beyond 256 KiB.
const PIECE_BYTES: usize = 512 << 10;

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

    fn open<V: Value>(self) -> Result<StreamCursor<V>, Broken> {
        let Self { pieces, orders } = self;
        let consumed = Box::new(move || {
            // A link that is gone is heard of elsewhere.
            let _ = orders.send(Order::Credit { batches: 1 });
        });
        StreamCursor::open(pieces, consumed)
    }
}

/// Where the result comes from.
pub(crate) enum Streams<V> {
    /// In-process: the result itself, to be sorted.
    Sorted(Receiver<Sorted<V>>),
    Remote(Vec<Stream>),
}

/// Puts what comes from `streams`, in order, into `sink`, and tells through `entries` how far it is.
///
/// # Errors
/// If a stream breaks, or the sink cannot be written.
pub(crate) fn write_merged<J: Job>(
    job: &J,
    streams: Streams<J::Value>,
    top: Option<u64>,
    sink: Box<dyn Sink<J::Value>>,
    entries: &AtomicU64,
) -> Result<Written<J::Value>, Broken> {
    let form = sink.form();
    let mut written = Written { sink, entries: 0 };
    match streams {
        Streams::Sorted(sorted) => {
            let sorted = sorted.recv().map_err(|_| Broken::Ended)?;
            let render = |range: &[(&[u8], &J::Value)]| {
                let mut rendered = Vec::new();
                form.render(range, &mut rendered)?;
                Ok((rendered, range.len() as u64))
            };
            sorted.for_each_range(render, |(rendered, n)| written.take(&rendered, n, entries))?;
        }
        Streams::Remote(streams) => {
            let mut cursors = streams.into_iter().map(Stream::open).collect::<Result<Vec<_>, _>>()?;
            let (mut rendered, mut n) = (Vec::new(), 0);
            merge_first(job, &mut cursors, top, |key, value| {
                form.render(&[(key, value)], &mut rendered)?;
                n += 1;
                if rendered.len() >= PIECE_BYTES {
                    written.take(&rendered, std::mem::take(&mut n), entries)?;
                    rendered.clear();
                }
                Ok(())
            })?;
            written.take(&rendered, n, entries)?;
        }
    }
    Ok(written)
}

/// Merges `cursors` in the job's order and hands the entries to `each`; with `top`, only so many.
fn merge_first<J: Job, C: Cursor<Value = J::Value, Error = Broken>>(
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
