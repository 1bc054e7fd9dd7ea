//! Pump: carries bytes between a channel of a session and one end of a socket pair.
//!
//! The session is non-blocking and has one thread, so both directions are carried in one loop around `poll`. Whoever
//! holds the other end of the pair sees a socket like any other: either direction can end by itself, and a session that
//! breaks is the end of both. The thread needs no deadline for a host that is silent: whoever holds the other end
//! has one, and closes it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use ssh2::Channel;

use super::buffer::{Buffer, unless_blocked};
use super::connection::{CallError, Connection, Deadline, Progress, poll_until};
use super::relay::Await;

/// How long the last words of a side that has left may take to reach the host; more would keep the thread of a host
/// that is frozen.
const LINGER: Duration = Duration::from_secs(1);

/// Carries bytes until both directions have ended.
pub struct Pump {
    link: Link,
    channel: Channel,
    /// From the host to us.
    inward: Buffer,
    /// From us to the host.
    outward: Buffer,
    /// Our side has said all, and all of that was read.
    near_ended: bool,
    /// The host was told so.
    end_sent: bool,
    /// Our side reads no more: what comes from the host is dropped.
    deaf: bool,
    /// The host has said all, and our side was told so.
    host_ended: bool,
}

/// The two sockets.
struct Link {
    connection: Connection,
    far: UnixStream,
    /// Set once our side has left.
    linger: Option<Deadline>,
}

/// The way is closed: not an error, but the end.
struct Closed;

impl<E: Into<CallError>> From<E> for Closed {
    fn from(_: E) -> Closed {
        Closed
    }
}

impl Pump {
    /// Makes a pump between `channel` of `connection` and `far`, which does not block.
    pub fn new(connection: Connection, channel: Channel, far: UnixStream) -> Pump {
        Pump {
            link: Link { connection, far, linger: None },
            channel,
            inward: Buffer::default(),
            outward: Buffer::default(),
            near_ended: false,
            end_sent: false,
            deaf: false,
            host_ended: false,
        }
    }

    /// Carries bytes to the end.
    pub fn run(mut self) {
        // Whatever ended it, our side sees its socket closed, and says so.
        if self.carry().is_err() {
            self.link.connection.give_up();
        }
    }

    fn carry(&mut self) -> Result<(), Closed> {
        loop {
            let moved = self.pull_host()? | self.push_near() | self.pull_near() | self.push_host()?;
            self.link.look_at_clock(self.deaf)?;
            if self.is_over()? {
                return Ok(());
            }
            if !moved && !self.holds_more() {
                self.wait()?;
            }
        }
    }

    fn pull_host(&mut self) -> Result<bool, Closed> {
        if self.host_ended {
            return Ok(false);
        }
        let Pump { link, channel, inward, .. } = self;
        if !inward.is_empty() {
            // Packets are taken in all the same: the host may want new keys, or know whether we are there.
            link.settle(|_| channel.read(&mut []))?;
            return Ok(false);
        }
        let read = inward.fill(|buffer| link.settle(|_| channel.read(buffer)))?;
        link.connection.took(read.unwrap_or(0));
        if self.deaf {
            self.inward.clear();
        }
        match read {
            None => Ok(false),
            Some(0) if self.channel.eof() => {
                self.host_ended = true;
                // Fails only if our side has left.
                let _ = self.link.far.shutdown(Shutdown::Write);
                Ok(true)
            }
            Some(read) => Ok(read > 0),
        }
    }

    fn push_near(&mut self) -> bool {
        if self.inward.is_empty() {
            return false;
        }
        match unless_blocked(self.link.far.write(self.inward.rest())) {
            Ok(written) => {
                self.inward.advance(written.unwrap_or(0));
                written.is_some()
            }
            Err(_) => {
                self.deaf = true;
                self.inward.clear();
                true
            }
        }
    }

    fn pull_near(&mut self) -> bool {
        if self.near_ended || !self.outward.is_empty() {
            return false;
        }
        let far = &mut self.link.far;
        match self.outward.fill(|buffer| unless_blocked(far.read(buffer))) {
            Ok(None) => false,
            Ok(Some(1..)) => true,
            // An error is the end, too: our side has left without reading all.
            Ok(Some(0)) | Err(_) => {
                self.near_ended = true;
                true
            }
        }
    }

    fn push_host(&mut self) -> Result<bool, Closed> {
        if self.outward.is_empty() {
            return Ok(false);
        }
        let Pump { link, channel, outward, .. } = self;
        let written = link.settle(|_| channel.write(outward.rest()))?.unwrap_or(0);
        outward.advance(written);
        Ok(written > 0)
    }

    /// Tells the host that our side has ended, and tells whether all is over: not before the host says so, for it may
    /// hold what it has not passed on yet.
    fn is_over(&mut self) -> Result<bool, Closed> {
        let Pump { link, channel, .. } = self;
        if self.near_ended && self.outward.is_empty() && !self.end_sent {
            self.end_sent = link.settle(|_| channel.send_eof())?.is_some();
        }
        Ok(self.host_ended && link.settle(|_| channel.wait_close())?.is_some())
    }

    /// Tells whether the host has sent more than was pulled, such as what came while something was sent: that is in
    /// memory, so that it would not wake us.
    fn holds_more(&self) -> bool {
        let can_pull = !self.host_ended && self.inward.is_empty();
        can_pull && (self.channel.read_window().available > 0 || self.channel.eof())
    }

    /// Waits until one side has something that there is room for, or room for what there is.
    fn wait(&mut self) -> Result<(), Closed> {
        let mut near = PollFlags::empty();
        near.set(PollFlags::IN, self.outward.is_empty() && !self.near_ended);
        near.set(PollFlags::OUT, !self.inward.is_empty());
        self.link.wait(Await::Word, near)
    }
}

impl Link {
    /// Performs `op` as far as it goes without waiting for the host to speak; it waits for room to send.
    fn settle<T, E: Into<CallError>>(
        &mut self,
        mut op: impl FnMut(&mut ssh2::Session) -> Result<T, E>,
    ) -> Result<Option<T>, Closed> {
        loop {
            match self.connection.attempt(&mut op)? {
                Progress::Done(value) => return Ok(Some(value)),
                Progress::BlockedReceiving => return Ok(None),
                Progress::BlockedSending => self.wait(Await::Room, PollFlags::empty())?,
            }
        }
    }

    fn wait(&mut self, awaits: Await, near: PollFlags) -> Result<(), Closed> {
        let [outside, library] = self.connection.poll_fds(awaits);
        if let Some(linger) = &self.linger {
            // One who has left would be reported again and again.
            poll_until(&mut [outside, library], Some(linger.left()?))?;
            return Ok(());
        }
        let mut fds = [outside, library, PollFd::from_borrowed_fd(self.far.as_fd(), near)];
        poll_until(&mut fds, None)?;
        if has_left(&fds[2]) {
            self.linger = Some(Deadline::within(LINGER));
        }
        Ok(())
    }

    /// Ends the way if our side has left for long enough. A host that sends without end would never let us wait, so
    /// that its leaving has to be looked for once it is `deaf`.
    fn look_at_clock(&mut self, deaf: bool) -> Result<(), Closed> {
        if deaf && self.linger.is_none() {
            let mut far = [PollFd::from_borrowed_fd(self.far.as_fd(), PollFlags::empty())];
            poll_until(&mut far, Some(Duration::ZERO))?;
            self.linger = has_left(&far[0]).then(|| Deadline::within(LINGER));
        }
        if let Some(linger) = &self.linger {
            linger.left()?;
        }
        Ok(())
    }
}

/// Tells whether our side neither reads nor writes any more.
fn has_left(far: &PollFd<'_>) -> bool {
    far.revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock runs even if there is never a moment to wait in, and not before our side has left in both directions.
    #[test]
    fn one_who_has_left_is_given_up_without_waiting() {
        let (_host, socket) = UnixStream::pair().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let connection = Connection::new(socket.into()).unwrap();
        let mut link = Link { connection, far, linger: None };
        near.shutdown(Shutdown::Read).unwrap();
        assert!(link.look_at_clock(true).is_ok() && link.linger.is_none());
        drop(near);
        assert!(link.look_at_clock(false).is_ok() && link.linger.is_none());
        assert!(link.look_at_clock(true).is_ok() && link.linger.is_some());
        std::thread::sleep(LINGER);
        assert!(link.look_at_clock(true).is_err());
    }
}
