//! Worker: one loop around the worker's state machine: take an input, ask the machine, perform its commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, SplitId, WorkerId};
use crate::logic::partition::Seed;
use crate::logic::worker::{Command, Event, Reduced, Reply, Worker};
use crate::wire::message::{FromWorker, Routes};

use super::attempt::Attempt;
use super::engine::{Heard, MapEvent, Mappers, SplitData, Work};
use super::free;
use super::inbox::Inbox;
use super::link::Answer;
use super::results::Sorted;
use super::shuffle::{OpenStreams, Peers, Sent, Shuffle};

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
    /// This worker cannot go on.
    Broken {
        cause: String,
    },
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
    inbox: Arc<Inbox>,
    mappers: Mappers<J>,
    /// Splits that the machine has not told to execute yet.
    arrived: HashMap<SplitId, SplitData>,
    /// Of the newest epoch that the client has spoken of.
    routes: Option<Routes>,
    /// The shuffle and reduce that runs.
    attempt: Option<Attempt<J>>,
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
    let heard: Heard = Arc::new(move |event| {
        let input = match event {
            MapEvent::Executed { split, end } => Input::Happened(Event::Executed { split, end }),
            MapEvent::Broken { cause } => Input::Broken { cause },
        };
        // When the loop is over, nobody waits for this.
        let _ = sender.send(input);
    });
    let mut machine = Worker::new(setup.me, setup.window);
    let mut runner = Runner {
        mappers: Mappers::start(&work, &heard)?,
        work,
        me: setup.me,
        peers: setup.peers.map(Arc::new),
        inbox: setup.inbox,
        arrived: HashMap::new(),
        routes: None,
        attempt: None,
        tell,
        inputs,
    };
    (runner.tell)(Answer::Message(FromWorker::Begun));
    let gave_up = runner.serve(&mut machine, inbox);
    let shuffle = runner.end();
    if gave_up {
        // The streams stay until the client, which has been told why, ends the job: a peer that saw them break might
        // be heard before this worker.
        inbox.iter().take_while(|input| !matches!(input, Input::End)).for_each(drop);
    }
    if let Some(shuffle) = shuffle {
        shuffle.streams.close();
    }
    Ok(())
}

impl<J: Job> Runner<J> {
    /// The loop. Returns whether this worker gave up before the client ended the job.
    fn serve(&mut self, machine: &mut Worker, inbox: &Receiver<Input<J::Value>>) -> bool {
        for input in inbox {
            let commands = match self.take(input) {
                Taken::Event(event) => machine.handle(event),
                Taken::Broken { cause } => vec![Command::Refuse { cause }],
                Taken::End => return false,
            };
            if !commands.into_iter().all(|command| self.perform(command)) {
                return true;
            }
        }
        false
    }

    /// Keeps what an input brings.
    fn take(&mut self, input: Input<J::Value>) -> Taken {
        Taken::Event(match input {
            Input::Split { split, provisional, data } => {
                self.arrived.insert(split, data);
                Event::Split { split, provisional }
            }
            Input::Shuffle { epoch, routes } => {
                let workers = routes.workers.iter().map(|(worker, _)| *worker).collect();
                self.routes = Some(routes);
                Event::Shuffle { epoch, workers }
            }
            Input::Happened(event) => event,
            Input::Sent(epoch, sent) => {
                let bytes = sent.bytes;
                match self.attempt_of(epoch) {
                    Some(attempt) => attempt.sent = Some(sent),
                    None => free(sent),
                }
                Event::SentAll { epoch, bytes }
            }
            Input::Reduced(epoch, sorted, reduced) => {
                match self.attempt_of(epoch) {
                    Some(attempt) => attempt.sorted = Some(sorted),
                    None => free(sorted),
                }
                Event::ReducedAll { epoch, result: Ok(reduced) }
            }
            Input::Broken { cause } => return Taken::Broken { cause },
            Input::End => return Taken::End,
        })
    }

    /// Returns what runs, if it is of this epoch: threads of one that was abandoned may have been done already.
    fn attempt_of(&mut self, epoch: Epoch) -> Option<&mut Attempt<J>> {
        self.attempt.as_mut().filter(|attempt| attempt.epoch() == epoch)
    }

    /// Starts what is commanded; what comes of it arrives as an input. `false` if the job is over.
    fn perform(&mut self, command: Command) -> bool {
        let started = match command {
            Command::Execute { split, provisional } => {
                if let Some(data) = self.arrived.remove(&split) {
                    self.mappers.execute(split, provisional, data);
                }
                Ok(())
            }
            Command::Cancel { split } => {
                self.mappers.cancel(split);
                Ok(())
            }
            Command::Commit { split } => {
                self.mappers.commit(split);
                Ok(())
            }
            Command::Drop { split } => {
                self.mappers.discard(split);
                Ok(())
            }
            Command::Abandon => {
                self.abandon();
                Ok(())
            }
            Command::Send { epoch } => self.send(epoch),
            Command::Reduce { epoch, top } => {
                self.with_attempt(epoch, |attempt, runner| attempt.reduce(&runner.inbox, top, &runner.inputs))
            }
            Command::Fetch { epoch, credit } => {
                self.with_attempt(epoch, |attempt, runner| attempt.fetch(credit, &runner.tell))
            }
            Command::Credit { batches } => {
                if let Some(attempt) = &self.attempt {
                    attempt.add_credit(batches);
                }
                Ok(())
            }
            Command::Reply(reply) => return (self.tell)(Answer::Message(message(reply))),
            Command::Refuse { cause } => Err(cause),
        };
        if let Err(cause) = started {
            (self.tell)(Answer::Message(FromWorker::Failed { cause }));
            return false;
        }
        true
    }

    /// Begins an attempt at shuffle and reduce.
    fn send(&mut self, epoch: Epoch) -> Result<(), String> {
        self.abandon();
        // The machine commands this upon a shuffle, once.
        let Some(routes) = self.routes.take() else { return Err("there are no routes".to_owned()) };
        let attempt = Attempt::new(Shuffle {
            work: Arc::new(self.work.attempt()),
            epoch,
            routes,
            me: self.me,
            peers: self.peers.clone(),
            streams: OpenStreams::default(),
        });
        attempt.send(self.mappers.tables(), &self.inputs)?;
        self.attempt = Some(attempt);
        Ok(())
    }

    fn with_attempt(
        &mut self,
        epoch: Epoch,
        then: impl FnOnce(&mut Attempt<J>, &Self) -> Result<(), String>,
    ) -> Result<(), String> {
        // The machine commands nothing of an epoch that does not run.
        let Some(mut attempt) = self.attempt.take_if(|attempt| attempt.epoch() == epoch) else {
            return Err("there is no such epoch".to_owned());
        };
        let done = then(&mut attempt, self);
        self.attempt = Some(attempt);
        done
    }

    /// Drops what runs and what arrived for it: it is void.
    fn abandon(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.streams().close();
            attempt.abandon(self.inbox.clone());
        }
    }

    /// Ends all threads and drops everything but the streams of the attempt that runs, which it returns.
    fn end(mut self) -> Option<Arc<Shuffle<J>>> {
        self.work.cancel();
        let shuffle = self.attempt.take().map(|attempt| attempt.abandon(self.inbox.clone()));
        self.mappers.end();
        shuffle
    }
}

/// What an input is.
enum Taken {
    Event(Event),
    Broken { cause: String },
    End,
}

fn message(reply: Reply) -> FromWorker {
    match reply {
        Reply::Mapped { split, pairs } => FromWorker::Mapped { split, pairs },
        Reply::MapFailed { split, cause, dropped, unreadable } => {
            FromWorker::MapFailed { split, cause, dropped, unreadable }
        }
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
