//! Shuffle: streams between peers: batches sent and acknowledged, batches received and kept for the reduce.
//!
//! Invariant: sending and receiving never wait for each other, so no ring of full buffers can stand still: a receiver
//! only ever waits for its own source, and takes whatever comes.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufReader, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::partition::Partition;
use crate::logic::table::{ByPartition, Table};
use crate::wire::entries;
use crate::wire::frame::{FrameError, Kind, MAX_PAYLOAD_BYTES, read_frame, write_frame};
use crate::wire::message::{BATCH_HEADER_BYTES, Role, Routes, decode_batch};

use super::engine::{Work, combine, group, on_all_threads};
use super::greet::greet;
use super::link::{Connection, Control, Network, READ_BUFFER_BYTES};
use super::results::BATCH_BYTES;

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
    /// The open streams, closed when the job ends. A lock: they are opened on threads of their own.
    pub open: Mutex<Vec<Arc<dyn Control>>>,
}

impl Peers {
    /// Wakes up everyone who waits for a peer.
    pub(crate) fn close(&self) {
        for control in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            control.close();
        }
    }
}

/// What sending gave: the worker's own part and the bytes that went to others.
pub(crate) struct Sent<V> {
    pub own: HashMap<Partition, Table<V>>,
    pub bytes: u64,
}

/// Why sending failed.
pub(crate) enum SendError {
    Peer { peer: WorkerId, cause: String },
    Own(String),
}

/// Sends the entries of every partition to its owner, all peers at once, and keeps the worker's own.
pub(crate) fn send_all<J: Job>(
    work: &Work<J>,
    tables: &Arc<Vec<Table<J::Value>>>,
    routes: &Routes,
    epoch: Epoch,
    peers: Option<&Peers>,
    me: WorkerId,
) -> Result<Sent<J::Value>, SendError> {
    let grouped = group(tables, routes.n_partitions()).map_err(SendError::Own)?;
    let own = Mutex::new(HashMap::new());
    let others = routes.workers.iter().filter(|(worker, _)| *worker != me);
    let (failures, failed) = bounded(routes.workers.len());
    let mut bytes = 0;
    let mut combined = Ok(());
    std::thread::scope(|scope| {
        let mut streams = HashMap::new();
        let mut threads = Vec::new();
        for (worker, address) in others {
            let (batches, queue) = bounded(QUEUE_BATCHES);
            streams.insert(*worker, batches);
            let failures = failures.clone();
            threads.push(scope.spawn(move || {
                let sent = match peers {
                    Some(peers) => send_stream(peers, address, epoch, &queue),
                    None => Err("this worker has no network".to_owned()),
                };
                sent.unwrap_or_else(|cause| {
                    // Room for one failure of each peer.
                    let _ = failures.try_send(SendError::Peer { peer: *worker, cause });
                    0
                })
            }));
        }
        combined = fill_streams(work, tables, &grouped, routes, me, &streams, &own);
        if let (Err(_), Some(peers)) = (&combined, peers) {
            // What was sent is not all there is: the streams must not come to a proper end.
            peers.close();
        }
        drop(streams);
        bytes = threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
    });
    if let Ok(failure) = failed.try_recv() {
        return Err(failure);
    }
    combined.map_err(SendError::Own)?;
    Ok(Sent { own: own.into_inner().unwrap_or_else(PoisonError::into_inner), bytes })
}

/// Combines each partition over the tables and puts it where it belongs.
fn fill_streams<J: Job>(
    work: &Work<J>,
    tables: &[Table<J::Value>],
    grouped: &[ByPartition],
    routes: &Routes,
    me: WorkerId,
    streams: &HashMap<WorkerId, Sender<Vec<u8>>>,
    own: &Mutex<HashMap<Partition, Table<J::Value>>>,
) -> Result<(), String> {
    let n = routes.owners.len();
    // Every worker begins behind its own partitions, so that not all send to the same peer at once.
    let first = routes.owners.iter().rposition(|&owner| owner == me).map_or(0, |at| at + 1);
    on_all_threads(work, n, |index| {
        let at = (first + index) % n;
        let partition = Partition(at as u32);
        let table = combine(work, tables, grouped, partition);
        match streams.get(&routes.owners[at]) {
            None => {
                own.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, table);
            }
            Some(stream) => encode_batches(partition, &table, |batch| stream.send(batch).is_ok()),
        }
        Ok(())
    })
}

/// Encodes a partition in batches; `send` returns `false` if the stream broke, which its thread reports.
fn encode_batches<V: crate::job::Value>(
    partition: Partition,
    table: &Table<V>,
    mut send: impl FnMut(Vec<u8>) -> bool,
) {
    let header = partition.0.to_le_bytes();
    let mut batch = header.to_vec();
    for entry in table.iter() {
        entries::encode(entry.key, entry.value, &mut batch);
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
fn send_stream(
    peers: &Peers,
    address: &str,
    epoch: Epoch,
    batches: &Receiver<Vec<u8>>,
) -> Result<u64, String> {
    let mut connection = peers.network.connect(address, peers.timeout).map_err(|error| error.to_string())?;
    peers.open.lock().unwrap_or_else(PoisonError::into_inner).push(connection.control.clone());
    let role = Role::Peer { job: peers.job, epoch, source: peers.me };
    greet(&mut connection, &peers.key, role, peers.timeout).map_err(|error| error.to_string())?;
    let stream = || -> Result<u64, FrameError> {
        let mut acknowledgement = Vec::new();
        let mut unacknowledged = 0;
        let mut bytes = 0;
        for batch in batches {
            if unacknowledged == UNACKNOWLEDGED_BATCHES {
                read_acknowledgement(&mut connection.reader, &mut acknowledgement)?;
                unacknowledged -= 1;
            }
            bytes += batch.len() as u64;
            write_frame(&mut connection.writer, Kind::Batch, &[&batch])?;
            unacknowledged += 1;
        }
        write_frame(&mut connection.writer, Kind::End, &[])?;
        // One more for the end itself.
        for _ in 0..=unacknowledged {
            read_acknowledgement(&mut connection.reader, &mut acknowledgement)?;
        }
        Ok(bytes)
    }();
    connection.control.close();
    stream.map_err(|error| error.to_string())
}

fn read_acknowledgement(reader: &mut dyn Read, payload: &mut Vec<u8>) -> Result<(), FrameError> {
    match read_frame(&mut { reader }, payload, 0)? {
        Some(Kind::Ack) => Ok(()),
        Some(other) => Err(FrameError::Unexpected(other)),
        None => Err(FrameError::Torn),
    }
}

/// What arrived from peers, by partition, for the current epoch of one job.
#[derive(Default)]
pub(crate) struct Inbox {
    /// A lock: one thread for each source puts in, the reduce takes out.
    state: Mutex<InboxState>,
}

#[derive(Default)]
struct InboxState {
    epoch: Option<Epoch>,
    sources: BTreeSet<WorkerId>,
    partitions: HashMap<Partition, Vec<Vec<u8>>>,
}

/// The stream belongs to an epoch that is over, or its source has one already.
#[derive(Debug, thiserror::Error)]
#[error("the stream is stale: {0}")]
pub(crate) struct Stale(&'static str);

impl Inbox {
    fn state(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the stream of `source` in `epoch`. A newer epoch drops what is held of an older one.
    ///
    /// # Errors
    /// If the epoch is older than the newest known, or the source has sent a stream in it.
    pub(crate) fn open(&self, epoch: Epoch, source: WorkerId) -> Result<(), Stale> {
        let mut state = self.state();
        if state.epoch.is_some_and(|current| current > epoch) {
            return Err(Stale("a newer epoch has begun"));
        }
        if state.epoch != Some(epoch) {
            *state = InboxState { epoch: Some(epoch), ..InboxState::default() };
        }
        if !state.sources.insert(source) {
            return Err(Stale("its source has sent one already"));
        }
        Ok(())
    }

    fn put(&self, epoch: Epoch, partition: Partition, batch: Vec<u8>) -> Result<(), Stale> {
        let mut state = self.state();
        if state.epoch != Some(epoch) {
            return Err(Stale("a newer epoch has begun"));
        }
        state.partitions.entry(partition).or_default().push(batch);
        Ok(())
    }

    /// Takes out what arrived in `epoch`.
    pub(crate) fn take(&self, epoch: Epoch) -> HashMap<Partition, Vec<Vec<u8>>> {
        let mut state = self.state();
        if state.epoch == Some(epoch) { std::mem::take(&mut state.partitions) } else { HashMap::new() }
    }
}

/// Receives one peer's stream, acknowledging each batch, until its end.
///
/// # Errors
/// If the stream breaks or is stale.
pub(crate) fn receive_stream(connection: Connection, inbox: &Inbox, epoch: Epoch) -> Result<(), String> {
    let Connection { reader, mut writer, .. } = connection;
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let acknowledge = |writer: &mut Box<dyn Write + Send>| {
        write_frame(writer, Kind::Ack, &[]).map_err(|error| error.to_string())
    };
    loop {
        let mut payload = Vec::new();
        match read_frame(&mut reader, &mut payload, MAX_PAYLOAD_BYTES).map_err(|error| error.to_string())? {
            Some(Kind::Batch) => {
                let (partition, _) = decode_batch(&payload).map_err(|error| error.to_string())?;
                inbox.put(epoch, partition, payload).map_err(|error| error.to_string())?;
                acknowledge(&mut writer)?;
            }
            Some(other) => return Err(FrameError::Unexpected(other).to_string()),
            None => return acknowledge(&mut writer),
        }
    }
}
