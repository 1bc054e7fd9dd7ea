//! Decides: pure code without a file, socket, thread, clock, randomness or printing of its own.

pub mod coordinator;
pub mod ids;
pub mod inbox;
pub mod limits;
pub mod merge;
pub mod packing;
pub mod partition;
pub mod ranged;
pub mod rows;
pub mod sort;
pub mod split;
pub mod table;
pub mod tokenize;
pub mod worker;
