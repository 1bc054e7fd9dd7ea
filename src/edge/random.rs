//! Random: bytes from the system that nobody can foresee.

use anyhow::anyhow;

/// Fills `bytes`.
///
/// # Errors
/// If the system has no random bytes to give.
pub fn fill(bytes: &mut [u8]) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    if from_the_kernel(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes).map_err(|error| anyhow!("no randomness from the system: {error}"))
}

/// Returns a number, all of them equally likely.
///
/// # Errors
/// As [`fill`].
pub fn number() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Asks the kernel itself. The crate looks for the C library's function at run time, which a static program does not
/// find; it then needs /dev, which an empty root directory does not have.
#[cfg(target_os = "linux")]
fn from_the_kernel(mut bytes: &mut [u8]) -> bool {
    use rustix::rand::{GetRandomFlags, getrandom};
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(length) if length > 0 => bytes = &mut bytes[length..],
            Err(rustix::io::Errno::INTR) => {}
            // A kernel before 3.17 does not know the call.
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_filled_and_differ() {
        let mut bytes = [0; 4096];
        fill(&mut bytes).unwrap();
        // That none of 64 bytes in a row was touched has a chance of 2^-512.
        assert!(bytes.chunks(64).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
        assert_ne!(number().unwrap(), number().unwrap());
    }
}
