//! Laws: what must hold of every value that is folded, as properties.

use std::fmt::Debug;

use crate::job::Value;

/// Makes a module of tests of a value: `laws! { STRATEGY => FOLD }`, or with a name in front where a file has several.
macro_rules! laws {
    ($strategy:expr => $fold:expr) => {
        $crate::job::values::laws::laws! { keeps_the_laws: $strategy => $fold }
    };
    ($name:ident: $strategy:expr => $fold:expr) => {
        proptest::proptest! {
            #![proptest_config(proptest::prelude::ProptestConfig {
                failure_persistence: None,
                rng_seed: proptest::test_runner::RngSeed::Fixed(4),
                ..Default::default()
            })]

            #[test]
            fn $name(
                values in ($strategy(), $strategy(), $strategy()),
                garbage in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
                flips in proptest::collection::vec((0usize..4000, proptest::prelude::any::<u8>()), 0..4),
            ) {
                $crate::job::values::laws::check(values, &garbage, &flips, $fold);
            }
        }
    };
}

pub(crate) use laws;

/// Checks that `fold` is commutative and associative, that the wire form of what is folded is the same in whatever order,
/// that it is read again, and that whatever else is read does no harm.
pub(crate) fn check<V: Value + PartialEq + Debug>(
    (a, b, c): (V, V, V),
    garbage: &[u8],
    flips: &[(usize, u8)],
    fold: impl Fn(&mut V, V),
) {
    let folded = |values: &[&V]| {
        let mut values = values.iter().map(|value| (*value).clone());
        let first = values.next().expect("one at least");
        values.fold(first, |mut into, other| {
            fold(&mut into, other);
            into
        })
    };
    let ab = folded(&[&a, &b]);
    let whole = folded(&[&ab, &c]);
    let wire = encoded(&whole);
    let orders =
        [folded(&[&c, &b, &a]), folded(&[&b, &c, &a]), folded(&[&a, &folded(&[&b, &c])]), folded(&[&c, &ab])];
    for other in orders {
        assert_eq!(whole, other, "the order of the fold makes a difference");
        assert_eq!(wire, encoded(&other), "the wire form depends on the order of the fold");
    }
    for value in [&a, &ab, &whole] {
        check_wire_form(value, garbage);
        check_folds_as_it_came(value, &c, &fold);
    }
    check_damaged::<V>(&wire, garbage, flips);
}

/// Checks that a value that was decoded is folded as the one that was encoded.
fn check_folds_as_it_came<V: Value + PartialEq + Debug>(value: &V, other: &V, fold: &impl Fn(&mut V, V)) {
    let mut folded = value.clone();
    fold(&mut folded, other.clone());
    let mut decoded = V::decode(&mut encoded(value).as_slice()).expect("what was encoded is decoded");
    fold(&mut decoded, other.clone());
    assert_eq!(encoded(&folded), encoded(&decoded));
}

fn check_wire_form<V: Value + PartialEq + Debug>(value: &V, behind: &[u8]) {
    let wire = encoded(value);
    let followed = [&wire, behind].concat();
    let mut rest = followed.as_slice();
    let decoded = V::decode(&mut rest).expect("what was encoded is decoded");
    assert_eq!(&decoded, value);
    assert_eq!(encoded(&decoded), wire, "another form of the same value");
    assert_eq!(rest, behind, "it ends elsewhere");
    assert!(decoded.heap_bytes() <= 64 * wire.len() + 64, "{} bytes of {}", decoded.heap_bytes(), wire.len());
    let ends = (0..wire.len()).step_by(1 + wire.len() / 50).chain(wire.len().checked_sub(1));
    for end in ends {
        let mut torn = &wire[..end];
        assert!(V::decode(&mut torn).is_none(), "{end} of {} bytes are taken for a value", wire.len());
    }
}

/// Decodes what is no wire form, or a damaged one: there is no panic, and what is decoded has one form only.
fn check_damaged<V: Value + PartialEq + Debug>(wire: &[u8], garbage: &[u8], flips: &[(usize, u8)]) {
    let mut damaged = wire.to_vec();
    for &(at, flip) in flips {
        let length = damaged.len().max(1);
        if let Some(byte) = damaged.get_mut(at % length) {
            *byte ^= flip;
        }
    }
    for bytes in [&damaged, garbage] {
        let mut rest = bytes;
        if let Some(value) = V::decode(&mut rest) {
            assert!(bytes.ends_with(rest));
            assert!(value.heap_bytes() <= 64 * bytes.len() + 64, "{} bytes", value.heap_bytes());
            value.render(&mut Vec::new());
            check_wire_form(&value, b"");
        }
    }
}

pub(crate) fn encoded(value: &impl Value) -> Vec<u8> {
    let mut wire = Vec::new();
    value.encode(&mut wire);
    wire
}
