//! Extremes: the smallest and the largest of some values.

use serde::Serialize;

use crate::job::{Column, Value};

/// The smallest of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Min<T>(pub T);

/// The largest of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Max<T>(pub T);

impl<T: Ord> Min<T> {
    /// Keeps the smaller one.
    pub fn merge(&mut self, other: Self) {
        if other.0 < self.0 {
            *self = other;
        }
    }
}

impl<T: Ord> Max<T> {
    /// Keeps the larger one.
    pub fn merge(&mut self, other: Self) {
        if other.0 > self.0 {
            *self = other;
        }
    }
}

/// Makes what wraps a value one, with the same forms.
macro_rules! as_wrapped {
    ($($wrapper:ident)*) => { $(
        impl<T: Value> Value for $wrapper<T> {
            const COLUMN: Column = T::COLUMN;

            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                T::decode(bytes).map(Self)
            }

            fn render(&self, out: &mut Vec<u8>) {
                self.0.render(out);
            }

            fn count(&self) -> Option<u64> {
                self.0.count()
            }

            fn heap_bytes(&self) -> usize {
                self.0.heap_bytes()
            }
        }
    )* };
}

as_wrapped!(Min Max);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::Text;
    use crate::job::values::laws::laws;

    fn least() -> impl Strategy<Value = Min<i64>> {
        any::<i64>().prop_map(Min)
    }

    fn greatest() -> impl Strategy<Value = Max<Text>> {
        ".{0,9}".prop_map(|text| Max(Text(text.into_bytes())))
    }

    laws! { the_least_keeps_the_laws: least => |into: &mut Min<i64>, other| into.merge(other) }
    laws! { the_greatest_keeps_the_laws: greatest => |into: &mut Max<Text>, other| into.merge(other) }

    #[test]
    fn the_smaller_and_the_larger_are_kept() {
        let (mut min, mut max) = (Min(3), Max(3));
        for number in [5, 1, 4] {
            min.merge(Min(number));
            max.merge(Max(number));
        }
        assert_eq!((min, max), (Min(1), Max(5)));
    }
}
