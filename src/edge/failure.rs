//! Failure: why one host is out; a value, so that the other hosts go on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A host as the user named it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostName(pub String);

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
}

/// Why one host is out. `step` alone chooses the advice printed under `try:`.
#[derive(Debug)]
pub struct HostFailure {
    pub host: HostName,
    pub step: Step,
    pub cause: anyhow::Error,
}
