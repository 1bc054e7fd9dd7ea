//! Grep: the lines that match a pattern, with where they stand, or how many there are in each file.

mod within;

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use crate::job::values::{Max, Text};
use crate::job::{Column, Emit, Job, Records, Value};
use within::within_lines;

/// Finds the lines that match a pattern: by file, and as they stand in it.
///
/// A whole text is searched at once, and only where something matches are the ends of the line looked for (as
/// ripgrep does). For that the pattern is made one that matches no line break.
pub struct Grep {
    pattern: Regex,
    params: Params,
}

/// What to look for.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Params {
    /// What to look for: a regular expression as the regex crate of Rust has them, which matches within a line
    #[arg(long, value_name = "RE", allow_hyphen_values = true)]
    pub pattern: String,

    /// Match without regard to case
    #[arg(long)]
    pub ignore_case: bool,

    /// Find the lines that do not match
    #[arg(long)]
    pub invert: bool,

    /// Show what matches, each match by itself, instead of the line it stands in
    #[arg(long, conflicts_with = "invert")]
    pub only_matching: bool,

    /// Count the lines in each file in which there are any, instead of showing them
    #[arg(long, conflicts_with = "only_matching")]
    pub count: bool,
}

/// What was found under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Found {
    /// How many lines of a file.
    Lines(u64),
    /// A line at one place of a file, or a part of one.
    Line(Max<Text>),
}

impl Job for Grep {
    const NAME: &'static str = "grep";
    const ABOUT: &'static str =
        "Find the lines that match a pattern, with file and byte offset, or count them";
    const COLUMNS: [&'static str; 2] = ["line", "found"];
    type Params = Params;
    type Value = Found;

    fn new(params: Params) -> Result<Self, String> {
        if params.only_matching && (params.invert || params.count) {
            return Err("--only-matching goes neither with --invert nor with --count".to_owned());
        }
        let within = within_lines(&params.pattern, params.ignore_case)?;
        let pattern = Regex::new(&within).map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("--pattern {:?}: it takes more than {} MiB", params.pattern, limit >> 20)
            }
            error => format!("--pattern {:?}: {error}", params.pattern),
        })?;
        Ok(Self { pattern, params })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Found>) -> Result<(), String> {
        if self.params.count {
            let lines = self.count(records.bytes());
            if lines > 0 {
                emit.pair(records.file(), Found::Lines(lines));
            }
            return Ok(());
        }
        let mut key = Vec::new();
        self.for_each(records.bytes(), &mut |start, text| {
            place(records.file(), records.offset() + start as u64, &mut key);
            emit.pair(&key, Found::Line(Max(text.into())));
        });
        Ok(())
    }

    fn counts(&self) -> bool {
        self.params.count
    }

    /// Adds counts up. The same place is found twice if a file is given twice, and with the same line. That a
    /// broken peer mixes both up must not make the order matter.
    fn combine(&self, into: &mut Found, other: Found) {
        match (&mut *into, other) {
            (Found::Lines(lines), Found::Lines(others)) => *lines = lines.saturating_add(others),
            (Found::Line(line), Found::Line(other)) => line.merge(other),
            (Found::Lines(_), line @ Found::Line(_)) => *into = line,
            (Found::Line(_), Found::Lines(_)) => {}
        }
    }

    /// The file, a colon and the byte offset of the line in it, or of the match.
    fn render_key(&self, key: &[u8], out: &mut Vec<u8>) {
        match key.split_last_chunk() {
            Some((file, offset)) if !self.params.count => {
                out.extend_from_slice(file.strip_suffix(b"\0").unwrap_or(file));
                out.push(b':');
                u64::from_be_bytes(*offset).render(out);
            }
            _ => out.extend_from_slice(key),
        }
    }
}

impl Grep {
    /// Calls `each` with where a line, or a match, begins in `text`, and with itself.
    fn for_each(&self, text: &[u8], each: &mut dyn FnMut(usize, &[u8])) {
        if self.params.only_matching {
            let matches = self.pattern.find_iter(text).filter(|found| !found.is_empty());
            return matches.for_each(|found| each(found.start(), found.as_bytes()));
        }
        let mut at = 0;
        self.for_each_line(text, &mut |start, end| {
            if self.params.invert {
                lines_between(text, at, start, each);
            } else {
                each(start, &text[start..end]);
            }
            at = end + 1;
        });
        if self.params.invert {
            lines_between(text, at, text.len(), each);
        }
    }

    /// Returns how many lines are found.
    fn count(&self, text: &[u8]) -> u64 {
        let mut matching = 0;
        self.for_each_line(text, &mut |_, _| matching += 1);
        if !self.params.invert {
            return matching;
        }
        let ends = memchr::memchr_iter(b'\n', text).count();
        let is_open = text.last().is_some_and(|&last| last != b'\n');
        (ends + usize::from(is_open)) as u64 - matching
    }

    /// Calls `each` with where each line that matches begins and ends.
    fn for_each_line(&self, text: &[u8], each: &mut dyn FnMut(usize, usize)) {
        // Where a line begins.
        let mut at = 0;
        while at < text.len() {
            let Some(found) = self.pattern.find_at(text, at) else { return };
            let start = at + memchr::memrchr(b'\n', &text[at..found.start()]).map_or(0, |before| before + 1);
            if start == text.len() {
                // The empty text behind the last line is no line.
                return;
            }
            let end = memchr::memchr(b'\n', &text[found.end()..]).map_or(text.len(), |end| found.end() + end);
            each(start, end);
            at = end + 1;
        }
    }
}

/// Calls `each` with the lines from `at` to `end`, both of which begin one, or are behind the last.
fn lines_between(text: &[u8], at: usize, end: usize, each: &mut dyn FnMut(usize, &[u8])) {
    for line in Records::new(text.get(at..end).unwrap_or_default(), b"", at as u64).lines() {
        each(line.offset as usize, line.text);
    }
}

/// Makes the key of a place: file by file, and in each as the bytes stand. No name of a file has a zero in it.
fn place(file: &[u8], offset: u64, key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(file);
    key.push(0);
    key.extend_from_slice(&offset.to_be_bytes());
}

/// A byte says which it is.
impl Value for Found {
    const COLUMN: Column = Column::Text;

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Lines(lines) => {
                out.push(0);
                lines.encode(out);
            }
            Self::Line(line) => {
                out.push(1);
                line.encode(out);
            }
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        match bytes.split_off_first()? {
            0 => u64::decode(bytes).map(Self::Lines),
            1 => Max::decode(bytes).map(Self::Line),
            _ => None,
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        match self {
            Self::Lines(lines) => lines.render(out),
            Self::Line(line) => line.render(out),
        }
    }

    fn count(&self) -> Option<u64> {
        match self {
            Self::Lines(lines) => Some(*lines),
            Self::Line(_) => None,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Lines(_) => 0,
            Self::Line(line) => line.heap_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::check;

    const TEXT: &[u8] = b"one two\n\ntwo\r\nthree\xff two two\nend";

    fn job(pattern: &str, change: impl Fn(&mut Params)) -> Grep {
        let mut params = Params {
            pattern: pattern.to_owned(),
            ignore_case: false,
            invert: false,
            only_matching: false,
            count: false,
        };
        change(&mut params);
        Grep::new(params).expect("the parameters are valid")
    }

    #[track_caller]
    fn assert_found(job: &Grep, texts: &[&[u8]], expected: &str) {
        check::job(job, texts);
        let found: Vec<String> =
            check::result(job, texts).into_iter().map(|(place, line)| format!("{place}={line}")).collect();
        assert_eq!(found.join("|"), expected);
    }

    #[test]
    fn lines_come_with_their_places() {
        let texts: [&[u8]; 2] = [TEXT, b"nothing\n"];
        assert_found(
            &job("two", |_| ()),
            &texts,
            "text-0:0=one two|text-0:9=two\r|text-0:14=three\u{fffd} two two",
        );
        assert_found(
            &job("TWO$", |p| p.ignore_case = true),
            &texts,
            "text-0:0=one two|text-0:14=three\u{fffd} two two",
        );
        assert_found(&job("two", |p| p.invert = true), &texts, "text-0:8=|text-0:29=end|text-1:0=nothing");
        let only = "text-0:4=two|text-0:9=two|text-0:21=two|text-0:25=two";
        assert_found(&job("two|x*", |p| p.only_matching = true), &texts, only);
    }

    #[test]
    fn lines_are_counted() {
        let texts: [&[u8]; 3] = [TEXT, b"nothing\n", b"two"];
        assert_found(&job("two", |p| p.count = true), &texts, "text-0=3|text-2=1");
        let inverted = |p: &mut Params| (p.count, p.invert) = (true, true);
        assert_found(&job("two", inverted), &texts, "text-0=2|text-1=1");
    }

    #[test]
    fn a_line_ends_where_it_ends_for_any_pattern() {
        let places = |pattern: &str, text: &str| -> String {
            let job = job(pattern, |_| ());
            check::job(&job, &[text]);
            let found = check::result(&job, &[text]);
            let places = found.into_iter().map(|(place, _)| place.replace("text-0:", ""));
            places.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(places("^$", "\na\n\n"), "0 3");
        assert_eq!(places("", "a\nb\n"), "0 2");
        assert_eq!(places(r"\Aa\z", "a\nb\na"), "0 4");
        assert_eq!(places(r"a\s*b", "a\nb\na b"), "4");
        assert_eq!(places("[^x]+y", "ay\nx\ny\nxy\n"), "0");
        assert_eq!(places("(?s)a.b", "a\nb\naxb"), "4");
        assert_eq!(places("a\nb", "a\nb\n"), "");
        assert_eq!(places(r"(?-u)\xff", "a\n"), "");
        assert_eq!(places(r"\bone\b", "one\nphone\nx one"), "0 10");
    }

    #[test]
    fn a_wrong_pattern_is_explained() {
        let params = |pattern: &str| Params { pattern: pattern.to_owned(), ..job("", |_| ()).params };
        let error = Grep::new(params("a(b")).map(|_| ()).expect_err("it is not closed");
        assert_eq!(error, "--pattern \"a(b\": unclosed group");
        let error = Grep::new(params("(a{1000}){1000}{100}")).map(|_| ()).expect_err("it is too large");
        assert!(error.ends_with("it takes more than 10 MiB"), "{error}");
    }
}
