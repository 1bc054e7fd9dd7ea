//! Worker: a worker process around the real state machine and the real inbox: map threads, tables, results.
//!
//! It does what `runtime::worker` does, in virtual time. Every table knows which splits are folded into it.

mod attempt;
mod mapping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use mapreduce::logic::coordinator::{Assignment, window};
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};
use mapreduce::logic::inbox::Inbox;
use mapreduce::logic::limits::Limits;
use mapreduce::logic::partition::Partition;
use mapreduce::logic::split::Split;
use mapreduce::logic::worker::{Command, Event, Worker};

use super::check::Violation;
use super::client::Answer;
use super::mutants::{self, Mutant};
use super::network::StreamId;
use super::plan::Time;
use super::text::{Counts, Entry};
use super::world::{Happening, World};

/// What the client asks of a worker.
#[derive(Clone, Debug)]
pub enum Order {
    Begin,
    Split { split: Split, provisional: bool },
    Commit(SplitId),
    Discard(SplitId),
    Shuffle { epoch: Epoch, assignment: std::sync::Arc<Assignment> },
    Reduce(Epoch),
    Fetch { epoch: Epoch, credit: u32 },
    Credit { epoch: Epoch, batches: u32 },
    End,
}

/// A worker process.
#[derive(Default)]
pub struct Process {
    pub alive: bool,
    /// The machine is off: nobody hears that the process is gone.
    pub off: bool,
    pub frozen: bool,
    /// When it goes on, if it is frozen and ever will.
    pub thaws: Option<Time>,
    /// What it has not done since.
    pub deferred: Vec<Happening>,
    /// By how much it computes slower than it should; per cent of executions that fail.
    pub slowness: f64,
    pub failing: u64,
    pub job: Option<Box<WorkerJob>>,
}

/// What is folded of some splits.
#[derive(Clone, Default)]
pub struct Table {
    pub counts: Counts,
    pub splits: Vec<SplitId>,
}

#[derive(Default)]
struct MapThread {
    table: Table,
    executing: Option<(Split, bool)>,
}

/// What a process has of the job.
pub struct WorkerJob {
    pub machine: Worker,
    inbox: Inbox<Counts>,
    queue: VecDeque<(Split, bool)>,
    /// Splits that the machine has not told to execute yet.
    arrived: BTreeMap<SplitId, Split>,
    threads: Vec<MapThread>,
    provisional: BTreeMap<SplitId, Table>,
    committed: Vec<Table>,
    assignment: Rc<Assignment>,
    epoch: Epoch,
    /// Whether its tables are being dealt to partitions.
    grouping: bool,
    own: Option<(Epoch, BTreeMap<Partition, Counts>)>,
    /// Streams to peers that have not ended, and the bytes of all.
    sending: BTreeSet<StreamId>,
    sent_bytes: u64,
    reducing: Option<(Epoch, Counts)>,
    result: Option<(Epoch, Vec<Entry>)>,
    fetched: Option<Fetched>,
    gave_up: bool,
}

/// A result on its way to the client.
struct Fetched {
    epoch: Epoch,
    entries: VecDeque<Entry>,
    credit: u32,
    ended: bool,
}

impl Process {
    pub fn new(slowness: f64) -> Self {
        Self { alive: true, slowness, ..Self::default() }
    }

    /// Tells whether it computes.
    pub fn is_live(&self) -> bool {
        self.alive && !self.frozen
    }
}

impl WorkerJob {
    fn new(me: WorkerId, threads: u32) -> Self {
        Self {
            machine: Worker::new(me, window(threads)),
            inbox: Inbox::new(u64::MAX),
            queue: VecDeque::new(),
            arrived: BTreeMap::new(),
            threads: (0..threads).map(|_| MapThread::default()).collect(),
            provisional: BTreeMap::new(),
            committed: Vec::new(),
            assignment: Rc::default(),
            epoch: Epoch(0),
            grouping: false,
            own: None,
            sending: BTreeSet::new(),
            sent_bytes: 0,
            reducing: None,
            result: None,
            fetched: None,
            gave_up: false,
        }
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.threads.iter().map(|thread| &thread.table).chain(&self.committed)
    }

    /// Returns what the map tables are made of, each split as often as it is folded.
    pub fn folded(&self) -> Vec<SplitId> {
        let mut splits: Vec<_> = self.tables().flat_map(|table| &table.splits).copied().collect();
        splits.sort();
        splits
    }
}

impl World {
    fn job_of(&mut self, worker: WorkerId) -> Option<&mut WorkerJob> {
        self.workers[worker.index()].job.as_deref_mut()
    }

    /// The worker reads what the client has sent.
    pub fn take_order(&mut self, worker: WorkerId, order: Order) {
        self.note(|| format!("{worker:?} reads {}", name(&order)));
        if let Order::Begin = order {
            let threads = self.plan.threads[worker.index()];
            self.workers[worker.index()].job = Some(Box::new(WorkerJob::new(worker, threads)));
            return self.send_answer(worker, Answer::Begun);
        }
        if let Order::End = order {
            self.drop_job(worker);
            return self.send_answer(worker, Answer::Closed);
        }
        let Some(job) = self.job_of(worker) else { return };
        let event = match order {
            Order::Split { split, provisional } => {
                job.arrived.insert(split.id, split);
                Event::Split { split: split.id, provisional }
            }
            Order::Commit(split) => Event::Commit { split },
            Order::Discard(split) => Event::Discard { split },
            Order::Shuffle { epoch, assignment } => {
                let workers = assignment.workers.clone();
                job.assignment = Rc::new((*assignment).clone());
                Event::Shuffle { epoch, workers }
            }
            Order::Reduce(epoch) => Event::Reduce { epoch, limits: Limits::default() },
            Order::Fetch { epoch, credit } => Event::Fetch { epoch, credit },
            Order::Credit { epoch, batches } => Event::Credit { epoch, batches },
            Order::Begin | Order::End => return,
        };
        self.tell_worker(worker, event);
    }

    /// Gives an event to the worker's machine and performs what it commands.
    pub fn tell_worker(&mut self, worker: WorkerId, event: Event) {
        let mutant = self.mutant;
        let Some(job) = self.job_of(worker).filter(|job| !job.gave_up) else { return };
        let commands = mutants::tell(mutant, &mut job.machine, event);
        for command in commands {
            self.obey(worker, command);
        }
    }

    fn obey(&mut self, worker: WorkerId, command: Command) {
        match command {
            Command::Execute { split, provisional } => {
                let Some(job) = self.job_of(worker) else { return };
                if let Some(split) = job.arrived.remove(&split) {
                    job.queue.push_back((split, provisional));
                }
                self.start_executions(worker);
            }
            Command::Cancel { split } => self.cancel(worker, split),
            Command::Commit { split } => self.commit(worker, split),
            Command::Drop { split } => {
                if let Some(job) = self.job_of(worker)
                    && job.provisional.remove(&split).is_none()
                {
                    self.violate(Violation::Protocol(format!(
                        "{worker:?} has no table of {split:?} to drop"
                    )));
                }
            }
            Command::Abandon => self.abandon(worker),
            Command::Send { epoch } => self.group(worker, epoch),
            Command::Reduce { epoch, .. } => self.reduce(worker, epoch),
            Command::Fetch { epoch, credit } => self.fetch(worker, epoch, credit),
            Command::Credit { batches } => {
                if let Some(fetched) = self.job_of(worker).and_then(|job| job.fetched.as_mut()) {
                    fetched.credit += batches;
                }
                self.send_results(worker);
            }
            Command::Reply(reply) => self.send_answer(worker, Answer::Reply(reply)),
            // What was asked of a worker in a run must be right, whatever failed elsewhere.
            Command::Refuse { cause } => self.violate(Violation::Protocol(format!("{worker:?}: {cause}"))),
        }
    }

    /// The worker says that it lives, and sees whether the client does.
    pub fn beat(&mut self, worker: WorkerId) {
        let silent_for = self.links[worker.index()].deaf_since.map_or(0, |since| self.now - since);
        if self.job_of(worker).is_none() {
            return;
        }
        if silent_for > self.plan.timeout && self.mutant != Some(Mutant::KeepsJobs) {
            self.drop_job(worker);
            return self.send_answer(worker, Answer::Closed);
        }
        self.send_answer(worker, Answer::Beat);
    }

    /// Gives up everything of the job.
    pub fn drop_job(&mut self, worker: WorkerId) {
        self.note(|| format!("{worker:?} drops the job"));
        self.workers[worker.index()].job = None;
        self.close_streams(worker, true);
    }

    /// The worker cannot go on. Its streams stay until the client ends the job.
    pub fn give_up(&mut self, worker: WorkerId) {
        if let Some(job) = self.job_of(worker)
            && !std::mem::replace(&mut job.gave_up, true)
        {
            self.send_answer(worker, Answer::Failed("no thread can be started".to_owned()));
        }
    }
}

fn name(order: &Order) -> String {
    match order {
        Order::Shuffle { epoch, assignment } => format!("Shuffle({epoch:?}, {:?})", assignment.workers),
        other => format!("{other:?}"),
    }
}
