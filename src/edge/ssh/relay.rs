//! Relay: what stands between libssh2 and the network, so that no call of the library takes in more than some packets.
//!
//! The library reads its socket until that is empty, keeps packets that nobody asked for, and looks at no clock
//! meanwhile: a host that sends faster than it reads would hold it for ever, and take all memory. So it is given one
//! end of a socket pair. What came from the host is passed on before each call, as much as the pair holds, and counted;
//! what the library wrote is passed on after it. The copy costs little beside the cipher.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::buffer::{Buffer, unless_blocked};

/// Both ends of the way from libssh2 to the host.
pub struct Relay {
    /// The connection to the host: TCP, or a tunnel.
    outside: OwnedFd,
    inside: UnixStream,
    /// Where libssh2 reads and writes. Shared with it: descriptors are scarce where many hosts are visited.
    library: Arc<UnixStream>,
    /// From the host to libssh2.
    inward: Buffer,
    /// From libssh2 to the host.
    outward: Buffer,
    /// The host sends nothing more.
    ended: bool,
    received: u64,
    sent: u64,
}

/// What libssh2 waits for.
#[derive(Clone, Copy)]
pub enum Await {
    /// That the host sends something.
    Word,
    /// That the host takes something.
    Room,
}

impl Relay {
    /// Makes a relay to the host that `outside` is connected to.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn new(outside: OwnedFd) -> io::Result<Relay> {
        let (inside, library) = UnixStream::pair()?;
        inside.set_nonblocking(true)?;
        Ok(Relay {
            outside,
            inside,
            library: Arc::new(library),
            inward: Buffer::default(),
            outward: Buffer::default(),
            ended: false,
            received: 0,
            sent: 0,
        })
    }

    /// The socket for libssh2.
    pub fn library_end(&self) -> Arc<UnixStream> {
        self.library.clone()
    }

    /// Bytes that came from the host.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that went to the host.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Passes on what there is and what there is room for.
    pub fn pass(&mut self) {
        self.pass_inward();
        self.pass_outward();
    }

    /// What to poll, for libssh2 to get on.
    pub fn poll_fds(&self, awaits: Await) -> [PollFd<'_>; 2] {
        let mut outside = PollFlags::empty();
        outside.set(PollFlags::IN, !self.ended && self.inward.is_empty());
        outside.set(PollFlags::OUT, !self.outward.is_empty());
        let library = match awaits {
            Await::Word => PollFlags::IN,
            Await::Room => PollFlags::OUT,
        };
        [
            PollFd::from_borrowed_fd(self.outside.as_fd(), outside),
            PollFd::from_borrowed_fd(self.library.as_fd(), library),
        ]
    }

    /// Cuts the way at both ends.
    pub fn cut(&mut self) {
        // These fail only if the other end has closed already.
        let _ = rustix::net::shutdown(&self.outside, rustix::net::Shutdown::Both);
        let _ = self.inside.shutdown(Shutdown::Both);
    }

    /// The pair is what ends this loop: nobody reads it meanwhile.
    fn pass_inward(&mut self) {
        while !self.ended {
            let outside = &self.outside;
            if self.inward.is_empty() {
                let take = |buffer: &mut [u8]| {
                    unless_blocked(recv(outside, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count))
                };
                match self.inward.fill(take) {
                    Ok(None) => return,
                    Ok(Some(count @ 1..)) => self.received += count as u64,
                    // A connection that broke looks like one that ended; libssh2 knows which words were the last.
                    Ok(Some(0)) | Err(_) => return self.end_inward(),
                }
            }
            match unless_blocked(self.inside.write(self.inward.rest())) {
                Ok(Some(count)) => self.inward.advance(count),
                Ok(None) => return,
                Err(_) => return self.end_inward(),
            }
        }
    }

    fn end_inward(&mut self) {
        self.ended = true;
        self.inward.clear();
        let _ = self.inside.shutdown(Shutdown::Write);
    }

    fn pass_outward(&mut self) {
        loop {
            if self.outward.is_empty() {
                let inside = &mut self.inside;
                match self.outward.fill(|buffer| unless_blocked(inside.read(buffer))) {
                    Ok(Some(1..)) => {}
                    // Nothing, or libssh2 is through.
                    _ => return,
                }
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match unless_blocked(send(&self.outside, self.outward.rest(), flags)) {
                Ok(Some(count)) => {
                    self.outward.advance(count);
                    self.sent += count as u64;
                }
                Ok(None) => return,
                Err(_) => {
                    self.outward.clear();
                    // libssh2 learns of it when it writes next.
                    let _ = self.inside.shutdown(Shutdown::Read);
                    return;
                }
            }
        }
    }
}
