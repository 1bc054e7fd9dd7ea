//! Link: one connection through the proxy: a socket to whoever made it, one to the worker, and a pipe each way.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};

use super::terms::{Ending, InForce, Terms};
use super::{Dialer, Direction, Passage, hello};

/// What the kernel keeps for us on each side. Little, so that what a sender sees is what the other side takes.
pub(super) const SOCKET_BUFFER_BYTES: usize = 128 << 10;

/// Bytes that wait in a pipe: of one that does not delay, and of one that does.
const PIPE_BYTES: usize = 256 << 10;
const DELAYED_PIPE_BYTES: usize = 32 << 20;

/// A pipe of a limited rate holds what moves in this time, but no less than a few packets.
const RATED_PIPE: Duration = Duration::from_millis(50);
const MIN_PIPE_BYTES: usize = 4 << 10;

/// How soon a pipe that has used up its rate is looked at again.
const RATE_STEP: Duration = Duration::from_millis(5);

/// How long both ends may take to notice an orderly end before they are reset.
const CLOSING: Duration = Duration::from_secs(2);

/// A connection.
pub(super) struct Link {
    number: usize,
    dialer: Dialer,
    /// Whether the first frame is read: until then nothing moves.
    is_known: bool,
    opening: Vec<u8>,
    worker_address: SocketAddr,
    near: TcpStream,
    /// Made with the first byte that goes there.
    far: Option<TcpStream>,
    to_worker: Pipe,
    from_worker: Pipe,
    /// When an orderly end turns into a reset.
    closing: Option<Instant>,
    is_over: bool,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    queue: VecDeque<Chunk>,
    queued: usize,
    moved: u64,
    /// When its source ended.
    ended: Option<Instant>,
    /// Whether its sink was told so.
    is_done: bool,
    wants_read: bool,
    wants_write: bool,
    wake: Option<Instant>,
}

/// Bytes on their way.
struct Chunk {
    arrived: Instant,
    bytes: Vec<u8>,
    gone: usize,
}

impl Link {
    /// What has become of a connection that has just been made.
    pub(super) const NO_PASSAGE: Passage =
        Passage { dialer: Dialer::Unknown, to_worker: 0, from_worker: 0, is_open: true };

    pub(super) fn new(number: usize, near: TcpStream, worker_address: SocketAddr) -> io::Result<Self> {
        near.set_nonblocking(true)?;
        near.set_nodelay(true)?;
        Ok(Self {
            number,
            dialer: Dialer::Unknown,
            is_known: false,
            opening: Vec::new(),
            worker_address,
            near,
            far: None,
            to_worker: Pipe::default(),
            from_worker: Pipe::default(),
            closing: None,
            is_over: false,
        })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn passage(&self) -> Passage {
        Passage {
            dialer: self.dialer,
            to_worker: self.to_worker.moved,
            from_worker: self.from_worker.moved,
            is_open: !self.is_over && self.closing.is_none(),
        }
    }

    /// The sockets, and what to wait for at each; those where nothing is to be waited for are not among them.
    pub(super) fn interests(&self) -> impl Iterator<Item = (&TcpStream, PollFlags)> {
        let flags = |read, write| {
            let flag = |is_on, flag| if is_on { flag } else { PollFlags::empty() };
            flag(read, PollFlags::IN) | flag(write, PollFlags::OUT)
        };
        let near = (&self.near, flags(self.to_worker.wants_read, self.from_worker.wants_write));
        let far = self.far.as_ref();
        let far = far.map(|far| (far, flags(self.from_worker.wants_read, self.to_worker.wants_write)));
        [Some(near), far].into_iter().flatten().filter(|(_, flags)| !flags.is_empty())
    }

    /// When to look again, whatever happens at the sockets.
    pub(super) fn wake(&self) -> Option<Instant> {
        [self.to_worker.wake, self.from_worker.wake, self.closing].into_iter().flatten().min()
    }

    /// Moves what can be moved and may.
    pub(super) fn step(&mut self, faults: &mut InForce, now: Instant, scratch: &mut [u8]) {
        if self.closing.is_some() {
            return self.step_closing(now, scratch);
        }
        let terms = faults.terms(self.number, self.dialer, Direction::ToWorker, now);
        if self.to_worker.fill(&mut &self.near, terms, now, scratch).is_err() {
            return self.reset();
        }
        self.identify();
        match faults.ending(self.number, self.dialer) {
            Some(Ending::Reset) => return self.reset(),
            Some(Ending::Close) => return self.close(now),
            None => {}
        }
        if self.is_known && self.step_known(faults, now, scratch).is_err() {
            self.reset();
        }
    }

    /// Finds out who made the connection, from the bytes that it begins with.
    fn identify(&mut self) {
        if self.is_known {
            return;
        }
        self.opening.clear();
        self.to_worker.queue.iter().for_each(|chunk| self.opening.extend_from_slice(&chunk.bytes));
        let dialer = hello::dialer(&self.opening);
        self.is_known = dialer.is_some() || self.to_worker.ended.is_some();
        self.dialer = dialer.unwrap_or(Dialer::Unknown);
    }

    fn step_known(&mut self, faults: &mut InForce, now: Instant, scratch: &mut [u8]) -> io::Result<()> {
        let (number, dialer) = (self.number, self.dialer);
        let terms = faults.terms(number, dialer, Direction::ToWorker, now);
        let mut far = Far { socket: &mut self.far, address: self.worker_address };
        let moved = self.to_worker.drain(&mut far, terms, now)?;
        faults.charge(number, dialer, Direction::ToWorker, moved);
        if let Some(far) = &self.far {
            self.to_worker.end(far, terms, now);
            let terms = faults.terms(number, dialer, Direction::FromWorker, now);
            self.from_worker.fill(&mut &*far, terms, now, scratch)?;
            let moved = self.from_worker.drain(&mut &self.near, terms, now)?;
            faults.charge(number, dialer, Direction::FromWorker, moved);
            self.from_worker.end(&self.near, terms, now);
        }
        // Who came and went without a word never got as far as the worker.
        let came_to_nothing =
            self.far.is_none() && self.to_worker.ended.is_some() && self.to_worker.queued == 0;
        self.is_over = came_to_nothing || (self.to_worker.is_done && self.from_worker.is_done);
        Ok(())
    }

    /// Ends the connection so that both ends are told of a reset.
    fn reset(&mut self) {
        for socket in self.sockets() {
            // The reset goes out when the socket is closed, with the link.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        self.is_over = true;
    }

    /// Begins an orderly end.
    fn close(&mut self, now: Instant) {
        for socket in self.sockets() {
            let _ = socket.shutdown(Shutdown::Write);
        }
        self.closing = Some(now + CLOSING);
        for pipe in [&mut self.to_worker, &mut self.from_worker] {
            (pipe.wants_read, pipe.wants_write, pipe.wake) = (true, false, None);
        }
    }

    /// Takes what still comes, so that the kernel does not make a reset of the end.
    fn step_closing(&mut self, now: Instant, scratch: &mut [u8]) {
        let ended = |mut from: &TcpStream, scratch: &mut [u8]| loop {
            match from.read(scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !is_idle(&error),
            }
        };
        self.to_worker.wants_read = !ended(&self.near, scratch);
        self.from_worker.wants_read = self.far.as_ref().is_some_and(|far| !ended(far, scratch));
        let both_ended = !self.to_worker.wants_read && !self.from_worker.wants_read;
        self.is_over = both_ended || self.closing.is_some_and(|end| now >= end);
    }

    fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        [Some(&self.near), self.far.as_ref()].into_iter().flatten()
    }
}

impl Pipe {
    /// Takes what has come from `from`, as much as there is room for.
    fn fill(
        &mut self,
        from: &mut impl Read,
        terms: Terms,
        now: Instant,
        scratch: &mut [u8],
    ) -> io::Result<()> {
        let room = room(terms);
        self.wants_read = false;
        while !terms.is_dropped && self.ended.is_none() && self.queued < room {
            let most = scratch.len().min(room - self.queued);
            match from.read(&mut scratch[..most]) {
                Ok(0) => self.ended = Some(now),
                Ok(length) => {
                    let bytes = scratch[..length].to_vec();
                    self.queue.push_back(Chunk { arrived: now, bytes, gone: 0 });
                    self.queued += length;
                }
                Err(error) if is_idle(&error) => {
                    self.wants_read = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Passes on what is due, and returns how many bytes that were.
    fn drain(&mut self, to: &mut impl Write, terms: Terms, now: Instant) -> io::Result<u64> {
        let mut budget = terms.budget;
        (self.wants_write, self.wake) = (false, None);
        while let Some(chunk) = self.queue.front_mut().filter(|_| !terms.is_dropped) {
            let due = chunk.arrived + terms.delay;
            if due > now {
                self.wake = Some(due);
                break;
            }
            let left = &chunk.bytes[chunk.gone..];
            let most = usize::try_from(budget).map_or(left.len(), |budget| left.len().min(budget));
            if most == 0 {
                self.wake = terms.rate.map(|_| now + RATE_STEP);
                break;
            }
            match to.write(&left[..most]) {
                Ok(length) => {
                    chunk.gone += length;
                    if chunk.gone == chunk.bytes.len() {
                        self.queue.pop_front();
                    }
                    self.queued -= length;
                    budget -= length as u64;
                }
                Err(error) if is_idle(&error) => {
                    self.wants_write = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let moved = terms.budget - budget;
        self.moved += moved;
        // There is room again for what waits in the kernel.
        self.wants_read |= !terms.is_dropped && self.ended.is_none() && self.queued < room(terms);
        Ok(moved)
    }

    /// Passes on the end, once all before it has gone.
    fn end(&mut self, to: &TcpStream, terms: Terms, now: Instant) {
        let Some(ended) = self.ended.filter(|_| self.queued == 0 && !self.is_done && !terms.is_dropped)
        else {
            return;
        };
        if ended + terms.delay > now {
            self.wake = Some(ended + terms.delay);
            return;
        }
        let _ = to.shutdown(Shutdown::Write);
        self.is_done = true;
    }
}

fn room(terms: Terms) -> usize {
    if terms.delay > Duration::ZERO {
        return DELAYED_PIPE_BYTES;
    }
    let of_rate = |rate: u64| (rate as f64 * RATED_PIPE.as_secs_f64()) as usize;
    terms.rate.map_or(PIPE_BYTES, |rate| of_rate(rate).clamp(MIN_PIPE_BYTES, PIPE_BYTES))
}

/// The socket to the worker, which is made with the first byte that is written.
struct Far<'l> {
    socket: &'l mut Option<TcpStream>,
    address: SocketAddr,
}

impl Write for Far<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.socket.is_none() {
            *self.socket = Some(connect(self.address)?);
        }
        self.socket.as_mut().map_or(Ok(0), |socket| socket.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins a connection to the worker, without waiting for it.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Tells whether it is only that nothing can be read, or written, at this moment.
fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}
