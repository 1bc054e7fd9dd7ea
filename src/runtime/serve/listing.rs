//! Listing: a worker tells a client which files there are, before the job begins.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::answers::Outgoing;
use crate::runtime::guarded;
use crate::runtime::storage::{Listed, Storage};
use crate::wire::located::{Found, MAX_FOUND, MAX_PATH_BYTES, Place};
use crate::wire::message::FromWorker;

/// Bytes of a message about files, by a high estimate.
const MESSAGE_BYTES: usize = 128 << 10;

/// How long what was found waits for more: the client is to see that there is progress.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Lists what is at `places`.
///
/// # Errors
/// If the client asks for what is no place, or is gone.
pub(super) fn list(
    storage: &dyn Storage,
    places: &[Place],
    answers: &Sender<Outgoing>,
) -> Result<(), String> {
    places.iter().try_for_each(Place::check).map_err(|error| error.to_string())?;
    let mut telling = Telling::new(answers);
    // What is listed may be anything; a thread that ended would leave the client waiting.
    guarded(|| storage.list(places, &mut |listed| telling.add(listed)))?;
    match telling.tell(true) {
        true => Ok(()),
        false => Err("the client is gone".to_owned()),
    }
}

/// What is found and not told.
struct Telling<'a> {
    answers: &'a Sender<Outgoing>,
    found: Vec<(u32, Found)>,
    failed: Vec<(u32, String)>,
    bytes: usize,
    told: Instant,
    /// Files and failures so far.
    total: usize,
}

impl<'a> Telling<'a> {
    fn new(answers: &'a Sender<Outgoing>) -> Self {
        Self { answers, found: Vec::new(), failed: Vec::new(), bytes: 0, told: Instant::now(), total: 0 }
    }

    /// Takes what is found; `false` if nothing more is to be found.
    fn add(&mut self, listed: Listed) -> bool {
        self.total += 1;
        if self.total > MAX_FOUND {
            let index = match listed {
                Listed::File(index, _) | Listed::Failed(index, _) => index,
            };
            self.failed.push((index, format!("there are more than {MAX_FOUND} files")));
            return false;
        }
        match listed {
            Listed::File(index, found) => {
                // In JSON a byte is up to six.
                self.bytes += 200 + 6 * (found.place.name().len() + found.stamp.len());
                self.found.push((index, found));
            }
            Listed::Failed(index, mut cause) => {
                cause.truncate(cause.floor_char_boundary(MAX_PATH_BYTES));
                self.bytes += 100 + 6 * cause.len();
                self.failed.push((index, cause));
            }
        }
        match self.bytes >= MESSAGE_BYTES || self.told.elapsed() >= TELL_INTERVAL {
            true => self.tell(false),
            false => true,
        }
    }

    fn tell(&mut self, is_last: bool) -> bool {
        let (found, failed) = (std::mem::take(&mut self.found), std::mem::take(&mut self.failed));
        self.bytes = 0;
        self.told = Instant::now();
        self.answers.send(Outgoing::Message(FromWorker::Listed { found, failed, is_last })).is_ok()
    }
}
