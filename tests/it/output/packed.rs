//! Packed: a file whose name ends with .gz or .zst holds the same bytes as a plain one, packed.

use std::fs;
use std::io::Read;
use std::process::Command;

use flate2::read::MultiGzDecoder;

use super::{Bench, TEXT, in_directory, names, text};
use crate::faults::stage::LIMIT;
use crate::harness::with_deadline;

/// Unpacks what lies in a file of that name.
fn unpacked(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match name.rsplit_once('.').expect("a suffix").1 {
        "gz" => _ = MultiGzDecoder::new(bytes).read_to_end(&mut text).expect("gzip, whole"),
        "zst" => zstd::stream::copy_decode(bytes, &mut text).expect("zstd, whole"),
        _ => text.extend_from_slice(bytes),
    }
    text
}

#[test]
fn suffixes_say_format_and_packing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    for (name, start) in [
        ("out.gz", "the\t3\n"),
        ("out.zst", "the\t3\n"),
        ("out.tsv.gz", "the\t3\n"),
        ("out.csv.gz", "word,count\r\n"),
        ("out.CSV.ZST", "word,count\r\n"),
        ("out.jsonl.zst", "{\"word\":\"the\""),
        ("out.gz.csv", "word,count\r\n"),
    ] {
        in_directory(directory.path(), &["-o", name, "--report", "report.json"]).expect_code(0);
        let bytes = fs::read(at(name)).expect("the result");
        let text = String::from_utf8(unpacked(&name.to_lowercase(), &bytes)).expect("UTF-8");
        assert!(text.starts_with(start), "{name}: {text}");
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(at("report.json")).expect("a report")).expect("JSON");
        assert_eq!(report["output_bytes"].as_u64(), Some(bytes.len() as u64), "{name}");
        fs::remove_file(at(name)).expect("ours");
    }
    in_directory(directory.path(), &["-o", "out.csv.gz", "--format", "tsv"]).expect_code(0);
    assert_eq!(unpacked("x.gz", &fs::read(at("out.csv.gz")).expect("it")), b"the\t3\ncat\t2\ndog\t1\n");
    assert_eq!(names(directory.path()), ["out.csv.gz", "report.json", "text.txt"]);
    assert_eq!(fs::read_to_string(at("text.txt")).expect("it"), TEXT);
}

/// What other programs say of it: those that people have.
#[test]
fn gzip_itself_unpacks_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    in_directory(directory.path(), &["-o", "out.gz"]).expect_code(0);
    let said = Command::new("gzip").args(["-dc", "out.gz"]).current_dir(directory.path()).output();
    assert_eq!(said.expect("gzip").stdout, b"the\t3\ncat\t2\ndog\t1\n");
}

#[test]
fn packed_results_are_the_same_whoever_counts() {
    with_deadline(LIMIT, || {
        let mut packed = Vec::new();
        for workers in [0, 1, 3] {
            let bench = Bench::start(workers, &text());
            bench.run(&["-o", "out.tsv"]).expect_code(0);
            let files = ["out.tsv.gz", "out.tsv.zst"].map(|name| {
                bench.run(&["-o", name]).expect_code(0);
                let bytes = bench.read(name);
                assert!(unpacked(name, &bytes) == bench.read("out.tsv"), "{workers} workers, {name}");
                bytes
            });
            packed.push(files);
        }
        assert!(packed.iter().all(|files| files == &packed[0]), "packed, too, it is the same");
    });
}

#[test]
fn full_disk_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // What is packed goes to where a link with such a name leads.
    std::os::unix::fs::symlink("/dev/full", directory.path().join("full.gz")).expect("a link");
    let failed = in_directory(directory.path(), &["-o", "full.gz"]).expect_code(1);
    assert!(failed.stderr.contains("full.gz: No space left"), "{}", failed.stderr);
}
