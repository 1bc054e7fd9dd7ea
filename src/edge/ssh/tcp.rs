//! Tcp: the connection to the SSH port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use super::connection::Deadline;

/// Returns the addresses of `host`, those of IPv4 first: labs filter IPv6 silently.
///
/// # Errors
/// If it has none, or the name service does not answer in time.
pub fn resolve(host: &str, port: u16, timeout: Duration) -> anyhow::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    // The system's resolver knows no deadline, so a thread asks it, and is left alone if it does not come back.
    let (sender, receiver) = mpsc::channel();
    let name = host.to_string();
    thread::Builder::new()
        .name(format!("mr:resolve:{host}"))
        .spawn(move || {
            // Nobody listens any more once the time is over.
            let _ = sender.send((name.as_str(), port).to_socket_addrs().map(Vec::from_iter));
        })
        .context("could not start a thread")?;
    let mut addresses = receiver
        .recv_timeout(timeout)
        .map_err(|_| {
            anyhow!("the name service did not answer within {}", humantime::format_duration(timeout))
        })?
        .with_context(|| format!("{host} is not known"))?;
    ensure!(!addresses.is_empty(), "{host} has no address");
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

/// Connects to the first of `addresses` that accepts; returns the socket and that address.
///
/// # Errors
/// With what happened at each, if none did within the time for all of them.
pub fn connect(addresses: &[SocketAddr], timeout: Duration) -> anyhow::Result<(OwnedFd, IpAddr)> {
    let deadline = Deadline::within(timeout);
    let mut failures = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let share = deadline.left()? / u32::try_from(addresses.len() - index).unwrap_or(1);
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok((stream.into(), address.ip()));
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                failures.push(format!("{address}: no answer within {}", rounded(share)));
            }
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    Err(anyhow!(failures.join("\n")))
}

/// In tenths of a second: what was left of a deadline of 5 s is 4.9998 s, which nobody wants to know.
fn rounded(duration: Duration) -> humantime::FormattedDuration {
    let tenths = u64::try_from(duration.as_millis().div_ceil(100)).unwrap_or(u64::MAX / 100).max(1);
    humantime::format_duration(Duration::from_millis(tenths * 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_addresses_and_ipv4_comes_first() {
        assert_eq!(resolve("127.0.0.3", 22, Duration::ZERO).unwrap(), ["127.0.0.3:22".parse().unwrap()]);
        assert_eq!(resolve("::1", 22, Duration::ZERO).unwrap(), ["[::1]:22".parse().unwrap()]);
        let local = resolve("localhost", 22, Duration::from_secs(20)).unwrap();
        assert!(local.is_sorted_by_key(SocketAddr::is_ipv6) && !local.is_empty());
    }

    #[test]
    fn time_is_told_in_tenths_of_a_second() {
        assert_eq!(rounded(Duration::from_micros(4_999_812)).to_string(), "5s");
        assert_eq!(rounded(Duration::from_millis(1750)).to_string(), "1s 800ms");
        assert_eq!(rounded(Duration::ZERO).to_string(), "100ms");
    }

    #[test]
    fn the_next_address_is_tried_when_one_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::new("127.0.0.9".parse().unwrap(), 1);
        let (_socket, ip) = connect(&[closed, open], Duration::from_secs(5)).unwrap();
        assert_eq!(ip, open.ip());
        let error = connect(&[closed, closed], Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("127.0.0.9:1: ") && error.lines().count() == 2, "{error}");
    }
}
