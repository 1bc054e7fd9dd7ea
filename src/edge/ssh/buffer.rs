//! Buffer: bytes on their way from one socket to another, neither of which blocks.

use std::io;

/// Bytes that are read at once. libssh2 takes packets of up to 32 KiB.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes that wait to be written.
#[derive(Default)]
pub struct Buffer {
    /// Empty until it is used, then of one size.
    bytes: Vec<u8>,
    filled: usize,
    written: usize,
}

impl Buffer {
    pub fn is_empty(&self) -> bool {
        self.written == self.filled
    }

    /// What is not written yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.written..self.filled]
    }

    /// Takes note that so much of the rest was written.
    pub fn advance(&mut self, written: usize) {
        self.written = (self.written + written).min(self.filled);
    }

    pub fn clear(&mut self) {
        (self.filled, self.written) = (0, 0);
    }

    /// Fills itself by `read`, which returns `None` if there is nothing yet.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        self.clear();
        self.bytes.resize(BUFFER_BYTES, 0);
        let read = read(&mut self.bytes)?;
        self.filled = read.unwrap_or(0).min(BUFFER_BYTES);
        Ok(read)
    }
}

/// Turns "would block" into `None`.
///
/// # Errors
/// All others.
pub fn unless_blocked<E: Into<io::Error>>(result: Result<usize, E>) -> io::Result<Option<usize>> {
    match result.map_err(Into::into) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
