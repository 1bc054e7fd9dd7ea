//! Varint: unsigned integers of 1 to 10 bytes, 7 bits a byte, low bits first (LEB128).

/// Appends `value` to `out`.
pub fn encode(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an integer off the front of `bytes`; `None` if they end inside it or it does not fit 64 bits.
pub fn decode(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_at_every_length() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                encode(value, &mut bytes);
                let mut rest = bytes.as_slice();
                assert_eq!(decode(&mut rest), Some(value));
                assert!(rest.is_empty());
            }
        }
    }

    #[test]
    fn refuses_torn_and_oversized_integers() {
        assert_eq!(decode(&mut [0x80u8].as_slice()), None);
        assert_eq!(decode(&mut [].as_slice()), None);
        assert_eq!(decode(&mut [0xff; 9].iter().copied().chain([2]).collect::<Vec<_>>().as_slice()), None);
        assert_eq!(decode(&mut [0xff; 11].as_slice()), None);
    }
}
