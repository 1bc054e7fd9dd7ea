//! Write: the client's writing end of a link: orders, splits as they get ready, and beats while there is neither.
//!
//! Invariant: a split that is discarded before it is written is never written, and is answered for here.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, never, select};

use crate::logic::ids::SplitId;
use crate::logic::split::Split;
use crate::runtime::link::{BEAT_INTERVAL, Order};
use crate::runtime::rates::{Measured, Rates};
use crate::wire::frame::{FrameError, Kind, write_frame};
use crate::wire::message::{ToWorker, write_message};

use super::feed::{Ends, Ready, Wanted, Wish};

/// What the writer of a link works with.
pub(super) struct Writing<'w> {
    pub orders: &'w Receiver<Order>,
    /// Told once the worker is told of the job.
    pub began: &'w AtomicBool,
    /// Takes what is answered in the worker's place: a split that it never got is dropped.
    pub dropped: &'w dyn Fn(SplitId),
}

/// What the writer does next.
enum Next {
    Want { split: Split, provisional: bool },
    Discard(SplitId),
    Tell(ToWorker),
    Split(Ready),
    FeedEnded,
    End,
}

impl Writing<'_> {
    /// Writes what is ordered until the link is dropped, the job ends, or the connection takes no more.
    pub(super) fn run(self, writer: Box<dyn Write + Send>, feed: Ends, rates: Rates) {
        let Ends { wanted, mut ready, used } = feed;
        let results = rates.clone();
        let mut writer = Measured::new(writer, rates);
        // Those that are not written. When they are dropped, the feed stops.
        let mut wishes: Vec<Wish> = Vec::new();
        loop {
            let waiting = Instant::now();
            let written = match self.next(&ready, &results) {
                Next::Want { split, provisional } => {
                    want(&wanted, &mut wishes, split, provisional);
                    continue;
                }
                Next::Discard(split) if take(&mut wishes, |wish| **wish == split) => {
                    (self.dropped)(split);
                    continue;
                }
                Next::Discard(split) => write_message(&mut writer, &ToWorker::Discard { split }),
                Next::End => {
                    // The worker may be gone; then there is nobody to tell.
                    let _ = write_frame(&mut writer, Kind::End, &[]);
                    return;
                }
                Next::Tell(message) => {
                    self.began.fetch_or(matches!(message, ToWorker::Begin(_)), Ordering::Relaxed);
                    write_message(&mut writer, &message)
                }
                Next::Split(split) => {
                    let is_wanted = take(&mut wishes, |wish| split.wish.as_ptr() == Arc::as_ptr(wish));
                    let written = if is_wanted {
                        writer.waited(waiting.elapsed());
                        let parts: [&[u8]; 3] = [&split.header(), split.name(), split.bytes()];
                        write_frame(&mut writer, Kind::Split, &parts)
                    } else {
                        Ok(())
                    };
                    let _ = used.send(split);
                    written.map_err(FrameError::from)
                }
                Next::FeedEnded => {
                    ready = never();
                    continue;
                }
            };
            // That the connection broke is for its reader to say: the worker's last words may lie there.
            if written.is_err() {
                return;
            }
        }
    }

    /// Waits for what is next. Orders go before splits, for they may be that a split is not wanted any more.
    fn next(&self, ready: &Receiver<Ready>, rates: &Rates) -> Next {
        match self.orders.try_recv() {
            Ok(order) => return ordered(order, rates),
            Err(TryRecvError::Disconnected) => return Next::End,
            Err(TryRecvError::Empty) => {}
        }
        select! {
            recv(self.orders) -> order => order.map_or(Next::End, |order| ordered(order, rates)),
            recv(ready) -> split => split.map_or(Next::FeedEnded, Next::Split),
            default(BEAT_INTERVAL) => Next::Tell(ToWorker::Beat),
        }
    }
}

fn want(wanted: &Sender<Wanted>, wishes: &mut Vec<Wish>, split: Split, provisional: bool) {
    // Of one that could not be read the wish is still there.
    wishes.retain(|wish| **wish != split.id);
    let wish = Arc::new(split.id);
    // A feed that has ended has said why.
    let _ = wanted.send(Wanted { split, provisional, wish: Arc::downgrade(&wish) });
    wishes.push(wish);
}

/// Takes the wish that `pick` wants out; `false` if there is none.
fn take(wishes: &mut Vec<Wish>, pick: impl Fn(&Wish) -> bool) -> bool {
    let at = wishes.iter().position(pick);
    at.inspect(|&at| _ = wishes.swap_remove(at)).is_some()
}

/// Makes of an order what the writer does next.
fn ordered(order: Order, rates: &Rates) -> Next {
    Next::Tell(match order {
        Order::Map { split, provisional } => return Next::Want { split, provisional },
        Order::Discard(split) => return Next::Discard(split),
        Order::End => return Next::End,
        Order::Begin(begin) => ToWorker::Begin(begin),
        Order::Shuffle { epoch, routes } => ToWorker::Shuffle { epoch, routes },
        Order::Reduce { epoch, top } => ToWorker::Reduce { epoch, top },
        Order::Fetch { epoch, credit } => {
            ToWorker::Fetch { epoch, credit, packing: rates.lock().choose_for_results() }
        }
        Order::Commit(split) => ToWorker::Commit { split },
        Order::Credit { epoch, batches } => ToWorker::Credit { epoch, batches },
    })
}
