//! Does: owns threads and channels, holds no policy.

pub(crate) mod arrival;
pub(crate) mod attempt;
pub(crate) mod buffers;
pub mod client;
pub(crate) mod collect;
pub(crate) mod engine;
pub mod greet;
pub(crate) mod inbox;
pub mod link;
pub mod listing;
pub mod local;
#[cfg(test)]
mod memory;
pub(crate) mod parted;
pub(crate) mod pieces;
pub(crate) mod pipeline;
pub(crate) mod ranges;
pub(crate) mod rates;
pub(crate) mod reduce;
pub mod report;
pub(crate) mod results;
pub(crate) mod resumed;
pub mod serve;
pub(crate) mod shuffle;
pub mod source;
pub mod storage;
pub(crate) mod stream;
pub(crate) mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// Runs `work`; a panic in it, which can only be the job's code or a broken invariant, becomes its message.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| payload.downcast_ref::<String>().cloned());
        let message = message.unwrap_or_else(|| "without a message".to_owned());
        format!("the job panicked: {}", message.chars().take(MAX_PANIC_CHARS).collect::<String>())
    })
}

/// Of a panic's message, so much is told: it may quote a whole record, and then would not fit a control message.
const MAX_PANIC_CHARS: usize = 1000;

/// Starts a named thread.
pub(crate) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(work)
}

/// Drops `what` on a thread of its own: giving back much memory takes its time, which a loop has not.
pub(crate) fn free(what: impl Send + 'static) {
    // If it cannot be started, it is dropped here.
    let _ = spawn("mr:free".to_owned(), move || drop(what));
}
