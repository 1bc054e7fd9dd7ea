//! Guard: a panic about one host, which is a mistake of ours, is the failure of that host alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::anyhow;

use crate::edge::sanitize::clipped;

/// Characters that are told of a panic's words.
const MESSAGE_CHARS: usize = 300;

/// Does what concerns one host.
///
/// # Errors
/// Those of `work`, of which a panic is one.
pub fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Err(anyhow!("internal error: {}", clipped(said.unwrap_or("no message"), MESSAGE_CHARS)))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn panic_is_a_failure_with_its_words() {
        let told = |work: fn() -> anyhow::Result<u32>| match guarded(work) {
            Ok(number) => number.to_string(),
            Err(cause) => cause.to_string(),
        };
        assert_eq!(told(|| Ok(7)), "7");
        assert_eq!(told(|| bail!("no way")), "no way");
        assert_eq!(told(|| panic!("a mistake")), "internal error: a mistake");
        assert_eq!(told(|| panic!("mistake {}", 2)), "internal error: mistake 2");
        assert_eq!(told(|| std::panic::panic_any(3)), "internal error: no message");
    }
}
