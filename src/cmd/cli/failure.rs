//! Failure: how a command ends that does not succeed.

use crate::edge::hosts::NoHosts;

/// Why a command failed; `exit` is used in one place.
#[derive(Debug)]
pub struct CommandError {
    /// What failed, with its causes.
    pub cause: anyhow::Error,
    /// What to do next, if there is something.
    pub advice: Option<String>,
    pub exit: Exit,
}

impl CommandError {
    /// Returns the same error with advice on what to do next.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Returns the error of a command that was not typed as it must be, though clap took it.
    pub fn usage(cause: anyhow::Error) -> Self {
        Self { cause, advice: None, exit: Exit::Usage }
    }

    /// Returns the error of a command that the user interrupted.
    pub fn interrupted() -> Self {
        Self { cause: anyhow::anyhow!("interrupted"), advice: None, exit: Exit::Interrupted }
    }
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(cause: E) -> Self {
        let cause = cause.into();
        let advice = cause.downcast_ref().map(|cause: &NoHosts| cause.advice().to_owned());
        Self { cause, advice, exit: Exit::Failure }
    }
}

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failure = 1,
    Usage = 2,
    Interrupted = 130,
}

impl Exit {
    /// Returns what the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }
}
