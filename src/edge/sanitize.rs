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

/// Returns `text` made safe, without the blanks around it, and cut after `max` characters of what is shown.
pub fn clipped(text: &str, max: usize) -> String {
    shortened(text.trim(), max)
}

/// Returns `text` made safe for a line of a message, and no longer than what fills a screen: whoever it comes from,
/// what was said before it stays in sight.
pub fn one_line(text: &str) -> String {
    shortened(text, MAX_LINE_CHARS)
}

/// Returns `json`, which has line ends between its values only, with what is unsafe in its strings in the form of
/// JSON's own escapes: the same values, for a terminal.
pub fn sanitize_json(json: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c != '\n' && is_unsafe(c);
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            c if is_unsafe(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// The same as [`sanitize`] for bytes that need not be UTF-8.
pub fn sanitize_bytes(bytes: &[u8]) -> String {
    sanitize(&String::from_utf8_lossy(bytes)).into_owned()
}

/// Characters of a screen of the usual size.
const MAX_LINE_CHARS: usize = 80 * 25;

/// Returns `text` made safe, blanks and all, and cut after `max` characters of what is shown.
pub fn shortened(text: &str, max: usize) -> String {
    // Before it is made safe, too: a key may have any length.
    let end = text.char_indices().nth(max).map_or(text.len(), |(end, _)| end);
    let safe = sanitize(&text[..end]);
    match safe.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &safe[..end]),
        None if end < text.len() => format!("{safe}…"),
        None => safe.into_owned(),
    }
}

/// Controls (C0, DEL, C1), line and paragraph separators, and the marks that reorder or hide text: those of the two
/// writing directions, what has no width and joins nothing, annotations, and tags. Joiners belong to words.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
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
        for c in ['\u{202e}', '\u{61c}', '\u{200b}', '\u{2066}', '\u{7f}', '\u{85}', '\u{2028}', '\u{e0041}']
        {
            assert_eq!(sanitize(&format!("a{c}b")), format!("a\\u{{{:x}}}b", c as u32));
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(clipped(" ab\x1bé ", 9), "ab\\u{1b}é");
        assert_eq!(clipped("abécd", 3), "abé…");
        assert_eq!(clipped(&"\x1b".repeat(1000), 8), "\\u{1b}\\u…");
        assert_eq!(one_line(&"é".repeat(2001)), format!("{}…", "é".repeat(2000)));
        assert_eq!(one_line(" a\n"), " a\\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(sanitize_bytes(b"a\xff\x07"), "a\u{fffd}\\u{7}");
    }

    #[test]
    fn json_means_the_same_when_it_is_safe() {
        let value = serde_json::json!({"a\u{9b}": ["\u{202e}x\u{7f}\x1b\n", "déjà vu", "\u{e0041}"]});
        for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = sanitize_json(&json);
            assert!(!safe.contains(|c| c != '\n' && is_unsafe(c)), "{safe}");
            assert!(safe.contains("\\u202ex\\u007f\\u001b\\n") && safe.contains("déjà"), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
        assert!(matches!(sanitize_json("{\n}"), Cow::Borrowed(_)));
    }
}
