//! Served: workers started by hand with `serve`, for tests of what talks to them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mapreduce::edge::net::{self, Wire};

use super::program::{Invocation, Running};
use super::wait_until;

/// A worker listens after some milliseconds; this is for machines under load.
const READY: Duration = Duration::from_secs(20);

/// A worker's process; killed when this is dropped.
pub struct Served {
    pub address: SocketAddr,
    process: Running,
}

impl Served {
    /// Starts `serve` as `invocation` has it, and waits until the worker has said where it listens.
    pub fn start(invocation: Invocation) -> Served {
        let mut process = invocation.spawn();
        let began = Instant::now();
        loop {
            // Looked at before what was said is: then that is all it said.
            let goes_on = process.goes_on();
            let said = process.said();
            if let Some(address) = address_in(&said) {
                return Served { address, process };
            }
            assert!(goes_on && began.elapsed() < READY, "the worker does not listen; it said:\n{said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many jobs run on the worker, as it says itself.
    pub fn jobs(&self) -> usize {
        let status = net::ask_status(self.address, &Wire::by_hand(), "", Duration::from_secs(5));
        status.unwrap_or_else(|error| panic!("{}: {error:#}", self.address)).jobs
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- worker {}\n{}", self.address, self.process.said());
        }
    }
}

/// Waits until each of `workers` runs `jobs` jobs, for `limit` at most.
#[track_caller]
pub fn await_jobs(workers: &[Served], jobs: usize, limit: Duration) {
    wait_until(limit, &format!("{jobs} jobs on each worker"), || {
        workers.iter().all(|worker| worker.jobs() == jobs)
    });
}

/// What `--workers` takes.
pub fn list(workers: &[Served]) -> String {
    let addresses: Vec<String> = workers.iter().map(|worker| worker.address.to_string()).collect();
    addresses.join(",")
}

/// Finds the address in the line that a worker begins its log with.
fn address_in(said: &str) -> Option<SocketAddr> {
    let line = said.lines().find(|line| line.ends_with(" uses it"))?;
    let (_, rest) = line.split_once("listening on ")?;
    rest.split_once(": ")?.0.parse().ok()
}
