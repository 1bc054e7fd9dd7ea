//! Feed: reads the splits of a link ahead of its writer, and packs them where that carries more text.
//!
//! Invariant: nobody but the feed waits for the input. A writer whose input stalls goes on to beat.
//! Invariant: nothing is read that nobody wants any more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded, unbounded};

use crate::logic::ids::SplitId;
use crate::logic::packing::Packing;
use crate::logic::split::Split;
use crate::runtime::buffers::KEPT_BYTES;
use crate::runtime::guarded;
use crate::runtime::pieces::Unmapped;
use crate::runtime::rates::{LinkPacker, Rates};
use crate::runtime::source::{Origin, SplitSource};
use crate::wire::encoding::Encoding;
use crate::wire::located::Located;
use crate::wire::message::{MAX_NAME_BYTES, SPLIT_HEADER_BYTES, SplitHeader, ToWorker};
use crate::wire::pack::Packed;

/// The writer's wish for a split. Once the writer has dropped it, nobody wants the split any more.
pub(super) type Wish = Arc<SplitId>;

/// A split that is to be read, and whether its execution is provisional.
pub(super) struct Wanted {
    pub split: Split,
    pub provisional: bool,
    pub wish: Weak<SplitId>,
}

/// A split that is ready to be written.
pub(super) struct Ready {
    pub wish: Weak<SplitId>,
    /// What is written in place of the bytes, where the worker reads them itself.
    located: Option<Located>,
    id: SplitId,
    provisional: bool,
    origin: Origin,
    packed: Packed,
    buffer: Vec<u8>,
    /// Bytes of the buffer that travel.
    length: usize,
}

impl Ready {
    /// Returns what comes before the bytes in a frame.
    pub(super) fn header(&self) -> [u8; SPLIT_HEADER_BYTES] {
        let Self { id: split, provisional, packed, .. } = *self;
        let Origin { encoding, offset, .. } = self.origin;
        // A longer name was cut.
        let name_bytes = self.origin.name.len() as u16;
        SplitHeader { split, provisional, encoding, offset, name_bytes, packed }.encode()
    }

    /// Returns the order to read the split, where the worker does that itself.
    pub(super) fn order(&self) -> Option<ToWorker> {
        let located = self.located.clone()?;
        Some(ToWorker::Read { split: self.id, provisional: self.provisional, located })
    }

    /// Returns the name of the file, which comes between the header and the bytes.
    pub(super) fn name(&self) -> &[u8] {
        &self.origin.name
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

/// The writer's end of a feed.
pub(super) struct Ends {
    /// Splits that are to be read.
    pub wanted: Sender<Wanted>,
    /// They come back in the order in which they were wanted. There is no room: what waits can still be packed.
    pub ready: Receiver<Ready>,
    /// Takes back what was written.
    pub used: Sender<Ready>,
}

/// Reads and packs what one link is to write.
pub(super) struct Feed {
    source: Arc<dyn SplitSource>,
    wanted: Receiver<Wanted>,
    ready: Sender<Ready>,
    used: Receiver<Ready>,
    buffers: Vec<Vec<u8>>,
    packer: LinkPacker,
}

/// How often a plain split that waits is looked at again: the first of a slow link is under way before its rate is
/// known.
const RECONSIDER: Duration = Duration::from_millis(20);

/// Buffers that are kept: one is read into or packed into, one holds what it is packed from, one is written from.
const KEPT_BUFFERS: usize = 3;

impl Feed {
    /// Makes a feed that reads from `source`, and the writer's end of it.
    pub(super) fn new(source: Arc<dyn SplitSource>, rates: Rates) -> (Self, Ends) {
        // Bounded by the window of splits, and by what was handed over.
        let (wanted_sender, wanted) = unbounded();
        let (used_sender, used) = unbounded();
        let (ready, ready_receiver) = bounded(0);
        let feed = Self { source, wanted, ready, used, buffers: Vec::new(), packer: LinkPacker::new(rates) };
        (feed, Ends { wanted: wanted_sender, ready: ready_receiver, used: used_sender })
    }

    /// Works until the writer's end is dropped. Tells `unread` of a split that could not be read, and why.
    pub(super) fn run(mut self, unread: &dyn Fn(SplitId, Unmapped)) {
        while let Ok(Wanted { split, provisional, wish }) = self.wanted.recv() {
            self.take_back();
            if is_unwanted(&wish) {
                continue;
            }
            if let Some(located) = self.source.located(&split) {
                let packed = Packed { packing: Packing::Plain, length: 0 };
                let (origin, buffer) = (Origin::default(), Vec::new());
                let located = Some(located);
                let ready =
                    Ready { wish, located, id: split.id, provisional, origin, packed, buffer, length: 0 };
                match self.ready.send(ready) {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            let mut text = self.buffers.pop().unwrap_or_default();
            let read =
                guarded(|| self.source.read(&split, &mut text)).map_err(Unmapped::Failed).and_then(|read| {
                    read.map_err(|error| Unmapped::unread(error.as_ref(), format!("{error:#}")))
                });
            if is_unwanted(&wish) {
                self.keep(text);
                continue;
            }
            if let Err(cause) = read {
                self.keep(text);
                unread(split.id, cause);
                continue;
            }
            let length = text.len();
            let packed = Packed { packing: Packing::Plain, length };
            let mut origin = self.source.origin(&split);
            origin.name.truncate(MAX_NAME_BYTES);
            let (id, located) = (split.id, None);
            let ready = Ready { wish, located, id, provisional, origin, packed, buffer: text, length };
            let ready = self.reconsider(ready);
            if !self.hand_over(ready) {
                return;
            }
        }
    }

    /// Gives a split to the writer; a plain one may be packed while it waits. `false` if there is no writer any more.
    fn hand_over(&mut self, mut ready: Ready) -> bool {
        let measures = self.packer.measures();
        loop {
            let is_plain = ready.packed.packing == Packing::Plain && ready.origin.encoding == Encoding::Plain;
            let handed = match measures && is_plain {
                true => self.ready.send_timeout(ready, RECONSIDER),
                false => self.ready.send(ready).map_err(|error| SendTimeoutError::Disconnected(error.0)),
            };
            match handed {
                Ok(()) => return true,
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
        if ready.origin.encoding != Encoding::Plain {
            return ready;
        }
        let mut buffer = self.buffers.pop().unwrap_or_default();
        match self.packer.pack(ready.bytes(), &mut buffer) {
            None => {
                self.keep(buffer);
                ready
            }
            Some((packing, length)) => {
                let mut ready = ready;
                self.keep(std::mem::take(&mut ready.buffer));
                Ready { buffer, length, packed: Packed { packing, length: ready.length }, ..ready }
            }
        }
    }

    fn take_back(&mut self) {
        while let Ok(used) = self.used.try_recv() {
            self.keep(used.buffer);
        }
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < KEPT_BUFFERS && (1..=KEPT_BYTES).contains(&buffer.capacity()) {
            self.buffers.push(buffer);
        }
    }
}

fn is_unwanted(wish: &Weak<SplitId>) -> bool {
    wish.strong_count() == 0
}
