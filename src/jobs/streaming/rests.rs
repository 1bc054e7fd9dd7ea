//! Rests: what stands behind one key in lines, each with how often it does.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::job::Value;
use crate::job::values::Bag;
use crate::wire::varint;

/// What stands behind a key in all lines that begin with it, their TABs included, each with how often it does: what
/// lines were can be told from it exactly. Most jobs write the same few bytes behind a key; that takes no memory of its
/// own.
///
/// In the result, the line itself is the key, and nothing stands behind it.
#[derive(Clone)]
pub struct Rests(Held);

#[derive(Clone)]
enum Held {
    /// Only one, which is short.
    One {
        bytes: [u8; SHORT_BYTES],
        len: u8,
        times: u64,
    },
    Many(Bag),
}

/// Bytes of a short one: a TAB and a number, say.
const SHORT_BYTES: usize = 14;

/// On the wire, where the length of a short one stands otherwise.
const MANY: u8 = 0xff;

impl Rests {
    /// Makes what stands behind the key of one line.
    pub fn one(rest: &[u8]) -> Self {
        Self::times(rest, 1)
    }

    /// Makes what stands behind the key of so many lines that are the same.
    pub fn times(rest: &[u8], times: u64) -> Self {
        let mut bytes = [0; SHORT_BYTES];
        match bytes.get_mut(..rest.len()) {
            Some(place) => {
                place.copy_from_slice(rest);
                Self(Held::One { bytes, len: rest.len() as u8, times })
            }
            None => {
                let mut bag = Bag::default();
                bag.push_times(rest, times);
                Self(Held::Many(bag))
            }
        }
    }

    /// Puts in all that is in `other`.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (
                Held::One { bytes, len, times },
                Held::One { bytes: other_bytes, len: other_len, times: more },
            ) if *len == other_len && *bytes == other_bytes => *times = times.saturating_add(more),
            (Held::Many(bag), Held::Many(other)) => bag.merge(other),
            (Held::Many(bag), Held::One { bytes, len, times }) => {
                bag.push_times(&bytes[..usize::from(len)], times);
            }
            (Held::One { bytes, len, times }, other) => {
                let mut bag = match other {
                    Held::Many(bag) => bag,
                    Held::One { bytes, len, times } => {
                        let mut bag = Bag::default();
                        bag.push_times(&bytes[..usize::from(len)], times);
                        bag
                    }
                };
                bag.push_times(&bytes[..usize::from(*len)], *times);
                self.0 = Held::Many(bag);
            }
        }
    }

    /// Calls `each` with what stands behind the key, in the order of its bytes, and how often.
    ///
    /// # Errors
    /// The first of `each`.
    pub fn for_each<E>(&self, mut each: impl FnMut(&[u8], u64) -> Result<(), E>) -> Result<(), E> {
        match &self.0 {
            Held::One { bytes, len, times } => each(&bytes[..usize::from(*len)], *times),
            Held::Many(bag) => bag.iter().try_for_each(|(rest, times)| each(rest, times)),
        }
    }

    /// Returns how many lines there are.
    pub fn lines(&self) -> u64 {
        match &self.0 {
            Held::One { times, .. } => *times,
            Held::Many(bag) => bag.len(),
        }
    }
}

impl Value for Rests {
    const LINES: bool = true;

    fn times(&self) -> u64 {
        self.lines()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Held::One { bytes, len, times } => {
                out.push(*len);
                out.extend_from_slice(&bytes[..usize::from(*len)]);
                varint::encode(*times, out);
            }
            Held::Many(bag) => {
                out.push(MANY);
                bag.encode(out);
            }
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let len = *bytes.split_off_first()?;
        if len == MANY {
            let bag = Bag::decode(bytes)?;
            let (first, _) = bag.iter().next()?;
            let is_many = first.len() > SHORT_BYTES || bag.iter().nth(1).is_some();
            return is_many.then_some(Self(Held::Many(bag)));
        }
        let mut short = [0; SHORT_BYTES];
        let place = short.get_mut(..usize::from(len))?;
        place.copy_from_slice(bytes.split_off(..usize::from(len))?);
        let before = *bytes;
        let times = varint::decode(bytes)?;
        let used = before.len() - bytes.len();
        let is_shortest = used == 1 || before[used - 1] != 0;
        (times > 0 && is_shortest).then_some(Self(Held::One { bytes: short, len, times }))
    }

    fn render(&self, out: &mut Vec<u8>) {
        self.lines().render(out);
    }

    fn heap_bytes(&self) -> usize {
        match &self.0 {
            Held::One { .. } => 0,
            Held::Many(bag) => bag.heap_bytes(),
        }
    }
}

/// How many lines there are: what they are is told by the key of a result.
impl Serialize for Rests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.lines())
    }
}

impl PartialEq for Rests {
    fn eq(&self, other: &Self) -> bool {
        let encoded = |rests: &Self| {
            let mut out = Vec::new();
            rests.encode(&mut out);
            out
        };
        encoded(self) == encoded(other)
    }
}

impl fmt::Debug for Rests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        let _ = self.for_each(|rest, times| {
            map.entry(&String::from_utf8_lossy(rest), &times);
            Ok::<(), ()>(())
        });
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    fn rests() -> impl Strategy<Value = Rests> {
        let rest = prop_oneof![vec(0u8..3, 0..3), vec(0u8..2, 13..17)];
        vec((rest, 1u64..4), 1..8).prop_map(|all| {
            let all = all.iter().map(|(rest, times)| Rests::times(rest, *times));
            all.reduce(merged).expect("one at least")
        })
    }

    fn merged(mut into: Rests, other: Rests) -> Rests {
        into.merge(other);
        into
    }

    laws! { rests => |into: &mut Rests, other| into.merge(other) }

    #[test]
    fn the_same_short_rest_takes_no_memory_however_often_it_comes() {
        let mut rests = Rests::one(b"\t1");
        (0..1000).for_each(|_| rests.merge(Rests::one(b"\t1")));
        assert_eq!((rests.lines(), rests.heap_bytes()), (1001, 0));
        rests.merge(Rests::one(b"\t2"));
        assert_eq!(rests.lines(), 1002);
        assert!(rests.heap_bytes() > 0);
        assert!(Rests::one(&[b'x'; SHORT_BYTES + 1]).heap_bytes() > SHORT_BYTES);
        let mut seen = Vec::new();
        let _ = rests.for_each(|rest, times| {
            seen.push((rest.to_vec(), times));
            Ok::<(), ()>(())
        });
        assert_eq!(seen, [(b"\t1".to_vec(), 1001), (b"\t2".to_vec(), 1)]);
    }

    #[test]
    fn no_rest_and_an_empty_one_are_told_apart() {
        let rests = merged(Rests::one(b""), Rests::one(b"\t"));
        assert_eq!(format!("{rests:?}"), r#"{"": 1, "\t": 1}"#);
    }
}
