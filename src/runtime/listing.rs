//! Listing: a client asks a worker which files there are, before the job begins.

use std::time::{Duration, Instant};

use crate::wire::frame::{FrameError, MAX_CONTROL_BYTES};
use crate::wire::located::{Found, MAX_FOUND, Place};
use crate::wire::message::{FromWorker, ToWorker, read_message, write_message};

use super::link::Connection;

/// What was found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files, in the order of the places.
    pub found: Vec<Found>,
    /// Why there are none, or cannot be read, by the index of the place.
    pub failed: Vec<(usize, String)>,
}

/// Why nothing was listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The worker does not do this, and says why.
    #[error("{0}")]
    Refused(String),
    #[error("nothing was found for {} s", .0.as_secs())]
    Stuck(Duration),
    /// More than a run takes, whoever lists them.
    #[error("there are more than {MAX_FOUND} files")]
    TooMany,
    #[error(transparent)]
    Broken(#[from] FrameError),
}

/// Bytes of places in a message, by a high estimate.
const MESSAGE_BYTES: usize = 256 << 10;

/// Asks the worker at the other end for the files at `places`. It may take as long as it likes, if there is some
/// progress within each `patience`.
///
/// # Errors
/// If it refuses, does not get on, or says what is no listing.
pub fn list(connection: &mut Connection, places: &[Place], patience: Duration) -> Result<Listing, ListError> {
    connection.control.set_deadline(patience).map_err(FrameError::from)?;
    let mut listing = Listing::default();
    let mut asked = 0;
    while asked < places.len() {
        let part = &places[asked..asked + part(&places[asked..])];
        write_message(&mut connection.writer, &ToWorker::List { places: part.to_vec() })?;
        hear(connection, patience, asked, part.len(), &mut listing)?;
        asked += part.len();
    }
    Ok(listing)
}

/// Returns how many of the first places one message has room for: one at least.
fn part(places: &[Place]) -> usize {
    let mut bytes = 0;
    let fits = |place: &&Place| {
        let length = match place {
            Place::Path(path) => path.0.len(),
            Place::Url(url) => url.len(),
        };
        bytes += 20 + 6 * length;
        bytes <= MESSAGE_BYTES
    };
    places.iter().take_while(fits).count().max(1)
}

/// Hears of the files at `n` places, the first of which is the one called `first`.
fn hear(
    connection: &mut Connection,
    patience: Duration,
    first: usize,
    n: usize,
    listing: &mut Listing,
) -> Result<(), ListError> {
    let mut heard = Instant::now();
    loop {
        match read_message(&mut connection.reader, MAX_CONTROL_BYTES)? {
            FromWorker::Listed { found, failed, is_last } => {
                heard = Instant::now();
                take(found, failed, first, n, listing)?;
                if is_last {
                    return Ok(());
                }
            }
            FromWorker::Beat if heard.elapsed() < patience => {}
            FromWorker::Beat => return Err(ListError::Stuck(patience)),
            FromWorker::Failed { cause } => return Err(ListError::Refused(cause)),
            _ => return Err(malformed("says what is no listing")),
        }
    }
}

fn take(
    found: Vec<(u32, Found)>,
    failed: Vec<(u32, String)>,
    first: usize,
    n: usize,
    listing: &mut Listing,
) -> Result<(), ListError> {
    let places = found.iter().map(|(index, _)| *index).chain(failed.iter().map(|(index, _)| *index));
    if places.into_iter().any(|index| index as usize >= n) {
        return Err(malformed("lists what it was not asked for"));
    }
    if listing.found.len() + listing.failed.len() + found.len() + failed.len() > MAX_FOUND {
        return Err(ListError::TooMany);
    }
    for (_, file) in found {
        file.check()?;
        listing.found.push(file);
    }
    listing.failed.extend(failed.into_iter().map(|(index, cause)| (first + index as usize, cause)));
    Ok(())
}

fn malformed(what: &str) -> ListError {
    FrameError::Malformed(format!("the worker {what}")).into()
}
