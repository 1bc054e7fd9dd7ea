//! Deadline: a test that hangs fails, and what it started is ended.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::processes;

/// How long a test may take to fail once its processes are gone.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The labs that exist, with the thread that made each.
static LABS: Mutex<Vec<(ThreadId, PathBuf)>> = Mutex::new(Vec::new());

/// Runs `body`, and fails if it has not returned within `limit`; its labs are ended then.
pub fn with_deadline<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("test").to_string();
    let runner = thread::Builder::new()
        .name(name)
        .spawn(move || {
            // Dropped in every case, also by a panic: that is the signal.
            let _sender = sender;
            body()
        })
        .expect("a thread");
    if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        for root in labs_of(runner.thread().id()) {
            processes::kill_all(&root);
        }
        let _ = receiver.recv_timeout(LAST_WORDS);
        panic!("the test did not end within {limit:?}");
    }
    match runner.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

pub(super) fn register(root: &Path) {
    labs().push((thread::current().id(), root.to_path_buf()));
}

pub(super) fn unregister(root: &Path) {
    labs().retain(|(_, lab)| lab != root);
}

fn labs_of(thread: ThreadId) -> Vec<PathBuf> {
    labs().iter().filter(|(owner, _)| *owner == thread).map(|(_, root)| root.clone()).collect()
}

fn labs() -> std::sync::MutexGuard<'static, Vec<(ThreadId, PathBuf)>> {
    LABS.lock().unwrap_or_else(PoisonError::into_inner)
}
