//! Integration tests: one crate, one file per promise.

mod cli;
mod exact;
mod discover;
mod harness;
mod output;
mod reference;
mod ssh;
mod tidy;
mod words;
