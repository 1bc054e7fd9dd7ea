//! Net: connections, made and accepted here and nowhere else. Plain TCP for now; encryption has its place here.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam_channel::Receiver;
use socket2::{SockRef, TcpKeepalive};

use crate::job::Job;
use crate::runtime::greet::{GreetError, greet};
use crate::runtime::link::{Connection, Control, Listen, Network};
use crate::runtime::serve::{Log, WorkerOptions};
use crate::wire::message::{Role, Welcome};

use super::cluster::ClusterKey;

/// TCP, as it is.
pub struct Tcp;

impl Network for Tcp {
    fn connect(&self, address: &str, timeout: Duration) -> io::Result<Connection> {
        let address: SocketAddr =
            address.parse().map_err(|_| io::Error::other(format!("{address:?} is not an address")))?;
        connection(TcpStream::connect_timeout(&address, timeout)?, address)
    }
}

struct Accepting(TcpListener);

impl Listen for Accepting {
    fn accept(&self) -> io::Result<Connection> {
        let (stream, peer) = self.0.accept()?;
        connection(stream, peer)
    }

    fn wake(&self) {
        if let Ok(mut address) = self.0.local_addr() {
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

/// One socket for all who read it, write it or end it: a worker has many, and each is an open file.
#[derive(Clone)]
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.0).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

impl Control for Socket {
    fn set_deadline(&self, deadline: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(deadline))?;
        self.0.set_write_timeout(Some(deadline))?;
        // Bytes that the other side's kernel does not acknowledge end the connection, too.
        #[cfg(target_os = "linux")]
        SockRef::from(&*self.0).set_tcp_user_timeout(Some(deadline))?;
        Ok(())
    }

    fn close(&self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// How long a connection may be idle before the kernel asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Bytes that the kernel takes ahead of what the network does. With more, the rate at which a connection takes bytes
/// would say little of the link behind it.
const UNSENT_BYTES: u32 = 256 << 10;

fn connection(stream: TcpStream, peer: SocketAddr) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    let socket = Socket(Arc::new(stream));
    Ok(Connection {
        reader: Box::new(socket.clone()),
        writer: Box::new(socket.clone()),
        control: Arc::new(socket),
        peer: peer.to_string(),
    })
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

/// Connects to the worker at `address` and greets it.
///
/// # Errors
/// If there is none, or it refuses.
pub fn reach(
    address: SocketAddr,
    key: Option<&ClusterKey>,
    role: Role,
    timeout: Duration,
) -> anyhow::Result<(Connection, Welcome)> {
    let mut connection =
        Tcp.connect(&address.to_string(), timeout).with_context(|| format!("cannot connect to {address}"))?;
    let key = key.map_or("", |key| key.0.as_str());
    match greet(&mut connection, key, role, timeout) {
        Ok(welcome) => Ok((connection, welcome)),
        Err(GreetError::Stranger) => bail!("what listens at {address} is not a mapreduce worker"),
        Err(error) => Err(error).with_context(|| format!("cannot greet the worker at {address}")),
    }
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

/// Asks the worker at `address` how it is. That it answers proves that its port is reachable, that it belongs to the
/// cluster of `key`, and which version it is.
///
/// # Errors
/// If there is none, or it refuses.
pub fn ask_status(
    address: SocketAddr,
    key: Option<&ClusterKey>,
    timeout: Duration,
) -> anyhow::Result<WorkerStatus> {
    let (connection, welcome) = reach(address, key, Role::Status, timeout)?;
    connection.control.close();
    Ok(WorkerStatus {
        version: welcome.program,
        pid: welcome.pid,
        uptime: Duration::from_millis(welcome.uptime_ms),
        threads: welcome.threads as usize,
        jobs: welcome.running_jobs as usize,
        memory_bytes: welcome.memory_bytes,
    })
}

/// Serves on `listener` until `stop` gets a value or the worker has been idle for long enough.
///
/// # Errors
/// If threads cannot be started.
pub fn serve<J: Job>(
    listener: TcpListener,
    options: WorkerOptions,
    stop: Receiver<()>,
    log: Log,
) -> io::Result<()> {
    crate::runtime::serve::serve::<J>(Arc::new(Accepting(listener)), Arc::new(Tcp), options, stop, log)
}
