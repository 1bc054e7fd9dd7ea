//! Stream: input whose end is not known, spooled to an unlinked temporary file while it comes, unpacked if need be.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context;

use crate::wire::encoding::{Encoding, MAGIC_BYTES};

/// Bytes that are spooled at a time.
const SPOOL_BYTES: usize = 256 << 10;

/// Input that can be read once.
pub(super) struct Stream {
    /// What is left to be spooled, unless it is a file. A lock: the cutter takes it when it comes to this input.
    from: Mutex<Option<Box<dyn Read + Send>>>,
    spool: OnceLock<Arc<File>>,
}

impl Stream {
    pub(super) fn new(from: impl Read + Send + 'static) -> Self {
        Self { from: Mutex::new(Some(Box::new(from))), spool: OnceLock::new() }
    }

    /// A stream whose bytes are given when it begins.
    pub(super) fn later() -> Self {
        Self { from: Mutex::new(None), spool: OnceLock::new() }
    }

    pub(super) fn take(&self) -> Option<Box<dyn Read + Send>> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns what has been spooled; `None` before the stream begins.
    pub(super) fn spool(&self) -> Option<Arc<File>> {
        self.spool.get().cloned()
    }

    /// Begins to spool `from`, the stream called `name`.
    ///
    /// # Errors
    /// If there is no place for the spool, or the first bytes cannot be read.
    pub(super) fn begin(&self, mut from: Box<dyn Read + Send>, name: &str) -> anyhow::Result<Spooling> {
        let spool = tempfile::tempfile()
            .with_context(|| NoSpool(format!("cannot create the spool of {name} in {}", place())))?;
        let mut first = Vec::new();
        let read = (&mut from).take(MAGIC_BYTES as u64).read_to_end(&mut first);
        read.with_context(|| format!("cannot read {name} at byte 0"))?;
        let encoding = Encoding::of(&first);
        let whole = io::Cursor::new(first).chain(from);
        let from = match encoding {
            Encoding::Plain => Box::new(whole),
            _ => encoding.decoder(whole).with_context(|| format!("cannot unpack {name}"))?,
        };
        let spool = self.spool.get_or_init(|| Arc::new(spool)).clone();
        Ok(Spooling { from, encoding, spool, spooled: 0, ended: false, buffer: Vec::new() })
    }
}

fn place() -> String {
    std::env::temp_dir().display().to_string()
}

/// There is no room for what is read: that is no fault of the input.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoSpool(String);

/// A stream on its way to its spool.
pub(super) struct Spooling {
    from: Box<dyn Read + Send>,
    encoding: Encoding,
    spool: Arc<File>,
    spooled: u64,
    ended: bool,
    buffer: Vec<u8>,
}

impl Spooling {
    pub(super) fn is_packed(&self) -> bool {
        self.encoding != Encoding::Plain
    }

    /// Spools up to `wanted` bytes, if the stream called `name` has so many; returns how far it has come, or `wanted`.
    ///
    /// # Errors
    /// If it cannot be read, unpacked or written.
    pub(super) fn spool(&mut self, name: &str, wanted: u64) -> anyhow::Result<u64> {
        self.buffer.resize(SPOOL_BYTES, 0);
        while self.spooled < wanted && !self.ended {
            match self.from.read(&mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    let written = self.spool.write_all_at(&self.buffer[..length], self.spooled);
                    written.with_context(|| {
                        NoSpool(format!("cannot spool {name} in {} (TMPDIR sets another)", place()))
                    })?;
                    self.spooled += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let at = self.spooled;
                    return Err(error).with_context(|| match self.encoding {
                        Encoding::Plain => format!("cannot read {name} at byte {at}"),
                        packed => {
                            format!("cannot unpack {name} ({}) at byte {at} of its text", packed.name())
                        }
                    });
                }
            }
        }
        Ok(wanted.min(self.spooled))
    }
}
