//! Lines: entries that stand for lines of text: as they are, or in two columns.

use std::io;

use crate::edge::sanitize::{sanitize_bytes, sanitize_json};
use crate::job::{Value, columns};

use super::{Shape, csv_writer, record};

/// Appends the lines of `entries`, each as often as its value says.
///
/// # Errors
/// If a line has no JSON form.
pub(super) fn render<V: Value>(
    shape: &Shape,
    terminal: bool,
    entries: &[(&[u8], &V)],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let mut line = Vec::new();
    for (key, value) in entries {
        line.clear();
        render_line(shape, terminal, key, &mut line)?;
        (0..value.times()).for_each(|_| out.extend_from_slice(&line));
    }
    Ok(())
}

fn render_line(shape: &Shape, terminal: bool, line: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let (key, value) = columns(line);
    match shape {
        Shape::Tsv if terminal => {
            // What parts columns does not steer a terminal.
            let columns: Vec<String> = line.split(|byte| *byte == b'\t').map(sanitize_bytes).collect();
            out.extend_from_slice(columns.join("\t").as_bytes());
            out.push(b'\n');
        }
        Shape::Tsv => {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        Shape::Csv if terminal => {
            let (key, value) = (sanitize_bytes(key), sanitize_bytes(value));
            record(&mut csv_writer(), [key.as_bytes(), value.as_bytes()], out);
        }
        Shape::Csv => record(&mut csv_writer(), [key, value], out),
        Shape::Json { before_key, before_value } => {
            let mut json = before_key.clone();
            serde_json::to_writer(&mut json, &String::from_utf8_lossy(key))?;
            json.extend_from_slice(before_value);
            serde_json::to_writer(&mut json, &String::from_utf8_lossy(value))?;
            json.extend_from_slice(b"}\n");
            match terminal {
                true => out.extend_from_slice(sanitize_json(&String::from_utf8_lossy(&json)).as_bytes()),
                false => out.extend_from_slice(&json),
            }
        }
    }
    Ok(())
}
