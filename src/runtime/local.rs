//! Local: a worker in the client's own process, at the other end of a link in memory (the paper, 4.7).

use std::sync::Arc;

use crossbeam_channel::never;

use crate::job::Job;
use crate::logic::ids::WorkerId;
use crate::logic::worker::Event;

use super::engine::SplitData;
use super::inbox::Inbox;
use super::link::{Answer, Link, Listener, Order};
use super::source::SplitSource;
use super::storage::Storage;
use super::worker::{Input, Setup, inputs, run};
use super::{guarded, spawn};

/// Starts a worker with `threads` map threads in this process, whose tables may hold `memory` bytes. It reads splits
/// where they lie, through `source`, or through `storage` where every worker reads itself.
///
/// # Errors
/// If a thread cannot be started.
pub fn start_local<J: Job>(
    job: Arc<J>,
    (threads, memory): (usize, u64),
    source: Arc<dyn SplitSource>,
    storage: Arc<dyn Storage>,
    listener: Listener<J::Value>,
) -> std::io::Result<Link> {
    let me = WorkerId(0);
    let (orders, asked) = crossbeam_channel::unbounded();
    let (sender, inbox) = inputs::<J::Value>();
    // The listener may be called from any thread of the worker.
    let listener = std::sync::Mutex::new(listener);
    let tell = Arc::new(move |answer: Answer<J::Value>| {
        listener.lock().unwrap_or_else(std::sync::PoisonError::into_inner)(me, answer)
    });
    spawn("mr:local".into(), move || {
        let Ok(Order::Begin(begin)) = asked.recv() else { return };
        let setup = Setup {
            job,
            seed: begin.seed,
            me,
            threads,
            window: usize::MAX,
            memory,
            peers: None,
            inbox: Arc::new(Inbox::new(0)),
        };
        let to_worker = sender.clone();
        let translated = spawn("mr:orders".into(), move || {
            for order in asked {
                let Some(input) = translate(order, &source, &storage) else { break };
                if to_worker.send(input).is_err() {
                    return;
                }
            }
            let _ = to_worker.send(Input::End);
        });
        let told = tell.clone();
        let ran = guarded(|| translated.and_then(|_| run(setup, sender, &inbox, tell)));
        if let Err(cause) = ran.and_then(|ran| ran.map_err(|error| error.to_string())) {
            told(Answer::Closed { cause });
        }
    })?;
    Ok(Link {
        name: "in-process".into(),
        threads: threads as u32,
        address: String::new(),
        proven: String::new(),
        orders,
        written: never(),
        control: None,
    })
}

/// Makes an order what the worker's loop takes; `None` for the end.
fn translate<V>(order: Order, source: &Arc<dyn SplitSource>, storage: &Arc<dyn Storage>) -> Option<Input<V>> {
    Some(match order {
        Order::Map { split, provisional } => Input::Split {
            split: split.id,
            provisional,
            data: match source.located(&split) {
                Some(located) => SplitData::Located(Box::new(located), storage.clone()),
                None => SplitData::Stored(split, source.clone()),
            },
        },
        Order::Commit(split) => Input::Happened(Event::Commit { split }),
        Order::Discard(split) => Input::Happened(Event::Discard { split }),
        Order::Shuffle { epoch, routes } => Input::Shuffle { epoch, routes },
        Order::Reduce { epoch, limits } => Input::Happened(Event::Reduce { epoch, limits }),
        Order::Fetch { epoch, credit } => Input::Happened(Event::Fetch { epoch, credit }),
        Order::Credit { epoch, batches } => Input::Happened(Event::Credit { epoch, batches }),
        Order::Begin(_) | Order::End => return None,
    })
}
