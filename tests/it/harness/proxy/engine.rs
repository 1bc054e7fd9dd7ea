//! Engine: the proxy's one thread, which waits for sockets, times and the test at once.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::link::{Link, SOCKET_BUFFER_BYTES};
use super::terms::InForce;
use super::{BACKLOG, Shared};

/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 64 << 10;

pub(super) struct Engine {
    listener: TcpListener,
    is_listening: bool,
    worker: SocketAddr,
    woken: UnixStream,
    shared: Arc<Shared>,
    faults: InForce,
    revision: u64,
    links: Vec<Link>,
    accepted: usize,
}

impl Engine {
    pub(super) fn new(
        listener: TcpListener,
        worker: SocketAddr,
        woken: UnixStream,
        shared: Arc<Shared>,
    ) -> Self {
        listener.set_nonblocking(true).expect("a socket that does not block");
        woken.set_nonblocking(true).expect("a socket that does not block");
        // Connections inherit them.
        SockRef::from(&listener).set_recv_buffer_size(SOCKET_BUFFER_BYTES).expect("a smaller buffer");
        SockRef::from(&listener).set_send_buffer_size(SOCKET_BUFFER_BYTES).expect("a smaller buffer");
        let (faults, links) = (InForce::default(), Vec::new());
        Self { listener, is_listening: true, worker, woken, shared, faults, revision: 0, links, accepted: 0 }
    }

    /// Works until the test says that it is over.
    pub(super) fn run(mut self) {
        let _over = Over(self.shared.clone());
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            // Before the orders: what was connected when the test gave them is not new.
            self.accept();
            if !self.take_orders() {
                return;
            }
            let now = Instant::now();
            // The first served is another one each time, so that a shared rate is shared.
            if !self.links.is_empty() {
                self.links.rotate_left(1);
            }
            self.links.iter_mut().for_each(|link| link.step(&mut self.faults, now, &mut scratch));
            self.report();
            self.links.retain(|link| !link.is_over());
            self.wait();
        }
    }

    /// Reads what is in force; `false` once it is over.
    fn take_orders(&mut self) -> bool {
        while matches!((&self.woken).read(&mut [0; 64]), Ok(1..)) {}
        let board = self.shared.board();
        self.revision = board.revision;
        self.faults.revise(&board.rules, self.accepted);
        let goes_on = !board.is_over;
        drop(board);
        self.listen(!self.faults.refuses_all());
        goes_on
    }

    /// Begins or ceases to listen; the port stays ours.
    fn listen(&mut self, is_listening: bool) {
        if is_listening == self.is_listening {
            return;
        }
        let socket = SockRef::from(&self.listener);
        let changed = if is_listening { socket.listen(BACKLOG) } else { socket.shutdown(Shutdown::Both) };
        changed.expect("a socket that listens or not");
        self.is_listening = is_listening;
    }

    fn accept(&mut self) {
        while self.is_listening {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let link = Link::new(self.accepted, stream, self.worker);
                    self.links.push(link.expect("a socket that does not block"));
                    self.accepted += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Whoever came has gone already.
                Err(_) => {}
            }
        }
    }

    /// Tells the test what has happened.
    fn report(&mut self) {
        let mut board = self.shared.board();
        let mut news = board.acted_on < self.revision;
        board.acted_on = self.revision;
        for link in &self.links {
            let passage = link.passage();
            if link.number() >= board.passages.len() {
                // They come in the order of their numbers, if not in this one.
                board.passages.resize(self.accepted, Link::NO_PASSAGE);
                news = true;
            }
            let old = &mut board.passages[link.number()];
            news |= *old != passage;
            *old = passage;
        }
        drop(board);
        if news {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        if self.is_listening {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for link in &self.links {
            fds.extend(link.interests().map(|(socket, flags)| PollFd::new(socket, flags)));
        }
        let wake = self.links.iter().filter_map(Link::wake).min();
        let left = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        // A signal wakes it early, which does no harm.
        let _ = poll(&mut fds, left.as_ref());
    }
}

/// Tells those who wait that the thread has ended, also by a panic.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.board().is_over = true;
        self.0.changed.notify_all();
    }
}
