//! Shuffle: the sending end: every partition combined, in batches to its owner, all peers at once.
//!
//! Invariant: sending and receiving (`inbox`) are different threads and never wait for each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// What our connections say they are of.
    pub cluster: String,
    /// The names that the workers have proven to the client, by their ids; empty where nothing is proven.
    pub members: Vec<String>,
    pub job: JobId,
    /// Bound on every wait for a peer.
    pub timeout: Duration,
    /// How batches travel.
    pub compress: Compress,
    /// Cores that pack for all peers.
    pub cores: usize,
}

/// The streams to peers of one epoch, kept until it is over. A lock: they are opened on threads of their own.
#[derive(Default)]
pub(crate) struct OpenStreams(Mutex<Open>);

#[derive(Default)]
struct Open {
    controls: Vec<Arc<dyn Control>>,
    /// Whether the epoch is over: what is opened after that is closed at once.
    closed: bool,
}

impl OpenStreams {
    /// Wakes up everyone who waits for a peer, or will.
    pub(crate) fn close(&self) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.closed = true;
        for control in open.controls.drain(..) {
            control.close();
        }
    }

    /// Has a stream closed with the others, once the epoch is over.
    pub(crate) fn keep(&self, control: &Arc<dyn Control>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.closed {
            control.close();
        } else {
            open.controls.push(control.clone());
        }
    }
}

/// One epoch's shuffle, as this worker takes part in it.
pub(crate) struct Shuffle<J> {
    pub work: Arc<Work<J>>,
    pub epoch: Epoch,
    pub routes: Routes,
    pub me: WorkerId,
    /// `None` in-process: then there is no peer.
    pub peers: Option<Arc<Peers>>,
    pub streams: OpenStreams,
}

/// What sending gave: the worker's own part and the bytes that went to others.
pub(crate) struct Sent<V> {
    pub own: HashMap<Partition, Vec<Row<V>>>,
    /// In which the keys of the own part stand.
    pub tables: Vec<Arc<Table<V>>>,
    pub bytes: u64,
}

/// Why sending failed.
pub(crate) enum SendError {
    /// Each of them has been told of.
    Peers,
    Own(String),
}

/// Hears at once of each peer that does not take its part: others may still take theirs for a long time.
pub(crate) type Complain<'c> = &'c (dyn Fn(WorkerId, String) + Sync);

/// Sends the entries of every partition to its owner, all peers at once, and keeps the worker's own.
///
/// # Errors
/// If a peer does not take its part; or if the parts cannot be made: then no stream comes to a proper end.
pub(crate) fn send_all<J: Job>(
    shuffle: &Shuffle<J>,
    tables: &[Arc<Table<J::Value>>],
    complain: Complain<'_>,
) -> Result<Sent<J::Value>, SendError> {
    let Shuffle { work, routes, me, .. } = shuffle;
    let grouped = group(work, tables, routes.n_partitions()).map_err(SendError::Own)?;
    let own = Mutex::new(HashMap::new());
    let others = routes.workers.iter().filter(|(worker, _)| worker != me);
    let links = routes.workers.len() - 1;
    let bytes = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let filled = std::thread::scope(|scope| {
        let mut streams = HashMap::new();
        for (worker, address) in others {
            let (batches, queue) = bounded(QUEUE_BATCHES);
            streams.insert(*worker, batches);
            let (bytes, failed) = (&bytes, &failed);
            let send = move || {
                let sent =
                    guarded(|| send_stream(shuffle, (*worker, address), links, &queue, bytes)).flatten();
                if let Err(cause) = sent {
                    failed.store(true, Ordering::Relaxed);
                    complain(*worker, cause);
                }
            };
            let started = Builder::new().name(format!("mr:send:{address}")).spawn_scoped(scope, send);
            started.map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        fill_streams(shuffle, tables, &grouped, &streams, &own)?;
        for stream in streams.values() {
            // A stream that broke says so itself.
            let _ = stream.send(Filled::End);
        }
        Ok(())
    });
    filled.map_err(SendError::Own)?;
    if failed.into_inner() {
        return Err(SendError::Peers);
    }
    let own = own.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Sent { own, tables: tables.to_vec(), bytes: bytes.into_inner() })
}

/// Combines each partition over the tables and puts it where it belongs.
fn fill_streams<J: Job>(
    shuffle: &Shuffle<J>,
    tables: &[Arc<Table<J::Value>>],
    grouped: &Grouped,
    streams: &HashMap<WorkerId, Sender<Filled>>,
    own: &Mutex<HashMap<Partition, Vec<Row<J::Value>>>>,
) -> Result<(), String> {
    let Shuffle { work, routes, me, .. } = shuffle;
    let n = routes.owners.len();
    // Every worker begins behind its own partitions, so that not all send to the same peer at once.
    let first = routes.owners.iter().rposition(|owner| owner == me).map_or(0, |at| at + 1);
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
    tables: &[Arc<Table<V>>],
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
