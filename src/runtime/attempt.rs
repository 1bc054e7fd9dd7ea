//! Attempt: shuffle and reduce in one epoch, on one worker; void as a whole once a worker is lost.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::job::Job;
use crate::logic::ids::{Epoch, WorkerId};
use crate::logic::inbox::NotWhole;
use crate::logic::limits::Limits;
use crate::logic::partition::Partition;
use crate::logic::worker::{Event, Reduced};
use crate::wire::message::FromWorker;

use super::engine::MapTables;
use super::inbox::Inbox;
use super::link::Answer;
use super::reduce::{Incoming, reduce};
use super::results::{Sorted, send_sorted};
use super::shuffle::{OpenStreams, SendError, Sent, Shuffle, send_all};
use super::worker::{Input, Tell};
use super::{free, guarded, spawn};

/// One epoch on this worker, and what came of it so far.
pub(crate) struct Attempt<J: Job> {
    shuffle: Arc<Shuffle<J>>,
    /// Until the reduce.
    pub sent: Option<Sent<J::Value>>,
    /// Until the result is fetched.
    pub sorted: Option<Sorted<J::Value>>,
    credit: Option<Sender<u32>>,
}

/// Credit for more batches than this counts as this: a client that asks for all at once gets it piece by piece.
const MAX_CREDIT_BATCHES: u32 = 64;

impl<J: Job> Attempt<J> {
    pub(crate) fn new(shuffle: Shuffle<J>) -> Self {
        Self { shuffle: Arc::new(shuffle), sent: None, sorted: None, credit: None }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.shuffle.epoch
    }

    pub(crate) fn streams(&self) -> &OpenStreams {
        &self.shuffle.streams
    }

    /// Starts sending what belongs to others.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn send(
        &self,
        tables: Arc<MapTables<J>>,
        inputs: &Sender<Input<J::Value>>,
    ) -> Result<(), String> {
        let (shuffle, inputs) = (self.shuffle.clone(), inputs.clone());
        let epoch = self.epoch();
        start("mr:shuffle", move || {
            let complain = |peer, cause| {
                let _ = inputs.send(Input::Happened(Event::StreamFailed { epoch, peer, cause }));
            };
            let input = match guarded(|| tables.all()).flatten() {
                Err(cause) => {
                    let cause = format!("the map tables cannot be finished: {cause}");
                    Input::Broken { cause }
                }
                Ok(tables) => match guarded(|| send_all(&shuffle, &tables, &complain)) {
                    Ok(Ok(sent)) => Input::Sent(epoch, sent),
                    Ok(Err(SendError::Peers)) => return,
                    Ok(Err(SendError::Own(cause))) | Err(cause) => {
                        let cause = format!("the shuffle cannot be sent: {cause}");
                        Input::Happened(Event::ShuffleFailed { epoch, cause })
                    }
                },
            };
            let _ = inputs.send(input);
        })
    }

    /// Starts folding what arrived in `inbox`. If a newer epoch has begun meanwhile, the client is about to say so, and
    /// nothing happens.
    ///
    /// # Errors
    /// If what arrived is not what should have; or if no thread can be started.
    pub(crate) fn reduce(
        &mut self,
        inbox: &Inbox,
        limits: Limits,
        inputs: &Sender<Input<J::Value>>,
    ) -> Result<(), String> {
        let Shuffle { routes, me, .. } = &*self.shuffle;
        let others = routes.workers.iter().map(|(worker, _)| *worker).filter(|worker| worker != me);
        let sources: BTreeSet<WorkerId> = others.collect();
        let epoch = self.epoch();
        let batches = match inbox.lock().take(epoch, &sources) {
            Ok(batches) => batches,
            Err(NotWhole::Superseded) => return Ok(()),
            Err(not_whole @ NotWhole::OtherSources) => return Err(format!("the shuffle: {not_whole}")),
        };
        let Some(Sent { own, tables, .. }) = self.sent.take() else {
            return Err("there is nothing to reduce".to_owned());
        };
        let bytes = batches.values().flatten().map(|batch| batch.len() as u64).sum();
        let incoming = by_partition(routes.owned_by(*me), own, batches)?;
        let (work, inputs) = (self.shuffle.work.clone(), inputs.clone());
        start("mr:reduce", move || {
            let input = match guarded(|| reduce(&work, &tables, incoming, limits)).flatten() {
                Ok(sorted) => {
                    let reduced = Reduced { distinct: sorted.distinct(), entries: sorted.len(), bytes };
                    Input::Reduced(epoch, sorted, reduced)
                }
                Err(cause) => {
                    let result = Err(format!("the partitions cannot be reduced: {cause}"));
                    Input::Happened(Event::ReducedAll { epoch, result })
                }
            };
            let _ = inputs.send(input);
        })
    }

    /// Starts sending the result, with credit for so many batches.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn fetch(&mut self, credit: u32, tell: &Tell<J::Value>) -> Result<(), String> {
        // The machine commands this after a reduce, once.
        let Some(sorted) = self.sorted.take() else { return Err("there is no result".to_owned()) };
        if self.shuffle.peers.is_none() {
            tell(Answer::Sorted(sorted));
            return Ok(());
        }
        // A number for each message of the client.
        let (credits, granted) = unbounded::<u32>();
        self.credit = Some(credits);
        self.add_credit(credit);
        let (shuffle, tell) = (self.shuffle.clone(), tell.clone());
        start("mr:results", move || send_results(&shuffle, &sorted, &granted, &tell))
    }

    /// Has so many more batches of the result sent.
    pub(crate) fn add_credit(&self, batches: u32) {
        if let Some(credit) = &self.credit {
            // When all is sent, nobody needs credit any more.
            let _ = credit.send(batches);
        }
    }

    /// Ends the threads as soon as they notice, and drops what came of them, and what arrived in `inbox`. The streams
    /// to peers are left as they are.
    pub(crate) fn abandon(self, inbox: Arc<Inbox>) -> Arc<Shuffle<J>> {
        let Self { shuffle, sent, sorted, credit } = self;
        // Before the credit goes: who misses it asks whether this is over.
        shuffle.work.cancel();
        drop(credit);
        let forgotten = Forgotten { inbox, epoch: shuffle.epoch };
        free((sent, sorted, forgotten));
        shuffle
    }
}

/// What arrived for an epoch, to be dropped with this.
struct Forgotten {
    inbox: Arc<Inbox>,
    epoch: Epoch,
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        self.inbox.lock().forget(self.epoch);
    }
}

/// Puts what arrived for each of the partitions `owned` beside the worker's own part of it.
fn by_partition<V>(
    owned: impl Iterator<Item = Partition>,
    mut own: HashMap<Partition, Vec<crate::logic::rows::Row<V>>>,
    mut batches: HashMap<Partition, Vec<Vec<u8>>>,
) -> Result<Vec<Incoming<V>>, String> {
    let incoming = owned.map(|partition| Incoming {
        own: own.remove(&partition).unwrap_or_default(),
        batches: batches.remove(&partition).unwrap_or_default(),
    });
    let incoming = incoming.collect();
    match batches.keys().next() {
        Some(stray) => Err(format!("a peer sent partition {}, which is not here", stray.0)),
        None => Ok(incoming),
    }
}

fn send_results<J: Job>(
    shuffle: &Shuffle<J>,
    sorted: &Sorted<J::Value>,
    granted: &Receiver<u32>,
    tell: &Tell<J::Value>,
) {
    let epoch = shuffle.epoch;
    let mut credit = 0;
    let sent = guarded(|| {
        send_sorted(sorted, |batch| {
            while credit == 0 {
                let Ok(more) = granted.recv() else { return false };
                credit = more.min(MAX_CREDIT_BATCHES);
            }
            credit -= 1;
            !shuffle.work.is_cancelled() && tell(Answer::Results { epoch, batch })
        })
    });
    if shuffle.work.is_cancelled() {
        return;
    }
    let failed = |cause: String| FromWorker::Failed { cause: format!("the result cannot be sent: {cause}") };
    tell(Answer::Message(match sent {
        Ok(Ok(())) => FromWorker::ResultsEnd { epoch },
        Ok(Err(error)) => failed(error.to_string()),
        Err(cause) => failed(cause),
    }));
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    spawn(name.to_owned(), work).map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}
