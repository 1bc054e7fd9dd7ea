//! Bag: strings of bytes, each with how often it was put in: all values of a key, for grouping.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use super::bytes::{put_bytes, put_number, take_bytes, take_number};
use super::shown;
use crate::job::Value;

/// All strings that were put in, each with how often it was.
///
/// On the wire it is sorted. In memory it is a sorted part and a tail of what came later, which is sorted into it as soon
/// as it is the larger one; so a string costs O(log n) on average to put in, and a few bytes beside its own to hold.
#[derive(Clone, Default)]
pub struct Bag {
    /// Entries: each a string behind its length, then its count.
    entries: Vec<u8>,
    /// Bytes of the entries that are sorted, and of which no two have the same string.
    sorted: usize,
}

/// Bytes of a tail that is not worth sorting yet.
const SHORT_TAIL: usize = 256;

impl Bag {
    /// Makes a bag of one string.
    pub fn one(string: &[u8]) -> Self {
        // A few bytes for its length and its count.
        let mut entries = Vec::with_capacity(string.len() + 3);
        put_entry(string, 1, &mut entries);
        Self { sorted: entries.len(), entries }
    }

    /// Puts one string in.
    pub fn push(&mut self, string: &[u8]) {
        self.push_times(string, 1);
    }

    /// Puts the same string in so many times.
    pub fn push_times(&mut self, string: &[u8], times: u64) {
        if times > 0 {
            put_entry(string, times, &mut self.entries);
            self.settle_if_due();
        }
    }

    /// Puts in all that is in `other`.
    pub fn merge(&mut self, mut other: Self) {
        if other.entries.len() > self.entries.len() {
            std::mem::swap(self, &mut other);
        }
        self.entries.extend_from_slice(&other.entries);
        self.settle_if_due();
    }

    /// Iterates over the strings in the order of their bytes, each once, with how often it was put in.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let is_sorted = self.sorted == self.entries.len();
        let (sorted, gathered) = match is_sorted {
            true => (Entries(&self.entries), Vec::new()),
            false => (Entries(&[]), self.gathered()),
        };
        sorted.chain(gathered)
    }

    /// Returns how many strings were put in, by looking at them all.
    pub fn len(&self) -> u64 {
        Entries(&self.entries).fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Tells whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the bytes that it owns elsewhere.
    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity()
    }

    /// Sorts the tail into what is sorted where that is worth its cost: the larger the one, the rarer the other.
    fn settle_if_due(&mut self) {
        let tail = self.entries.len() - self.sorted;
        if tail > self.sorted.max(SHORT_TAIL) {
            self.entries = self.sorted_entries().into_owned();
            self.sorted = self.entries.len();
        }
    }

    /// Returns all entries, sorted.
    fn sorted_entries(&self) -> Cow<'_, [u8]> {
        if self.sorted == self.entries.len() {
            return Cow::Borrowed(&self.entries);
        }
        let mut entries = Vec::with_capacity(self.entries.len());
        self.gathered().into_iter().for_each(|(string, count)| put_entry(string, count, &mut entries));
        Cow::Owned(entries)
    }

    /// Returns the entries in their order, each string once.
    fn gathered(&self) -> Vec<(&[u8], u64)> {
        let mut entries: Vec<_> = Entries(&self.entries).collect();
        // The sort finds out that most of it is in order.
        entries.sort_by(|a, b| a.0.cmp(b.0));
        entries.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                kept.1 = kept.1.saturating_add(later.1);
            }
            is_same
        });
        entries
    }
}

/// Each string with its count behind an asterisk, where that is more than one, and commas between.
impl Value for Bag {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(&self.sorted_entries(), out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let entries = take_bytes(bytes)?;
        let mut rest = entries;
        let mut before: Option<&[u8]> = None;
        while !rest.is_empty() {
            let string = take_bytes(&mut rest)?;
            let count = take_number(&mut rest)?;
            if count == 0 || before.is_some_and(|before| before >= string) {
                return None;
            }
            before = Some(string);
        }
        Some(Self { entries: entries.to_vec(), sorted: entries.len() })
    }

    fn render(&self, out: &mut Vec<u8>) {
        for (index, (string, count)) in self.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b"," } else { b"" });
            out.extend_from_slice(string);
            if count > 1 {
                out.push(b'*');
                count.render(out);
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        self.entries.capacity()
    }
}

/// A list of pairs: a string and its count.
impl Serialize for Bag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(string, count)| (String::from_utf8_lossy(string), count)))
    }
}

/// Whatever the order in which the same was put in, it is the same.
impl PartialEq for Bag {
    fn eq(&self, other: &Self) -> bool {
        self.sorted_entries() == other.sorted_entries()
    }
}

impl Eq for Bag {}

impl fmt::Debug for Bag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(string, count)| (shown(string), count))).finish()
    }
}

impl<'s> FromIterator<&'s [u8]> for Bag {
    fn from_iter<I: IntoIterator<Item = &'s [u8]>>(strings: I) -> Self {
        let mut bag = Self::default();
        strings.into_iter().for_each(|string| bag.push(string));
        bag
    }
}

fn put_entry(string: &[u8], count: u64, out: &mut Vec<u8>) {
    put_bytes(string, out);
    put_number(count, out);
}

/// Iterates over entries that were put together here, or looked at when they were decoded.
struct Entries<'b>(&'b [u8]);

impl<'b> Iterator for Entries<'b> {
    type Item = (&'b [u8], u64);

    fn next(&mut self) -> Option<Self::Item> {
        Some((take_bytes(&mut self.0)?, take_number(&mut self.0)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    fn bag(strings: &[&[u8]]) -> Bag {
        strings.iter().copied().collect()
    }

    fn bags() -> impl Strategy<Value = Bag> {
        vec(vec(0u8..3, 0..3), 0..200).prop_map(|strings| strings.iter().map(Vec::as_slice).collect())
    }

    laws! { bags => |into: &mut Bag, other| into.merge(other) }

    #[test]
    fn it_holds_all_that_was_put_in() {
        let mut counts = BTreeMap::new();
        let mut bag = Bag::default();
        for n in 0..20_000_u64 {
            let string = (n * n % 1009).to_string().into_bytes();
            match n % 3 {
                0 => bag.push(&string),
                1 => bag.merge(Bag::one(&string)),
                _ => bag = [bag, Bag::one(&string)].into_iter().rev().reduce(merged).expect("two"),
            }
            *counts.entry(string).or_insert(0) += 1;
        }
        assert_eq!(bag.len(), 20_000);
        assert!(bag.iter().eq(counts.iter().map(|(string, count)| (string.as_slice(), *count))));
        let distinct: usize = counts.keys().map(|string| string.len() + 3).sum();
        assert!(Bag::heap_bytes(&bag) < 6 * distinct, "the same string is held many times");
    }

    fn merged(mut into: Bag, other: Bag) -> Bag {
        into.merge(other);
        into
    }

    #[test]
    fn counts_never_wrap() {
        let mut wire = Vec::new();
        put_entry(b"a", u64::MAX, &mut wire);
        let mut framed = Vec::new();
        put_bytes(&wire, &mut framed);
        let mut bag = Bag::decode(&mut framed.as_slice()).expect("it is well-formed");
        bag.merge(bag.clone());
        assert_eq!((bag.len(), bag.iter().collect::<Vec<_>>()), (u64::MAX, vec![(&b"a"[..], u64::MAX)]));
    }

    #[test]
    fn what_is_not_sorted_is_refused() {
        let decoded = |entries: &[(&[u8], u64)]| {
            let (mut inner, mut outer) = (Vec::new(), Vec::new());
            entries.iter().for_each(|(string, count)| put_entry(string, *count, &mut inner));
            put_bytes(&inner, &mut outer);
            Bag::decode(&mut outer.as_slice())
        };
        assert_eq!(decoded(&[(b"", 1), (b"a", 2)]), Some(bag(&[b"a", b"", b"a"])));
        assert_eq!(decoded(&[(b"b", 1), (b"a", 1)]), None);
        assert_eq!(decoded(&[(b"a", 1), (b"a", 1)]), None);
        assert_eq!(decoded(&[(b"a", 0)]), None);
    }

    #[test]
    fn it_is_shown() {
        let mut text = Vec::new();
        let bag = bag(&[b"b", b"a", b"b", b"\xff"]);
        bag.render(&mut text);
        assert_eq!(text, b"a,b*2,\xff");
        assert_eq!(serde_json::to_string(&bag).expect("it is JSON"), r#"[["a",1],["b",2],["�",1]]"#);
    }
}
