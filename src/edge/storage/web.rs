//! Web: files that a server of HTTP has: looked at, and read in ranges, as often as it takes.
//!
//! Invariant: what is read is one content of the file, each byte once, and all of it: a body that ends too early is
//! asked for again from where it broke off, and each answer must say that it is of the same content as the first.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, header};

use crate::wire::encoding::{Encoding, MAGIC_BYTES};
use crate::wire::located::{Found, MAX_STAMP_BYTES, Place};

const USER_AGENT: &str = concat!("mapreduce/", env!("CARGO_PKG_VERSION"));

/// Bounds on each step of a request; a body may take as long as it likes, if it comes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often something is asked for that fails to come.
const TRIES: u32 = 5;

/// How long to wait before the second try; before each later one twice as long. A server may ask for more.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 200 });
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A failure is the first again once so much has come.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Bytes that are asked for behind the end of a range: most records are short. Where one is not, it is twice as many
/// each time.
const TAIL_BYTES: u64 = 16 << 10;
const MOST_TAIL_BYTES: u64 = 16 << 20;

/// Asks servers.
pub(super) struct Web {
    plain: ureq::Agent,
    /// Never led from an encrypted connection to one that is not.
    secure: ureq::Agent,
}

/// Why an answer is not to be had.
#[derive(Debug)]
enum Trouble {
    /// It may be had later, after such a pause if the server says so.
    Passing(String, Option<Duration>),
    Final(String),
}

/// What a server answered, without the body.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Box<dyn Read + Send>,
}

impl Web {
    pub(super) fn new() -> Self {
        let agent = |https_only| {
            let config = ureq::Agent::config_builder()
                .timeout_resolve(Some(CONNECT_TIMEOUT))
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_recv_response(Some(ANSWER_TIMEOUT))
                .timeout_per_read(Some(SILENCE_TIMEOUT))
                .timeout_per_write(Some(SILENCE_TIMEOUT))
                .http_status_as_error(false)
                .https_only(https_only)
                .max_redirects(5)
                .max_idle_connections(64)
                .max_idle_connections_per_host(64)
                .accept_encoding("identity")
                .user_agent(USER_AGENT);
            config.build().new_agent()
        };
        Self { plain: agent(false), secure: agent(true) }
    }

    /// Looks at the file at `url`, whose place is `place`.
    pub(super) fn look(&self, url: &str, place: Place) -> Result<Found, String> {
        let mut failures = Failures::default();
        loop {
            match self.look_once(url, &place) {
                Ok(found) => return Ok(found),
                Err(Trouble::Final(cause)) => return Err(cause),
                Err(Trouble::Passing(cause, pause)) => failures.count(0, cause, pause)?,
            }
        }
    }

    fn look_once(&self, url: &str, place: &Place) -> Result<Found, Trouble> {
        // The first bytes say how it is compressed, and that they come alone that the server has ranges.
        let mut answer = self.ask(url, Some([0, MAGIC_BYTES as u64]))?;
        let stamp = answer.stamp();
        let found = |length, has_ranges, first: &[u8]| {
            let encoding = Encoding::of(first);
            Found { place: place.clone(), length, stamp: stamp.clone(), encoding, has_ranges }
        };
        let range = answer.range();
        match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let Some(Range { first: 0, behind, total }) = range else {
                    return Err(Trouble::Final(
                        "the server sent another range than was asked for".to_owned(),
                    ));
                };
                let first = answer.first_bytes(behind.min(MAGIC_BYTES as u64), true)?;
                Ok(found(total, total.is_some(), &first))
            }
            StatusCode::OK => {
                let length = answer.length();
                let first = answer
                    .first_bytes(length.unwrap_or(u64::MAX).min(MAGIC_BYTES as u64), length.is_some())?;
                Ok(found(length, false, &first))
            }
            // Of an empty file, nothing can be had.
            StatusCode::RANGE_NOT_SATISFIABLE if answer.is_empty() => Ok(found(Some(0), true, b"")),
            status => Err(refused(status)),
        }
    }

    /// Opens `file`, which is at `url`, at byte `from`.
    pub(super) fn open(self: &Arc<Self>, url: &str, file: &Found, from: u64, until: u64) -> Download {
        Download {
            web: self.clone(),
            url: url.to_owned(),
            file: file.clone(),
            at: from,
            until: until.saturating_add(TAIL_BYTES),
            tail: TAIL_BYTES,
            body: None,
            has_ended: false,
            failures: Failures::default(),
            read: DefaultHasher::new(),
        }
    }

    /// Asks for what is at `url`: all of it, or the bytes of a range.
    fn ask(&self, url: &str, range: Option<[u64; 2]>) -> Result<Answer, Trouble> {
        let is_secure = url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let agent = if is_secure { &self.secure } else { &self.plain };
        let mut request = agent.get(url);
        if let Some([first, behind]) = range {
            request = request.header(header::RANGE, format!("bytes={first}-{}", behind - 1));
        }
        let (parts, body) = request.call().map_err(trouble)?.into_parts();
        let (status, headers) = (parts.status, parts.headers);
        let answer = Answer { status, headers, body: Box::new(body.into_reader()) };
        let is_busy = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        match is_busy || status.is_server_error() {
            true => Err(Trouble::Passing(said(status), answer.pause())),
            false => Ok(answer),
        }
    }
}

/// Says what came of a request that was not answered.
fn trouble(error: ureq::Error) -> Trouble {
    use ureq::Error;
    match error {
        // It quotes the address, and with it who may read it.
        Error::BadUri(_) | Error::Http(_) => Trouble::Final("this is not an address".to_owned()),
        Error::RequireHttpsOnly(_) => {
            Trouble::Final("it leads on to an address that is not encrypted".to_owned())
        }
        error @ (Error::TooManyRedirects | Error::RedirectFailed) => Trouble::Final(error.to_string()),
        error => Trouble::Passing(error.to_string(), None),
    }
}

fn said(status: StatusCode) -> String {
    format!("the server answered {} {}", status.as_u16(), status.canonical_reason().unwrap_or(""))
        .trim()
        .to_owned()
}

fn refused(status: StatusCode) -> Trouble {
    Trouble::Final(said(status))
}

/// The part of a file that a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    behind: u64,
    total: Option<u64>,
}

/// Parses what a server says of the range that it sends: `bytes 0-9/100`.
fn parse_range(text: &str) -> Option<Range> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let range = Range { first, behind: last.checked_add(1)?, total };
    (first <= last && total.is_none_or(|total| last < total)).then_some(range)
}

impl Answer {
    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn range(&self) -> Option<Range> {
        parse_range(self.header(header::CONTENT_RANGE)?)
    }

    /// Tells whether no range can be had because there is nothing.
    fn is_empty(&self) -> bool {
        self.header(header::CONTENT_RANGE).is_some_and(|range| range.trim() == "bytes */0")
    }

    /// Returns the bytes of the body, if the server says how many.
    fn length(&self) -> Option<u64> {
        match self.header(header::TRANSFER_ENCODING) {
            Some(_) => None,
            None => self.header(header::CONTENT_LENGTH)?.trim().parse().ok(),
        }
    }

    /// Returns what the server calls this content of the file.
    fn stamp(&self) -> String {
        let tag = self.header(header::ETAG).filter(|tag| tag.len() < MAX_STAMP_BYTES / 2);
        let date = self.header(header::LAST_MODIFIED).filter(|date| date.len() < MAX_STAMP_BYTES / 2);
        // A weak tag says less than a date, but more than nothing.
        let strong = tag.filter(|tag| !tag.starts_with("W/"));
        strong.or(date).or(tag).unwrap_or_default().to_owned()
    }

    /// Returns how long the server wants to be left alone.
    fn pause(&self) -> Option<Duration> {
        self.header(header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
    }

    /// Reads the first `n` bytes of the body, which has so many, if that `is_known`.
    fn first_bytes(&mut self, n: u64, is_known: bool) -> Result<Vec<u8>, Trouble> {
        let mut first = Vec::new();
        let read = self.body.by_ref().take(n).read_to_end(&mut first);
        match read {
            Err(error) => Err(Trouble::Passing(error.to_string(), None)),
            Ok(read) if is_known && (read as u64) < n => Err(Trouble::Passing(BROKEN_OFF.to_owned(), None)),
            Ok(_) => Ok(first),
        }
    }
}

const BROKEN_OFF: &str = "the answer broke off";

/// Failures one after the other.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    /// How far the file was read when it last failed.
    at: u64,
}

impl Failures {
    /// Counts one, at byte `at`, and waits for a while.
    ///
    /// # Errors
    /// If there were enough.
    fn count(&mut self, at: u64, cause: String, pause: Option<Duration>) -> Result<(), String> {
        if at >= self.at + PROGRESS_BYTES {
            self.count = 0;
        }
        self.at = at;
        self.count += 1;
        if self.count >= TRIES {
            return Err(format!("{cause} ({TRIES} times)"));
        }
        let own = FIRST_PAUSE * 2u32.pow(self.count - 1);
        std::thread::sleep(pause.unwrap_or(own).clamp(own, LONGEST_PAUSE));
        Ok(())
    }
}

/// Reads a file, with as many requests as it takes.
pub(super) struct Download {
    web: Arc<Web>,
    url: String,
    file: Found,
    /// Which byte comes next.
    at: u64,
    /// As much is asked for at first; then some more each time.
    until: u64,
    tail: u64,
    /// What comes, and where it ends, if that is known.
    body: Option<(Box<dyn Read + Send>, Option<u64>)>,
    has_ended: bool,
    failures: Failures,
    /// Of what was read, where that must be read again to get on.
    read: DefaultHasher,
}

impl Read for Download {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() || self.has_ended || self.file.length.is_some_and(|length| self.at >= length) {
            return Ok(0);
        }
        loop {
            let trouble = match self.read_once(into) {
                Ok(Some(read)) => return Ok(read),
                // The range has ended, and another begins.
                Ok(None) => continue,
                Err(trouble) => trouble,
            };
            self.body = None;
            match trouble {
                Trouble::Final(cause) => return Err(io::Error::other(cause)),
                Trouble::Passing(cause, pause) => {
                    self.failures.count(self.at, cause, pause).map_err(io::Error::other)?;
                }
            }
        }
    }
}

impl Download {
    /// Reads some bytes, or none at the end of the file.
    fn read_once(&mut self, into: &mut [u8]) -> Result<Option<usize>, Trouble> {
        let (mut body, end) = match self.body.take() {
            Some(body) => body,
            None if self.file.has_ranges => self.ask_on()?,
            None => self.ask_again()?,
        };
        let left = end.map_or(u64::MAX, |end| end - self.at);
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = match body.read(&mut into[..most]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.body = Some((body, end));
                return Ok(None);
            }
            read => read.map_err(|error| Trouble::Passing(error.to_string(), None))?,
        };
        if read == 0 && end.is_some() {
            return Err(Trouble::Passing(BROKEN_OFF.to_owned(), None));
        }
        self.has_ended = read == 0;
        if !self.file.has_ranges {
            self.read.write(&into[..read]);
        }
        self.at += read as u64;
        if end == Some(self.at) {
            // Read to its end, so that the connection serves for another request.
            let _ = body.read(&mut [0]);
        } else {
            self.body = Some((body, end));
        }
        Ok(Some(read))
    }

    /// Asks for the range that comes next.
    fn ask_on(&mut self) -> Result<(Box<dyn Read + Send>, Option<u64>), Trouble> {
        let length = self.file.length.unwrap_or(u64::MAX);
        if self.until <= self.at {
            self.until = self.at.saturating_add(self.tail);
            self.tail = (2 * self.tail).min(MOST_TAIL_BYTES);
        }
        let behind = self.until.min(length);
        let answer = self.web.ask(&self.url, Some([self.at, behind]))?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(changed("it is shorter than it was"));
        }
        if answer.status != StatusCode::PARTIAL_CONTENT && answer.status != StatusCode::OK {
            return Err(refused(answer.status));
        }
        self.check(&answer)?;
        let range = match (answer.status, answer.range()) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) => range,
            _ => return Err(Trouble::Final("the server does not send ranges any more".to_owned())),
        };
        if range.total.is_some_and(|total| Some(total) != self.file.length) {
            return Err(changed("its length is another"));
        }
        if range.first != self.at || range.behind > behind || range.behind <= self.at {
            return Err(Trouble::Final("the server sent another range than was asked for".to_owned()));
        }
        Ok((answer.body, Some(range.behind)))
    }

    /// Asks for all of the file, and passes over what was read of it before, which must be the same.
    fn ask_again(&mut self) -> Result<(Box<dyn Read + Send>, Option<u64>), Trouble> {
        let mut answer = self.web.ask(&self.url, None)?;
        if answer.status != StatusCode::OK {
            return Err(refused(answer.status));
        }
        self.check(&answer)?;
        if let (Some(length), Some(found)) = (answer.length(), self.file.length)
            && length != found
        {
            return Err(changed("its length is another"));
        }
        let (mut again, mut passed, mut buffer) = (DefaultHasher::new(), 0, vec![0; 64 << 10]);
        while passed < self.at {
            let most = buffer.len().min(usize::try_from(self.at - passed).unwrap_or(usize::MAX));
            match answer.body.read(&mut buffer[..most]) {
                Ok(0) => return Err(Trouble::Passing(BROKEN_OFF.to_owned(), None)),
                Ok(read) => {
                    again.write(&buffer[..read]);
                    passed += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Trouble::Passing(error.to_string(), None)),
            }
        }
        if again.finish() != self.read.finish() {
            return Err(changed("what was read before is not the same when it is read again"));
        }
        Ok((answer.body, self.file.length))
    }

    /// Checks that an answer is of the content that was found.
    fn check(&self, answer: &Answer) -> Result<(), Trouble> {
        match answer.stamp() == self.file.stamp {
            true => Ok(()),
            false => Err(changed("the server has another version")),
        }
    }
}

fn changed(how: &str) -> Trouble {
    Trouble::Final(format!("it was changed while it was read: {how}"))
}
