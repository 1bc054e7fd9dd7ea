//! Values: what jobs fold, ready-made. Each has a compact wire form and a fold that is commutative and associative.
//!
//! The wire form of a value is the same, byte for byte, whatever the order in which it was folded; so results are, too.

mod bag;
mod bytes;
#[cfg(test)]
pub(crate) mod laws;

pub use bag::Bag;
#[cfg(test)]
pub(crate) use laws::laws;

/// Returns bytes as people read them, for `Debug`.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
