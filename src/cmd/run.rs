//! `run`: runs the job over the input and writes the result.

use std::path::PathBuf;
use std::time::Duration;

use crate::edge::output::{Destination, Format};
use crate::job::Job;

use super::cli::{CommandError, Console};

/// Which workers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The deployed cluster, if there is one; else in-process.
    Default,
    /// Those at `HOST:PORT`, resolved by the client.
    Named(Vec<String>),
    /// In-process.
    Local,
}

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Files; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    pub hosts: PathBuf,
    pub workers: Workers,
    /// How many of the workers to use; all if `None`.
    pub servers: Option<usize>,
    pub top: Option<usize>,
    pub destination: Destination,
    pub format: Format,
    /// Chosen from the size of the input if `None`.
    pub split_size: Option<u64>,
    pub report: Option<PathBuf>,
    /// Map threads of the in-process engine; all cores if `None`.
    pub threads: Option<usize>,
    /// How long a worker may be silent before it counts as lost.
    pub worker_timeout: Duration,
}

/// Runs the job.
///
/// # Errors
/// If the result could not be had whole; there is then no output file.
pub fn run<J: Job>(options: &RunOptions, params: J::Params, console: &Console) -> Result<(), CommandError> {
    let _ = (options, params, console);
    todo!()
}
