//! Failure: why one host is out; a value, so that the other hosts go on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::sanitize::sanitize;
use super::ssh::known_hosts::HostKeyError;

/// Lines of one cause that are shown; a remote shell can be talkative.
const CAUSE_LINES: usize = 8;

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

    /// Says what the user can do about it.
    pub fn advice(&self) -> String {
        let host = &self.host;
        match self.step {
            Step::Configure => {
                "correct the line of ~/.ssh/config that is named, or set MAPREDUCE_SSH_CONFIG".into()
            }
            Step::Resolve => format!("getent hosts {host}; if short names are meant, add --suffix"),
            Step::Connect => {
                format!("ssh {host}; if that waits, too, the host is down or a firewall is in between")
            }
            Step::Handshake => format!("ssh -v {host}; if it is slow, raise --timeout"),
            Step::HostKey => match self.cause.downcast_ref::<HostKeyError>() {
                Some(error) => error.advice(),
                None => format!("ssh {host}, and compare the key with one from a source you trust"),
            },
            Step::Authenticate => {
                format!("ssh {host}; add the key with ssh-add, name it in the hosts file, or set --user")
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
                "mapreduce status; if the worker runs, a firewall keeps its port from this machine".into()
            }
            Step::Record => "df -h . and ls -ld .mapreduce on this machine, beside the hosts file".into(),
            Step::Stop => format!("ssh {host} pkill -u \"$USER\" mapreduce, then `mapreduce stop` again"),
        }
    }

    /// Renders the failure as the commands print it, in several lines, the last without an end.
    ///
    /// What came from the host is made safe for the terminal.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}");
        for cause in self.cause.chain() {
            let cause = cause.to_string();
            let mut lines = cause.lines().map(str::trim_end).filter(|line| !line.is_empty());
            text += &format!("\n  cause: {}", sanitize(lines.next().unwrap_or("unknown")));
            for line in lines.by_ref().take(CAUSE_LINES - 1) {
                text += &format!("\n         {}", sanitize(line));
            }
            if lines.next().is_some() {
                text += "\n         ...";
            }
        }
        text + "\n  try: " + &self.advice()
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
    fn report_names_host_step_causes_and_advice() {
        let cause = anyhow!("./mapreduce: Permission denied").context("remote shell exited with status 126");
        let failure = HostFailure::new(&HostName("worker-07".into()), Step::Start, cause);
        assert_eq!(
            failure.report(),
            "error: worker-07: could not start the worker\n  \
             cause: remote shell exited with status 126\n  \
             cause: ./mapreduce: Permission denied\n  \
             try: --remote-dir DIR, with DIR on a file system not mounted noexec"
        );
    }

    #[test]
    fn report_is_safe_for_a_terminal_whatever_the_host_says() {
        let cause = anyhow!("\n\n\x1b]0;owned\x07\r\nsecond line\n{}", "more\n".repeat(50));
        let report = HostFailure::new(&HostName("evil\x1b[2J".into()), Step::Probe, cause).report();
        assert!(!report.contains(|c: char| c.is_control() && c != '\n'), "{report:?}");
        assert!(report.contains("\n         second line\n"), "{report}");
        assert!(report.lines().count() < 15, "{report}");
    }
}
