//! Client: the client process around the real coordinator: its links, the cutting of the input, the merge.
//!
//! It does what `runtime::client` does, in virtual time.

mod merging;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mapreduce::logic::coordinator::{Command, Config, Event, Notice, Outcome, Phase, Standing};
use mapreduce::logic::ids::{Epoch, SplitId, WorkerId};
use mapreduce::logic::split::Split;
use mapreduce::logic::worker::Reply;

use super::check::Violation;
use super::mutants::{Brain, Mutant};
use super::plan::{MILLISECOND, Plan, Time};
use super::text::{Cutter, Entry};
use super::worker::Order;
use super::world::{Happening, World};
pub use merging::Merge;

/// What the client hears from a worker.
#[derive(Clone, Debug)]
pub enum Answer {
    Begun,
    Reply(Reply),
    Results {
        epoch: Epoch,
        batch: VecDeque<Entry>,
    },
    ResultsEnd(Epoch),
    Failed(String),
    Beat,
    Closed,
    /// Of the link, not of the worker: it was discarded before it was written, or could not be read.
    Unsent(SplitId),
    Unread(SplitId),
}

/// The client process.
pub struct Client {
    pub brain: Brain,
    pub alive: bool,
    pub stands_still: bool,
    pub stood_since: Time,
    /// What it has not done since.
    pub deferred: Vec<Happening>,
    cutter: Cutter,
    /// When the last split that was asked for is cut.
    cut_until: Time,
    has_cut_all: bool,
    pub longest_split: u64,
    /// All that were cut.
    pub splits: Vec<Split>,
    pub merge: Option<Merge>,
    /// What is written. A merge that begins anew does not write it again.
    pub output: Vec<u8>,
    /// How often each phase was entered.
    pub entered: [u32; Phase::ALL.len()],
    /// What the coordinator commanded and was told, for the bounds on its work.
    pub counted: Counted,
}

/// Work, as the client saw it.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub executions: u64,
    pub splits: u64,
    /// Executions that came to nothing: lost with a worker before or after they ended, failed, dropped with one that
    /// failed, or taken back.
    pub returned: u64,
    /// Executions that each worker owes an answer.
    owed: BTreeMap<WorkerId, u64>,
    pub joined: u64,
}

impl Client {
    pub fn new(plan: &Plan, mutant: Option<Mutant>) -> Self {
        let bytes = plan.text.len() as u64 * plan.scale;
        let config = Config {
            worker_threads: plan.threads.clone(),
            spares: plan.spares,
            input_bytes: plan.known_size.then_some(bytes),
            split_bytes: plan.split_bytes,
            worker_timeout: Some(Duration::from_micros(plan.timeout)),
            backups: plan.backups,
            skip_bad_input: plan.skips,
        };
        Self {
            brain: Brain::new(config, mutant),
            alive: true,
            stands_still: false,
            stood_since: 0,
            deferred: Vec::new(),
            cutter: Cutter::new(plan.scale),
            cut_until: 0,
            has_cut_all: false,
            longest_split: 0,
            splits: Vec::new(),
            merge: None,
            output: Vec::new(),
            entered: [1, 0, 0, 0, 0],
            counted: Counted::default(),
        }
    }
}

impl World {
    pub fn start_job(&mut self) {
        let commands = self.client.brain.take_first();
        for command in commands {
            self.perform(command);
        }
    }

    /// Gives an event to the coordinator and performs what it commands.
    pub fn tell(&mut self, event: Event) {
        if self.ended.is_some() {
            return;
        }
        if !matches!(event, Event::Tick | Event::Heard { .. }) {
            self.note(|| format!("client: {event:?}"));
            if !matches!(event, Event::PeerFailed { .. }) {
                self.progressed = self.now;
            }
        }
        self.count(&event);
        let before = self.client.brain.coordinator().phase();
        let fenced = self.fenced_state(&event);
        self.injuries.seen.fenced_words += u64::from(fenced.is_some());
        let now = Duration::from_micros(self.now);
        let commands = self.client.brain.handle(event, now);
        if let Some(state) = fenced
            && (!commands.is_empty() || state != self.state())
        {
            let what = format!("a fenced worker was heard: {commands:?}");
            self.violate(Violation::Fence(what));
        }
        for command in commands {
            self.perform(command);
        }
        let phase = self.client.brain.coordinator().phase();
        if phase != before {
            self.note(|| format!("client: {before} -> {phase}"));
            self.client.entered[phase as usize] += 1;
            self.schedule_faults(Some((phase, self.client.entered[phase as usize])));
        }
        if let Some(outcome) = self.client.brain.coordinator().outcome() {
            let outcome = outcome.clone();
            self.note(|| format!("client: {outcome:?}"));
            self.end_job(&outcome);
        }
    }

    /// Returns what must not change if the event is of a worker that is out of the job.
    fn fenced_state(&self, event: &Event) -> Option<String> {
        let worker = match event {
            Event::Begun { worker }
            | Event::Mapped { worker, .. }
            | Event::MapFailed { worker, .. }
            | Event::Dropped { worker, .. }
            | Event::Unsent { worker, .. }
            | Event::Unread { worker, .. }
            | Event::Shuffled { worker, .. }
            | Event::PeerFailed { worker, .. }
            | Event::Reduced { worker, .. }
            | Event::Delivered { worker, .. }
            | Event::Failed { worker, .. }
            | Event::LinkClosed { worker, .. } => worker,
            _ => return None,
        };
        let standing = self.client.brain.coordinator().workers().get(worker.index())?.standing;
        (standing == Standing::Lost).then(|| self.state())
    }

    fn state(&self) -> String {
        let coordinator = self.client.brain.coordinator();
        format!("{:?} {:?} {:?}", coordinator.phase(), coordinator.totals(), coordinator.losses().len())
    }

    /// Counts what entitles the coordinator to more work.
    fn count(&mut self, event: &Event) {
        let epoch = self.client.brain.coordinator().epoch();
        let is_mapping = self.client.brain.coordinator().phase() == Phase::Map;
        let counted = &mut self.client.counted;
        if let Event::Shuffled { epoch: of, .. } | Event::Reduced { epoch: of, .. } = event {
            self.injuries.seen.stale_words += u64::from(*of < epoch || is_mapping);
        }
        if let Event::Mapped { worker, .. }
        | Event::MapFailed { worker, .. }
        | Event::Dropped { worker, .. }
        | Event::Unread { worker, .. }
        | Event::Unsent { worker, .. } = event
            && let Some(owed) = counted.owed.get_mut(worker)
        {
            *owed = owed.saturating_sub(1);
        }
        match event {
            Event::SplitCut { .. } => counted.splits += 1,
            Event::MapFailed { dropped, .. } => counted.returned += 1 + dropped.len() as u64,
            Event::Unread { .. } => counted.returned += 1,
            Event::Dropped { .. } | Event::Unsent { .. } => {
                counted.returned += 1;
                self.injuries.seen.taken_back += 1;
            }
            _ => {}
        }
    }

    pub fn tick(&mut self) {
        self.tell(Event::Tick);
    }

    /// Makes an event of what a worker says.
    pub fn answered(&mut self, worker: WorkerId, answer: Answer) {
        let event = match answer {
            Answer::Unsent(split) => Event::Unsent { worker, split },
            Answer::Unread(split) => {
                self.injuries.seen.unread += 1;
                Event::Unread { worker, split, cause: "it cannot be read".to_owned() }
            }
            Answer::Begun => Event::Begun { worker },
            Answer::Reply(reply) => event_of(worker, reply),
            Answer::Failed(cause) => Event::Failed { worker, cause },
            Answer::Beat => Event::Heard { worker },
            Answer::Closed => Event::LinkClosed { worker, cause: "the link closed".to_owned() },
            Answer::Results { epoch, batch } => {
                self.progressed = self.now;
                if let Some(stream) = self.arriving(worker, epoch) {
                    stream.batches.push_back(batch);
                }
                Event::Heard { worker }
            }
            Answer::ResultsEnd(epoch) => match self.arriving(worker, epoch) {
                Some(stream) => {
                    stream.ended = true;
                    Event::Delivered { worker, epoch }
                }
                None => Event::Heard { worker },
            },
        };
        self.tell(event);
        self.go_on_merging();
    }

    fn perform(&mut self, command: Command) {
        if !matches!(command, Command::CutSplit { .. }) {
            self.note(|| format!("client:   {command:?}"));
        }
        match command {
            Command::Begin { worker } => self.send_order(worker, Order::Begin),
            Command::CutSplit { target_bytes } => {
                // One thread cuts, and waits for the input.
                let delay = self.random.below(self.plan.cut_micros);
                self.client.cut_until = self.client.cut_until.max(self.now) + delay;
                let at = self.client.cut_until;
                self.at(at, Happening::Cut { target_bytes });
            }
            Command::Map { worker, split, provisional } => {
                self.client.counted.executions += 1;
                *self.client.counted.owed.entry(worker).or_default() += 1;
                self.links[worker.index()].feed.push_back((split, provisional));
                let delay = self.random.below(3 * MILLISECOND);
                self.after(delay, Happening::Fed(worker));
            }
            Command::Commit { worker, split } => self.send_order(worker, Order::Commit(split)),
            Command::Discard { worker, split } => self.discard(worker, split),
            Command::Shuffle { worker, epoch, assignment } => {
                self.send_order(worker, Order::Shuffle { epoch, assignment });
            }
            Command::Reduce { worker, epoch } => {
                self.check_shuffled(epoch);
                self.send_order(worker, Order::Reduce(epoch));
            }
            Command::Merge { epoch } => self.start_merge(epoch),
            Command::BreakOffMerge => {
                self.injuries.seen.merges_broken_off += 1;
                self.client.merge = None;
            }
            Command::End { worker } => {
                self.send_order(worker, Order::End);
                self.links[worker.index()].closed = true;
            }
            Command::Notice(Notice::Lost(loss)) => {
                let owed = self.client.counted.owed.remove(&loss.worker).unwrap_or(0);
                self.client.counted.returned += owed + loss.splits;
                self.injuries.note_loss(&loss);
            }
            Command::Notice(Notice::Joined { .. }) => self.client.counted.joined += 1,
            Command::Notice(Notice::Retried { .. }) => {}
        }
    }

    /// The writer of a link gets the next split; it may have been discarded meanwhile.
    pub fn write_split(&mut self, worker: WorkerId) {
        if let Some((split, provisional)) = self.links[worker.index()].feed.pop_front() {
            if self.plan.is_unread(&split) {
                return self.after(0, Happening::AtClient(worker, Answer::Unread(split.id)));
            }
            self.send_order(worker, Order::Split { split, provisional });
        }
    }

    /// A split that is not written yet is answered for by the link's writer.
    fn discard(&mut self, worker: WorkerId, split: SplitId) {
        let feed = &mut self.links[worker.index()].feed;
        let waiting = feed.iter().position(|(waiting, _)| waiting.id == split);
        match waiting.and_then(|at| feed.remove(at)) {
            Some(_) => self.after(0, Happening::AtClient(worker, Answer::Unsent(split))),
            None => self.send_order(worker, Order::Discard(split)),
        }
    }

    pub fn cut(&mut self, target_bytes: u64) {
        if self.client.has_cut_all || self.ended.is_some() {
            return;
        }
        let (job, plan) = (self.job.clone(), self.plan.clone());
        let event = match self.client.cutter.cut(&job, &plan.text, target_bytes) {
            Some(split) => {
                self.client.longest_split = self.client.longest_split.max(split.length);
                self.client.splits.push(split);
                Event::SplitCut { split }
            }
            None => {
                self.client.has_cut_all = true;
                Event::InputEnded
            }
        };
        self.tell(event);
    }

    /// The client's process ends, and its links with it.
    fn end_job(&mut self, outcome: &Outcome) {
        self.ended = Some(self.now);
        if *outcome == Outcome::Done {
            self.check_result();
        }
        for worker in self.all_workers() {
            let since = self.now;
            let link = &mut self.links[worker.index()];
            if link.closed {
                continue;
            }
            link.closed = true;
            // What the coordinator left alone has no job.
            link.deaf_since.get_or_insert(since);
        }
    }
}

fn event_of(worker: WorkerId, reply: Reply) -> Event {
    match reply {
        Reply::Mapped { split, pairs } => Event::Mapped { worker, split, pairs },
        Reply::MapFailed { split, cause, dropped, unreadable } => {
            Event::MapFailed { worker, split, cause, dropped, unreadable }
        }
        Reply::Dropped { split } => Event::Dropped { worker, split },
        Reply::Shuffled { epoch, sent_bytes } => Event::Shuffled { worker, epoch, sent_bytes },
        Reply::PeerFailed { epoch, peer, cause } => Event::PeerFailed { worker, epoch, peer, cause },
        Reply::Reduced { epoch, reduced } => Event::Reduced {
            worker,
            epoch,
            distinct: reduced.distinct,
            entries: reduced.entries,
            bytes: reduced.bytes,
        },
    }
}
