//! Client: one loop: take an event, ask the coordinator, perform its commands.

mod merging;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, select, tick, unbounded};

use crate::job::{Job, Value};
use crate::logic::coordinator::{
    Assignment, Command, Config, Coordinator, Event, Failure, Outcome, Readers, Standing,
};
use crate::logic::ids::{JobId, WorkerId};
use crate::logic::limits::Limits;
use crate::logic::packing::Compress;
use crate::logic::partition::Seed;
use crate::wire::message::{Begin, FromWorker, Routes};

use super::arrival::Piece;
use super::link::{Answer, Link, Listener, Order};
use super::report::{Progress, Report};
use super::source::{Cutter, Output, SplitSource};
use super::{guarded, spawn};
use merging::{Ended, Merging};

/// What a run is to do.
pub struct RunSpec<J: Job> {
    pub job: Arc<J>,
    pub id: JobId,
    /// The job's parameters, in JSON.
    pub params: String,
    pub seed: Seed,
    pub limits: Limits,
    pub split_bytes: Option<u64>,
    /// Bytes of the input, where they are known.
    pub input_bytes: Option<u64>,
    pub input_files: usize,
    /// Bounds how much is read at a time of what workers read themselves.
    pub readers: Option<Readers>,
    /// Names splits for people.
    pub source: Arc<dyn SplitSource>,
    /// Of the links, so many last ones are kept for the place of lost workers.
    pub spares: usize,
    /// Whether splits that are late may be executed twice.
    pub backups: bool,
    /// Whether splits that cannot be read are left out.
    pub skip_bad_input: bool,
    pub worker_timeout: Duration,
    /// How batches travel between workers.
    pub compress: Compress,
    pub local: bool,
    /// When the user's command began.
    pub began: Instant,
}

/// How often the coordinator is told the time, and the display is drawn.
const TICK: Duration = Duration::from_millis(100);

/// Events that may wait for the loop. Who puts them in waits when it is full; the loop itself never waits for them.
const INBOX_EVENTS: usize = 1024;

/// How long to wait until a worker is told of the end. One that is gone, or takes nothing, is told nothing.
const END_GRACE: Duration = Duration::from_millis(500);

/// How long to wait for the merge to notice that the job is over. It notices at once, unless it is writing to a pipe
/// that nobody reads.
const MERGE_GRACE: Duration = Duration::from_secs(2);

/// What reaches the loop.
enum Incoming<V> {
    Answer(WorkerId, Answer<V>),
    Event(Event),
    MergeEnded(Ended<V>),
}

/// Why there is no result.
#[derive(Debug)]
pub struct RunError {
    pub failure: Failure,
    /// What the output said, where it failed: callers tell a closed pipe from a full disk by it.
    pub output: Option<std::io::Error>,
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        Self { failure, output: None }
    }
}

impl RunError {
    fn output(error: std::io::Error) -> Self {
        Self { failure: Failure::Output { cause: error.to_string() }, output: Some(error) }
    }
}

/// Where everybody reports to.
pub struct Mailbox<V> {
    sender: Sender<Incoming<V>>,
    inbox: Receiver<Incoming<V>>,
}

impl<V: Value> Default for Mailbox<V> {
    fn default() -> Self {
        let (sender, inbox) = bounded(INBOX_EVENTS);
        Self { sender, inbox }
    }
}

impl<V: Value> Mailbox<V> {
    /// Returns what a link reports to.
    pub fn listener(&self) -> Listener<V> {
        let sender = self.sender.clone();
        Box::new(move |worker, answer| sender.send(Incoming::Answer(worker, answer)).is_ok())
    }
}

struct Client<'c, J: Job> {
    spec: RunSpec<J>,
    links: Vec<Link>,
    coordinator: Coordinator,
    mailbox: Mailbox<J::Value>,
    /// Events that the loop itself has noticed.
    noticed: VecDeque<Event>,
    cuts: Sender<u64>,
    merging: Merging<J::Value>,
    /// Workers that are out of the job, and until when they may take their time to be told.
    ending: Vec<(WorkerId, Instant)>,
    /// When the stay in the present phase began.
    stay_began: Duration,
    output_error: Option<std::io::Error>,
    progress: &'c mut dyn Progress,
}

/// Runs the job over `links`, which report to `mailbox`, and makes the output final.
///
/// # Errors
/// Why there is no result; there is then no output either.
pub fn run<J: Job>(
    spec: RunSpec<J>,
    links: Vec<Link>,
    mailbox: Mailbox<J::Value>,
    cutter: Box<dyn Cutter>,
    output: Output<J::Value>,
    stop: &Receiver<()>,
    progress: &mut dyn Progress,
) -> Result<Report, RunError> {
    let config = Config {
        worker_threads: links.iter().map(|link| link.threads).collect(),
        spares: spec.spares,
        input_bytes: spec.input_bytes,
        split_bytes: spec.split_bytes,
        backups: spec.backups && !spec.local,
        readers: spec.readers,
        skip_bad_input: spec.skip_bad_input,
        worker_timeout: (!spec.local).then_some(spec.worker_timeout),
    };
    let cuts = start_cutter(&spec, cutter, mailbox.sender.clone())
        .map_err(|error| Failure::Input { cause: format!("cannot start a thread: {error}") })?;
    let now = spec.began.elapsed();
    let (coordinator, commands) = Coordinator::start(config, now);
    let mut client = Client {
        merging: Merging::new(output, links.len()),
        spec,
        links,
        coordinator,
        mailbox,
        noticed: VecDeque::new(),
        cuts,
        ending: Vec::new(),
        stay_began: now,
        output_error: None,
        progress,
    };
    let outcome = client.run(commands, stop);
    client.progress.finish();
    client.end_links();
    outcome.and_then(|()| client.finish())
}

/// Starts the thread that cuts the input, as it is asked to.
fn start_cutter<J: Job>(
    spec: &RunSpec<J>,
    mut cutter: Box<dyn Cutter>,
    events: Sender<Incoming<J::Value>>,
) -> std::io::Result<Sender<u64>> {
    // As many cuts are asked for as the workers' windows hold.
    let (cuts, asked) = unbounded();
    let job = spec.job.clone();
    spawn("mr:input".into(), move || {
        for target_bytes in asked {
            // Guarded: `cut` is the job's code, and a thread that ended without a word would be waited for.
            let event = match guarded(|| cutter.cut(target_bytes, job.cut())) {
                Ok(Ok(Some(split))) => Event::SplitCut { split },
                Ok(Ok(None)) => Event::InputEnded,
                Ok(Err(error)) => Event::InputFailed { cause: format!("{error:#}") },
                Err(cause) => Event::InputFailed { cause },
            };
            let last = !matches!(event, Event::SplitCut { .. });
            if events.send(Incoming::Event(event)).is_err() || last {
                return;
            }
        }
    })?;
    Ok(cuts)
}

impl<J: Job> Client<'_, J> {
    /// The loop, until everything is written.
    fn run(&mut self, mut commands: Vec<Command>, stop: &Receiver<()>) -> Result<(), RunError> {
        let ticks = tick(TICK);
        let inbox = self.mailbox.inbox.clone();
        let mut now = self.spec.began.elapsed();
        let mut shown = None;
        loop {
            for command in commands {
                self.perform(command);
            }
            self.miss_merge();
            let stay = Some((self.coordinator.phase(), self.coordinator.epoch()));
            if shown != stay {
                shown = stay;
                self.stay_began = now;
                self.show();
            }
            match self.coordinator.outcome() {
                Some(Outcome::Done) => return Ok(()),
                Some(Outcome::Failed(failure)) => {
                    let failure = failure.clone();
                    self.abandon_merge();
                    return Err(RunError { failure, output: self.output_error.take() });
                }
                None => {}
            }
            let event = match self.noticed.pop_front() {
                Some(event) => Some(event),
                None => select! {
                    recv(inbox) -> incoming => match incoming {
                        Ok(Incoming::Answer(worker, answer)) => self.answer(worker, answer),
                        Ok(Incoming::Event(event)) => Some(event),
                        Ok(Incoming::MergeEnded(ended)) => self.merge_ended(ended),
                        // The client itself holds a sender.
                        Err(_) => Some(Event::Interrupted),
                    },
                    recv(ticks) -> _ => {
                        self.show();
                        self.cut_links();
                        Some(Event::Tick)
                    }
                    recv(stop) -> _ => Some(Event::Interrupted),
                },
            };
            now = self.spec.began.elapsed();
            commands = event.map(|event| self.coordinator.handle(event, now)).unwrap_or_default();
        }
    }

    /// Makes an event of what a worker says; pieces of the result go straight to the merge.
    fn answer(&mut self, worker: WorkerId, answer: Answer<J::Value>) -> Option<Event> {
        let progress = self.coordinator.workers().get(worker.index())?;
        if progress.standing == Standing::Lost {
            // Whatever it says changes nothing.
            return None;
        }
        let message = match answer {
            Answer::Message(message) => message,
            Answer::Results { epoch, batch } => {
                return Some(self.merging.hand_on(worker, epoch, Piece::Batch(batch)));
            }
            Answer::Sorted(sorted) => {
                self.merging.hand_on_sorted(sorted);
                return None;
            }
            Answer::Unread { split, cause } => return Some(Event::Unread { worker, split, cause }),
            Answer::InputFailed { cause } => return Some(Event::InputFailed { cause }),
            Answer::Closed { cause } => return Some(Event::LinkClosed { worker, cause }),
            Answer::Unsent { split } => return Some(Event::Unsent { worker, split }),
        };
        Some(match message {
            FromWorker::Begun => Event::Begun { worker },
            FromWorker::Mapped { split, pairs } => Event::Mapped { worker, split, pairs },
            FromWorker::MapFailed { split, cause, dropped, unreadable } => {
                Event::MapFailed { worker, split, cause, dropped, unreadable }
            }
            FromWorker::Dropped { split } => Event::Dropped { worker, split },
            FromWorker::Shuffled { epoch, sent_bytes } => Event::Shuffled { worker, epoch, sent_bytes },
            FromWorker::PeerFailed { epoch, peer, cause } => Event::PeerFailed { worker, epoch, peer, cause },
            FromWorker::Reduced { epoch, distinct, entries, bytes } => {
                Event::Reduced { worker, epoch, distinct, entries, bytes }
            }
            FromWorker::ResultsEnd { epoch } => self.merging.hand_on(worker, epoch, Piece::End),
            FromWorker::Failed { cause } => Event::Failed { worker, cause },
            FromWorker::Listed { .. } => {
                let cause = "it lists files in the middle of the job".to_owned();
                Event::Failed { worker, cause }
            }
            FromWorker::Beat => Event::Heard { worker },
        })
    }

    /// Returns the names that the workers have proven; none if any of them has not.
    fn members(&self) -> Vec<String> {
        let names = self.links.iter().map(|link| Some(&link.proven).filter(|name| !name.is_empty()).cloned());
        names.collect::<Option<_>>().unwrap_or_default()
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Begin { worker } => self.order(
                worker,
                Order::Begin(Begin {
                    job: self.spec.id,
                    name: J::NAME.to_owned(),
                    params: self.spec.params.clone(),
                    seed: self.spec.seed,
                    worker,
                    timeout_ms: self.spec.worker_timeout.as_millis() as u64,
                    compress: self.spec.compress,
                    members: self.members(),
                }),
            ),
            Command::CutSplit { target_bytes } => {
                // The cutter has ended; it has said why.
                let _ = self.cuts.send(target_bytes);
            }
            Command::Map { worker, split, provisional } => {
                self.order(worker, Order::Map { split, provisional });
            }
            Command::Commit { worker, split } => self.order(worker, Order::Commit(split)),
            Command::Discard { worker, split } => self.order(worker, Order::Discard(split)),
            Command::Shuffle { worker, epoch, assignment } => {
                let routes = self.routes(&assignment);
                self.order(worker, Order::Shuffle { epoch, routes });
            }
            Command::Reduce { worker, epoch } => {
                self.order(worker, Order::Reduce { epoch, limits: self.spec.limits })
            }
            Command::Merge { epoch } => self.merge(epoch),
            Command::BreakOffMerge => self.merging.break_off(),
            Command::Notice(notice) => {
                self.progress.note(&tell::notice(&notice, &self.links, self.spec.source.as_ref()));
            }
            Command::End { worker } => {
                self.order(worker, Order::End);
                self.ending.push((worker, Instant::now() + END_GRACE));
            }
        }
    }

    /// Adds to an assignment where the workers are.
    fn routes(&self, assignment: &Assignment) -> Routes {
        let address = |worker: &WorkerId| (*worker, self.links[worker.index()].address.clone());
        Routes {
            workers: assignment.workers.iter().map(address).collect(),
            owners: assignment.owners.clone(),
        }
    }

    fn order(&self, worker: WorkerId, order: Order) {
        if let Some(link) = self.links.get(worker.index()) {
            // A link that is gone has said so, or will.
            let _ = link.orders.send(order);
        }
    }

    /// Ends the links of workers that are out of the job and take nothing, not even that.
    fn cut_links(&mut self) {
        let (links, now) = (&self.links, Instant::now());
        self.ending.retain(|(worker, until)| match links.get(worker.index()) {
            Some(link) if !link.is_written() && now >= *until => {
                link.cut();
                false
            }
            Some(link) => !link.is_written(),
            None => false,
        });
    }

    /// Waits until the workers have been told that the job is over, for what is told by a process that ends is lost.
    fn end_links(&self) {
        if !self.spec.local {
            let patience = after(END_GRACE);
            for link in &self.links {
                select! {
                    recv(link.written) -> _ => {}
                    recv(patience) -> _ => break,
                }
            }
            self.links.iter().filter(|link| !link.is_written()).for_each(Link::cut);
        }
    }

    /// Makes the output final and sums up.
    fn finish(self) -> Result<Report, RunError> {
        let before = Instant::now();
        let (entries, bytes) = self.merging.finish().map_err(RunError::output)?;
        let output = tell::Output { entries, bytes, finishing: before.elapsed() };
        Ok(tell::report(&self.spec, &self.coordinator, &self.links, &output))
    }

    fn show(&mut self) {
        let now = self.spec.began.elapsed();
        let at = tell::At {
            now,
            stay: now.saturating_sub(self.stay_began),
            merged_entries: self.merging.entries(),
        };
        self.progress.update(&tell::snapshot(&self.spec, &self.coordinator, &self.links, at));
    }
}
