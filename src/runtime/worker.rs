//! Worker: one loop around the worker's state machine: take an input, ask the machine, perform its commands.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, SplitId, WorkerId};
use crate::logic::partition::{Partition, Seed};
use crate::logic::rows::Row;
use crate::logic::table::Table;
use crate::logic::worker::{Command, Event, Reduced, Reply, Worker};
use crate::wire::message::{FromWorker, Routes};

use super::engine::{Executed, Mappers, SplitData, Work};
use super::inbox::Inbox;
use super::link::Answer;
use super::reduce::{Incoming, reduce};
use super::results::{Sorted, send_sorted};
use super::shuffle::{Peers, SendError, Sent, send_all};
use super::{guarded, spawn};

/// What reaches the loop.
pub(crate) enum Input<V> {
    Split {
        split: SplitId,
        provisional: bool,
        data: SplitData,
    },
    Shuffle {
        epoch: Epoch,
        routes: Routes,
    },
    Happened(Event),
    Sent(Epoch, Sent<V>),
    Reduced(Epoch, Sorted<V>, Reduced),
    /// The job is over, well or not.
    End,
}

/// What a worker is told at the start of a job.
pub(crate) struct Setup<J: Job> {
    pub job: Arc<J>,
    pub seed: Seed,
    pub me: WorkerId,
    pub threads: usize,
    pub window: usize,
    pub memory: u64,
    /// `None` in-process: then there is no peer, and results are handed over as they are.
    pub peers: Option<Peers>,
    pub inbox: Arc<Inbox>,
}

/// Takes what the client is told; `false` if it does not listen any more.
pub(crate) type Tell<V> = Arc<dyn Fn(Answer<V>) -> bool + Send + Sync>;

/// The threads and tables of one job on this worker.
struct Runner<J: Job> {
    work: Arc<Work<J>>,
    me: WorkerId,
    peers: Option<Arc<Peers>>,
    streams: Arc<Inbox>,
    mappers: Option<Mappers<J::Value>>,
    /// Splits that the machine has not told to execute yet.
    arrived: HashMap<SplitId, SplitData>,
    /// The durable state: what this worker has folded. Kept until the job ends, for a shuffle may be asked for again.
    tables: Arc<Vec<Table<J::Value>>>,
    routes: Routes,
    own: HashMap<Partition, Vec<Row<J::Value>>>,
    sorted: Option<Sorted<J::Value>>,
    credit: Option<Sender<u32>>,
    tell: Tell<J::Value>,
    inputs: Sender<Input<J::Value>>,
}

/// Runs one job on this worker until [`Input::End`]. `inputs` is the sending side of `inbox`, for the threads that are
/// started.
///
/// # Errors
/// If threads cannot be started.
pub(crate) fn run<J: Job>(
    setup: Setup<J>,
    inputs: Sender<Input<J::Value>>,
    inbox: &Receiver<Input<J::Value>>,
    tell: Tell<J::Value>,
) -> std::io::Result<()> {
    let work = Arc::new(Work {
        job: setup.job,
        seed: setup.seed,
        threads: setup.threads.max(1),
        memory: setup.memory,
        cancelled: AtomicBool::new(false),
    });
    let sender = inputs.clone();
    let executed: Executed = Arc::new(move |split, end| {
        // When the loop is over, nobody waits for this.
        let _ = sender.send(Input::Happened(Event::Executed { split, end }));
    });
    let mut machine = Worker::new(setup.me, setup.window);
    let mut runner = Runner {
        mappers: Some(Mappers::start(&work, &executed)?),
        work,
        me: setup.me,
        peers: setup.peers.map(Arc::new),
        streams: setup.inbox,
        arrived: HashMap::new(),
        tables: Arc::default(),
        routes: Routes { workers: Vec::new(), owners: Vec::new() },
        own: HashMap::new(),
        sorted: None,
        credit: None,
        tell,
        inputs,
    };
    (runner.tell)(Answer::Message(FromWorker::Begun));
    let gave_up = runner.serve(&mut machine, inbox);
    let (work, peers) = (runner.work.clone(), runner.peers.clone());
    work.cancelled.store(true, Ordering::Relaxed);
    drop(runner);
    if gave_up {
        // The streams stay until the client, which has been told why, ends the job: a peer that saw them break might
        // be heard before this worker.
        inbox.iter().take_while(|input| !matches!(input, Input::End)).for_each(drop);
    }
    if let Some(peers) = peers {
        peers.close();
    }
    Ok(())
}

/// Credit for more batches than this counts as this: a client that asks for all at once gets it piece by piece.
const MAX_CREDIT_BATCHES: u32 = 64;

impl<J: Job> Runner<J> {
    /// The loop. Returns whether this worker gave up before the client ended the job.
    fn serve(&mut self, machine: &mut Worker, inbox: &Receiver<Input<J::Value>>) -> bool {
        for input in inbox {
            let Some(event) = self.take(input) else { return false };
            if !machine.handle(event).into_iter().all(|command| self.perform(command)) {
                return true;
            }
        }
        false
    }

    /// Keeps what an input brings and returns the event that it is; `None` at the end.
    fn take(&mut self, input: Input<J::Value>) -> Option<Event> {
        Some(match input {
            Input::Split { split, provisional, data } => {
                self.arrived.insert(split, data);
                Event::Split { split, provisional }
            }
            Input::Shuffle { epoch, routes } => {
                let workers = routes.workers.iter().map(|(worker, _)| *worker).collect();
                self.routes = routes;
                Event::Shuffle { epoch, workers }
            }
            Input::Happened(event) => event,
            Input::Sent(epoch, sent) => {
                self.own = sent.own;
                Event::SentAll { epoch, bytes: sent.bytes }
            }
            Input::Reduced(epoch, sorted, reduced) => {
                self.sorted = Some(sorted);
                Event::ReducedAll { epoch, result: Ok(reduced) }
            }
            Input::End => return None,
        })
    }

    /// Starts what is commanded; what comes of it arrives as an input. `false` if the job is over.
    fn perform(&mut self, command: Command) -> bool {
        let started = match command {
            Command::Execute { split, .. } => {
                if let (Some(mappers), Some(data)) = (&self.mappers, self.arrived.remove(&split)) {
                    mappers.execute(split, data);
                }
                Ok(())
            }
            Command::Cancel { .. } | Command::Commit { .. } | Command::Drop { .. } | Command::Abandon => {
                todo!()
            }
            Command::Send { epoch } => self.send(epoch),
            Command::Reduce { epoch, top } => self.reduce(epoch, top),
            Command::Fetch { epoch, credit } => self.fetch(epoch, credit),
            Command::Credit { batches } => {
                self.add_credit(batches);
                Ok(())
            }
            Command::Reply(reply) => return (self.tell)(Answer::Message(message(reply))),
            Command::Refuse { cause } => {
                (self.tell)(Answer::Message(FromWorker::Failed { cause }));
                return false;
            }
        };
        if let Err(cause) = started {
            (self.tell)(Answer::Message(FromWorker::Failed { cause }));
            return false;
        }
        true
    }

    fn send(&mut self, epoch: Epoch) -> Result<(), String> {
        if let Some(mappers) = self.mappers.take() {
            self.tables = Arc::new(mappers.finish()?);
        }
        let tables = self.tables.clone();
        let (work, routes, me) = (self.work.clone(), self.routes.clone(), self.me);
        let (peers, inputs) = (self.peers.clone(), self.inputs.clone());
        start("mr:shuffle", move || {
            let sent = guarded(|| send_all(&work, &tables, &routes, epoch, peers.as_deref(), me));
            let input = match sent.unwrap_or_else(|cause| Err(SendError::Own(cause))) {
                Ok(sent) => Input::Sent(epoch, sent),
                Err(SendError::Peer { peer, cause }) => {
                    Input::Happened(Event::StreamFailed { epoch, peer, cause })
                }
                Err(SendError::Own(cause)) => Input::Happened(Event::SendFailed { epoch, cause }),
            };
            let _ = inputs.send(input);
        })
    }

    fn reduce(&mut self, epoch: Epoch, top: Option<u64>) -> Result<(), String> {
        let others =
            self.routes.workers.iter().map(|(worker, _)| *worker).filter(|worker| *worker != self.me);
        let sources: BTreeSet<WorkerId> = others.collect();
        let mut batches = self.streams.lock().take(epoch, &sources).map_err(|stale| stale.to_string())?;
        let mut own = std::mem::take(&mut self.own);
        let owned: Vec<Partition> = self.routes.owned_by(self.me).collect();
        let bytes = batches.values().flatten().map(|batch| batch.len() as u64).sum();
        let incoming: Vec<_> = owned
            .iter()
            .map(|partition| Incoming {
                own: own.remove(partition).unwrap_or_default(),
                batches: batches.remove(partition).unwrap_or_default(),
            })
            .collect();
        if let Some(stray) = batches.keys().next() {
            return Err(format!("a peer sent partition {}, which is not here", stray.0));
        }
        let (work, tables, inputs) = (self.work.clone(), self.tables.clone(), self.inputs.clone());
        start("mr:reduce", move || {
            let input = match guarded(|| reduce(&work, &tables, incoming, top)).flatten() {
                Ok(sorted) => {
                    let reduced = Reduced { distinct: sorted.distinct(), entries: sorted.len(), bytes };
                    Input::Reduced(epoch, sorted, reduced)
                }
                Err(cause) => Input::Happened(Event::ReducedAll { epoch, result: Err(cause) }),
            };
            let _ = inputs.send(input);
        })
    }

    fn fetch(&mut self, epoch: Epoch, credit: u32) -> Result<(), String> {
        // The machine commands this after a reduce, once.
        let Some(sorted) = self.sorted.take() else { return Err("there is no result".to_owned()) };
        if self.peers.is_none() {
            (self.tell)(Answer::Sorted(sorted));
            return Ok(());
        }
        // A number for each message of the client.
        let (credits, granted) = unbounded::<u32>();
        self.credit = Some(credits);
        self.add_credit(credit);
        let tell = self.tell.clone();
        start("mr:results", move || {
            let mut credit = 0;
            let sent = guarded(|| {
                send_sorted(&sorted, |batch| {
                    while credit == 0 {
                        let Ok(more) = granted.recv() else { return false };
                        credit = more.min(MAX_CREDIT_BATCHES);
                    }
                    credit -= 1;
                    tell(Answer::Results { epoch, batch })
                })
            });
            match sent {
                Ok(Ok(())) => tell(Answer::Message(FromWorker::ResultsEnd { epoch })),
                Ok(Err(error)) => tell(Answer::Message(FromWorker::Failed { cause: error.to_string() })),
                Err(cause) => tell(Answer::Message(FromWorker::Failed { cause })),
            };
        })
    }

    fn add_credit(&self, batches: u32) {
        if let Some(credit) = &self.credit {
            // When all is sent, nobody needs credit any more.
            let _ = credit.send(batches);
        }
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    spawn(name.to_owned(), work).map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

fn message(reply: Reply) -> FromWorker {
    match reply {
        Reply::Mapped { split, pairs } => FromWorker::Mapped { split, pairs },
        Reply::MapFailed { split, cause, dropped } => FromWorker::MapFailed { split, cause, dropped },
        Reply::Dropped { split } => FromWorker::Dropped { split },
        Reply::Shuffled { epoch, sent_bytes } => FromWorker::Shuffled { epoch, sent_bytes },
        Reply::PeerFailed { epoch, peer, cause } => FromWorker::PeerFailed { epoch, peer, cause },
        Reply::Reduced { epoch, reduced } => FromWorker::Reduced {
            epoch,
            distinct: reduced.distinct,
            entries: reduced.entries,
            bytes: reduced.bytes,
        },
    }
}

/// Makes the channel of a worker's loop. Unbounded, for its senders must not wait on each other; what is in it is
/// bounded by the window of splits, the number of streams, and the credit.
pub(crate) fn inputs<V>() -> (Sender<Input<V>>, Receiver<Input<V>>) {
    unbounded()
}
