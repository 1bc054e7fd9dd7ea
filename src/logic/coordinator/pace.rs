//! Pace: how fast each worker maps, and what follows from it: sizes of splits, who gets which, shares of partitions.

use std::time::Duration;

use super::{Assignment, Command, Coordinator, Standing, WorkerProgress, window};
use crate::logic::ids::{SplitId, WorkerId};

/// Largest split that is chosen: large enough that a message a split costs nothing, small enough that the last ones
/// end at about the same time.
pub(super) const MAX_SPLIT_BYTES: u64 = 4 << 20;

/// Smallest split that is chosen, below which the work on a split is comparable to the message about it.
const MIN_SPLIT_BYTES: u64 = 64 << 10;

/// Bytes of the first splits of a worker, whose pace is not known yet.
const FIRST_SPLIT_BYTES: u64 = 512 << 10;

/// Seconds that a thread may take for one split: so long does a worker that turns out to be slow hold one up.
const SPLIT_SECONDS: f64 = 0.1;

/// Seconds of work after which what was measured before counts half.
const FORGETTING_SECONDS: f64 = 2.0;

/// What a thread is taken to map in a second, as long as nothing is known of any: it only matters in proportion.
const GUESSED_RATE: f64 = 1e8;

/// By how much the time for what a worker holds is taken to be underestimated, when it is asked whether the map phase
/// might end before.
const CAUTION: f64 = 1.5;

/// Seconds of work after which a worker's pace says something of the worker: less may have been bad luck.
const TELLING_SECONDS: f64 = 0.2;

/// A worker is slow, and gets fewer partitions, if a thread of it maps less than this share of what the median does.
const SLOW_SHARE: f64 = 0.5;

/// What a worker has mapped, and how long it took: with its link, for that is a part of its pace.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    bytes: f64,
    seconds: f64,
    /// Since when it has had something to do without an answer.
    since: Option<Duration>,
}

impl Pace {
    /// Notes that the worker was sent something.
    pub(super) fn sent(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// Notes that the worker answered, having executed so many bytes; whether it still has something to do.
    pub(super) fn answered(&mut self, bytes: u64, is_busy: bool, now: Duration) {
        if bytes > 0 {
            let taken = self.since.map_or(0.0, |since| now.saturating_sub(since).as_secs_f64());
            self.bytes += bytes as f64;
            self.seconds += taken;
            if self.seconds > FORGETTING_SECONDS {
                self.bytes /= 2.0;
                self.seconds /= 2.0;
            }
        }
        self.since = is_busy.then_some(now);
    }

    /// Notes that the worker has nothing to do any more.
    pub(super) fn rest(&mut self) {
        self.since = None;
    }

    /// Returns the bytes that the worker maps in a second, once that is known.
    pub(super) fn rate(&self) -> Option<f64> {
        (self.bytes > 0.0).then(|| self.bytes / self.seconds.max(1e-6))
    }

    fn is_telling(&self) -> bool {
        self.seconds >= TELLING_SECONDS
    }

    /// Returns for how many seconds the worker has had something to do without an answer.
    pub(super) fn waited(&self, now: Duration) -> f64 {
        self.since.map_or(0.0, |since| now.saturating_sub(since).as_secs_f64())
    }
}

impl WorkerProgress {
    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.in_flight.iter().filter(|held| !held.discarded).map(|held| held.split.length).sum()
    }

    /// Tells whether an execution of `split` is in flight there, wanted or not.
    pub(super) fn holds(&self, split: SplitId) -> bool {
        self.in_flight.iter().any(|held| held.split.id == split)
    }

    pub(super) fn has_room(&self) -> bool {
        self.standing == Standing::Live && self.in_flight.len() < window(self.threads)
    }
}

impl Coordinator {
    /// Returns the bytes that the worker maps in a second: as measured, else as its threads would at the median pace.
    pub(super) fn rate(&self, worker: WorkerId) -> f64 {
        let progress = &self.workers[worker.index()];
        let guess = || f64::from(progress.threads.max(1)) * self.median_rate().unwrap_or(GUESSED_RATE);
        progress.pace.rate().unwrap_or_else(guess)
    }

    /// Returns the median of what a thread of each worker maps in a second; `None` if no pace is known.
    fn median_rate(&self) -> Option<f64> {
        let known = self.workers.iter().filter(|progress| progress.standing == Standing::Live);
        let mut known: Vec<f64> = known.filter_map(thread_rate).collect();
        known.sort_by(f64::total_cmp);
        known.get(known.len() / 2).copied()
    }

    fn total_rate(&self) -> f64 {
        self.standing(takes_part).into_iter().map(|worker| self.rate(worker)).sum()
    }

    /// Returns the bytes that nobody has been sent yet, where the size of the input is known.
    fn bytes_left(&self) -> Option<u64> {
        let asked: u64 = self.asked.iter().map(|(bytes, _)| bytes).sum();
        let uncut = match (self.input_ended, self.config.input_bytes) {
            (true, _) => 0,
            (false, Some(bytes)) => bytes.saturating_sub(self.totals.cut_bytes + asked),
            (false, None) => return None,
        };
        Some(uncut + self.ledger.pending_bytes())
    }

    /// Tells whether an execution by `worker` of so many bytes more might still go on when nothing is left to map: then
    /// another worker may be given the same split. What workers measure is not certain, so a worker whose pace is not
    /// known, and an input of unknown size, count as such.
    pub(super) fn may_be_late(&self, worker: WorkerId, bytes: u64) -> bool {
        if !self.config.backups {
            return false;
        }
        let progress = &self.workers[worker.index()];
        let (Some(rate), Some(left)) = (progress.pace.rate(), self.bytes_left()) else { return true };
        let held = progress.bytes_in_flight() + bytes;
        CAUTION * held as f64 / rate >= left as f64 / self.total_rate()
    }

    /// Keeps as many splits cut as the workers' windows have room for.
    pub(super) fn ask_for_splits(&mut self, commands: &mut Vec<Command>) {
        if self.input_ended {
            return;
        }
        let mut room = Vec::new();
        for worker in self.standing(takes_part) {
            let progress = &self.workers[worker.index()];
            let asked = self.asked.iter().filter(|(_, asker)| *asker == worker).count();
            let held = progress.in_flight.len() + asked;
            let threads = progress.threads.max(1) as usize;
            // Every thread has one before the next has two.
            room.extend((held..window(progress.threads)).map(|place| (place / threads, worker)));
        }
        room.sort();
        // What is pending fills the first.
        for (_, worker) in room.into_iter().skip(self.ledger.n_pending()) {
            let target_bytes = self.split_bytes(worker);
            self.asked.push_back((target_bytes, worker));
            commands.push(Command::CutSplit { target_bytes });
        }
    }

    /// Chooses the size of the next split for `worker`: half of what its threads would each get if what is left were
    /// shared by pace, so that sizes shrink toward the end of the input and all end together (guided self-scheduling,
    /// Polychronopoulos & Kuck 1987; weighted, as by Hummel et al. 1996).
    fn split_bytes(&self, worker: WorkerId) -> u64 {
        if let Some(bytes) = self.config.split_bytes {
            return bytes.max(1);
        }
        let threads = f64::from(self.workers[worker.index()].threads.max(1));
        let rate = self.rate(worker) / threads;
        let most = match self.workers[worker.index()].pace.rate() {
            // In-process there is no slow worker, and no link.
            _ if self.config.worker_timeout.is_none() => MAX_SPLIT_BYTES,
            Some(_) => (rate * SPLIT_SECONDS) as u64,
            None => FIRST_SPLIT_BYTES,
        };
        let share = self.bytes_left().map(|left| (left as f64 * rate / self.total_rate() / 2.0) as u64);
        share.unwrap_or(MAX_SPLIT_BYTES).min(most).clamp(MIN_SPLIT_BYTES, MAX_SPLIT_BYTES)
    }

    /// Gives each live worker a partition for each of its threads, for each is reduced by one; a slow worker gets
    /// fewer, or none.
    pub(super) fn assign_partitions(&self) -> Assignment {
        let workers = self.live();
        let median = self.median_rate();
        let share = |worker: &WorkerId| {
            let progress = &self.workers[worker.index()];
            let threads = progress.threads.max(1);
            match (thread_rate(progress), median) {
                (Some(rate), Some(median)) if progress.pace.is_telling() && rate < SLOW_SHARE * median => {
                    (f64::from(threads) * rate / median).round() as u32
                }
                _ => threads,
            }
        };
        let owners = workers.iter().flat_map(|worker| (0..share(worker)).map(move |_| *worker)).collect();
        Assignment { workers, owners }
    }
}

/// Whether a worker of this standing will map.
fn takes_part(standing: Standing) -> bool {
    matches!(standing, Standing::Live | Standing::Starting)
}

/// Returns what a thread of the worker maps in a second.
fn thread_rate(progress: &WorkerProgress) -> Option<f64> {
    progress.pace.rate().map(|rate| rate / f64::from(progress.threads.max(1)))
}
