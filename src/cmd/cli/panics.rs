//! Panics: a broken invariant of ours, told in one readable line.

use std::io::Write;
use std::panic::PanicHookInfo;

use crate::edge::sanitize::sanitize;

/// Replaces the panic message with one line that says what to do with it. `RUST_BACKTRACE` brings the full one back.
pub fn report_in_one_line() {
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        // In one write, so that panics of several threads do not mix.
        let _ = std::io::stderr().lock().write_all(format!("{}\n", line(panic)).as_bytes());
    }));
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    format!(
        "error: internal error in thread {}{}: {}; please report this, with the command line",
        sanitize(thread.name().unwrap_or("without a name")),
        panic.location().map(|at| format!(" at {at}")).unwrap_or_default(),
        sanitize(panic.payload_as_str().unwrap_or("no message")),
    )
}
