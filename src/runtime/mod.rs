//! Does: owns threads and channels, holds no policy.

pub mod client;
pub mod local;
pub mod report;
pub mod serve;
