//! Rates: measures how fast a link takes bytes and how fast they are packed for it, and packs them by that.

use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::logic::packing::{Chooser, Packing};
use crate::wire::pack::Packer;

/// What is known of one link. A lock: one thread measures what it writes while another chooses by it what is packed;
/// each takes it for a moment, a few times a split.
#[derive(Clone)]
pub(crate) struct Rates(Arc<Mutex<Chooser>>);

impl Rates {
    pub(crate) fn new(chooser: Chooser) -> Self {
        Self(Arc::new(Mutex::new(chooser)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Chooser> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are packed to learn what a packing would bring.
const SAMPLE_BYTES: usize = 128 << 10;

/// Packs what travels over one link where that carries more of it.
pub(crate) struct LinkPacker {
    rates: Rates,
    packer: Packer,
}

impl LinkPacker {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, packer: Packer::new() }
    }

    /// Packs `text` into `buffer`, whose old content does not matter, and returns how, and how many of its bytes are
    /// used; `None` if the text is to travel as it is.
    pub(crate) fn pack(&mut self, text: &[u8], buffer: &mut Vec<u8>) -> Option<(Packing, usize)> {
        let untried = self.rates.lock().untried();
        let sample = &text[..text.len().min(SAMPLE_BYTES)];
        for packing in untried {
            let before = Instant::now();
            let packed = self.packer.pack(packing, sample, buffer).unwrap_or(sample.len());
            self.rates.lock().tried(packing, sample.len(), packed, before.elapsed());
        }
        let packing = self.rates.lock().choose();
        if packing == Packing::Plain {
            return None;
        }
        let before = Instant::now();
        let packed = self.packer.pack(packing, text, buffer);
        self.rates.lock().packed(packing, text.len(), packed.unwrap_or(text.len()), before.elapsed());
        packed.map(|packed| (packing, packed))
    }

    /// Tells whether a text that travels as it is now might be packed later.
    pub(crate) fn measures(&self) -> bool {
        self.rates.lock().measures()
    }
}

/// Bytes that are written, and measured, at a time. A connection that was idle takes about so many at once, however
/// slow its link is (`edge::net` sees to it that it takes no more).
const PIECE_BYTES: usize = 256 << 10;

/// A writer that waited for longer has let its link run dry.
const AT_ONCE: Duration = Duration::from_micros(500);

/// Slices of which a piece is made; what lies beyond is written with the next.
const MAX_SLICES: usize = 4;

/// Measures how fast a connection takes what is written.
pub(crate) struct Measured {
    inner: Box<dyn Write + Send>,
    rates: Rates,
    measures: bool,
    /// Bytes that say nothing of the link yet.
    unmeasured: usize,
}

impl Measured {
    pub(crate) fn new(inner: Box<dyn Write + Send>, rates: Rates) -> Self {
        let measures = rates.lock().measures();
        Self { inner, rates, measures, unmeasured: PIECE_BYTES }
    }

    /// Says that nothing was to be written for such a time.
    pub(crate) fn waited(&mut self, time: Duration) {
        if self.measures && time > AT_ONCE {
            self.unmeasured = PIECE_BYTES;
            self.rates.lock().idled(time);
        }
    }

    fn measure(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<usize>) -> io::Result<usize> {
        let before = Instant::now();
        let written = write(&mut self.inner)?;
        let time = before.elapsed();
        if self.unmeasured > 0 {
            self.unmeasured = self.unmeasured.saturating_sub(written);
        } else {
            self.rates.lock().wrote(written, time);
        }
        Ok(written)
    }
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.measures {
            true => self.measure(|inner| inner.write(&bytes[..bytes.len().min(PIECE_BYTES)])),
            false => self.inner.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.measures {
            return self.inner.write_vectored(slices);
        }
        let mut left = PIECE_BYTES;
        let mut piece = [IoSlice::new(&[]); MAX_SLICES];
        for (part, slice) in piece.iter_mut().zip(slices) {
            let taken = slice.len().min(left);
            left -= taken;
            *part = IoSlice::new(&slice[..taken]);
        }
        self.measure(|inner| inner.write_vectored(&piece))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::packing::Compress;
    use crate::wire::frame::{Kind, write_frame};

    /// Takes so many bytes a second, and at most so many at once.
    struct Slow(f64, usize, Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.1);
            std::thread::sleep(Duration::from_secs_f64(taken as f64 / self.0));
            self.2.lock().expect("no panic").extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn rates() -> Rates {
        Rates::new(Chooser::new(Compress::Auto, &Packing::ALL, 1, 1))
    }

    #[test]
    fn a_slow_link_is_packed_for_and_loses_nothing() {
        let (rates, taken) = (rates(), Arc::default());
        let mut writer = Measured::new(Box::new(Slow(4e6, 100_000, Arc::clone(&taken))), rates.clone());
        let mut packer = LinkPacker::new(rates);
        let text: Vec<u8> = (0..60_000).map(|n| format!("word{} ", n % 777)).collect::<String>().into();
        let (mut buffer, mut sent, mut packings) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            let packed = packer.pack(&text, &mut buffer);
            let bytes = packed.map_or(&text[..], |(_, length)| &buffer[..length]);
            write_frame(&mut writer, Kind::Split, &[b"header", bytes]).expect("it takes all");
            write_frame(&mut sent, Kind::Split, &[b"header", bytes]).expect("a vector takes all");
            packings.push(packed.map(|(packing, _)| packing));
        }
        assert!(*taken.lock().expect("no panic") == sent, "what is written differs");
        assert!(packings[0].is_none() && packings[4].is_some(), "{packings:?}");
    }

    #[test]
    fn an_idle_link_takes_the_first_bytes_at_once_which_says_nothing() {
        let (rates, taken) = (rates(), Arc::default());
        let mut writer = Measured::new(Box::new(Slow(1e9, usize::MAX, taken)), rates.clone());
        let piece = vec![b'x'; PIECE_BYTES];
        for _ in 0..5 {
            writer.waited(Duration::from_millis(1));
            writer.write_all(&piece).expect("it takes all");
        }
        assert!(rates.lock().untried().is_empty(), "it is believed to be slow");
        let nothing = format!("{:?}", rates.lock());
        assert!(nothing.contains("link: Rate { bytes: 0.0"), "{nothing}");
    }
}
