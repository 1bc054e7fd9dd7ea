//! Touches: thin adapters to SSH, sockets, files and the terminal; one outside crate named per file.

pub mod cluster;
pub mod console;
pub mod daemon;
pub mod elf;
pub mod failure;
pub mod hex;
pub mod home;
pub mod hosts;
pub mod input;
pub mod machine;
pub mod name;
pub mod net;
pub mod output;
pub mod probe;
pub mod program;
pub mod progress;
pub mod range;
pub mod rate;
pub mod remote;
pub mod sanitize;
pub mod signals;
pub mod site;
pub mod ssh;
pub mod sweep;
pub mod table;
pub mod tally;
