//! Sample: some of very many strings, as if drawn by lot.

use std::fmt;

use serde::{Serialize, Serializer};

use super::bytes::{put_bytes, put_number, take_bytes, take_number};
use super::{hash, shown};
use crate::job::Value;

/// Some of very many strings, as if drawn by lot; but the lot falls on the same ones whenever and wherever it is drawn.
///
/// Each string has a hash, of what tells it from the others, and those with the lowest hashes are kept (bottom-k
/// sampling: Cohen & Kaplan, PODC 2007). How many is said with each [`Sample::merge`]: always the same number, as a rule a
/// parameter of the job.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// In their order; no two are the same.
    entries: Vec<(u64, Vec<u8>)>,
    /// Bytes of the strings.
    string_bytes: usize,
}

impl Sample {
    /// Makes a sample of one string. Drawn from strings like this, each distinct one is as likely as the others, however
    /// often it comes.
    pub fn one(string: &[u8]) -> Self {
        Self::of(hash(0, string), string)
    }

    /// Makes a sample of one record of a file, such as a line. Drawn from records, each is as likely as the others, also
    /// where several are the same.
    pub fn record(file: &[u8], offset: u64, record: &[u8]) -> Self {
        Self::of(hash(hash(0, file) ^ offset, b"record"), record)
    }

    fn of(hash: u64, string: &[u8]) -> Self {
        Self { entries: vec![(hash, string.to_vec())], string_bytes: string.len() }
    }

    /// Puts in all that is in `other`, and keeps `k`.
    pub fn merge(&mut self, other: Self, k: usize) {
        for entry in other.entries {
            if let Err(at) = self.entries.binary_search(&entry)
                && at < k
            {
                self.string_bytes += entry.1.len();
                self.entries.insert(at, entry);
                self.truncate(k);
            }
        }
        self.truncate(k);
    }

    fn truncate(&mut self, k: usize) {
        let dropped = self.entries.drain(k.min(self.entries.len())..);
        self.string_bytes -= dropped.map(|(_, string)| string.len()).sum::<usize>();
    }

    /// Iterates over what was drawn, in the order in which it was.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|(_, string)| string.as_slice())
    }
}

/// The strings with commas between.
impl Value for Sample {
    fn encode(&self, out: &mut Vec<u8>) {
        put_number(self.entries.len() as u64, out);
        for (hash, string) in &self.entries {
            out.extend_from_slice(&hash.to_le_bytes());
            put_bytes(string, out);
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut entries: Vec<(u64, Vec<u8>)> = Vec::new();
        for _ in 0..take_number(bytes)? {
            let (hash, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            let entry = (u64::from_le_bytes(*hash), take_bytes(bytes)?.to_vec());
            if entries.last().is_some_and(|before| *before >= entry) {
                return None;
            }
            entries.push(entry);
        }
        Some(Self { string_bytes: entries.iter().map(|(_, string)| string.len()).sum(), entries })
    }

    fn render(&self, out: &mut Vec<u8>) {
        for (index, string) in self.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b"," } else { b"" });
            out.extend_from_slice(string);
        }
    }

    fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<(u64, Vec<u8>)>() + self.string_bytes
    }
}

/// A list.
impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(String::from_utf8_lossy))
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(shown)).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    fn samples() -> impl Strategy<Value = Sample> {
        vec((any::<bool>(), vec(0u8..3, 0..3), 0u64..9), 0..20).prop_map(|entries| {
            let mut sample = Sample::default();
            for (is_record, string, offset) in entries {
                let one =
                    if is_record { Sample::record(b"f", offset, &string) } else { Sample::one(&string) };
                sample.merge(one, 5);
            }
            sample
        })
    }

    laws! { samples => |into: &mut Sample, other| into.merge(other, 5) }

    /// Of a thousand numbers fifty are drawn, a hundred times, from another file each time: each tenth of the numbers has a
    /// tenth of what is drawn, within six sigma.
    #[test]
    fn each_is_as_likely_as_the_others() {
        let mut tenths = [0; 10];
        for round in 0..100 {
            let mut sample = Sample::default();
            for n in 0..1000 {
                sample.merge(
                    Sample::record(format!("file-{round}").as_bytes(), 17 * n, n.to_string().as_bytes()),
                    50,
                );
            }
            for drawn in sample.iter() {
                let n: usize = String::from_utf8_lossy(drawn).parse().expect("a number was put in");
                tenths[n / 100] += 1;
            }
        }
        assert_eq!(tenths.iter().sum::<u32>(), 5000);
        assert!(tenths.iter().all(|&tenth| (370..630).contains(&tenth)), "{tenths:?}");
    }

    #[test]
    fn records_are_told_apart_and_strings_are_not() {
        let mut sample = Sample::one(b"a");
        sample.merge(Sample::one(b"a"), 9);
        assert_eq!(sample.iter().count(), 1);
        let mut sample = Sample::record(b"f", 0, b"a");
        sample.merge(Sample::record(b"f", 2, b"a"), 9);
        assert_eq!(sample.iter().count(), 2);
    }
}
