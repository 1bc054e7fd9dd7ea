//! Tuples: several values that are folded side by side, each as itself.

use crate::job::Value;

/// Makes tuples of values values: on the wire one after the other, as text with commas between, as JSON an array.
macro_rules! tuples {
    ($($values:ident)*) => {
        impl<$($values: Value),*> Value for ($($values,)*) {
            fn encode(&self, out: &mut Vec<u8>) {
                #[allow(non_snake_case, reason = "the type's name is at hand")]
                let ($($values,)*) = self;
                $($values.encode(out);)*
            }

            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($values::decode(bytes)?,)*))
            }

            fn render(&self, out: &mut Vec<u8>) {
                #[allow(non_snake_case, reason = "the type's name is at hand")]
                let ($($values,)*) = self;
                $(
                    $values.render(out);
                    out.push(b',');
                )*
                out.pop();
            }

            fn heap_bytes(&self) -> usize {
                #[allow(non_snake_case, reason = "the type's name is at hand")]
                let ($($values,)*) = self;
                0 $(+ $values.heap_bytes())*
            }
        }
    };
}

tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;
    use crate::job::values::{Max, Text};

    type Mixed = (u64, Max<Text>, i64, u64);

    fn tuples() -> impl Strategy<Value = Mixed> {
        (any::<u64>(), ".{0,9}", any::<i64>(), 0..9u64)
            .prop_map(|(a, b, c, d)| (a, Max(Text(b.into_bytes())), c, d))
    }

    fn fold(into: &mut Mixed, other: Mixed) {
        into.0 = into.0.saturating_add(other.0);
        into.1.merge(other.1);
        into.2 = into.2.wrapping_add(other.2);
        into.3 |= other.3;
    }

    laws! { tuples => fold }

    #[test]
    fn they_are_shown() {
        let mut text = Vec::new();
        (1u64, (-2i64, 3u64)).render(&mut text);
        assert_eq!(text, b"1,-2,3");
        assert_eq!(serde_json::to_string(&(1u64, -2i64)).expect("it is JSON"), "[1,-2]");
    }
}
