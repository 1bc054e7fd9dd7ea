//! Shuffle: the sending end: every partition combined, in batches to its owner, all peers at once.
//!
//! Invariant: sending and receiving (`inbox`) are different threads and never wait for each other.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::partition::Partition;
use crate::logic::rows::{Grouped, Row};
use crate::logic::table::Table;
use crate::wire::entries;
use crate::wire::frame::{FrameError, Kind, read_frame, write_frame};
use crate::wire::message::{BATCH_HEADER_BYTES, Role, Routes};

use super::engine::{Work, combine, group, on_all_threads};
use super::greet::greet;
use super::guarded;
use super::link::{BEAT_INTERVAL, Connection, Control, Network};

/// Bytes after which a batch of entries is sent: large enough that a frame costs nothing.
const BATCH_BYTES: usize = 256 << 10;

/// Batches that may wait for one peer's stream before those who fill it wait.
const QUEUE_BATCHES: usize = 2;

/// Batches that may be on their way to a peer without its acknowledgement: hides the round trip.
const UNACKNOWLEDGED_BATCHES: usize = 8;

/// How a worker reaches its peers.
pub(crate) struct Peers {
    pub network: Arc<dyn Network>,
    pub key: String,
    pub job: JobId,
    pub me: WorkerId,
    /// Bound on every wait for a peer.
    pub timeout: Duration,
    /// A lock: streams are opened on threads of their own.
    pub open: Mutex<OpenStreams>,
}

/// The streams to peers, kept until the job ends.
#[derive(Default)]
pub(crate) struct OpenStreams {
    controls: Vec<Arc<dyn Control>>,
    /// Whether the job has ended: what is opened after that is closed at once.
    closed: bool,
}

impl Peers {
    /// Wakes up everyone who waits for a peer, or will.
    pub(crate) fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.closed = true;
        for control in open.controls.drain(..) {
            control.close();
        }
    }

    fn keep(&self, control: &Arc<dyn Control>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.closed {
            control.close();
        } else {
            open.controls.push(control.clone());
        }
    }
}

/// What a peer's stream is to send.
enum Filled {
    Batch(Vec<u8>),
    /// There is no more. A stream that is left without this one is given up.
    End,
}

/// What sending gave: the worker's own part and the bytes that went to others.
pub(crate) struct Sent<V> {
    pub own: HashMap<Partition, Vec<Row<V>>>,
    pub bytes: u64,
}

/// Why sending failed.
pub(crate) enum SendError {
    Peer { peer: WorkerId, cause: String },
    Own(String),
}

/// Sends the entries of every partition to its owner, all peers at once, and keeps the worker's own.
///
/// # Errors
/// If a peer does not take its part; or if the parts cannot be made: then no stream comes to a proper end.
pub(crate) fn send_all<J: Job>(
    work: &Work<J>,
    tables: &Arc<Vec<Table<J::Value>>>,
    routes: &Routes,
    epoch: Epoch,
    peers: Option<&Peers>,
    me: WorkerId,
) -> Result<Sent<J::Value>, SendError> {
    let grouped = group(work, tables, routes.n_partitions()).map_err(SendError::Own)?;
    let own = Mutex::new(HashMap::new());
    let others = routes.workers.iter().filter(|(worker, _)| *worker != me);
    let (failures, failed) = bounded(routes.workers.len());
    let bytes = AtomicU64::new(0);
    let filled = std::thread::scope(|scope| {
        let mut streams = HashMap::new();
        for (worker, address) in others {
            let (batches, queue) = bounded(QUEUE_BATCHES);
            streams.insert(*worker, batches);
            let (failures, bytes) = (failures.clone(), &bytes);
            let send = move || {
                let sent = match peers {
                    Some(peers) => guarded(|| send_stream(peers, address, epoch, &queue, bytes)).flatten(),
                    None => Err("this worker has no network".to_owned()),
                };
                if let Err(cause) = sent {
                    // Room for one failure of each peer.
                    let _ = failures.try_send(SendError::Peer { peer: *worker, cause });
                }
            };
            let started = Builder::new().name(format!("mr:send:{address}")).spawn_scoped(scope, send);
            started.map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        fill_streams(work, tables, &grouped, routes, me, &streams, &own)?;
        for stream in streams.values() {
            // A stream that broke says so itself.
            let _ = stream.send(Filled::End);
        }
        Ok(())
    });
    if let Ok(failure) = failed.try_recv() {
        return Err(failure);
    }
    filled.map_err(SendError::Own)?;
    let own = own.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Sent { own, bytes: bytes.into_inner() })
}

/// Combines each partition over the tables and puts it where it belongs.
fn fill_streams<J: Job>(
    work: &Work<J>,
    tables: &[Table<J::Value>],
    grouped: &Grouped,
    routes: &Routes,
    me: WorkerId,
    streams: &HashMap<WorkerId, Sender<Filled>>,
    own: &Mutex<HashMap<Partition, Vec<Row<J::Value>>>>,
) -> Result<(), String> {
    let n = routes.owners.len();
    // Every worker begins behind its own partitions, so that not all send to the same peer at once.
    let first = routes.owners.iter().rposition(|&owner| owner == me).map_or(0, |at| at + 1);
    on_all_threads(work, n, |index| {
        let at = (first + index) % n;
        let partition = Partition(at as u32);
        let rows = combine(work, tables, grouped, partition);
        match streams.get(&routes.owners[at]) {
            None => {
                own.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, rows);
            }
            Some(stream) => {
                encode_batches(partition, &rows, tables, |batch| stream.send(Filled::Batch(batch)).is_ok())
            }
        }
        Ok(())
    })
}

/// Encodes a partition in batches; `send` returns `false` if the stream broke, which its thread reports.
fn encode_batches<V: crate::job::Value>(
    partition: Partition,
    rows: &[Row<V>],
    tables: &[Table<V>],
    mut send: impl FnMut(Vec<u8>) -> bool,
) {
    let header = partition.0.to_le_bytes();
    let mut batch = header.to_vec();
    for row in rows {
        entries::encode(row.key(tables), &row.value, &mut batch);
        if batch.len() >= BATCH_BYTES {
            if !send(std::mem::replace(&mut batch, header.to_vec())) {
                return;
            }
            batch.reserve(BATCH_BYTES);
        }
    }
    if batch.len() > BATCH_HEADER_BYTES {
        send(batch);
    }
}

/// Sends `batches` to the peer at `address` and waits until it has acknowledged every one and the end.
///
/// A stream that is given up stays open until the job ends: the client is to hear why from this worker, before the
/// peer tells of a stream that broke.
fn send_stream(
    peers: &Peers,
    address: &str,
    epoch: Epoch,
    batches: &Receiver<Filled>,
    bytes: &AtomicU64,
) -> Result<(), String> {
    let mut connection = peers.network.connect(address, peers.timeout).map_err(|error| error.to_string())?;
    peers.keep(&connection.control);
    let role = Role::Peer { job: peers.job, epoch, source: peers.me };
    greet(&mut connection, &peers.key, role, peers.timeout).map_err(|error| error.to_string())?;
    if send_batches(&mut connection, batches, bytes).map_err(|error| error.to_string())? {
        connection.control.close();
    }
    Ok(())
}

/// Sends batches and, while there are none, beats: what is late because another peer is slow is not lost. `false` if
/// the stream was given up.
fn send_batches(
    connection: &mut Connection,
    batches: &Receiver<Filled>,
    bytes: &AtomicU64,
) -> Result<bool, FrameError> {
    let mut unacknowledged = 0;
    loop {
        match batches.recv_timeout(BEAT_INTERVAL) {
            Ok(Filled::Batch(batch)) => {
                if unacknowledged == UNACKNOWLEDGED_BATCHES {
                    read_acknowledgement(connection.reader.as_mut())?;
                    unacknowledged -= 1;
                }
                write_frame(&mut connection.writer, Kind::Batch, &[&batch])?;
                bytes.fetch_add(batch.len() as u64, Ordering::Relaxed);
                unacknowledged += 1;
            }
            Ok(Filled::End) => break,
            Err(RecvTimeoutError::Timeout) => write_frame(&mut connection.writer, Kind::Beat, &[])?,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
    write_frame(&mut connection.writer, Kind::End, &[])?;
    // One more for the end itself.
    for _ in 0..=unacknowledged {
        read_acknowledgement(connection.reader.as_mut())?;
    }
    Ok(true)
}

fn read_acknowledgement(mut reader: &mut (dyn Read + Send)) -> Result<(), FrameError> {
    loop {
        match read_frame(&mut reader, &mut Vec::new(), 0)? {
            // The batch is on its way, however slow.
            Some(Kind::Beat) => {}
            Some(Kind::Ack) => return Ok(()),
            Some(other) => return Err(FrameError::Unexpected(other)),
            None => return Err(FrameError::Torn),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::runtime::inbox::{Inbox, receive_stream};
    use crate::runtime::memory::{Door, pair};
    use crate::wire::frame::MAX_PAYLOAD_BYTES;

    const EPOCH: Epoch = Epoch(2);

    fn batch(partition: u32) -> Vec<u8> {
        [&partition.to_le_bytes()[..], b"entries"].concat()
    }

    #[test]
    fn who_has_nothing_to_send_beats_and_a_stream_that_is_given_up_does_not_end() {
        let [mut sender, mut receiver] = pair();
        let (batches, queue) = bounded(QUEUE_BATCHES);
        let sending = std::thread::spawn(move || {
            let given_up = send_batches(&mut sender, &queue, &AtomicU64::new(0));
            (given_up, sender)
        });
        let mut payload = Vec::new();
        let beat = read_frame(&mut receiver.reader, &mut payload, MAX_PAYLOAD_BYTES);
        assert!(matches!(beat, Ok(Some(Kind::Beat))), "{beat:?}");
        drop(batches);
        let (given_up, sender) = sending.join().expect("no panic");
        assert!(matches!(given_up, Ok(false)));
        receiver.control.set_deadline(Duration::from_millis(50)).expect("it is open");
        let nothing = read_frame(&mut receiver.reader, &mut payload, MAX_PAYLOAD_BYTES);
        assert!(matches!(nothing, Err(FrameError::Silent)), "{nothing:?}");
        drop(sender);
    }

    /// Reads a few bytes at a time, with a pause before each: a link of two kilobytes a second.
    struct Crawling(Box<dyn Read + Send>);

    impl Read for Crawling {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(50));
            let most = into.len().min(100);
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn a_batch_that_crawls_is_no_silence() {
        let [mut sender, mut receiver] = pair();
        // Longer than a beat, shorter than the batch takes.
        let deadline = BEAT_INTERVAL + Duration::from_millis(700);
        sender.control.set_deadline(deadline).expect("it is open");
        receiver.control.set_deadline(deadline).expect("it is open");
        receiver.reader = Box::new(Crawling(receiver.reader));
        let inbox = Inbox::default();
        inbox.open(EPOCH, WorkerId(1)).expect("the first stream");
        let (batches, queue) = bounded(QUEUE_BATCHES);
        let crawling = [&3u32.to_le_bytes()[..], &[b'x'; 8000]].concat();
        batches.send(Filled::Batch(crawling.clone())).expect("it is open");
        batches.send(Filled::End).expect("it is open");
        let sent = std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive_stream(receiver, &inbox, EPOCH));
            let sent = send_batches(&mut sender, &queue, &AtomicU64::new(0));
            assert_eq!(receiving.join().expect("no panic"), Ok(()));
            sent
        });
        assert!(matches!(sent, Ok(true)), "{sent:?}");
        let taken = inbox.take(EPOCH, &BTreeSet::from([WorkerId(1)])).expect("all are there");
        assert_eq!(taken.values().flatten().collect::<Vec<_>>(), [&crawling]);
    }

    #[test]
    fn no_more_is_on_its_way_than_may_be_and_all_is_acknowledged() {
        let [mut sender, receiver] = pair();
        let inbox = Inbox::default();
        inbox.open(EPOCH, WorkerId(1)).expect("the first stream");
        let (batches, queue) = unbounded();
        for partition in 0..100 {
            batches.send(Filled::Batch(batch(partition))).expect("it is open");
        }
        batches.send(Filled::End).expect("it is open");
        let bytes = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive_stream(receiver, &inbox, EPOCH));
            assert!(matches!(send_batches(&mut sender, &queue, &bytes), Ok(true)));
            assert_eq!(receiving.join().expect("no panic"), Ok(()));
        });
        assert_eq!(bytes.into_inner(), 100 * batch(0).len() as u64);
        assert_eq!(inbox.take(EPOCH, &BTreeSet::from([WorkerId(1)])).expect("it is whole").len(), 100);
    }

    #[test]
    fn a_stream_that_opens_after_the_end_of_the_job_is_closed() {
        let door = Door::new();
        let peers = Peers {
            network: Arc::new(door),
            key: String::new(),
            job: JobId(1),
            me: WorkerId(0),
            timeout: Duration::from_secs(20),
            open: Mutex::default(),
        };
        peers.close();
        let (_batches, queue) = bounded(1);
        let sent = send_stream(&peers, "anywhere", EPOCH, &queue, &AtomicU64::new(0));
        assert!(sent.is_err(), "it waits for nobody");
    }
}
