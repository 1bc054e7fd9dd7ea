//! The jobs that come with the program.

pub mod word_count;
