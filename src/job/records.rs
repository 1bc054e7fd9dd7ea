//! Records: the text that a map gets, where it comes from, and where the input may be cut between records.

/// Whole records of one file, in the order in which they stand in it.
#[derive(Clone, Copy, Debug)]
pub struct Records<'t> {
    text: &'t [u8],
    file: &'t [u8],
    offset: u64,
}

impl<'t> Records<'t> {
    /// Returns the records of `text`, which begins at byte `offset` of the file called `file`. Of a compressed file,
    /// bytes are counted as they are when it is unpacked.
    pub fn new(text: &'t [u8], file: &'t [u8], offset: u64) -> Self {
        Self { text, file, offset }
    }

    /// Returns the text.
    pub fn bytes(&self) -> &'t [u8] {
        self.text
    }

    /// Returns the name of the file, as the user gave it or as it was found; `-` for standard input. Not all names are
    /// UTF-8.
    pub fn file(&self) -> &'t [u8] {
        self.file
    }

    /// Returns how many bytes of the file come before the text.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the lines, without the line feeds that end them.
    pub fn lines(&self) -> Lines<'t> {
        Lines { rest: self.text, offset: self.offset }
    }
}

/// The records of a text that is of no file: for tests of jobs.
impl<'t> From<&'t [u8]> for Records<'t> {
    fn from(text: &'t [u8]) -> Self {
        Self::new(text, b"-", 0)
    }
}

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'t> {
    /// Where it begins in the file.
    pub offset: u64,
    /// Without the line feed; a carriage return before that is kept.
    pub text: &'t [u8],
}

/// Iterates over lines.
#[derive(Clone, Debug)]
pub struct Lines<'t> {
    rest: &'t [u8],
    offset: u64,
}

impl<'t> Iterator for Lines<'t> {
    type Item = Line<'t>;

    #[inline]
    fn next(&mut self) -> Option<Line<'t>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.rest);
        let (text, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        let line = Line { offset: self.offset, text };
        self.offset += (self.rest.len() - rest.len()) as u64;
        self.rest = rest;
        Some(line)
    }
}

/// Where the input of a job may be cut, so that no record crosses the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Right behind any of these bytes.
    After(AsciiSet),
    /// Right before a line that begins with these bytes, of which there must be one at least.
    Before(&'static [u8]),
    /// Nowhere: a map gets whole files, one at a time, which must fit into memory.
    Never,
}

impl Cut {
    /// Behind each line.
    pub const LINES: Self = Self::After(Self::LINE_END);

    /// What ends a line.
    pub const LINE_END: AsciiSet = AsciiSet::of(b"\n");
}

/// A set of ASCII bytes. In UTF-8 they never stand inside a character, so that no cut behind one of them parts one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsciiSet(u128);

impl AsciiSet {
    /// Returns the set of `bytes`; those beyond ASCII are left out.
    pub const fn of(bytes: &[u8]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < bytes.len() {
            if bytes[at].is_ascii() {
                set |= 1 << bytes[at];
            }
            at += 1;
        }
        Self(set)
    }

    /// Returns the set of the ASCII bytes that `belongs` wants.
    pub fn such(belongs: impl Fn(u8) -> bool) -> Self {
        Self((0..128).filter(|&byte| belongs(byte)).fold(0, |set, byte| set | 1 << byte))
    }

    #[inline]
    pub const fn contains(self, byte: u8) -> bool {
        byte.is_ascii() && self.0 >> (byte & 0x7f) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_where_they_begin() {
        let lines = |text: &[u8]| -> Vec<(u64, String)> {
            let lines = Records::new(text, b"f", 100).lines();
            lines.map(|line| (line.offset, String::from_utf8_lossy(line.text).into_owned())).collect()
        };
        let line = |offset, text: &str| (offset, text.to_owned());
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n"), [line(100, "")]);
        assert_eq!(lines(b"a\r\n\nbc"), [line(100, "a\r"), line(103, ""), line(104, "bc")]);
        assert_eq!(lines(b"a\nb\n"), [line(100, "a"), line(102, "b")]);
    }

    #[test]
    fn sets_hold_ascii_only() {
        let set = AsciiSet::of(b"\n\x7f \xff\x80");
        for byte in 0..=0xff {
            assert_eq!(set.contains(byte), [b'\n', 0x7f, b' '].contains(&byte), "{byte}");
        }
        assert_eq!(AsciiSet::such(|byte| byte == b'\n'), AsciiSet::of(b"\n"));
    }
}
