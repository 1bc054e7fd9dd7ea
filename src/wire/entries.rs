//! Entries: keys with their values, as batches and results carry them.
//!
//! ```text
//! +-----------------+-----+-------+   one after another, until the payload ends
//! | length (varint) | key | value |
//! +-----------------+-----+-------+
//! ```

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

#[cfg(test)]
mod tests {
    use super::*;

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
