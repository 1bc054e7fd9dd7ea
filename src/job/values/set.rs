//! Set: strings of bytes, each of them once.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Bag;
use super::bytes::{put_bytes, put_number, take_bytes, take_number};
use super::shown;
use crate::job::Value;

/// All strings that were put in, each once: it keeps them all, so it is for sets that stay small, such as the files that a
/// word is in. For how many there are, [`Distinct`](super::Distinct) takes little memory however many.
///
/// On the wire it is sorted.
#[derive(Clone, Default)]
pub struct Set {
    /// How often each was put in is never looked at.
    bag: Bag,
}

impl Set {
    /// Makes a set of one string.
    pub fn one(string: &[u8]) -> Self {
        Self { bag: Bag::one(string) }
    }

    /// Puts one string in.
    pub fn insert(&mut self, string: &[u8]) {
        self.bag.push(string);
    }

    /// Puts in all that is in `other`.
    pub fn merge(&mut self, other: Self) {
        self.bag.merge(other.bag);
    }

    /// Iterates over the strings in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bag.iter().map(|(string, _)| string)
    }

    /// Returns how many strings there are, by looking at them all.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bag.is_empty()
    }
}

/// The strings with commas between.
impl Value for Set {
    fn encode(&self, out: &mut Vec<u8>) {
        let strings: Vec<&[u8]> = self.iter().collect();
        put_number(strings.len() as u64, out);
        strings.into_iter().for_each(|string| put_bytes(string, out));
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut bag = Bag::default();
        let mut before: Option<&[u8]> = None;
        for _ in 0..take_number(bytes)? {
            let string = take_bytes(bytes)?;
            if before.is_some_and(|before| before >= string) {
                return None;
            }
            bag.push(string);
            before = Some(string);
        }
        Some(Self { bag })
    }

    fn render(&self, out: &mut Vec<u8>) {
        for (index, string) in self.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b"," } else { b"" });
            out.extend_from_slice(string);
        }
    }

    fn heap_bytes(&self) -> usize {
        self.bag.heap_bytes()
    }
}

/// A list.
impl Serialize for Set {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(String::from_utf8_lossy))
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Set {}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(shown)).finish()
    }
}

impl<'s> FromIterator<&'s [u8]> for Set {
    fn from_iter<I: IntoIterator<Item = &'s [u8]>>(strings: I) -> Self {
        Self { bag: strings.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    fn sets() -> impl Strategy<Value = Set> {
        vec(vec(0u8..3, 0..3), 0..200).prop_map(|strings| strings.iter().map(Vec::as_slice).collect())
    }

    laws! { sets => |into: &mut Set, other| into.merge(other) }

    #[test]
    fn each_is_there_once() {
        let mut set: Set = [&b"b"[..], b"a", b"b"].into_iter().collect();
        set.merge(set.clone());
        set.insert(b"");
        assert!(set.iter().eq([&b""[..], b"a", b"b"]));
        assert_eq!((set.len(), set.is_empty()), (3, false));
        let mut text = Vec::new();
        set.render(&mut text);
        assert_eq!(text, b",a,b");
        assert_eq!(serde_json::to_string(&set).expect("it is JSON"), r#"["","a","b"]"#);
    }
}
