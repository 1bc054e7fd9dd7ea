//! Tell: what the client's progress display and its report are made of.

use std::time::Duration;

use crate::job::Job;
use crate::logic::coordinator::{Coordinator, Phase, WorkerProgress};

use super::RunSpec;
use crate::runtime::greet::PROGRAM;
use crate::runtime::link::Link;
use crate::runtime::report::{PhaseReport, Report, Snapshot, WorkerSnapshot, WorkerState};

/// Takes the state of the run as it is now.
pub(super) fn snapshot<J: Job>(
    spec: &RunSpec<J>,
    coordinator: &Coordinator,
    links: &[Link],
    merged_entries: u64,
) -> Snapshot {
    let now = spec.began.elapsed();
    let (phase, totals) = (coordinator.phase(), coordinator.totals());
    let workers = coordinator.workers().iter().zip(links);
    Snapshot {
        phase,
        elapsed: now,
        phase_elapsed: coordinator.phase_time(phase, now),
        input_bytes: spec.input_bytes,
        mapped_bytes: totals.mapped_bytes,
        workers_done: coordinator.workers().iter().filter(|worker| worker.acknowledged).count(),
        merged_entries,
        total_entries: spec.top.map_or(totals.entries, |top| totals.entries.min(top)),
        workers: workers
            .map(|(worker, link)| WorkerSnapshot {
                name: link.name.clone(),
                state: state(phase, worker),
                splits_mapped: worker.splits_mapped,
                bytes_mapped: worker.bytes_mapped,
                splits_in_flight: worker.in_flight.len(),
            })
            .collect(),
    }
}

fn state(phase: Phase, worker: &WorkerProgress) -> WorkerState {
    match phase {
        Phase::Split if worker.acknowledged => WorkerState::Waiting,
        Phase::Split => WorkerState::Starting,
        Phase::Map if worker.in_flight.is_empty() => WorkerState::Waiting,
        Phase::Map => WorkerState::Mapping,
        Phase::Merge => WorkerState::Merging,
        Phase::Shuffle | Phase::Reduce if worker.acknowledged => WorkerState::Waiting,
        Phase::Shuffle => WorkerState::Shuffling,
        Phase::Reduce => WorkerState::Reducing,
    }
}

/// What became of the result.
pub(super) struct Output {
    pub entries: u64,
    pub bytes: u64,
    /// What making it final took, after the merge.
    pub finishing: Duration,
}

/// Sums up a run that succeeded.
pub(super) fn report<J: Job>(
    spec: &RunSpec<J>,
    coordinator: &Coordinator,
    links: &[Link],
    output: &Output,
) -> Report {
    let now = spec.began.elapsed();
    let totals = coordinator.totals();
    let phases = Phase::ALL.map(|phase| {
        let (extra, bytes) = match phase {
            Phase::Split => (Duration::ZERO, 0),
            Phase::Map => (Duration::ZERO, totals.mapped_bytes),
            Phase::Shuffle => (Duration::ZERO, totals.shuffled_bytes),
            Phase::Reduce => (Duration::ZERO, totals.reduced_bytes),
            Phase::Merge => (output.finishing, output.bytes),
        };
        PhaseReport { phase, seconds: (coordinator.phase_time(phase, now) + extra).as_secs_f64(), bytes }
    });
    Report {
        job: J::NAME.to_owned(),
        program_version: PROGRAM.to_owned(),
        workers: links.len(),
        threads: links.iter().map(|link| link.threads as usize).sum(),
        local: spec.local,
        total_seconds: phases.iter().map(|phase| phase.seconds).sum(),
        phases: phases.to_vec(),
        input_files: spec.input_files,
        input_bytes: totals.mapped_bytes,
        splits: totals.splits,
        pairs: totals.pairs,
        distinct_keys: totals.distinct_keys,
        output_entries: output.entries,
        output_bytes: output.bytes,
    }
}
