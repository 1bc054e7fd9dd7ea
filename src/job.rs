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
    fn map(&self, split: &[u8], emit: &mut impl FnMut(&[u8], Self::Value));

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

    /// Order of the result: a total order on pairs of different keys. By key, unless overridden.
    fn compare(&self, a: (&[u8], &Self::Value), b: (&[u8], &Self::Value)) -> Ordering {
        let _ = (a.1, b.1);
        a.0.cmp(b.0)
    }

    /// Returns a number that sorts first what [`Job::compare`] sorts first, as far as it can tell: where two ranks
    /// differ, the pairs must compare in the same way. Sorting reads the pairs themselves only where ranks are equal.
    /// It may say nothing, as this one does not, for jobs whose order is their own.
    fn rank(&self, pair: (&[u8], &Self::Value)) -> u128 {
        let _ = pair;
        0
    }
}

/// Returns the front of `key` as a number that compares as the keys do, for [`Job::rank`].
#[inline]
pub fn front_of(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(front) => u64::from_be_bytes(*front),
        None => {
            let mut front = [0; 8];
            front[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(front)
        }
    }
}

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
