//! Output: the result, as a file that is whole or absent, on standard output, or as a table for people.

mod encode;
mod target;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::job::Value;
use crate::runtime::report::Report;
use crate::runtime::source::Sink;

use self::encode::Encoder;
use self::target::Target;
use super::table::ResultTable;

/// How an entry is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `key<TAB>value` lines. TAB, LF and CR inside a key or value are written `\t`, `\n` and `\r`; all other bytes
    /// are written as they are, be they UTF-8 or not.
    #[default]
    Tsv,
    /// RFC 4180, with a header; lines end with CR LF. Bytes are written as they are.
    Csv,
    /// One JSON object a line. What is not UTF-8 in a key becomes U+FFFD, for JSON has no other bytes.
    Json,
}

/// Where the result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Written beside it, then renamed: the whole file or none. A device or a named pipe is written directly.
    File(PathBuf),
    Stdout,
    /// A table for people on standard output, of the entries it is given.
    Table,
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
    let target = match destination {
        Destination::Table => return Ok(Box::new(TableSink { table: ResultTable::new(columns) })),
        Destination::Stdout => Target::stdout().context("standard output: cannot be written")?,
        Destination::File(path) => Target::file(path)?,
    };
    let mut sink =
        Buffered { target, encoder: Encoder::new(format, columns), buffer: Vec::new(), written: 0 };
    sink.buffer.reserve_exact(BUFFER + SLACK);
    sink.encoder.head(&mut sink.buffer);
    Ok(Box::new(sink))
}

/// Prints a whole text on standard output.
///
/// # Errors
/// If it cannot be written; [`is_closed_pipe`] tells whether that is worth a word.
pub fn print(text: &[u8]) -> io::Result<()> {
    let mut target = Target::stdout()?;
    target.write_all(text)?;
    target.finish()
}

/// Where the report of a run goes. Opened before the run: what cannot be written is told before hours of work.
pub struct ReportFile(Target);

impl ReportFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        Target::file(path).map(ReportFile)
    }

    /// Writes `report` as JSON, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(mut self, report: &Report) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(report).context("the report has no JSON form")?;
        json.push(b'\n');
        self.0.write_all(&json)?;
        Ok(self.0.finish()?)
    }
}

/// Writes a file, whole or not at all; one that is replaced keeps its permissions, and a link stays a link.
///
/// # Errors
/// If it cannot be written; the file is then as it was.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut target = Target::file(path)?;
    target.write_all(bytes)?;
    Ok(target.finish()?)
}

/// Tells whether `error` says that nobody reads our standard output any more (`run ... | head`), which ends a
/// command quietly.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        inner.is_some_and(|inner| inner.is::<target::ClosedPipe>())
    })
}

/// Bytes that are written at a time: fewer system calls gain nothing measurable beyond 256 KiB.
const BUFFER: usize = 512 << 10;

/// Room for the entry that fills the buffer, so that it seldom grows.
const SLACK: usize = 4 << 10;

struct Buffered {
    target: Target,
    encoder: Encoder,
    buffer: Vec<u8>,
    written: u64,
}

impl Buffered {
    fn flush(&mut self) -> io::Result<()> {
        self.target.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl<V: Value> Sink<V> for Buffered {
    fn entry(&mut self, key: &[u8], value: &V) -> io::Result<()> {
        self.encoder.entry(key, value, &mut self.buffer)?;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.flush()?;
        self.target.finish()?;
        Ok(self.written)
    }
}

struct TableSink {
    table: ResultTable,
}

impl<V: Value> Sink<V> for TableSink {
    fn entry(&mut self, key: &[u8], value: &V) -> io::Result<()> {
        self.table.entry(key, value);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<u64> {
        let text = self.table.render();
        print(text.as_bytes())?;
        Ok(text.len() as u64)
    }
}
