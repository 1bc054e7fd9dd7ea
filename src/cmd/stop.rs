//! `stop`: stops the workers and removes every trace of them, also after crashes.

use std::path::PathBuf;
use std::time::Duration;

use super::cli::{CommandError, Console};

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct StopOptions {
    pub hosts: PathBuf,
    pub timeout: Duration,
    pub parallel: usize,
    pub ssh_rate: Option<(u32, Duration)>,
}

/// Stops what `deploy` started.
///
/// # Errors
/// If some host could not be cleaned; it stays in the record.
pub fn stop(options: &StopOptions, console: &Console) -> Result<(), CommandError> {
    let _ = (options, console);
    todo!()
}
