//! Tls: TLS 1.3 over a socket, both sides with certificates of one cluster.
//!
//! A connection's two directions belong to two threads. What rustls keeps of it is behind one lock, under which bytes
//! are only enciphered or deciphered; all reading and writing of the socket is done without it, so that a full socket
//! in one direction never stops the other. Only the writing end writes to the socket, so records leave in the order in
//! which they were made.
//!
//! There is no good-bye of TLS's own: what matters ends with an end frame or an acknowledgement, and whatever ends
//! without counts as torn.

mod config;
mod session;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use config::Tls;
pub use session::NotTls;
use session::{Progress, Records, Session, is_whole_record};

use super::net::Socket;

/// Bytes that are taken from the socket at once. Before the handshake is done, far fewer are.
const READ_BYTES: usize = 256 << 10;

/// Bytes of text that become records at once: with fewer there are more system calls, and what there is stays in the
/// cache of a core.
const WRITE_BYTES: usize = 256 << 10;

/// Slices of one write that are looked at; the others wait for the next. A frame has four.
const MAX_PARTS: usize = 4;

/// All that a stranger's handshake may take of memory. Ours has less than two thousand bytes.
const HANDSHAKE_BYTES: usize = 18 << 10;

/// Both ends of a connection whose handshake is done, and the name that the other side has proven.
pub struct Shaken {
    pub reader: Opening,
    pub writer: Sealing,
    pub name: String,
}

/// Does the handshake over `socket`, for no longer than `limit`.
///
/// # Errors
/// If the other side is not of the cluster, or not who it should be; if it says nothing, or something else.
fn shake(mut session: Session, socket: &Socket, limit: Duration) -> io::Result<Shaken> {
    let end = Instant::now() + limit;
    let mut incoming = vec![0; HANDSHAKE_BYTES];
    let mut filled = 0;
    let mut outgoing = Records::default();
    // What came with the last of the handshake is the beginning of the conversation.
    let mut plain = Vec::new();
    loop {
        outgoing.clear();
        let mut take = |text: &[u8]| plain.extend_from_slice(text);
        let progress = session.process(&mut incoming[..filled], &mut take, &mut outgoing);
        // Also where it failed: the other side is told why.
        let sent = match outgoing.as_slice() {
            [] => Ok(()),
            records => bounded(socket, end).and_then(|mut socket| socket.write_all(records)),
        };
        let (discard, progress) = progress?;
        sent?;
        incoming.copy_within(discard..filled, 0);
        filled -= discard;
        match progress {
            Progress::Received | Progress::Sent => {}
            Progress::Idle if session.is_handshaking() => {
                if filled == incoming.len() {
                    return Err(io::Error::other("its handshake is too long"));
                }
                match bounded(socket, end)?.read(&mut incoming[filled..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => filled += read,
                }
            }
            Progress::Idle if is_whole_record(&incoming[..filled]) => return Err(in_pieces()),
            Progress::Idle => break,
            Progress::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let name = session.peer_name()?;
    let shared = Arc::new(Mutex::new(Shared { session, pending: Records::default(), is_over: false }));
    incoming.truncate(filled);
    let reader =
        Opening { shared: shared.clone(), socket: socket.clone(), incoming, filled, plain, taken: 0 };
    let writer = Sealing { shared, socket: socket.clone(), outgoing, joined: Vec::new(), is_broken: false };
    Ok(Shaken { reader, writer, name })
}

/// Refuses a message of the handshake that goes over several records, which none of ours does. While rustls has a part
/// of one, it must not be asked for anything without it: it panics.
fn in_pieces() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it speaks TLS in pieces")
}

/// Bounds the next use of `socket` by what is left until `end`.
fn bounded(socket: &Socket, end: Instant) -> io::Result<Socket> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.bound(left)?;
    Ok(socket.clone())
}

/// What both directions need.
struct Shared {
    session: Session,
    /// Records that the reading end made, which the writing end sends before its own.
    pending: Records,
    /// Whether the reading end found something that ends the connection.
    is_over: bool,
}

type Common = Arc<Mutex<Shared>>;

fn lock(shared: &Common) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reading end: opens what was sealed.
pub struct Opening {
    shared: Common,
    socket: Socket,
    /// From the socket, up to `filled`; at most a part of a record once all whole ones are opened.
    incoming: Vec<u8>,
    filled: usize,
    /// Opened, and taken by the caller up to `taken`.
    plain: Vec<u8>,
    taken: usize,
}

impl Read for Opening {
    /// Reads what there is. `Interrupted` says that bytes came, but no whole record yet: a caller with a deadline of
    /// its own can look at the clock.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.taken == self.plain.len() {
            // What the handshake has left is looked at first.
            let mut opened = self.open_records(into)?;
            if opened == Opened::Nothing {
                self.fill()?;
                opened = self.open_records(into)?;
            }
            return match opened {
                Opened::Text(length) => Ok(length),
                Opened::Goodbye => Ok(0),
                Opened::Nothing => Err(io::ErrorKind::Interrupted.into()),
            };
        }
        let length = into.len().min(self.plain.len() - self.taken);
        into[..length].copy_from_slice(&self.plain[self.taken..][..length]);
        self.taken += length;
        Ok(length)
    }
}

impl Opening {
    /// Takes more bytes from the socket.
    fn fill(&mut self) -> io::Result<()> {
        if self.incoming.len() < READ_BYTES {
            self.incoming.resize(READ_BYTES, 0);
        }
        match self.socket.read(&mut self.incoming[self.filled..])? {
            // Without a good-bye, somebody else may have ended it.
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    /// Opens all whole records into `into`, and what does not fit there into the buffer.
    fn open_records(&mut self, into: &mut [u8]) -> io::Result<Opened> {
        self.plain.clear();
        self.taken = 0;
        let (mut opened, mut at) = (0, 0);
        let Opening { shared, incoming, filled, plain, .. } = self;
        let mut shared = lock(shared);
        let Shared { session, pending, is_over } = &mut *shared;
        let mut take = |text: &[u8]| {
            let fits = text.len().min(into.len() - opened);
            into[opened..opened + fits].copy_from_slice(&text[..fits]);
            opened += fits;
            plain.extend_from_slice(&text[fits..]);
        };
        let progress = loop {
            match session.process(&mut incoming[at..*filled], &mut take, pending) {
                Ok((discard, Progress::Received | Progress::Sent)) => at += discard,
                Ok((discard, progress)) => {
                    at += discard;
                    break progress;
                }
                Err(error) => {
                    *is_over = true;
                    return Err(error);
                }
            }
        };
        incoming.copy_within(at..*filled, 0);
        *filled -= at;
        if progress == Progress::Idle && is_whole_record(&incoming[..*filled]) {
            *is_over = true;
            return Err(in_pieces());
        }
        Ok(match (opened, progress) {
            (0, Progress::Closed) => Opened::Goodbye,
            (0, _) => Opened::Nothing,
            (length, _) => Opened::Text(length),
        })
    }
}

/// What was in the records that have come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    Text(usize),
    Goodbye,
    Nothing,
}

/// The writing end: seals what is written and sends it.
pub struct Sealing {
    shared: Common,
    socket: Socket,
    /// Records on their way.
    outgoing: Records,
    /// Short pieces of text, which share a record.
    joined: Vec<u8>,
    /// Whether records were sent in part only.
    is_broken: bool,
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// Sends up to `WRITE_BYTES`, and returns only once all of that is sent.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut left = WRITE_BYTES;
        let mut parts = [&[][..]; MAX_PARTS];
        for (part, slice) in parts.iter_mut().zip(slices) {
            *part = &slice[..slice.len().min(left)];
            left -= part.len();
        }
        self.send(&parts)?;
        Ok(WRITE_BYTES - left)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sealing {
    /// Seals `parts` and sends the records.
    fn send(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let mut shared = lock(&self.shared);
        let Shared { session, pending, is_over } = &mut *shared;
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Records that are not sent whole leave nothing to be read behind them.
        self.is_broken = true;
        self.outgoing.clear();
        self.outgoing.append(pending);
        if *is_over {
            drop(shared);
            // Why it is over; the other side may be gone.
            let _ = self.socket.write_all(self.outgoing.as_slice());
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        session.seal(parts, &mut self.joined, &mut self.outgoing)?;
        drop(shared);
        self.socket.write_all(self.outgoing.as_slice())?;
        self.is_broken = false;
        Ok(())
    }
}
