//! Machine: what this machine has for workers, cores and memory, and what it allows a process.

use std::num::NonZero;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory that a machine is taken to have where it does not tell.
const MEMORY_UNKNOWN: u64 = 2 << 30;

/// Returns the number of map threads that suit this machine: its cores, as far as this process may use them.
#[must_use]
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Returns the bytes that jobs may hold on this machine: three quarters of its memory, for workers are guests.
#[must_use]
pub fn memory_for_jobs() -> u64 {
    let system = rustix::system::sysinfo();
    // The types differ between architectures.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let total = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    let total = if total == 0 { MEMORY_UNKNOWN } else { total };
    (total / 4 * 3).min(memory_of_group().unwrap_or(u64::MAX))
}

/// Allows this process as many open files as the system lets it have: an input may be thousands of files, and a worker
/// has a connection to each peer.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, what is open tells soon enough.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Has the system write no image of this process, nor of those that it starts, if they crash: it would hold keys and
/// texts.
pub fn leave_no_core() {
    // To lower a bound is never refused.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Returns the resident memory of this process in bytes; zero where the system does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Returns three quarters of the bound that a container sets, if there is one.
fn memory_of_group() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?;
    Some(text.trim().parse::<u64>().ok()? / 4 * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_has_something() {
        assert!(threads() >= 1);
        assert!(memory_for_jobs() > 16 << 20);
        assert!(resident_bytes() > 100 << 10);
    }
}
