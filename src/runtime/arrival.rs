//! Arrival: the result of one worker at the client: its batches are read into stretches on a thread of its own.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, WorkerId};
use crate::logic::merge::{Place, Stretch};
use crate::wire::entries::SortedDecoder;

use super::link::Order;
use super::results::{Broken, CREDIT_BATCHES};
use super::{guarded, spawn};

/// What a stream of results consists of.
pub(crate) enum Piece {
    Batch(Vec<u8>),
    End,
}

/// The result of one worker on its way.
pub(crate) struct Arriving {
    worker: WorkerId,
    /// Entries that the worker has announced.
    entries: u64,
    pieces: Receiver<Piece>,
    /// Takes credit for a batch that is merged.
    orders: Sender<Order>,
    epoch: Epoch,
}

impl Arriving {
    /// Makes the stream of the `worker` that takes `orders` and has announced `entries`, and where its pieces go: a
    /// worker that keeps to its credit finds room.
    pub(crate) fn new(
        worker: WorkerId,
        epoch: Epoch,
        entries: u64,
        orders: Sender<Order>,
    ) -> (Self, Sender<Piece>) {
        // One more for the end.
        let (to_merge, pieces) = bounded(CREDIT_BATCHES as usize + 1);
        (Self { worker, entries, pieces, orders, epoch }, to_merge)
    }

    /// Starts to read what arrives.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn open<J: Job>(self, job: &Arc<J>) -> io::Result<Stream<J::Value>> {
        let (to_merge, stretches) = bounded(STRETCHES_AHEAD);
        let Self { worker, entries, pieces, orders, epoch } = self;
        let job = job.clone();
        spawn(format!("mr:decode:{}", worker.0), move || {
            let mut reading = Reading { job: job.as_ref(), left: entries, end: None };
            let malformed = |cause| Broken::Malformed { worker, cause };
            for piece in pieces {
                let stretch = guarded(|| reading.read(piece)).flatten().map_err(malformed);
                let last = !matches!(stretch, Ok(Some(_)));
                // When the merge has ended, nobody wants more.
                if to_merge.send(stretch).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Stream { stretches, orders, epoch, holds_batch: false })
    }
}

/// Stretches that are read before the merge asks for them: then it seldom waits.
const STRETCHES_AHEAD: usize = 1;

/// A stream of which batch after batch is read.
struct Reading<'j, J: Job> {
    job: &'j J,
    /// Entries that are still to come.
    left: u64,
    /// The last entry of the stretch before.
    end: Option<Place>,
}

impl<J: Job> Reading<'_, J> {
    /// Makes the next stretch of a batch; `None` of the end.
    ///
    /// # Errors
    /// If it is not what a worker may send, with the reason.
    fn read(&mut self, piece: Piece) -> Result<Option<Stretch<J::Value>>, String> {
        let batch = match piece {
            Piece::Batch(batch) => batch,
            Piece::End if self.left == 0 => return Ok(None),
            Piece::End => return Err(format!("its result ended {} entries before its end", self.left)),
        };
        let out_of_order = || "the entries of its result are out of order".to_owned();
        let mut stretch = Stretch::new();
        for entry in SortedDecoder::<J::Value>::new(&batch) {
            let entry = entry.map_err(|error| error.to_string())?;
            let rank = self.job.rank(&entry.value);
            stretch.push(rank, entry.shared, entry.rest, entry.value).map_err(|_| out_of_order())?;
        }
        if self.end.as_ref().is_some_and(|end| !stretch.follows(end)) {
            return Err(out_of_order());
        }
        self.left = (self.left.checked_sub(stretch.len() as u64))
            .ok_or_else(|| "its result has more entries than it announced".to_owned())?;
        self.end = stretch.end().or(self.end.take());
        Ok(Some(stretch))
    }
}

/// The stretches of a stream, as the merge takes them.
pub(crate) struct Stream<V> {
    stretches: Receiver<Result<Option<Stretch<V>>, Broken>>,
    orders: Sender<Order>,
    epoch: Epoch,
    /// Whether a batch was taken for which no credit was given yet.
    holds_batch: bool,
}

impl<V> Stream<V> {
    /// Takes the next stretch, `Some(None)` at the end; `None` if it has not arrived and `may_wait` is not set. All
    /// stretches taken before are merged.
    ///
    /// # Errors
    /// If the stream broke.
    pub(crate) fn take(&mut self, may_wait: bool) -> Result<Option<Option<Stretch<V>>>, Broken> {
        if std::mem::take(&mut self.holds_batch) {
            // A link that is gone is heard of elsewhere.
            let _ = self.orders.send(Order::Credit { epoch: self.epoch, batches: 1 });
        }
        let arrived = match may_wait {
            true => self.stretches.recv().map_err(|_| Broken::Ended)?,
            false => match self.stretches.try_recv() {
                Ok(arrived) => arrived,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(Broken::Ended),
            },
        }?;
        self.holds_batch = arrived.is_some();
        Ok(Some(arrived))
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::jobs::word_count::{Params, WordCount};
    use crate::wire::entries::encode_sorted;

    /// Reads a stream of `pieces`, of which `entries` are announced, to its end; the number of entries, and the
    /// batches for which credit was given.
    fn read(entries: u64, pieces: Vec<Piece>) -> Result<(usize, usize), Broken> {
        let job = Arc::new(WordCount::new(Params::default()).expect("the parameters are good"));
        let (orders, credits) = unbounded();
        let (arriving, to_merge) = Arriving::new(WorkerId(3), Epoch(1), entries, orders);
        pieces.into_iter().for_each(|piece| to_merge.send(piece).expect("there is room"));
        drop(to_merge);
        let mut stream = arriving.open(&job).expect("a thread can be started");
        let mut n = 0;
        while let Some(stretch) = stream.take(true)?.expect("it waits") {
            n += stretch.len();
        }
        drop(stream);
        Ok((n, credits.iter().count()))
    }

    fn batch(entries: &[(&str, u64)]) -> Piece {
        let entries: Vec<_> = entries.iter().map(|(key, count)| (key.as_bytes(), count)).collect();
        Piece::Batch(encode_sorted(&entries, usize::MAX).concat())
    }

    #[test]
    fn credit_is_given_for_each_batch_once_it_is_merged_also_for_an_empty_one() {
        let pieces = vec![batch(&[("b", 2), ("a", 1)]), batch(&[]), batch(&[("c", 1)]), Piece::End];
        assert_eq!(read(3, pieces).expect("a whole stream"), (3, 3));
        assert_eq!(read(0, vec![Piece::End]).expect("a whole stream"), (0, 0));
    }

    #[test]
    fn who_may_not_wait_is_told_that_there_is_nothing_yet() {
        let job = Arc::new(WordCount::new(Params::default()).expect("the parameters are good"));
        let (arriving, to_merge) = Arriving::new(WorkerId(0), Epoch(1), 1, unbounded().0);
        let mut stream = arriving.open(&job).expect("a thread can be started");
        assert!(matches!(stream.take(false), Ok(None)));
        to_merge.send(batch(&[("a", 1)])).expect("there is room");
        assert!(matches!(stream.take(true), Ok(Some(Some(_)))));
        drop(to_merge);
        assert!(matches!(stream.take(true), Err(Broken::Ended)));
        assert!(matches!(stream.take(false), Err(Broken::Ended)));
    }

    #[test]
    fn a_stream_that_is_not_what_was_announced_accuses_its_worker() {
        let accused = |broken: Result<_, Broken>, what: &str| {
            let Err(Broken::Malformed { worker: WorkerId(3), cause }) = broken else { panic!("{broken:?}") };
            assert!(cause.contains(what), "{cause}");
        };
        accused(read(3, vec![batch(&[("a", 1)]), Piece::End]), "2 entries before");
        accused(read(1, vec![batch(&[("a", 1), ("b", 1)]), Piece::End]), "more entries");
        accused(read(9, vec![Piece::Batch(vec![0, 5, b'x'])]), "malformed");
        accused(read(9, vec![batch(&[("a", 1), ("b", 2)])]), "out of order");
        accused(read(9, vec![batch(&[("b", 1)]), batch(&[]), batch(&[("a", 1)])]), "out of order");
    }

    #[test]
    fn a_stream_without_an_end_is_no_whole_one() {
        assert!(matches!(read(1, vec![batch(&[("a", 1)])]), Err(Broken::Ended)));
        assert!(matches!(read(0, Vec::new()), Err(Broken::Ended)));
    }
}
