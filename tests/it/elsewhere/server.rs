//! Server: a web server of a test's own, whose pages come in whatever manner servers have, good and bad.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a page is sent.
#[derive(Clone, Debug)]
pub enum Manner {
    /// In ranges, as they are asked for.
    Ranges,
    /// Whole, whatever is asked for.
    Whole,
    /// Whole, with nothing that says how long it is or which version.
    Chunked,
    /// In ranges, or `whole`; the first answers that are longer than `bytes` end there, so many `times`.
    BreaksOff { bytes: usize, times: usize, whole: bool },
    /// Whole, always some bytes shorter than it says.
    Short,
    /// In ranges, after it was busy so many times.
    Busy(usize),
    /// In ranges; after so many answers it is another version, with other bytes or without.
    Changes { answers: usize, bytes: Vec<u8> },
    /// Whole, without a word on the version; the first answer breaks off, and from then on there are other bytes.
    ChangesUnsaid(Vec<u8>),
    /// In ranges; after so many answers it is gone.
    Vanishes(usize),
    /// Elsewhere.
    Leads(String),
    /// In ranges, to those who have this name and password.
    Guarded(&'static str),
    /// In ranges, each after a while.
    Slow(Duration),
    /// In ranges of somewhere else than was asked for.
    Confused,
}

struct Page {
    body: Vec<u8>,
    manner: Manner,
    answers: AtomicUsize,
}

/// A server; it ends with the test.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    pages: HashMap<String, Page>,
    requests: Mutex<Vec<String>>,
    /// Answers that are being sent, and the most that ever were.
    busy: AtomicUsize,
    busiest: AtomicUsize,
    stopped: AtomicBool,
}

impl Server {
    pub fn start(pages: Vec<(&str, Vec<u8>, Manner)>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let page = |(path, body, manner): (&str, Vec<u8>, Manner)| {
            (path.to_owned(), Page { body, manner, answers: AtomicUsize::new(0) })
        };
        let state = Arc::new(State {
            pages: pages.into_iter().map(page).collect(),
            requests: Mutex::default(),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let address = listener.local_addr().expect("its address");
        let serving = state.clone();
        let thread = std::thread::spawn(move || {
            let mut answering: Vec<JoinHandle<()>> = Vec::new();
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let state = serving.clone();
                // A client that goes away is its own affair.
                answering.push(std::thread::spawn(move || _ = state.answer(stream)));
                answering.retain(|thread| !thread.is_finished());
            }
            answering.into_iter().for_each(|thread| _ = thread.join());
        });
        Server { address, state, thread: Some(thread) }
    }

    /// The address of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same with a name and a password.
    pub fn url_of(&self, user: &str, path: &str) -> String {
        format!("http://{user}@{}{path}", self.address)
    }

    /// What was asked for so far: method, path and headers of each request.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().expect("the requests").clone()
    }

    /// How many answers were under way at a time at most.
    pub fn busiest(&self) -> usize {
        self.state.busiest.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the first line and the headers say.
struct Request {
    path: String,
    range: Option<(usize, usize)>,
    authorization: String,
}

impl State {
    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request = self.read(&stream)?;
        let Some(page) = self.pages.get(&request.path) else { return refuse(&mut stream, "404 Not Found") };
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(busy, Ordering::SeqCst);
        let number = page.answers.fetch_add(1, Ordering::SeqCst);
        let sent = page.send(&mut stream, &request, number);
        self.busy.fetch_sub(1, Ordering::SeqCst);
        sent
    }

    fn read(&self, stream: &TcpStream) -> io::Result<Request> {
        let mut reader = BufReader::new(stream.take(64 * 1024));
        let mut text = String::new();
        while reader.read_line(&mut text)? > 2 {}
        let header = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once(": "));
            lines
                .clone()
                .find(|(other, _)| other.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        let range = header("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let authorization = header("authorization").unwrap_or_default();
        self.requests.lock().expect("the requests").push(text);
        Ok(Request { path, range, authorization })
    }
}

impl Page {
    fn send(&self, stream: &mut TcpStream, request: &Request, number: usize) -> io::Result<()> {
        let v1 = "ETag: \"v1\"\r\n";
        let dated = "Last-Modified: Mon, 23 Nov 2026 10:00:00 GMT\r\n";
        match &self.manner {
            Manner::Ranges => send_range(stream, request, &self.body, v1, usize::MAX),
            Manner::Whole => send_whole(stream, &self.body, dated, self.body.len()),
            Manner::Chunked => {
                write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")?;
                for chunk in self.body.chunks(1000) {
                    write!(stream, "{:x}\r\n", chunk.len())?;
                    stream.write_all(chunk)?;
                    write!(stream, "\r\n")?;
                }
                write!(stream, "0\r\n\r\n")
            }
            Manner::BreaksOff { bytes, times, whole } => {
                // The first answer is that to whoever looks what there is.
                let most = if (1..=*times).contains(&number) { *bytes } else { usize::MAX };
                match whole {
                    true => send_whole(stream, &self.body, dated, most),
                    false => send_range(stream, request, &self.body, v1, most),
                }
            }
            Manner::Short => send_whole(stream, &self.body, dated, self.body.len() - 5),
            Manner::Busy(times) if number < *times => refuse(stream, "503 Service Unavailable"),
            Manner::Busy(_) => send_range(stream, request, &self.body, v1, usize::MAX),
            Manner::Changes { answers, .. } if number < *answers => {
                send_range(stream, request, &self.body, v1, usize::MAX)
            }
            Manner::Changes { bytes, .. } => {
                send_range(stream, request, bytes, "ETag: \"v2\"\r\n", usize::MAX)
            }
            Manner::ChangesUnsaid(_) if number < 2 => {
                send_whole(stream, &self.body, "", if number == 0 { usize::MAX } else { self.body.len() / 2 })
            }
            Manner::ChangesUnsaid(bytes) => send_whole(stream, bytes, "", usize::MAX),
            Manner::Vanishes(answers) if number >= *answers => refuse(stream, "404 Not Found"),
            Manner::Vanishes(_) => send_range(stream, request, &self.body, v1, usize::MAX),
            Manner::Leads(to) => {
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            }
            Manner::Guarded(basic) if request.authorization != format!("Basic {basic}") => {
                refuse(stream, "401 Unauthorized")
            }
            Manner::Guarded(_) => send_range(stream, request, &self.body, v1, usize::MAX),
            Manner::Slow(pause) => {
                std::thread::sleep(*pause);
                send_range(stream, request, &self.body, v1, usize::MAX)
            }
            Manner::Confused => {
                let range = request.range.map(|(first, last)| (first + 1, last + 1));
                let request = Request { path: String::new(), range, authorization: String::new() };
                send_range(stream, &request, &self.body, v1, usize::MAX)
            }
        }
    }
}

fn refuse(stream: &mut TcpStream, status: &str) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn send_whole(stream: &mut TcpStream, body: &[u8], headers: &str, most: usize) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body[..most.min(body.len())])
}

fn send_range(
    stream: &mut TcpStream,
    request: &Request,
    body: &[u8],
    headers: &str,
    most: usize,
) -> io::Result<()> {
    let Some((first, last)) = request.range else { return send_whole(stream, body, headers, most) };
    if first >= body.len() {
        let total = body.len();
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\n{headers}Content-Range: bytes */{total}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
    }
    let part = &body[first..body.len().min(last + 1)];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\n{headers}Content-Range: bytes {first}-{}/{}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        first + part.len() - 1,
        body.len(),
        part.len()
    )?;
    stream.write_all(&part[..most.min(part.len())])
}
