//! SSH: sessions to hosts, over libssh2.
//!
//! Invariant: one session, one thread. Every call has a deadline.

use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::failure::{HostFailure, HostName};

/// A host to log in to, as the hosts file and the command line say; `~/.ssh/config` fills in the rest.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: HostName,
    pub user: Option<String>,
    pub port: Option<u16>,
    /// The configured key, tried before the default ones.
    pub key: Option<PathBuf>,
}

/// What is the same for all sessions of one command.
#[derive(Clone)]
pub struct SshOptions {
    /// Bound on connecting, on the handshake and on each authentication.
    pub timeout: Duration,
    /// `~/.ssh/config` unless told otherwise (`MAPREDUCE_SSH_CONFIG`).
    pub config: Option<PathBuf>,
    /// `~/.ssh/known_hosts` unless told otherwise (`MAPREDUCE_KNOWN_HOSTS`).
    pub known_hosts: Option<PathBuf>,
}

/// An authenticated SSH session to one host.
pub struct Session {
    _private: (),
}

/// What a remote command left.
#[derive(Debug)]
pub struct CommandOutput {
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Session {
    /// Connects, checks the host key, logs in.
    ///
    /// # Errors
    /// With the step that failed and its cause.
    pub fn connect(target: &Target, options: &SshOptions) -> Result<Session, HostFailure> {
        let _ = (target, options);
        todo!()
    }

    /// Returns the address of the host: the one connected to, or, behind a jump host, the one that the host's sshd
    /// saw the connection come in at.
    pub fn host_address(&self) -> IpAddr {
        todo!()
    }

    /// Runs `command` in the remote shell with `stdin` as its standard input.
    ///
    /// # Errors
    /// If it has not ended by `deadline` (the session is then unusable), or the connection broke.
    pub fn run(&mut self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<CommandOutput> {
        let _ = (command, stdin, deadline);
        todo!()
    }

    /// Writes `len` bytes of `from` to the remote file `path`, atomically, with permission bits `mode`. `path` is
    /// taken as it is: no `~`, no variable. `stall` bounds each wait for progress. `progress` hears the bytes sent.
    ///
    /// # Errors
    /// If the file could not be written whole; then there is no file at `path` of ours.
    pub fn upload(
        &mut self,
        from: &mut dyn Read,
        len: u64,
        path: &str,
        mode: u32,
        stall: Duration,
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<()> {
        let _ = (from, len, path, mode, stall, progress);
        todo!()
    }
}
