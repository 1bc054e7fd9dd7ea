//! Parquet: what the crate's own reader finds is what TSV has.

use std::fs::File;
use std::path::Path;

use mapreduce::edge::output::{Destination, Format};
use parquet::basic::{LogicalType, Type};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::values::{ByFirst, Inverses, run_to};
use super::{Bench, names, text};
use crate::faults::stage::LIMIT;
use crate::harness::with_deadline;

fn opened(path: &Path) -> SerializedFileReader<File> {
    SerializedFileReader::new(File::open(path).expect("it is written")).expect("it is Parquet")
}

/// The rows of a file, each a key and a value.
fn rows(path: &Path) -> Vec<(String, Field)> {
    let opened = opened(path);
    let rows = opened.get_row_iter(None).expect("it has rows");
    let row = |row: parquet::record::Row| {
        let mut columns = row.into_columns().into_iter().map(|(_, field)| field);
        let (Some(Field::Str(key)), Some(value)) = (columns.next(), columns.next()) else {
            panic!("it has a key, which is a string, and a value");
        };
        (key, value)
    };
    rows.map(|found| row(found.expect("a whole row"))).collect()
}

/// The rows as TSV.
fn lines(path: &Path) -> String {
    let line = |(key, value): (String, Field)| match value {
        Field::ULong(count) => format!("{key}\t{count}\n"),
        other => panic!("{other:?} is no count"),
    };
    rows(path).into_iter().map(line).collect()
}

#[test]
fn rows_are_those_of_the_result_whoever_counts() {
    with_deadline(LIMIT, || {
        for workers in [0, 3] {
            let bench = Bench::start(workers, &text());
            bench.run(&["-o", "out.tsv"]).expect_code(0);
            bench.run(&["-o", "out.parquet", "--report", "report.json"]).expect_code(0);
            let expected = String::from_utf8(bench.read("out.tsv")).expect("UTF-8");
            assert!(lines(&bench.path("out.parquet")) == expected, "{workers} workers");
            let report: serde_json::Value = serde_json::from_slice(&bench.read("report.json")).expect("JSON");
            let bytes = bench.read("out.parquet").len() as u64;
            assert_eq!(report["output_bytes"].as_u64(), Some(bytes));
            assert!(bytes < expected.len() as u64, "it is packed");
            bench.run(&["--partitioned", "parts", "--format", "parquet"]).expect_code(0);
            let parts = names(&bench.path("parts"));
            assert_eq!(parts.len(), workers.max(1), "{parts:?}");
            let all = parts.iter().map(|name| lines(&bench.path("parts").join(name)));
            let mut all: Vec<String> =
                all.flat_map(|part| part.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
            let mut expected: Vec<&str> = expected.lines().collect();
            all.sort();
            expected.sort();
            assert!(all == expected, "{workers} workers, in parts");
        }
    });
}

#[test]
fn groups_of_rows_are_bounded() {
    let many: String = (0..600_000).map(|n| format!("w{n} ")).collect();
    let bench = Bench::start(0, many.as_bytes());
    bench.run(&["-o", "out.parquet"]).expect_code(0);
    let opened = opened(&bench.path("out.parquet"));
    let groups = opened.metadata().row_groups();
    let sizes: Vec<i64> = groups.iter().map(|group| group.num_rows()).collect();
    assert_eq!(sizes, [1 << 18, 1 << 18, 600_000 - (2 << 18)]);
    bench.run(&["-o", "out.tsv"]).expect_code(0);
    assert!(lines(&bench.path("out.parquet")).as_bytes() == bench.read("out.tsv"));
}

#[test]
fn an_empty_result_is_a_file_without_rows() {
    let bench = Bench::start(0, b" -- ");
    bench.run(&["-o", "out.parquet"]).expect_code(0);
    assert!(rows(&bench.path("out.parquet")).is_empty());
}

#[test]
fn columns_have_the_types_of_keys_and_values() {
    let bench = Bench::start(0, "caf\u{e9} b\x07 caf\u{e9}".as_bytes());
    bench.run(&["-o", "out.parquet", "--tokens", "whitespace"]).expect_code(0);
    assert_eq!(lines(&bench.path("out.parquet")), "caf\u{e9}\t2\nb\u{7}\t1\n");
    let schema = |path: &Path| {
        let columns = opened(path).metadata().file_metadata().schema_descr().columns().to_vec();
        let column = |column: &parquet::schema::types::ColumnDescPtr| {
            (column.name().to_owned(), column.physical_type(), column.logical_type_ref().cloned())
        };
        columns.iter().map(column).collect::<Vec<_>>()
    };
    let string = |name: &str| (name.to_owned(), Type::BYTE_ARRAY, Some(LogicalType::String));
    let count = ("count".to_owned(), Type::INT64, Some(LogicalType::integer(64, false)));
    assert_eq!(schema(&bench.path("out.parquet")), [string("word"), count]);

    let (input, output) = (bench.path("lines"), bench.path("by-first.parquet"));
    std::fs::write(&input, b"\xff\xfe\none\n").expect("it is writable");
    run_to::<ByFirst>(&input, Destination::File(output.clone()), Format::Parquet, None).expect("it runs");
    assert_eq!(schema(&output), [string("first"), string("lines")]);
    let text = |text: &str| Field::Str(text.to_owned());
    let expected =
        [("byte 111".to_owned(), text("3,\tone")), ("byte 255".to_owned(), text("2,\t\u{fffd}\u{fffd}"))];
    assert_eq!(rows(&output), expected);

    std::fs::write(&input, "0\n-8\n").expect("it is writable");
    run_to::<Inverses>(&input, Destination::File(output.clone()), Format::Parquet, None).expect("it runs");
    assert_eq!(schema(&output), [string("number"), ("inverse".to_owned(), Type::DOUBLE, None)]);
    let expected = [("-8".to_owned(), Field::Double(-0.125)), ("0".to_owned(), Field::Double(f64::INFINITY))];
    assert_eq!(rows(&output), expected);
}

#[test]
fn what_cannot_be_read_as_a_file_is_refused() {
    let bench = Bench::start(0, b"a b a");
    for args in [&["--format", "parquet"][..], &["--format", "parquet", "-o", "/dev/stdout"]] {
        let said = bench.run(args).expect_code(2);
        assert!(said.stdout.is_empty() && said.stderr.contains("-o FILE.parquet"), "{}", said.stderr);
    }
    let said = bench.run(&["-o", "out.parquet.gz"]).expect_code(2).stderr;
    assert!(said.contains("out.parquet.gz: Parquet is packed in itself"), "{said}");
    let failed = bench.run(&["--format", "parquet", "-o", "/dev/full"]).expect_code(1).stderr;
    assert!(failed.contains("/dev/full: No space left"), "{failed}");
}
