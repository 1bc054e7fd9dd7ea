//! The jobs that come with the program.

pub mod streaming;
pub mod word_count;
