//! Numbers: signed integers, and floating-point numbers in an order that is total.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

use super::bytes::{put_number, take_number};
use crate::job::{Column, Value};

/// A signed integer. On the wire numbers close to zero are short (zigzag, then LEB128).
///
/// A sum that stops at the largest number depends on the order if there are negative ones, too: fold with
/// [`i64::wrapping_add`], or with [`Sum`](super::Sum), which knows more.
impl Value for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        put_number((self << 1 ^ self >> 63) as u64, out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let zigzag = take_number(bytes)?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.to_string().as_bytes());
    }
}

/// A floating-point number that can be compared with all others, for [`Min`](super::Min), [`Max`](super::Max) and
/// [`Top`](super::Top).
///
/// There is one zero, and one NaN, which is greater than infinity. Sums of these would depend on their order:
/// [`Sum`](super::Sum) is for those.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(transparent)]
pub struct Real(f64);

impl Real {
    /// Takes a number as it is, but for the sign of a zero and the kind of a NaN.
    pub fn new(number: f64) -> Self {
        match number {
            number if number.is_nan() => Self(f64::NAN),
            // A negative zero plus zero is zero.
            number => Self(number + 0.0),
        }
    }

    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Returns a rank for [`Job::rank`](crate::Job::rank), by which greater numbers come first.
    pub fn descending(self) -> u64 {
        let bits = self.0.to_bits();
        let ascending = if self.0.is_sign_negative() { !bits } else { bits | 1 << 63 };
        !ascending
    }
}

/// On the wire it has eight bytes.
impl Value for Real {
    const COLUMN: Column = Column::Real;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self::new(f64::from_le_bytes(*number)))
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.to_string().as_bytes());
    }
}

impl From<f64> for Real {
    fn from(number: f64) -> Self {
        Self::new(number)
    }
}

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Real {}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::{self, laws};

    fn integers() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -200i64..200]
    }

    fn reals() -> impl Strategy<Value = Real> {
        any::<u64>().prop_map(|bits| Real::new(f64::from_bits(bits)))
    }

    laws! { integers_keep_the_laws: integers => |into: &mut i64, other| *into = into.wrapping_add(other) }
    laws! { reals_keep_the_laws: reals => |into: &mut Real, other| *into = (*into).max(other) }

    #[test]
    fn integers_close_to_zero_are_short() {
        for (number, length) in [(0, 1), (-1, 1), (63, 1), (-64, 1), (64, 2), (i64::MAX, 10), (i64::MIN, 10)]
        {
            assert_eq!(laws::encoded(&number).len(), length, "{number}");
        }
    }

    #[test]
    fn reals_are_in_one_order() {
        let of = Real::new;
        let mut all = [f64::NAN, 1.0, -f64::NAN, f64::INFINITY, -0.0, f64::NEG_INFINITY, 0.0].map(of);
        all.sort();
        let text: Vec<String> = all.iter().map(|real| format!("{real:?}")).collect();
        assert_eq!(text, ["-inf", "0.0", "0.0", "1.0", "inf", "NaN", "NaN"]);
        assert_eq!(of(-0.0), of(0.0));
        assert!(
            all.windows(2).all(|two| two[0].cmp(&two[1]) == two[1].descending().cmp(&two[0].descending()))
        );
    }
}
