//! Sanitize: text from hosts and from the input, made safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` with every character that could steer a terminal, or turn the reading direction, written as an
/// escape such as `\u{1b}`. Line ends are escaped, too: what is printed stays on its line.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_unsafe(c) => _ = write!(safe, "\\u{{{:x}}}", c as u32),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Returns `text` made safe, without the blanks around it, and cut after `max` characters.
pub fn clipped(text: &str, max: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(max) {
        Some((cut, _)) => format!("{}…", sanitize(&text[..cut])),
        None => sanitize(text).into_owned(),
    }
}

/// The same as [`sanitize`] for bytes that need not be UTF-8.
pub fn sanitize_bytes(bytes: &[u8]) -> String {
    sanitize(&String::from_utf8_lossy(bytes)).into_owned()
}

/// Controls (C0, DEL, C1), line and paragraph separators, and the marks that reorder or hide text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_kept_as_it_is() {
        for text in ["", "tp-1a201-00: ready", "déjà vu, 東京, हिन्दी"] {
            assert!(matches!(sanitize(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(sanitize("\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(sanitize("a\u{9b}31mb"), "a\\u{9b}31mb");
        assert_eq!(sanitize("one\r\ntwo\tthree"), "one\\r\\ntwo\\tthree");
        assert_eq!(sanitize("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(clipped(" ab\x1bé ", 9), "ab\\u{1b}é");
        assert_eq!(clipped("abécd", 3), "abé…");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(sanitize_bytes(b"a\xff\x07"), "a\u{fffd}\\u{7}");
    }
}
