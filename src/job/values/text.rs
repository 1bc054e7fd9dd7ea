//! Text: a string of bytes as a value.

use std::fmt;

use serde::{Serialize, Serializer};

use super::bytes::{put_bytes, take_bytes};
use super::shown;
use crate::job::Value;

/// A string of bytes, such as a line. It need not be UTF-8; JSON has U+FFFD for what is not.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

impl Value for Text {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(&self.0, out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        take_bytes(bytes).map(Self::from)
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn heap_bytes(&self) -> usize {
        self.0.capacity()
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    fn texts() -> impl Strategy<Value = Text> {
        vec(any::<u8>(), 0..200).prop_map(Text)
    }

    laws! { texts => |into: &mut Text, other| *into = std::mem::take(into).max(other) }
}
