//! Files: regular files of the input: opened when they are read, and still the same as when the input was opened.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, bail};

use crate::wire::encoding::Encoding;

/// A regular file.
pub(super) struct Regular {
    /// Where the input begins: not at the start if someone has read of standard input before us.
    pub start: u64,
    pub stamp: Stamp,
    /// The file itself, where it stays open.
    pub held: Option<Arc<File>>,
    /// Known once the file has been begun with.
    pub encoding: OnceLock<Encoding>,
}

impl Regular {
    pub(super) fn new(start: u64, metadata: &Metadata) -> Self {
        Self { start, stamp: Stamp::of(metadata), held: None, encoding: OnceLock::new() }
    }

    /// Returns where the file ends.
    pub(super) fn end(&self) -> u64 {
        self.stamp.length.max(self.start)
    }

    pub(super) fn length(&self) -> u64 {
        self.end() - self.start
    }
}

/// Tells whether a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    pub length: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Checks that the file called `name` is still the same.
    ///
    /// # Errors
    /// What became of it, noticed where it was read at byte `at`.
    pub(super) fn check(&self, file: &File, name: &str, at: u64) -> anyhow::Result<()> {
        let metadata = file.metadata().with_context(|| format!("cannot read {name} at byte {at}"))?;
        let now = Self::of(&metadata);
        let what = match now {
            _ if now == *self => return Ok(()),
            _ if now.file != self.file => "it was replaced by another".to_owned(),
            _ if now.length < self.length => {
                format!("it became shorter, {} bytes instead of {}", now.length, self.length)
            }
            _ if now.length > self.length => {
                format!("it became longer, {} bytes instead of {}", now.length, self.length)
            }
            _ => "it was written to".to_owned(),
        };
        bail!("{name} was changed while it was being read, noticed at byte {at}: {what}")
    }
}

/// Files that stay open if the input has no more than these: then it does not matter what their names are given to
/// meanwhile.
pub(super) const HELD_FILES: usize = 64;

/// Files that were opened last, by their place among the inputs. A lock: the cutter and all who read take it for a
/// moment.
#[derive(Default)]
pub(super) struct Descriptors(Mutex<Vec<(usize, Arc<File>)>>);

/// Descriptors that are kept: the cutter is not further ahead of who reads, where nobody is slow.
const KEPT: usize = 64;

impl Descriptors {
    /// Returns the file that is the input's at `place`, opened again if need be.
    ///
    /// # Errors
    /// If it cannot be opened, or is not the same any more.
    pub(super) fn open(
        &self,
        place: usize,
        path: &Path,
        regular: &Regular,
        at: u64,
    ) -> anyhow::Result<Arc<File>> {
        if let Some(held) = &regular.held {
            return Ok(held.clone());
        }
        if let Some(file) = self.find(place) {
            return Ok(file);
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name} at byte {at}"))?;
        regular.stamp.check(&file, &name, at)?;
        let file = Arc::new(file);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((place, file.clone()));
        Ok(file)
    }

    fn find(&self, place: usize) -> Option<Arc<File>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|(kept, _)| *kept == place).map(|(_, file)| file.clone())
    }
}

/// Checks that a regular file can be read, without opening it.
///
/// # Errors
/// If it is not there, or may not be read.
pub(super) fn look_at(path: &Path) -> io::Result<Metadata> {
    let metadata = fs::metadata(path)?;
    rustix::fs::access(path, rustix::fs::Access::READ_OK)?;
    Ok(metadata)
}
