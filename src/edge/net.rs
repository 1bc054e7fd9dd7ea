//! Net: connections, made and accepted here alone: over TCP or what an SSH session carries, encrypted or not.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use crossbeam_channel::Receiver;
use socket2::TcpKeepalive;

use crate::job::Jobs;
use crate::runtime::greet::{GreetError, MeetError, meet};
use crate::runtime::link::{Connection, Control, Knock, Listen, Network};
use crate::runtime::serve::{Log, WorkerOptions};
use crate::wire::frame::FrameError;
use crate::wire::message::{Role, Welcome};

use super::storage::Places;
use super::tls::{NotTls, Shaken, Tls};

/// How connections are protected.
#[derive(Clone)]
pub enum Wire {
    /// As they are: on loopback, or where the user said so. The cluster's id keeps clusters apart, against no enemy.
    Plaintext {
        cluster: String,
    },
    Encrypted(Tls),
}

impl Wire {
    /// Speaks with workers that were started by hand, on this machine.
    #[must_use]
    pub fn by_hand() -> Wire {
        Wire::Plaintext { cluster: String::new() }
    }

    /// Makes a connection over `socket`, which is connected to `peer`, who must be `name` where that can be proven.
    fn dial(&self, socket: Socket, peer: String, name: &str, limit: Duration) -> io::Result<Connection> {
        match self {
            Wire::Plaintext { .. } => Ok(plain(socket, peer)),
            Wire::Encrypted(tls) => Ok(sealed(tls.connect(&socket, name, limit)?, socket, peer)),
        }
    }

    /// Returns what connections of this cluster say it is; proven ones need not.
    pub fn cluster(&self) -> &str {
        match self {
            Wire::Plaintext { cluster } => cluster,
            Wire::Encrypted(_) => "",
        }
    }
}

/// Connects over TCP.
impl Network for Wire {
    fn connect(&self, address: &str, name: &str, timeout: Duration) -> io::Result<Connection> {
        let address: SocketAddr =
            address.parse().map_err(|_| io::Error::other(format!("{address:?} is not an address")))?;
        let end = Instant::now() + timeout;
        let socket = Socket::tcp(TcpStream::connect_timeout(&address, timeout)?)?;
        // What is left may be nothing: then the handshake ends at once, and says so.
        let left = end.saturating_duration_since(Instant::now());
        self.dial(socket, address.to_string(), name, left)
    }
}

struct Accepting {
    listener: TcpListener,
    wire: Wire,
}

impl Listen for Accepting {
    fn accept(&self) -> io::Result<Knock> {
        let (stream, peer) = self.listener.accept()?;
        let socket = Socket::tcp(stream)?;
        let (wire, control) = (self.wire.clone(), Arc::new(socket.clone()));
        let open = move |limit| match wire {
            Wire::Plaintext { .. } => Ok(plain(socket, peer.to_string())),
            Wire::Encrypted(tls) => Ok(sealed(tls.accept(&socket, limit)?, socket, peer.to_string())),
        };
        Ok(Knock { control, host: peer.ip().to_string(), peer: peer.to_string(), open: Box::new(open) })
    }

    fn wake(&self) {
        if let Ok(mut address) = self.listener.local_addr() {
            if address.ip().is_unspecified() {
                address.set_ip(match address.ip() {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                });
            }
            // If even that fails, the process ends without the loop.
            let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        }
    }
}

/// One socket for all who read it, write it or end it: a worker has many, and each is an open file. It may be a TCP
/// connection, or our end of a pair whose other end an SSH session carries on.
#[derive(Clone)]
pub struct Socket {
    inner: Arc<socket2::Socket>,
    is_tcp: bool,
}

/// How long a connection may be idle before the kernel asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Bytes that the kernel takes ahead of what the network does. With more, the rate at which a connection takes bytes
/// would say little of the link behind it.
const UNSENT_BYTES: u32 = 256 << 10;

impl Socket {
    /// Takes a TCP connection.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn tcp(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        let socket = socket2::Socket::from(stream);
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        Ok(Socket { inner: Arc::new(socket), is_tcp: true })
    }

    /// Takes our end of a pair of sockets.
    pub fn of_pair(end: OwnedFd) -> Socket {
        Socket { inner: Arc::new(end.into()), is_tcp: false }
    }

    /// Bounds every single read and write from now on.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn bound(&self, deadline: Duration) -> io::Result<()> {
        // Below a microsecond it would be none at all.
        let deadline = deadline.max(Duration::from_millis(1));
        self.inner.set_read_timeout(Some(deadline))?;
        self.inner.set_write_timeout(Some(deadline))?;
        // Bytes that the other side's kernel does not acknowledge end the connection, too.
        #[cfg(target_os = "linux")]
        if self.is_tcp {
            self.inner.set_tcp_user_timeout(Some(deadline))?;
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.inner).read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.inner).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.inner).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.inner).flush()
    }
}

impl Control for Socket {
    fn set_deadline(&self, deadline: Duration) -> io::Result<()> {
        self.bound(deadline)
    }

    fn close(&self) {
        // It may be closed already.
        let _ = self.inner.shutdown(Shutdown::Both);
    }
}

fn plain(socket: Socket, peer: String) -> Connection {
    Connection {
        reader: Box::new(socket.clone()),
        writer: Box::new(socket.clone()),
        control: Arc::new(socket),
        peer,
        proven: None,
    }
}

fn sealed(Shaken { reader, writer, name }: Shaken, socket: Socket, peer: String) -> Connection {
    Connection {
        reader: Box::new(reader),
        writer: Box::new(writer),
        control: Arc::new(socket),
        peer,
        proven: Some(name),
    }
}

/// Resolves `HOST:PORT`; of several addresses an IPv4 one is preferred, for the lab's hosts answer there.
///
/// # Errors
/// If it is not of that form, or the name is unknown.
pub fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found: Vec<_> =
        address.to_socket_addrs().with_context(|| format!("cannot resolve {address}"))?.collect();
    let preferred = found.iter().find(|address| address.is_ipv4()).or(found.first());
    preferred.copied().with_context(|| format!("{address} has no address"))
}

/// Says of a worker at `at` why it was not met.
fn explain(error: MeetError, wire: &Wire, at: &str) -> anyhow::Error {
    let is_plain = matches!(wire, Wire::Plaintext { .. });
    match error {
        MeetError::Greet(GreetError::Stranger | GreetError::Broken(FrameError::Torn)) if is_plain => anyhow!(
            "what listens at {at} is not a mapreduce worker, or one that wants an encrypted connection"
        ),
        MeetError::Greet(GreetError::Stranger) => anyhow!("what listens at {at} is not a mapreduce worker"),
        MeetError::Connect(error) if error.get_ref().is_some_and(|cause| cause.is::<NotTls>()) => {
            anyhow!("what listens at {at} is not a mapreduce worker, or one without encryption")
        }
        MeetError::TurnedAway if !is_plain => anyhow!(
            "what listens at {at} ended the handshake: it is no worker of this cluster, one without encryption, or \
             besieged by strangers"
        ),
        MeetError::Connect(error) => anyhow::Error::new(error).context(format!("cannot connect to {at}")),
        error => anyhow::Error::new(error).context(format!("cannot greet the worker at {at}")),
    }
}

/// Connects to the worker `name` at `address` and greets it.
///
/// # Errors
/// If there is none, or it refuses.
pub fn reach(
    address: SocketAddr,
    wire: &Wire,
    name: &str,
    role: Role,
    timeout: Duration,
) -> anyhow::Result<(Connection, Welcome)> {
    let at = address.to_string();
    meet(|| wire.connect(&at, name, timeout), wire.cluster(), &role, timeout)
        .map_err(|error| explain(error, wire, &at))
}

/// Greets the worker `name` over `socket`, which leads to it in some other way; `at` says where, for messages.
///
/// # Errors
/// As [`reach`].
pub fn reach_over(
    socket: Socket,
    at: &str,
    wire: &Wire,
    name: &str,
    role: Role,
    timeout: Duration,
) -> anyhow::Result<(Connection, Welcome)> {
    let mut socket = Some(socket);
    let connect = || match socket.take() {
        Some(socket) => wire.dial(socket, at.to_owned(), name, timeout),
        // There is but one way.
        None => Err(io::ErrorKind::ConnectionReset.into()),
    };
    meet(connect, wire.cluster(), &role, timeout).map_err(|error| explain(error, wire, at))
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Of its program.
    pub version: String,
    pub pid: u32,
    pub uptime: Duration,
    pub threads: usize,
    /// Jobs that run at this moment.
    pub jobs: usize,
    /// Resident memory.
    pub memory_bytes: u64,
}

/// Asks the worker `name` at `address` how it is. That it answers proves that its port is reachable, that it belongs to
/// the cluster, and which version it is.
///
/// # Errors
/// If there is none, or it refuses.
pub fn ask_status(
    address: SocketAddr,
    wire: &Wire,
    name: &str,
    timeout: Duration,
) -> anyhow::Result<WorkerStatus> {
    reach(address, wire, name, Role::Status, timeout).map(status_of)
}

/// Makes of a worker's answer how it is, and ends the connection.
#[must_use]
pub fn status_of((connection, welcome): (Connection, Welcome)) -> WorkerStatus {
    connection.control.close();
    WorkerStatus {
        version: welcome.program,
        pid: welcome.pid,
        uptime: Duration::from_millis(welcome.uptime_ms),
        threads: welcome.threads as usize,
        jobs: welcome.running_jobs as usize,
        memory_bytes: welcome.memory_bytes,
    }
}

/// Serves on `listener` until `stop` gets a value or the worker has been idle for long enough.
///
/// # Errors
/// If threads cannot be started.
pub fn serve<S: Jobs>(
    listener: TcpListener,
    wire: Wire,
    options: WorkerOptions,
    stop: Receiver<()>,
    log: Log,
) -> io::Result<()> {
    let accepting = Arc::new(Accepting { listener, wire: wire.clone() });
    crate::runtime::serve::serve::<S>(accepting, Arc::new(wire), Arc::new(Places::new()), options, stop, log)
}
