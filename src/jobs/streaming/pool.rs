//! Pool: processes of the map command, started before there is something for them: an interpreter takes its time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::place::Place;
use super::process::{Process, Role};

/// Processes that wait on their standard input, each for lines of one file, for they are told its name at their start.
#[derive(Default)]
pub(super) struct Pool(Mutex<Waiting>);

/// A lock: each map thread takes a process once a split.
#[derive(Default)]
struct Waiting {
    processes: Vec<(Vec<u8>, Process)>,
    /// The file that a process was last taken for.
    last: Option<Vec<u8>>,
}

impl Pool {
    /// Takes a process of `command` for lines of `file`. If that is where the last ones came from, too, another is
    /// started ahead.
    ///
    /// # Errors
    /// If none can be started.
    pub(super) fn take(
        &self,
        place: &Arc<Place>,
        command: &Arc<str>,
        file: &[u8],
    ) -> Result<Process, String> {
        let start = || Process::start(place, Role::Map, command, Some(file));
        let mut waiting = self.lock();
        let found = waiting.processes.iter().position(|(of, _)| of == file);
        let taken = found.map(|at| waiting.processes.swap_remove(at).1);
        let is_next = waiting.last.as_deref() == Some(file);
        if !is_next {
            waiting.last = Some(file.to_vec());
        }
        drop(waiting);
        let taken = taken.map_or_else(start, Ok)?;
        if is_next && let Ok(ahead) = start() {
            let surplus = {
                let waiting = &mut self.lock().processes;
                waiting.push((file.to_vec(), ahead));
                // What waits longest is of a file that has ended.
                (waiting.len() > most_ahead()).then(|| waiting.remove(0))
            };
            drop(surplus);
        }
        Ok(taken)
    }

    /// Ends all that wait.
    pub(super) fn clear(&self) {
        let ended = std::mem::take(&mut self.lock().processes);
        drop(ended);
    }

    /// Returns how many wait for lines of `file`.
    #[cfg(test)]
    pub(super) fn waiting(&self, file: &[u8]) -> usize {
        self.lock().processes.iter().filter(|(of, _)| of == file).count()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Processes that are worth having ahead: as many as can be at work.
fn most_ahead() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
