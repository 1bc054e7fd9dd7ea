//! Job: what is computed, from input to output; the public face of the engine.
//!
//! Source: Dean & Ghemawat, "MapReduce" (OSDI 2004), sections 2 and 4.3; the combiner as a commutative monoid
//! follows Talbot et al., "Phoenix++" (2011).

mod catalog;
pub mod check;
mod records;
mod value;
pub mod values;

use std::cmp::Ordering;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use catalog::{Jobs, Listed, Visitor};
pub use records::{AsciiSet, Cut, Line, Lines, Records};
pub(crate) use value::columns;
pub use value::{Column, Value};

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

    /// A flag among the parameters that picks this job where no other is named, without its dashes.
    const PICKED_BY: Option<&'static str> = None;

    /// Whether the job does what only those may ask for who have proven who they are, such as running programs.
    const NEEDS_TRUST: bool = false;

    /// Whether what is folded goes through [`Job::reduce`].
    const REDUCES: bool = false;

    /// What the user can set: `run` takes them as flags, and they travel to the workers.
    type Params: clap::Args + Clone + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What is folded for each key.
    type Value: Value;

    /// Makes the job from its parameters.
    ///
    /// # Errors
    /// Says in words what is wrong with the parameters.
    fn new(params: Self::Params) -> Result<Self, String>;

    /// Emits the pairs of some records, which end where [`Job::cut`] allows or with their file. Must not depend on
    /// where else they were cut.
    ///
    /// # Errors
    /// Says in words why this cannot be done. It fails the execution and, where others cannot do it either, the job; so
    /// does a panic.
    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Self::Value>) -> Result<(), String>;

    /// Emits the pairs of a whole split, whose records `pieces` gives: all at once, or piece by piece where they are
    /// unpacked. Maps each piece, unless overridden by a job that has to know where a split begins and ends; what such
    /// a job emits comes after the first piece, or after all.
    ///
    /// # Errors
    /// As [`Job::map`], and those of `pieces`.
    fn map_split(&self, pieces: Pieces<'_>, emit: &mut impl Emit<Self::Value>) -> Result<(), String> {
        pieces(&mut |records| self.map(records, emit))
    }

    /// Folds `other` into `into`.
    ///
    /// Must be commutative and associative, for the engine folds in whatever order pairs arrive. [`check::job`] tests
    /// it, and the folds of all [`values`] are.
    fn combine(&self, into: &mut Self::Value, other: Self::Value);

    /// Makes the result of what is folded, if [`Job::REDUCES`]: called with keys in the order of their bytes, each
    /// with all that was emitted under it, but not with all keys, and never with none. What it emits is the result;
    /// pairs of the same key are combined. A job whose result is not in the order of keys must emit no other key than
    /// that of the group.
    ///
    /// # Errors
    /// As [`Job::map`].
    fn reduce(
        &self,
        groups: &mut dyn Iterator<Item = (&[u8], Self::Value)>,
        emit: &mut dyn Emit<Self::Value>,
    ) -> Result<(), String> {
        groups.for_each(|(key, value)| emit.pair(key, value));
        Ok(())
    }

    /// Says where the input may be cut: between lines, unless overridden.
    fn cut(&self) -> Cut {
        Cut::LINES
    }

    /// Returns where a pair with this value stands in the result: lower ranks first, and keys in the order of their
    /// bytes where ranks are equal. By key alone, unless overridden.
    fn rank(&self, value: &Self::Value) -> u64 {
        let _ = value;
        0
    }

    /// Tells whether what is folded are counts, so that a least one can be asked for. By what values are, unless
    /// overridden.
    fn counts(&self) -> bool {
        Self::Value::COLUMN == Column::Count
    }

    /// Appends the text form of a key, as all formats show it, to `out`: the key itself, unless overridden.
    #[inline]
    fn render_key(&self, key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(key);
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

    /// Says whether to go on with `bytes` held beside what was emitted: asked by a job that takes long over its
    /// records, or makes much of few.
    ///
    /// # Errors
    /// If nobody wants it any more, or that is more than this worker may hold.
    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        let _ = bytes;
        Ok(())
    }
}

/// Gives the pieces of a split, in their order, to the function that it is called with, until that fails. To be called
/// once.
pub type Pieces<'p> = &'p mut dyn FnMut(MapPiece<'_>) -> Result<(), String>;

/// What maps a piece.
pub type MapPiece<'m> = &'m mut dyn FnMut(Records<'_>) -> Result<(), String>;

impl<V, F: FnMut(&[u8], V)> Emit<V> for F {
    fn pair(&mut self, key: &[u8], value: V) {
        self(key, value);
    }
}

/// Where a key stands in a text: the index of its first byte, and that of the byte behind its last one.
pub type Span = [u32; 2];
