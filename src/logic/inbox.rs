//! Inbox: what a worker has received of the shuffle: the streams of one epoch, and never those of two.
//!
//! Invariant: what is taken out to be reduced is the whole of each source's stream of one epoch, each once.

use std::collections::{BTreeSet, HashMap};

use super::ids::{Epoch, WorkerId};
use super::partition::Partition;

/// What arrived from peers, by partition, for the newest epoch that a peer has spoken of.
#[derive(Debug)]
pub struct Inbox<B> {
    epoch: Option<Epoch>,
    /// Epochs up to this one are over, whoever still sends.
    over: Epoch,
    /// Who has begun a stream.
    sources: BTreeSet<WorkerId>,
    partitions: HashMap<Partition, Vec<B>>,
    /// Bytes of all batches that are held.
    bytes: u64,
    /// The most that may be held.
    limit: u64,
}

/// Why a batch is not taken in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("the peers have more for this worker than the {0} bytes that it may hold")]
    Full(u64),
}

/// The stream belongs to an epoch that is over, its source has one already, or is none of the workers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is stale: {0}")]
pub struct Stale(&'static str);

/// Why nothing can be taken out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWhole {
    /// The epoch is over: a peer has begun a newer one.
    #[error("a newer epoch has begun")]
    Superseded,
    #[error("the streams that came are not those of the workers")]
    OtherSources,
}

impl<B> Inbox<B> {
    /// Makes an inbox that holds batches of `limit` bytes at most, all together.
    pub fn new(limit: u64) -> Self {
        Self::after(Epoch(0), None, limit)
    }

    /// Makes an empty inbox for the epoch that is `current`, when those up to `over` are.
    fn after(over: Epoch, current: Option<Epoch>, limit: u64) -> Self {
        let (sources, partitions) = (BTreeSet::new(), HashMap::new());
        Self { epoch: current, over, sources, partitions, bytes: 0, limit }
    }

    /// Opens the stream of `source` in `epoch`. A newer epoch drops what is held of an older one.
    ///
    /// # Errors
    /// If the epoch is older than the newest known, or the source has sent a stream in it.
    pub fn open(&mut self, epoch: Epoch, source: WorkerId) -> Result<(), Stale> {
        if epoch <= self.over || self.epoch.is_some_and(|current| current > epoch) {
            return Err(Stale("its epoch is over"));
        }
        if self.epoch != Some(epoch) {
            *self = Self::after(self.over, Some(epoch), self.limit);
        }
        if !self.sources.insert(source) {
            return Err(Stale("its source has sent one already"));
        }
        Ok(())
    }

    /// Finds room for so many bytes of `epoch`, before they are there.
    ///
    /// # Errors
    /// If the epoch is not the current one, or there is no room.
    pub fn reserve(&mut self, epoch: Epoch, bytes: u64) -> Result<(), PutError> {
        if self.epoch != Some(epoch) {
            return Err(Stale("its epoch is over").into());
        }
        self.bytes = (self.bytes.checked_add(bytes).filter(|sum| *sum <= self.limit))
            .ok_or(PutError::Full(self.limit))?;
        Ok(())
    }

    /// Gives back room that was found in `epoch`.
    pub fn release(&mut self, epoch: Epoch, bytes: u64) {
        // What was found in an epoch that is over went with it.
        if self.epoch == Some(epoch) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Takes a batch of a stream of `epoch` in, for which room was found.
    ///
    /// # Errors
    /// If the epoch is not the current one.
    pub fn put(&mut self, epoch: Epoch, partition: Partition, batch: B) -> Result<(), Stale> {
        if self.epoch != Some(epoch) {
            return Err(Stale("its epoch is over"));
        }
        self.partitions.entry(partition).or_default().push(batch);
        Ok(())
    }

    /// Takes out what arrived in `epoch`, in which each of `sources` has sent its stream.
    ///
    /// # Errors
    /// If what is held is not that, nothing more and nothing less.
    pub fn take(
        &mut self,
        epoch: Epoch,
        sources: &BTreeSet<WorkerId>,
    ) -> Result<HashMap<Partition, Vec<B>>, NotWhole> {
        // Who is alone gets no stream, so no epoch either: what is held may be of an older one.
        match self.epoch {
            Some(current) if current > epoch => return Err(NotWhole::Superseded),
            Some(current) if current < epoch => *self = Self::after(self.over, None, self.limit),
            _ => {}
        }
        if self.sources != *sources {
            return Err(NotWhole::OtherSources);
        }
        self.bytes = 0;
        Ok(std::mem::take(&mut self.partitions))
    }

    /// Drops what is held of epochs up to `epoch`, which are over, and refuses what still comes of them.
    pub fn forget(&mut self, epoch: Epoch) {
        self.over = self.over.max(epoch);
        if self.epoch.is_some_and(|current| current <= epoch) {
            *self = Self::after(self.over, None, self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(2);
    const SOURCE: WorkerId = WorkerId(1);

    fn sources(ids: &[u32]) -> BTreeSet<WorkerId> {
        ids.iter().copied().map(WorkerId).collect()
    }

    #[test]
    fn a_source_sends_one_stream_an_epoch_and_none_of_an_older_one() {
        let mut inbox = Inbox::new(10);
        inbox.open(EPOCH, SOURCE).expect("the first stream");
        assert!(inbox.open(EPOCH, SOURCE).is_err(), "a second stream of the same source");
        assert!(inbox.open(Epoch(1), WorkerId(2)).is_err(), "an epoch that is over");
        inbox.put(EPOCH, Partition(5), 'a').expect("it is of this epoch");
        assert!(inbox.put(Epoch(1), Partition(5), 'b').is_err());
        assert_eq!(inbox.take(EPOCH, &sources(&[1])), Ok(HashMap::from([(Partition(5), vec!['a'])])));
    }

    #[test]
    fn no_more_is_held_than_may_be() {
        let mut inbox = Inbox::new(10);
        inbox.open(EPOCH, SOURCE).expect("the first stream");
        inbox.reserve(EPOCH, 7).expect("there is room");
        inbox.put(EPOCH, Partition(0), 'a').expect("it is of this epoch");
        assert_eq!(inbox.reserve(EPOCH, 4), Err(PutError::Full(10)));
        assert_eq!(inbox.reserve(EPOCH, u64::MAX), Err(PutError::Full(10)));
        inbox.reserve(EPOCH, 3).expect("there is room");
        inbox.release(EPOCH, 3);
        inbox.reserve(EPOCH, 3).expect("it was given back");
        inbox.open(Epoch(3), SOURCE).expect("a newer epoch");
        inbox.release(EPOCH, 3);
        inbox.reserve(Epoch(3), 10).expect("what was held is dropped");
        assert_eq!(inbox.reserve(Epoch(3), 1), Err(PutError::Full(10)), "an older epoch gives nothing back");
        inbox.take(Epoch(3), &sources(&[1])).expect("it is whole");
    }

    #[test]
    fn a_newer_epoch_drops_what_is_held() {
        let mut inbox = Inbox::new(10);
        inbox.open(EPOCH, SOURCE).expect("the first stream");
        inbox.put(EPOCH, Partition(0), 'a').expect("it is of this epoch");
        inbox.open(Epoch(3), SOURCE).expect("a newer epoch");
        assert!(inbox.put(EPOCH, Partition(0), 'b').is_err());
        assert_eq!(inbox.take(EPOCH, &sources(&[1])), Err(NotWhole::Superseded));
        assert_eq!(inbox.take(Epoch(3), &sources(&[1])), Ok(HashMap::new()));
    }

    #[test]
    fn nothing_is_taken_unless_each_worker_and_nobody_else_has_sent() {
        let mut inbox = Inbox::<char>::new(10);
        assert_eq!(inbox.take(EPOCH, &sources(&[])), Ok(HashMap::new()), "who is alone gets no stream");
        inbox.open(EPOCH, SOURCE).expect("the first stream");
        assert_eq!(inbox.take(EPOCH, &sources(&[])), Err(NotWhole::OtherSources));
        assert_eq!(inbox.take(EPOCH, &sources(&[1, 2])), Err(NotWhole::OtherSources));
        assert_eq!(inbox.take(Epoch(3), &sources(&[])), Ok(HashMap::new()), "the last one that is left");
    }

    #[test]
    fn what_is_over_is_dropped_and_refused() {
        let mut inbox = Inbox::new(10);
        inbox.open(EPOCH, SOURCE).expect("the first stream");
        inbox.put(EPOCH, Partition(0), 'a').expect("it is of this epoch");
        inbox.forget(EPOCH);
        assert!(inbox.put(EPOCH, Partition(0), 'b').is_err(), "its sender has not heard yet");
        assert!(inbox.open(EPOCH, WorkerId(2)).is_err());
        inbox.open(Epoch(3), SOURCE).expect("a newer epoch");
        assert_eq!(inbox.take(Epoch(3), &sources(&[1])), Ok(HashMap::new()));
    }
}
