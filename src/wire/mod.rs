//! Speaks: the bytes between client, workers and peers, generic over `Read` and `Write`.

pub mod encoding;
pub mod entries;
pub mod frame;
pub mod located;
pub mod message;
pub mod pack;
pub mod receive;
pub mod varint;
