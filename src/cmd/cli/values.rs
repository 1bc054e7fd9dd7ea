//! Values: what an argument may be, and what it means.

use std::time::Duration;

use bytesize::ByteSize;

use crate::edge::name;

/// Parses a size such as `4MiB`, `64k` or `1000`, in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let size: ByteSize =
        text.parse().map_err(|_| "a size is a number with a unit, such as 64k, 4MiB or 2GB".to_owned())?;
    match size.as_u64() {
        0 => Err("must not be zero".into()),
        bytes if bytes > i64::MAX as u64 => Err("is more than any machine holds".into()),
        bytes => Ok(bytes),
    }
}

/// Parses a time such as `30m`, `1h 30m` or `10s`; a plain number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "a time is a number with a unit, such as 10s, 30m or 2h".to_owned())?,
    };
    if duration.is_zero() {
        return Err("must not be zero".into());
    }
    if duration > LONGEST {
        return Err("is more than ten years".into());
    }
    Ok(duration)
}

/// The longest time taken; adding it to the clock cannot overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Parses a rate such as `5/min`, `1/s` or `10/30s`.
pub fn rate(text: &str) -> Result<(u32, Duration), String> {
    let say = || "a rate is a number per time, such as 5/min, 1/s or 10/30s".to_owned();
    let (count, per) = text.split_once('/').ok_or_else(say)?;
    let count: u32 = count.trim().parse().map_err(|_| say())?;
    if count == 0 {
        return Err("must not be zero".into());
    }
    let per = per.trim();
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
    let per = humantime::parse_duration(&per).map_err(|_| say())?;
    if per.is_zero() || per > LONGEST {
        return Err(say());
    }
    Ok((count, per))
}

/// Parses a number that is not zero and not absurd.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must not be zero".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("must be a whole number".into()),
    }
}

/// Parses a number of threads or of things done at a time.
pub fn small_count(text: &str) -> Result<usize, String> {
    match count(text)? {
        count if count > MOST_THREADS => Err(format!("must not be more than {MOST_THREADS}")),
        count => Ok(count),
    }
}

/// Most threads that an option may ask for: beyond it a typing error is likelier than such a machine.
const MOST_THREADS: usize = 4096;

/// Checks a worker's address, `HOST:PORT`. The name is resolved later.
pub fn worker_address(text: &str) -> Result<String, String> {
    let say = || "a worker is HOST:PORT, such as localhost:4000 or [::1]:4000".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(say)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(host) => host,
        None if host.contains(':') => return Err("an IPv6 address is written in brackets: [::1]:4000".into()),
        None => host,
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/".contains(c)) {
        return Err(say());
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err("a port is a number from 1 to 65535".into()),
        Ok(_) => Ok(text.to_owned()),
    }
}

/// Checks what is added to short host names; it may be empty.
pub fn suffix(text: &str) -> Result<String, String> {
    checked(text, name::check_suffix)
}

/// Checks a login name.
pub fn user(text: &str) -> Result<String, String> {
    checked(text, name::check_user)
}

/// Checks a text that must not be empty and has no control characters, such as a remote directory.
pub fn plain_text(text: &str) -> Result<String, String> {
    checked(text, name::check_plain)
}

/// What the hosts file refuses is refused here, too: it could not be read again.
fn checked(text: &str, check: impl Fn(&str) -> Result<(), &'static str>) -> Result<String, String> {
    check(text).map(|()| text.to_owned()).map_err(|why| format!("it {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4MiB"), Ok(4 << 20));
        assert_eq!(size("64k"), Ok(64_000));
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("1"), Ok(1));
        for bad in ["", "0", "0k", "-1", "4 parsecs", "99999999999999999999", "17EiB", "NaN"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units_or_are_seconds() {
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "0", "0s", "-5", "soon", "18446744073709551615", "200y"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_counts_per_time() {
        assert_eq!(rate("5/min"), Ok((5, Duration::from_secs(60))));
        assert_eq!(rate("1/s"), Ok((1, Duration::from_secs(1))));
        assert_eq!(rate("10/30s"), Ok((10, Duration::from_secs(30))));
        assert_eq!(rate("2 / h"), Ok((2, Duration::from_secs(3600))));
        for bad in ["", "5", "/min", "0/min", "5/", "5/0s", "-1/s", "5/min/min", "x/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn workers_are_host_and_port() {
        for good in ["localhost:4000", "127.0.0.2:1", "[::1]:65535", "tp-1a201-05.enst.fr:40000"] {
            assert_eq!(worker_address(good), Ok(good.to_owned()));
        }
        for bad in
            ["", "localhost", ":4000", "localhost:0", "localhost:65536", "::1:4000", "a b:1", "http://a:1"]
        {
            assert!(worker_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn suffixes_are_parts_of_names() {
        assert!(suffix("").is_ok());
        assert!(suffix(".enst.fr").is_ok());
        assert!(suffix(".enst.fr ").is_err());
        assert!(suffix("/x").is_err() && suffix(".").is_err());
    }

    #[test]
    fn users_are_those_that_the_hosts_file_takes() {
        assert!(user("me").is_ok());
        assert!(user("a b").is_err() && user("-l").is_err() && user("").is_err());
    }
}
