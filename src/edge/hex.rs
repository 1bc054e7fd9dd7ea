//! Hex: bytes in hexadecimal, such as digests and names that nobody can guess.

/// Returns `bytes` in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns `count` random bytes in hexadecimal.
///
/// # Errors
/// If the system has no randomness to give.
pub fn random(count: usize) -> anyhow::Result<String> {
    let mut bytes = vec![0; count];
    super::random::fill(&mut bytes)?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_digits_each() {
        assert_eq!(hex(&[0, 0x0f, 0xff]), "000fff");
        assert_eq!(random(7).unwrap().len(), 14);
        assert_ne!(random(8).unwrap(), random(8).unwrap());
    }
}
