//! Client: one loop: take an event, ask the coordinator, perform its commands.

mod tell;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, after, bounded, never, select, tick, unbounded};

use crate::job::{Job, Value};
use crate::logic::coordinator::{Assignment, Command, Config, Coordinator, Event, Failure, Outcome, Phase};
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::packing::Compress;
use crate::logic::partition::Seed;
use crate::wire::message::{Begin, FromWorker, Routes};

use super::arrival::{Arriving, Piece};
use super::collect::{Streams, Written, write_merged};
use super::link::{Answer, Link, Listener, Order};
use super::report::{Progress, Report};
use super::results::{Broken, CREDIT_BATCHES, Sorted};
use super::source::{Cutter, Sink};
use super::{guarded, spawn};

/// What a run is to do.
pub struct RunSpec<J: Job> {
    pub job: Arc<J>,
    pub id: JobId,
    /// The job's parameters, in JSON.
    pub params: String,
    pub seed: Seed,
    pub top: Option<u64>,
    pub split_bytes: Option<u64>,
    /// Bytes of the input, where they are known.
    pub input_bytes: Option<u64>,
    pub input_files: usize,
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

/// How long to wait until the workers are told of the end. One that is gone is told nothing.
const END_GRACE: Duration = Duration::from_millis(500);

/// How long to wait for the merge to notice that the job is over. It notices at once, unless it is writing to a pipe
/// that nobody reads.
const MERGE_GRACE: Duration = Duration::from_secs(2);

/// What reaches the loop.
enum Incoming<V> {
    Answer(WorkerId, Answer<V>),
    Event(Event),
    Merged(Written<V>),
    OutputFailed(std::io::Error),
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
    cuts: Sender<u64>,
    /// Where the pieces of each worker's result go, once they are asked for.
    pieces: Vec<Option<Sender<Piece>>>,
    sorted: Option<Sender<Sorted<J::Value>>>,
    sink: Option<Box<dyn Sink<J::Value>>>,
    merged_entries: Arc<AtomicU64>,
    merge_ended: Receiver<()>,
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
    sink: Box<dyn Sink<J::Value>>,
    stop: &Receiver<()>,
    progress: &mut dyn Progress,
) -> Result<Report, RunError> {
    let config = Config {
        worker_threads: links.iter().map(|link| link.threads).collect(),
        input_bytes: spec.input_bytes,
        split_bytes: spec.split_bytes,
        spares: 0,
        backups: !spec.local,
        worker_timeout: (!spec.local).then_some(spec.worker_timeout),
    };
    let cuts = start_cutter(&spec, cutter, mailbox.sender.clone())
        .map_err(|error| Failure::Input { cause: format!("cannot start a thread: {error}") })?;
    let (coordinator, commands) = Coordinator::start(config, spec.began.elapsed());
    let mut client = Client {
        pieces: links.iter().map(|_| None).collect(),
        spec,
        links,
        coordinator,
        mailbox,
        cuts,
        sorted: None,
        sink: Some(sink),
        merged_entries: Arc::default(),
        merge_ended: never(),
        output_error: None,
        progress,
    };
    let outcome = client.run(commands, stop);
    client.progress.finish();
    client.end_links();
    outcome.and_then(|written| client.finish(written))
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
            // Guarded: `is_boundary` is the job's code, and a thread that ended without a word would be waited for.
            let event = match guarded(|| cutter.cut(target_bytes, &|byte| job.is_boundary(byte))) {
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
    fn run(
        &mut self,
        mut commands: Vec<Command>,
        stop: &Receiver<()>,
    ) -> Result<Written<J::Value>, RunError> {
        let ticks = tick(TICK);
        let inbox = self.mailbox.inbox.clone();
        let mut shown = None;
        let mut written = None;
        loop {
            for command in commands {
                self.perform(command);
            }
            if shown != Some(self.coordinator.phase()) {
                shown = Some(self.coordinator.phase());
                self.show();
            }
            match (self.coordinator.outcome(), written.take()) {
                (Some(Outcome::Done), Some(written)) => return Ok(written),
                (Some(Outcome::Failed(failure)), _) => {
                    let failure = failure.clone();
                    self.abandon_merge();
                    return Err(RunError { failure, output: self.output_error.take() });
                }
                (_, kept) => written = kept,
            }
            let event = select! {
                recv(inbox) -> incoming => match incoming {
                    Ok(Incoming::Answer(worker, answer)) => self.answer(worker, answer),
                    Ok(Incoming::Event(event)) => Some(event),
                    Ok(Incoming::Merged(merged)) => {
                        written = Some(merged);
                        Some(Event::Merged { epoch: self.coordinator.epoch() })
                    }
                    Ok(Incoming::OutputFailed(error)) => {
                        let cause = error.to_string();
                        self.output_error = Some(error);
                        Some(Event::OutputFailed { cause })
                    }
                    // The client itself holds a sender.
                    Err(_) => Some(Event::Interrupted),
                },
                recv(ticks) -> _ => {
                    self.show();
                    Some(Event::Tick)
                }
                recv(stop) -> _ => Some(Event::Interrupted),
            };
            let now = self.spec.began.elapsed();
            commands = event.map(|event| self.coordinator.handle(event, now)).unwrap_or_default();
        }
    }

    /// Makes an event of what a worker says; pieces of the result go straight to the merge.
    fn answer(&mut self, worker: WorkerId, answer: Answer<J::Value>) -> Option<Event> {
        let message = match answer {
            Answer::Message(message) => message,
            Answer::Results { batch, .. } => return Some(self.hand_on(worker, Piece::Batch(batch))),
            Answer::Sorted(sorted) => {
                if let Some(to_merge) = self.sorted.take() {
                    let _ = to_merge.send(sorted);
                }
                return None;
            }
            Answer::Unread { cause } => return Some(Event::InputFailed { cause }),
            Answer::Closed { cause } => return Some(Event::LinkClosed { worker, cause }),
        };
        Some(match message {
            FromWorker::Begun => Event::Begun { worker },
            FromWorker::Mapped { split, pairs } => Event::Mapped { worker, split, pairs },
            FromWorker::MapFailed { split, cause, dropped } => {
                Event::MapFailed { worker, split, cause, dropped }
            }
            FromWorker::Dropped { split } => Event::Dropped { worker, split },
            FromWorker::Shuffled { epoch, sent_bytes } => Event::Shuffled { worker, epoch, sent_bytes },
            FromWorker::PeerFailed { epoch, peer, cause } => Event::PeerFailed { worker, epoch, peer, cause },
            FromWorker::Reduced { epoch, distinct, entries, bytes } => {
                Event::Reduced { worker, epoch, distinct, entries, bytes }
            }
            FromWorker::ResultsEnd { .. } => self.hand_on(worker, Piece::End),
            FromWorker::Failed { cause } => Event::Failed { worker, cause },
            FromWorker::Beat => Event::Heard { worker },
        })
    }

    fn hand_on(&self, worker: WorkerId, piece: Piece) -> Event {
        let to_merge = self.pieces.get(worker.index()).and_then(Option::as_ref);
        match to_merge.map(|to_merge| to_merge.try_send(piece)) {
            Some(Err(TrySendError::Full(_))) => {
                Event::Failed { worker, cause: "it sent more of its result than it was asked for".to_owned() }
            }
            // Without a merge, or after it, the coordinator has heard why.
            None | Some(Ok(()) | Err(TrySendError::Disconnected(_))) => Event::Heard { worker },
        }
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
                self.order(worker, Order::Reduce { epoch, top: self.spec.top })
            }
            Command::Merge { epoch } => self.start_merge(epoch),
            Command::BreakOffMerge | Command::Notice(_) => {}
            Command::End { worker } => self.order(worker, Order::End),
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

    fn start_merge(&mut self, epoch: Epoch) {
        let Some(sink) = self.sink.take() else { return };
        let (ended, merge_ended) = bounded::<()>(1);
        self.merge_ended = merge_ended;
        let streams = self.open_streams(epoch);
        let (job, top, entries) = (self.spec.job.clone(), self.spec.top, self.merged_entries.clone());
        let events = self.mailbox.sender.clone();
        let started = spawn("mr:merge".into(), move || {
            let merged = super::guarded(|| write_merged(&job, streams, top, sink, &entries));
            let incoming = match merged {
                Ok(Ok(written)) => Incoming::Merged(written),
                // The job ended for another reason, which the coordinator knows or will hear.
                Ok(Err(Broken::Ended)) => Incoming::Event(Event::Tick),
                Ok(Err(Broken::Output(error))) => Incoming::OutputFailed(error),
                Ok(Err(Broken::Malformed { worker, cause })) => {
                    Incoming::Event(Event::Failed { worker, cause })
                }
                Err(cause) => Incoming::Event(Event::OutputFailed { cause }),
            };
            let _ = events.send(incoming);
            // Only now: what was written may be in the message.
            drop(ended);
        });
        if let Err(error) = started {
            let cause = format!("cannot start a thread: {error}");
            let _ = self.mailbox.sender.try_send(Incoming::Event(Event::OutputFailed { cause }));
        }
    }

    /// Asks for the results and returns where they will come from.
    fn open_streams(&mut self, epoch: Epoch) -> Streams<J::Value> {
        if self.spec.local {
            let (to_merge, sorted) = bounded(1);
            self.sorted = Some(to_merge);
            self.order(WorkerId(0), Order::Fetch { epoch, credit: CREDIT_BATCHES });
            return Streams::Sorted(sorted);
        }
        let mut streams = Vec::new();
        for (index, (link, progress)) in self.links.iter().zip(self.coordinator.workers()).enumerate() {
            let worker = WorkerId(index as u32);
            let (stream, to_merge) = Arriving::new(worker, epoch, progress.entries, link.orders.clone());
            self.pieces[index] = Some(to_merge);
            streams.push(stream);
            self.order(worker, Order::Fetch { epoch, credit: CREDIT_BATCHES });
        }
        Streams::Remote(streams)
    }

    /// Waits until the workers have been told that the job is over, for what is told by a process that ends is lost.
    fn end_links(&self) {
        if !self.spec.local {
            let patience = after(END_GRACE);
            for link in &self.links {
                select! {
                    recv(link.written) -> _ => {}
                    recv(patience) -> _ => return,
                }
            }
        }
    }

    /// Has the merge end, and waits until its half-written file is gone.
    fn abandon_merge(&mut self) {
        self.pieces.clear();
        self.sorted = None;
        self.sink = None;
        if self.coordinator.phase() != Phase::Merge {
            return;
        }
        let patience = after(MERGE_GRACE);
        loop {
            select! {
                // Nobody is to wait for room here, the merge least of all.
                recv(self.mailbox.inbox) -> _ => {}
                recv(self.merge_ended) -> _ => return,
                recv(patience) -> _ => return,
            }
        }
    }

    /// Makes the output final and sums up.
    fn finish(self, written: Written<J::Value>) -> Result<Report, RunError> {
        let before = Instant::now();
        let output_bytes = written.sink.finish().map_err(RunError::output)?;
        let output =
            tell::Output { entries: written.entries, bytes: output_bytes, finishing: before.elapsed() };
        Ok(tell::report(&self.spec, &self.coordinator, &self.links, &output))
    }

    fn show(&mut self) {
        let merged = self.merged_entries.load(Ordering::Relaxed);
        self.progress.update(&tell::snapshot(&self.spec, &self.coordinator, &self.links, merged));
    }
}
