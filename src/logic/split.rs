//! Split: where the input may be cut.
//!
//! Invariant: a cut stands right after a boundary byte, so that no record crosses it; a split is never shorter than
//! its target, unless the text ends first, and never longer than the next boundary makes it.

use super::ids::SplitId;
use crate::job::Cut;

/// The unit of map work: a byte range of one input file that cuts no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub id: SplitId,
    /// Place of the file among the inputs.
    pub file: usize,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes; never zero.
    pub length: u64,
}

/// Returns the end of the shortest prefix of `text` that ends right after a boundary byte at or after index `from`.
///
/// A split of at least `target` bytes is had with `from = target - 1`. Where there is no such boundary yet, a reader
/// goes on with `from = text.len()` of now, once more of the text has come, so that no byte is looked at twice.
pub fn first_cut(text: &[u8], from: usize, is_boundary: impl Fn(u8) -> bool) -> Option<usize> {
    let tail = text.get(from..)?;
    tail.iter().position(|&byte| is_boundary(byte)).map(|at| from + at + 1)
}

/// Returns the first place at or behind `from`, and behind the beginning, where `text` may be cut; its end is none, for
/// what follows is not known, unless the cut is behind a byte.
pub fn next_cut(cut: Cut, text: &[u8], from: usize) -> Option<usize> {
    let from = from.max(1);
    match cut {
        Cut::After(Cut::LINE_END) => memchr::memchr(b'\n', text.get(from - 1..)?).map(|at| from + at),
        Cut::After(ends) => first_cut(text, from - 1, |byte| ends.contains(byte)),
        Cut::Before(begin) => {
            let ends = memchr::memchr_iter(b'\n', text.get(from - 1..)?);
            ends.map(|at| from + at).find(|&at| text[at..].starts_with(begin))
        }
        Cut::Never => None,
    }
}

/// Returns the last place where `text` may be cut, as [`next_cut`] has it.
pub fn last_cut(cut: Cut, text: &[u8]) -> Option<usize> {
    match cut {
        Cut::After(Cut::LINE_END) => memchr::memrchr(b'\n', text).map(|at| at + 1),
        Cut::After(ends) => text.iter().rposition(|&byte| ends.contains(byte)).map(|at| at + 1),
        Cut::Before(begin) => {
            memchr::memrchr_iter(b'\n', text).map(|at| at + 1).find(|&at| text[at..].starts_with(begin))
        }
        Cut::Never => None,
    }
}

/// Returns how many bytes behind a place must be known to tell whether a text may be cut there.
pub fn lookahead(cut: Cut) -> usize {
    if let Cut::Before(begin) = cut { begin.len() } else { 0 }
}

/// Cuts a text that is in memory as a whole into its splits: each ends right after the first boundary that gives it
/// at least `target` bytes (a target of zero counts as one byte), the last one with the text.
pub fn splits(text: &[u8], target: usize, is_boundary: impl Fn(u8) -> bool) -> impl Iterator<Item = &[u8]> {
    let from = target.max(1) - 1;
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = first_cut(rest, from, &is_boundary).unwrap_or(rest.len());
        let (split, tail) = rest.split_at(end);
        rest = tail;
        Some(split)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::job::AsciiSet;

    fn newline(byte: u8) -> bool {
        byte == b'\n'
    }

    fn assert_splits(text: &str, target: usize, expected: &[&str]) {
        let splits: Vec<&[u8]> = splits(text.as_bytes(), target, newline).collect();
        assert_eq!(splits, expected.iter().map(|split| split.as_bytes()).collect::<Vec<_>>(), "{target}");
    }

    #[test]
    fn cuts_after_the_first_boundary_from_an_index_on() {
        let text = b"one\ntwo\n";
        assert_eq!(first_cut(text, 0, newline), Some(4));
        assert_eq!(first_cut(text, 3, newline), Some(4), "the boundary may stand at the index itself");
        assert_eq!(first_cut(text, 4, newline), Some(8));
        assert_eq!(first_cut(text, 7, newline), Some(8));
        assert_eq!(first_cut(text, 8, newline), None);
        assert_eq!(first_cut(text, 9, newline), None, "an index past the end is no error");
        assert_eq!(first_cut(b"", 0, newline), None);
        assert_eq!(first_cut(b"none", 0, newline), None);
    }

    #[test]
    fn splits_reach_their_target_and_no_further_than_a_boundary() {
        assert_splits("", 3, &[]);
        assert_splits("a\nbb\nccc\n", 0, &["a\n", "bb\n", "ccc\n"]);
        assert_splits("a\nbb\nccc\n", 1, &["a\n", "bb\n", "ccc\n"]);
        assert_splits("a\nbb\nccc\n", 2, &["a\n", "bb\n", "ccc\n"]);
        assert_splits("a\nbb\nccc\n", 3, &["a\nbb\n", "ccc\n"]);
        assert_splits("a\nbb\nccc\n", 100, &["a\nbb\nccc\n"]);
        assert_splits("a\nno final newline", 1, &["a\n", "no final newline"]);
        assert_splits("no boundary at all", 1, &["no boundary at all"]);
        assert_splits("\n\n\n", 1, &["\n", "\n", "\n"]);
    }

    #[test]
    fn cuts_are_found_from_both_ends() {
        let text = b"\nab\nW a\n\nW b\nW";
        let all = |cut| -> Vec<usize> {
            let mut cuts = Vec::new();
            while let Some(at) = next_cut(cut, text, cuts.last().map_or(0, |at| at + 1)) {
                cuts.push(at);
            }
            let last = last_cut(cut, text);
            assert_eq!(last, cuts.last().copied());
            cuts
        };
        assert_eq!(all(Cut::LINES), [1, 4, 8, 9, 13]);
        assert_eq!(all(Cut::After(AsciiSet::of(b" "))), [6, 11]);
        assert_eq!(all(Cut::Before(b"W ")), [4, 9]);
        assert_eq!(all(Cut::Before(b"W")), [4, 9, 13]);
        assert!(all(Cut::Never).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default()
        })]

        #[test]
        fn splits_cover_each_byte_once(text in "[a-c\n]{0,80}", target in 0usize..100) {
            let all: Vec<&[u8]> = splits(text.as_bytes(), target, newline).collect();
            prop_assert_eq!(all.concat(), text.as_bytes());
            let (last, before) = match all.split_last() {
                Some(both) => both,
                None => return Ok(()),
            };
            prop_assert!(!last.is_empty());
            for split in before {
                prop_assert!(split.len() >= target && split.ends_with(b"\n"));
                let least = target.max(1) - 1;
                prop_assert!(!split[least..split.len() - 1].contains(&b'\n'), "a boundary was passed over");
            }
        }
    }
}
