//! Shuffle: the sending end: every partition combined, in batches to its owner, all peers at once.
//!
//! Invariant: sending and receiving (`inbox`) are different threads and never wait for each other.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::packing::Compress;
use crate::logic::partition::Partition;
use crate::logic::rows::{Grouped, Row};
use crate::logic::table::Table;
use crate::wire::entries;
use crate::wire::message::{BATCH_HEADER_BYTES, Routes};

use super::engine::{Work, combine, group, on_all_threads};
use super::guarded;
use super::link::{Control, Network};
use super::stream::{Filled, send_stream};

/// Bytes after which a batch of entries is sent: large enough that a frame costs nothing.
const BATCH_BYTES: usize = 256 << 10;

/// Batches that may wait for one peer's stream before those who fill it wait.
const QUEUE_BATCHES: usize = 2;

/// How a worker reaches its peers.
pub(crate) struct Peers {
    pub network: Arc<dyn Network>,
    pub key: String,
    pub job: JobId,
    pub me: WorkerId,
    /// Bound on every wait for a peer.
    pub timeout: Duration,
    /// How batches travel.
    pub compress: Compress,
    /// Cores that pack for all peers.
    pub cores: usize,
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

    /// Has a stream closed with the others, at the end of the job.
    pub(crate) fn keep(&self, control: &Arc<dyn Control>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.closed {
            control.close();
        } else {
            open.controls.push(control.clone());
        }
    }
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
    let links = routes.workers.len() - 1;
    let bytes = AtomicU64::new(0);
    let filled = std::thread::scope(|scope| {
        let mut streams = HashMap::new();
        for (worker, address) in others {
            let (batches, queue) = bounded(QUEUE_BATCHES);
            streams.insert(*worker, batches);
            let (failures, bytes) = (failures.clone(), &bytes);
            let send = move || {
                let sent = match peers {
                    Some(peers) => {
                        guarded(|| send_stream(peers, address, epoch, links, &queue, bytes)).flatten()
                    }
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
