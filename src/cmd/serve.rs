//! `serve`: a worker, in the foreground for debugging by hand, or detached by `deploy`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::job::Job;

use super::cli::{CommandError, Console};

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub port: u16,
    /// Loopback unless told otherwise.
    pub bind: IpAddr,
    /// Map threads; all cores if `None`.
    pub threads: Option<usize>,
    /// Bytes that jobs may hold; most of the machine's memory if `None`.
    pub memory: Option<u64>,
    /// Ends the worker after such a time without a job; never if `None`.
    pub idle_timeout: Option<Duration>,
    /// Set by `deploy` only: the worker's own directory. The worker reads its start-up orders (JSON) from standard
    /// input, detaches itself, and reports port and pid as one line of JSON on standard output.
    pub detach: Option<PathBuf>,
}

/// Runs a worker.
///
/// # Errors
/// If the port cannot be had.
pub fn serve<J: Job>(options: &ServeOptions, console: &Console) -> Result<(), CommandError> {
    let _ = (options, console);
    todo!()
}
