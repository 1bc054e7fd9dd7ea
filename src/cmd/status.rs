//! `status`: what runs where.

use std::path::PathBuf;
use std::time::Duration;

use super::cli::{CommandError, Console};

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    pub hosts: PathBuf,
    pub timeout: Duration,
}

/// Asks each deployed worker how it is and prints a table on standard output.
///
/// # Errors
/// If there is no cluster, or a worker of it does not answer.
pub fn status(options: &StatusOptions, console: &Console) -> Result<(), CommandError> {
    let _ = (options, console);
    todo!()
}
