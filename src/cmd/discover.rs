//! `discover`: finds machines that answer and writes them to the hosts file.

use std::path::PathBuf;
use std::time::Duration;

use super::cli::{CommandError, Console};

/// Where candidates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address or a file: JSON, HTML or a text list, told apart by content.
    From(String),
    /// Such as `tp-1a201-[00-30]`.
    Range(String),
}

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct DiscoverOptions {
    /// How many hosts are wanted.
    pub wanted: usize,
    pub source: Source,
    pub user: Option<String>,
    /// Added to short names.
    pub suffix: String,
    pub hosts: PathBuf,
    /// Bound on each step of a probe.
    pub timeout: Duration,
    /// Probes at a time.
    pub parallel: usize,
    /// At most this many SSH connections in such a time (`--ssh-rate 5/min`).
    pub ssh_rate: Option<(u32, Duration)>,
}

/// Probes candidates until enough answered, and writes the hosts file.
///
/// # Errors
/// If fewer than `options.wanted` answered (those are written), or nothing could be probed or written.
pub fn discover(options: &DiscoverOptions, console: &Console) -> Result<(), CommandError> {
    let _ = (options, console);
    todo!()
}
