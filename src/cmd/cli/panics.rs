//! Panics: a broken invariant of ours, told in one readable line.

use std::io::Write;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::edge::sanitize::clipped;

/// Panics of one process that are told. Standard error may be the log of a worker that lives for long, where a job
/// panics on each split of an input.
const MOST_TOLD: usize = 100;

/// Characters that are shown of the panic's words, which may be an input's.
const MESSAGE_CHARS: usize = 300;

/// Replaces the panic message with one line that says what to do with it. `RUST_BACKTRACE` brings the full one back.
pub fn report_in_one_line() {
    let is_full_wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let full = is_full_wanted.then(take_hook);
    let told = AtomicUsize::new(0);
    set_hook(Box::new(move |panic| match (told.fetch_add(1, Ordering::Relaxed), &full) {
        (MOST_TOLD, _) => put("error: internal errors go on; no more of them are told"),
        (before, _) if before > MOST_TOLD => {}
        (_, Some(full)) => full(panic),
        (_, None) => put(&line(panic)),
    }));
}

fn put(line: &str) {
    // In one write, so that panics of several threads do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    format!(
        "error: internal error in thread {}{}: {}; please report this, with the command line",
        clipped(thread.name().unwrap_or("without a name"), MESSAGE_CHARS),
        panic.location().map(|at| format!(" at {at}")).unwrap_or_default(),
        clipped(panic.payload_as_str().unwrap_or("no message"), MESSAGE_CHARS),
    )
}
