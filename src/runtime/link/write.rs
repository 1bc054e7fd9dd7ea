//! Write: the client's writing end of a link: orders, splits as they get ready, and beats while there is neither.

use std::io::Write;
use std::time::Instant;

use crossbeam_channel::{Receiver, never, select};

use crate::runtime::link::{BEAT_INTERVAL, Order};
use crate::runtime::rates::{Measured, Rates};
use crate::wire::frame::{FrameError, Kind, write_frame};
use crate::wire::message::{ToWorker, write_message};

use super::feed::{Ends, Wanted};

/// Writes what is ordered until the link is dropped, the job ends, or the connection takes no more.
pub(super) fn write_orders(
    writer: Box<dyn Write + Send>,
    orders: &Receiver<Order>,
    feed: Ends,
    rates: Rates,
) {
    let Ends { wanted, mut ready, used } = feed;
    let results = rates.clone();
    let mut writer = Measured::new(writer, rates);
    loop {
        let waiting = Instant::now();
        let written = select! {
            recv(orders) -> order => match order {
                Ok(Order::Map { split, provisional }) => {
                    // A feed that has ended has said why.
                    let _ = wanted.send(Wanted { split, provisional });
                    continue;
                }
                Ok(Order::End) | Err(_) => {
                    // The worker may be gone; then there is nobody to tell.
                    let _ = write_frame(&mut writer, Kind::End, &[]);
                    return;
                }
                Ok(order) => write_message(&mut writer, &message(order, &results)),
            },
            recv(ready) -> split => match split {
                Ok(split) => {
                    writer.waited(waiting.elapsed());
                    let parts: [&[u8]; 2] = [&split.header(), split.bytes()];
                    let written = write_frame(&mut writer, Kind::Split, &parts);
                    let _ = used.send(split);
                    written.map_err(FrameError::from)
                }
                Err(_) => {
                    ready = never();
                    Ok(())
                }
            },
            default(BEAT_INTERVAL) => write_message(&mut writer, &ToWorker::Beat),
        };
        // That the connection broke is for its reader to say: the worker's last words may lie there.
        if written.is_err() {
            return;
        }
    }
}

/// Makes a message of an order; splits and the end are no messages.
fn message(order: Order, rates: &Rates) -> ToWorker {
    match order {
        Order::Begin(begin) => ToWorker::Begin(begin),
        Order::Shuffle { epoch, routes } => ToWorker::Shuffle { epoch, routes },
        Order::Reduce { epoch, top } => ToWorker::Reduce { epoch, top },
        Order::Fetch { epoch, credit } => {
            ToWorker::Fetch { epoch, credit, packing: rates.lock().choose_for_results() }
        }
        Order::Commit(split) => ToWorker::Commit { split },
        Order::Discard(split) => ToWorker::Discard { split },
        Order::Credit { epoch, batches } => ToWorker::Credit { epoch, batches },
        Order::Map { .. } | Order::End => ToWorker::Beat,
    }
}
