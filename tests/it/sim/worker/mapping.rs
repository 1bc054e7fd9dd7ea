//! Mapping: map threads, each with a table; provisional executions, each with one of its own.

use mapreduce::logic::ids::{SplitId, WorkerId};
use mapreduce::logic::worker::{Event, Execution};

use super::{MapThread, Table};
use crate::sim::check::Violation;
use crate::sim::mutants::Mutant;
use crate::sim::plan::{MILLISECOND, Time};
use crate::sim::text;
use crate::sim::world::{Happening, World};

impl World {
    pub(super) fn start_executions(&mut self, worker: WorkerId) {
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
        let unreadable = !fails && plan.is_unreadable(&split);
        let end = if fails || unreadable || plan.is_poisoned(&split) {
            // A failed execution leaves the table that it was folded into in pieces.
            let lost = match provisional {
                true => Table::default(),
                false => std::mem::take(&mut here.threads[thread].table),
            };
            Execution::Failed { cause: format!("{:?} failed", split.id), dropped: lost.splits, unreadable }
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

    pub(super) fn cancel(&mut self, worker: WorkerId, split: SplitId) {
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

    pub(super) fn commit(&mut self, worker: WorkerId, split: SplitId) {
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
}
