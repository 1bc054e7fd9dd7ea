//! Hello: who made a connection, by its first frame.

use mapreduce::wire::frame::{FrameError, MAX_HELLO_BYTES};
use mapreduce::wire::message::{Hello, Role, read_message};

use super::Dialer;

/// Returns who begins a connection with `bytes`; `None` while the first frame is not whole.
pub(super) fn dialer(bytes: &[u8]) -> Option<Dialer> {
    match read_message::<Hello>(&mut &bytes[..], MAX_HELLO_BYTES) {
        Ok(Hello { role: Role::Client, .. }) => Some(Dialer::Client),
        Ok(Hello { role: Role::Peer { source, .. }, .. }) => Some(Dialer::Peer { source: source.0 }),
        Ok(Hello { role: Role::Status, .. }) => Some(Dialer::Status),
        Err(FrameError::Torn) => None,
        Err(_) => Some(Dialer::Unknown),
    }
}
