//! Errors: the end of what a command writes to standard error.

use std::fmt;
use std::io::{self, Read};

use crate::edge::sanitize::shortened;

/// Bytes that are kept.
const KEPT_BYTES: usize = 4 << 10;

/// Lines that are told, and characters of them.
const TOLD_LINES: usize = 8;
const TOLD_CHARS: usize = 1000;

/// The last bytes that were written.
#[derive(Default)]
pub(super) struct Errors {
    end: Vec<u8>,
}

impl Errors {
    /// Reads what there is. Returns whether more may come.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read(&mut self, from: &mut impl Read) -> io::Result<bool> {
        let mut room = [0; KEPT_BYTES];
        match from.read(&mut room) {
            Ok(0) => return Ok(false),
            Ok(read) => self.end.extend_from_slice(&room[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let surplus = self.end.len().saturating_sub(KEPT_BYTES);
        self.end.drain(..surplus);
        Ok(true)
    }
}

/// The last lines, on one line and safe for a terminal, behind a colon.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.end);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() {
            return write!(f, " and wrote nothing to standard error");
        }
        let told = lines[lines.len().saturating_sub(TOLD_LINES)..].join(" | ");
        // The last words tell most.
        let surplus = told.chars().count().saturating_sub(TOLD_CHARS);
        let told: String = told.chars().skip(surplus).collect();
        write!(f, ": {}", shortened(&told, TOLD_CHARS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &[u8]) -> String {
        let mut errors = Errors::default();
        let mut from = text;
        while errors.read(&mut from).expect("memory can be read") {}
        errors.to_string()
    }

    #[test]
    fn the_last_lines_are_told() {
        assert_eq!(told(b""), " and wrote nothing to standard error");
        assert_eq!(told(b"\n \n"), " and wrote nothing to standard error");
        assert_eq!(
            told(b"Traceback:\n  line 1\n\nValueError: no\n"),
            ": Traceback: |   line 1 | ValueError: no"
        );
        let many: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        let told = told(many.as_bytes());
        assert!(told.starts_with(": line 99992 | ") && told.ends_with(" | line 99999"), "{told}");
    }

    #[test]
    fn nothing_steers_a_terminal_or_fills_it() {
        assert_eq!(told(b"\x1b[2Jgone\xff\n"), ": \\u{1b}[2Jgone\u{fffd}");
        let told = told(&[b"x".repeat(9000), b"end".to_vec()].concat());
        assert!(told.len() < 1100 && told.ends_with("xend"), "{told}");
    }
}
