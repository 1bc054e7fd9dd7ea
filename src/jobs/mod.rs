//! The jobs that come with the program.

pub mod grep;
pub mod histogram;
pub mod ngrams;
pub mod streaming;
pub mod word_count;
