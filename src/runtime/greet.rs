//! Greet: the first words of a connection, from the side that made it.

use std::time::Duration;

use crate::wire::frame::FrameError;
use crate::wire::message::{Greeting, Hello, MAGIC, PROTOCOL, Role, Welcome, read_message, write_message};

use super::link::Connection;

/// Version of this program.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// Why a worker did not take us.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    #[error("no word from it for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("what listens there is not a mapreduce worker")]
    Stranger,
    #[error("the worker refused: {reason} (it runs version {program}, this is {PROGRAM})")]
    Refused { reason: String, program: String },
    #[error(transparent)]
    Broken(FrameError),
}

/// Greets the worker at the other end of `connection`, within `timeout` for each step.
///
/// # Errors
/// If it is not a worker, refuses, or says nothing.
pub fn greet(
    connection: &mut Connection,
    key: &str,
    role: Role,
    timeout: Duration,
) -> Result<Welcome, GreetError> {
    let broken = |error: FrameError| match error {
        FrameError::Silent => GreetError::Silent(timeout),
        FrameError::NotAFrame(_) | FrameError::TooLong { .. } | FrameError::Malformed(_) => {
            GreetError::Stranger
        }
        other => GreetError::Broken(other),
    };
    connection.control.set_deadline(timeout).map_err(|error| broken(error.into()))?;
    let hello = Hello {
        magic: MAGIC.to_owned(),
        protocol: PROTOCOL,
        program: PROGRAM.to_owned(),
        key: key.to_owned(),
        role,
    };
    write_message(&mut connection.writer, &hello).map_err(broken)?;
    match read_message(&mut connection.reader).map_err(broken)? {
        Greeting::Welcome(welcome) => Ok(welcome),
        Greeting::Refused { reason, program } => Err(GreetError::Refused { reason, program }),
    }
}
