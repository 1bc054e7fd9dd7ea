//! Bytes: the parts that the wire forms of values are made of, each of which has one form only.

use crate::wire::varint;

/// Appends a number.
pub(super) fn put_number(number: u64, out: &mut Vec<u8>) {
    varint::encode(number, out);
}

/// Takes a number off the front of `bytes`; `None` if they hold none, or in a longer form than need be.
pub(super) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let before = *bytes;
    let number = varint::decode(bytes)?;
    let used = &before[..before.len() - bytes.len()];
    (used.len() == 1 || used.last() != Some(&0)).then_some(number)
}

/// Appends a string of bytes behind its length.
pub(super) fn put_bytes(string: &[u8], out: &mut Vec<u8>) {
    put_number(string.len() as u64, out);
    out.extend_from_slice(string);
}

/// Takes a string off the front of `bytes`.
pub(super) fn take_bytes<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    bytes.split_off(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form() {
        assert_eq!(take_number(&mut &[0][..]), Some(0));
        assert_eq!(take_number(&mut &[0x80, 1][..]), Some(128));
        assert_eq!(take_number(&mut &[0x80, 0][..]), None);
        assert_eq!(take_number(&mut &[0x81, 0x80, 0][..]), None);
    }

    #[test]
    fn a_string_ends_where_it_says() {
        let mut bytes = Vec::new();
        put_bytes(b"abc", &mut bytes);
        bytes.push(b'd');
        let mut rest = bytes.as_slice();
        assert_eq!(take_bytes(&mut rest), Some(&b"abc"[..]));
        assert_eq!(rest, b"d");
        assert_eq!(take_bytes(&mut rest), None);
    }
}
