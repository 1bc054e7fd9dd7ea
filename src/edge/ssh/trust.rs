//! Trust: whether the key that a host presents is taken.

use std::path::Path;

use anyhow::Context;

use super::known_hosts::{self, HostKeyError, KnownHosts, PublicKey, Unaccepted, Verdict};
use super::login::Login;
use super::prompt::{self, Asked};
use crate::edge::sanitize::sanitize;

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

/// The host has hung up while its user was asked about its key, which is known now.
#[derive(Debug, thiserror::Error)]
#[error("the host did not wait for the answer")]
pub struct AcceptedLate;

/// Takes or refuses `key`, which the host of `login` presents; `known` is what was read before from `file`, where a key
/// that is new is recorded. Tells whether the user was asked, which takes longer than hosts may wait.
///
/// # Errors
/// [`HostKeyError`] if it must not be trusted.
pub fn check(
    login: &Login,
    key: &PublicKey,
    known: &KnownHosts,
    file: &Path,
    policy: NewHostKeys,
) -> anyhow::Result<bool> {
    let (name, port) = login.known_as();
    if known.check(name, port, key)? == Verdict::Known {
        return Ok(false);
    }
    let why = match policy {
        NewHostKeys::Accept => return record(login, key, file).map(|()| false),
        NewHostKeys::Refuse => Unaccepted::Policy,
        NewHostKeys::Ask => {
            let is_recorded =
                || anyhow::Ok(KnownHosts::read(file)?.check(name, port, key)? == Verdict::Known);
            match prompt::confirm(&question(login, key), is_recorded, || record(login, key, file))? {
                Asked::Right => return Ok(true),
                Asked::Wrong => Unaccepted::User,
                Asked::NoTerminal => Unaccepted::NoTerminal,
            }
        }
    };
    Err(HostKeyError::Unknown {
        name: known_hosts::known_as(name, port),
        presented: key.fingerprint(),
        line: known_hosts::line(name, port, key),
        file: file.to_path_buf(),
        why,
    }
    .into())
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
