//! Ranged: which records of a file belong to a byte range of it: those that begin there.
//!
//! Invariant: ranges that cover a file each byte once hold each of its records once, wherever they end. Who reads a
//! range looks at the byte before it, which says whether a record begins with it, and reads on behind it, to the end of
//! the last record that begins there.

use super::split::{last_cut, lookahead, next_cut};
use crate::job::Cut;

/// Finds the records of a range in the text of its file, as that is read.
#[derive(Debug)]
pub struct Ranged {
    cut: Cut,
    end: u64,
    /// Where the text begins that is looked at next.
    at: u64,
    /// Whether the first record has been found.
    has_begun: bool,
    /// Of that text, so many bytes were looked at for the end of the last record.
    seen: usize,
}

/// What to do with the text that was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The first bytes belong to another range.
    pub skip: usize,
    /// The bytes after those are records of this one.
    pub records: usize,
    /// Nothing more is to be read.
    pub is_last: bool,
}

impl Ranged {
    /// Begins with the bytes from `begin` until `end` of a file.
    pub fn new(cut: Cut, begin: u64, end: u64) -> Self {
        Self { cut, end, at: begin.saturating_sub(1), has_begun: begin == 0, seen: 0 }
    }

    /// Returns where in the file the text begins that is to be looked at next.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Returns how many bytes there are until the range ends.
    pub fn wanted(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX)
    }

    /// Looks at `text`, which begins [there](Self::at), and with which the file ends if it `is_all`. What the step does
    /// not take is to be looked at again, with more behind it.
    pub fn step(&mut self, text: &[u8], is_all: bool) -> Step {
        let skip = match self.has_begun {
            true => 0,
            false => match self.find_begin(text, is_all) {
                (skip, false) => {
                    return self.take(Step { skip, records: 0, is_last: self.is_over(skip, is_all) });
                }
                (skip, true) => skip,
            },
        };
        self.at += skip as u64;
        let Step { records, is_last, .. } = self.records(&text[skip..], is_all);
        self.at -= skip as u64;
        self.take(Step { skip, records, is_last })
    }

    /// Returns where the first record begins, if it does; else how much of `text` says no more about that.
    fn find_begin(&mut self, text: &[u8], is_all: bool) -> (usize, bool) {
        match next_cut(self.cut, text, 1) {
            Some(at) if self.at + (at as u64) < self.end => {
                self.has_begun = true;
                (at, true)
            }
            Some(_) => (text.len(), false),
            None if is_all => (text.len(), false),
            None => (text.len().saturating_sub(lookahead(self.cut)), false),
        }
    }

    /// Tells whether no record can begin in the range behind the bytes that are skipped.
    fn is_over(&self, skip: usize, is_all: bool) -> bool {
        is_all || self.at + skip as u64 + 1 >= self.end
    }

    /// Returns how much of `text`, which begins with a record, is records of the range.
    fn records(&mut self, text: &[u8], is_all: bool) -> Step {
        let last = |records| Step { skip: 0, records, is_last: true };
        if self.at >= self.end {
            return last(0);
        }
        let left = self.wanted();
        if text.len() >= left {
            // The first cut that is not inside the range ends its last record.
            if let Some(end) = next_cut(self.cut, text, left.max(self.seen)) {
                return last(end);
            }
            self.seen = text.len().saturating_sub(lookahead(self.cut));
        }
        match is_all {
            true => last(text.len()),
            false if text.len() >= left => Step::default(),
            false => Step { records: last_cut(self.cut, text).unwrap_or(0), ..Step::default() },
        }
    }

    fn take(&mut self, step: Step) -> Step {
        let taken = step.skip + step.records;
        self.at += taken as u64;
        if taken > 0 {
            self.seen = 0;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::job::AsciiSet;

    /// Returns the records of a range as pieces with their places, read so many bytes at a time.
    fn pieces(text: &[u8], cut: Cut, begin: u64, end: u64, chunk: usize) -> Vec<(u64, Vec<u8>)> {
        let mut ranged = Ranged::new(cut, begin, end);
        let (mut found, mut held) = (Vec::new(), 0);
        loop {
            let at = ranged.at() as usize;
            let to = text.len().min(at + held + chunk);
            let step = ranged.step(&text[at..to], to == text.len());
            if step.records > 0 {
                let from = at + step.skip;
                found.push((from as u64, text[from..from + step.records].to_vec()));
            }
            assert_eq!(ranged.at() as usize, at + step.skip + step.records);
            if step.is_last {
                return found;
            }
            held = to - ranged.at() as usize;
            assert!(to < text.len(), "it does not end");
        }
    }

    fn range(text: &[u8], cut: Cut, begin: u64, end: u64) -> String {
        let pieces = pieces(text, cut, begin, end, 3);
        pieces.into_iter().map(|(_, piece)| String::from_utf8(piece).expect("it is text")).collect()
    }

    #[test]
    fn records_belong_where_they_begin() {
        let lines = b"ab\ncd\n\nlong line\nz";
        for (begin, end, own) in [
            (0, 1, "ab\n"),
            (1, 3, ""),
            (2, 4, "cd\n"),
            (3, 4, "cd\n"),
            (4, 6, ""),
            (4, 7, "\n"),
            (6, 7, "\n"),
            (7, 8, "long line\n"),
            (8, 17, ""),
            (8, 18, "z"),
            (0, 18, "ab\ncd\n\nlong line\nz"),
        ] {
            assert_eq!(range(lines, Cut::LINES, begin, end), own, "{begin} to {end}");
        }
        let marked = b"W a\nx\nW b\nWW\n";
        assert_eq!(range(marked, Cut::Before(b"W "), 0, 1), "W a\nx\n");
        assert_eq!(range(marked, Cut::Before(b"W "), 1, 6), "");
        assert_eq!(range(marked, Cut::Before(b"W "), 6, 7), "W b\nWW\n");
        assert_eq!(range(marked, Cut::Before(b"W"), 7, 12), "WW\n");
        assert_eq!(range(marked, Cut::Never, 0, 1), "W a\nx\nW b\nWW\n");
        assert_eq!(range(marked, Cut::Never, 1, 13), "");
        assert_eq!(range(b"", Cut::LINES, 0, 0), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(6), ..ProptestConfig::default()
        })]

        #[test]
        fn ranges_hold_each_record_once(
            text in "[aWX\n ]{0,60}",
            kind in 0..4,
            size in 1u64..70,
            chunk in 1usize..20,
        ) {
            let cut = match kind {
                0 => Cut::LINES,
                1 => Cut::After(AsciiSet::of(b" \n")),
                2 => Cut::Before(b"WX"),
                _ => Cut::Never,
            };
            let text = text.as_bytes();
            let (mut all, mut begin, length) = (Vec::new(), 0, text.len() as u64);
            while begin < length {
                let end = length.min(begin + size);
                for (at, piece) in pieces(text, cut, begin, end, chunk) {
                    prop_assert_eq!(at, all.len() as u64);
                    prop_assert!(at == 0 || next_cut(cut, text, at as usize) == Some(at as usize), "inside a record");
                    all.extend_from_slice(&piece);
                }
                begin = end;
            }
            prop_assert_eq!(all, text);
        }
    }
}
