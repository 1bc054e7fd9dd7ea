//! Collect: the client's end: the results of all workers, in order, rendered on all threads and written by one.
//!
//! Or in parts, each written by one of several: see `parted`.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Receiver;

use crate::job::Job;
use crate::logic::merge::{self, Part};

use super::arrival::{Arriving, Stream};
use super::free;
use super::parted::write_parts;
use super::pipeline::{Next, in_order};
use super::results::{Broken, Sorted};
use super::resumed::Resumed;
use super::source::{Form, Output, Parts};

/// Where the result comes from.
pub(crate) enum Streams<V> {
    /// In-process: the result itself, to be sorted.
    Sorted(Receiver<Sorted<V>>),
    Remote(Vec<Arriving>),
}

/// What the merges of a run write to.
pub(crate) enum Written<V> {
    Whole(Resumed<V>),
    Parted {
        parts: Box<dyn Parts<V>>,
        /// Of the last merge that came to its end.
        bytes: u64,
    },
}

impl<V> Written<V> {
    pub(crate) fn new(output: Output<V>) -> Self {
        match output {
            Output::Whole(sink) => Self::Whole(Resumed::new(sink)),
            Output::Parted(parts) => Self::Parted { parts, bytes: 0 },
        }
    }

    /// Makes the output final and returns the bytes written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish(self) -> io::Result<u64> {
        match self {
            Self::Whole(resumed) => resumed.finish(),
            Self::Parted { parts, bytes } => parts.finish().map(|()| bytes),
        }
    }
}

/// Puts what comes from `streams` into `written`, and tells through `entries` how far it is. Once `is_void`, no more
/// is written. With `top`, only so many first entries are, of a result as a whole.
///
/// # Errors
/// If a stream breaks, if the result is void, or if the output cannot be written.
pub(crate) fn collect<J: Job>(
    job: &Arc<J>,
    streams: Streams<J::Value>,
    top: Option<u64>,
    written: &mut Written<J::Value>,
    entries: &AtomicU64,
    is_void: &AtomicBool,
) -> Result<(), Broken> {
    match written {
        Written::Whole(output) => write_merged(job, streams, top, output, entries, is_void),
        Written::Parted { parts, bytes } => {
            *bytes = write_parts(job, streams, parts.as_mut(), entries, is_void)?;
            Ok(())
        }
    }
}

/// Puts what comes from `streams`, in order, into `output`, and tells through `entries` how far it is. Once `is_void`,
/// no more is written.
///
/// # Errors
/// If a stream breaks, if the result is void, or if the output cannot be written.
fn write_merged<J: Job>(
    job: &Arc<J>,
    streams: Streams<J::Value>,
    top: Option<u64>,
    output: &mut Resumed<J::Value>,
    entries: &AtomicU64,
    is_void: &AtomicBool,
) -> Result<(), Broken> {
    let form = output.form();
    output.begin();
    entries.store(0, Ordering::Relaxed);
    let mut left = top.unwrap_or(u64::MAX);
    let take = |mut rendered: Rendered| {
        // In-process, all of the result is there already, and no stream ends.
        if is_void.load(Ordering::Relaxed) {
            return Err(Broken::Ended);
        }
        rendered.keep_first(&mut left);
        output.write(&rendered.bytes)?;
        entries.fetch_add(rendered.entries, Ordering::Relaxed);
        Ok(())
    };
    match streams {
        Streams::Sorted(sorted) => {
            let sorted = sorted.recv().map_err(|_| Broken::Ended)?;
            sorted.for_each_range(|range| render(form.as_ref(), range.iter().copied()), take)?;
            // Giving back hundreds of megabytes takes a while, for which the end of the output need not wait.
            free(sorted);
        }
        Streams::Remote(arriving) => {
            let streams = arriving.into_iter().map(|arriving| arriving.open(job));
            let mut parts = Arrived {
                merging: merge::Streams::new(streams.len()),
                streams: streams.collect::<io::Result<_>>()?,
                // What workers have made in a reduce of their own may have keys in common.
                left: top.filter(|_| !J::REDUCES).unwrap_or(u64::MAX),
            };
            let merge = || {
                |(part, wanted): (Part<J::Value>, usize)| match J::REDUCES {
                    true => render_joined(job.as_ref(), form.as_ref(), &part, top),
                    // Of the last part, only so many are wanted.
                    false => render(form.as_ref(), part.merged().take(wanted)),
                }
            };
            in_order(threads(), |may_wait| parts.next(may_wait), merge, take)?;
        }
    }
    Ok(output.end()?)
}

/// Threads that work at what arrives: all that this machine has, for a client has nothing else to do by then.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[derive(Default)]
pub(crate) struct Rendered {
    pub bytes: Vec<u8>,
    pub entries: u64,
    /// Where each entry ends, if it is not known yet how many are wanted.
    ends: Vec<usize>,
}

impl Rendered {
    /// Keeps no more than `left` first entries, if it is known where they end, and has so many less be left.
    fn keep_first(&mut self, left: &mut u64) {
        if self.ends.is_empty() {
            return;
        }
        self.entries = self.entries.min(*left);
        *left -= self.entries;
        let kept = (self.entries as usize).checked_sub(1).and_then(|last| self.ends.get(last));
        self.bytes.truncate(kept.copied().unwrap_or(0));
    }
}

/// Renders a part of the result in which a key may stand several times, with what stands there combined.
fn render_joined<J: Job>(
    job: &J,
    form: &dyn Form<J::Value>,
    part: &Part<J::Value>,
    top: Option<u64>,
) -> Result<Rendered, Broken> {
    let mut joined: Vec<(&[u8], Cow<'_, J::Value>)> = Vec::with_capacity(part.len());
    for (key, value) in part.merged() {
        match joined.last_mut() {
            Some((last, into)) if *last == key => job.combine(into.to_mut(), value.clone()),
            _ => joined.push((key, Cow::Borrowed(value))),
        }
    }
    let entries = joined.iter().map(|(key, value)| (*key, value.as_ref()));
    let Some(top) = top else { return render(form, entries) };
    let mut rendered = Rendered::default();
    for entry in entries.take(usize::try_from(top).unwrap_or(usize::MAX)) {
        form.render(&[entry], &mut rendered.bytes)?;
        rendered.entries += 1;
        rendered.ends.push(rendered.bytes.len());
    }
    Ok(rendered)
}

/// Renders `entries`, some at a time.
///
/// # Errors
/// If one has no such form.
pub(crate) fn render<'e, V: 'e>(
    form: &dyn Form<V>,
    mut entries: impl Iterator<Item = (&'e [u8], &'e V)>,
) -> Result<Rendered, Broken> {
    let mut rendered = Rendered::default();
    let mut block = Vec::with_capacity(BLOCK_ENTRIES);
    loop {
        block.clear();
        block.extend(entries.by_ref().take(BLOCK_ENTRIES));
        if block.is_empty() {
            return Ok(rendered);
        }
        form.render(&block, &mut rendered.bytes)?;
        rendered.entries += block.len() as u64;
    }
}

/// Entries that are rendered by one call: few enough for a core's first cache.
const BLOCK_ENTRIES: usize = 512;

/// The parts of what arrives.
struct Arrived<V> {
    merging: merge::Streams<V>,
    streams: Vec<Stream<V>>,
    /// Entries that are still wanted.
    left: u64,
}

impl<V> Arrived<V> {
    /// Cuts the next part, of which so many first entries are wanted.
    fn next(&mut self, may_wait: bool) -> Result<Next<(Part<V>, usize)>, Broken> {
        if self.left == 0 {
            return Ok(Next::End);
        }
        while let Some(lacking) = self.merging.lacking() {
            let Some(arrived) = self.streams[lacking].take(may_wait)? else { return Ok(Next::NotYet) };
            self.merging.add(lacking, arrived);
        }
        let Some(part) = self.merging.cut() else { return Ok(Next::End) };
        let wanted = self.left.min(part.len() as u64);
        self.left -= wanted;
        Ok(Next::Task((part, wanted as usize)))
    }
}
