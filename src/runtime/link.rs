//! Link: what the client asks of a worker and hears from it, over a connection or in memory.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::job::Value;
use crate::logic::ids::{Epoch, WorkerId};
use crate::logic::split::Split;
use crate::wire::frame::{FrameError, Kind, MAX_PAYLOAD_BYTES, read_frame, write_frame};
use crate::wire::message::{Begin, FromWorker, Routes, ToWorker, decode_message, write_message};

use super::results::Sorted;
use super::source::SplitSource;
use super::spawn;

/// A connection, made or accepted by `edge::net`. Reading and writing are done by different threads.
pub struct Connection {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    pub control: Arc<dyn Control>,
    /// Who is at the other end, for messages to people.
    pub peer: String,
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
    /// Connects to `address` (`IP:PORT`).
    ///
    /// # Errors
    /// If that has not been done after `timeout`.
    fn connect(&self, address: &str, timeout: Duration) -> io::Result<Connection>;
}

/// Accepts connections.
pub trait Listen: Send + Sync {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// If none can be accepted now.
    fn accept(&self) -> io::Result<Connection>;

    /// Makes an [`accept`](Listen::accept) that waits return.
    fn wake(&self);
}

/// What the client asks of a worker.
#[derive(Debug)]
pub enum Order {
    Begin(Begin),
    Map(Split),
    Shuffle { epoch: Epoch, routes: Routes },
    Reduce { epoch: Epoch, top: Option<u64> },
    Fetch { epoch: Epoch, credit: u32 },
    Credit { batches: u32 },
    End,
}

/// What the client hears from a worker.
pub enum Answer<V> {
    Message(FromWorker),
    /// Encoded entries of the result.
    Results(Vec<u8>),
    /// The worker's result, where it runs in the same process.
    Sorted(Sorted<V>),
    /// The split could not be read; it was not sent.
    Unread {
        cause: String,
    },
    Closed {
        cause: String,
    },
}

/// The client's end of a link. Dropping it ends the job on the worker.
pub struct Link {
    pub name: String,
    pub threads: u32,
    /// At which peers reach the worker (`IP:PORT`); empty in-process.
    pub address: String,
    /// Never full: splits in flight are bounded by the window, and the other orders are few.
    pub orders: Sender<Order>,
    /// Loses its sender once the last order is written.
    pub written: Receiver<()>,
}

/// Takes what is heard; `false` if nobody listens any more.
pub type Listener<V> = Box<dyn Fn(WorkerId, Answer<V>) -> bool + Send>;

/// How often either side says that it lives.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest silence that may count as a loss: a beat that comes a little late is none.
pub const MIN_TIMEOUT: Duration = BEAT_INTERVAL.saturating_mul(2);

/// Bytes of the buffer in front of a connection's small frames.
pub(crate) const READ_BUFFER_BYTES: usize = 256 << 10;

/// Starts a link to a greeted worker: two threads around the connection.
///
/// # Errors
/// If a thread cannot be started.
pub fn connect_link<V: Value>(
    worker: WorkerId,
    name: &str,
    threads: u32,
    address: String,
    connection: Connection,
    source: Arc<dyn SplitSource>,
    listeners: [Listener<V>; 2],
) -> io::Result<Link> {
    let (orders, inbox) = unbounded();
    let Connection { reader, writer, control, .. } = connection;
    let [heard, unread] = listeners;
    spawn(format!("mr:read:{name}"), move || read_answers(worker, reader, &heard))?;
    let (writing, written) = bounded(0);
    spawn(format!("mr:write:{name}"), move || {
        match write_orders(writer, &inbox, source.as_ref()) {
            Err(NotWritten::Unread(cause)) => _ = unread(worker, Answer::Unread { cause }),
            // That the connection broke is for its reader to say: the worker's last words may lie there.
            Ok(()) | Err(NotWritten::Broken) => {}
        }
        control.close();
        drop(writing);
    })?;
    Ok(Link { name: name.to_owned(), threads, address, orders, written })
}

/// Turns frames into answers until the connection ends or nobody listens.
fn read_answers<V: Value>(worker: WorkerId, reader: Box<dyn Read + Send>, heard: &Listener<V>) {
    let told = Instant::now();
    let mut reader =
        BufReader::with_capacity(READ_BUFFER_BYTES, Noticing { inner: reader, worker, heard, told });
    loop {
        let mut payload = Vec::new();
        let answer = match read_frame(&mut reader, &mut payload, MAX_PAYLOAD_BYTES) {
            Ok(Some(Kind::Control)) => decode_message(&payload).map(Answer::Message),
            Ok(Some(Kind::Results)) => Ok(Answer::Results(payload)),
            Ok(Some(other)) => Err(FrameError::Unexpected(other)),
            Ok(None) => Ok(Answer::Closed { cause: "the worker ended the job".into() }),
            Err(error) => Err(error),
        };
        let answer = answer.unwrap_or_else(|error| Answer::Closed { cause: error.to_string() });
        let last = matches!(answer, Answer::Closed { .. });
        if !heard(worker, answer) || last {
            return;
        }
    }
}

/// Tells now and then that bytes come: a batch of results that crawls over a slow link is a sign of life long before
/// it is whole.
struct Noticing<'h, V> {
    inner: Box<dyn Read + Send>,
    worker: WorkerId,
    heard: &'h Listener<V>,
    told: Instant,
}

impl<V> Read for Noticing<'_, V> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        if read > 0 && self.told.elapsed() >= BEAT_INTERVAL {
            self.told = Instant::now();
            // If nobody listens, the next answer finds that out.
            (self.heard)(self.worker, Answer::Message(FromWorker::Beat));
        }
        Ok(read)
    }
}

/// Why orders are not written any more.
enum NotWritten {
    /// A split could not be read.
    Unread(String),
    /// The connection takes no more.
    Broken,
}

/// Writes orders, and beats while there are none, until the link is dropped or the job ends.
fn write_orders(
    mut writer: Box<dyn Write + Send>,
    inbox: &Receiver<Order>,
    source: &dyn SplitSource,
) -> Result<(), NotWritten> {
    let mut text = Vec::new();
    loop {
        let message = match inbox.recv_timeout(BEAT_INTERVAL) {
            Ok(Order::Begin(begin)) => ToWorker::Begin(begin),
            Ok(Order::Map(split)) => {
                let read = source.read(&split, &mut text);
                read.map_err(|error| NotWritten::Unread(format!("{error:#}")))?;
                let id = split.id.0.to_le_bytes();
                let written = write_frame(&mut writer, Kind::Split, &[&id, &text]);
                written.map_err(|_| NotWritten::Broken)?;
                continue;
            }
            Ok(Order::Shuffle { epoch, routes }) => ToWorker::Shuffle { epoch, routes },
            Ok(Order::Reduce { epoch, top }) => ToWorker::Reduce { epoch, top },
            Ok(Order::Fetch { epoch, credit }) => ToWorker::Fetch { epoch, credit },
            Ok(Order::Credit { batches }) => ToWorker::Credit { batches },
            Err(RecvTimeoutError::Timeout) => ToWorker::Beat,
            Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => {
                // The worker may be gone; then there is nobody to tell.
                let _ = write_frame(&mut writer, Kind::End, &[]);
                return Ok(());
            }
        };
        write_message(&mut writer, &message).map_err(|_| NotWritten::Broken)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory::pair;

    struct NoInput;

    impl SplitSource for NoInput {
        fn read(&self, _: &Split, _: &mut Vec<u8>) -> anyhow::Result<()> {
            anyhow::bail!("the disk is gone")
        }

        fn describe(&self, _: &Split) -> String {
            String::new()
        }
    }

    /// A link, the worker's end of it, and what is heard.
    fn link() -> (Link, Connection, Receiver<Answer<u64>>) {
        let [client, worker] = pair();
        let (heard, answers) = unbounded();
        let listeners = [heard.clone(), heard]
            .map(|heard| -> Listener<u64> { Box::new(move |_, answer| heard.send(answer).is_ok()) });
        let link = connect_link(WorkerId(0), "w", 1, String::new(), client, Arc::new(NoInput), listeners);
        (link.expect("threads can be started"), worker, answers)
    }

    fn next(answers: &Receiver<Answer<u64>>) -> Answer<u64> {
        answers.recv_timeout(Duration::from_secs(20)).expect("something is heard")
    }

    /// The client goes on writing when the worker has closed; what the worker said before must not be overtaken.
    #[test]
    fn the_last_words_of_a_worker_are_heard_before_its_link_is_closed() {
        for _ in 0..20 {
            let (link, mut worker, answers) = link();
            let failed = FromWorker::Failed { cause: "no memory".into() };
            write_message(&mut worker.writer, &failed).expect("the client listens");
            drop(worker);
            let _ = link.orders.send(Order::Credit { batches: 1 });
            let _ = link.orders.send(Order::Credit { batches: 1 });
            assert!(matches!(next(&answers), Answer::Message(message) if message == failed));
            assert!(matches!(next(&answers), Answer::Closed { .. }));
            assert!(answers.recv_timeout(Duration::from_millis(1)).is_err(), "it is closed once");
        }
    }

    #[test]
    fn a_split_that_cannot_be_read_is_no_fault_of_the_worker() {
        let (link, _worker, answers) = link();
        let split = Split { id: crate::logic::ids::SplitId(0), file: 0, offset: 0, length: 1 };
        link.orders.send(Order::Map(split)).expect("the link is open");
        assert!(matches!(next(&answers), Answer::Unread { cause } if cause == "the disk is gone"));
    }

    #[test]
    fn a_link_that_is_dropped_ends_the_job_and_says_when_that_is_written() {
        let (link, mut worker, _answers) = link();
        let Link { orders, written, .. } = link;
        drop(orders);
        assert!(written.recv_timeout(Duration::from_secs(20)).is_err_and(|error| error.is_disconnected()));
        assert!(matches!(read_frame(&mut worker.reader, &mut Vec::new(), 0), Ok(None)));
    }
}
