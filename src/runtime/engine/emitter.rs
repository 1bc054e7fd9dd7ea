//! Emitter: takes the pairs of a split, and counts the memory that their values own elsewhere.

use std::cell::{Cell, RefCell};

use super::Work;
use crate::job::{Emit, Job, Span, Value};
use crate::logic::partition::Seed;
use crate::logic::table::{Batch, Folder};
use crate::runtime::pieces::{Map, Unmapped};

/// Bytes that the values of a table own elsewhere. Of values that own nothing, nothing is counted, in no time.
#[derive(Default)]
pub(crate) struct Heap(Cell<usize>);

impl Heap {
    pub(crate) fn bytes(&self) -> usize {
        self.0.get()
    }

    /// Counts a value that is put in.
    #[inline]
    pub(crate) fn count<V: Value>(&self, value: &V, times: usize) {
        if std::mem::needs_drop::<V>() {
            self.0.set(self.0.get().wrapping_add(value.heap_bytes() * times));
        }
    }

    /// Folds two values that were counted.
    #[inline]
    pub(crate) fn combine<J: Job>(&self, job: &J, into: &mut J::Value, other: J::Value) {
        if !std::mem::needs_drop::<J::Value>() {
            return job.combine(into, other);
        }
        let before = into.heap_bytes() + other.heap_bytes();
        job.combine(into, other);
        self.0.set(self.0.get().wrapping_sub(before).wrapping_add(into.heap_bytes()));
    }
}

/// What folds the records of a split.
pub(super) struct Emitter<'e, V, C, M> {
    batch: Batch<'e, V, Seed, C>,
    heap: &'e Heap,
    /// Says whether so many bytes may be held.
    may_hold: M,
}

impl<V, C, M> Emit<V> for Emitter<'_, V, C, M>
where
    V: Value,
    C: Fn(&mut V, V),
    M: Fn(usize) -> Result<(), String>,
{
    #[inline]
    fn pair(&mut self, key: &[u8], value: V) {
        self.heap.count(&value, 1);
        self.batch.pair(key, value);
    }

    #[inline]
    fn spans(&mut self, text: &[u8], spans: &[Span], value: V) {
        self.heap.count(&value, spans.len());
        self.batch.spans(text, spans, value);
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        (self.may_hold)(self.batch.memory_bytes() + self.heap.bytes() + bytes)
    }
}

/// Gives the records of a split to a map, all of them or until one fails.
pub(super) trait Feed: FnOnce(Map<'_>) -> Result<(), Unmapped> {}

impl<F: FnOnce(Map<'_>) -> Result<(), Unmapped>> Feed for F {}

/// Folds the records that `feed` gives, and returns the number of pairs. `is_touched` tells afterwards whether the job
/// has seen any of them; `may_hold` says whether the folder and its values may be so large.
pub(super) fn fold_records<J: Job>(
    work: &Work<J>,
    feed: impl Feed,
    (folder, heap): (&mut Folder<J::Value>, &Heap),
    may_hold: impl Fn(usize) -> Result<(), String>,
    is_touched: &mut bool,
) -> Result<u64, Unmapped> {
    let batch = folder.batch(|into, other| heap.combine(&*work.job, into, other));
    let mut emitter = Emitter { batch, heap, may_hold };
    let mut feed = Some(feed);
    let unreadable = RefCell::new(None);
    let mut pieces = |map: Map<'_>| {
        let Some(feed) = feed.take() else { return Err("a split has its records once".to_owned()) };
        let fed = feed(&mut |records| {
            *is_touched = true;
            map(records)
        });
        // Whatever the job emits from now on, it need not have seen a record.
        *is_touched |= fed.is_ok();
        fed.map_err(|unmapped| match unmapped {
            Unmapped::Unreadable(cause) => unreadable.borrow_mut().insert(cause).clone(),
            Unmapped::Failed(cause) => cause,
        })
    };
    let mapped = work.job.map_split(&mut pieces, &mut emitter);
    match (mapped, unreadable.into_inner()) {
        (_, Some(cause)) => Err(Unmapped::Unreadable(cause)),
        (Err(cause), None) => Err(Unmapped::Failed(cause)),
        (Ok(()), None) => Ok(emitter.batch.finish()),
    }
}
