//! Tidy: rules of the tree that no compiler checks.
