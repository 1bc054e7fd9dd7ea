//! Merging: the client's merge, on a thread of its own; it can be broken off, and begins anew with the next epoch.
//!
//! Invariant: at most one merge is at work, and whoever it is has the output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, after, bounded, never, select};

use crate::job::Job;
use crate::logic::coordinator::{Event, Phase};
use crate::logic::ids::{Epoch, WorkerId};
use crate::runtime::arrival::{Arriving, Piece};
use crate::runtime::collect::{Streams, Written, collect};
use crate::runtime::link::Order;
use crate::runtime::results::{Broken, CREDIT_BATCHES, Sorted};
use crate::runtime::source::Output;
use crate::runtime::{guarded, spawn};

use super::{Client, INBOX_EVENTS, Incoming, MERGE_GRACE};

/// What a merge leaves when it ends, in whatever way.
pub(super) struct Ended<V> {
    epoch: Epoch,
    output: Written<V>,
    /// A panic, which can only be the job's code, has its message.
    merged: Result<Result<(), Broken>, String>,
}

/// Where the client's merge stands.
pub(super) struct Merging<V> {
    /// The output, unless a merge is at work at it.
    output: Option<Written<V>>,
    /// Of the merge that is wanted now: results of another epoch are late.
    epoch: Option<Epoch>,
    /// Whether that merge waits for the output, which the one before has not given back.
    waits: bool,
    /// Where the pieces of each member's result go.
    pieces: Vec<Option<Sender<Piece>>>,
    sorted: Option<Sender<Sorted<V>>>,
    entries: Arc<AtomicU64>,
    /// Set for the merge at work once its result is void.
    is_void: Arc<AtomicBool>,
    /// Loses its sender once no merge is at work.
    ended: Receiver<()>,
    /// What a worker sent that it should not have. The coordinator is told, and has the merge begin anew.
    malformed: Option<String>,
}

impl<V> Merging<V> {
    pub(super) fn new(output: Output<V>, n_workers: usize) -> Self {
        Self {
            output: Some(Written::new(output)),
            epoch: None,
            waits: false,
            pieces: (0..n_workers).map(|_| None).collect(),
            sorted: None,
            entries: Arc::default(),
            is_void: Arc::default(),
            ended: never(),
            malformed: None,
        }
    }

    /// Returns how many entries the merge has written.
    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Hands a piece of a worker's result on to the merge and returns what that is to the coordinator.
    pub(super) fn hand_on(&self, worker: WorkerId, epoch: Epoch, piece: Piece) -> Event {
        let is_end = matches!(piece, Piece::End);
        let to_merge = self.pieces.get(worker.index()).and_then(Option::as_ref);
        let to_merge = to_merge.filter(|_| self.epoch == Some(epoch));
        match to_merge.map(|to_merge| to_merge.try_send(piece)) {
            Some(Ok(())) if is_end => Event::Delivered { worker, epoch },
            Some(Err(TrySendError::Full(_))) => {
                Event::Failed { worker, cause: "it sent more of its result than it was asked for".to_owned() }
            }
            // It is late, or the merge has all that it wants.
            None | Some(Ok(()) | Err(TrySendError::Disconnected(_))) => Event::Heard { worker },
        }
    }

    pub(super) fn hand_on_sorted(&mut self, sorted: Sorted<V>) {
        if let Some(to_merge) = self.sorted.take() {
            // A merge that has ended has said why.
            let _ = to_merge.send(sorted);
        }
    }

    /// Has the merge end, whose result is void. What is written stays, for the next one renders the same.
    pub(super) fn break_off(&mut self) {
        self.pieces.iter_mut().for_each(|to_merge| *to_merge = None);
        self.sorted = None;
        self.epoch = None;
        self.waits = false;
        self.is_void.store(true, Ordering::Relaxed);
    }

    /// Has the merge end for good, and waits until the output is dropped, and its half-written file with it.
    fn abandon(&mut self, inbox: &Receiver<Incoming<V>>) {
        self.break_off();
        if self.output.take().is_some() {
            return;
        }
        let patience = after(MERGE_GRACE);
        loop {
            select! {
                // Nobody is to wait for room here, the merge least of all.
                recv(inbox) -> _ => {}
                recv(self.ended) -> _ => break,
                recv(patience) -> _ => break,
            }
        }
        // The merge puts the output there before it ends; where links still hold senders, it would stay there.
        inbox.try_iter().take(INBOX_EVENTS).for_each(drop);
    }

    /// Makes the output final; returns its entries and bytes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(self) -> std::io::Result<(u64, u64)> {
        let entries = self.entries();
        let output = self.output.ok_or_else(|| std::io::Error::other("the merge has not ended"))?;
        Ok((entries, output.finish()?))
    }
}

impl<J: Job> Client<'_, J> {
    /// Starts the merge of an epoch, at once or when the one before has given the output back.
    pub(super) fn merge(&mut self, epoch: Epoch) {
        self.merging.epoch = Some(epoch);
        match self.merging.output.take() {
            Some(output) => self.start_merge(epoch, output),
            None => self.merging.waits = true,
        }
    }

    fn start_merge(&mut self, epoch: Epoch, mut output: Written<J::Value>) {
        let (ended, merge_ended) = bounded::<()>(1);
        self.merging.ended = merge_ended;
        let is_void = Arc::new(AtomicBool::new(false));
        self.merging.is_void = is_void.clone();
        let streams = self.open_streams(epoch);
        let (job, top, entries) = (self.spec.job.clone(), self.spec.limits.top, self.merging.entries.clone());
        let events = self.mailbox.sender.clone();
        let started = spawn("mr:merge".into(), move || {
            let merged = guarded(|| collect(&job, streams, top, &mut output, &entries, &is_void));
            let _ = events.send(Incoming::MergeEnded(Ended { epoch, output, merged }));
            // Only now: the output is in the message.
            drop(ended);
        });
        if let Err(error) = started {
            let cause = format!("cannot start a thread: {error}");
            self.noticed.push_back(Event::OutputFailed { cause });
        }
    }

    /// Asks for the results and returns where they will come from.
    fn open_streams(&mut self, epoch: Epoch) -> Streams<J::Value> {
        if self.spec.local {
            let (to_merge, sorted) = bounded(1);
            self.merging.sorted = Some(to_merge);
            self.order(WorkerId(0), Order::Fetch { epoch, credit: CREDIT_BATCHES });
            return Streams::Sorted(sorted);
        }
        let mut streams = Vec::new();
        for worker in self.coordinator.members() {
            let index = worker.index();
            let (Some(link), Some(progress)) = (self.links.get(index), self.coordinator.workers().get(index))
            else {
                continue;
            };
            let (stream, to_merge) = Arriving::new(worker, epoch, progress.entries, link.orders.clone());
            self.merging.pieces[index] = Some(to_merge);
            streams.push(stream);
            self.order(worker, Order::Fetch { epoch, credit: CREDIT_BATCHES });
        }
        Streams::Remote(streams)
    }

    /// Takes the output back from a merge, gives it to the one that waits for it, and returns what the end of the
    /// first means.
    pub(super) fn merge_ended(&mut self, ended: Ended<J::Value>) -> Option<Event> {
        let Ended { epoch, output, merged } = ended;
        let failure = match merged {
            // Its output is whole, also where the merge was broken off at its very end: then the next one renders the
            // same and writes nothing, and the coordinator takes no notice of this one.
            Ok(Ok(())) => Ok(Some(Event::Merged { epoch })),
            Ok(Err(Broken::Ended)) => Ok(None),
            Ok(Err(Broken::Malformed { worker, cause })) if self.merging.epoch == Some(epoch) => {
                self.merging.malformed = Some(cause.clone());
                Ok(Some(Event::Failed { worker, cause }))
            }
            Ok(Err(Broken::Malformed { .. })) => Ok(None),
            // Nobody can go on with such an output.
            Ok(Err(Broken::Output(error))) => {
                let cause = error.to_string();
                self.output_error = Some(error);
                Err(Event::OutputFailed { cause })
            }
            Err(cause) => Err(Event::OutputFailed { cause }),
        };
        match failure {
            Err(failure) => Some(failure),
            Ok(event) => {
                match self.merging.epoch.filter(|_| std::mem::take(&mut self.merging.waits)) {
                    Some(next) => self.start_merge(next, output),
                    None => self.merging.output = Some(output),
                }
                event
            }
        }
    }

    /// Fails the job if a merge ended for what a worker had sent, and none will begin anew: that worker was lost
    /// before, after it had delivered all.
    pub(super) fn miss_merge(&mut self) {
        if let Some(cause) = self.merging.malformed.take()
            && self.merging.epoch == Some(self.coordinator.epoch())
            && self.coordinator.phase() == Phase::Merge
            && self.coordinator.outcome().is_none()
        {
            let cause = format!("a part of the result is not what a worker may send: {cause}");
            self.noticed.push_back(Event::OutputFailed { cause });
        }
    }

    /// Has the merge end, and waits until its half-written file is gone.
    pub(super) fn abandon_merge(&mut self) {
        self.merging.abandon(&self.mailbox.inbox);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::runtime::source::{Form, Sink};

    /// A sink whose file is there as long as anybody holds it.
    struct Held(#[expect(dead_code, reason = "it is only held")] Arc<()>);

    impl Sink<u64> for Held {
        fn form(&self) -> Arc<dyn Form<u64>> {
            unreachable!("nothing is rendered here")
        }

        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            unreachable!("nothing is written here")
        }

        fn finish(self: Box<Self>) -> io::Result<u64> {
            unreachable!("it is dropped")
        }
    }

    /// Where the output is when the merge is abandoned.
    #[derive(Clone, Copy, Debug)]
    enum Place {
        Here,
        WithTheMerge,
        OnItsWayBack,
    }

    fn abandon(place: Place) {
        // Links that have not ended hold senders.
        let (events, inbox) = bounded(INBOX_EVENTS);
        let file = Arc::new(());
        let mut merging = Merging::new(Output::Whole(Box::new(Held(file.clone()))), 1);
        let (ended, merge_ended) = bounded::<()>(1);
        std::thread::scope(|scope| {
            if !matches!(place, Place::Here) {
                let output = merging.output.take().expect("no merge is at work");
                merging.ended = merge_ended;
                let (is_void, events) = (merging.is_void.clone(), events.clone());
                let merge = scope.spawn(move || {
                    while matches!(place, Place::WithTheMerge) && !is_void.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    let merged = Ok(Err(Broken::Ended));
                    let given_back = Incoming::MergeEnded(Ended { epoch: Epoch(1), output, merged });
                    assert!(events.send(given_back).is_ok(), "the client listens");
                    drop(ended);
                });
                if matches!(place, Place::OnItsWayBack) {
                    merge.join().expect("no panic");
                }
            }
            merging.abandon(&inbox);
        });
        assert_eq!(Arc::strong_count(&file), 1, "{place:?}");
    }

    #[test]
    fn an_abandoned_merge_leaves_no_output_wherever_that_is() {
        // Of what is ready at the same time, any may be taken first.
        for _ in 0..30 {
            [Place::Here, Place::WithTheMerge, Place::OnItsWayBack].into_iter().for_each(abandon);
        }
    }
}
