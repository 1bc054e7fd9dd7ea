//! Parted: the results of all workers, each rendered and written to a part of its own, several at a time.
//!
//! Which key is in which part depends on the workers, so that a merge that begins anew writes all parts anew.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use crate::job::{Job, Value};

use super::arrival::Arriving;
use super::collect::{Streams, render, threads};
use super::free;
use super::results::{Broken, Sorted};
use super::source::{Parts, Sink};

/// Writes each of `streams` to a part of `parts`, in the order of the workers, and returns the bytes written; tells
/// through `entries` how far it is. Once `is_void`, no more is written.
///
/// # Errors
/// If a stream breaks, if the result is void, or if a part cannot be written.
pub(crate) fn write_parts<J: Job>(
    job: &Arc<J>,
    streams: Streams<J::Value>,
    parts: &mut dyn Parts<J::Value>,
    entries: &AtomicU64,
    is_void: &AtomicBool,
) -> Result<u64, Broken> {
    entries.store(0, Ordering::Relaxed);
    parts.begin()?;
    let writing = Writing { parts, entries, is_void, is_broken: AtomicBool::new(false) };
    match streams {
        Streams::Sorted(sorted) => {
            let sorted = sorted.recv().map_err(|_| Broken::Ended)?;
            let bytes = writing.write_sorted(&sorted)?;
            free(sorted);
            Ok(bytes)
        }
        Streams::Remote(arriving) => writing.write_all(job, arriving),
    }
}

struct Writing<'w, V> {
    parts: &'w dyn Parts<V>,
    entries: &'w AtomicU64,
    is_void: &'w AtomicBool,
    /// Whether a part has failed: then no other is wanted.
    is_broken: AtomicBool,
}

/// What became of the parts of one thread. A panic, which can only be the job's code, is handed on.
type Done = Result<Result<u64, Broken>, Box<dyn Any + Send>>;

impl<V: Value> Writing<'_, V> {
    /// In-process there is one part, which all threads render.
    fn write_sorted(&self, sorted: &Sorted<V>) -> Result<u64, Broken> {
        let mut sink = self.parts.part(0)?;
        let form = sink.form();
        sorted.for_each_range(
            |range| render(form.as_ref(), range.iter().copied()),
            |rendered| self.take(sink.as_mut(), &rendered.bytes, rendered.entries),
        )?;
        Ok(sink.finish()?)
    }

    fn write_all<J: Job<Value = V>>(&self, job: &Arc<J>, arriving: Vec<Arriving>) -> Result<u64, Broken> {
        let n_threads = threads().min(arriving.len());
        // A lock, taken once for each part.
        let queue = Mutex::new(arriving.into_iter().enumerate());
        let outcomes: Mutex<Vec<Done>> = Mutex::default();
        let work = || {
            let done = catch_unwind(AssertUnwindSafe(|| self.write_some(job, &queue)));
            if !matches!(done, Ok(Ok(_))) {
                self.is_broken.store(true, Ordering::Relaxed);
            }
            lock(&outcomes).push(done);
        };
        std::thread::scope(|scope| {
            for index in 1..n_threads {
                // If none can be started, this one does it all.
                let _ = Builder::new().name(format!("mr:part:{index}")).spawn_scoped(scope, work);
            }
            work();
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let outcomes = outcomes.into_iter().map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
        total(outcomes)
    }

    /// Writes one part after the other, as long as there are any; returns their bytes.
    fn write_some<J: Job<Value = V>>(
        &self,
        job: &Arc<J>,
        queue: &Mutex<impl Iterator<Item = (usize, Arriving)>>,
    ) -> Result<u64, Broken> {
        let mut bytes = 0;
        loop {
            // Not in the loop's head, which would hold the lock.
            let Some((number, arriving)) = lock(queue).next() else { return Ok(bytes) };
            let mut stream = arriving.open(job)?;
            let mut sink = self.parts.part(number)?;
            let form = sink.form();
            while let Some(stretch) = stream.take(true)?.flatten() {
                let rendered = render(form.as_ref(), stretch.entries())?;
                self.take(sink.as_mut(), &rendered.bytes, rendered.entries)?;
            }
            bytes += sink.finish()?;
        }
    }

    fn take(&self, sink: &mut dyn Sink<V>, rendered: &[u8], entries: u64) -> Result<(), Broken> {
        if self.is_void.load(Ordering::Relaxed) || self.is_broken.load(Ordering::Relaxed) {
            return Err(Broken::Ended);
        }
        sink.write(rendered)?;
        self.entries.fetch_add(entries, Ordering::Relaxed);
        Ok(())
    }
}

/// Adds up what was written. Of several failures, the one that says most is told: others have ended because of it.
fn total(outcomes: impl Iterator<Item = Result<u64, Broken>>) -> Result<u64, Broken> {
    let mut total = Ok(0);
    for outcome in outcomes {
        match (outcome, &mut total) {
            (Ok(bytes), Ok(total)) => *total += bytes,
            (Err(broken), Ok(_) | Err(Broken::Ended)) => total = Err(broken),
            (_, Err(_)) => {}
        }
    }
    total
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one step, so that a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
