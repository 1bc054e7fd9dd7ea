//! Attempt: one epoch on a worker: tables dealt to peers, what arrived reduced, the result sent as credit allows.

use std::collections::{BTreeMap, VecDeque};

use mapreduce::logic::ids::{Epoch, WorkerId};
use mapreduce::logic::inbox::NotWhole;
use mapreduce::logic::partition::Partition;
use mapreduce::logic::worker::{Event, Reduced};

use super::Fetched;
use crate::sim::check::Violation;
use crate::sim::client::Answer;
use crate::sim::mutants::Mutant;
use crate::sim::network::StreamId;
use crate::sim::plan::Time;
use crate::sim::text::{self, Counts};
use crate::sim::world::{Happening, World};

impl World {
    /// What belongs to the epoch that runs is void.
    pub(super) fn abandon(&mut self, worker: WorkerId) {
        let Some(job) = self.job_of(worker) else { return };
        let epoch = job.epoch;
        job.inbox.forget(epoch);
        (job.own, job.reducing, job.result, job.fetched) = (None, None, None, None);
        job.sending.clear();
        job.grouping = false;
        // Those of peers end when they do, or when a newer epoch reaches the inbox.
        self.close_streams(worker, false);
    }

    /// Begins to deal the tables to partitions.
    pub(super) fn group(&mut self, worker: WorkerId, epoch: Epoch) {
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
        let takes_old = self.mutant == Some(Mutant::TakesOldBatches);
        let Some(job) = self.job_of(worker) else { return false };
        if takes_old && epoch < job.epoch {
            let newest = job.epoch;
            return job.inbox.put(newest, partition, batch).is_ok();
        }
        job.inbox.put(epoch, partition, batch).is_ok()
    }

    pub(super) fn reduce(&mut self, worker: WorkerId, epoch: Epoch) {
        let Some(job) = self.job_of(worker) else { return };
        let sources = job.assignment.workers.iter().copied().filter(|source| *source != worker).collect();
        let arrived = match job.inbox.take(epoch, &sources) {
            Ok(arrived) => arrived,
            // The client's word of the newer epoch is on its way.
            Err(NotWhole::Superseded) => {
                self.injuries.seen.superseded += 1;
                return;
            }
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

    pub(super) fn fetch(&mut self, worker: WorkerId, epoch: Epoch, credit: u32) {
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
    pub(super) fn send_results(&mut self, worker: WorkerId) {
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
}

fn in_batches(counts: Counts, entries: usize) -> impl Iterator<Item = Counts> {
    let mut left = counts.into_iter().peekable();
    std::iter::from_fn(move || left.peek().is_some().then(|| left.by_ref().take(entries).collect()))
}
