//! Signals: Ctrl-C, termination and hang-up, as one stop signal or as the end of the process.
//!
//! A command that has something to wind down claims the signal with [`stop_signal`]; for all others the first signal
//! ends the process at once with exit code 130. The second one does so in any case. However the process ends, the
//! terminal is as it was, and files registered with [`remove_at_exit`] are gone.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code of a process that a signal ended.
pub const INTERRUPTED: i32 = 130;

/// What the signal thread and the commands share. A lock, for claims are rare and signals rarer.
static STATE: Mutex<State> = Mutex::new(State { stopped: false, claims: Vec::new(), files: Vec::new() });

/// Tells registered files apart.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

struct State {
    /// Whether the first signal has come.
    stopped: bool,
    /// One per [`stop_signal`]; dropped when the signal comes.
    claims: Vec<Sender<()>>,
    files: Vec<(u64, PathBuf)>,
}

/// Starts to listen for signals. Those that the caller of the program had ignored (as `nohup` does) stay ignored.
///
/// # Errors
/// If the handlers cannot be set.
pub fn listen() -> io::Result<()> {
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(wanted)?;
    let terminal = Terminal::remember();
    thread::Builder::new().name("mr:signals".into()).spawn(move || {
        for _ in signals.forever() {
            if !hand_on() {
                end_process(terminal.as_ref());
            }
        }
    })?;
    Ok(())
}

/// Claims the signal: instead of ending the process, the first one sends a message to the receiver and then closes
/// it, so that a receiver that is looked at again is still ready.
pub fn stop_signal() -> Receiver<()> {
    let (sender, receiver) = bounded(1);
    let mut state = lock();
    if state.stopped {
        announce(sender);
    } else {
        state.claims.push(sender);
    }
    receiver
}

/// Has `path` removed should the process end before the guard is dropped; a directory with all that is in it.
pub fn remove_at_exit(path: &Path) -> RemoveAtExit {
    let id = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
    lock().files.push((id, path.to_path_buf()));
    RemoveAtExit { id }
}

/// Removes the files whose guards live: for the end of the process, where a thread may still hold one.
pub fn remove_files() {
    for (_, path) in lock().files.drain(..) {
        let removed = std::fs::remove_file(&path);
        // A thread that still writes may put a file there while others are removed.
        let is_directory = removed.is_err() && path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if is_directory && std::fs::remove_dir_all(&path).is_err() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// As long as it lives, its file is removed when the process ends, be it by a signal.
#[derive(Debug)]
pub struct RemoveAtExit {
    id: u64,
}

impl Drop for RemoveAtExit {
    fn drop(&mut self) {
        lock().files.retain(|(id, _)| *id != self.id);
    }
}

/// Gives the first signal to those who claimed it; `false` if nobody did or it was not the first.
fn hand_on() -> bool {
    let mut state = lock();
    let first = !std::mem::replace(&mut state.stopped, true);
    let claimed = !state.claims.is_empty();
    state.claims.drain(..).for_each(announce);
    first && claimed
}

fn announce(claim: Sender<()>) {
    // A claim whose receiver is gone needs no message.
    let _ = claim.try_send(());
}

fn end_process(terminal: Option<&Terminal>) -> ! {
    remove_files();
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // Ends the line that a progress bar may stand on, and shows the cursor in case something hid it.
        let _ = stderr.write_all(b"\x1b[?25h\n");
    }
    process::exit(INTERRUPTED)
}

fn lock() -> MutexGuard<'static, State> {
    // The state is whole between any two statements, so that a panic elsewhere does not spoil it.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals that this process ignores, as a bit mask; none where the system does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).unwrap_or(0)
}

/// The terminal's modes at the start: a password prompt that is interrupted leaves the echo off.
struct Terminal {
    device: std::fs::File,
    modes: Termios,
}

impl Terminal {
    fn remember() -> Option<Self> {
        let device = std::fs::File::open("/dev/tty").ok()?;
        let modes = termios::tcgetattr(&device).ok()?;
        Some(Self { device, modes })
    }

    fn restore(&self) {
        // In the background the terminal is somebody else's, and setting its modes would stop the process.
        let foreground = termios::tcgetpgrp(&self.device) == Ok(rustix::process::getpgrp());
        let changed =
            termios::tcgetattr(&self.device).is_ok_and(|now| now.local_modes != self.modes.local_modes);
        if foreground && changed {
            let _ = termios::tcsetattr(&self.device, OptionalActions::Now, &self.modes);
        }
    }
}
