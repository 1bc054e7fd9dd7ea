//! Job: what is computed, from input to output; the public face of the engine.
//!
//! Source: Dean & Ghemawat, "MapReduce" (OSDI 2004), sections 2 and 4.3; the combiner as a commutative monoid
//! follows Talbot et al., "Phoenix++" (2011).

use std::cmp::Ordering;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A MapReduce job: pairs are mapped from splits and folded by key with a commutative, associative `combine`.
///
/// The same program runs as client and as worker, so a job needs no registration: the client sends [`Job::NAME`] and
/// the parameters, and each worker builds its own `Job` from them.
pub trait Job: Sized + Send + Sync + 'static {
    /// Name under which client and workers agree on the job.
    const NAME: &'static str;

    /// One line for `--help`.
    const ABOUT: &'static str;

    /// Names of the two columns of the result, as CSV headers and JSON fields.
    const COLUMNS: [&'static str; 2];

    /// What the user can set: `run` takes them as flags, and they travel to the workers.
    type Params: clap::Args + Clone + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What is folded for each key.
    type Value: Value;

    /// Makes the job from its parameters.
    ///
    /// # Errors
    /// Says in words what is wrong with the parameters.
    fn new(params: Self::Params) -> Result<Self, String>;

    /// Emits the pairs of one split. A split ends where [`Job::is_boundary`] allows or with its file.
    ///
    /// A panic in here fails the execution and, with it, the job; the worker lives on.
    fn map(&self, split: &[u8], emit: &mut impl Emit<Self::Value>);

    /// Folds `other` into `into`.
    ///
    /// Must be commutative and associative, for the engine folds in whatever order pairs arrive.
    fn combine(&self, into: &mut Self::Value, other: Self::Value);

    /// Tells whether the input may be cut right after `byte`, so that no record crosses the cut.
    ///
    /// Only ASCII bytes may be boundaries: in UTF-8 they never stand inside a character.
    fn is_boundary(&self, byte: u8) -> bool {
        byte == b'\n'
    }

    /// Returns where a pair with this value stands in the result: lower ranks first, and keys in the order of their
    /// bytes where ranks are equal. By key alone, unless overridden.
    fn rank(&self, value: &Self::Value) -> u64 {
        let _ = value;
        0
    }

    /// Compares two pairs as the result is ordered.
    fn compare(&self, a: (&[u8], &Self::Value), b: (&[u8], &Self::Value)) -> Ordering {
        self.rank(a.1).cmp(&self.rank(b.1)).then_with(|| a.0.cmp(b.0))
    }
}

/// Takes the pairs that a map emits. A closure of a key and a value is one, for tests and for a closer look.
pub trait Emit<V> {
    /// Emits one pair.
    fn pair(&mut self, key: &[u8], value: V);

    /// Emits `value` under each key that stands in `text` at one of `spans`, in the order of their starts.
    /// The quickest way where keys lie in the text as they are: they are looked up many at a time.
    fn spans(&mut self, text: &[u8], spans: &[Span], value: V)
    where
        V: Clone,
    {
        for &[start, end] in spans {
            self.pair(&text[start as usize..end as usize], value.clone());
        }
    }
}

impl<V, F: FnMut(&[u8], V)> Emit<V> for F {
    fn pair(&mut self, key: &[u8], value: V) {
        self(key, value);
    }
}

/// Where a key stands in a text: the index of its first byte, and that of the byte behind its last one.
pub type Span = [u32; 2];

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
}

/// A count. On the wire it is a variable-length integer, 7 bits a byte, low bits first (LEB128): most counts of a
/// text are small.
impl Value for u64 {
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
