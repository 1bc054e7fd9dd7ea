//! Greet: the first words of a connection.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::wire::frame::{FrameError, MAX_CONTROL_BYTES};
use crate::wire::message::{Greeting, Hello, MAGIC, PROTOCOL, Role, Welcome, read_message, write_message};

use super::link::Connection;

/// Version of this program.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// How often to knock again at a worker that ended the connection before it knew who we are: one that strangers besiege
/// has room for so many of those who are at its door.
pub const DOOR_TRIES: u32 = 3;
pub const DOOR_PAUSE: Duration = Duration::from_millis(50);

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

impl GreetError {
    /// Tells whether the worker ended the connection without a word: with TLS 1.3, our side of the handshake is done
    /// before the worker knows who we are.
    pub fn is_turned_away(&self) -> bool {
        matches!(self, Self::Broken(FrameError::Torn))
    }
}

/// Greets the worker at the other end of `connection`: what is said takes no longer than `timeout`, and so the answer.
///
/// # Errors
/// If it is not a worker, refuses, or says nothing.
pub fn greet(
    connection: &mut Connection,
    cluster: &str,
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
        cluster: cluster.to_owned(),
        role,
    };
    write_message(&mut connection.writer, &hello).map_err(broken)?;
    let mut reader = Until::within(timeout, connection);
    match read_message(&mut reader, MAX_CONTROL_BYTES).map_err(broken)? {
        Greeting::Welcome(welcome) => Ok(welcome),
        Greeting::Refused { reason, program } => Err(GreetError::Refused { reason, program }),
    }
}

/// Reads from a connection until a moment that bounds all reads together, so that nobody holds a connection by a byte
/// now and then.
pub(crate) struct Until<'c> {
    connection: &'c mut Connection,
    end: Instant,
}

impl<'c> Until<'c> {
    /// Reads from `connection` for no longer than `limit` from now. What is not read stays for later readers.
    pub(crate) fn within(limit: Duration, connection: &'c mut Connection) -> Self {
        Self { connection, end: Instant::now() + limit }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.connection.control.set_deadline(left)?;
        self.connection.reader.read(into)
    }
}
