//! Integration tests: one crate, one file per promise.

mod discover;
mod harness;
mod ssh;
mod tidy;
