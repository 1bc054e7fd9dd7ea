//! Values: what is no number comes out as its text in TSV and CSV, as JSON in JSON, and is no count.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mapreduce::cmd::cli::{CommandError, Console, Exit};
use mapreduce::cmd::run::{RunOptions, Workers, run};
use mapreduce::edge::output::{Destination, Format};
use mapreduce::job::{Column, Emit, Job, Records, Value};
use serde::{Deserialize, Serialize};

use crate::harness::workers::run_options;

/// A value of many kinds: the lengths of lines, by what they begin with.
#[derive(Clone, Serialize)]
pub struct Mixed {
    lengths: Vec<u64>,
    longest: (String, u64),
    by_length: BTreeMap<u64, u64>,
    mean: f64,
}

impl Value for Mixed {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(
            serde_json::to_vec(&(&self.lengths, &self.longest, &self.by_length)).expect("it has JSON"),
        );
        out.push(b'\n');
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (lengths, longest, by_length) = serde_json::from_slice(&bytes[..end]).ok()?;
        *bytes = &bytes[end + 1..];
        Some(Self { lengths, longest, by_length, mean: f64::NAN })
    }

    fn render(&self, out: &mut Vec<u8>) {
        let lengths: Vec<String> = self.lengths.iter().map(u64::to_string).collect();
        out.extend_from_slice(format!("{},\t{}", lengths.join("\n"), self.longest.0).as_bytes());
    }
}

/// Gathers lines by their first byte, which is shown as a number.
pub struct ByFirst;

#[derive(Clone, Default, Serialize, Deserialize, clap::Args)]
pub struct NoParams {}

impl Job for ByFirst {
    const NAME: &'static str = "by-first";
    const ABOUT: &'static str = "Gathers lines by their first byte";
    const COLUMNS: [&'static str; 2] = ["first", "lines"];
    type Params = NoParams;
    type Value = Mixed;

    fn new(_: NoParams) -> Result<Self, String> {
        Ok(Self)
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Mixed>) -> Result<(), String> {
        for line in records.lines().filter(|line| !line.text.is_empty()) {
            let length = line.text.len() as u64;
            let longest = (String::from_utf8_lossy(line.text).into_owned(), length);
            let by_length = BTreeMap::from([(length, 1)]);
            emit.pair(&line.text[..1], Mixed { lengths: vec![length], longest, by_length, mean: f64::NAN });
        }
        Ok(())
    }

    fn combine(&self, into: &mut Mixed, other: Mixed) {
        into.lengths.extend(other.lengths);
        into.lengths.sort_unstable();
        let key = |longest: &(String, u64)| (longest.1, longest.0.clone());
        if key(&other.longest) > key(&into.longest) {
            into.longest = other.longest;
        }
        other.by_length.into_iter().for_each(|(length, n)| *into.by_length.entry(length).or_default() += n);
    }

    fn render_key(&self, key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(format!("byte {}", key[0]).as_bytes());
    }
}

/// A number that is no count.
#[derive(Clone, Serialize)]
pub struct Ratio(pub f64);

impl Value for Ratio {
    const COLUMN: Column = Column::Real;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (bits, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self(f64::from_le_bytes(*bits)))
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.to_string().as_bytes());
    }
}

/// The inverse of each line that is a whole number.
pub struct Inverses;

impl Job for Inverses {
    const NAME: &'static str = "inverses";
    const ABOUT: &'static str = "Divides one by numbers";
    const COLUMNS: [&'static str; 2] = ["number", "inverse"];
    type Params = NoParams;
    type Value = Ratio;

    fn new(_: NoParams) -> Result<Self, String> {
        Ok(Self)
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Ratio>) -> Result<(), String> {
        for line in records.lines() {
            let number: f64 =
                String::from_utf8_lossy(line.text).parse().map_err(|_| "no number".to_owned())?;
            emit.pair(line.text, Ratio(1.0 / number));
        }
        Ok(())
    }

    fn combine(&self, _: &mut Ratio, _: Ratio) {}
}

/// Runs a job over `text` in-process and returns what it writes.
pub fn written<J: Job<Params = NoParams>>(
    text: &[u8],
    format: Format,
    min_count: Option<u64>,
) -> Result<Vec<u8>, CommandError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("input"), directory.path().join("output"));
    fs::write(&input, text).expect("it is writable");
    run_to::<J>(&input, Destination::File(output.clone()), format, min_count)?;
    Ok(fs::read(&output).expect("there is a result"))
}

/// Runs a job over a file in-process.
pub fn run_to<J: Job<Params = NoParams>>(
    input: &Path,
    destination: Destination,
    format: Format,
    min_count: Option<u64>,
) -> Result<(), CommandError> {
    let usual = run_options(&[], input, Path::new("unused"));
    let options =
        RunOptions { workers: Workers::Local, threads: Some(2), destination, format, min_count, ..usual };
    run::<J>(&options, NoParams {}, &Console { quiet: true, verbose: false, fancy: false })
}

const LINES: &[u8] = b"one\ntwo\nthree\nob, \"x\"\n";

#[test]
fn texts_are_as_the_value_renders_itself() {
    let tsv = written::<ByFirst>(LINES, Format::Tsv, None).expect("it can be written");
    let expected = "byte 111\t3\\n7,\\tob, \"x\"\nbyte 116\t3\\n5,\\tthree\n";
    assert_eq!(String::from_utf8_lossy(&tsv), expected);
    let csv = written::<ByFirst>(LINES, Format::Csv, None).expect("it can be written");
    let expected = "first,lines\r\nbyte 111,\"3\n7,\tob, \"\"x\"\"\"\r\nbyte 116,\"3\n5,\tthree\"\r\n";
    assert_eq!(String::from_utf8_lossy(&csv), expected);
}

#[test]
fn json_has_lists_pairs_and_maps_and_no_number_that_is_none() {
    let json = written::<ByFirst>(LINES, Format::Json, None).expect("it can be written");
    let lines: Vec<serde_json::Value> = json
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).expect("each line is JSON"))
        .collect();
    let value = serde_json::json!({
        "lengths": [3, 7], "longest": ["ob, \"x\"", 7], "by_length": {"3": 1, "7": 1}, "mean": null
    });
    assert_eq!(lines[0], serde_json::json!({"first": "byte 111", "lines": value}));
    let json = written::<Inverses>(b"0\n4\n", Format::Json, None).expect("it can be written");
    let expected = "{\"number\":\"0\",\"inverse\":null}\n{\"number\":\"4\",\"inverse\":0.25}\n";
    assert_eq!(String::from_utf8_lossy(&json), expected);
}

#[test]
fn what_is_no_count_has_no_bound() {
    for refused in
        [written::<ByFirst>(LINES, Format::Tsv, Some(2)), written::<Inverses>(b"1\n", Format::Tsv, Some(2))]
    {
        let error = refused.expect_err("there is nothing to compare with");
        assert_eq!(error.exit, Exit::Usage);
        assert!(format!("{:#}", error.cause).starts_with("--min-count: job "), "{:#}", error.cause);
    }
}
