//! Sum: sums and means of numbers, in decimal fixed point, so that they are the same in whatever order.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Real;
use super::bytes::{put_number, take_number};
use crate::job::{Column, Value};

/// A sum of numbers with [`Sum::DIGITS`] digits behind the point.
///
/// A number is taken for the shortest decimal number that is read as it, and that is rounded to the nearest multiple of
/// 10⁻¹² when it is put in, halves away from zero. Sums of those are exact: floating-point sums would depend on their order,
/// and sums of binary fractions would not be what people expect of what they have written, such as prices.
///
/// What is above zero and what is below are summed apart, each up to 3.4·10²⁶ and no further: a sum that stops there is
/// still the same in whatever order.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    above: u128,
    below: u128,
}

impl Sum {
    /// Digits behind the point.
    pub const DIGITS: u32 = 12;

    /// Units of one.
    const UNITS: u128 = 10u128.pow(Self::DIGITS);

    /// Makes a sum of one number. Infinities are the greatest sums there are; what is not a number is zero.
    pub fn of(number: f64) -> Self {
        Self::signed(number < 0.0, units(number.abs()))
    }

    /// Adds `other`.
    pub fn add(&mut self, other: Self) {
        self.above = self.above.saturating_add(other.above);
        self.below = self.below.saturating_add(other.below);
    }

    /// Returns the nearest floating-point number.
    pub fn to_f64(self) -> f64 {
        // The decimal text is exact, and read to the nearest number.
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// Returns a rank for [`Job::rank`](crate::Job::rank), by which greater sums come first.
    pub fn descending(self) -> u64 {
        Real::new(self.to_f64()).descending()
    }

    /// Returns how many multiples of `width` fit below the sum: the greatest whole number that is not above their
    /// quotient. Zero if `width` is not above zero.
    pub fn div_floor(self, width: Self) -> i128 {
        let (is_below, units) = self.units();
        let (no_width, width) = width.units();
        if no_width || width == 0 {
            return 0;
        }
        match is_below {
            false => i128::try_from(units / width).unwrap_or(i128::MAX),
            true => i128::try_from(units.div_ceil(width)).map_or(i128::MIN, |times| -times),
        }
    }

    /// Returns the sum `times` times, limited as all sums are.
    pub fn times(self, times: i128) -> Self {
        let (is_below, units) = self.units();
        Self::signed(is_below != (times < 0), units.saturating_mul(times.unsigned_abs()))
    }

    /// Returns whether it is below zero, and how many units it is away from it.
    fn units(self) -> (bool, u128) {
        (self.below > self.above, self.above.abs_diff(self.below))
    }

    fn signed(is_below: bool, units: u128) -> Self {
        match is_below {
            false => Self { above: units, below: 0 },
            true => Self { above: 0, below: units },
        }
    }
}

/// Returns the multiple of the unit that is nearest to `number`, which is not below zero.
fn units(number: f64) -> u128 {
    const EXACT: f64 = (1u64 << 53) as f64;
    if number < EXACT && number.fract() == 0.0 {
        return u128::from(number as u64) * Sum::UNITS;
    }
    // The shortest digits that are read as this number, such as `1.25e-3`.
    let shown = format!("{number:e}");
    let Some((digits, exponent)) = shown.split_once('e') else {
        return if number.is_nan() { 0 } else { u128::MAX };
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = whole.bytes().chain(part.bytes());
    let mantissa = digits.fold(0, |number, digit| 10 * number + u128::from(digit - b'0'));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let power = exponent - part.len() as i32 + Sum::DIGITS as i32;
    let scale = 10u128.checked_pow(power.unsigned_abs());
    match scale {
        Some(scale) if power < 0 => (mantissa + scale / 2) / scale,
        Some(scale) => mantissa.saturating_mul(scale),
        None => {
            if power < 0 {
                0
            } else {
                u128::MAX
            }
        }
    }
}

/// All digits behind the point that are not zeros at the end.
impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is_below, units) = self.units();
        let (whole, part) = (units / Self::UNITS, units % Self::UNITS);
        let sign = if is_below { "-" } else { "" };
        if part == 0 {
            return write!(f, "{sign}{whole}");
        }
        let part = format!("{part:0width$}", width = Self::DIGITS as usize);
        write!(f, "{sign}{whole}.{}", part.trim_end_matches('0'))
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// On the wire it is two numbers, of which one is usually zero.
impl Value for Sum {
    const COLUMN: Column = Column::Real;

    fn encode(&self, out: &mut Vec<u8>) {
        put_wide(self.above, out);
        put_wide(self.below, out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { above: take_wide(bytes)?, below: take_wide(bytes)? })
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.to_string().as_bytes());
    }
}

/// The nearest floating-point number: what JSON's readers make of numbers anyway.
impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.to_f64())
    }
}

/// The mean of some numbers, from their [`Sum`] and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mean {
    sum: Sum,
    count: u64,
}

impl Mean {
    /// Makes a mean of one number, which is taken as [`Sum::of`] does.
    pub fn of(number: f64) -> Self {
        Self { sum: Sum::of(number), count: 1 }
    }

    /// Adds the numbers of `other`.
    pub fn add(&mut self, other: Self) {
        self.sum.add(other.sum);
        self.count = self.count.saturating_add(other.count);
    }

    /// Returns the sum.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// Returns how many numbers there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns a rank for [`Job::rank`](crate::Job::rank), by which greater means come first.
    pub fn descending(&self) -> u64 {
        self.mean().descending()
    }

    /// Returns the mean, towards zero to [`Sum::DIGITS`] digits behind the point; zero of no numbers.
    pub fn mean(&self) -> Sum {
        let (is_below, units) = self.sum.units();
        Sum::signed(is_below, units.checked_div(u128::from(self.count)).unwrap_or(0))
    }
}

impl Value for Mean {
    const COLUMN: Column = Column::Real;

    fn encode(&self, out: &mut Vec<u8>) {
        self.sum.encode(out);
        put_number(self.count, out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { sum: Sum::decode(bytes)?, count: take_number(bytes)? })
    }

    fn render(&self, out: &mut Vec<u8>) {
        self.mean().render(out);
    }
}

impl Serialize for Mean {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.mean().serialize(serializer)
    }
}

/// Appends a number of 128 bits, 7 bits a byte, low bits first.
fn put_wide(mut number: u128, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes such a number off the front of `bytes`; `None` if there is none, or in a longer form than need be.
fn take_wide(bytes: &mut &[u8]) -> Option<u128> {
    let mut number = 0u128;
    for index in 0..19 {
        let byte = *bytes.split_off_first()?;
        let bits = u128::from(byte & 0x7f);
        // The last byte has room for two of its bits.
        if index == 18 && bits > 3 {
            return None;
        }
        number |= bits << (7 * index);
        if byte < 0x80 {
            return (byte > 0 || index == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::values::laws::laws;

    fn sums() -> impl Strategy<Value = Sum> {
        let numbers = prop_oneof![any::<f64>(), -1e6..1e6, Just(f64::INFINITY), Just(-1e26)];
        (numbers, any::<bool>()).prop_map(|(number, is_mixed)| {
            let mut sum = Sum::of(number);
            if is_mixed {
                sum.add(Sum::of(-number / 3.0));
            }
            sum
        })
    }

    fn means() -> impl Strategy<Value = Mean> {
        (sums(), any::<u64>()).prop_map(|(sum, count)| Mean { sum, count })
    }

    laws! { sums_keep_the_laws: sums => |into: &mut Sum, other| into.add(other) }
    laws! { means_keep_the_laws: means => |into: &mut Mean, other| into.add(other) }

    fn text(number: f64) -> String {
        Sum::of(number).to_string()
    }

    #[test]
    fn numbers_are_shown_as_people_write_them() {
        for number in
            ["0", "1", "-1", "0.1", "-0.3", "1234567.891", "0.000000000001", "100000000000000000000"]
        {
            assert_eq!(text(number.parse().expect("a number")), number);
        }
        assert_eq!(text(0.000_000_000_000_4), "0");
        assert_eq!(text(0.000_000_000_000_6), "0.000000000001");
        assert_eq!([text(f64::NAN), text(-0.0), text(5e-324)], ["0", "0", "0"]);
        assert_eq!(text(f64::INFINITY), text(1e300));
        assert_eq!(text(f64::NEG_INFINITY), "-340282366920938463463374607.431768211455");
    }

    #[test]
    fn sums_are_exact() {
        let mut sum = Sum::default();
        (0..1_000_000).for_each(|_| sum.add(Sum::of(0.1)));
        assert_eq!(sum.to_string(), "100000");
        sum.add(Sum::of(1e20));
        sum.add(Sum::of(-1e20));
        assert_eq!((sum.to_string(), sum.to_f64()), ("100000".to_owned(), 100_000.0));
        assert!(
            Sum::of(-1.0).descending() > sum.descending() && sum.descending() < Sum::of(3.5).descending()
        );
    }

    #[test]
    fn a_limited_sum_does_not_turn_round() {
        let mut sum = Sum::of(f64::INFINITY);
        sum.add(Sum::of(1.0));
        assert_eq!(sum, Sum::of(f64::INFINITY));
    }

    #[test]
    fn bins_are_half_open() {
        let bin = |number: f64, width: f64| Sum::of(number).div_floor(Sum::of(width));
        assert_eq!(
            [bin(0.0, 0.1), bin(0.3, 0.1), bin(0.29, 0.1), bin(-0.1, 0.1), bin(-0.01, 0.1)],
            [0, 3, 2, -1, -1]
        );
        assert_eq!([bin(7.0, 0.0), bin(7.0, -1.0)], [0, 0]);
        assert_eq!(Sum::of(0.1).times(-3).to_string(), "-0.3");
    }

    #[test]
    fn a_mean_is_that_of_all() {
        let mut mean = Mean::default();
        assert_eq!(mean.mean().to_string(), "0");
        for number in [1.0, 2.0, 4.5, -3.0] {
            mean.add(Mean::of(number));
        }
        assert_eq!((mean.mean().to_string().as_str(), mean.count()), ("1.125", 4));
        assert_eq!(serde_json::to_string(&mean).expect("it is JSON"), "1.125");
    }

    proptest! {
        #[test]
        fn any_number_is_rounded_to_the_nearest(number in -1e9..1e9) {
            let sum = Sum::of(number);
            prop_assert!((sum.to_f64() - number).abs() <= 1e-12_f64.max(number.abs() * 1e-15));
        }
    }
}
