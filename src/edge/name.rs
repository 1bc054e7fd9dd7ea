//! Name: which names of hosts and users are taken, and how short ones are completed.
//!
//! Names come from a web page or a file and end up in SSH connections, in files and on a terminal, so only what
//! the name or address of a machine can look like goes on from here.

use std::net::IpAddr;

/// Longest name that DNS knows, in bytes (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// Checks that `name` can be the name or the address of a host.
///
/// # Errors
/// Says what is wrong with it, as words that follow the name.
pub fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("is longer than 253 characters");
    }
    if name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("does not start with a letter or a digit");
    }
    if !name.bytes().all(is_name_byte) || name.contains("..") {
        return Err("is no host name: it may hold letters, digits, `-`, `_` and single dots");
    }
    Ok(())
}

/// Checks that `suffix` can complete a short name; an empty one leaves names as they are.
///
/// # Errors
/// Says what is wrong with it, as words that follow the suffix.
pub fn check_suffix(suffix: &str) -> Result<(), &'static str> {
    match suffix.strip_prefix('.').unwrap_or(suffix) {
        "" if suffix.is_empty() => Ok(()),
        domain => check(domain).map_err(|_| "is no domain such as `.enst.fr`"),
    }
}

/// Adds `suffix` to a short name; an address, a name with a dot and `localhost` stay as they are.
pub fn with_suffix(name: &str, suffix: &str) -> String {
    let short = !name.contains(['.', ':']) && name != "localhost";
    match suffix.strip_prefix('.').unwrap_or(suffix) {
        domain if short && !domain.is_empty() => format!("{name}.{domain}"),
        _ => name.to_owned(),
    }
}

/// Checks that `user` can be a login name; what it may hold exactly is for the host to say.
///
/// # Errors
/// Says what is wrong with it, as words that follow the name.
pub fn check_user(user: &str) -> Result<(), &'static str> {
    check_plain(user)?;
    match user.starts_with('-') || user.contains(char::is_whitespace) {
        true => Err("is no login name"),
        false => Ok(()),
    }
}

/// Checks that `text`, such as the name of a directory, is not empty and has no control characters.
///
/// # Errors
/// Says what is wrong with it, as words that follow the text.
pub fn check_plain(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("is empty"),
        text if text.contains(char::is_control) => Err("holds control characters"),
        _ => Ok(()),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_and_addresses() {
        for name in
            ["tp-1a201-05", "tp-ariel", "a_b.enst.fr", "10.0.0.1", "::1", "fe80::1", "localhost", "h."]
        {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn refuses_what_a_shell_an_option_parser_or_a_terminal_would_misread() {
        let long = "a".repeat(254);
        for name in [
            "",
            "-oProxyCommand=x",
            "a b",
            "a;b",
            "$(x)",
            "a\u{1b}[2J",
            "a\nb",
            "é",
            "a/b",
            "u@h",
            ".",
            "a..b",
            &long,
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn completes_short_names_only() {
        assert_eq!(with_suffix("tp-m1-05", ".enst.fr"), "tp-m1-05.enst.fr");
        assert_eq!(with_suffix("tp-m1-05", "enst.fr"), "tp-m1-05.enst.fr");
        assert_eq!(with_suffix("tp-m1-05", ""), "tp-m1-05");
        for whole in ["tp-m1-05.enst.fr", "10.0.0.1", "::1", "localhost"] {
            assert_eq!(with_suffix(whole, ".enst.fr"), whole);
        }
    }

    #[test]
    fn checks_suffixes() {
        for suffix in ["", ".enst.fr", "enst.fr"] {
            assert_eq!(check_suffix(suffix), Ok(()), "{suffix}");
        }
        for suffix in [".", "..fr", ". fr", ".-x"] {
            assert!(check_suffix(suffix).is_err(), "{suffix}");
        }
    }

    #[test]
    fn checks_users_and_texts() {
        for user in ["me", "m.e", "é", "DOMAIN\\me"] {
            assert_eq!(check_user(user), Ok(()), "{user}");
        }
        for user in ["", "-l", "a b", "a\u{1b}b"] {
            assert!(check_user(user).is_err(), "{user:?}");
        }
        assert!(check_plain("/tmp/a b").is_ok() && check_plain("a\nb").is_err());
    }
}
