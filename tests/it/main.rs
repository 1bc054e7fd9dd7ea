//! Integration tests: one crate, one file per promise.

mod harness;
mod ssh;
mod tidy;
