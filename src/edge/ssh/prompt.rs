//! Prompt: asks the user, for passwords and passphrases once for all the hosts that share them.
//!
//! Sessions log in on parallel threads, so a lock decides who asks. It is held until what was typed has been tried: a
//! mistyped password goes to one host, not to all of them, whose fail2ban would take notice.
//!
//! Secrets are wiped when they are dropped; those that were right are kept until the process ends. What `rpassword`,
//! the `ssh2` crate and libssh2 copy for the time of one call is freed by them, but not wiped: the C strings of a
//! password, a passphrase and a key, the answers of a dialogue, and the packets these are sent in.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use zeroize::Zeroizing;

use super::MAX_SAID_CHARS;
use crate::edge::sanitize::{clipped, sanitize};

/// How often a user may mistype.
const TRIES: usize = 3;

/// Bytes of an answer that is not hidden; what is longer is none.
const MAX_ANSWER_BYTES: u64 = 4 << 10;

/// What was typed and found right, by what it was asked for.
static ANSWERS: Mutex<Option<Answers>> = Mutex::new(None);

/// Held by whoever has a question on the terminal, or draws there.
static TERMINAL: Mutex<()> = Mutex::new(());

/// What a secret is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The password of a user, on all hosts.
    Password { user: String },
    /// The passphrase of a key file.
    Passphrase { key: PathBuf },
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The secret was right, or the answer was yes.
    Right,
    /// It was not, or none was given.
    Wrong,
    /// There is nobody to ask.
    NoTerminal,
}

#[derive(Default)]
struct Answers {
    right: HashMap<Purpose, Zeroizing<String>>,
    /// The user was asked for these and did not know, or did not want.
    given_up: HashSet<Purpose>,
    /// Questions that the user said no to.
    denied: HashSet<String>,
}

/// Has `try_secret` try the secret for `purpose`: the one that was right before, or else what the user types.
///
/// Waits for the user, and for other threads that do.
///
/// # Errors
/// Those of `try_secret`.
pub fn with_secret<E>(
    purpose: &Purpose,
    mut try_secret: impl FnMut(&str) -> Result<bool, E>,
) -> Result<Asked, E> {
    let mut answers = lock();
    let known = answers.get_or_insert_default();
    if let Some(secret) = known.right.get(purpose).cloned() {
        drop(answers);
        return Ok(if try_secret(&secret)? { Asked::Right } else { Asked::Wrong });
    }
    if known.given_up.contains(purpose) {
        return Ok(Asked::Wrong);
    }
    if !terminal() {
        return Ok(Asked::NoTerminal);
    }
    for _ in 0..TRIES {
        let Ok(secret) = hidden(&question(purpose)) else { break };
        if secret.is_empty() {
            break;
        }
        if try_secret(&secret)? {
            known.right.insert(purpose.clone(), secret);
            return Ok(Asked::Right);
        }
    }
    known.given_up.insert(purpose.clone());
    Ok(Asked::Wrong)
}

/// Asks a question of `host`'s own, such as for a one-time code. The caller holds a session that waits.
///
/// The user is told who asks: a host could ask for what is none of its business.
///
/// # Errors
/// If there is nobody to ask.
pub fn ask(host: &str, question: &str, echo: bool) -> io::Result<Zeroizing<String>> {
    if !terminal() {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "there is no terminal to ask on"));
    }
    let question = format!("{} asks: {} ", sanitize(host), clipped(question, MAX_SAID_CHARS));
    if echo { shown(&question) } else { hidden(&question) }
}

/// Asks whether it is so, yes or no; whoever was denied that before is denied it again, without a question.
///
/// Waits for the user, and for other threads that do. When it is our turn, `is_settled` tells whether another thread
/// has got the answer meanwhile, which then was yes; a yes is settled by `settle`, before the next one's turn.
///
/// # Errors
/// Those of `is_settled` and `settle`.
pub fn confirm<E>(
    question: &str,
    is_settled: impl FnOnce() -> Result<bool, E>,
    settle: impl FnOnce() -> Result<(), E>,
) -> Result<Asked, E> {
    let mut answers = lock();
    let known = answers.get_or_insert_default();
    if known.denied.contains(question) {
        return Ok(Asked::Wrong);
    }
    if is_settled()? {
        return Ok(Asked::Right);
    }
    if !terminal() {
        return Ok(Asked::NoTerminal);
    }
    for _ in 0..TRIES {
        match shown(&format!("{question} (yes/no) ")).as_deref().map(|answer| answer.trim()) {
            Ok("yes") => return settle().map(|()| Asked::Right),
            Ok("no") | Err(_) => break,
            Ok(_) => {}
        }
    }
    known.denied.insert(question.to_string());
    Ok(Asked::Wrong)
}

/// Tells whether a person can be asked.
pub fn terminal() -> bool {
    io::stdin().is_terminal() && fs::OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok()
}

/// Draws on the terminal, unless there is a question on it.
pub fn unless_asking(draw: impl FnOnce()) {
    match TERMINAL.try_lock() {
        Err(TryLockError::WouldBlock) => {}
        Ok(_) | Err(TryLockError::Poisoned(_)) => draw(),
    }
}

/// Writes to the terminal, once there is no question on it.
pub fn after_asking(write: impl FnOnce()) {
    let _ours = TERMINAL.lock().unwrap_or_else(PoisonError::into_inner);
    write();
}

/// Asks, and reads what is not shown while it is typed.
fn hidden(question: &str) -> io::Result<Zeroizing<String>> {
    let _ours = TERMINAL.lock().unwrap_or_else(PoisonError::into_inner);
    clear_line(&mut fs::OpenOptions::new().write(true).open("/dev/tty")?)?;
    rpassword::prompt_password(question).map(Zeroizing::new)
}

/// Asks, and reads a line.
fn shown(question: &str) -> io::Result<Zeroizing<String>> {
    let _ours = TERMINAL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tty = fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    clear_line(&mut tty)?;
    tty.write_all(question.as_bytes())?;
    let mut answer = Zeroizing::new(String::new());
    if io::BufReader::new(tty.take(MAX_ANSWER_BYTES)).read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = answer.trim_end_matches(['\r', '\n']).len();
    answer.truncate(length);
    Ok(answer)
}

/// Takes away a progress bar that stands where the question goes.
fn clear_line(tty: &mut fs::File) -> io::Result<()> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if is_dumb { Ok(()) } else { tty.write_all(b"\r\x1b[K") }
}

fn question(purpose: &Purpose) -> String {
    let name = |path: &Path| sanitize(&path.to_string_lossy()).into_owned();
    match purpose {
        Purpose::Password { user } => format!("Password of {} on the hosts: ", sanitize(user)),
        Purpose::Passphrase { key } => format!("Passphrase of the key {}: ", name(key)),
    }
}

fn lock() -> MutexGuard<'static, Option<Answers>> {
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}
