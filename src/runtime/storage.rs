//! Storage: what the threads of a worker need of files that it reads itself, wherever these are.

use std::io::{self, Read};

use crate::wire::located::{Found, Place};

/// What comes of listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A file, and the index of the place where it was found.
    File(u32, Found),
    /// Why what is at a place is not known, or a file there not readable.
    Failed(u32, String),
}

/// Lists files and reads them.
pub trait Storage: Send + Sync {
    /// Finds the files at `places`, in order: of a directory all that are below it, of a pattern all that match it.
    /// Ends early once `tell` returns `false`.
    fn list(&self, places: &[Place], tell: &mut dyn FnMut(Listed) -> bool);

    /// Opens `file` at byte `from`. About as much will be read as lies before `until`, but that is no limit: the file
    /// is read to its end, if need be.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was found. Reading may fail so, too: what was read before is good then.
    fn open(&self, file: &Found, from: u64, until: u64) -> io::Result<Box<dyn Read + Send>>;
}
