//! Failure: why one host is out; a value, so that the other hosts go on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::sanitize::sanitize;
use super::ssh::known_hosts::HostKeyError;
use super::ssh::{CallError, TunnelError};

/// A host as the user named it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostName(pub String);

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sanitize(&self.0))
    }
}

/// What was being done to a host. It alone chooses the advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading `~/.ssh/config` and the keys.
    Configure,
    /// Resolving the name.
    Resolve,
    /// Connecting to the SSH port.
    Connect,
    /// The SSH handshake.
    Handshake,
    /// Comparing the host key with `known_hosts`.
    HostKey,
    /// Logging in.
    Authenticate,
    /// Gathering facts about the host.
    Probe,
    /// Creating or checking the remote directory.
    Directory,
    /// Comparing architecture and libc with the program's.
    Architecture,
    /// Uploading the program.
    Upload,
    /// Starting the worker.
    Start,
    /// Reaching the worker's port from the client.
    Reach,
    /// Stopping workers and removing what was deployed.
    Stop,
    /// Writing the record of the cluster on this machine.
    Record,
}

/// Completes "could not ...".
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Configure => "read the SSH configuration",
            Step::Resolve => "resolve the name",
            Step::Connect => "connect",
            Step::Handshake => "begin an SSH session",
            Step::HostKey => "trust the host key",
            Step::Authenticate => "log in",
            Step::Probe => "gather facts about the host",
            Step::Directory => "prepare the remote directory",
            Step::Architecture => "use this program on the host",
            Step::Upload => "upload the program",
            Step::Start => "start the worker",
            Step::Reach => "reach the worker",
            Step::Stop => "stop the worker",
            Step::Record => "record the worker",
        })
    }
}

/// Why one host is out. `step` alone chooses the advice printed under `try:`.
#[derive(Debug)]
pub struct HostFailure {
    pub host: HostName,
    pub step: Step,
    pub cause: anyhow::Error,
}

impl HostFailure {
    /// Makes the failure of `step` on `host`.
    pub fn new(host: &HostName, step: Step, cause: impl Into<anyhow::Error>) -> HostFailure {
        HostFailure { host: host.clone(), step, cause: cause.into() }
    }

    /// Tells whether the step failed because the connection did, once there was one.
    fn is_disconnect(&self) -> bool {
        let mut causes = self.cause.chain().filter_map(|cause| cause.downcast_ref::<CallError>());
        let is_gone = causes.any(CallError::is_disconnect)
            || self.cause.downcast_ref().is_some_and(TunnelError::is_disconnect);
        !matches!(self.step, Step::Connect | Step::Handshake) && is_gone
    }

    /// Says what the user can do about it.
    pub fn advice(&self) -> String {
        let host = &self.host;
        if self.is_disconnect() {
            return format!("ssh {host}, and again if that works; if it is slow, raise --timeout");
        }
        if let Some(advice) = self.cause.downcast_ref().and_then(TunnelError::advice) {
            return advice.into();
        }
        match self.step {
            Step::Configure => {
                "correct the line of ~/.ssh/config that is named, or set MAPREDUCE_SSH_CONFIG".into()
            }
            Step::Resolve => format!(
                "getent hosts {host}; for short names, a `suffix` in the hosts file, or `discover --suffix`"
            ),
            Step::Connect => format!(
                "ssh {host}; if that fails, too, the host is down or a firewall is in between; if not, look at \
                 its port in the hosts file"
            ),
            Step::Handshake => format!("ssh -v {host}; if it is slow, raise --timeout"),
            Step::HostKey => match self.cause.downcast_ref::<HostKeyError>() {
                Some(error) => error.advice(),
                None => format!("ssh {host}, and compare the key with one from a source you trust"),
            },
            Step::Authenticate => {
                format!("ssh {host}; add the key with ssh-add, or name `user` and `key` in the hosts file")
            }
            Step::Probe => {
                format!("ssh {host} uname -a; the login shell must run plain commands without printing")
            }
            Step::Directory => {
                "--remote-dir DIR, with DIR your own (chmod 700) or new, not mounted noexec".into()
            }
            Step::Architecture => "--binary FILE, with a static build for the host's architecture".into(),
            Step::Upload => format!("ssh {host} df -h, then --remote-dir DIR on a file system with space"),
            Step::Start => "--remote-dir DIR, with DIR on a file system not mounted noexec".into(),
            Step::Reach => {
                "a machine inside the hosts' network: most likely a firewall keeps high ports from this one"
                    .into()
            }
            Step::Record => "df -h . and ls -ld .mapreduce on this machine, beside the hosts file".into(),
            Step::Stop => format!("ssh {host} 'pkill -u \"$USER\" mapreduce', then `stop` again"),
        }
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: could not {}", self.host, self.step)
    }
}

impl std::error::Error for HostFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn broken_connection_has_advice_of_its_own() {
        let cause =
            || anyhow!(CallError::TimedOut(std::time::Duration::from_secs(6))).context("could not write x");
        let advice = |step| HostFailure::new(&HostName("h".into()), step, cause()).advice();
        assert!(advice(Step::Upload).contains("ssh h, and again"), "{}", advice(Step::Upload));
        assert!(advice(Step::Handshake).contains("ssh -v h"), "{}", advice(Step::Handshake));
    }
}
