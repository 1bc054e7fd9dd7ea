//! Range: many host names in one word, such as `tp-1a201-[00-30]`.
//!
//! ```text
//! list  = item { ("," | blank) item }        item = { text | "[" set "]" }
//! set   = span { "," span }                  span = number | number "-" number
//! ```
//!
//! A number that starts with zeros keeps its width: `[08-10]` is 08, 09, 10.

use anyhow::{Context, bail, ensure};

/// Digits of a number in a range; more could not be counted up to anyway.
const MAX_DIGITS: usize = 9;

/// Longest item, in bytes: a host name and some brackets are shorter, and 4096 copies of it still fit anywhere.
const MAX_ITEM_BYTES: usize = 1024;

/// A piece of an item.
enum Part<'a> {
    Text(&'a str),
    Numbers(Vec<Span>),
}

/// The numbers `first..=last`, written with at least `width` digits.
struct Span {
    first: u64,
    last: u64,
    width: usize,
}

/// Returns the names that `list` stands for, in the order it gives them; the last bracket counts fastest.
///
/// # Errors
/// If it cannot be read, stands for no name, or for more than `limit`.
pub fn expand(list: &str, limit: usize) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for item in items(list) {
        ensure!(item.len() <= MAX_ITEM_BYTES, "`{}` is longer than {MAX_ITEM_BYTES} bytes", shown(item));
        let parts = parse(item).with_context(|| format!("cannot read the range `{}`", shown(item)))?;
        let count = parts.iter().map(Part::count).try_fold(1u64, u64::checked_mul);
        ensure!(
            count.is_some_and(|count| count <= (limit - names.len()) as u64),
            "`{}` makes too many hosts: there is room for {}",
            shown(item),
            limit - names.len()
        );
        names.extend(product(&parts));
    }
    ensure!(!names.is_empty(), "`{}` names no host", shown(list));
    Ok(names)
}

/// Cuts `list` at the commas and blanks outside brackets.
fn items(list: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    list.split(move |c: char| {
        inside = (inside || c == '[') && c != ']';
        !inside && (c == ',' || c.is_whitespace())
    })
    .filter(|item| !item.is_empty())
}

fn parse(item: &str) -> anyhow::Result<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = item;
    while let Some((text, after)) = rest.split_once('[') {
        ensure!(!text.contains(']'), "a bracket is closed that was not opened");
        let (set, after) = after.split_once(']').context("a bracket is not closed")?;
        parts.push(Part::Text(text));
        parts.push(Part::Numbers(
            set.split(',').map(|span| parse_span(span.trim())).collect::<Result<_, _>>()?,
        ));
        rest = after;
    }
    ensure!(!rest.contains(']'), "a bracket is closed that was not opened");
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn parse_span(span: &str) -> anyhow::Result<Span> {
    let (first, last) = span.split_once('-').unwrap_or((span, span));
    let (from, to) = (parse_number(first.trim())?, parse_number(last.trim())?);
    ensure!(from <= to, "`{}` counts backwards", shown(span));
    let width = if first.trim().starts_with('0') { first.trim().len() } else { 1 };
    Ok(Span { first: from, last: to, width })
}

fn parse_number(digits: &str) -> anyhow::Result<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain || digits.len() > MAX_DIGITS {
        bail!("brackets hold numbers such as [00-30] or [1,3,5-9], not `{}`", shown(digits));
    }
    Ok(digits.parse()?)
}

fn product(parts: &[Part<'_>]) -> Vec<String> {
    let mut names = vec![String::new()];
    for part in parts {
        match part {
            Part::Text(text) => names.iter_mut().for_each(|name| name.push_str(text)),
            Part::Numbers(spans) => {
                let numbers = || spans.iter().flat_map(|s| (s.first..=s.last).map(move |n| (n, s.width)));
                let longer = |name: String| numbers().map(move |(n, width)| format!("{name}{n:0width$}"));
                names = names.into_iter().flat_map(longer).collect();
            }
        }
    }
    names
}

fn shown(text: &str) -> String {
    super::sanitize::clipped(text, 60)
}

impl Part<'_> {
    fn count(&self) -> u64 {
        match self {
            Part::Text(_) => 1,
            Part::Numbers(spans) => spans.iter().map(|s| s.last - s.first + 1).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_expands(list: &str, names: &[&str]) {
        assert_eq!(expand(list, 4096).unwrap(), names, "{list}");
    }

    fn assert_fails(list: &str, why: &str) {
        let error = format!("{:#}", expand(list, 4096).unwrap_err());
        assert!(error.contains(why), "{list}: {error}");
    }

    #[test]
    fn counts_and_keeps_zero_padding() {
        assert_expands("tp-1a201-[00-02]", &["tp-1a201-00", "tp-1a201-01", "tp-1a201-02"]);
        assert_expands("h[8-11]", &["h8", "h9", "h10", "h11"]);
        assert_expands("h[08-10]", &["h08", "h09", "h10"]);
        assert_expands("h[0-1]", &["h0", "h1"]);
        assert_expands("127.0.0.[2-3]", &["127.0.0.2", "127.0.0.3"]);
    }

    #[test]
    fn takes_sets_lists_and_several_brackets() {
        assert_expands("h[1,3,5-6]x", &["h1x", "h3x", "h5x", "h6x"]);
        assert_expands("h[1, 3]", &["h1", "h3"]);
        assert_expands("a[1-2],b c[3]", &["a1", "a2", "b", "c3"]);
        assert_expands("r[1-2]-[00-01]", &["r1-00", "r1-01", "r2-00", "r2-01"]);
        assert_expands("plain", &["plain"]);
    }

    #[test]
    fn says_what_is_wrong() {
        assert_fails("h[00-", "not closed");
        assert_fails("h00]", "was not opened");
        assert_fails("h[1]]", "was not opened");
        assert_fails("h[9-1]", "counts backwards");
        assert_fails("h[a-f]", "not `a`");
        assert_fails("h[]", "not ``");
        assert_fails("h[[1]]", "not `[1`");
        assert_fails("h[-1]", "not ``");
        assert_fails("h[1-2-3]", "not `2-3`");
        assert_fails("h[0-99999999999]", "not `99999999999`");
        assert_fails(" , ", "names no host");
    }

    #[test]
    fn is_bounded_before_anything_is_made() {
        assert_fails("h[0-4096]", "room for 4096");
        assert_fails("h[0-999999999][0-999999999][0-999999999]", "room for 4096");
        assert_fails("h[0-4095],x", "room for 0");
        assert_fails(&format!("{}[0-4095]", "h".repeat(2000)), "longer than 1024 bytes");
        assert_eq!(expand("h[0-4095]", 4096).unwrap().len(), 4096);
    }

    proptest! {
        #[test]
        fn eats_any_text(list in "[a-c0-9,\\[\\] \\-é]{0,40}") {
            if let Ok(names) = expand(&list, 100) {
                prop_assert!(!names.is_empty() && names.len() <= 100);
            }
        }
    }
}
