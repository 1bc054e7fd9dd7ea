//! Touches: thin adapters to SSH, sockets, files and the terminal; one outside crate named per file.

pub mod cluster;
pub mod failure;
pub mod hosts;
pub mod input;
pub mod net;
pub mod output;
pub mod probe;
pub mod progress;
pub mod sanitize;
pub mod site;
pub mod ssh;
