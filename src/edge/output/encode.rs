//! Encode: one entry of the result, in each format, appended to a buffer.

use std::io;

use csv_core::{Terminator, WriteResult, Writer, WriterBuilder};

use super::Format;
use crate::job::Value;
use crate::runtime::source::Form;

/// Renders entries in one format. Nothing is allocated per entry in TSV and CSV.
pub enum Encoder {
    Tsv,
    Csv {
        columns: [&'static str; 2],
    },
    Json {
        /// `{"word":` and `,"count":`, made once.
        before_key: Vec<u8>,
        before_value: Vec<u8>,
    },
}

impl Encoder {
    pub fn new(format: Format, columns: [&'static str; 2]) -> Self {
        match format {
            Format::Tsv => Encoder::Tsv,
            Format::Csv => Encoder::Csv { columns },
            Format::Json => Encoder::Json {
                before_key: format!("{{{}:", serde_json::Value::from(columns[0])).into_bytes(),
                before_value: format!(",{}:", serde_json::Value::from(columns[1])).into_bytes(),
            },
        }
    }

    /// Appends what stands before the first entry.
    pub fn head(&self, out: &mut Vec<u8>) {
        if let Encoder::Csv { columns } = self {
            record(&mut csv_writer(), [columns[0].as_bytes(), columns[1].as_bytes()], out);
        }
    }
}

impl<V: Value> Form<V> for Encoder {
    /// # Errors
    /// If a value has no JSON form.
    fn render(&self, entries: &[(&[u8], &V)], out: &mut Vec<u8>) -> io::Result<()> {
        out.reserve(entries.iter().map(|(key, _)| key.len() + ENTRY_BYTES).sum());
        match self {
            Encoder::Tsv => {
                for (key, value) in entries {
                    let start = out.len();
                    out.extend_from_slice(key);
                    out.push(b'\t');
                    let between = out.len();
                    value.render(out);
                    if breaks_lines(&out[start..between - 1]) || breaks_lines(&out[between..]) {
                        escape(out, start, between);
                    }
                    out.push(b'\n');
                }
            }
            Encoder::Csv { .. } => {
                let (mut writer, mut text) = (csv_writer(), Vec::new());
                for (key, value) in entries {
                    text.clear();
                    value.render(&mut text);
                    record(&mut writer, [key, &text], out);
                }
            }
            Encoder::Json { before_key, before_value } => {
                for (key, value) in entries {
                    out.extend_from_slice(before_key);
                    serde_json::to_writer(&mut *out, &String::from_utf8_lossy(key))?;
                    out.extend_from_slice(before_value);
                    serde_json::to_writer(&mut *out, value)?;
                    out.extend_from_slice(b"}\n");
                }
            }
        }
        Ok(())
    }
}

/// Bytes that an entry needs beside its key, most of the time.
const ENTRY_BYTES: usize = 8;

fn csv_writer() -> Writer {
    WriterBuilder::new().terminator(Terminator::CRLF).build()
}

/// Tells whether one of `bytes` would break a line in two or a column in two. Most are short, so that looking at all
/// of them is quicker than deciding after each.
#[inline]
fn breaks_lines(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, byte| found | matches!(byte, b'\t' | b'\n' | b'\r'))
}

/// Escapes what breaks lines in the two columns that begin at `start` and at `between`.
#[cold]
fn escape(out: &mut Vec<u8>, start: usize, between: usize) {
    let value = out.split_off(between);
    let key = out.split_off(start);
    escape_into(out, &key[..key.len() - 1]);
    out.push(b'\t');
    escape_into(out, &value);
}

fn escape_into(out: &mut Vec<u8>, raw: &[u8]) {
    for byte in raw {
        match byte {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte => out.push(*byte),
        }
    }
}

/// Appends a CSV record.
fn record(writer: &mut Writer, fields: [&[u8]; 2], out: &mut Vec<u8>) {
    for (index, field) in fields.into_iter().enumerate() {
        if index > 0 {
            append(out, 2, |room| {
                let (result, written) = writer.delimiter(room);
                (result, written)
            });
        }
        // Quotes around it, and each byte doubled, at most.
        append(out, 2 * field.len() + 2, |room| {
            let (result, _, written) = writer.field(field, room);
            (result, written)
        });
    }
    // Empty quotes or a closing quote, then CR LF.
    append(out, 4, |room| writer.terminator(room));
}

/// Appends what `write` puts into `room` bytes, which must be enough for it.
fn append(out: &mut Vec<u8>, room: usize, write: impl FnOnce(&mut [u8]) -> (WriteResult, usize)) {
    let start = out.len();
    out.resize(start + room, 0);
    let (result, written) = write(&mut out[start..]);
    debug_assert_eq!(
        result,
        WriteResult::InputEmpty,
        "room for a part of a CSV record was reckoned too small"
    );
    out.truncate(start + written);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(format: Format, entries: &[(&[u8], u64)]) -> Vec<u8> {
        let encoder = Encoder::new(format, ["word", "count"]);
        let mut out = Vec::new();
        encoder.head(&mut out);
        let entries: Vec<_> = entries.iter().map(|(key, value)| (*key, value)).collect();
        encoder.render(&entries, &mut out).unwrap();
        out
    }

    #[track_caller]
    fn assert_encoded(format: Format, entries: &[(&[u8], u64)], expected: &[u8]) {
        assert_eq!(encoded(format, entries).escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn tsv_keeps_bytes_and_escapes_what_ends_lines_and_columns() {
        assert_encoded(Format::Tsv, &[(b"the", 1642), (b"\xff\0\\n", 1)], b"the\t1642\n\xff\0\\n\t1\n");
        assert_encoded(Format::Tsv, &[(b"a\tb\nc\rd", u64::MAX)], b"a\\tb\\nc\\rd\t18446744073709551615\n");
        assert_encoded(Format::Tsv, &[(b"", 0)], b"\t0\n");
        assert_encoded(Format::Tsv, &[], b"");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_encoded(Format::Csv, &[], b"word,count\r\n");
        assert_encoded(
            Format::Csv,
            &[(b"plain", 1), (b"a,b", 2), (b"say \"it\"", 3), (b"two\nlines", 4), (b"\r", 5), (b"\"\"\"", 6)],
            b"word,count\r\nplain,1\r\n\"a,b\",2\r\n\"say \"\"it\"\"\",3\r\n\"two\nlines\",4\r\n\"\r\",5\r\n\
                \"\"\"\"\"\"\"\",6\r\n",
        );
        assert_encoded(Format::Csv, &[(b"", 7), (b"\xff", 8)], b"word,count\r\n,7\r\n\xff,8\r\n");
    }

    #[test]
    fn json_lines_are_json() {
        let text = encoded(Format::Json, &[(b"say \"it\"\n", 3), (b"\xff\xc3\xa9", 1)]);
        let lines: Vec<serde_json::Value> = text
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                serde_json::json!({"word": "say \"it\"\n", "count": 3}),
                serde_json::json!({"word": "\u{fffd}\u{e9}", "count": 1}),
            ]
        );
    }
}
