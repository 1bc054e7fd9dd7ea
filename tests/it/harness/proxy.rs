//! Proxy: a TCP proxy before a worker that injects the faults of a network, when and where a test says.
//!
//! Clients and peers reach the worker through it, for peers are told the address that the client was. It reads the
//! first frame of each connection, so that a fault can be for the client's only, or for those of one peer. One thread
//! does all the work, without ever blocking; what it counts can be waited for, so that no test needs luck.
//!
//! A fault is in force when [`Proxy::inject`] returns: not one byte that it forbids moves after that. Where packets are
//! dropped silently, nobody is told anything, not even that the other end has gone; what is under way inside the proxy
//! waits, and goes on when the fault is lifted. A dropped link of the kernel's own is `netns`'s to make.

mod engine;
mod hello;
mod link;
mod terms;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// How long the proxy's thread may take to notice a fault, on a machine under load.
const NOTICE: Duration = Duration::from_secs(20);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToWorker,
    FromWorker,
    Both,
}

impl Direction {
    fn covers(self, other: Direction) -> bool {
        self == Direction::Both || self == other
    }
}

/// Who made a connection, as its first frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialer {
    Client,
    /// Another worker, by its number in the job.
    Peer {
        source: u32,
    },
    Status,
    /// The first frame has not come yet, or says nothing that the protocol knows.
    Unknown,
}

/// Which connections are meant: of whom, and whether they are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    who: Who,
    existing: bool,
    new: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Everyone,
    Client,
    Peers,
    Peer(u32),
    Status,
}

impl Selection {
    /// All connections, before anybody knows whose they are.
    pub fn all() -> Self {
        Self::of(Who::Everyone)
    }

    /// Those of the client that runs a job.
    pub fn client() -> Self {
        Self::of(Who::Client)
    }

    /// Those of all other workers.
    pub fn peers() -> Self {
        Self::of(Who::Peers)
    }

    /// Those of one other worker.
    pub fn peer(source: u32) -> Self {
        Self::of(Who::Peer(source))
    }

    /// Those that only ask how the worker is.
    pub fn status() -> Self {
        Self::of(Who::Status)
    }

    /// Of these, those that are there now.
    pub fn existing_only(self) -> Self {
        Self { new: false, ..self }
    }

    /// Of these, those that are still to come.
    pub fn new_only(self) -> Self {
        Self { existing: false, ..self }
    }

    fn of(who: Who) -> Self {
        Self { who, existing: true, new: true }
    }

    fn is_of(self, dialer: Dialer) -> bool {
        match self.who {
            Who::Everyone => true,
            Who::Client => dialer == Dialer::Client,
            Who::Peers => matches!(dialer, Dialer::Peer { .. }),
            Who::Peer(source) => dialer == Dialer::Peer { source },
            Who::Status => dialer == Dialer::Status,
        }
    }
}

/// What befalls connections. Several faults at a time add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes arrive later, in the same order and at the same rate.
    Delay(Direction, Duration),
    /// So many bytes a second move at most: over all connections that are meant, and in each direction.
    Rate(Direction, u64),
    /// So many more bytes move, over all connections that are meant and both directions; then it is a blackhole.
    Quota(Direction, u64),
    /// Nothing moves any more, sockets stay open, and nobody is told: a half-open link, or in both directions a
    /// dropped one. New connections seem to be made, and nothing of them reaches the worker.
    Blackhole(Direction),
    /// Connections are reset at both ends. Where all new ones are meant, they are refused.
    Reset,
    /// Connections are ended in an orderly way at both ends, wherever in the conversation they are.
    Close,
}

/// A fault that was injected, so that it can be lifted alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    pub dialer: Dialer,
    /// Bytes that went on to the worker.
    pub to_worker: u64,
    /// Bytes that went back from it.
    pub from_worker: u64,
    /// Whether it has not ended at the proxy's ends.
    pub is_open: bool,
}

impl Passage {
    /// Returns how many bytes moved in `direction`.
    pub fn moved(&self, direction: Direction) -> u64 {
        match direction {
            Direction::ToWorker => self.to_worker,
            Direction::FromWorker => self.from_worker,
            Direction::Both => self.to_worker + self.from_worker,
        }
    }
}

/// A fault in force.
#[derive(Clone, Copy, Debug)]
struct Rule {
    id: FaultId,
    fault: Fault,
    selection: Selection,
}

/// What the test and the proxy's thread tell each other.
#[derive(Default)]
struct Board {
    rules: Vec<Rule>,
    /// Counted up with each change of the rules, and what of it the thread has acted on.
    revision: u64,
    acted_on: u64,
    is_over: bool,
    passages: Vec<Passage>,
}

/// A proxy before one worker; it ends with this value, and its connections with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Starts a proxy on loopback before the worker that listens, or will, at `worker`.
    pub fn before(worker: SocketAddr) -> Proxy {
        Proxy::at(Ipv4Addr::LOCALHOST.into(), worker)
    }

    /// Starts a proxy on a port of `ip`, in the network namespace of the calling thread.
    pub fn at(ip: IpAddr, worker: SocketAddr) -> Proxy {
        let listener = listen(ip).expect("a free port");
        let address = listener.local_addr().expect("the listener's address");
        let (waker, woken) = UnixStream::pair().expect("a pair of sockets");
        waker.set_nonblocking(true).expect("a socket that does not block");
        let shared = Arc::<Shared>::default();
        let engine = engine::Engine::new(listener, worker, woken, shared.clone());
        let thread = std::thread::Builder::new().name(format!("proxy:{}", address.port()));
        let thread = Some(thread.spawn(move || engine.run()).expect("a thread"));
        Proxy { address, shared, waker, thread }
    }

    /// Where it listens: what `--workers` is given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has `fault` befall the connections of `selection`, until it is lifted.
    pub fn inject(&self, fault: Fault, selection: Selection) -> FaultId {
        let mut id = FaultId(0);
        self.revise(|board| {
            id = FaultId(board.revision);
            board.rules.push(Rule { id, fault, selection });
        });
        id
    }

    /// Ends one fault.
    pub fn lift(&self, id: FaultId) {
        self.revise(|board| board.rules.retain(|rule| rule.id != id));
    }

    /// Ends all faults. Connections that were reset or closed stay so.
    pub fn heal(&self) {
        self.revise(|board| board.rules.clear());
    }

    /// What has become of the connections of `selection`, existing or not, in the order in which they came. What an end
    /// has just received is counted a moment later: wait for it, rather than look once.
    pub fn passages(&self, selection: Selection) -> Vec<Passage> {
        chosen(&self.shared.board(), selection)
    }

    /// How many bytes have moved so far.
    pub fn moved(&self, selection: Selection, direction: Direction) -> u64 {
        moved(&self.passages(selection), direction)
    }

    /// Waits until `n` connections of `selection` have been made, for `limit` at most.
    ///
    /// # Panics
    /// If they have not by then; so do the others that wait.
    #[track_caller]
    pub fn await_connections(&self, selection: Selection, n: usize, limit: Duration) {
        let what = format!("{n} connections of {:?}", selection.who);
        self.await_that(selection, &what, limit, |passages| passages.len() >= n);
    }

    /// Waits until `n` bytes have moved in `direction` over connections of `selection`.
    #[track_caller]
    pub fn await_moved(&self, selection: Selection, direction: Direction, n: u64, limit: Duration) {
        let what = format!("{n} bytes {direction:?} of {:?}", selection.who);
        self.await_that(selection, &what, limit, |passages| moved(passages, direction) >= n);
    }

    /// Waits until none of the connections of `selection` is open.
    #[track_caller]
    pub fn await_closed(&self, selection: Selection, limit: Duration) {
        let what = format!("the end of all connections of {:?}", selection.who);
        self.await_that(selection, &what, limit, |passages| passages.iter().all(|passage| !passage.is_open));
    }

    /// Waits until `is_so` of what has become of the connections of `selection`; `what` names it.
    #[track_caller]
    pub fn await_that(
        &self,
        selection: Selection,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&[Passage]) -> bool,
    ) {
        let end = Instant::now() + limit;
        let mut board = self.shared.board();
        while !is_so(&chosen(&board, selection)) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !board.is_over,
                "waited {limit:?} in vain for {what}; {:?}",
                board.passages
            );
            let waited = self.shared.changed.wait_timeout(board, left);
            board = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Changes what is in force, and waits until it is.
    fn revise(&self, change: impl FnOnce(&mut Board)) {
        let mut board = self.shared.board();
        board.revision += 1;
        change(&mut board);
        let revision = board.revision;
        self.wake();
        let unaware = |board: &mut Board| board.acted_on < revision && !board.is_over;
        let waited = self.shared.changed.wait_timeout_while(board, NOTICE, unaware);
        let (board, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let acted_on = board.acted_on;
        drop(board);
        assert!(acted_on >= revision, "the proxy's thread has ended, or stands still");
    }

    fn wake(&self) {
        // If its buffer is full, the thread is about to wake anyhow.
        let _ = (&self.waker).write(&[0]);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.board().is_over = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens on a free port that stays this socket's even while it does not listen. Linux would take one back that it
/// chose itself, so it is first chosen for another socket.
fn listen(ip: IpAddr) -> io::Result<TcpListener> {
    let bind = |port: u16| {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(TcpListener::from(socket))
    };
    let chosen = bind(0)?;
    let listener = bind(chosen.local_addr()?.port())?;
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

fn chosen(board: &Board, selection: Selection) -> Vec<Passage> {
    board.passages.iter().filter(|passage| selection.is_of(passage.dialer)).copied().collect()
}

fn moved(passages: &[Passage], direction: Direction) -> u64 {
    passages.iter().map(|passage| passage.moved(direction)).sum()
}
