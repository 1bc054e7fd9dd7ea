//! The command line: checks and converts; doing starts after parsing.

use std::process::ExitCode;

use crate::job::Job;

/// Runs the command line of a program whose job is `J`: the whole of its `main`.
pub fn main<J: Job>() -> ExitCode {
    todo!()
}

/// How a command speaks to the user on standard error: errors always, the rest as `-q` and `-v` say.
#[derive(Clone, Debug)]
pub struct Console {
    /// `-q`: errors only.
    pub quiet: bool,
    /// `-v`: details, too.
    pub verbose: bool,
    /// Whether standard error is a terminal that takes colours and moving lines.
    pub fancy: bool,
}

/// Why a command failed; `exit` is used in one place.
#[derive(Debug)]
pub struct CommandError {
    /// What failed, with its causes.
    pub cause: anyhow::Error,
    /// What to do next, if there is something.
    pub advice: Option<String>,
    pub exit: Exit,
}

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failure = 1,
    Usage = 2,
    Interrupted = 130,
}
