//! Greet: the first words of a connection.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::wire::frame::{FrameError, MAX_CONTROL_BYTES};
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

/// Why a worker was not met.
#[derive(Debug, thiserror::Error)]
pub enum MeetError {
    /// There is no way to it, or another is there.
    #[error("{0}")]
    Connect(#[source] io::Error),
    /// It ended each connection before it said a word.
    #[error("it ended the connection before it said a word")]
    TurnedAway,
    #[error(transparent)]
    Greet(GreetError),
}

/// How often to knock again at a door that was shut before a word was said.
const DOOR_TRIES: u32 = 3;

const DOOR_PAUSE: Duration = Duration::from_millis(50);

/// Connects and greets. A worker that strangers besiege takes the newest of those at its door, so that one who was shut
/// out tries again.
///
/// # Errors
/// If there is no worker, or it refuses, or says nothing.
pub fn meet(
    mut connect: impl FnMut() -> io::Result<Connection>,
    cluster: &str,
    role: &Role,
    timeout: Duration,
) -> Result<(Connection, Welcome), MeetError> {
    let end = Instant::now() + timeout;
    let mut tries = 0;
    loop {
        let error = match connect() {
            Ok(mut connection) => match greet(&mut connection, cluster, role.clone(), timeout) {
                Ok(welcome) => return Ok((connection, welcome)),
                Err(error) => MeetError::Greet(error),
            },
            Err(error) => match FrameError::from(error) {
                FrameError::Torn => MeetError::TurnedAway,
                FrameError::Silent => MeetError::Greet(GreetError::Silent(timeout)),
                FrameError::Io(error) => MeetError::Connect(error),
                other => MeetError::Greet(GreetError::Broken(other)),
            },
        };
        let is_shut =
            matches!(error, MeetError::TurnedAway | MeetError::Greet(GreetError::Broken(FrameError::Torn)));
        if !is_shut || tries == DOOR_TRIES || Instant::now() >= end {
            return Err(error);
        }
        tries += 1;
        std::thread::sleep(DOOR_PAUSE);
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
        Greeting::Welcome(welcome) => {
            // What follows is not bound by what the greeting has left.
            connection.control.set_deadline(timeout).map_err(|error| broken(error.into()))?;
            Ok(welcome)
        }
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
