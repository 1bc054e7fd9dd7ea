//! Gather: what there is to be read elsewhere, as one of the workers sees it, or this process.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::edge::input::{is_standard, listed};
use crate::edge::table::counted;
use crate::runtime::link::BEAT_INTERVAL;
use crate::runtime::listing::{ListError, Listing, list};
use crate::runtime::report::BadInput;
use crate::runtime::storage::{Listed, Storage};
use crate::wire::located::{Found, MAX_FOUND, PathBytes, Place};
use crate::wire::message::{ToWorker, write_message};

use super::pool::Reached;
use super::{CommandError, Console, RunOptions};

/// How long a worker may find nothing. A server may need several tries before it answers.
const PATIENCE: Duration = Duration::from_secs(150);

/// The inputs that the user named.
pub(super) struct Parted {
    /// Those that are read here.
    pub files: Vec<PathBuf>,
    /// Those that are read here, of a list.
    pub listed: Vec<PathBuf>,
    pub places: Vec<Place>,
}

/// Parts the inputs that the user named into those that are read here and those that are not.
///
/// # Errors
/// If a list cannot be read; an address is no text, or too long, or a path is; or readers are bounded of which there
/// are none.
pub(super) fn part(options: &RunOptions) -> Result<Parted, CommandError> {
    let reads_standard = options.inputs.iter().any(|path| is_standard(path));
    if reads_standard && options.files_from.as_deref().is_some_and(is_standard) {
        // The list would be waited for, and then be the input.
        return Err(anyhow!("standard input (-) can be read once only").into());
    }
    let list = options.files_from.as_deref().map(listed).transpose()?.unwrap_or_default();
    let (files, mut places) = part_inputs(&options.inputs, &options.on_workers)?;
    let (listed, more) = part_inputs(&list, &[])?;
    places.extend(more);
    if options.readers.is_some() && places.is_empty() {
        return Err(CommandError::usage(anyhow!("--readers: there is nothing that workers read themselves"))
            .advise("--on-workers names what they do, or an address"));
    }
    Ok(Parted { files, listed, places })
}

/// Returns the paths that are read here, and as places the addresses and the paths that the workers see.
fn part_inputs(
    inputs: &[PathBuf],
    on_workers: &[PathBuf],
) -> Result<(Vec<PathBuf>, Vec<Place>), CommandError> {
    let is_url = |path: &&PathBuf| Place::is_url(path.as_os_str().as_bytes());
    let (urls, here): (Vec<&PathBuf>, Vec<&PathBuf>) = inputs.iter().partition(is_url);
    let of_url = |path: &PathBuf| -> anyhow::Result<Place> {
        let url = path.to_str().context("an address that is not UTF-8")?;
        Ok(Place::Url(url.to_owned()))
    };
    let of_path = |path: &PathBuf| -> anyhow::Result<Place> {
        match path.to_str().filter(|text| Place::is_url(text.as_bytes())) {
            Some(url) => Ok(Place::Url(url.to_owned())),
            None => Ok(Place::Path(PathBytes(absolute(path)?.into_os_string().as_bytes().to_vec()))),
        }
    };
    let places = urls.into_iter().map(of_url).chain(on_workers.iter().map(of_path));
    let places = places.collect::<anyhow::Result<Vec<Place>>>().map_err(CommandError::usage)?;
    for place in &places {
        let checked = place.check().with_context(|| name(place));
        checked.map_err(CommandError::usage)?;
    }
    Ok((here.into_iter().cloned().collect(), places))
}

/// Returns a path that means the same wherever a worker stands.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    ensure!(!path.as_os_str().is_empty(), "--on-workers: a path is empty");
    ensure!(path.as_os_str() != "-", "--on-workers: workers have no standard input");
    std::path::absolute(path).with_context(|| format!("--on-workers {}", path.display()))
}

/// What was found, and what is left out of it.
type Seen = (Vec<Found>, Vec<BadInput>);

/// Finds the files at `places`: as the first of `workers` sees them that can say, or `storage` where there is none. A
/// worker that cannot is left out. The others see meanwhile that the client lives.
///
/// # Errors
/// If no worker can say, or a place, or a file there, cannot be read, unless that is to be left out.
pub(super) fn find(
    places: &[Place],
    workers: &mut Vec<Reached>,
    storage: &dyn Storage,
    skip_bad: bool,
    console: &Console,
) -> Result<Seen, CommandError> {
    if places.is_empty() {
        return Ok(Seen::default());
    }
    let whole = |listing: Listing, worker: Option<&str>| match skip_bad {
        true => Ok(without_bad(places, listing)),
        false => whole(listing, worker).map(|found| (found, Vec::new())),
    };
    if workers.is_empty() {
        let mut listing = Listing::default();
        storage.list(places, &mut |listed| {
            match listed {
                Listed::File(_, found) => listing.found.push(found),
                Listed::Failed(index, cause) => listing.failed.push((index as usize, cause)),
            }
            listing.found.len() + listing.failed.len() <= MAX_FOUND
        });
        if listing.found.len() + listing.failed.len() > MAX_FOUND {
            return Err(too_many(ListError::TooMany));
        }
        return whole(listing, None);
    }
    loop {
        match ask_first(places, workers) {
            Ok(listing) => return whole(listing, Some(&workers[0].name)),
            Err(ListError::Refused(cause)) => {
                let name = &workers[0].name;
                return Err(CommandError::from(anyhow!(cause).context(format!("worker {name} refused")))
                    .advise(
                        "deploy, or `serve` and `run` with --identity: then each knows who the other is",
                    ));
            }
            // The others would find as many.
            Err(error @ ListError::TooMany) => return Err(too_many(error)),
            Err(error) => {
                let name = workers.remove(0).name;
                let error = anyhow!(error).context("it cannot say which files there are");
                if workers.is_empty() {
                    return Err(CommandError::from(error.context(format!("worker {name}"))));
                }
                console.warn(&format!("{name} is left out: {error:#}"));
            }
        }
    }
}

fn too_many(error: ListError) -> CommandError {
    CommandError::from(anyhow!(error)).advise("name a part of them, or put many into one")
}

/// Asks the first worker, and tells the others now and then that they are not forgotten.
fn ask_first(places: &[Place], workers: &mut [Reached]) -> Result<Listing, ListError> {
    let Some((first, others)) = workers.split_first_mut() else { return Ok(Listing::default()) };
    std::thread::scope(|scope| {
        let (done, asked) = bounded::<()>(0);
        let listing = scope.spawn(move || {
            let _done = done;
            list(&mut first.connection, places, PATIENCE)
        });
        while asked.recv_timeout(BEAT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            for other in &mut *others {
                // One that is gone is missed when the job begins.
                let _ = write_message(&mut other.connection.writer, &ToWorker::Beat);
            }
        }
        listing
            .join()
            .unwrap_or_else(|_| Err(ListError::Refused("internal error: listing failed".to_owned())))
    })
}

/// Returns the files, if all can be read.
fn whole(listing: Listing, worker: Option<&str>) -> Result<Vec<Found>, CommandError> {
    let Some((_, first)) = listing.failed.first() else { return Ok(listing.found) };
    let seen = worker.map_or_else(String::new, |worker| format!(" (as worker {worker} sees it)"));
    let more = match listing.failed.len() - 1 {
        0 => String::new(),
        more => format!("; nor can {}", counted(more as u64, "other")),
    };
    Err(CommandError::from(anyhow!("{first}{seen}{more}")))
}

/// Returns the files, and what cannot be read.
fn without_bad(places: &[Place], listing: Listing) -> Seen {
    let bad = |(place, cause): (usize, String)| BadInput {
        input: places.get(place).map_or_else(String::new, name),
        offset: 0,
        bytes: None,
        cause,
    };
    (listing.found, listing.failed.into_iter().map(bad).collect())
}

fn name(place: &Place) -> String {
    String::from_utf8_lossy(&place.name()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn paths(texts: &[&[u8]]) -> Vec<PathBuf> {
        texts.iter().map(|text| PathBuf::from(OsStr::from_bytes(text))).collect()
    }

    #[test]
    fn addresses_are_told_from_paths() {
        let inputs = paths(&[b"a", b"http://h/x", b"-", b"./http://h/y", b"HTTPS://h", b"\xff"]);
        let (here, places) =
            part_inputs(&inputs, &paths(&[b"/n/\xff", b"https://h/z"])).expect("they are good");
        assert_eq!(here, paths(&[b"a", b"-", b"./http://h/y", b"\xff"]));
        let names: Vec<Vec<u8>> = places.iter().map(Place::name).collect();
        assert_eq!(names, [&b"http://h/x"[..], b"HTTPS://h", b"/n/\xff", b"https://h/z"]);
        let (_, places) = part_inputs(&[], &paths(&[b"b c"])).expect("it is good");
        assert!(places[0].name().starts_with(b"/") && places[0].name().ends_with(b"/b c"));
    }

    #[test]
    fn what_cannot_be_read_elsewhere_is_refused() {
        for (inputs, on_workers) in [
            (paths(&[b"http://h/\xff"]), paths(&[])),
            (paths(&[]), paths(&[b"-"])),
            (paths(&[]), paths(&[b""])),
            (paths(&[]), paths(&[&b"/x".repeat(5000)])),
        ] {
            assert!(part_inputs(&inputs, &on_workers).is_err(), "{inputs:?} {on_workers:?}");
        }
    }
}
