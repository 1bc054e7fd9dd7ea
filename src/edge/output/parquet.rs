//! Parquet: a result as an Apache Parquet file: a column of keys and one of values, in groups of rows.
//!
//! Format: <https://parquet.apache.org/docs/file-format/>. Entries are rendered to rows on all threads, in a form of
//! our own; the one that writes gathers a group of them in memory, and has it packed and written.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type};

use super::target::Target;
use crate::job::{Column, Job, Value, columns};
use crate::runtime::source::{Form, Sink};
use crate::wire::varint;

/// Rows of a group, at most: what reads the file, reads some groups at the same time.
const GROUP_ROWS: usize = 1 << 18;

/// Bytes of a group's strings, about at most: so much is held until they are written, and once more in packed form.
const GROUP_BYTES: usize = 32 << 20;

/// Writes a Parquet file.
pub struct ParquetSink<J: Job> {
    writer: SerializedFileWriter<Counted>,
    form: Arc<Rows<J>>,
    keys: Vec<ByteArray>,
    values: Values,
    /// Of the group that is gathered.
    bytes: usize,
}

/// The values of a group, as their column has them.
enum Values {
    Text(Vec<ByteArray>),
    /// Unsigned numbers, which the format keeps as signed ones of the same bits.
    Count(Vec<i64>),
    Real(Vec<f64>),
}

impl<J: Job> ParquetSink<J> {
    /// # Errors
    /// If the head cannot be written.
    pub fn new(target: Target, job: &Arc<J>) -> io::Result<Self> {
        let [key, value] = J::COLUMNS;
        let schema = schema(key, value, J::Value::COLUMN).map_err(told)?;
        let properties = WriterProperties::builder()
            .set_created_by(format!("mapreduce version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            // A key stands there once.
            .set_column_dictionary_enabled(ColumnPath::from(key), false)
            .build();
        let counted = Counted { target, written: 0 };
        Ok(Self {
            writer: SerializedFileWriter::new(counted, Arc::new(schema), Arc::new(properties))
                .map_err(told)?,
            form: Arc::new(Rows { job: job.clone() }),
            keys: Vec::new(),
            values: match J::Value::COLUMN {
                Column::Text => Values::Text(Vec::new()),
                Column::Count => Values::Count(Vec::new()),
                Column::Real => Values::Real(Vec::new()),
            },
            bytes: 0,
        })
    }

    /// Adds the row at the front of `rest`, which is the end of `all`; `None` if there is no whole one.
    fn add(&mut self, all: &ByteArray, rest: &mut &[u8]) -> Option<()> {
        self.keys.push(text(all, rest)?);
        match &mut self.values {
            Values::Text(values) => values.push(text(all, rest)?),
            Values::Count(values) => values.push(varint::decode(rest)?.cast_signed()),
            Values::Real(values) => {
                let (bits, after) = rest.split_first_chunk()?;
                values.push(f64::from_le_bytes(*bits));
                *rest = after;
            }
        }
        Some(())
    }

    /// Writes the rows that are gathered, as a group.
    fn write_group(&mut self) -> io::Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut write = || -> Result<(), ParquetError> {
            let mut group = self.writer.next_row_group()?;
            write_column::<ByteArrayType>(&mut group, &self.keys)?;
            match &self.values {
                Values::Text(values) => write_column::<ByteArrayType>(&mut group, values)?,
                Values::Count(values) => write_column::<Int64Type>(&mut group, values)?,
                Values::Real(values) => write_column::<DoubleType>(&mut group, values)?,
            }
            group.close().map(drop)
        };
        write().map_err(told)?;
        self.keys.clear();
        match &mut self.values {
            Values::Text(values) => values.clear(),
            Values::Count(values) => values.clear(),
            Values::Real(values) => values.clear(),
        }
        self.bytes = 0;
        Ok(())
    }
}

impl<J: Job> Sink<J::Value> for ParquetSink<J> {
    fn form(&self) -> Arc<dyn Form<J::Value>> {
        self.form.clone()
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        let all = ByteArray::from(rendered.to_vec());
        let mut rest = rendered;
        while !rest.is_empty() {
            let before = rest.len();
            self.add(&all, &mut rest).ok_or_else(|| io::Error::other("a row of the result is not whole"))?;
            self.bytes += before - rest.len();
            if self.keys.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
                self.write_group()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.write_group()?;
        let Counted { target, written } = self.writer.into_inner().map_err(told)?;
        target.finish()?;
        Ok(written)
    }
}

/// Renders entries to rows: a string is its length and its bytes, in UTF-8; a count is a variable-length integer; a
/// real number is eight bytes, the lowest first.
struct Rows<J> {
    job: Arc<J>,
}

impl<J: Job> Form<J::Value> for Rows<J> {
    /// # Errors
    /// If a value that is to be a number is none.
    fn render(&self, entries: &[(&[u8], &J::Value)], out: &mut Vec<u8>) -> io::Result<()> {
        let mut raw = Vec::new();
        for (key, value) in entries {
            if J::Value::LINES {
                let (key, rest) = columns(key);
                (0..value.times()).for_each(|_| [key, rest].iter().for_each(|column| push_text(column, out)));
                continue;
            }
            raw.clear();
            self.job.render_key(key, &mut raw);
            push_text(&raw, out);
            if J::Value::COLUMN == Column::Count {
                varint::encode(value.count().unwrap_or(0), out);
                continue;
            }
            raw.clear();
            value.render(&mut raw);
            match J::Value::COLUMN {
                Column::Real => out.extend_from_slice(&real(&raw)?.to_le_bytes()),
                _ => push_text(&raw, out),
            }
        }
        Ok(())
    }
}

fn push_text(raw: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(raw);
    varint::encode(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn real(text: &[u8]) -> io::Result<f64> {
    let number = str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
    let shown = || String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
    number.ok_or_else(|| io::Error::other(format!("a value of the result is no number: {:?}", shown())))
}

/// Takes a string off the front of `rest`, which is the end of `all`, whose memory it shares.
fn text(all: &ByteArray, rest: &mut &[u8]) -> Option<ByteArray> {
    let length = usize::try_from(varint::decode(rest)?).ok().filter(|length| *length <= rest.len())?;
    let text = all.slice(all.len() - rest.len(), length);
    *rest = &rest[length..];
    Some(text)
}

fn schema(key: &str, value: &str, column: Column) -> Result<Type, ParquetError> {
    let of = |name, physical, logical| {
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(logical)
            .build()
    };
    let value = match column {
        Column::Text => of(value, Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Column::Count => of(value, Physical::INT64, Some(LogicalType::integer(64, false))),
        Column::Real => of(value, Physical::DOUBLE, None),
    };
    let key = of(key, Physical::BYTE_ARRAY, Some(LogicalType::String));
    Type::group_type_builder("result").with_fields(vec![Arc::new(key?), Arc::new(value?)]).build()
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Counted>,
    values: &[T::T],
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("a column is missing".to_owned()))?;
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

/// A target that says how much is written.
struct Counted {
    target: Target,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.target.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns what the target said, where it is that which failed.
fn told(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(inner) => io::Error::other(inner),
        },
        error => io::Error::other(error),
    }
}
