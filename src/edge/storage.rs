//! Storage: files that every worker reads for itself: paths that are the same everywhere, and addresses.

mod paths;
mod pattern;
mod walk;
mod web;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Sender, unbounded};

use crate::runtime::storage::{Listed, Storage};
use crate::wire::located::{Found, PathBytes, Place};
use web::Web;

/// Reads what has a path here, or an address.
pub struct Places {
    web: Arc<Web>,
}

impl Places {
    /// Asks nobody anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self { web: Arc::new(Web::new()) }
    }

    fn look(&self, place: Place) -> Result<Found, String> {
        match &place {
            Place::Path(PathBytes(path)) => {
                let path = PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
                paths::look(&path, place).map_err(|error| format!("cannot read {}: {error}", path.display()))
            }
            Place::Url(url) => {
                let looked = self.web.look(url, place.clone());
                looked.map_err(|cause| {
                    format!("cannot read {}: {cause}", String::from_utf8_lossy(&place.name()))
                })
            }
        }
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for Places {
    fn list(&self, places: &[Place], tell: &mut dyn FnMut(Listed) -> bool) {
        let mut looking = Looking { places: self, tell, batch: Vec::new(), goes_on: true };
        for (index, place) in places.iter().enumerate() {
            let index = index as u32;
            match place {
                Place::Url(_) => _ = looking.add(index, Ok(place.clone())),
                Place::Path(PathBytes(path)) => {
                    walk::files(Path::new(std::ffi::OsStr::from_bytes(path)), &mut |path, found| {
                        let path = PathBytes(path.into_os_string().into_vec());
                        looking.add(index, found.map(|()| Place::Path(path)))
                    });
                }
            }
            if !looking.goes_on {
                return;
            }
        }
        looking.look();
    }

    fn open(&self, file: &Found, from: u64, until: u64) -> io::Result<Box<dyn Read + Send>> {
        match &file.place {
            Place::Path(PathBytes(path)) => {
                Ok(Box::new(paths::open(Path::new(std::ffi::OsStr::from_bytes(path)), file, from)?))
            }
            Place::Url(url) => Ok(Box::new(self.web.open(url, file, from, until))),
        }
    }
}

/// Files that are looked at together, and how many threads do that: each takes a few round trips to a server.
const BATCH: usize = 128;
const THREADS: usize = 16;

/// Looks at files as they are found, many at a time.
struct Looking<'l> {
    places: &'l Places,
    tell: &'l mut dyn FnMut(Listed) -> bool,
    batch: Vec<(u32, Result<Place, String>)>,
    /// Whether anybody listens.
    goes_on: bool,
}

impl Looking<'_> {
    /// Takes what was found at the place called `index`; `false` if nothing more is to be found.
    fn add(&mut self, index: u32, found: Result<Place, String>) -> bool {
        self.batch.push((index, found));
        if self.batch.len() >= BATCH {
            self.look();
        }
        self.goes_on
    }

    /// Looks at the batch, and tells of each file when those before it are told.
    fn look(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let places = self.places;
        let next = AtomicUsize::new(0);
        let (looked, known) = unbounded();
        let share = |looked: Sender<(usize, Listed)>| {
            while let Some((at, (index, found))) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                batch.get(at).map(|found| (at, found))
            } {
                let listed = match found.clone().and_then(|place| places.look(place)) {
                    Ok(file) => Listed::File(*index, file),
                    Err(cause) => Listed::Failed(*index, cause),
                };
                if looked.send((at, listed)).is_err() {
                    return;
                }
            }
        };
        let share = &share;
        std::thread::scope(|scope| {
            let start = |looked: Sender<(usize, Listed)>| {
                let thread = std::thread::Builder::new().name("mr:list".into());
                thread.spawn_scoped(scope, move || share(looked)).is_ok()
            };
            // One that cannot be started is done without.
            let started = (0..THREADS.min(batch.len())).filter(|_| start(looked.clone())).count();
            match started {
                0 => share(looked),
                _ => drop(looked),
            }
            let mut waiting = BTreeMap::new();
            let mut due = 0;
            for (at, listed) in known {
                waiting.insert(at, listed);
                while let Some(listed) = waiting.remove(&due) {
                    due += 1;
                    self.goes_on = self.goes_on && (self.tell)(listed);
                }
                if !self.goes_on {
                    // Nobody needs the rest: the threads find that nobody listens.
                    break;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn list(places: &[&Path]) -> Vec<Listed> {
        let place = |path: &&Path| Place::Path(PathBytes(path.as_os_str().as_bytes().to_vec()));
        let places: Vec<Place> = places.iter().map(place).collect();
        let mut all = Vec::new();
        Places::new().list(&places, &mut |listed| {
            all.push(listed);
            true
        });
        all
    }

    #[test]
    fn files_are_listed_in_order_with_what_cannot_be_read() {
        let dir = tempfile::tempdir().expect("a directory");
        for index in 0..300 {
            fs::write(dir.path().join(format!("{index:03}")), format!("{index}")).expect("it is writable");
        }
        let all = list(&[dir.path(), &dir.path().join("nothing"), &dir.path().join("007")]);
        assert_eq!(all.len(), 302);
        for (index, listed) in all[..300].iter().enumerate() {
            let Listed::File(0, found) = listed else { panic!("{listed:?}") };
            assert!(found.place.name().ends_with(format!("/{index:03}").as_bytes()), "{found:?}");
            assert_eq!(found.length, Some(index.to_string().len() as u64));
            assert!(found.has_parts());
        }
        assert!(matches!(&all[300], Listed::Failed(1, cause) if cause.contains("nothing: No such file")));
        assert!(matches!(&all[301], Listed::File(2, _)));
    }

    #[test]
    fn where_there_is_no_file_that_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("sub")).expect("it is writable");
        let all = list(&[dir.path(), &dir.path().join("**")]);
        let causes = ["there is no file in ", "nothing matches "];
        assert_eq!(all.len(), causes.len());
        for (index, (listed, start)) in all.iter().zip(causes).enumerate() {
            let Listed::Failed(at, cause) = listed else { panic!("{listed:?}") };
            assert!(*at as usize == index && cause.starts_with(start), "{listed:?}");
        }
    }

    #[test]
    fn nobody_looks_on_where_nobody_listens() {
        let dir = tempfile::tempdir().expect("a directory");
        for index in 0..3 * BATCH {
            fs::write(dir.path().join(index.to_string()), "").expect("it is writable");
        }
        let place = Place::Path(PathBytes(dir.path().as_os_str().as_bytes().to_vec()));
        let mut told = 0;
        Places::new().list(&[place.clone(), place], &mut |_| {
            told += 1;
            told < 5
        });
        assert_eq!(told, 5);
    }
}
