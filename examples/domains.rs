//! Domains: how often each host name stands in the `WARC-Target-URI` headers of web archives, such as the WET files of
//! Common Crawl. A whole program: `discover`, `deploy` and `run` included.
//!
//! Try it on one machine: `cargo run --release --example domains -- run *.warc.wet.gz`

use std::process::ExitCode;

use mapreduce::{Cut, Emit, Job, Records};

fn main() -> ExitCode {
    mapreduce::main::<Domains>()
}

/// Counts host names in lower case, without port and user; most frequent first, then by their bytes.
///
/// A record begins with a whole header, wherever that stands: a version, fields, and an empty line, all with CR LF. So what
/// a page says is never taken for a field. `Content-Length` tells no more: where a file is cut within a page, it is unknown.
pub struct Domains;

#[derive(Clone, serde::Serialize, serde::Deserialize, clap::Args)]
pub struct Params {}

impl Job for Domains {
    const NAME: &'static str = "domains";
    const ABOUT: &'static str = "Count the host names of web archives (WARC, WET)";
    const COLUMNS: [&'static str; 2] = ["domain", "records"];
    type Params = Params;
    type Value = u64;

    fn new(_: Params) -> Result<Self, String> {
        Ok(Self)
    }

    fn cut(&self) -> Cut {
        Cut::Before(b"WARC/")
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        // Within a header: its target, once it is known.
        let mut header: Option<Option<&[u8]>> = None;
        for line in records.lines() {
            let field = line.text.strip_suffix(b"\r");
            header = match (field, header) {
                (Some(version), _) if version.starts_with(b"WARC/") => Some(None),
                (Some([]), Some(target)) => {
                    if let Some(host) = target.and_then(host) {
                        emit.pair(host.to_lowercase().as_bytes(), 1);
                    }
                    None
                }
                (Some(field), Some(target)) => match field.iter().position(|&byte| byte == b':') {
                    Some(end) if field[..end].eq_ignore_ascii_case(b"WARC-Target-URI") => {
                        Some(Some(&field[end + 1..]))
                    }
                    Some(_) => Some(target),
                    None => None,
                },
                _ => None,
            };
        }
        Ok(())
    }

    fn combine(&self, into: &mut u64, other: u64) {
        *into = into.saturating_add(other);
    }

    fn rank(&self, count: &u64) -> u64 {
        !count
    }
}

/// Returns the host name in `scheme://user@host:port/path`, as it stands there, if there is one.
fn host(uri: &[u8]) -> Option<&str> {
    let uri = std::str::from_utf8(uri).ok()?.trim().trim_matches(['<', '>']);
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let port = host.rfind(':').filter(|&at| host[at + 1..].bytes().all(|byte| byte.is_ascii_digit()));
    Some(&host[..port.unwrap_or(host.len())]).filter(|host| !host.is_empty())
}
