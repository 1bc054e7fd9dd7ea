//! Feed: reads the splits of a link ahead of its writer, and packs them where that carries more text.
//!
//! Invariant: nobody but the feed waits for the input. A writer whose input stalls goes on to beat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded, unbounded};

use crate::logic::ids::SplitId;
use crate::logic::packing::{Chooser, Packing};
use crate::logic::split::Split;
use crate::runtime::buffers::KEPT_BYTES;
use crate::runtime::source::SplitSource;
use crate::wire::message::{SPLIT_HEADER_BYTES, encode_split};
use crate::wire::pack::{Packed, Packer};

/// What a link's two threads know of its rates. A lock: the feed chooses by what the writer measured; each takes it for
/// a moment, a few times a split.
#[derive(Clone)]
pub(super) struct Rates(Arc<Mutex<Chooser>>);

impl Rates {
    pub(super) fn new(chooser: Chooser) -> Self {
        Self(Arc::new(Mutex::new(chooser)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Chooser> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A split that is ready to be written.
pub(super) struct Ready {
    pub id: SplitId,
    packed: Packed,
    buffer: Vec<u8>,
    /// Bytes of the buffer that travel.
    length: usize,
}

impl Ready {
    /// Returns what comes before the bytes in a frame.
    pub(super) fn header(&self) -> [u8; SPLIT_HEADER_BYTES] {
        encode_split(self.id, self.packed)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

/// The writer's end of a feed.
pub(super) struct Ends {
    /// Splits that are to be read.
    pub wanted: Sender<Split>,
    /// They come back in the order in which they were wanted. There is no room: what waits can still be packed.
    pub ready: Receiver<Ready>,
    /// Takes back what was written.
    pub used: Sender<Ready>,
}

/// Reads and packs what one link is to write.
pub(super) struct Feed {
    pub source: Arc<dyn SplitSource>,
    pub rates: Rates,
    /// Splits that a worker may hold beyond one for each of its threads.
    pub ahead: usize,
    wanted: Receiver<Split>,
    ready: Sender<Ready>,
    used: Receiver<Ready>,
    /// Splits that the writer has, or has just written.
    handed_over: usize,
    buffers: Vec<Vec<u8>>,
    packer: Packer,
}

/// How often a plain split that waits is looked at again: the first of a slow link is under way before its rate is
/// known.
const RECONSIDER: Duration = Duration::from_millis(20);

/// Bytes of a split that are packed to learn what a packing would bring.
const SAMPLE_BYTES: usize = 128 << 10;

/// Buffers that are kept: one is read into or packed into, one holds what it is packed from, one is written from.
const KEPT_BUFFERS: usize = 3;

impl Feed {
    /// Makes a feed that reads from `source`, and the writer's end of it.
    pub(super) fn new(source: Arc<dyn SplitSource>, rates: Rates, ahead: usize) -> (Self, Ends) {
        // Bounded by the window of splits, and by what was handed over.
        let (wanted_sender, wanted) = unbounded();
        let (used_sender, used) = unbounded();
        let (ready, ready_receiver) = bounded(0);
        let feed = Self {
            source,
            rates,
            ahead,
            wanted,
            ready,
            used,
            handed_over: 0,
            buffers: Vec::new(),
            packer: Packer::new(),
        };
        (feed, Ends { wanted: wanted_sender, ready: ready_receiver, used: used_sender })
    }

    /// Works until the writer's end is dropped.
    ///
    /// # Errors
    /// Why a split could not be read.
    pub(super) fn run(mut self) -> Result<(), String> {
        while let Ok(split) = self.wanted.recv() {
            self.take_back();
            let mut text = self.buffers.pop().unwrap_or_default();
            self.source.read(&split, &mut text).map_err(|error| format!("{error:#}"))?;
            let length = text.len();
            let packed = Packed { packing: Packing::Plain, length };
            let ready = Ready { id: split.id, packed, buffer: text, length };
            let ready = self.reconsider(ready);
            if !self.hand_over(ready) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives a split to the writer; a plain one may be packed while it waits. `false` if there is no writer any more.
    fn hand_over(&mut self, mut ready: Ready) -> bool {
        let measures = self.rates.lock().measures();
        loop {
            let handed = match measures && ready.packed.packing == Packing::Plain {
                true => self.ready.send_timeout(ready, RECONSIDER),
                false => self.ready.send(ready).map_err(|error| SendTimeoutError::Disconnected(error.0)),
            };
            match handed {
                Ok(()) => {
                    self.handed_over += 1;
                    return true;
                }
                Err(SendTimeoutError::Timeout(waiting)) => {
                    self.take_back();
                    ready = self.reconsider(waiting);
                }
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
    }

    /// Packs a split that is plain so far if it travels faster so.
    fn reconsider(&mut self, ready: Ready) -> Ready {
        let packing = self.choose(ready.bytes());
        if packing == Packing::Plain {
            return ready;
        }
        let mut buffer = self.buffers.pop().unwrap_or_default();
        let before = Instant::now();
        let packed = self.packer.pack(packing, ready.bytes(), &mut buffer);
        let length = packed.unwrap_or(ready.length);
        self.rates.lock().packed(packing, ready.length, length, before.elapsed());
        if packed.is_none() {
            self.keep(buffer);
            return ready;
        }
        let header = Packed { packing, length: ready.length };
        let id = ready.id;
        self.keep(ready.buffer);
        Ready { id, packed: header, buffer, length }
    }

    /// Chooses how `text` is to travel, once what is not known yet is tried.
    fn choose(&mut self, text: &[u8]) -> Packing {
        let unsent = self.handed_over + 1 + self.wanted.len();
        let untried = {
            let mut rates = self.rates.lock();
            rates.waits(unsent > self.ahead);
            rates.untried()
        };
        let sample = &text[..text.len().min(SAMPLE_BYTES)];
        for packing in untried {
            let mut buffer = self.buffers.pop().unwrap_or_default();
            let before = Instant::now();
            let packed = self.packer.pack(packing, sample, &mut buffer).unwrap_or(sample.len());
            self.rates.lock().tried(packing, sample.len(), packed, before.elapsed());
            self.keep(buffer);
        }
        self.rates.lock().choose()
    }

    fn take_back(&mut self) {
        while let Ok(used) = self.used.try_recv() {
            self.handed_over -= 1;
            self.keep(used.buffer);
        }
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < KEPT_BUFFERS && buffer.capacity() <= KEPT_BYTES {
            self.buffers.push(buffer);
        }
    }
}
