//! Output: the result, as a file or files that are whole or absent, on standard output, or as a table for people.

mod encode;
mod name;
mod packed;
mod parquet;
mod parts;
mod target;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::job::{Job, Value};
use crate::runtime::report::Report;
use crate::runtime::source::{Form, Output, Sink};
use crate::wire::entries::{self, Decoder};

pub use self::name::{Named, read as read_name};
pub use self::packed::Packing;

use self::encode::{Encoder, Text};
use self::packed::Packed;
use self::parts::Directory;
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
    /// Apache Parquet: a string column of the keys, and one of the values as [`Value::COLUMN`] says. What is not UTF-8
    /// in a string becomes U+FFFD.
    Parquet,
}

impl Format {
    /// Returns what names of files in this format end with.
    fn suffix(self) -> &'static str {
        match self {
            Format::Tsv => "tsv",
            Format::Csv => "csv",
            Format::Json => "jsonl",
            Format::Parquet => "parquet",
        }
    }
}

/// Where the result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Written beside it, then renamed: the whole file or none. A device or a named pipe is written directly. Packed as
    /// the suffix of its name says.
    File(PathBuf),
    /// A directory of files, one for each reducer, written beside it, then renamed: all of them or none.
    Directory(PathBuf),
    Stdout,
    /// A table for people on standard output, of the entries it is given.
    Table,
}

impl Destination {
    /// Tells whether the result goes to standard output, under whatever name.
    pub fn is_stdout(&self) -> bool {
        match self {
            Destination::File(path) => target::is_stdout(path),
            Destination::Directory(_) => false,
            Destination::Stdout | Destination::Table => true,
        }
    }
}

/// Opens `destination` for the result of `job`.
///
/// # Errors
/// If it cannot be created.
pub fn open<J: Job>(
    destination: &Destination,
    format: Format,
    job: &Arc<J>,
) -> anyhow::Result<Output<J::Value>> {
    let (target, packing) = match destination {
        Destination::Table => {
            let table = ResultTable::new(J::COLUMNS);
            return Ok(Output::Whole(Box::new(TableSink { table, job: job.clone() })));
        }
        Destination::Directory(path) => {
            return Ok(Output::Parted(Box::new(Directory::create(path, format, job)?)));
        }
        Destination::Stdout => (Target::stdout().context("standard output: cannot be written")?, None),
        Destination::File(path) => (Target::file(path)?, name::read(path).packing),
    };
    Ok(Output::Whole(sink_to(target, packing, format, job)?))
}

/// Returns what writes the result of `job`, or a part of it, to `target`.
fn sink_to<J: Job>(
    target: Target,
    packing: Option<Packing>,
    format: Format,
    job: &Arc<J>,
) -> io::Result<Box<dyn Sink<J::Value>>> {
    let text = match format {
        Format::Tsv => Text::Tsv,
        Format::Csv => Text::Csv,
        Format::Json => Text::Json,
        Format::Parquet => return Ok(Box::new(parquet::ParquetSink::new(target, job)?)),
    };
    let form = Arc::new(Encoder::new(text, job, target.is_terminal()));
    let mut head = Vec::new();
    form.head(&mut head);
    Ok(Box::new(Encoded { target: Packed::new(target, packing)?, form, head }))
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
struct Encoded<J> {
    target: Packed,
    form: Arc<Encoder<J>>,
    /// What stands before the first entry, until it is written.
    head: Vec<u8>,
}

impl<J> Encoded<J> {
    fn write_head(&mut self) -> io::Result<()> {
        let head = std::mem::take(&mut self.head);
        if head.is_empty() { Ok(()) } else { self.target.write_all(&head) }
    }
}

impl<J: Job> Sink<J::Value> for Encoded<J> {
    fn form(&self) -> Arc<dyn Form<J::Value>> {
        self.form.clone()
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        self.write_head()?;
        self.target.write_all(rendered)
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.write_head()?;
        self.target.finish()
    }
}

struct TableSink<J> {
    table: ResultTable,
    job: Arc<J>,
}

/// What a table is made of: its entries themselves, for each row says how many were before it.
struct TableForm;

impl<V: Value> Form<V> for TableForm {
    fn render(&self, entries: &[(&[u8], &V)], out: &mut Vec<u8>) -> io::Result<()> {
        entries.iter().for_each(|(key, value)| entries::encode(key, *value, out));
        Ok(())
    }
}

impl<J: Job> Sink<J::Value> for TableSink<J> {
    fn form(&self) -> Arc<dyn Form<J::Value>> {
        Arc::new(TableForm)
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        let mut shown = Vec::new();
        for entry in Decoder::<J::Value>::new(rendered) {
            let (key, value) = entry.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            shown.clear();
            self.job.render_key(key, &mut shown);
            self.table.entry(&shown, &value);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<u64> {
        let text = self.table.render();
        print(text.as_bytes())?;
        Ok(text.len() as u64)
    }
}
