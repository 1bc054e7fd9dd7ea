//! Merge: sorted streams -> one sorted stream (k-way, by a tournament tree).

use std::cmp::Ordering;

/// A sorted stream with one entry in view. Keys are borrowed from it, so that merging copies nothing.
pub trait Cursor {
    /// What a key is folded to.
    type Value;
    /// Why the stream broke.
    type Error;

    /// Returns the entry in view; `None` once the stream has ended.
    fn head(&self) -> Option<(&[u8], &Self::Value)>;

    /// Moves on to the next entry. May wait for it.
    ///
    /// # Errors
    /// If the stream broke; it is then not used again.
    fn advance(&mut self) -> Result<(), Self::Error>;
}

/// Hands the entries of all `streams` to `each` in the order of `compare`, which must be a total order on entries of
/// different keys. A key stands in one stream only.
///
/// # Errors
/// The first error of a stream or of `each`; `each` returning `Ok(false)` ends the merge early without one.
pub fn merge<C: Cursor>(
    streams: &mut [C],
    compare: impl Fn((&[u8], &C::Value), (&[u8], &C::Value)) -> Ordering,
    each: impl FnMut(&[u8], &C::Value) -> Result<bool, C::Error>,
) -> Result<(), C::Error> {
    let _ = (streams, compare, each);
    todo!()
}
