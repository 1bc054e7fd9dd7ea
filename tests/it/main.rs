//! Integration tests: one crate, one file per promise.

mod cli;
mod cluster;
mod corpus;
mod crates;
mod deploy;
mod discover;
mod exact;
mod examples;
mod faults;
mod harness;
mod output;
mod portable;
mod readme;
mod reference;
mod run;
mod serve;
mod sim;
mod ssh;
mod tidy;
mod words;
