//! World: virtual time: one queue of what will happen, and who it happens to.
//!
//! Invariant: the same seed gives the same run. There is no clock, no thread, and no map without an order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use mapreduce::jobs::word_count::WordCount;
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};

use super::check::Violation;
use super::client::{Answer, Client, Merge};
use super::faults::Injuries;
use super::mutants::Mutant;
use super::network::{Link, Network, Stream, StreamId, Word};
use super::plan::{MILLISECOND, Plan, SECOND, Time, What};
use super::random::Random;
use super::worker::{Order, Process};

/// How often the client tells the coordinator the time.
const TICK: Time = 100 * MILLISECOND;

/// How often either side of a link says that it lives.
const BEAT: Time = SECOND;

/// Lines of the trace that are kept for a failure.
const TRACE_LINES: usize = 400;

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    Tick,
    /// The input was cut, as the client had asked.
    Cut {
        target_bytes: u64,
    },
    /// The next split of the link's feed is read and can be written.
    Fed(WorkerId),
    AtClient(WorkerId, Answer),
    /// Everything of the merge is written.
    Written(Epoch),
    AtWorker(WorkerId, Order),
    Beat(WorkerId),
    /// A map thread has ended an execution.
    Executed {
        worker: WorkerId,
        thread: usize,
    },
    /// A queued execution was cancelled.
    Cancelled {
        worker: WorkerId,
        split: SplitId,
    },
    /// A worker has dealt its tables to partitions.
    Grouped {
        worker: WorkerId,
        epoch: Epoch,
    },
    Reduced {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// A frame of a peer's stream arrives: at its receiver, or back at its sender.
    Streamed {
        stream: StreamId,
        to: WorkerId,
        word: Word,
    },
    /// It is time to see whether the other end of a stream is silent.
    Watched {
        stream: StreamId,
        by: WorkerId,
    },
    Fault(What),
    Thaw(WorkerId),
    Heal(WorkerId, WorkerId),
    /// The client goes on.
    Resume,
}

/// Whose doing it is: what is frozen does it later, what is dead never.
enum Actor {
    Client,
    Worker(WorkerId),
    Nobody,
}

impl Happening {
    fn actor(&self) -> Actor {
        match self {
            Happening::Tick
            | Happening::Cut { .. }
            | Happening::Fed(_)
            | Happening::AtClient(..)
            | Happening::Written(_) => Actor::Client,
            Happening::AtWorker(worker, _) | Happening::Beat(worker) => Actor::Worker(*worker),
            Happening::Executed { worker, .. }
            | Happening::Cancelled { worker, .. }
            | Happening::Grouped { worker, .. }
            | Happening::Reduced { worker, .. } => Actor::Worker(*worker),
            Happening::Streamed { to, .. } => Actor::Worker(*to),
            Happening::Watched { by, .. } => Actor::Worker(*by),
            Happening::Fault(_) | Happening::Thaw(_) | Happening::Heal(..) | Happening::Resume => {
                Actor::Nobody
            }
        }
    }
}

struct Queued {
    at: Time,
    number: u64,
    what: Happening,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One run.
pub struct World {
    pub plan: Rc<Plan>,
    pub job: Rc<WordCount>,
    pub mutant: Option<Mutant>,
    pub random: Random,
    pub now: Time,
    /// When the job last came nearer to its end.
    pub progressed: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    pub client: Client,
    pub workers: Vec<Process>,
    pub links: Vec<Link>,
    pub network: Network,
    pub streams: BTreeMap<StreamId, Stream>,
    pub injuries: Injuries,
    /// When the job was over for the client, or the client for the job.
    pub ended: Option<Time>,
    pub violation: Option<Violation>,
    pub traced: bool,
    trace: Vec<String>,
}

impl World {
    /// Makes the world of a plan, in which nothing has happened yet.
    pub fn new(plan: Plan, random: Random, job: Rc<WordCount>, mutant: Option<Mutant>, traced: bool) -> Self {
        let n = plan.threads.len();
        let mut world = Self {
            client: Client::new(&plan, mutant),
            workers: plan.slowness.iter().map(|slowness| Process::new(*slowness)).collect(),
            links: (0..n).map(|_| Link::default()).collect(),
            network: Network::new(&plan),
            plan: Rc::new(plan),
            job,
            mutant,
            random,
            now: 0,
            progressed: 0,
            queue: BinaryHeap::new(),
            number: 0,
            streams: BTreeMap::new(),
            injuries: Injuries::default(),
            ended: None,
            violation: None,
            traced,
            trace: Vec::new(),
        };
        let plan = &world.plan;
        // A worker on which several splits fail is out, unless nothing else is to be expected of them.
        world.injuries.poisoned = !plan.poisoned.is_empty() || (!plan.unreadable.is_empty() && !plan.skips);
        world.schedule_faults(None);
        world.after(TICK, Happening::Tick);
        for worker in world.all_workers() {
            let first = world.random.below(BEAT);
            world.after(first, Happening::Beat(worker));
        }
        world
    }

    /// Lets things happen until the job is over and forgotten everywhere, or too much time has passed.
    pub fn run(&mut self) {
        self.start_job();
        let limit = super::check::time_limit(&self.plan);
        while self.violation.is_none() {
            let Some(Reverse(Queued { at, what, .. })) = self.queue.pop() else { break };
            let end = self.ended.map_or(limit, |_| self.release_limit());
            if at > end || self.is_released() {
                break;
            }
            self.now = at;
            self.happen(what);
            if self.ended.is_none() && self.now - self.progressed > self.patience() {
                let phase = self.client.brain.coordinator().phase();
                let what = format!("nothing happens in {phase} since {} s", self.progressed as f64 / 1e6);
                self.violate(Violation::Stalled(what));
            }
        }
    }

    pub fn all_workers(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..self.workers.len() as u32).map(WorkerId)
    }

    /// Has something happen later.
    pub fn after(&mut self, delay: Time, what: Happening) {
        self.at(self.now + delay, what);
    }

    pub fn at(&mut self, at: Time, what: Happening) {
        self.number += 1;
        self.queue.push(Reverse(Queued { at, number: self.number, what }));
    }

    /// Writes a line of the trace, if anyone reads it.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.traced {
            self.trace.push(format!("{:12.6} {}", self.now as f64 / 1e6, line()));
        }
    }

    /// Returns the last lines of the trace.
    pub fn trace(&self, all: bool) -> &[String] {
        let first = if all { 0 } else { self.trace.len().saturating_sub(TRACE_LINES) };
        &self.trace[first..]
    }

    /// Notes what must never happen. The first one counts.
    pub fn violate(&mut self, violation: Violation) {
        self.note(|| format!("VIOLATION: {violation}"));
        self.violation.get_or_insert(violation);
    }

    fn happen(&mut self, what: Happening) {
        match what.actor() {
            Actor::Client if !self.client.alive => return,
            Actor::Client if self.client.stands_still => {
                // Of the ticks that it misses, one waits.
                return self.client.deferred.push(what);
            }
            Actor::Worker(worker) => {
                let process = &mut self.workers[worker.index()];
                if !process.alive {
                    return;
                }
                if process.frozen {
                    return process.deferred.push(what);
                }
            }
            _ => {}
        }
        match what {
            Happening::Tick => {
                self.tick();
                if self.ended.is_none() {
                    self.after(TICK, Happening::Tick);
                }
            }
            Happening::Cut { target_bytes } => self.cut(target_bytes),
            Happening::Fed(worker) => self.write_split(worker),
            Happening::AtClient(worker, answer) => self.answered(worker, answer),
            Happening::Written(epoch) => self.written(epoch),
            Happening::AtWorker(worker, order) => self.take_order(worker, order),
            Happening::Beat(worker) => {
                self.beat(worker);
                self.after(BEAT, Happening::Beat(worker));
            }
            Happening::Executed { worker, thread } => self.executed(worker, thread),
            Happening::Cancelled { worker, split } => self.cancelled(worker, split),
            Happening::Grouped { worker, epoch } => self.open_streams(worker, epoch),
            Happening::Reduced { worker, epoch } => self.reduced(worker, epoch),
            Happening::Streamed { stream, to, word } => self.streamed(stream, to, word),
            Happening::Watched { stream, by } => self.watch_stream(stream, by),
            Happening::Fault(what) => self.inject(what),
            Happening::Thaw(worker) => self.thaw(worker),
            Happening::Heal(one, other) => self.heal(one, other),
            Happening::Resume => self.resume(),
        }
    }

    /// Has what a process did not do while it stood still happen now, in order.
    pub fn catch_up(&mut self, deferred: Vec<Happening>) {
        for what in deferred {
            self.after(0, what);
        }
    }

    fn is_released(&self) -> bool {
        self.ended.is_some()
            && self.workers.iter().all(|process| !process.is_live() || process.job.is_none())
            && self.workers.iter().all(|process| process.thaws.is_none())
    }

    /// Returns until when every worker must have dropped the job.
    fn release_limit(&self) -> Time {
        let from = self.ended.unwrap_or(self.now).max(self.injuries.last_thaw);
        from + self.plan.timeout + 5 * SECOND
    }

    /// Returns the workers that hold memory of the job though they could have dropped it.
    pub fn unreleased(&self) -> BTreeSet<WorkerId> {
        let holds = |worker: &WorkerId| {
            let process = &self.workers[worker.index()];
            process.is_live() && process.job.is_some()
        };
        self.all_workers().filter(holds).collect()
    }

    pub fn merge(&mut self) -> Option<&mut Merge> {
        self.client.merge.as_mut()
    }
}
