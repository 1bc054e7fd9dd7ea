//! Words: what the coordinator is told, what it commands, and what it tells of the job.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::logic::ids::{Epoch, SplitId, WorkerId};
use crate::logic::split::Split;

/// What a job is at. No phase begins before every live worker ended the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Workers are greeted and the input is opened, until the first split can be sent.
    Split,
    Map,
    Shuffle,
    Reduce,
    Merge,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 5] = [Phase::Split, Phase::Map, Phase::Shuffle, Phase::Reduce, Phase::Merge];
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Phase::Split => "split",
            Phase::Map => "map",
            Phase::Shuffle => "shuffle",
            Phase::Reduce => "reduce",
            Phase::Merge => "merge",
        })
    }
}

/// What the coordinator is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Map threads of each worker; the last `spares` of them take part only in place of a lost one.
    pub worker_threads: Vec<u32>,
    pub spares: usize,
    /// Bytes of the input where that is known from the start.
    pub input_bytes: Option<u64>,
    /// Bytes of a split; chosen from the size of the input if `None`.
    pub split_bytes: Option<u64>,
    /// How long a worker may be silent before it is lost; `None` if workers cannot be lost (in-process).
    pub worker_timeout: Option<Duration>,
    /// Whether splits that are late may be executed twice.
    pub backups: bool,
    /// Whether splits that cannot be read are left out.
    pub skip_bad_input: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The worker knows the job.
    Begun {
        worker: WorkerId,
    },
    /// The input was cut as commanded.
    SplitCut {
        split: Split,
    },
    /// The input has no more splits.
    InputEnded,
    /// The input cannot be read, or not be read again as it was.
    InputFailed {
        cause: String,
    },
    /// The worker has executed the split. Unless the execution is provisional, it is folded into its map tables.
    Mapped {
        worker: WorkerId,
        split: SplitId,
        pairs: u64,
    },
    /// The execution failed on the worker, and with it was lost what its thread had folded of the splits `dropped`.
    MapFailed {
        worker: WorkerId,
        split: SplitId,
        cause: String,
        dropped: Vec<SplitId>,
        /// Whether it was the text that could not be had there.
        unreadable: bool,
    },
    /// The execution was discarded before it ended; nothing of the split is folded.
    Dropped {
        worker: WorkerId,
        split: SplitId,
    },
    /// The split was discarded before it was sent: that is no word of the worker.
    Unsent {
        worker: WorkerId,
        split: SplitId,
    },
    /// The client could not read the split that it was to send: that is no word of the worker.
    Unread {
        worker: WorkerId,
        split: SplitId,
        cause: String,
    },
    Shuffled {
        worker: WorkerId,
        epoch: Epoch,
        sent_bytes: u64,
    },
    /// A stream between the worker and its peer broke; the worker itself is well.
    PeerFailed {
        worker: WorkerId,
        epoch: Epoch,
        peer: WorkerId,
        cause: String,
    },
    Reduced {
        worker: WorkerId,
        epoch: Epoch,
        distinct: u64,
        entries: u64,
        bytes: u64,
    },
    /// The whole result of the worker has arrived.
    Delivered {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// The whole result is written; once the job has ended well, the client makes it final.
    Merged {
        epoch: Epoch,
    },
    /// The result cannot be written.
    OutputFailed {
        cause: String,
    },
    /// The worker gives up.
    Failed {
        worker: WorkerId,
        cause: String,
    },
    /// The link to the worker is gone.
    LinkClosed {
        worker: WorkerId,
        cause: String,
    },
    /// The worker gave a sign of life.
    Heard {
        worker: WorkerId,
    },
    /// Time has passed.
    Tick,
    /// The user wants to end.
    Interrupted,
}

/// What is to be done. What comes of it arrives as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell the worker of the job.
    Begin {
        worker: WorkerId,
    },
    /// Cut the next split, of about so many bytes.
    CutSplit {
        target_bytes: u64,
    },
    /// Send the split to the worker. A provisional execution counts only once it is committed.
    Map {
        worker: WorkerId,
        split: Split,
        provisional: bool,
    },
    /// The worker's provisional execution is the one that counts.
    Commit {
        worker: WorkerId,
        split: SplitId,
    },
    /// The worker's execution is not wanted any more.
    Discard {
        worker: WorkerId,
        split: SplitId,
    },
    Shuffle {
        worker: WorkerId,
        epoch: Epoch,
        assignment: Arc<Assignment>,
    },
    Reduce {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// Fetch the results of the workers in the epoch and merge them into the output.
    Merge {
        epoch: Epoch,
    },
    /// What is merged so far is void: a merge of a newer epoch will begin anew.
    BreakOffMerge,
    /// The worker is to drop the job: it is over, or the worker is out of it.
    End {
        worker: WorkerId,
    },
    /// Tell the user.
    Notice(Notice),
}

/// Who takes part in an epoch, and who reduces what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub workers: Vec<WorkerId>,
    /// The owner of each partition.
    pub owners: Vec<WorkerId>,
}

/// What the user is told while the job goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Lost(Loss),
    /// A spare takes part from now on, in the place of a lost one; of none where a split has failed on all others.
    Joined {
        worker: WorkerId,
        place: Option<WorkerId>,
    },
    /// A split could not be executed; another worker tries, or has executed it already.
    Retried {
        worker: WorkerId,
        split: Split,
        cause: String,
        is_mapped: bool,
    },
}

/// A worker that is out of the job, whatever it may still say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub worker: WorkerId,
    pub phase: Phase,
    pub cause: String,
    /// Where it was lost for complaints: a peer that it could not reach, or that could not reach it.
    pub accuser: Option<WorkerId>,
    /// Splits that are to be mapped again for it, and by how many workers.
    pub splits: u64,
    pub survivors: usize,
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(Failure),
}

/// Why the job failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// All are lost; this one was the last.
    NoWorkerLeft(Loss),
    /// Several workers gave up for the same reason, so that others would, too; this one was the last.
    GaveUp(Loss),
    /// The job's code, or the workers' resources, failed on this split, on so many workers; or its text could not be
    /// had there.
    ExecutionFailed {
        worker: WorkerId,
        split: Split,
        cause: String,
        workers: usize,
        unreadable: bool,
    },
    Input {
        cause: String,
    },
    Output {
        cause: String,
    },
    Interrupted,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Kept for the place of a lost one.
    Spare,
    /// Was told of the job and has not answered.
    Starting,
    Live,
    /// Out of the job, whatever it says.
    Lost,
}

/// One execution of a split on a worker, until it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Execution {
    pub split: Split,
    /// Whether it counts only once it is committed.
    pub provisional: bool,
    /// Whether it is not wanted any more.
    pub discarded: bool,
    /// Whether another worker executes the same split.
    pub backup: bool,
}

/// Sums over the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub splits: u64,
    pub cut_bytes: u64,
    pub mapped_bytes: u64,
    pub pairs: u64,
    pub shuffled_bytes: u64,
    pub reduced_bytes: u64,
    pub distinct_keys: u64,
    /// Entries that the workers will send for the merge.
    pub entries: u64,
    /// Executions of splits that were sent to workers.
    pub executions: u64,
    /// Executions of splits that had been sent before: what came of that was lost, failed, or was taken back.
    pub reexecutions: u64,
    /// Those of them that were taken back before they began.
    pub taken_back: u64,
    /// Second executions of splits that were late, and how many of them were the first to end.
    pub backups: u64,
    pub backups_won: u64,
    /// Attempts at shuffle and reduce.
    pub epochs: u64,
}
