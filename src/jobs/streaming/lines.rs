//! Lines: what a command writes, line by line.

use std::io::{self, Read};

use crate::wire::frame::MAX_RECORD_BYTES;

use super::process::Take;

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

/// What has been read and is no whole line yet.
#[derive(Default)]
pub(super) struct Lines {
    /// Some of it is room.
    buffer: Vec<u8>,
    held: usize,
}

impl Lines {
    /// Reads what there is, and gives each line that is whole to `take`. Returns whether more may come.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read(&mut self, from: &mut impl Read, take: &mut dyn Take) -> io::Result<bool> {
        if self.buffer.len() < self.held + READ_BYTES {
            self.buffer.resize((2 * self.held).max(2 * READ_BYTES), 0);
        }
        let read = match from.read(&mut self.buffer[self.held..]) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        // What was held has no line end.
        let (old, end) = (self.held, self.held + read);
        let mut start = 0;
        for line_end in memchr::memchr_iter(b'\n', &self.buffer[old..end]) {
            take.line(&self.buffer[start..old + line_end]);
            start = old + line_end + 1;
        }
        self.buffer.copy_within(start..end, 0);
        self.held = end - start;
        Ok(true)
    }

    /// Gives what is left to `take`: a last line need not be ended.
    pub(super) fn end(&mut self, take: &mut dyn Take) {
        if self.held > 0 {
            take.line(&self.buffer[..self.held]);
            self.held = 0;
        }
    }

    /// Returns the bytes that are held.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Says whether a line may be so long.
    ///
    /// # Errors
    /// If it may not.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.held > MAX_RECORD_BYTES {
            true => Err(format!("it wrote a line longer than {} MiB", MAX_RECORD_BYTES >> 20)),
            false => Ok(()),
        }
    }
}

/// Lines that are gathered, to be sorted.
#[derive(Default)]
pub(super) struct Gathered {
    text: Vec<u8>,
    /// Where each begins and ends.
    lines: Vec<(usize, usize)>,
}

impl Gathered {
    pub(super) fn push(&mut self, line: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(line);
        self.lines.push((start, self.text.len()));
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.capacity() + self.lines.capacity() * size_of::<(usize, usize)>()
    }

    /// Returns the lines by their keys, and then by what stands behind.
    pub(super) fn sorted(&mut self) -> impl Iterator<Item = &[u8]> {
        let Self { text, lines } = self;
        let text = &*text;
        let columns = |(start, end): (usize, usize)| parted(&text[start..end]);
        lines.sort_unstable_by(|a, b| columns(*a).cmp(&columns(*b)));
        lines.iter().map(move |&(start, end)| &text[start..end])
    }
}

/// Parts a line into its key, which ends before the first TAB, and the rest.
pub(super) fn parted(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(memchr::memchr(b'\t', line).unwrap_or(line.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Kept(Vec<Vec<u8>>);

    impl Take for Kept {
        fn line(&mut self, line: &[u8]) {
            self.0.push(line.to_vec());
        }

        fn may_hold(&mut self, _: usize) -> Result<(), String> {
            Ok(())
        }
    }

    /// Gives its text in pieces of this many bytes.
    struct Piecemeal<'t>(&'t [u8], usize);

    impl Read for Piecemeal<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn lines_are_the_same_in_whatever_pieces_they_come() {
        let long = vec![b'x'; 3 * READ_BYTES];
        let text = [b"a\tb\n\n\0\xff\r\n", long.as_slice(), b"\nno end"].concat();
        let expected: Vec<&[u8]> = vec![b"a\tb", b"", b"\0\xff\r", &long, b"no end"];
        for piece in [1000, 4096, READ_BYTES, usize::MAX] {
            let (mut lines, mut kept) = (Lines::default(), Kept(Vec::new()));
            let mut from = Piecemeal(&text, piece);
            while lines.read(&mut from, &mut kept).expect("memory can be read") {
                assert_eq!(lines.check(), Ok(()));
            }
            lines.end(&mut kept);
            assert!(kept.0 == expected, "pieces of {piece}");
        }
        let (mut lines, mut kept) = (Lines::default(), Kept(Vec::new()));
        for byte in b"a\n\nb".chunks(1) {
            lines.read(&mut &byte[..], &mut kept).expect("memory can be read");
        }
        lines.end(&mut kept);
        assert_eq!(kept.0, [&b"a"[..], b"", b"b"]);
    }

    #[test]
    fn gathered_lines_are_sorted_by_key_first() {
        let mut gathered = Gathered::default();
        [&b"b\t2"[..], b"a b\t1", b"a\t9", b"a", b"b\t10", b"a\t"]
            .iter()
            .for_each(|line| gathered.push(line));
        let sorted: Vec<&[u8]> = gathered.sorted().collect();
        assert_eq!(sorted, [&b"a"[..], b"a\t", b"a\t9", b"a b\t1", b"b\t10", b"b\t2"]);
    }
}
