//! Tell: what the client's progress display, its notices and its report are made of.

use std::time::Duration;

use crate::job::Job;
use crate::logic::coordinator::{Coordinator, Loss, Notice, Phase, Standing, WorkerProgress};
use crate::logic::ids::WorkerId;

use super::RunSpec;
use crate::runtime::greet::PROGRAM;
use crate::runtime::link::Link;
use crate::runtime::report::{LossReport, PhaseReport, Report, Snapshot, WorkerSnapshot, WorkerState};
use crate::runtime::source::SplitSource;

/// The moment of a snapshot.
pub(super) struct At {
    pub now: Duration,
    /// Since the present phase was entered.
    pub stay: Duration,
    pub merged_entries: u64,
}

/// Takes the state of the run as it is now.
pub(super) fn snapshot<J: Job>(
    spec: &RunSpec<J>,
    coordinator: &Coordinator,
    links: &[Link],
    at: At,
) -> Snapshot {
    let (phase, totals) = (coordinator.phase(), coordinator.totals());
    let workers = coordinator.workers().iter().zip(links);
    Snapshot {
        phase,
        elapsed: at.now,
        phase_elapsed: coordinator.phase_time(phase, at.now),
        stay_elapsed: at.stay,
        input_bytes: spec.input_bytes,
        mapped_bytes: totals.mapped_bytes,
        workers_done: coordinator.workers().iter().filter(|worker| worker.acknowledged).count(),
        workers_asked: coordinator.members().len(),
        merged_entries: at.merged_entries,
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
    match (worker.standing, phase) {
        (Standing::Lost, _) => WorkerState::Lost,
        (Standing::Spare, _) => WorkerState::Spare,
        (Standing::Starting, _) => WorkerState::Starting,
        (Standing::Live, Phase::Split) => WorkerState::Waiting,
        (Standing::Live, Phase::Map) if worker.in_flight.is_empty() => WorkerState::Waiting,
        (Standing::Live, Phase::Map) => WorkerState::Mapping,
        (Standing::Live, Phase::Merge) => WorkerState::Merging,
        (Standing::Live, Phase::Shuffle | Phase::Reduce) if worker.acknowledged => WorkerState::Waiting,
        (Standing::Live, Phase::Shuffle) => WorkerState::Shuffling,
        (Standing::Live, Phase::Reduce) => WorkerState::Reducing,
    }
}

/// Says in one line what the user is to know.
pub(super) fn notice(notice: &Notice, links: &[Link], source: &dyn SplitSource) -> String {
    let name = |worker: &WorkerId| links.get(worker.index()).map_or("?", |link| link.name.as_str());
    match notice {
        Notice::Lost(loss) => lost(loss, name),
        Notice::Joined { worker, place: Some(lost) } => {
            format!("worker {} joins in the place of {}", name(worker), name(lost))
        }
        Notice::Joined { worker, place: None } => {
            format!("worker {} joins: a split has failed on all others", name(worker))
        }
        Notice::Retried { worker, split, cause, is_mapped } => {
            let (worker, place) = (name(worker), source.describe(split));
            let others = if *is_mapped { "another worker has mapped it" } else { "another worker tries" };
            format!("worker {worker} could not map the split of {place}: {cause}; {others}")
        }
    }
}

fn lost<'n>(loss: &Loss, name: impl Fn(&WorkerId) -> &'n str) -> String {
    let Loss { worker, phase, cause, accuser, splits, survivors } = loss;
    let mut line = format!("worker {} lost in {phase}: ", name(worker));
    if let Some(peer) = accuser {
        line += &format!("{} and {} cannot reach each other: ", name(worker), name(peer));
    }
    line += cause;
    if *splits > 0 {
        let (n, are) = (counted(*splits, "split"), if *splits == 1 { "is" } else { "are" });
        line += &match survivors {
            0 => format!("; {n} {are} lost with it"),
            _ => format!("; {n} {are} mapped again by {}", counted(*survivors as u64, "worker")),
        };
    }
    line
}

fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
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
    let workers = coordinator.workers();
    let taking_part = || workers.iter().filter(|worker| worker.standing != Standing::Spare);
    let name =
        |worker: WorkerId| links.get(worker.index()).map_or_else(String::new, |link| link.name.clone());
    let loss = |loss: &Loss| LossReport {
        worker: name(loss.worker),
        phase: loss.phase,
        cause: loss.cause.clone(),
        accuser: loss.accuser.map(name),
        splits: loss.splits,
    };
    Report {
        job: J::NAME.to_owned(),
        program_version: PROGRAM.to_owned(),
        workers: taking_part().count(),
        threads: taking_part().map(|worker| worker.threads as usize).sum(),
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
        losses: coordinator.losses().iter().map(loss).collect(),
        // What was taken back did not take place.
        executions: totals.executions.saturating_sub(totals.taken_back),
        reexecuted_splits: totals.reexecutions.saturating_sub(totals.taken_back),
        backups_started: totals.backups,
        backups_won: totals.backups_won,
        epochs: totals.epochs,
        bad_inputs: coordinator
            .skipped()
            .iter()
            .map(|(split, cause)| spec.source.left_out(split, cause))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::ids::SplitId;
    use crate::logic::split::Split;

    struct Book;

    impl SplitSource for Book {
        fn read(&self, _: &Split, _: &mut Vec<u8>) -> anyhow::Result<()> {
            anyhow::bail!("it is not to be read")
        }

        fn describe(&self, split: &Split) -> String {
            format!("book.txt, bytes {} to {}", split.offset, split.offset + split.length)
        }
    }

    fn links() -> Vec<Link> {
        let link = |name: &str| Link {
            name: name.into(),
            threads: 1,
            address: String::new(),
            proven: String::new(),
            orders: crossbeam_channel::unbounded().0,
            written: crossbeam_channel::never(),
            control: None,
        };
        ["tp-05", "tp-07"].map(link).into()
    }

    #[test]
    fn a_loss_is_told_in_one_line() {
        let loss = |accuser: Option<u32>, splits, survivors| {
            let cause = "nothing heard of it for 10 s".to_owned();
            let (worker, accuser) = (WorkerId(0), accuser.map(WorkerId));
            let loss = Loss { worker, phase: Phase::Shuffle, cause, accuser, splits, survivors };
            notice(&Notice::Lost(loss), &links(), &Book)
        };
        let told = "worker tp-05 lost in shuffle: nothing heard of it for 10 s";
        assert_eq!(loss(None, 14, 7), format!("{told}; 14 splits are mapped again by 7 workers"));
        assert_eq!(loss(None, 1, 1), format!("{told}; 1 split is mapped again by 1 worker"));
        assert_eq!(loss(None, 0, 7), told);
        assert_eq!(loss(None, 3, 0), format!("{told}; 3 splits are lost with it"));
        let told = "worker tp-05 lost in shuffle: tp-05 and tp-07 cannot reach each other: \
                    nothing heard of it for 10 s";
        assert_eq!(loss(Some(1), 0, 7), told);
    }

    #[test]
    fn who_joins_and_what_is_tried_again_is_told_by_name() {
        let joined = |place| notice(&Notice::Joined { worker: WorkerId(1), place }, &links(), &Book);
        assert_eq!(joined(Some(WorkerId(0))), "worker tp-07 joins in the place of tp-05");
        assert_eq!(joined(None), "worker tp-07 joins: a split has failed on all others");
        let split = Split { id: SplitId(3), file: 0, offset: 100, length: 50 };
        let retried = |is_mapped| {
            let cause = "no memory".to_owned();
            notice(&Notice::Retried { worker: WorkerId(0), split, cause, is_mapped }, &links(), &Book)
        };
        let told = "worker tp-05 could not map the split of book.txt, bytes 100 to 150: no memory";
        assert_eq!(retried(false), format!("{told}; another worker tries"));
        assert_eq!(retried(true), format!("{told}; another worker has mapped it"));
    }
}
