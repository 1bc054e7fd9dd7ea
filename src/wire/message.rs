//! Message: what client, workers and peers say to each other; the only serde types that cross hosts.
//!
//! Control messages travel as JSON, so that a capture can be read; splits, batches and results are binary.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::logic::ids::{Epoch, JobId, SplitId, WorkerId};
use crate::logic::limits::Limits;
use crate::logic::packing::{Compress, Packing};
use crate::logic::partition::{Partition, Seed};

use super::encoding::Encoding;
use super::frame::{FrameError, Kind, MAX_CONTROL_BYTES, read_frame, write_frame};
use super::located::{Found, Located, Place};
use super::pack::{PACK_HEADER_BYTES, Packed};

/// Says that a connection speaks this protocol at all.
pub const MAGIC: &str = "mapreduce";

/// Version of everything in `wire`. Client and workers must have the same.
pub const PROTOCOL: u32 = 5;

/// The name that the certificate of who runs jobs bears; those of workers bear others.
pub const CLIENT_NAME: &str = "client.mapreduce";

/// The first message of every connection, from whoever made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    pub magic: String,
    pub protocol: u32,
    /// Version of the program, for messages to people.
    pub program: String,
    /// The cluster's id, where no certificate says it; empty for a worker that was started by hand. It is no secret: it
    /// keeps clusters apart, against no enemy.
    pub cluster: String,
    pub role: Role,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs a job.
    Client,
    /// Sends one epoch's shuffle stream.
    Peer { job: JobId, epoch: Epoch, source: WorkerId },
    /// Asks how the worker is.
    Status,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    Welcome(Welcome),
    Refused { reason: String, program: String },
}

/// How a worker introduces itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    pub program: String,
    /// The names of the jobs that it can run.
    pub jobs: Vec<String>,
    pub pid: u32,
    pub threads: u32,
    pub uptime_ms: u64,
    /// Jobs that run at this moment.
    pub running_jobs: u32,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// The names of the packings that it knows; there may be some that we do not know.
    #[serde(default)]
    pub packings: Vec<String>,
}

impl Welcome {
    /// Returns the packings that the worker and we know.
    pub fn known_packings(&self) -> Vec<Packing> {
        Packing::ALL.into_iter().filter(|ours| self.packings.iter().any(|name| name == ours.name())).collect()
    }
}

/// From the client to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Before the job begins: what files are there?
    List {
        places: Vec<Place>,
    },
    Begin(Begin),
    /// Execute a split that the worker reads itself.
    Read {
        split: SplitId,
        provisional: bool,
        located: Located,
    },
    /// The provisional execution of the split is the one that counts.
    Commit {
        split: SplitId,
    },
    /// The execution of the split is not wanted any more.
    Discard {
        split: SplitId,
    },
    /// All splits are mapped: move the tables to their reducers.
    Shuffle {
        epoch: Epoch,
        routes: Routes,
    },
    /// All streams have arrived: fold and sort. Only entries within the limits will be fetched.
    Reduce {
        epoch: Epoch,
        limits: Limits,
    },
    /// Send the result, packed so, no more batches than there is credit for.
    Fetch {
        epoch: Epoch,
        credit: u32,
        packing: Packing,
    },
    /// So many more batches of the epoch's result may be sent.
    Credit {
        epoch: Epoch,
        batches: u32,
    },
    /// The client lives.
    Beat,
}

/// What a worker needs to know of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    pub job: JobId,
    /// Name of the job, as `Job::NAME`.
    pub name: String,
    /// The job's parameters, in JSON.
    pub params: String,
    pub seed: Seed,
    /// Which worker of the job this one is.
    pub worker: WorkerId,
    /// How long a peer or the client may be silent.
    pub timeout_ms: u64,
    /// How batches travel between peers.
    pub compress: Compress,
    /// The names that the workers of the job have proven to the client, in the order of their ids: who may send for
    /// whom. Empty where nothing can be proven.
    pub members: Vec<String>,
}

/// Most workers of a job: each has a connection to every other, and a thread for each.
pub const MAX_WORKERS: usize = 1000;

/// Where the partitions go in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The live workers with the numeric addresses (`IP:PORT`) at which their peers reach them.
    pub workers: Vec<(WorkerId, String)>,
    /// The owner of each partition.
    pub owners: Vec<WorkerId>,
}

impl Routes {
    /// Checks that every partition has a place to go, so that no entry can get lost.
    ///
    /// # Errors
    /// `Malformed` if there is no partition, a worker stands twice, an owner is none of the workers, or there are more
    /// than [`MAX_WORKERS`].
    pub fn check(&self) -> Result<(), FrameError> {
        let workers: BTreeSet<WorkerId> = self.workers.iter().map(|(worker, _)| *worker).collect();
        let wrong = if self.owners.is_empty() {
            "have no partition"
        } else if self.workers.len() > MAX_WORKERS {
            "have too many workers"
        } else if workers.len() < self.workers.len() {
            "have a worker twice"
        } else if !self.owners.iter().all(|owner| workers.contains(owner)) {
            "give a partition to a worker that is not there"
        } else {
            return Ok(());
        };
        Err(FrameError::Malformed(format!("the routes {wrong}")))
    }

    /// Returns the number of partitions.
    pub fn n_partitions(&self) -> u32 {
        self.owners.len() as u32
    }

    /// Returns the partitions that `worker` owns.
    pub fn owned_by(&self, worker: WorkerId) -> impl Iterator<Item = Partition> + '_ {
        let owned = move |(_, owner): &(usize, &WorkerId)| **owner == worker;
        self.owners.iter().enumerate().filter(owned).map(|(index, _)| Partition(index as u32))
    }
}

/// From a worker to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// Some of the files that are there, in order, each with the index of the place where it was found; or why there
    /// are none at a place. There may be more before the last.
    Listed {
        found: Vec<(u32, Found)>,
        failed: Vec<(u32, String)>,
        is_last: bool,
    },
    /// The job is known and its parameters are good.
    Begun,
    Mapped {
        split: SplitId,
        pairs: u64,
    },
    /// An execution failed: the job's code did, or the worker's resources, or the text could not be had. What the same
    /// thread had folded of the splits `dropped` is gone, too.
    MapFailed {
        split: SplitId,
        cause: String,
        dropped: Vec<SplitId>,
        /// Whether it was the text that could not be had.
        unreadable: bool,
    },
    /// An execution was discarded, and nothing of it is left.
    Dropped {
        split: SplitId,
    },
    /// All streams of the epoch are sent, acknowledged and received.
    Shuffled {
        epoch: Epoch,
        sent_bytes: u64,
    },
    /// A stream to or from `peer` broke.
    PeerFailed {
        epoch: Epoch,
        peer: WorkerId,
        cause: String,
    },
    Reduced {
        epoch: Epoch,
        distinct: u64,
        entries: u64,
        bytes: u64,
    },
    /// All of the result has been sent.
    ResultsEnd {
        epoch: Epoch,
    },
    /// The worker gives up this job.
    Failed {
        cause: String,
    },
    /// The worker lives, whatever it is computing.
    Beat,
}

/// Writes a control message.
///
/// # Errors
/// If `to` fails.
pub fn write_message<M: Serialize>(to: &mut impl Write, message: &M) -> Result<(), FrameError> {
    let json = serde_json::to_vec(message).map_err(|error| FrameError::Malformed(error.to_string()))?;
    if json.len() > MAX_CONTROL_BYTES {
        return Err(FrameError::TooLong { length: json.len(), limit: MAX_CONTROL_BYTES });
    }
    Ok(write_frame(to, Kind::Control, &[&json])?)
}

/// Takes a control message out of its payload.
///
/// # Errors
/// `Malformed` if it is none of type `M`.
pub fn decode_message<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    serde_json::from_slice(payload).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Reads a frame that must be a control message, of at most `limit` bytes.
///
/// # Errors
/// As [`read_frame`]; `Unexpected` for another kind of frame, `Torn` for the end of the stream.
pub fn read_message<M: DeserializeOwned>(from: &mut impl Read, limit: usize) -> Result<M, FrameError> {
    let mut payload = Vec::new();
    match read_frame(from, &mut payload, limit)? {
        Some(Kind::Control) => decode_message(&payload),
        Some(other) => Err(FrameError::Unexpected(other)),
        None => Err(FrameError::Torn),
    }
}

/// Bytes before the name and the text in a frame of [`Kind::Split`]: the split's id, whether its execution is
/// provisional, how the file is compressed, where the text begins in it, the length of the file's name, and how the
/// text is packed. Numbers are little-endian.
pub const SPLIT_HEADER_BYTES: usize = 8 + 1 + 1 + 8 + 2 + PACK_HEADER_BYTES;

/// Bytes of a file's name that travel with its splits; of a longer one, those that come first.
pub const MAX_NAME_BYTES: usize = u16::MAX as usize;

/// What comes before a split's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitHeader {
    pub split: SplitId,
    /// Whether the execution counts only once it is committed.
    pub provisional: bool,
    /// Of the file, which is whole then, if it is not plain.
    pub encoding: Encoding,
    /// Where the text begins in its file.
    pub offset: u64,
    /// Bytes of the file's name, which follows.
    pub name_bytes: u16,
    pub packed: Packed,
}

impl SplitHeader {
    /// Returns the header of a split of a plain text without a name.
    pub fn of_text(split: SplitId, provisional: bool, packed: Packed) -> Self {
        Self { split, provisional, encoding: Encoding::Plain, offset: 0, name_bytes: 0, packed }
    }

    pub fn encode(self) -> [u8; SPLIT_HEADER_BYTES] {
        let mut header = [0; SPLIT_HEADER_BYTES];
        header[..8].copy_from_slice(&self.split.0.to_le_bytes());
        header[8] = u8::from(self.provisional);
        header[9] = self.encoding.code();
        header[10..18].copy_from_slice(&self.offset.to_le_bytes());
        header[18..20].copy_from_slice(&self.name_bytes.to_le_bytes());
        header[20..].copy_from_slice(&self.packed.encode());
        header
    }

    /// Reads what comes before a split's name and text, of which `rest_bytes` follow.
    ///
    /// # Errors
    /// As [`Packed::decode`]; `Malformed` for an unknown encoding, or a name that is longer than what follows.
    pub fn decode(header: [u8; SPLIT_HEADER_BYTES], rest_bytes: usize) -> Result<Self, FrameError> {
        let malformed = |what: &str| FrameError::Malformed(format!("a split {what}"));
        let [a, b, c, d, e, f, g, h, provisional, encoding, rest @ ..] = header;
        let [i, j, k, l, m, n, o, p, short, long, packed @ ..] = rest;
        let name_bytes = u16::from_le_bytes([short, long]);
        let packed_bytes = rest_bytes.checked_sub(usize::from(name_bytes));
        let packed_bytes = packed_bytes.ok_or_else(|| malformed("without the name of its file"))?;
        Ok(Self {
            split: SplitId(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            provisional: provisional != 0,
            encoding: Encoding::of_code(encoding).ok_or_else(|| malformed("in an unknown encoding"))?,
            offset: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
            name_bytes,
            packed: Packed::decode(packed, packed_bytes)?,
        })
    }
}

/// Bytes before the entries in a frame of [`Kind::Results`]: the epoch, little-endian, and how they are packed.
pub const RESULTS_HEADER_BYTES: usize = 4 + PACK_HEADER_BYTES;

/// Returns what comes before entries of the result.
pub fn encode_results(epoch: Epoch, packed: Packed) -> [u8; RESULTS_HEADER_BYTES] {
    let mut header = [0; RESULTS_HEADER_BYTES];
    header[..4].copy_from_slice(&epoch.0.to_le_bytes());
    header[4..].copy_from_slice(&packed.encode());
    header
}

/// Reads what comes before entries of the result, of which `packed_bytes` follow.
///
/// # Errors
/// As [`Packed::decode`].
pub fn decode_results(
    header: [u8; RESULTS_HEADER_BYTES],
    packed_bytes: usize,
) -> Result<(Epoch, Packed), FrameError> {
    let [a, b, c, d, packed @ ..] = header;
    Ok((Epoch(u32::from_le_bytes([a, b, c, d])), Packed::decode(packed, packed_bytes)?))
}

/// Bytes before the entries in a frame of [`Kind::Batch`]: the partition, little-endian, and how they are packed.
pub const PACKED_BATCH_HEADER_BYTES: usize = BATCH_HEADER_BYTES + PACK_HEADER_BYTES;

/// Returns what comes before a batch's entries on their way.
pub fn encode_packed_batch(partition: Partition, packed: Packed) -> [u8; PACKED_BATCH_HEADER_BYTES] {
    let mut header = [0; PACKED_BATCH_HEADER_BYTES];
    header[..BATCH_HEADER_BYTES].copy_from_slice(&partition.0.to_le_bytes());
    header[BATCH_HEADER_BYTES..].copy_from_slice(&packed.encode());
    header
}

/// Reads what comes before a batch's entries, of which `packed_bytes` follow.
///
/// # Errors
/// As [`Packed::decode`].
pub fn decode_packed_batch(
    header: [u8; PACKED_BATCH_HEADER_BYTES],
    packed_bytes: usize,
) -> Result<(Partition, Packed), FrameError> {
    let [a, b, c, d, packed @ ..] = header;
    Ok((Partition(u32::from_le_bytes([a, b, c, d])), Packed::decode(packed, packed_bytes)?))
}

/// Bytes before the entries of a batch where it does not travel: the partition, little-endian.
pub const BATCH_HEADER_BYTES: usize = 4;

/// Takes the partition off the front of a batch.
///
/// # Errors
/// `Malformed` if it is too short.
pub fn decode_batch(payload: &[u8]) -> Result<(Partition, &[u8]), FrameError> {
    let (partition, entries) = payload
        .split_first_chunk::<BATCH_HEADER_BYTES>()
        .ok_or_else(|| FrameError::Malformed("a batch without its partition".into()))?;
    Ok((Partition(u32::from_le_bytes(*partition)), entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(workers: &[u32], owners: &[u32]) -> Routes {
        Routes {
            workers: workers.iter().map(|&id| (WorkerId(id), format!("127.0.0.1:{id}"))).collect(),
            owners: owners.iter().copied().map(WorkerId).collect(),
        }
    }

    #[test]
    fn routes_lead_somewhere() {
        assert!(routes(&[0, 3], &[3, 0, 3]).check().is_ok());
        for (wrong, what) in [
            (routes(&[0, 1], &[]), "no partition"),
            (routes(&[], &[]), "no partition"),
            (routes(&[0, 1, 0], &[0]), "twice"),
            (routes(&[0, 1], &[0, 2]), "not there"),
            (routes(&(0..=MAX_WORKERS as u32).collect::<Vec<_>>(), &[0]), "too many"),
        ] {
            let error = wrong.check().expect_err("it is wrong").to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn partitions_belong_to_their_owners() {
        let routes = routes(&[0, 1], &[1, 0, 1]);
        let owned = |id| routes.owned_by(WorkerId(id)).map(|partition| partition.0).collect::<Vec<_>>();
        assert_eq!((owned(0), owned(1), owned(2)), (vec![1], vec![0, 2], vec![]));
    }

    #[test]
    fn a_message_is_read_back_within_its_limit() {
        let mut wire = Vec::new();
        let sent = FromWorker::Failed { cause: "the disk is full".into() };
        write_message(&mut wire, &sent).expect("a vector takes all");
        assert_eq!(read_message::<FromWorker>(&mut wire.as_slice(), 100).expect("whole"), sent);
        let short = read_message::<FromWorker>(&mut wire.as_slice(), 10);
        assert!(matches!(short, Err(FrameError::TooLong { limit: 10, .. })));
        let other = read_message::<Greeting>(&mut wire.as_slice(), 100);
        assert!(matches!(other, Err(FrameError::Malformed(_))));
    }

    #[test]
    fn headers_are_read_back() {
        let packed = Packed { packing: Packing::Zstd, length: 1000 };
        for provisional in [false, true] {
            let header = SplitHeader {
                split: SplitId(1 << 40),
                provisional,
                encoding: Encoding::Zstd,
                offset: 1 << 41,
                name_bytes: 20,
                packed,
            };
            assert_eq!(SplitHeader::decode(header.encode(), 120).expect("it is well"), header);
            assert!(SplitHeader::decode(header.encode(), 19).is_err(), "the name is cut off");
        }
        assert!(SplitHeader::decode([0xff; SPLIT_HEADER_BYTES], 100).is_err());
        let header = encode_results(Epoch(1 << 20), packed);
        assert_eq!(decode_results(header, 100).expect("it is well"), (Epoch(1 << 20), packed));
        let header = encode_packed_batch(Partition(1 << 20), packed);
        assert_eq!(decode_packed_batch(header, 100).expect("it is well"), (Partition(1 << 20), packed));
    }

    #[test]
    fn packings_of_a_later_version_are_passed_over() {
        let json = r#"{"program":"9","jobs":[],"pid":1,"threads":1,"uptime_ms":0,"running_jobs":0,
            "memory_bytes":0,"packings":["brotli","zstd","plain"]}"#;
        let welcome: Welcome = serde_json::from_str(json).expect("it is a greeting");
        assert_eq!(welcome.known_packings(), [Packing::Plain, Packing::Zstd]);
    }

    #[test]
    fn too_much_for_a_message_is_not_sent() {
        let cause = "x".repeat(MAX_CONTROL_BYTES);
        let refused = write_message(&mut Vec::new(), &FromWorker::Failed { cause });
        assert!(matches!(refused, Err(FrameError::TooLong { .. })));
    }

    proptest::proptest! {
        #[test]
        fn eats_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = decode_message::<ToWorker>(&bytes);
            assert_eq!(decode_batch(&bytes).is_ok(), bytes.len() >= BATCH_HEADER_BYTES);
        }
    }
}
