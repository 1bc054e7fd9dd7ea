//! Histogram: how many lines have each length, or how often numbers of a column lie in each bin.

use serde::{Deserialize, Serialize};

use crate::job::values::Sum;
use crate::job::{Emit, Job, Records};

/// Counts the values of lines in bins of one width: from the lowest to the highest, and what is no number behind them.
///
/// Bins are reckoned in decimal fixed point, as [`Sum`] has it, so that 0.3 lies in the bin that begins with 0.3.
pub struct Histogram {
    column: Option<usize>,
    delimiter: u8,
    width: Sum,
}

/// What to count.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Params {
    /// Count the numbers of column K, the first of which is 1, instead of the lengths of lines in bytes
    #[arg(long, value_name = "K")]
    pub column: Option<usize>,

    /// What stands between columns: one byte, or \t
    #[arg(long, value_name = "BYTE", default_value = "\\t", requires = "column", allow_hyphen_values = true)]
    pub delimiter: String,

    /// How wide a bin is. A bin is shown by its lowest value
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    pub bin_width: f64,
}

impl Job for Histogram {
    const NAME: &'static str = "histogram";
    const ABOUT: &'static str = "Count how many lines have each length, or each number in a column";
    const COLUMNS: [&'static str; 2] = ["value", "lines"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        let width = Sum::of(params.bin_width);
        if !params.bin_width.is_finite() || Sum::of(1.0).div_floor(width) == 0 && params.bin_width < 1.0 {
            return Err(format!(
                "--bin-width {}: it must be above zero, and 0.000000000001 at least",
                params.bin_width
            ));
        }
        if params.column == Some(0) {
            return Err("--column 0: the first column is 1".to_owned());
        }
        let delimiter = match params.delimiter.as_bytes() {
            b"\\t" => b'\t',
            [byte] if *byte != b'\n' => *byte,
            _ => return Err(format!("--delimiter {:?}: it must be one byte, or \\t", params.delimiter)),
        };
        Ok(Self { column: params.column.map(|column| column - 1), delimiter, width })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        for line in records.lines() {
            let value = match self.column {
                None => Ok(Sum::of(line.text.len() as f64)),
                Some(column) => match line.text.split(|&byte| byte == self.delimiter).nth(column) {
                    Some(field) => number(field).map(Sum::of).ok_or(NOT_A_NUMBER),
                    None => Err(MISSING),
                },
            };
            match value {
                Ok(value) => emit.pair(Key::of(value.div_floor(self.width)).bytes(), 1),
                Err(what) => emit.pair(&[what], 1),
            }
        }
        Ok(())
    }

    fn combine(&self, into: &mut u64, other: u64) {
        *into = into.saturating_add(other);
    }

    fn render_key(&self, key: &[u8], out: &mut Vec<u8>) {
        match key {
            [NOT_A_NUMBER] => out.extend_from_slice(b"not a number"),
            [MISSING] => out.extend_from_slice(b"no such column"),
            key => out.extend_from_slice(self.width.times(Key::bin(key)).to_string().as_bytes()),
        }
    }
}

/// Returns the number in a field, which may have white space around it.
fn number(field: &[u8]) -> Option<f64> {
    let number: f64 = std::str::from_utf8(field.trim_ascii()).ok()?.parse().ok()?;
    number.is_finite().then_some(number)
}

/// First bytes of keys: of bins, how many bytes follow, above or below this.
const ZERO: u8 = 0x80;

/// Behind all bins.
const NOT_A_NUMBER: u8 = 0xfe;
const MISSING: u8 = 0xff;

/// The number of a bin, as a key: a byte that says how many bytes the number has, and those. Keys are in the order of the
/// numbers, and those of the bins around zero are short.
struct Key {
    bytes: [u8; 17],
    length: usize,
}

impl Key {
    fn of(bin: i128) -> Self {
        let is_below = bin < 0;
        // Of a number below zero all bits are turned, so that those are in the order of the numbers.
        let size = bin.unsigned_abs().to_be_bytes();
        let zeros = size.iter().take_while(|&&byte| byte == 0).count();
        let length = size.len() - zeros;
        let mut bytes = [0; 17];
        bytes[0] = if is_below { ZERO - length as u8 } else { ZERO + length as u8 };
        for (to, byte) in bytes[1..].iter_mut().zip(&size[zeros..]) {
            *to = if is_below { !byte } else { *byte };
        }
        Self { bytes, length: length + 1 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns the number that a key is made of; of what is no such key, any.
    fn bin(key: &[u8]) -> i128 {
        let (&first, digits) = key.split_first().unwrap_or((&ZERO, &[]));
        let is_below = first < ZERO;
        let size = digits
            .iter()
            .take(16)
            .fold(0u128, |size, &byte| size << 8 | u128::from(if is_below { !byte } else { byte }));
        if is_below { 0i128.saturating_sub_unsigned(size) } else { i128::try_from(size).unwrap_or(i128::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::check;

    fn params(column: Option<usize>, delimiter: &str, bin_width: f64) -> Params {
        Params { column, delimiter: delimiter.to_owned(), bin_width }
    }

    #[track_caller]
    fn assert_counted(params: Params, text: &str, expected: &str) {
        let job = Histogram::new(params).expect("they are valid");
        check::job(&job, &[text]);
        let bins = check::result(&job, &[text]).into_iter().map(|(bin, count)| format!("{bin}={count}"));
        assert_eq!(bins.collect::<Vec<_>>().join("|"), expected);
    }

    #[test]
    fn lengths_are_counted() {
        let text = "a\n\nbb\nc\n0123456789\n\u{e9}";
        assert_counted(params(None, "\\t", 1.0), text, "0=1|1=2|2=2|10=1");
        assert_counted(params(None, "\\t", 5.0), text, "0=5|10=1");
    }

    #[test]
    fn numbers_are_in_their_order() {
        let text = "x,0.3\nx, -1\nx,-0.05 \nx,1000\nx,nan\nx\nx,0.29\nx,\nx,1e3\nx,-300";
        let expected = "-300=1|-1=1|-0.1=1|0.2=1|0.3=1|1000=2|not a number=2|no such column=1";
        assert_counted(params(Some(2), ",", 0.1), text, expected);
    }

    #[test]
    fn wrong_parameters_are_explained() {
        for (params, part) in [
            (params(Some(0), ",", 1.0), "--column 0: the first column is 1"),
            (params(Some(1), ",,", 1.0), "--delimiter \",,\": it must be one byte"),
            (params(Some(1), "", 1.0), "--delimiter \"\": it must be one byte"),
            (params(None, ",", 0.0), "--bin-width 0: it must be above zero"),
            (params(None, ",", -2.0), "--bin-width -2: "),
            (params(None, ",", 1e-13), "0.000000000001 at least"),
            (params(None, ",", f64::NAN), "--bin-width NaN: "),
            (params(None, ",", f64::INFINITY), "--bin-width inf: "),
        ] {
            let error = Histogram::new(params).map(|_| ()).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_bins(a in any::<i128>(), b in -300i128..300, shift in 0u32..127) {
            let all = [a >> shift, b, a, i128::MIN, i128::MAX, 0, -1];
            for one in all {
                prop_assert_eq!(Key::bin(Key::of(one).bytes()), one);
                for other in all {
                    prop_assert_eq!(one.cmp(&other), Key::of(one).bytes().cmp(Key::of(other).bytes()));
                }
            }
        }
    }
}
