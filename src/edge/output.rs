//! Output: the result, as a file that is whole or absent, on standard output, or as a table for people.

mod encode;
mod target;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::job::Value;
use crate::runtime::report::Report;
use crate::runtime::source::{Form, Sink};
use crate::wire::entries::{self, Decoder};

use self::encode::Encoder;
use self::target::Target;
use super::sanitize::sanitize_json;
use super::table::ResultTable;

/// How an entry is written. To a terminal, controls and whatever else could steer it are written as escapes.
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
    let form = Arc::new(Encoder::new(format, columns, target.is_terminal()));
    let mut head = Vec::new();
    form.head(&mut head);
    Ok(Box::new(Encoded { target, form, head, written: 0 }))
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
        let json = serde_json::to_string_pretty(report).context("the report has no JSON form")?;
        // It repeats what workers say, and may be looked at with anything.
        let json = format!("{}\n", sanitize_json(&json));
        self.0.write_all(json.as_bytes())?;
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

/// A result as text in one of the formats.
struct Encoded {
    target: Target,
    form: Arc<Encoder>,
    /// What stands before the first entry, until it is written.
    head: Vec<u8>,
    written: u64,
}

impl Encoded {
    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.target.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn write_head(&mut self) -> io::Result<()> {
        let head = std::mem::take(&mut self.head);
        if head.is_empty() { Ok(()) } else { self.write_bytes(&head) }
    }
}

impl<V: Value> Sink<V> for Encoded {
    fn form(&self) -> Arc<dyn Form<V>> {
        self.form.clone()
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        self.write_head()?;
        self.write_bytes(rendered)
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.write_head()?;
        self.target.finish()?;
        Ok(self.written)
    }
}

struct TableSink {
    table: ResultTable,
}

/// What a table is made of: its entries themselves, for each row says how many were before it.
struct TableForm;

impl<V: Value> Form<V> for TableForm {
    fn render(&self, entries: &[(&[u8], &V)], out: &mut Vec<u8>) -> io::Result<()> {
        entries.iter().for_each(|(key, value)| entries::encode(key, *value, out));
        Ok(())
    }
}

impl<V: Value> Sink<V> for TableSink {
    fn form(&self) -> Arc<dyn Form<V>> {
        Arc::new(TableForm)
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        for entry in Decoder::<V>::new(rendered) {
            let (key, value) = entry.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.table.entry(key, &value);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<u64> {
        let text = self.table.render();
        print(text.as_bytes())?;
        Ok(text.len() as u64)
    }
}
