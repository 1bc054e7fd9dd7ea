//! Limits: which entries of the result the client asks for.

use serde::{Deserialize, Serialize};

/// What is wanted of a result: all, unless it says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of the entries that are wanted otherwise, only so many first ones.
    pub top: Option<u64>,
    /// Only entries that were counted so often, at least; those whose value is no count are none of them.
    pub min_count: Option<u64>,
}

impl Limits {
    /// Tells whether an entry of such a [`Value::count`](crate::job::Value::count) is often enough.
    #[inline]
    pub fn is_often_enough(&self, count: Option<u64>) -> bool {
        self.min_count.is_none_or(|least| count.is_some_and(|count| count >= least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded_below_only_where_that_is_asked_for() {
        let often_enough = |min_count, count| Limits { top: None, min_count }.is_often_enough(count);
        assert!(often_enough(None, None) && often_enough(None, Some(0)));
        assert!(often_enough(Some(3), Some(3)) && often_enough(Some(3), Some(u64::MAX)));
        assert!(!often_enough(Some(3), Some(2)) && !often_enough(Some(3), None));
    }
}
