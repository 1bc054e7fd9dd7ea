//! Check: what must hold of every run. Safety: nothing wrong ever happens. Liveness: something right happens in time.

use std::collections::BTreeMap;
use std::fmt;

use mapreduce::logic::coordinator::{Failure, Loss, Outcome, Standing};
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};

use super::network::pair;
use super::plan::{Plan, SECOND, Time, What, When};
use super::text::{bytes_of, sequential};
use super::world::World;

/// What a run did that it must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Safety: the result is not that of the sequential fold.
    Result(String),
    /// Safety: a split is folded into no live table, or into two.
    Folded(String),
    /// Safety: a worker that is out of the job was heard.
    Fence(String),
    /// Safety: one was asked for what it could not do.
    Protocol(String),
    /// Safety: the job failed, or a worker was lost, without a reason.
    Outcome(String),
    /// Safety: more was done than there was to do.
    Work(String),
    /// Liveness: nothing goes on.
    Stalled(String),
    /// Liveness: the job did not end in time.
    Late(String),
    /// Liveness: a worker holds on to a job that is over.
    Unreleased(String),
}

impl Violation {
    pub fn is_of_liveness(&self) -> bool {
        matches!(self, Violation::Stalled(_) | Violation::Late(_) | Violation::Unreleased(_))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_of_liveness() { "liveness" } else { "safety" };
        write!(f, "{kind}: {self:?}")
    }
}

/// Checks a run that is over.
pub fn check(world: &World) -> Result<(), Violation> {
    if let Some(violation) = &world.violation {
        return Err(violation.clone());
    }
    check_safety(world)?;
    check_liveness(world)
}

fn check_safety(world: &World) -> Result<(), Violation> {
    check_work(world)?;
    for loss in world.client.brain.coordinator().losses() {
        check_loss(world, loss)?;
    }
    match world.client.brain.coordinator().outcome() {
        Some(Outcome::Failed(failure)) => check_failure(world, failure),
        _ => Ok(()),
    }
}

fn check_liveness(world: &World) -> Result<(), Violation> {
    if world.ended.is_none() {
        let coordinator = world.client.brain.coordinator();
        return Err(Violation::Late(format!(
            "still in {} after {} s",
            coordinator.phase(),
            world.now / SECOND
        )));
    }
    let holders = world.unreleased();
    if !holders.is_empty() {
        return Err(Violation::Unreleased(format!("{holders:?} still have the job")));
    }
    Ok(())
}

/// Bounded work: what was executed is what there was, what was to be done again, and backups; those are few.
fn check_work(world: &World) -> Result<(), Violation> {
    let (counted, totals) = (&world.client.counted, world.client.brain.coordinator().totals());
    let sum = counted.splits + totals.reexecutions + totals.backups;
    if counted.executions > sum {
        return Err(Violation::Work(format!("{} executions: {counted:?}, {totals:?}", counted.executions)));
    }
    if totals.reexecutions > counted.returned {
        return Err(Violation::Work(format!("too many executed again: {counted:?}, {totals:?}")));
    }
    // A split has one backup at a time, and another only when an execution of it came to nothing.
    let most = if world.plan.backups { counted.splits + counted.returned } else { 0 };
    if totals.backups > most || totals.backups_won > totals.backups {
        return Err(Violation::Work(format!("too many backups: {counted:?}, {totals:?}")));
    }
    // Every epoch begins with a loss, but the first.
    let losses = world.client.brain.coordinator().losses().len() as u64;
    if totals.epochs > 1 + losses {
        return Err(Violation::Work(format!("{} epochs for {losses} losses", totals.epochs)));
    }
    Ok(())
}

/// A worker is lost only if something was done to it, or to the one that complains of it.
fn check_loss(world: &World, loss: &Loss) -> Result<(), Violation> {
    let injuries = &world.injuries;
    let is_hurt = injuries.hurt.contains(&loss.worker);
    let fails = injuries.failing.contains(&loss.worker) || injuries.poisoned;
    let is_accused = loss.accuser.is_some_and(|accuser| {
        injuries.hurt.contains(&accuser) || injuries.cuts.contains(&pair(accuser, loss.worker))
    });
    // One that is slowed down so much seems to hang.
    let is_hung = loss.cause == "its split does not end" && injuries.slowest > 40.0;
    match is_hurt || fails || is_accused || is_hung {
        true => Ok(()),
        false => Err(Violation::Outcome(format!("a worker was lost without a reason: {loss:?}"))),
    }
}

fn check_failure(world: &World, failure: &Failure) -> Result<(), Violation> {
    let injuries = &world.injuries;
    let workers = world.client.brain.coordinator().workers();
    let is_allowed = match failure {
        // Two that complain of each other are not both lost for it.
        Failure::NoWorkerLeft(last) => {
            workers.iter().all(|worker| worker.standing == Standing::Lost)
                && (injuries.hurt.contains(&last.worker) || injuries.failing.contains(&last.worker))
        }
        Failure::GaveUp(last) => {
            let equal =
                world.client.brain.coordinator().losses().iter().filter(|loss| loss.cause == last.cause);
            equal.count() >= 3 && injuries.giving_up.contains(&last.worker)
        }
        Failure::ExecutionFailed { worker, split, workers: failed_on, .. } => {
            let left = workers.iter().enumerate().filter(|(_, worker)| worker.standing != Standing::Lost);
            let all_fail = left.clone().all(|(index, _)| injuries.failing.contains(&WorkerId(index as u32)));
            let is_poisoned = world.plan.is_poisoned(split);
            let enough = *failed_on >= 3 || left.count() <= *failed_on;
            // What fails for another reason somewhere is not left out.
            let is_left_out = world.plan.skips && injuries.failing.is_empty();
            let is_unreadable = world.plan.is_unreadable(split) && !is_left_out;
            let is_poisoned = is_poisoned || is_unreadable;
            (is_poisoned || (injuries.failing.contains(worker) && (*failed_on >= 3 || all_fail))) && enough
        }
        Failure::Input { .. } => injuries.input_failed || (injuries.seen.unread > 0 && !world.plan.skips),
        Failure::Output { .. } => injuries.output_failed,
        Failure::Interrupted => injuries.interrupted,
    };
    match is_allowed {
        true => Ok(()),
        false => Err(Violation::Outcome(format!("the job failed without a reason: {failure:?}"))),
    }
}

impl World {
    /// A worker's tables go out in an epoch: nobody else's may hold any of their splits.
    pub fn see_tables(&mut self, worker: WorkerId, epoch: Epoch, splits: Vec<SplitId>) {
        let sent = self.injuries.sent.entry(epoch).or_default();
        sent.insert(worker, splits);
        let mut holders: BTreeMap<SplitId, Vec<WorkerId>> = BTreeMap::new();
        for (holder, splits) in sent.iter() {
            splits.iter().for_each(|split| holders.entry(*split).or_default().push(*holder));
        }
        if let Some((split, holders)) = holders.into_iter().find(|(_, holders)| holders.len() > 1) {
            let what = format!("{split:?} is folded more than once in {epoch:?}: by {holders:?}");
            self.violate(Violation::Folded(what));
        }
    }

    /// All have sent their tables, it is said: together they must hold every split once.
    pub fn check_shuffled(&mut self, epoch: Epoch) {
        let sent = self.injuries.sent.get(&epoch);
        let members = self.client.brain.coordinator().members();
        let of_members = members.iter().filter_map(|worker| sent.and_then(|sent| sent.get(worker)));
        let mut splits: Vec<u64> = of_members.flatten().map(|split| split.0).collect();
        // What is left out is in nobody's tables.
        splits.extend(self.client.brain.coordinator().skipped().iter().map(|(split, _)| split.id.0));
        splits.sort_unstable();
        if !splits.iter().copied().eq(0..self.client.counted.splits) {
            let what = format!(
                "of {} splits, {members:?} have folded {splits:?} in {epoch:?}",
                self.client.counted.splits
            );
            self.violate(Violation::Folded(what));
        }
    }

    /// No more is read at a time than may be.
    pub fn check_readers(&mut self) {
        let in_flight = self.client.brain.coordinator().workers().iter().map(|worker| worker.in_flight.len());
        let reads = in_flight.sum::<usize>();
        if self.plan.readers.is_some_and(|most| reads > most) {
            self.violate(Violation::Work(format!(
                "{reads} splits in flight, of {:?} at most",
                self.plan.readers
            )));
        }
    }

    /// The job ended well, it is said.
    pub fn check_result(&mut self) {
        let skipped = self.client.brain.coordinator().skipped();
        self.injuries.seen.left_out += skipped.len() as u64;
        let wrong = skipped.iter().find(|(split, _)| !(self.plan.skips && self.plan.is_bad(split)));
        if let Some((split, cause)) = wrong {
            let what = format!("{split:?} was left out without a reason: {cause}");
            return self.violate(Violation::Result(what));
        }
        let good = self.client.splits.iter().filter(|split| !self.plan.is_bad(split));
        let text: Vec<&[u8]> = good.map(|split| bytes_of(&self.plan.text, split, self.plan.scale)).collect();
        let expected = sequential(&self.job, &text);
        if self.client.output != expected {
            let (got, wanted) = (self.client.output.len(), expected.len());
            let what = format!("{got} bytes that differ from the {wanted} of the sequential fold");
            self.violate(Violation::Result(what));
        }
    }

    /// Returns how long nothing may happen: the longest step of all, silence until it is noticed, and the rest.
    pub fn patience(&self) -> Time {
        let slowest = self.injuries.slowest.max(1.0);
        let ahead = 1.0 + 2.0;
        let execution = self.client.longest_split as f64 * self.plan.byte_micros * slowest * 1.2 * ahead;
        let words = self.plan.text.len() as f64 / 2.0;
        let step = words * self.plan.entry_micros * slowest * 1.5;
        execution as Time + step as Time + 3 * self.plan.timeout + self.injuries.stood_still + 10 * SECOND
    }
}

/// Returns when a run must have ended: every worker may fail, one after the other, and each time all is done again
/// by the slowest thread.
pub fn time_limit(plan: &Plan) -> Time {
    let mut slowest: f64 = 1.0;
    let mut pauses = 0;
    for fault in &plan.faults {
        match fault.what {
            What::Slow(_, factor) => slowest = slowest.max(factor),
            What::Freeze(_, Some(pause)) | What::StandStill(pause) => pauses += pause,
            _ => {}
        }
        let (When::At(time) | When::In(_, _, time)) = fault.when;
        pauses += time;
    }
    let bytes = plan.text.len() as f64;
    let map = bytes * plan.scale as f64 * plan.byte_micros * 1.2;
    let entries = bytes / 2.0 * plan.entry_micros * 1.5 * 2.0;
    let batches = bytes / 2.0 / plan.batch_entries as f64 + plan.threads.len() as f64 * 8.0;
    let attempt = (map + entries) * slowest + batches * 4.0 * SECOND as f64 + (3 * plan.timeout) as f64;
    let attempts = plan.threads.len() as f64 * 2.0 + 2.0;
    pauses + (attempt * attempts) as Time + 60 * SECOND
}
