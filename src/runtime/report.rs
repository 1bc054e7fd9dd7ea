//! Report: what a run tells while it goes on, and what it says at the end. Plain data; `edge` shows it.

use std::time::Duration;

use serde::Serialize;

pub use super::source::BadInput;
pub use crate::logic::coordinator::Phase;

/// The state of a run, as progress displays show it. Taken a few times a second.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub phase: Phase,
    /// Since the run began.
    pub elapsed: Duration,
    /// In `phase`, all stays together: a loss may lead back to an earlier phase.
    pub phase_elapsed: Duration,
    /// Since `phase` was entered.
    pub stay_elapsed: Duration,
    /// Bytes of all input files; `None` while standard input has not ended.
    pub input_bytes: Option<u64>,
    /// Bytes of the splits that are mapped. Fewer after a loss: what the lost worker had mapped counts no more.
    pub mapped_bytes: u64,
    /// Workers that have acknowledged the end of the phase, and of how many that is awaited.
    pub workers_done: usize,
    pub workers_asked: usize,
    /// Entries written by the merge, and how many there will be (0 while that is unknown).
    pub merged_entries: u64,
    pub total_entries: u64,
    pub workers: Vec<WorkerSnapshot>,
}

/// One worker of a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct WorkerSnapshot {
    pub name: String,
    pub state: WorkerState,
    pub splits_mapped: u64,
    pub bytes_mapped: u64,
    pub splits_in_flight: usize,
}

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Being reached and greeted.
    Starting,
    Mapping,
    Shuffling,
    Reducing,
    /// Has sent, or is sending, its partitions.
    Merging,
    /// Waits for the others at a barrier.
    Waiting,
    /// Kept for the place of a lost one.
    Spare,
    /// Out of the job.
    Lost,
}

/// Hears of a run while it goes on. Calls come from the client's main thread, at least four times a second; they
/// must return quickly.
pub trait Progress {
    /// A phase was entered (`snapshot.phase`, an earlier one after a loss), or the figures have changed.
    fn update(&mut self, snapshot: &Snapshot);

    /// Something has happened that the user is to know, in one line.
    fn note(&mut self, line: &str);

    /// The run is over, well or not; anything on the terminal that is not final is cleared.
    fn finish(&mut self);
}

/// What a run that succeeded did. The phases' seconds add up to `total_seconds`; workers are those that took part.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub job: String,
    pub program_version: String,
    pub workers: usize,
    /// Map threads of all workers.
    pub threads: usize,
    /// Whether the run was in-process.
    pub local: bool,
    pub phases: Vec<PhaseReport>,
    pub total_seconds: f64,
    pub input_files: usize,
    pub input_bytes: u64,
    pub splits: u64,
    /// Pairs that the map tasks emitted (of the word count: words).
    pub pairs: u64,
    /// Distinct keys of the result, also where `--top` left some out of the output.
    pub distinct_keys: u64,
    pub output_entries: u64,
    pub output_bytes: u64,
    /// Workers that were lost, in the order in which that was noticed.
    pub losses: Vec<LossReport>,
    /// Executions of splits that were sent to workers.
    pub executions: u64,
    /// Splits that were sent again because what an earlier execution had folded was lost, or because it failed.
    pub reexecuted_splits: u64,
    /// Second executions of splits that were late, and how many of them were the first to end.
    pub backups_started: u64,
    pub backups_won: u64,
    /// Attempts at shuffle and reduce.
    pub epochs: u64,
    /// What was left out because it cannot be read; without --skip-bad-input there is none.
    pub bad_inputs: Vec<BadInput>,
}

/// A worker that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LossReport {
    pub worker: String,
    pub phase: Phase,
    pub cause: String,
    /// Where it was lost for that: a peer that it could not reach, or that could not reach it.
    pub accuser: Option<String>,
    /// Splits that were to be mapped again for it.
    pub splits: u64,
}

/// One line of the phase table.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    pub phase: Phase,
    pub seconds: f64,
    /// Bytes that the phase moved: Map the input, Shuffle what went between workers, Reduce what was folded of it,
    /// Merge what was written. Split moves none: cutting goes on while the first splits are mapped.
    pub bytes: u64,
}
