//! Targets: what is fuzzed: each takes any bytes, and checks what must hold of all of them.

mod batches;
mod cluster;
mod control;
mod files;
mod machines;
mod ssh;

/// Something that reads bytes that others wrote.
pub struct Target {
    pub name: &'static str,
    /// Reads `bytes` and tells whether they were understood. Panics if something does not hold that must.
    pub read: fn(&[u8]) -> bool,
    /// Inputs as the program itself, or a well-meaning user, writes them. All are understood.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many bytes may live at once while so many are read.
    pub most_allocated: fn(usize) -> usize,
}

/// Longest input that is tried, as libFuzzer has it.
pub const LONGEST: usize = 4 * KIB;

/// All there are.
pub const ALL: [Target; 17] = [
    control::FRAME,
    control::MESSAGE,
    batches::SPLITS,
    batches::BATCHES,
    batches::RESULTS,
    batches::PACK,
    files::HOSTS,
    files::SITE,
    files::RANGE,
    ssh::KNOWN_HOSTS,
    ssh::CONFIG,
    cluster::HANDSHAKE,
    cluster::IDENTITY,
    cluster::ORDERS,
    cluster::RECORD,
    machines::COORDINATOR,
    machines::WORKER,
];

/// For messages and what else is small.
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
