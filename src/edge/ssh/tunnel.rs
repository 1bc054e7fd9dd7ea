//! Tunnel: a way to a port through a host that is logged in to, as `ProxyJump` and `run --via-ssh` need it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use ssh2::{ErrorCode, ExtendedData};

use super::connection::{CallError, Connection, Deadline};
use super::pump::Pump;

/// libssh2's code for "the host refused the channel".
const REFUSED: i32 = -21;

/// Why there is no way to a port.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("its sshd does not forward connections to {place}")]
    Prohibited { place: String },
    #[error("it cannot connect to {place}")]
    Unreachable { place: String },
    // Not a source: it would be told twice.
    #[error("no way to {place}: {error}")]
    Call { place: String, error: CallError },
}

impl TunnelError {
    /// Says what the user can do about it, where that follows from the cause alone.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            TunnelError::Prohibited { .. } => {
                Some("ask for `AllowTcpForwarding local` in the host's sshd_config, or use other hosts")
            }
            TunnelError::Unreachable { .. } | TunnelError::Call { .. } => None,
        }
    }

    /// Tells whether the connection is gone, as opposed to a request that was refused.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, TunnelError::Call { error, .. } if error.is_disconnect())
    }
}

/// Opens a way through `by`, which is logged in to, to `port` of `host` as seen from there; returns our end of it.
///
/// From now on the session belongs to a thread that does nothing but carry. It ends when both directions have, when
/// our end is closed, or when the session breaks; our end then reads what had come, and the end.
///
/// # Errors
/// If the host cannot connect there, does not forward, or has not answered by the deadline.
pub fn open(mut by: Connection, host: &str, port: u16, deadline: &Deadline) -> Result<OwnedFd, TunnelError> {
    let failed = |error: CallError| failure(error, host, port);
    let mut channel =
        by.call(deadline, |session| session.channel_direct_tcpip(host, port, None)).map_err(failed)?;
    // Nobody would read it, so that a host could fill the window with it for good.
    by.call(deadline, |_| channel.handle_extended_data(ExtendedData::Ignore)).map_err(failed)?;
    let (near, far) = UnixStream::pair().map_err(|error| failed(error.into()))?;
    far.set_nonblocking(true).map_err(|error| failed(error.into()))?;
    let pump = Pump::new(by, channel, far);
    thread::Builder::new()
        .name(format!("mr:tunnel:{host}"))
        .spawn(move || pump.run())
        .map_err(|error| failed(error.into()))?;
    Ok(near.into())
}

fn failure(error: CallError, host: &str, port: u16) -> TunnelError {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match &error {
        // The reason is in libssh2's text only.
        CallError::Ssh(refused) if refused.code() == ErrorCode::Session(REFUSED) => {
            if refused.message().contains("prohibited") {
                TunnelError::Prohibited { place }
            } else if refused.message().contains("connect failed") {
                TunnelError::Unreachable { place }
            } else {
                TunnelError::Call { place, error }
            }
        }
        _ => TunnelError::Call { place, error },
    }
}
