//! Workers: workers of the held word count, each a process of its own: this test binary, run again.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use mapreduce::edge::net;
use mapreduce::logic::coordinator::Phase;
use mapreduce::runtime::serve::WorkerOptions;

use super::held::HeldCount;
use super::is_child;

/// How long a worker may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker's process; killed when dropped.
pub struct WorkerProcess {
    pub child: Child,
    pub address: SocketAddr,
    pub held: PathBuf,
}

impl WorkerProcess {
    pub fn start(directory: &Path, index: usize, hold: Option<Phase>) -> Self {
        let file = |what: &str| directory.join(format!("{what}-{index}"));
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.args(["--exact", "harness::workers::worker_process", "--nocapture"]);
        command.env("MAPREDUCE_TEST_CHILD", "1").env("HELD_ADDRESS", file("address"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(phase) = hold {
            command.env("HELD_PHASE", phase.to_string()).env("HELD_FILE", file("held"));
        }
        let child = command.spawn().expect("the test binary can be run again");
        await_file(&file("address"));
        let address = fs::read_to_string(file("address")).expect("it was written");
        Self { child, address: address.parse().expect("an address"), held: file("held") }
    }

    pub fn running_jobs(&self) -> usize {
        net::ask_status(self.address, None, PATIENCE).expect("the worker lives").jobs
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn await_file(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(30), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Not a test: what a worker's process runs.
#[test]
fn worker_process() {
    if !is_child() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let options = WorkerOptions {
        name: address.to_string(),
        key: None,
        threads: 2,
        memory: u64::MAX,
        idle_timeout: None,
        resident_bytes: || 0,
    };
    let file = PathBuf::from(std::env::var_os("HELD_ADDRESS").expect("the test says where"));
    fs::write(file.with_extension("new"), address.to_string()).expect("the test's directory is writable");
    fs::rename(file.with_extension("new"), file).expect("the test's directory is writable");
    // Nobody stops it: it is killed.
    let (_stop, stopped) = bounded(1);
    net::serve::<HeldCount>(listener, options, stopped, Box::new(|line| println!("{line}")))
        .expect("threads can be started");
}
