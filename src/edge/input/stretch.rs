//! Stretch: the bytes of a file of the input from one place to another, read as they lie.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{Input, InputKind};

/// The bytes of a file from one place to another, read one after the other.
pub(super) struct Stretch<I> {
    input: I,
    place: usize,
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl<I: Deref<Target = Input>> Stretch<I> {
    /// Opens bytes `at` to `end` of the file at `place` among the inputs.
    ///
    /// # Errors
    /// If it cannot be opened, or is not the same any more.
    pub(super) fn new(input: I, place: usize, at: u64, end: u64) -> anyhow::Result<Self> {
        let file = match &input.file(place)?.kind {
            // Not its spool, which is made of this.
            InputKind::Unpacked(regular, _) => {
                input.descriptors.open(place, &input.file(place)?.path, regular, at)?
            }
            _ => input.descriptor(place, at)?,
        };
        Ok(Self { input, place, file, at, end })
    }
}

impl<I: Deref<Target = Input>> Read for Stretch<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..wanted], self.at)?;
        self.at += read as u64;
        if wanted > 0 && (read == 0 || self.at == self.end) {
            let checked =
                self.input.file(self.place).and_then(|file| file.check_unchanged(&self.file, self.at));
            checked.map_err(|error| io::Error::other(format!("{error:#}")))?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
            }
        }
        Ok(read)
    }
}
