//! Faults: what the plan has in store, done to the world; and the memory of it, which says what may come of it.

use std::collections::{BTreeMap, BTreeSet};

use mapreduce::logic::coordinator::{Event, Loss, Phase};
use mapreduce::logic::ids::{Epoch, WorkerId};

use super::client::Answer;
use super::network::pair;
use super::plan::{Kind, MILLISECOND, SECOND, Time, What, When};
use super::worker::Order;
use super::world::{Happening, World};

/// A worker that stood still for so long, all in all, may be taken for lost.
const HARMLESS_PAUSE: Time = 1_500 * MILLISECOND;

/// What was done to the workers and the client.
#[derive(Default)]
pub struct Injuries {
    /// Workers that may rightly be lost.
    pub hurt: BTreeSet<WorkerId>,
    /// Pairs that could not reach each other for a while.
    pub cuts: BTreeSet<(WorkerId, WorkerId)>,
    /// Workers on which executions fail; workers that gave up, or will for want of their client.
    pub failing: BTreeSet<WorkerId>,
    pub giving_up: BTreeSet<WorkerId>,
    paused: BTreeMap<WorkerId, Time>,
    pub last_thaw: Time,
    pub poisoned: bool,
    pub interrupted: bool,
    pub input_failed: bool,
    pub output_failed: bool,
    pub killed: bool,
    /// Time that the client stood still.
    pub stood_still: Time,
    pub slowest: f64,
    /// Faults that really were injected, by kind and by the phase of the job.
    pub injected: BTreeMap<Kind, u64>,
    pub by_phase: BTreeMap<Phase, u64>,
    /// Losses that the coordinator told of, by phase.
    pub losses: BTreeMap<Phase, u64>,
    pub failed_executions: u64,
    pub seen: Seen,
    /// Which splits each worker has sent in an epoch.
    pub sent: BTreeMap<Epoch, BTreeMap<WorkerId, Vec<mapreduce::logic::ids::SplitId>>>,
}

/// What seldom happens, and must be seen to happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Words of workers that were out of the job.
    pub fenced_words: u64,
    /// Acknowledgements of epochs that were over.
    pub stale_words: u64,
    /// Workers that were lost for the complaints of others.
    pub evicted: u64,
    pub merges_broken_off: u64,
    /// Splits that the client could not read, and those that were left out.
    pub unread: u64,
    pub left_out: u64,
    /// Reduces that were asked for when a newer epoch had reached the worker.
    pub superseded: u64,
    pub streams_refused: u64,
    /// Executions that were discarded before they began.
    pub taken_back: u64,
}

impl Seen {
    pub fn join(&mut self, other: &Seen) {
        self.fenced_words += other.fenced_words;
        self.stale_words += other.stale_words;
        self.evicted += other.evicted;
        self.merges_broken_off += other.merges_broken_off;
        self.superseded += other.superseded;
        self.streams_refused += other.streams_refused;
        self.taken_back += other.taken_back;
        self.unread += other.unread;
        self.left_out += other.left_out;
    }

    /// Returns the smallest of the counts.
    pub fn rarest(&self) -> u64 {
        let all =
            [self.fenced_words, self.stale_words, self.evicted, self.merges_broken_off, self.superseded];
        all.into_iter()
            .chain([self.streams_refused, self.taken_back, self.unread, self.left_out])
            .min()
            .unwrap_or(0)
    }
}

impl Injuries {
    pub fn note_loss(&mut self, loss: &Loss) {
        self.seen.evicted += u64::from(loss.accuser.is_some());
        *self.losses.entry(loss.phase).or_default() += 1;
    }
}

impl World {
    /// Schedules the faults that wait for a phase, or those that do not.
    pub fn schedule_faults(&mut self, entered: Option<(Phase, u32)>) {
        for fault in self.plan.clone().faults.iter() {
            match (fault.when, entered) {
                (When::At(time), None) => self.at(time, Happening::Fault(fault.what)),
                (When::In(Phase::Split, 1, after), None) => self.after(after, Happening::Fault(fault.what)),
                (When::In(phase, times, after), Some(entered)) if entered == (phase, times) => {
                    self.after(after, Happening::Fault(fault.what));
                }
                _ => {}
            }
        }
    }

    /// Does what is to go wrong, if there is anyone to whom it could.
    pub fn inject(&mut self, what: What) {
        if self.ended.is_some() {
            return;
        }
        if self.do_harm(what) {
            self.note(|| format!("FAULT {what:?}"));
            *self.injuries.injected.entry(what.kind()).or_default() += 1;
            let phase = self.client.brain.coordinator().phase();
            *self.injuries.by_phase.entry(phase).or_default() += 1;
        }
    }

    /// Returns whether it could be done.
    fn do_harm(&mut self, what: What) -> bool {
        match what {
            What::Crash(worker) => self.end_process(WorkerId(worker), false),
            What::PowerOff(worker) => self.end_process(WorkerId(worker), true),
            What::Freeze(worker, pause) => self.freeze(WorkerId(worker), pause),
            What::Mute(worker) => {
                self.injuries.hurt.insert(WorkerId(worker));
                !std::mem::replace(&mut self.links[worker as usize].mute, true)
            }
            What::Deafen(worker) => {
                let now = self.now;
                self.injuries.hurt.insert(WorkerId(worker));
                self.links[worker as usize].deaf_since.replace(now).is_none()
            }
            What::Cut { one, other, refused, heals } => {
                let (one, other) = pair(WorkerId(one), WorkerId(other));
                let is_new = one != other && self.network.cuts.insert((one, other), refused).is_none();
                if let Some(after) = heals.filter(|_| is_new) {
                    self.after(after, Happening::Heal(one, other));
                }
                is_new && self.injuries.cuts.insert((one, other))
            }
            What::Slow(worker, factor) => {
                self.workers[worker as usize].slowness = factor;
                self.injuries.slowest = self.injuries.slowest.max(factor);
                self.workers[worker as usize].alive
            }
            What::SlowLink(worker, factor) => {
                self.network.slow(WorkerId(worker), factor);
                self.workers[worker as usize].alive
            }
            What::LowMemory(worker, percent) => {
                self.workers[worker as usize].failing = percent;
                self.injuries.failing.insert(WorkerId(worker))
            }
            What::GiveUp(worker) => {
                let worker = WorkerId(worker);
                let process = &self.workers[worker.index()];
                if !process.is_live() || process.job.is_none() {
                    return false;
                }
                self.injuries.hurt.insert(worker);
                self.injuries.giving_up.insert(worker);
                self.give_up(worker);
                true
            }
            What::KillClient { silent } => self.kill_client(silent),
            What::StandStill(pause) => self.stand_still(pause),
            What::Interrupt | What::InputFails | What::OutputFails => self.harm_client(what),
        }
    }

    fn end_process(&mut self, worker: WorkerId, silent: bool) -> bool {
        if !self.workers[worker.index()].alive {
            return false;
        }
        if silent {
            self.workers[worker.index()].off = true;
        } else {
            // What it had sent arrives before the news of its end.
            self.close_streams(worker, true);
            self.send_answer(worker, Answer::Closed);
        }
        let process = &mut self.workers[worker.index()];
        (process.alive, process.thaws, process.job) = (false, None, None);
        process.deferred.clear();
        self.injuries.hurt.insert(worker);
        true
    }

    fn freeze(&mut self, worker: WorkerId, pause: Option<Time>) -> bool {
        let thaws = pause.map(|pause| self.now + pause);
        let process = &mut self.workers[worker.index()];
        if !process.is_live() {
            return false;
        }
        (process.frozen, process.thaws) = (true, thaws);
        if let Some(at) = thaws {
            self.at(at, Happening::Thaw(worker));
            self.injuries.last_thaw = self.injuries.last_thaw.max(at);
        }
        let paused = self.injuries.paused.entry(worker).or_default();
        *paused += pause.unwrap_or(HARMLESS_PAUSE + SECOND);
        if *paused > HARMLESS_PAUSE {
            self.injuries.hurt.insert(worker);
        }
        true
    }

    /// A frozen process goes on where it stood, and reads what has come meanwhile.
    pub fn thaw(&mut self, worker: WorkerId) {
        let now = self.now;
        let process = &mut self.workers[worker.index()];
        if process.frozen && process.thaws == Some(now) {
            (process.frozen, process.thaws) = (false, None);
            let deferred = std::mem::take(&mut process.deferred);
            self.note(|| format!("{worker:?} goes on"));
            self.catch_up(deferred);
        }
    }

    pub fn heal(&mut self, one: WorkerId, other: WorkerId) {
        self.note(|| format!("{one:?} and {other:?} reach each other again"));
        self.network.cuts.remove(&(one, other));
    }

    fn kill_client(&mut self, silent: bool) -> bool {
        let now = self.now;
        if self.client.stands_still {
            self.resume();
        }
        self.client.alive = false;
        self.injuries.killed = true;
        self.ended = Some(now);
        for worker in self.all_workers() {
            if !silent {
                self.send_order(worker, Order::End);
            }
            let link = &mut self.links[worker.index()];
            link.closed = true;
            link.deaf_since.get_or_insert(now);
        }
        true
    }

    fn stand_still(&mut self, pause: Time) -> bool {
        let now = self.now;
        if std::mem::replace(&mut self.client.stands_still, true) {
            return false;
        }
        self.client.stood_since = now;
        self.injuries.stood_still += pause;
        for worker in self.all_workers() {
            self.links[worker.index()].deaf_since.get_or_insert(now);
            // They may drop its job.
            if self.injuries.stood_still + 2 * SECOND > self.plan.timeout {
                self.injuries.hurt.insert(worker);
            }
        }
        self.after(pause, Happening::Resume);
        true
    }

    /// The client goes on where it stood.
    pub fn resume(&mut self) {
        let since = self.client.stood_since;
        if !std::mem::take(&mut self.client.stands_still) {
            // It was killed meanwhile.
            return;
        }
        for link in &mut self.links {
            link.deaf_since.take_if(|deaf_since| *deaf_since == since);
        }
        let deferred = std::mem::take(&mut self.client.deferred);
        self.note(|| "the client goes on".to_owned());
        self.catch_up(deferred);
    }

    fn harm_client(&mut self, what: What) -> bool {
        let phase = self.client.brain.coordinator().phase();
        let cause = "injected".to_owned();
        let (flag, event) = match what {
            _ if self.client.stands_still => return false,
            What::InputFails if phase <= Phase::Map => {
                (&mut self.injuries.input_failed, Event::InputFailed { cause })
            }
            What::OutputFails if phase == Phase::Merge => {
                (&mut self.injuries.output_failed, Event::OutputFailed { cause })
            }
            What::Interrupt => (&mut self.injuries.interrupted, Event::Interrupted),
            _ => return false,
        };
        *flag = true;
        self.tell(event);
        true
    }
}
