//! Worker: a worker process around the real state machine and the real inbox: map threads, tables, results.
//!
//! It does what `runtime::worker` does, in virtual time. Every table knows which splits are folded into it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use mapreduce::logic::coordinator::{Assignment, window};
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};
use mapreduce::logic::inbox::{Inbox, NotWhole};
use mapreduce::logic::partition::Partition;
use mapreduce::logic::split::Split;
use mapreduce::logic::worker::{Command, Event, Execution, Reduced, Worker};

use super::check::Violation;
use super::client::Answer;
use super::mutants::{self, Mutant};
use super::network::StreamId;
use super::plan::{MILLISECOND, Time};
use super::text::{self, Counts};
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
    result: Option<(Epoch, Vec<(Rc<[u8]>, u64)>)>,
    fetched: Option<Fetched>,
    gave_up: bool,
}

/// A result on its way to the client.
struct Fetched {
    epoch: Epoch,
    entries: VecDeque<(Rc<[u8]>, u64)>,
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
            inbox: Inbox::default(),
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
            Order::Reduce(epoch) => Event::Reduce { epoch, top: None },
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

    fn start_executions(&mut self, worker: WorkerId) {
        let byte_micros = self.plan.byte_micros;
        loop {
            let noise = self.random.share();
            let process = &mut self.workers[worker.index()];
            let Some(job) = process.job.as_deref_mut() else { return };
            let Some(thread) = job.threads.iter().position(|thread| thread.executing.is_none()) else {
                return;
            };
            let Some((split, provisional)) = job.queue.pop_front() else { return };
            job.threads[thread].executing = Some((split, provisional));
            let micros = split.length as f64 * byte_micros * process.slowness * (0.8 + 0.4 * noise);
            self.after(micros as Time + 50, Happening::Executed { worker, thread });
        }
    }

    /// A thread has ended: the split is folded, or the execution has failed.
    pub fn executed(&mut self, worker: WorkerId, thread: usize) {
        let (plan, job) = (self.plan.clone(), self.job.clone());
        let fails = self.random.chance(self.workers[worker.index()].failing);
        let mutant = self.mutant;
        let Some(here) = self.job_of(worker) else { return };
        let running = here.threads.get_mut(thread);
        let Some((split, provisional)) = running.and_then(|running| running.executing.take()) else { return };
        let bytes = text::bytes_of(&plan.text, &split, plan.scale);
        let end = if fails || plan.is_poisoned(&split) {
            // A failed execution leaves the table that it was folded into in pieces.
            let lost = match provisional {
                true => Table::default(),
                false => std::mem::take(&mut here.threads[thread].table),
            };
            Execution::Failed { cause: format!("{:?} failed", split.id), dropped: lost.splits }
        } else if provisional && mutant != Some(Mutant::FoldsProvisionalAtOnce) {
            let mut table = Table { splits: vec![split.id], ..Table::default() };
            let pairs = text::fold(&job, bytes, &mut table.counts);
            here.provisional.insert(split.id, table);
            Execution::Folded { pairs }
        } else {
            let table = &mut here.threads[thread].table;
            table.splits.push(split.id);
            let pairs = text::fold(&job, bytes, &mut table.counts);
            if provisional {
                here.provisional.insert(split.id, Table::default());
            }
            Execution::Folded { pairs }
        };
        self.injuries.failed_executions += u64::from(matches!(end, Execution::Failed { .. }));
        self.note(|| format!("{worker:?} executed {:?}: {end:?}", split.id));
        self.tell_worker(worker, Event::Executed { split: split.id, end });
        self.start_executions(worker);
    }

    fn cancel(&mut self, worker: WorkerId, split: SplitId) {
        let Some(job) = self.job_of(worker) else { return };
        let queued = job.queue.len();
        job.queue.retain(|(waiting, _)| waiting.id != split);
        if job.queue.len() < queued {
            let delay = self.random.below(5 * MILLISECOND);
            self.after(delay, Happening::Cancelled { worker, split });
        }
    }

    pub fn cancelled(&mut self, worker: WorkerId, split: SplitId) {
        self.tell_worker(worker, Event::Executed { split, end: Execution::Cancelled });
    }

    fn commit(&mut self, worker: WorkerId, split: SplitId) {
        let joins = self.plan.joins_commits;
        let Some(job) = self.job_of(worker) else { return };
        let Some(table) = job.provisional.remove(&split) else {
            return self.violate(Violation::Protocol(format!("{worker:?} has no table of {split:?}")));
        };
        match job.threads.first_mut() {
            // Not while something else is folded into it, which might fail.
            Some(MapThread { table: first, executing: None }) if joins => {
                first.splits.extend(table.splits);
                text::join(&mut first.counts, &table.counts);
            }
            _ => job.committed.push(table),
        }
    }

    /// What belongs to the epoch that runs is void.
    fn abandon(&mut self, worker: WorkerId) {
        let Some(job) = self.job_of(worker) else { return };
        let epoch = job.epoch;
        job.inbox.forget(epoch);
        (job.own, job.reducing, job.result, job.fetched) = (None, None, None, None);
        job.sending.clear();
        job.grouping = false;
        self.close_streams(worker, epoch);
    }

    /// Begins to deal the tables to partitions.
    fn group(&mut self, worker: WorkerId, epoch: Epoch) {
        let Some(job) = self.job_of(worker) else { return };
        job.epoch = epoch;
        job.grouping = true;
        let entries: usize = job.tables().map(|table| table.counts.len()).sum();
        let (machine, tables) = (job.machine.folded().iter().copied().collect::<Vec<_>>(), job.folded());
        if machine != tables {
            let what = format!("{worker:?} says that it folded {machine:?}, and its tables hold {tables:?}");
            self.violate(Violation::Folded(what));
        }
        self.see_tables(worker, epoch, tables);
        let time = self.compute_time(worker, entries);
        self.after(time, Happening::Grouped { worker, epoch });
    }

    fn compute_time(&mut self, worker: WorkerId, entries: usize) -> Time {
        let slowness = self.workers[worker.index()].slowness;
        (entries as f64 * self.plan.entry_micros * slowness * (0.5 + self.random.share())) as Time + 100
    }

    /// The tables are dealt: each peer gets its part, all at once.
    pub fn open_streams(&mut self, worker: WorkerId, epoch: Epoch) {
        let plan = self.plan.clone();
        let Some(job) = self.job_of(worker) else { return };
        if job.epoch != epoch || !std::mem::take(&mut job.grouping) {
            // It was abandoned, and may still say that it has ended.
            return self.tell_worker(worker, Event::SentAll { epoch, bytes: 0 });
        }
        let mut counts = Counts::new();
        for table in job.threads.iter().map(|thread| &thread.table).chain(&job.committed) {
            text::join(&mut counts, &table.counts);
        }
        let owners = &job.assignment.owners;
        let mut parts = text::by_partition(&counts, plan.seed, owners.len().max(1) as u32);
        let mut streams: BTreeMap<WorkerId, VecDeque<(Partition, Counts)>> =
            job.assignment.workers.iter().map(|peer| (*peer, VecDeque::new())).collect();
        let mut own = BTreeMap::new();
        for (partition, counts) in std::mem::take(&mut parts) {
            let owner = owners[partition.0 as usize];
            if owner == worker {
                own.insert(partition, counts);
            } else if let Some(batches) = streams.get_mut(&owner) {
                batches.extend(in_batches(counts, plan.batch_entries).map(|batch| (partition, batch)));
            }
        }
        streams.remove(&worker);
        job.own = Some((epoch, own));
        job.sent_bytes = streams.values().flatten().map(|(_, batch)| batch.len() as u64).sum();
        let ids: Vec<_> =
            streams.into_iter().map(|(to, batches)| self.open_stream(worker, to, epoch, batches)).collect();
        if let Some(job) = self.job_of(worker) {
            job.sending = ids.into_iter().collect();
        }
        self.sent(worker);
    }

    /// A stream to a peer has ended well.
    pub fn stream_sent(&mut self, worker: WorkerId, stream: StreamId) {
        if let Some(job) = self.job_of(worker)
            && job.sending.remove(&stream)
        {
            self.sent(worker);
        }
    }

    fn sent(&mut self, worker: WorkerId) {
        let Some(job) = self.job_of(worker).filter(|job| job.sending.is_empty()) else { return };
        let (epoch, bytes) = (job.epoch, job.sent_bytes);
        self.tell_worker(worker, Event::SentAll { epoch, bytes });
    }

    /// Tells whether the job takes a stream in.
    pub fn open_inbox(&mut self, worker: WorkerId, epoch: Epoch, source: WorkerId) -> bool {
        self.job_of(worker).is_some_and(|job| job.inbox.open(epoch, source).is_ok())
    }

    pub fn put_into_inbox(
        &mut self,
        worker: WorkerId,
        epoch: Epoch,
        partition: Partition,
        batch: Counts,
    ) -> bool {
        self.job_of(worker).is_some_and(|job| job.inbox.put(epoch, partition, batch).is_ok())
    }

    fn reduce(&mut self, worker: WorkerId, epoch: Epoch) {
        let Some(job) = self.job_of(worker) else { return };
        let sources = job.assignment.workers.iter().copied().filter(|source| *source != worker).collect();
        let arrived = match job.inbox.take(epoch, &sources) {
            Ok(arrived) => arrived,
            // The client's word of the newer epoch is on its way.
            Err(NotWhole::Superseded) => return,
            Err(NotWhole::OtherSources) => {
                let what = format!("{worker:?} is to reduce {epoch:?} without all that belongs to it");
                return self.violate(Violation::Protocol(what));
            }
        };
        let own = job.own.take().filter(|(of, _)| *of == epoch).map(|(_, own)| own).unwrap_or_default();
        let mut counts = Counts::new();
        own.values().chain(arrived.values().flatten()).for_each(|part| text::join(&mut counts, part));
        let entries = counts.len();
        job.reducing = Some((epoch, counts));
        let time = self.compute_time(worker, entries);
        self.after(time, Happening::Reduced { worker, epoch });
    }

    pub fn reduced(&mut self, worker: WorkerId, epoch: Epoch) {
        let Some(job) = self.job_of(worker) else { return };
        let of_epoch = job.reducing.take_if(|(reducing, _)| *reducing == epoch);
        let entries = of_epoch.map(|(_, counts)| text::sorted(counts));
        let n = entries.as_ref().map_or(0, Vec::len) as u64;
        // One that was abandoned may still say that it has ended.
        if let Some(entries) = entries {
            job.result = Some((epoch, entries));
        }
        let reduced = Reduced { distinct: n, entries: n, bytes: 0 };
        self.tell_worker(worker, Event::ReducedAll { epoch, result: Ok(reduced) });
    }

    fn fetch(&mut self, worker: WorkerId, epoch: Epoch, credit: u32) {
        let Some(job) = self.job_of(worker) else { return };
        let Some((of, entries)) = job.result.take() else { return };
        if of != epoch {
            let what = format!("{worker:?} has a result of {of:?} where one of {epoch:?} is wanted");
            return self.violate(Violation::Protocol(what));
        }
        job.fetched = Some(Fetched { epoch, entries: entries.into(), credit, ended: false });
        self.send_results(worker);
    }

    /// Sends as much of the result as there is credit for.
    fn send_results(&mut self, worker: WorkerId) {
        let batch_entries = self.plan.batch_entries;
        loop {
            let Some(fetched) = self.job_of(worker).and_then(|job| job.fetched.as_mut()) else { return };
            let epoch = fetched.epoch;
            if fetched.ended || (fetched.credit == 0 && !fetched.entries.is_empty()) {
                return;
            }
            let n = fetched.entries.len().min(batch_entries);
            let batch: VecDeque<_> = fetched.entries.drain(..n).collect();
            fetched.ended = batch.is_empty();
            fetched.credit -= u32::from(!batch.is_empty());
            let answer = match fetched.ended {
                true => Answer::ResultsEnd(epoch),
                false => Answer::Results { epoch, batch },
            };
            self.send_answer(worker, answer);
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
            let cause = "the client is gone".to_owned();
            self.send_answer(worker, Answer::Failed(cause));
            return self.send_answer(worker, Answer::Closed);
        }
        self.send_answer(worker, Answer::Beat);
    }

    /// Gives up everything of the job.
    pub fn drop_job(&mut self, worker: WorkerId) {
        self.note(|| format!("{worker:?} drops the job"));
        self.workers[worker.index()].job = None;
        self.close_streams(worker, Epoch(u32::MAX));
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

fn in_batches(counts: Counts, entries: usize) -> impl Iterator<Item = Counts> {
    let mut left = counts.into_iter().peekable();
    std::iter::from_fn(move || left.peek().is_some().then(|| left.by_ref().take(entries).collect()))
}

fn name(order: &Order) -> String {
    match order {
        Order::Shuffle { epoch, assignment } => format!("Shuffle({epoch:?}, {:?})", assignment.workers),
        other => format!("{other:?}"),
    }
}
