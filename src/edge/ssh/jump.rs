//! Jump: a connection to a host through another host, as `ProxyJump`.
//!
//! The session to the jump host moves to a thread of its own, which carries bytes between a `direct-tcpip` channel and
//! one end of a socket pair; the session to the host behind runs over the other end and knows nothing of it. The
//! thread ends when either side does. It needs no deadline: the session behind has one, and cuts the pair.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags};
use ssh2::Channel;

use super::connection::{CallError, Connection, Deadline, Progress, poll_until};

/// Bytes under way in each direction.
const BUFFER_BYTES: usize = 64 << 10;

/// Logins to one jump host at a time: sshd drops connections at random when ten are not logged in yet (`MaxStartups`).
const LOGINS_AT_ONCE: usize = 6;

static GATES: Mutex<Option<HashMap<(String, u16), usize>>> = Mutex::new(None);
static GATE_OPENED: Condvar = Condvar::new();

/// Leave to log in to a jump host, given back when it is dropped.
pub struct Gate {
    place: (String, u16),
}

impl Gate {
    /// Waits for leave. Those who have it are bound by deadlines of their own.
    pub fn enter(host: &str, port: u16) -> Gate {
        let place = (host.to_string(), port);
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let inside = gates.get_or_insert_default().entry(place.clone()).or_default();
            if *inside < LOGINS_AT_ONCE {
                *inside += 1;
                return Gate { place };
            }
            gates = GATE_OPENED.wait(gates).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inside) = gates.get_or_insert_default().get_mut(&self.place) {
            *inside -= 1;
        }
        GATE_OPENED.notify_all();
    }
}

/// Opens a way through `jump`, which is logged in to, to `host`; returns our end of it.
///
/// # Errors
/// If the jump host cannot reach the host, or does not forward.
pub fn forward(
    mut jump: Connection,
    host: &str,
    port: u16,
    deadline: &Deadline,
) -> Result<OwnedFd, CallError> {
    let channel = jump.call(deadline, |session| session.channel_direct_tcpip(host, port, None))?;
    let (near, far) = UnixStream::pair()?;
    far.set_nonblocking(true)?;
    let mut pump = Pump { jump, channel, far, inward: Buffer::default(), outward: Buffer::default() };
    thread::Builder::new().name(format!("mr:jump:{host}")).spawn(move || {
        // Whatever ended it, the session behind sees its connection closed, and says so.
        let _ = pump.run();
        pump.jump.give_up();
    })?;
    Ok(near.into())
}

struct Pump {
    jump: Connection,
    channel: Channel,
    far: UnixStream,
    /// From the host to us.
    inward: Buffer,
    /// From us to the host.
    outward: Buffer,
}

/// Bytes that wait to be written.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    written: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Fills itself by `read`, which returns `None` if there is nothing yet.
    fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        self.written = 0;
        self.bytes.resize(BUFFER_BYTES, 0);
        let filled = read(&mut self.bytes);
        self.bytes.truncate(filled.as_ref().map_or(0, |read| read.unwrap_or(0)));
        filled
    }
}

/// The way is closed: not an error, but the end.
struct Closed;

impl<E: Into<CallError>> From<E> for Closed {
    fn from(_: E) -> Closed {
        Closed
    }
}

impl Pump {
    /// Carries bytes until one side closes.
    fn run(&mut self) -> Result<(), Closed> {
        loop {
            let moved = self.pull_host()? | self.push_near()? | self.pull_near()? | self.push_host()?;
            // What sending brought in would not wake us.
            let more =
                self.inward.is_empty() && (self.channel.read_window().available > 0 || self.channel.eof());
            if !moved && !more {
                self.wait()?;
            }
        }
    }

    fn pull_host(&mut self) -> Result<bool, Closed> {
        if !self.inward.is_empty() {
            return Ok(false);
        }
        let Pump { jump, channel, far, inward, .. } = self;
        let read = inward.fill(|buffer| settle(jump, far, |_| channel.read(buffer)))?;
        match read {
            None => Ok(false),
            Some(0) if channel.eof() => Err(Closed),
            Some(read) => Ok(read > 0),
        }
    }

    fn push_host(&mut self) -> Result<bool, Closed> {
        if self.outward.is_empty() {
            return Ok(false);
        }
        let Pump { jump, channel, far, outward, .. } = self;
        let rest = &outward.bytes[outward.written..];
        let written = settle(jump, far, |_| channel.write(rest))?.unwrap_or(0);
        outward.written += written;
        Ok(written > 0)
    }

    fn pull_near(&mut self) -> Result<bool, Closed> {
        if !self.outward.is_empty() {
            return Ok(false);
        }
        let far = &mut self.far;
        match self.outward.fill(|buffer| unless_blocked(far.read(buffer)))? {
            Some(0) => Err(Closed),
            read => Ok(read.is_some()),
        }
    }

    fn push_near(&mut self) -> Result<bool, Closed> {
        if self.inward.is_empty() {
            return Ok(false);
        }
        let written = unless_blocked(self.far.write(&self.inward.bytes[self.inward.written..]))?.unwrap_or(0);
        self.inward.written += written;
        Ok(written > 0)
    }

    /// Waits until one side has something that there is room for, or room for what there is.
    fn wait(&self) -> Result<(), Closed> {
        let mut near = PollFlags::empty();
        near.set(PollFlags::IN, self.outward.is_empty());
        near.set(PollFlags::OUT, !self.inward.is_empty());
        let mut host = PollFlags::empty();
        // With bytes to send, too: what is awaited then is leave to send more.
        host.set(PollFlags::IN, self.inward.is_empty() || !self.outward.is_empty());
        let mut fds = [
            PollFd::from_borrowed_fd(self.far.as_fd(), near),
            PollFd::from_borrowed_fd(self.jump.socket().as_fd(), host),
        ];
        poll_until(&mut fds, None)?;
        // A hang-up is reported always. If our side is gone, there is nobody to carry for.
        if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) { Err(Closed) } else { Ok(()) }
    }
}

/// Performs `op` as far as it goes without waiting for the host to speak. It waits for room to send, unless our side
/// is closed meanwhile.
fn settle<T, E: Into<CallError>>(
    jump: &mut Connection,
    far: &UnixStream,
    mut op: impl FnMut(&mut ssh2::Session) -> Result<T, E>,
) -> Result<Option<T>, Closed> {
    loop {
        match jump.attempt(&mut op)? {
            Progress::Done(value) => return Ok(Some(value)),
            Progress::BlockedReceiving => return Ok(None),
            Progress::BlockedSending => {
                let mut fds = [
                    PollFd::from_borrowed_fd(far.as_fd(), PollFlags::empty()),
                    PollFd::from_borrowed_fd(jump.socket().as_fd(), PollFlags::OUT),
                ];
                poll_until(&mut fds, None)?;
                if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                    return Err(Closed);
                }
            }
        }
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
