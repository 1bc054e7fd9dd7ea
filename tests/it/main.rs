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
mod guests;
mod harness;
mod jump;
mod output;
mod portable;
mod readme;
mod reference;
mod run;
mod serve;
mod sim;
mod ssh;
mod terminal;
mod tidy;
mod words;
