//! Partition: which reducer a key belongs to.
//!
//! Invariant: within a job, the same key gives the same partition on every host. The hash is therefore written out
//! here and its seed travels with the job; `std`'s hasher is seeded anew in every process.
//! Source: Dean & Ghemawat (OSDI 2004), 4.1.

use serde::{Deserialize, Serialize};

/// The part of the key space that one reducer owns; `0..n_partitions` within a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub u32);

/// The random seed of one job's hash: no crafted input can overload one reducer or one slot of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub [u64; 2]);

/// Returns the hash of `key` under `seed`.
pub fn hash(seed: Seed, key: &[u8]) -> u64 {
    let _ = (seed, key);
    todo!()
}

/// Returns the partition of a key with hash `hash`, in `0..n_partitions`. Uses the high bits of the hash; tables use
/// the low ones.
///
/// # Panics
/// If `n_partitions` is zero: a job without a worker never gets as far as this function.
pub fn partition_of(hash: u64, n_partitions: u32) -> Partition {
    assert!(n_partitions > 0, "a job has at least one partition");
    Partition(((u128::from(hash) * u128::from(n_partitions)) >> 64) as u32)
}
