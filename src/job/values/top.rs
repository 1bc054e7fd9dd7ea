//! Top: the strings with the highest scores.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

use serde::{Serialize, Serializer};

use super::bytes::{put_bytes, put_number, take_bytes, take_number};
use super::shown;
use crate::job::Value;

/// The strings with the highest scores, best first, and in the order of their bytes where scores are equal. A string with
/// several scores counts with its highest.
///
/// How many are kept is said with each [`Top::merge`]: always the same number, as a rule a parameter of the job.
#[derive(Clone, PartialEq, Eq)]
pub struct Top<S = u64> {
    entries: Vec<(S, Vec<u8>)>,
    /// Bytes that entries own elsewhere.
    owned: usize,
}

impl<S: Value + Ord> Top<S> {
    /// Makes a list of one string.
    pub fn one(score: S, string: &[u8]) -> Self {
        let entry = (score, string.to_vec());
        Self { owned: owned(&entry), entries: vec![entry] }
    }

    /// Puts in all that is in `other`, and keeps the best `k`.
    pub fn merge(&mut self, other: Self, k: usize) {
        for entry in other.entries {
            self.put(entry, k);
        }
        self.truncate(k);
    }

    /// Iterates over the strings with their scores, best first.
    pub fn iter(&self) -> impl Iterator<Item = (&S, &[u8])> {
        self.entries.iter().map(|(score, string)| (score, string.as_slice()))
    }

    fn put(&mut self, entry: (S, Vec<u8>), k: usize) {
        let at = match self.entries.binary_search_by(|known| order(known, &entry)) {
            Ok(_) => return,
            Err(at) => at,
        };
        if at >= k {
            return;
        }
        let same = self.entries.iter().position(|known| known.1 == entry.1);
        match same {
            Some(better) if better < at => return,
            Some(worse) => self.owned -= owned(&self.entries.remove(worse)),
            None => {}
        }
        self.owned += owned(&entry);
        self.entries.insert(at, entry);
        self.truncate(k);
    }

    fn truncate(&mut self, k: usize) {
        let dropped = self.entries.drain(k.min(self.entries.len())..);
        self.owned -= dropped.map(|entry| owned(&entry)).sum::<usize>();
    }
}

fn owned<S: Value>(entry: &(S, Vec<u8>)) -> usize {
    entry.0.heap_bytes() + entry.1.len()
}

fn order<S: Ord>(a: &(S, Vec<u8>), b: &(S, Vec<u8>)) -> Ordering {
    b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1))
}

impl<S> Default for Top<S> {
    fn default() -> Self {
        Self { entries: Vec::new(), owned: 0 }
    }
}

/// Each string with its score behind a colon, and commas between.
impl<S: Value + Ord> Value for Top<S> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_number(self.entries.len() as u64, out);
        for (score, string) in &self.entries {
            score.encode(out);
            put_bytes(string, out);
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (mut entries, mut known): (Vec<(S, Vec<u8>)>, _) = (Vec::new(), HashSet::new());
        for _ in 0..take_number(bytes)? {
            let score = S::decode(bytes)?;
            let string = take_bytes(bytes)?;
            let entry = (score, string.to_vec());
            let follows = entries.last().is_none_or(|before| order(before, &entry).is_lt());
            if !follows || !known.insert(string) {
                return None;
            }
            entries.push(entry);
        }
        Some(Self { owned: entries.iter().map(owned).sum(), entries })
    }

    fn render(&self, out: &mut Vec<u8>) {
        for (index, (score, string)) in self.entries.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b"," } else { b"" });
            out.extend_from_slice(string);
            out.push(b':');
            score.render(out);
        }
    }

    fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<(S, Vec<u8>)>() + self.owned
    }
}

/// A list of pairs: a string and its score.
impl<S: Serialize> Serialize for Top<S> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        serializer
            .collect_seq(self.entries.iter().map(|(score, string)| (String::from_utf8_lossy(string), score)))
    }
}

impl<S: fmt::Debug> fmt::Debug for Top<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|(score, string)| (shown(string), score))).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    const K: usize = 5;

    fn top(entries: &[(u64, &[u8])]) -> Top {
        let mut top = Top::default();
        entries.iter().for_each(|(score, string)| top.merge(Top::one(*score, string), K));
        top
    }

    fn tops() -> impl Strategy<Value = Top> {
        vec((0u64..6, vec(0u8..3, 0..3)), 0..20).prop_map(|entries| {
            let entries: Vec<_> = entries.iter().map(|(score, string)| (*score, string.as_slice())).collect();
            top(&entries)
        })
    }

    laws! { tops => |into: &mut Top, other| into.merge(other, K) }

    #[test]
    fn the_best_are_kept() {
        let top =
            top(&[(1, b"f"), (3, b"b"), (3, b"a"), (9, b"z"), (2, b"z"), (1, b"e"), (0, b"g"), (4, b"e")]);
        let mut text = Vec::new();
        top.render(&mut text);
        assert_eq!(String::from_utf8_lossy(&text), "z:9,e:4,a:3,b:3,f:1");
        let best: Vec<_> = top.iter().take(1).collect();
        assert_eq!(best, [(&9, &b"z"[..])]);
        let mut none = top.clone();
        none.merge(top.clone(), 0);
        assert_eq!(none, Top::default());
    }

    proptest! {
        /// Whatever was dropped on the way, the best of all are there.
        #[test]
        fn as_if_all_were_sorted(entries in vec((0u64..9, vec(0u8..3, 0..3)), 0..40)) {
            let mut best: Vec<(u64, Vec<u8>)> = Vec::new();
            let mut sorted = entries.clone();
            sorted.sort_by(order);
            for entry in sorted {
                if best.iter().all(|better| better.1 != entry.1) {
                    best.push(entry);
                }
            }
            best.truncate(K);
            let refs: Vec<_> = entries.iter().map(|(score, string)| (*score, string.as_slice())).collect();
            prop_assert_eq!(top(&refs).entries, best);
        }
    }
}
