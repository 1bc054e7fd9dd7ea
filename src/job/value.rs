//! Value: what is folded for each key: its wire form and its text form.

use serde::Serialize;

/// A value that is folded: it has a compact wire form and a text form.
///
/// Its `Serialize` is used for JSON output only, never between hosts.
pub trait Value: Clone + Serialize + Send + Sync + 'static {
    /// Appends the wire form to `out`; [`Value::decode`] must be able to tell its end.
    fn encode(&self, out: &mut Vec<u8>);

    /// Takes one value off the front of `bytes`; `None` if they do not hold one, whatever the bytes are.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;

    /// Appends the text form, as TSV and CSV show it, to `out`.
    fn render(&self, out: &mut Vec<u8>);

    /// How columnar formats keep it.
    const COLUMN: Column = Column::Text;

    /// Returns how often something was counted, where the value is such a number: what `--min-count` looks at.
    fn count(&self) -> Option<u64> {
        None
    }

    /// Whether a pair of the result stands for lines of text: its key is the line, which is shown [`Value::times`]. Its
    /// columns are what stands before and behind the first TAB.
    const LINES: bool = false;

    /// Returns how often the line stands in the result, if it is [one](Value::LINES).
    fn times(&self) -> u64 {
        1
    }

    /// Returns the bytes that it owns elsewhere: a worker's `--memory` bounds those, too. It is asked for at each fold,
    /// so that it must not look at all that is held.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// Returns the columns of a line: what stands before and behind its first TAB.
pub(crate) fn columns(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\t', line) {
        Some(tab) => (&line[..tab], &line[tab + 1..]),
        None => (line, b""),
    }
}

/// How a columnar format keeps a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// As its text form.
    Text,
    /// As an unsigned number of 64 bits, which is its [`Value::count`].
    Count,
    /// As a floating-point number of 64 bits, which its text form is that of.
    Real,
}

/// A count. On the wire it is a variable-length integer, 7 bits a byte, low bits first (LEB128): most counts of a
/// text are small.
impl Value for u64 {
    const COLUMN: Column = Column::Count;

    fn count(&self) -> Option<u64> {
        Some(*self)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        crate::wire::varint::encode(*self, out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        crate::wire::varint::decode(bytes)
    }

    fn render(&self, out: &mut Vec<u8>) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = *self;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.extend_from_slice(&digits[at..]);
    }
}
