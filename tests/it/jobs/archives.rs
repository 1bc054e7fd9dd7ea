//! Archives: host names of web archives, in the form in which Common Crawl has them.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Bench, LIMIT};
use crate::harness::with_deadline;

/// Targets, with the host names that they have, and how often they come.
const TARGETS: [(&str, &str, usize); 9] = [
    ("http://example.org/", "example.org", 40),
    ("https://Example.ORG:8443/a?b=c:d@e#f", "example.org", 17),
    ("https://user:secret@news.example.com/index.html", "news.example.com", 30),
    ("http://www.example.com?query", "www.example.com", 12),
    ("https://bücher.example/Straße", "bücher.example", 9),
    ("https://ДОМ.example/", "дом.example", 5),
    ("http://192.0.2.7:80/", "192.0.2.7", 3),
    ("http://[2001:db8::1]:8080/x", "[2001:db8::1]", 2),
    ("http://[2001:db8::2]/", "[2001:db8::2]", 1),
];

/// What pages say, of which nothing is a header.
const PAGES: [&str; 4] = [
    "A page about nothing.\nWith two lines.",
    "How to read an archive:\nWARC/1.0 comes first\nWARC-Target-URI: http://fake.example/\n\nand so on",
    "WARC-Target-URI: http://forged.example/\r\nContent-Length: 3\r\n\r\nabc",
    "",
];

fn record(kind: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "WARC/1.0\r\nWARC-Type: {kind}\r\n{fields}WARC-Date: 2026-11-01T00:00:00Z\r\n\
            WARC-Record-ID: <urn:uuid:12345678-1234-1234-1234-123456789abc>\r\nContent-Type: text/plain\r\n\
            Content-Length: {length}\r\n\r\n{body}\r\n\r\n"
    )
    .into_bytes()
}

fn records() -> Vec<Vec<u8>> {
    let about = "Software-Info: a test\r\nExtracted-Date: Sun, 01 Nov 2026 00:00:00 GMT\r\n";
    let mut records = vec![record("warcinfo", "WARC-Filename: CC-TEST.warc.wet.gz\r\n", about)];
    for turn in 0..40 {
        for (target, _, times) in TARGETS.iter().filter(|(_, _, times)| turn < *times) {
            let fields = format!("WARC-Target-URI: {target}\r\n");
            records.push(record("conversion", &fields, PAGES[(turn + times) % PAGES.len()]));
        }
    }
    records
}

/// A member for each record, as the files of Common Crawl have it.
fn packed(records: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for record in records {
        let mut member = GzEncoder::new(&mut file, Compression::fast());
        member.write_all(record).unwrap();
        member.finish().unwrap();
    }
    file
}

#[test]
fn host_names_of_pages_are_counted() {
    with_deadline(LIMIT, || {
        let records = records();
        let bench = Bench::new(&[("a.warc.wet", &records.concat()), ("b.warc.wet.gz", &packed(&records))]);
        let expected = |files: usize| {
            let mut hosts = std::collections::BTreeMap::<&str, usize>::new();
            TARGETS.iter().for_each(|(_, host, times)| *hosts.entry(host).or_default() += times * files);
            let mut hosts: Vec<_> = hosts.into_iter().collect();
            hosts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            hosts.iter().map(|(host, count)| format!("{host}\t{count}\n")).collect::<String>()
        };
        bench.assert_result(&["--job", "domains", "a.warc.wet"], expected(1).as_bytes());
        bench.assert_result(&["--job", "domains", "b.warc.wet.gz"], expected(1).as_bytes());
        bench.assert_result(&["--job", "domains", "a.warc.wet", "b.warc.wet.gz"], expected(2).as_bytes());
    });
}
