//! Encode: one entry of the result, in each format, appended to a buffer.

mod lines;

use std::io;
use std::sync::Arc;

use csv_core::{Terminator, WriteResult, Writer, WriterBuilder};

use crate::edge::sanitize::{sanitize_bytes, sanitize_json};
use crate::job::{Job, Value};
use crate::runtime::source::Form;

/// Renders the entries of a job in one format. Nothing is allocated per entry, but for a terminal.
pub struct Encoder<J> {
    job: Arc<J>,
    shape: Shape,
    /// Whether what is rendered goes to a terminal.
    terminal: bool,
}

/// A format of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    Tsv,
    Csv,
    Json,
}

enum Shape {
    Tsv,
    Csv,
    Json {
        /// `{"word":` and `,"count":`, made once.
        before_key: Vec<u8>,
        before_value: Vec<u8>,
    },
}

impl<J: Job> Encoder<J> {
    pub fn new(text: Text, job: &Arc<J>, terminal: bool) -> Self {
        let [key, value] = J::COLUMNS.map(serde_json::Value::from);
        let shape = match text {
            Text::Tsv => Shape::Tsv,
            Text::Csv => Shape::Csv,
            Text::Json => Shape::Json {
                before_key: format!("{{{key}:").into_bytes(),
                before_value: format!(",{value}:").into_bytes(),
            },
        };
        Encoder { job: job.clone(), shape, terminal }
    }

    /// Appends what stands before the first entry.
    pub fn head(&self, out: &mut Vec<u8>) {
        if let Shape::Csv = self.shape {
            record(&mut csv_writer(), J::COLUMNS.map(str::as_bytes), out);
        }
    }

    fn render_plain(&self, entries: &[(&[u8], &J::Value)], out: &mut Vec<u8>) -> io::Result<()> {
        match &self.shape {
            Shape::Tsv => {
                for (key, value) in entries {
                    let start = out.len();
                    self.job.render_key(key, out);
                    out.push(b'\t');
                    let between = out.len();
                    value.render(out);
                    if breaks_lines(&out[start..between - 1]) || breaks_lines(&out[between..]) {
                        escape(out, start, between);
                    }
                    out.push(b'\n');
                }
            }
            Shape::Csv => {
                let (mut writer, mut shown, mut text) = (csv_writer(), Vec::new(), Vec::new());
                for (key, value) in entries {
                    self.render_columns(key, value, &mut shown, &mut text);
                    record(&mut writer, [&shown, &text], out);
                }
            }
            Shape::Json { before_key, before_value } => {
                let mut shown = Vec::new();
                for (key, value) in entries {
                    shown.clear();
                    self.job.render_key(key, &mut shown);
                    out.extend_from_slice(before_key);
                    serde_json::to_writer(&mut *out, &String::from_utf8_lossy(&shown)).map_err(no_json)?;
                    out.extend_from_slice(before_value);
                    serde_json::to_writer(&mut *out, value).map_err(no_json)?;
                    out.extend_from_slice(b"}\n");
                }
            }
        }
        Ok(())
    }

    /// Renders entries so that none of their bytes steers a terminal, ends a line, or is taken for a column.
    fn render_for_terminal(&self, entries: &[(&[u8], &J::Value)], out: &mut Vec<u8>) -> io::Result<()> {
        if let Shape::Json { .. } = self.shape {
            let mut json = Vec::new();
            self.render_plain(entries, &mut json)?;
            out.extend_from_slice(sanitize_json(&String::from_utf8_lossy(&json)).as_bytes());
            return Ok(());
        }
        let (mut shown, mut text) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            self.render_columns(key, value, &mut shown, &mut text);
            let (key, value) = (sanitize_bytes(&shown), sanitize_bytes(&text));
            match self.shape {
                Shape::Csv => record(&mut csv_writer(), [key.as_bytes(), value.as_bytes()], out),
                _ => out.extend_from_slice(format!("{key}\t{value}\n").as_bytes()),
            }
        }
        Ok(())
    }

    /// Puts the text forms of a key and a value in the place of what two buffers hold.
    fn render_columns(&self, key: &[u8], value: &J::Value, shown: &mut Vec<u8>, text: &mut Vec<u8>) {
        shown.clear();
        self.job.render_key(key, shown);
        text.clear();
        value.render(text);
    }
}

impl<J: Job> Form<J::Value> for Encoder<J> {
    /// # Errors
    /// If a value has no JSON form.
    fn render(&self, entries: &[(&[u8], &J::Value)], out: &mut Vec<u8>) -> io::Result<()> {
        out.reserve(entries.iter().map(|(key, _)| key.len() + ENTRY_BYTES).sum());
        if J::Value::LINES {
            return lines::render(&self.shape, self.terminal, entries, out);
        }
        match self.terminal {
            _ if J::Value::LINES => lines::render(&self.shape, self.terminal, entries, out),
            true => self.render_for_terminal(entries, out),
            false => self.render_plain(entries, out),
        }
    }
}

/// JSON has no maps but those whose keys are texts, say.
fn no_json(error: serde_json::Error) -> io::Error {
    io::Error::other(format!("a value of the result has no JSON form: {error}"))
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
    use crate::jobs::word_count::{Params, WordCount};

    fn encoded(format: Text, entries: &[(&[u8], u64)]) -> Vec<u8> {
        rendered(format, entries, false)
    }

    fn rendered(text: Text, entries: &[(&[u8], u64)], terminal: bool) -> Vec<u8> {
        let job = Arc::new(WordCount::new(Params::default()).unwrap());
        let encoder = Encoder::new(text, &job, terminal);
        let mut out = Vec::new();
        encoder.head(&mut out);
        let entries: Vec<_> = entries.iter().map(|(key, value)| (*key, value)).collect();
        encoder.render(&entries, &mut out).unwrap();
        out
    }

    #[track_caller]
    fn assert_encoded(format: Text, entries: &[(&[u8], u64)], expected: &[u8]) {
        assert_eq!(encoded(format, entries).escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn tsv_keeps_bytes_and_escapes_what_ends_lines_and_columns() {
        assert_encoded(Text::Tsv, &[(b"the", 1642), (b"\xff\0\\n", 1)], b"the\t1642\n\xff\0\\n\t1\n");
        assert_encoded(Text::Tsv, &[(b"a\tb\nc\rd", u64::MAX)], b"a\\tb\\nc\\rd\t18446744073709551615\n");
        assert_encoded(Text::Tsv, &[(b"", 0)], b"\t0\n");
        assert_encoded(Text::Tsv, &[], b"");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_encoded(Text::Csv, &[], b"word,count\r\n");
        assert_encoded(
            Text::Csv,
            &[(b"plain", 1), (b"a,b", 2), (b"say \"it\"", 3), (b"two\nlines", 4), (b"\r", 5), (b"\"\"\"", 6)],
            b"word,count\r\nplain,1\r\n\"a,b\",2\r\n\"say \"\"it\"\"\",3\r\n\"two\nlines\",4\r\n\"\r\",5\r\n\
                \"\"\"\"\"\"\"\",6\r\n",
        );
        assert_encoded(Text::Csv, &[(b"", 7), (b"\xff", 8)], b"word,count\r\n,7\r\n\xff,8\r\n");
    }

    #[test]
    fn json_lines_are_json() {
        let text = encoded(Text::Json, &[(b"say \"it\"\n", 3), (b"\xff\xc3\xa9", 1)]);
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

    #[test]
    fn nothing_steers_a_terminal_and_each_entry_is_a_line() {
        let hostile = "\x1b[2J\x07a\tb\r\nthe\t9\u{9b}31m\u{202e}\"".as_bytes();
        let entries = [(hostile, 1), (b"\xff\x7f", 2)];
        let shown = r#"\u{1b}[2J\u{7}a\tb\r\nthe\t9\u{9b}31m\u{202e}""#;
        let tsv = String::from_utf8(rendered(Text::Tsv, &entries, true)).unwrap();
        assert_eq!(tsv, format!("{shown}\t1\n\u{fffd}\\u{{7f}}\t2\n"));
        let csv = String::from_utf8(rendered(Text::Csv, &entries, true)).unwrap();
        let quoted = shown.replace('"', "\"\"");
        assert_eq!(csv, format!("word,count\r\n\"{quoted}\",1\r\n\u{fffd}\\u{{7f}},2\r\n"));
        let json = rendered(Text::Json, &entries, true);
        assert!(!json.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n'));
        let values = |json: &[u8]| -> Vec<serde_json::Value> {
            let lines = json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
        };
        assert_eq!(values(&json), values(&rendered(Text::Json, &entries, false)));
        assert!(!String::from_utf8(json).unwrap().contains(['\u{9b}', '\u{202e}']));
    }
}
