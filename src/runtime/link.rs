//! Link: what the client asks of a worker and hears from it, over a connection or in memory.

mod feed;
#[cfg(test)]
mod tests;
mod write;

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use crate::job::Value;
use crate::logic::ids::{Epoch, SplitId, WorkerId};
use crate::logic::limits::Limits;
use crate::logic::packing::Chooser;
use crate::logic::split::Split;
use crate::wire::frame::{FrameError, Header, Kind, MAX_PAYLOAD_BYTES, read_header, read_payload};
use crate::wire::message::{Begin, FromWorker, Routes, decode_message};
use crate::wire::receive::read_results;

use feed::Feed;
use write::Writing;

use super::rates::Rates;
use super::results::Sorted;
use super::source::SplitSource;
use super::{guarded, spawn};

/// A connection, made or accepted by `edge::net`. Reading and writing are done by different threads.
pub struct Connection {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    pub control: Arc<dyn Control>,
    /// Who is at the other end, for messages to people.
    pub peer: String,
    /// The name in the certificate of who is at the other end; `None` where nothing is proven, for the connection is
    /// not encrypted.
    pub proven: Option<String>,
}

/// A connection that was accepted, of which nobody knows yet whose it is.
pub struct Knock {
    pub control: Arc<dyn Control>,
    /// The host that it comes from.
    pub host: String,
    /// Host and port, for messages to people.
    pub peer: String,
    /// Does what has to be done before anything is said, in no more than the given time.
    pub open: Box<dyn FnOnce(Duration) -> io::Result<Connection> + Send>,
}

/// What any thread may do to a connection.
pub trait Control: Send + Sync {
    /// Bounds every single read and write from now on.
    ///
    /// # Errors
    /// If the connection is gone.
    fn set_deadline(&self, deadline: Duration) -> io::Result<()>;

    /// Ends the connection: whoever waits on it wakes up with an error. May be called more than once.
    fn close(&self);
}

/// Makes connections to workers.
pub trait Network: Send + Sync {
    /// Connects to `address` (`IP:PORT`), where `name` must be, if that can be proven.
    ///
    /// # Errors
    /// If that has not been done after `timeout`, or another is there.
    fn connect(&self, address: &str, name: &str, timeout: Duration) -> io::Result<Connection>;
}

/// Accepts connections.
pub trait Listen: Send + Sync {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// If none can be accepted now.
    fn accept(&self) -> io::Result<Knock>;

    /// Makes an [`accept`](Listen::accept) that waits return.
    fn wake(&self);
}

/// What the client asks of a worker.
#[derive(Debug)]
pub enum Order {
    Begin(Begin),
    Map { split: Split, provisional: bool },
    Commit(SplitId),
    Discard(SplitId),
    Shuffle { epoch: Epoch, routes: Routes },
    Reduce { epoch: Epoch, limits: Limits },
    Fetch { epoch: Epoch, credit: u32 },
    Credit { epoch: Epoch, batches: u32 },
    End,
}

/// What the client hears from a worker.
pub enum Answer<V> {
    Message(FromWorker),
    /// Encoded entries of the result.
    Results {
        epoch: Epoch,
        batch: Vec<u8>,
    },
    /// The worker's result, where it runs in the same process.
    Sorted(Sorted<V>),
    /// The split could not be read; it was not sent.
    Unread {
        split: SplitId,
        cause: String,
    },
    /// This machine lacks what reading the input takes: that is no fault of the split.
    InputFailed {
        cause: String,
    },
    Closed {
        cause: String,
    },
    /// The split was discarded before it was sent: the worker knows nothing of it.
    Unsent {
        split: SplitId,
    },
}

/// The client's end of a link. Dropping it ends the job on the worker.
pub struct Link {
    pub name: String,
    pub threads: u32,
    /// At which peers reach the worker (`IP:PORT`); empty in-process.
    pub address: String,
    /// The name that the worker has proven; empty where nothing is.
    pub proven: String,
    /// Never full: splits in flight are bounded by the window, and the other orders are few.
    pub orders: Sender<Order>,
    /// Loses its sender once the last order is written.
    pub written: Receiver<()>,
    /// Of the connection, where there is one.
    pub control: Option<Arc<dyn Control>>,
}

impl Link {
    /// Tells whether the last order is written, or will never be.
    pub(crate) fn is_written(&self) -> bool {
        self.written.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Ends the connection from outside, for its writer may be stuck in the middle of a frame. Waits for nothing.
    pub(crate) fn cut(&self) {
        if let Some(control) = &self.control {
            control.close();
        }
    }
}

/// Takes what is heard; `false` if nobody listens any more.
pub type Listener<V> = Box<dyn Fn(WorkerId, Answer<V>) -> bool + Send>;

/// How often either side says that it lives.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest silence that may count as a loss: a beat that comes a little late is none.
pub const MIN_TIMEOUT: Duration = BEAT_INTERVAL.saturating_mul(2);

/// Bytes of the buffer in front of a connection's small frames; what is larger is read past it.
pub(crate) const READ_BUFFER_BYTES: usize = 16 << 10;

/// The worker at the other end of a link.
pub struct Partner {
    pub name: String,
    pub threads: u32,
    /// At which peers reach it (`IP:PORT`).
    pub address: String,
    /// Chooses how splits and results travel.
    pub chooser: Chooser,
}

/// Starts a link to a greeted worker: three threads around the connection, with a listener each.
///
/// # Errors
/// If a thread cannot be started.
pub fn connect_link<V: Value>(
    worker: WorkerId,
    partner: Partner,
    connection: Connection,
    source: Arc<dyn SplitSource>,
    listeners: [Listener<V>; 3],
) -> io::Result<Link> {
    let Partner { name, threads, address, chooser } = partner;
    let (orders, inbox) = unbounded();
    let Connection { reader, writer, control, proven, .. } = connection;
    let [heard, unread, dropped] = listeners;
    let began = Arc::new(AtomicBool::new(false));
    let patience = began.clone();
    spawn(format!("mr:read:{name}"), move || read_answers(worker, reader, patience, &heard))?;
    let rates = Rates::new(chooser);
    let (feed, ends) = Feed::new(source, rates.clone());
    spawn(format!("mr:feed:{name}"), move || {
        let told = |split, cause| {
            let answer = match cause {
                super::pieces::Unmapped::Unreadable(cause) => Answer::Unread { split, cause },
                super::pieces::Unmapped::Failed(cause) => Answer::InputFailed { cause },
            };
            unread(worker, answer);
        };
        if let Err(cause) = guarded(|| feed.run(&told)) {
            unread(worker, Answer::Closed { cause });
        }
    })?;
    let (writing, written) = bounded(0);
    let closer = control.clone();
    spawn(format!("mr:write:{name}"), move || {
        // If nobody listens, the loop has ended, and the orders with it.
        let dropped = |split| _ = dropped(worker, Answer::Unsent { split });
        Writing { orders: &inbox, began: &began, dropped: &dropped }.run(writer, ends, rates);
        closer.close();
        drop(writing);
    })?;
    Ok(Link {
        name,
        threads,
        address,
        proven: proven.unwrap_or_default(),
        orders,
        written,
        control: Some(control),
    })
}

/// Turns frames into answers until the connection ends or nobody listens.
fn read_answers<V: Value>(
    worker: WorkerId,
    reader: Box<dyn Read + Send>,
    began: Arc<AtomicBool>,
    heard: &Listener<V>,
) {
    let noticing = Noticing { inner: reader, worker, began, heard, told: Instant::now() };
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, noticing);
    let mut buffer = Vec::new();
    loop {
        let answer = read_answer(&mut reader, &mut buffer)
            .unwrap_or_else(|error| Answer::Closed { cause: error.to_string() });
        let last = matches!(answer, Answer::Closed { .. });
        if !heard(worker, answer) || last {
            return;
        }
    }
}

fn read_answer<V>(reader: &mut impl Read, buffer: &mut Vec<u8>) -> Result<Answer<V>, FrameError> {
    match read_header(reader, MAX_PAYLOAD_BYTES)? {
        Some(Header { kind: Kind::Control, length }) => {
            read_payload(reader, buffer, length)?;
            decode_message(&buffer[..length]).map(Answer::Message)
        }
        Some(Header { kind: Kind::Results, length }) => {
            let (epoch, batch) = read_results(reader, buffer, length)?;
            Ok(Answer::Results { epoch, batch })
        }
        Some(Header { kind, .. }) => Err(FrameError::Unexpected(kind)),
        None => Ok(Answer::Closed { cause: "the worker ended the job".into() }),
    }
}

/// Tells now and then that bytes come: a batch of results that crawls over a slow link is a sign of life long before
/// it is whole. Of a worker that was not told of the job, none is missed.
struct Noticing<'h, V> {
    inner: Box<dyn Read + Send>,
    worker: WorkerId,
    /// Whether the worker was told of the job.
    began: Arc<AtomicBool>,
    heard: &'h Listener<V>,
    told: Instant,
}

impl<V> Read for Noticing<'_, V> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.inner.read(into) {
                // The deadline has passed. A connection that is dead fails in another way.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && !self.began.load(Ordering::Relaxed) => {}
                read => break read,
            }
        };
        // A part of an encrypted record is a sign of life, too.
        let is_alive = match &read {
            Ok(length) => *length > 0,
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        };
        if is_alive && self.told.elapsed() >= BEAT_INTERVAL {
            self.told = Instant::now();
            // If nobody listens, the next answer finds that out.
            (self.heard)(self.worker, Answer::Message(FromWorker::Beat));
        }
        read
    }
}
