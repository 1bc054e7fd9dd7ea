//! Prompt: asks the user for passwords and passphrases, once for all the hosts that share them.
//!
//! Sessions log in on parallel threads, so a lock decides who asks. It is held until what was typed has been tried: a
//! mistyped password goes to one host, not to all of them, whose fail2ban would take notice.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::edge::sanitize::sanitize;

/// How often a user may mistype.
const TRIES: usize = 3;

/// What was typed and found right, by what it was asked for.
static ANSWERS: Mutex<Option<Answers>> = Mutex::new(None);

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
    /// The secret was right.
    Right,
    /// It was not, or none was given.
    Wrong,
    /// There is nobody to ask.
    NoTerminal,
}

#[derive(Default)]
struct Answers {
    right: HashMap<Purpose, Secret>,
    /// The user was asked for these and did not know, or did not want.
    given_up: HashSet<Purpose>,
}

/// A password or passphrase; it is not shown.
#[derive(Clone)]
struct Secret(String);

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
        return Ok(if try_secret(&secret.0)? { Asked::Right } else { Asked::Wrong });
    }
    if known.given_up.contains(purpose) {
        return Ok(Asked::Wrong);
    }
    if !terminal() {
        return Ok(Asked::NoTerminal);
    }
    for _ in 0..TRIES {
        let Ok(secret) = rpassword::prompt_password(question(purpose)) else { break };
        if secret.is_empty() {
            break;
        }
        if try_secret(&secret)? {
            known.right.insert(purpose.clone(), Secret(secret));
            return Ok(Asked::Right);
        }
    }
    known.given_up.insert(purpose.clone());
    Ok(Asked::Wrong)
}

/// Asks a question of the host's own, such as for a one-time code. The caller holds a session that waits.
///
/// # Errors
/// If there is nobody to ask.
pub fn ask(question: &str, echo: bool) -> io::Result<String> {
    if !terminal() {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "there is no terminal to ask on"));
    }
    let question = format!("{} ", sanitize(question.trim_end()));
    if echo {
        let mut tty = fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        io::Write::write_all(&mut tty, question.as_bytes())?;
        let mut answer = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(tty), &mut answer)?;
        Ok(answer.trim_end_matches(['\r', '\n']).to_string())
    } else {
        rpassword::prompt_password(question)
    }
}

/// Tells whether a person can be asked.
pub fn terminal() -> bool {
    io::stdin().is_terminal() && fs::OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok()
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
