//! Trust: whether the key that a host presents is taken.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::known_hosts::{self, HostKeyError, KnownHosts, PublicKey, Unaccepted, Verdict};
use super::login::Login;
use super::prompt::{self, Asked};
use crate::edge::sanitize::sanitize;

/// A host that has waited so long for its user is connected to anew; sshd itself hangs up after two minutes.
const HOST_PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a host whose key is not known. One whose key has changed is always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewHostKeys {
    /// Its key is recorded, as OpenSSH's `StrictHostKeyChecking accept-new` has it.
    #[default]
    Accept,
    /// It is refused.
    Refuse,
    /// The user decides, and is refused without a terminal.
    Ask,
}

/// The key is known now, but the user took so long that the host may have hung up.
#[derive(Debug, thiserror::Error)]
#[error("the host waited too long for the answer")]
pub struct AcceptedLate;

/// Takes or refuses `key`, which the host of `login` presents; `known` is what was read before from `file`, where a key
/// that is new is recorded.
///
/// # Errors
/// [`HostKeyError`] if it must not be trusted, [`AcceptedLate`] to have it tried again.
pub fn check(
    login: &Login,
    key: &PublicKey,
    known: &KnownHosts,
    file: &Path,
    policy: NewHostKeys,
) -> anyhow::Result<()> {
    let (name, port) = login.known_as();
    if known.check(name, port, key)? == Verdict::Known {
        return Ok(());
    }
    let unknown = |why| HostKeyError::Unknown {
        name: known_hosts::known_as(name, port),
        presented: key.fingerprint(),
        line: known_hosts::line(name, port, key),
        file: file.to_path_buf(),
        why,
    };
    match policy {
        NewHostKeys::Accept => record(login, key, file),
        NewHostKeys::Refuse => Err(unknown(Unaccepted::Policy).into()),
        NewHostKeys::Ask => {
            let asked = Instant::now();
            let is_recorded =
                || anyhow::Ok(KnownHosts::read(file)?.check(name, port, key)? == Verdict::Known);
            match prompt::confirm(&question(login, key), is_recorded)? {
                Asked::Right => record(login, key, file)?,
                Asked::Wrong => return Err(unknown(Unaccepted::User).into()),
                Asked::NoTerminal => return Err(unknown(Unaccepted::NoTerminal).into()),
            }
            if asked.elapsed() < HOST_PATIENCE { Ok(()) } else { Err(anyhow!(AcceptedLate)) }
        }
    }
}

fn record(login: &Login, key: &PublicKey, file: &Path) -> anyhow::Result<()> {
    let (name, port) = login.known_as();
    known_hosts::record(file, name, port, key)
        .with_context(|| format!("could not record the key in {}", file.display()))
}

fn question(login: &Login, key: &PublicKey) -> String {
    let (name, port) = login.known_as();
    let place = known_hosts::known_as(name, port);
    let called = sanitize(&login.name);
    let host = if *called == *place { place } else { format!("{called} ({place})") };
    format!("{host} is not in known_hosts. It presents the key\n  {}\nIs that its key?", key.fingerprint())
}
