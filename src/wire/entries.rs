//! Entries: keys with their values, as batches and results carry them.
//!
//! In the batches of a shuffle, whose keys are in no order:
//!
//! ```text
//! +-----------------+-----+-------+   one after another, until the payload ends
//! | length (varint) | key | value |
//! +-----------------+-----+-------+
//! ```
//!
//! In results, where a key often begins as the one before, which is taken for empty at the beginning of a payload:
//!
//! ```text
//! +-----------------+---------------+------+-------+   one after another, until the payload ends
//! | shared (varint) | rest (varint) | rest | value |
//! +-----------------+---------------+------+-------+
//! ```
//!
//! `shared` is how many bytes the key has in common with the one before, the first `rest` how many follow them. So that
//! a few bytes cannot stand for very many, a payload ends with the entry that brings its keys, written out, to
//! [`MAX_KEYS_BYTES`], or that is number [`MAX_ENTRIES`].

use std::marker::PhantomData;
use std::ops::Range;

use crate::job::Value;

use super::varint;

/// Appends one entry to `out`.
pub fn encode<V: Value>(key: &[u8], value: &V, out: &mut Vec<u8>) {
    varint::encode(key.len() as u64, out);
    out.extend_from_slice(key);
    value.encode(out);
}

/// Entries that are malformed: the peer is not what it says it is, or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entries of a batch are malformed at byte {at}")]
pub struct Malformed {
    pub at: usize,
}

/// Reads entries off a payload, borrowing their keys.
pub struct Decoder<'p, V> {
    payload: &'p [u8],
    rest: &'p [u8],
    value: PhantomData<V>,
}

impl<'p, V: Value> Decoder<'p, V> {
    /// Reads the entries of `payload`.
    pub fn new(payload: &'p [u8]) -> Self {
        Self { payload, rest: payload, value: PhantomData }
    }

    /// Returns the bytes that were read.
    pub fn offset(&self) -> usize {
        self.payload.len() - self.rest.len()
    }

    /// Reads the next entry; its key is given as a range of the payload.
    pub fn next_range(&mut self) -> Option<Result<(Range<usize>, V), Malformed>> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.offset();
        let entry = self.range_entry().ok_or(Malformed { at });
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }

    fn range_entry(&mut self) -> Option<(Range<usize>, V)> {
        let length = usize::try_from(varint::decode(&mut self.rest)?).ok()?;
        let start = self.offset();
        self.rest = self.rest.get(length..)?;
        Some((start..start + length, V::decode(&mut self.rest)?))
    }
}

impl<'p, V: Value> Iterator for Decoder<'p, V> {
    type Item = Result<(&'p [u8], V), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.next_range()?;
        Some(entry.map(|(key, value)| (&self.payload[key], value)))
    }
}

/// Bytes of the keys of a result's payload, written out, from which on no entry is added to it.
pub const MAX_KEYS_BYTES: usize = 1 << 20;

/// Entries of a result's payload.
pub const MAX_ENTRIES: usize = 1 << 15;

/// Encodes sorted entries in payloads, each ended by the entry that brings it to `bytes`.
pub fn encode_sorted<V: Value>(entries: &[(&[u8], &V)], bytes: usize) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut payload = Vec::new();
        let n = encode_payload(rest, bytes, &mut payload);
        payloads.push(payload);
        rest = &rest[n..];
    }
    payloads
}

/// Encodes so many of `entries`, and one at least, as belong into a payload.
fn encode_payload<V: Value>(entries: &[(&[u8], &V)], bytes: usize, out: &mut Vec<u8>) -> usize {
    let mut before: &[u8] = b"";
    let mut keys_bytes = 0;
    for (number, (key, value)) in entries.iter().enumerate().take(MAX_ENTRIES) {
        if number > 0 && (out.len() >= bytes || keys_bytes >= MAX_KEYS_BYTES) {
            return number;
        }
        let shared = common_prefix(before, key);
        varint::encode(shared as u64, out);
        varint::encode((key.len() - shared) as u64, out);
        out.extend_from_slice(&key[shared..]);
        value.encode(out);
        keys_bytes += key.len();
        before = key;
    }
    entries.len().min(MAX_ENTRIES)
}

/// Returns how many first bytes are the same.
#[inline]
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    while let (Some(one), Some(other)) = (a[at..].first_chunk(), b[at..].first_chunk()) {
        let differ = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(one, other)| one == other).count()
}

/// An entry whose key is the first `shared` bytes of the key before and `rest`.
#[derive(Debug, PartialEq, Eq)]
pub struct SortedEntry<'p, V> {
    pub shared: usize,
    pub rest: &'p [u8],
    pub value: V,
}

/// Reads entries off a result's payload.
pub struct SortedDecoder<'p, V> {
    payload: &'p [u8],
    rest: &'p [u8],
    /// Length of the key before.
    before: usize,
    keys_bytes: usize,
    entries: usize,
    value: PhantomData<V>,
}

impl<'p, V: Value> SortedDecoder<'p, V> {
    /// Reads the entries of `payload`.
    pub fn new(payload: &'p [u8]) -> Self {
        Self { payload, rest: payload, before: 0, keys_bytes: 0, entries: 0, value: PhantomData }
    }

    #[inline]
    fn entry(&mut self) -> Option<SortedEntry<'p, V>> {
        if self.entries == MAX_ENTRIES || self.keys_bytes >= MAX_KEYS_BYTES {
            return None;
        }
        let shared = usize::try_from(varint::decode(&mut self.rest)?).ok()?;
        let length = usize::try_from(varint::decode(&mut self.rest)?).ok()?;
        let (rest, behind) = self.rest.split_at_checked(length)?;
        self.rest = behind;
        if shared > self.before {
            return None;
        }
        self.before = shared + length;
        self.keys_bytes += self.before;
        self.entries += 1;
        Some(SortedEntry { shared, rest, value: V::decode(&mut self.rest)? })
    }
}

impl<'p, V: Value> Iterator for SortedDecoder<'p, V> {
    type Item = Result<SortedEntry<'p, V>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.payload.len() - self.rest.len();
        let entry = self.entry().ok_or(Malformed { at });
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries of `payloads` with their keys written out.
    fn written_out(payloads: &[Vec<u8>]) -> Vec<(Vec<u8>, u64)> {
        let mut entries = Vec::new();
        for payload in payloads {
            let mut key: Vec<u8> = Vec::new();
            for entry in SortedDecoder::<u64>::new(payload) {
                let SortedEntry { shared, rest, value } = entry.expect("whole");
                key.truncate(shared);
                key.extend_from_slice(rest);
                entries.push((key.clone(), value));
            }
        }
        entries
    }

    #[track_caller]
    fn assert_survives(entries: &[(Vec<u8>, u64)], bytes: usize) -> Vec<Vec<u8>> {
        let borrowed: Vec<_> = entries.iter().map(|(key, value)| (key.as_slice(), value)).collect();
        let payloads = encode_sorted(&borrowed, bytes);
        assert!(written_out(&payloads) == entries);
        payloads
    }

    #[test]
    fn sorted_entries_are_read_back_and_cost_what_they_do_not_share() {
        assert_survives(&[], 100);
        let keys = (0..10_000).map(|n| (format!("COMMON_PREFIX_OF_{n:06}").into_bytes(), n % 3));
        let keys: Vec<_> = keys.collect();
        let payloads = assert_survives(&keys, 1000);
        assert!(payloads.iter().all(|payload| payload.len() < 1100));
        assert!(payloads.concat().len() < 10_000 * 6, "{}", payloads.concat().len());
        assert_survives(
            &[(vec![], 1), (vec![0], 2), (vec![0, 0], 3), (vec![9; 50], u64::MAX), (vec![], 0)],
            1,
        );
    }

    #[test]
    fn payloads_of_sorted_entries_are_bounded_by_what_they_stand_for() {
        let long: Vec<_> = (0..100).map(|n| ([vec![b'a'; 1 << 16], vec![n]].concat(), 1)).collect();
        let payloads = assert_survives(&long, 1 << 20);
        assert!(payloads.len() == 7 && payloads[1].len() < (1 << 16) + 200, "{}", payloads.len());
        let many: Vec<_> = (0..MAX_ENTRIES as u64 * 2 + 1).map(|n| (vec![], n)).collect();
        assert_eq!(assert_survives(&many, usize::MAX / 4).len(), 3);
        let huge = vec![(vec![b'x'; 3 << 20], 1), (vec![b'x'; 3 << 20], 2)];
        assert_eq!(assert_survives(&huge, 1000).len(), 2);
    }

    #[test]
    fn a_payload_that_stands_for_more_than_it_may_is_malformed() {
        let malformed = |payload: &[u8]| {
            let entries: Vec<_> = SortedDecoder::<u64>::new(payload).collect();
            assert!(entries.iter().rev().skip(1).all(Result::is_ok));
            entries.last().is_some_and(Result::is_err)
        };
        assert!(malformed(&[1, 0, 1]), "there is no key before the first");
        assert!(malformed(&[0, 1, b'x', 1, 2, 0, 1]), "the key before is shorter");
        assert!(malformed(&[0, 9, b'x', 1]));
        assert!(malformed(&[0; 3 * (MAX_ENTRIES + 1)]), "too many");
        let mut long = vec![0, 0x80, 0x80, 0x40];
        long.extend(vec![b'x'; MAX_KEYS_BYTES]);
        long.push(1);
        assert!(!malformed(&long));
        long.extend([0x80, 0x80, 0x40, 0, 1]);
        assert!(malformed(&long), "its keys are written out beyond the limit");
    }

    proptest::proptest! {
        #[test]
        fn eats_any_bytes_as_sorted_entries(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let entries: Vec<_> = SortedDecoder::<u64>::new(&bytes).collect();
            proptest::prop_assert!(entries.len() <= bytes.len());
        }

        #[test]
        fn sorted_entries_survive(
            keys in proptest::collection::btree_set(proptest::collection::vec(0u8..3, 0..30), 0..100),
            bytes in 1usize..500,
        ) {
            assert_survives(&keys.into_iter().map(|key| (key, 7)).collect::<Vec<_>>(), bytes);
        }
    }

    #[test]
    fn reads_back_what_was_written() {
        let mut payload = Vec::new();
        for (key, count) in [(&b"the"[..], 3u64), (b"", 0), (b"\0\xff", u64::MAX)] {
            encode(key, &count, &mut payload);
        }
        let entries: Vec<_> = Decoder::<u64>::new(&payload).map(|entry| entry.expect("whole")).collect();
        assert_eq!(entries, [(&b"the"[..], 3), (b"", 0), (b"\0\xff", u64::MAX)]);
    }

    #[test]
    fn stops_at_the_first_malformed_entry() {
        let mut payload = Vec::new();
        encode(b"a", &1u64, &mut payload);
        payload.extend([5, b'x']);
        let mut entries = Decoder::<u64>::new(&payload);
        assert!(matches!(entries.next(), Some(Ok((b"a", 1)))));
        assert_eq!(entries.next(), Some(Err(Malformed { at: 3 })));
        assert_eq!(entries.next(), None);
    }

    proptest::proptest! {
        #[test]
        fn eats_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let entries: Vec<_> = Decoder::<u64>::new(&bytes).collect();
            proptest::prop_assert!(entries.len() <= bytes.len());
        }
    }
}
