//! `deploy`: uploads the program to the hosts, starts a worker on each, and records the cluster.

use std::path::PathBuf;
use std::time::Duration;

use super::cli::{CommandError, Console};

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct DeployOptions {
    pub hosts: PathBuf,
    /// The program to upload; this one if `None`.
    pub binary: Option<PathBuf>,
    /// Where the program goes on each host, over the hosts file's; a default if `None`.
    pub remote_dir: Option<String>,
    /// A directory that all hosts share: the program is uploaded once.
    pub shared_dir: Option<String>,
    pub idle_timeout: Duration,
    /// Hosts at a time.
    pub parallel: usize,
    /// Bound on each step.
    pub timeout: Duration,
    pub ssh_rate: Option<(u32, Duration)>,
    /// Handed on to `serve`.
    pub threads: Option<usize>,
    pub memory: Option<u64>,
}

/// Deploys to every host of the hosts file.
///
/// # Errors
/// If some host could not be deployed to; the others are deployed and recorded.
pub fn deploy(options: &DeployOptions, console: &Console) -> Result<(), CommandError> {
    let _ = (options, console);
    todo!()
}
