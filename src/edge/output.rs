//! Output: the result, as a file that is whole or absent, on standard output, or as a table for people.

use std::io;
use std::path::PathBuf;

use crate::job::Value;

/// How an entry is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `key<TAB>value` lines.
    #[default]
    Tsv,
    /// RFC 4180, with a header.
    Csv,
    /// One JSON object a line.
    Json,
}

/// Where the result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Written beside it, then renamed: the whole file or none.
    File(PathBuf),
    Stdout,
    /// A table for people on standard output, of the entries it is given.
    Table,
}

/// Takes the entries of the result, in order.
pub trait Sink<V>: Send {
    /// # Errors
    /// If it cannot be written.
    fn entry(&mut self, key: &[u8], value: &V) -> io::Result<()>;

    /// Makes the result final and returns the bytes written. A sink that is dropped instead leaves no file.
    ///
    /// # Errors
    /// If it cannot be written.
    fn finish(self: Box<Self>) -> io::Result<u64>;
}

/// Opens `destination`.
///
/// # Errors
/// If it cannot be created.
pub fn open<V: Value>(
    destination: &Destination,
    format: Format,
    columns: [&'static str; 2],
) -> anyhow::Result<Box<dyn Sink<V>>> {
    let _ = (destination, format, columns);
    todo!()
}
