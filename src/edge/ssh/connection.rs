//! Connection: one libssh2 session over one socket, where no call waits beyond its deadline.
//!
//! The session is non-blocking from the first byte to the last, and all waiting is done here by `poll`. libssh2's own
//! time-out is in whole seconds, holds per call, and counts again when a channel or session of a frozen host is
//! dropped; here, nothing that is dropped ever waits.
//!
//! Invariant: an operation that stopped in the middle of sending a packet is called again, with the same arguments,
//! before any other, since libssh2 would mix up the packets ([`Progress::BlockedSending`]).

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode};

use super::relay::{Await, Relay};

/// libssh2's code for "would block".
const EAGAIN: i32 = -37;

/// Bytes that a host may send before its user is logged in. Keys, banner and lists are a few KiB.
const MAX_LOGIN_BYTES: u64 = 1 << 20;

/// Bytes that a host may send after that though nobody asked for them, besides what goes with the bytes that were
/// asked for or sent: libssh2 keeps some of their kinds.
const MAX_UNASKED_BYTES: u64 = 64 << 20;

/// How long to wait where libssh2 does not say what it waits for.
const UNKNOWN_WAIT: Duration = Duration::from_millis(20);

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    limit: Duration,
    at: Instant,
}

impl Deadline {
    /// Returns the deadline that is `limit` away.
    pub fn within(limit: Duration) -> Deadline {
        let now = Instant::now();
        // A limit beyond what the clock can hold means "in a very long time".
        let at = now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600));
        Deadline { limit, at }
    }

    /// Begins anew, because there was progress.
    pub fn renew(&mut self) {
        *self = Deadline::within(self.limit);
    }

    /// Returns the time that is left.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] if none is.
    pub fn left(&self) -> Result<Duration, CallError> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(CallError::TimedOut(self.limit)) } else { Ok(left) }
    }
}

/// Why a call on a session failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("the session was given up after an earlier failure")]
    GivenUp,
    #[error("the host sends without end what nobody asked for")]
    Flooded,
    // Neither error is a source: it would be told twice.
    #[error("{}", ssh_message(.0))]
    Ssh(ssh2::Error),
    #[error("{0}")]
    Io(io::Error),
}

impl From<ssh2::Error> for CallError {
    fn from(error: ssh2::Error) -> Self {
        CallError::Ssh(error)
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        CallError::Io(error)
    }
}

impl CallError {
    /// Tells whether the connection is gone, as opposed to a request that was refused.
    pub fn is_disconnect(&self) -> bool {
        // SOCKET_NONE, BANNER_SEND/RECV, SOCKET_SEND, SOCKET_DISCONNECT, SOCKET_TIMEOUT, SOCKET_RECV, BAD_SOCKET.
        const GONE: [i32; 8] = [-1, -2, -3, -7, -13, -30, -43, -45];
        match self {
            CallError::Ssh(error) => {
                matches!(error.code(), ErrorCode::Session(code) if GONE.contains(&code))
            }
            CallError::TimedOut(_) | CallError::GivenUp | CallError::Flooded => true,
            CallError::Io(_) => false,
        }
    }

    fn would_block(&self) -> bool {
        match self {
            CallError::Ssh(error) => error.code() == ErrorCode::Session(EAGAIN),
            CallError::Io(error) => error.kind() == io::ErrorKind::WouldBlock,
            _ => false,
        }
    }
}

/// How far an operation got without waiting.
pub enum Progress<T> {
    Done(T),
    /// Nothing was there to be received.
    BlockedReceiving,
    /// A packet is half sent; this operation must be the next one.
    BlockedSending,
}

/// One session over one socket.
pub struct Connection {
    session: ssh2::Session,
    relay: Relay,
    /// Bytes of the host's that somebody asked for.
    taken: u64,
    given_up: bool,
}

impl Connection {
    /// Makes a session over `socket`, which is connected; nothing is sent yet.
    ///
    /// # Errors
    /// If there is no memory or no descriptor left.
    pub fn new(socket: OwnedFd) -> Result<Connection, CallError> {
        let mut session = ssh2::Session::new()?;
        let relay = Relay::new(socket)?;
        session.set_tcp_stream(relay.library_end());
        session.set_blocking(false);
        Ok(Connection { session, relay, taken: 0, given_up: false })
    }

    /// The session, for what needs no network.
    pub fn session(&self) -> &ssh2::Session {
        &self.session
    }

    /// Performs `op` to its end.
    ///
    /// # Errors
    /// The operation's own, or [`CallError::TimedOut`]; then the connection is given up.
    pub fn call<T, E: Into<CallError>>(
        &mut self,
        deadline: &Deadline,
        mut op: impl FnMut(&mut ssh2::Session) -> Result<T, E>,
    ) -> Result<T, CallError> {
        loop {
            match self.settle(deadline, &mut op)? {
                Some(value) => return Ok(value),
                None => self.wait_readable(deadline)?,
            }
        }
    }

    /// Performs `op` as far as it goes without waiting for the host to speak; `None` if it would have to.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn settle<T, E: Into<CallError>>(
        &mut self,
        deadline: &Deadline,
        mut op: impl FnMut(&mut ssh2::Session) -> Result<T, E>,
    ) -> Result<Option<T>, CallError> {
        loop {
            match self.attempt(&mut op)? {
                Progress::Done(value) => return Ok(Some(value)),
                Progress::BlockedReceiving => return Ok(None),
                Progress::BlockedSending => self.wait(Await::Room, deadline)?,
            }
        }
    }

    /// Performs `op` as far as it goes without waiting at all.
    ///
    /// # Errors
    /// The operation's own.
    pub fn attempt<T, E: Into<CallError>>(
        &mut self,
        mut op: impl FnMut(&mut ssh2::Session) -> Result<T, E>,
    ) -> Result<Progress<T>, CallError> {
        if self.given_up {
            return Err(CallError::GivenUp);
        }
        self.relay.pass();
        if self.is_flooded() {
            self.give_up();
            return Err(CallError::Flooded);
        }
        let result = op(&mut self.session).map_err(Into::into);
        self.relay.pass();
        let error = match result {
            Ok(value) => return Ok(Progress::Done(value)),
            Err(error) => error,
        };
        if !error.would_block() {
            return Err(error);
        }
        Ok(match self.session.block_directions() {
            BlockDirections::Outbound | BlockDirections::Both => Progress::BlockedSending,
            BlockDirections::Inbound | BlockDirections::None => Progress::BlockedReceiving,
        })
    }

    /// Waits until the host has sent something.
    ///
    /// # Errors
    /// [`CallError::TimedOut`]; then the connection is given up.
    pub fn wait_readable(&mut self, deadline: &Deadline) -> Result<(), CallError> {
        self.wait(Await::Word, deadline)
    }

    /// Takes note of bytes that were received and of use.
    pub fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// Cuts the connection: whatever is still called on the session returns at once.
    pub fn give_up(&mut self) {
        self.given_up = true;
        self.relay.cut();
    }

    /// What to poll, together with others, for an operation to get on.
    pub fn poll_fds(&self, awaits: Await) -> [PollFd<'_>; 2] {
        self.relay.poll_fds(awaits)
    }

    fn is_flooded(&self) -> bool {
        let received = self.relay.received();
        if received <= MAX_LOGIN_BYTES {
            return false;
        }
        // A packet of a tunnel may bring little, and what is sent is acknowledged.
        let due = MAX_UNASKED_BYTES + 4 * self.taken + self.relay.sent() / 16;
        !self.session.authenticated() || received > due
    }

    fn wait(&mut self, awaits: Await, deadline: &Deadline) -> Result<(), CallError> {
        let waited = deadline.left().and_then(|left| {
            let known = self.session.block_directions() != BlockDirections::None;
            let left = if known { left } else { left.min(UNKNOWN_WAIT) };
            poll_until(&mut self.relay.poll_fds(awaits), Some(left))
        });
        if matches!(waited, Err(CallError::TimedOut(_))) {
            self.give_up();
        }
        waited
    }
}

/// Says good-bye if that is possible at once, and cuts the connection.
impl Drop for Connection {
    fn drop(&mut self) {
        if !self.given_up {
            let _ = self.session.disconnect(None, "done", None);
            self.relay.pass();
        }
        self.give_up();
    }
}

/// Polls `fds` for at most `limit`, signals or not; returns also when the time is over.
pub fn poll_until(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<(), CallError> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX).min(1 << 31),
        tv_nsec: limit.subsec_nanos().into(),
    });
    match poll(fds, limit.as_ref()) {
        // The caller looks at the clock and comes again.
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(CallError::Io(error.into())),
    }
}

/// libssh2's messages, where they would mislead, in other words.
fn ssh_message(error: &ssh2::Error) -> String {
    match error.code() {
        ErrorCode::Session(-13 | -43) => "the host closed the connection".into(),
        ErrorCode::Session(-7) => "the connection broke".into(),
        ErrorCode::Session(-2) => "the host closed the connection without a greeting".into(),
        _ => error.message().trim().to_string(),
    }
}
