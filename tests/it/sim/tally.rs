//! Tally: what came of many runs, summed up: so that nobody takes a simulator that does no harm for a proof.

use std::collections::BTreeMap;
use std::fmt;

use mapreduce::logic::coordinator::{Failure, Outcome, Phase, Totals};

use super::faults::Seen;
use super::plan::Kind;
use super::world::World;

/// Sums over runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    pub injected: BTreeMap<Kind, u64>,
    /// Faults by the phase that the job was in.
    pub faults_in: BTreeMap<Phase, u64>,
    pub losses_in: BTreeMap<Phase, u64>,
    pub totals: Totals,
    pub failed_executions: u64,
    pub seen: Seen,
    pub joined: u64,
    /// Runs that ended well though workers were lost.
    pub survived: u64,
    pub virtual_seconds: f64,
}

impl Tally {
    /// Adds a run.
    pub fn note(&mut self, world: &World) {
        self.seeds += 1;
        let coordinator = world.client.brain.coordinator();
        *self.outcomes.entry(name(coordinator.outcome())).or_default() += 1;
        let totals = coordinator.totals();
        let sums = &mut self.totals;
        for (sum, more) in [
            (&mut sums.splits, totals.splits),
            (&mut sums.executions, totals.executions),
            (&mut sums.reexecutions, totals.reexecutions),
            (&mut sums.backups, totals.backups),
            (&mut sums.backups_won, totals.backups_won),
            (&mut sums.epochs, totals.epochs),
        ] {
            *sum += more;
        }
        let injuries = &world.injuries;
        add_all(&mut self.injected, &injuries.injected);
        add_all(&mut self.faults_in, &injuries.by_phase);
        add_all(&mut self.losses_in, &injuries.losses);
        self.failed_executions += injuries.failed_executions;
        self.seen.join(&injuries.seen);
        self.joined += world.client.counted.joined;
        let was_done = coordinator.outcome() == Some(&Outcome::Done);
        self.survived += u64::from(was_done && !coordinator.losses().is_empty());
        self.virtual_seconds += world.now as f64 / 1e6;
    }

    /// Adds the runs of another thread.
    pub fn join(&mut self, other: &Tally) {
        self.seeds += other.seeds;
        add_all(&mut self.outcomes, &other.outcomes);
        add_all(&mut self.injected, &other.injected);
        add_all(&mut self.faults_in, &other.faults_in);
        add_all(&mut self.losses_in, &other.losses_in);
        let (sums, more) = (&mut self.totals, other.totals);
        sums.splits += more.splits;
        sums.executions += more.executions;
        sums.reexecutions += more.reexecutions;
        sums.backups += more.backups;
        sums.backups_won += more.backups_won;
        sums.epochs += more.epochs;
        self.failed_executions += other.failed_executions;
        self.seen.join(&other.seen);
        self.joined += other.joined;
        self.survived += other.survived;
        self.virtual_seconds += other.virtual_seconds;
    }
}

fn add_all<K: Ord + Copy>(sums: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, n) in more {
        *sums.entry(*key).or_default() += n;
    }
}

fn name(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Done) => "done",
        Some(Outcome::Failed(Failure::NoWorkerLeft(_))) => "no worker left",
        Some(Outcome::Failed(Failure::GaveUp(_))) => "several gave up",
        Some(Outcome::Failed(Failure::ExecutionFailed { .. })) => "execution failed",
        Some(Outcome::Failed(Failure::Input { .. })) => "input failed",
        Some(Outcome::Failed(Failure::Output { .. })) => "output failed",
        Some(Outcome::Failed(Failure::Interrupted)) => "interrupted",
        None => "client killed",
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: Vec<(String, u64)>| {
            names.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        let phases = |of: &BTreeMap<Phase, u64>| list(of.iter().map(|(k, n)| (k.to_string(), *n)).collect());
        let totals = &self.totals;
        writeln!(f, "outcomes: {}", list(self.outcomes.iter().map(|(k, n)| (k.to_string(), *n)).collect()))?;
        writeln!(f, "faults: {}", list(self.injected.iter().map(|(k, n)| (format!("{k:?}"), *n)).collect()))?;
        writeln!(f, "faults by phase: {}", phases(&self.faults_in))?;
        writeln!(f, "losses by phase: {}", phases(&self.losses_in))?;
        writeln!(
            f,
            "{} splits, {} executions, {} of them again, {} failed; {} backups, {} of them won; {} epochs; \
             {} spares joined; {} runs done in spite of losses; {:.0} h of virtual time",
            totals.splits,
            totals.executions,
            totals.reexecutions,
            self.failed_executions,
            totals.backups,
            totals.backups_won,
            totals.epochs,
            self.joined,
            self.survived,
            self.virtual_seconds / 3600.0
        )?;
        write!(f, "{:?}", self.seen)
    }
}
