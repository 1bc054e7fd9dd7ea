//! Commands: one file each, a short story told in calls. `cli` alone names clap.

pub mod cli;
pub mod deploy;
pub mod discover;
mod failures;
mod fanout;
mod guard;
pub mod identity;
pub mod run;
pub mod serve;
pub mod status;
pub mod stop;
mod way;

pub use cli::main;
