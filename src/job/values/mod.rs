//! Values: what jobs fold, ready-made. Each has a compact wire form, and a fold that is commutative and associative.
//!
//! | value | what it folds | how |
//! |---|---|---|
//! | `u64` | counts | `saturating_add` |
//! | `i64` | signed numbers | `wrapping_add` |
//! | [`Sum`], [`Mean`] | numbers with a fraction, exactly | [`Sum::add`], [`Mean::add`] |
//! | [`Min`], [`Max`] | the smallest, the largest: of integers, [`Real`], [`Text`] ... | [`Min::merge`], [`Max::merge`] |
//! | `(A, B)`, up to four | values side by side | each as itself |
//! | [`Top`] | the strings with the highest scores | [`Top::merge`] |
//! | [`Set`] | distinct strings | [`Set::merge`] |
//! | [`Bag`] | all strings, for grouping | [`Bag::merge`] |
//! | [`Distinct`] | about how many distinct strings | [`Distinct::merge`] |
//! | [`Sample`] | some of very many strings | [`Sample::merge`] |
//!
//! Invariant: the wire form of a value is the same, byte for byte, whatever the order in which it was folded; so results
//! are, too. A value of your own is tried with [`check::job`](crate::check::job).

mod bag;
mod bytes;
mod distinct;
mod extremes;
#[cfg(test)]
pub(crate) mod laws;
mod numbers;
mod sample;
mod set;
mod sum;
mod text;
mod top;
mod tuples;

pub use bag::Bag;
pub use distinct::Distinct;
pub use extremes::{Max, Min};
pub use numbers::Real;
pub use sample::Sample;
pub use set::Set;
pub use sum::{Mean, Sum};
pub use text::Text;
pub use top::Top;

use crate::logic::partition::{KeyHash, Seed};

/// Returns a hash that is the same on every host and in every run, and depends on `seed` and on all of `string`.
fn hash(seed: u64, string: &[u8]) -> u64 {
    let hash = Seed([seed, 0]).of_bytes(string);
    // A string and the same one with zeros behind it share that hash. This mixes the length in (splitmix64).
    let mut bits = hash.wrapping_add((string.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Returns bytes as people read them, for `Debug`.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
