//! Workers: workers of the held word count, each a process of its own: this test binary, run again.

#[cfg(test)]
mod tests;

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::bounded;
use mapreduce::cmd::cli::{CommandError, Console};
use mapreduce::cmd::run::{RunOptions, Workers, run};
use mapreduce::edge::net::{self, Wire};
use mapreduce::edge::output::{Destination, Format};
use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::packing::Compress;
use mapreduce::runtime::serve::WorkerOptions;
use rustix::process::Signal;

use super::held::{self, HeldCount, HeldParams, Touch};
use super::netns::Network;
use super::processes::signal;
use super::proxy::Proxy;
use super::{is_child, wait_until};

/// How long a worker may be silent in these tests: several beats, also on a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a worker's process may take to start, or to come to where it is held.
const READY: Duration = Duration::from_secs(30);

/// A worker's process that is being prepared.
pub struct WorkerSetup<'n> {
    directory: PathBuf,
    index: usize,
    hold: Option<Phase>,
    passes: u64,
    slowness: Duration,
    is_proxied: bool,
    must_be_armed: bool,
    touch: Option<Touch>,
    inside: Option<(&'n Network, usize)>,
}

impl<'n> WorkerSetup<'n> {
    /// A worker that is never held; its files lie in `directory`, and `index` tells it from others there.
    pub fn new(directory: &Path, index: usize) -> Self {
        let directory = directory.to_owned();
        let (hold, passes, slowness) = (None, 0, Duration::ZERO);
        let (is_proxied, must_be_armed, touch, inside) = (false, false, None, None);
        Self { directory, index, hold, passes, slowness, is_proxied, must_be_armed, touch, inside }
    }

    /// Has it stand still in `phase` until it is released: before it makes the job, maps a split, encodes a value for a
    /// peer, decodes one of a peer, or encodes one of the result.
    pub fn hold(mut self, phase: Phase) -> Self {
        self.hold = Some(phase);
        self
    }

    /// Lets it pass so often before it stands still: in the map phase, so many splits.
    pub fn after(mut self, passes: u64) -> Self {
        self.passes = passes;
        self
    }

    /// Has it pass by until [`WorkerProcess::arm`]; only then it stands still.
    pub fn armed_later(mut self) -> Self {
        self.must_be_armed = true;
        self
    }

    /// Has the job panic there.
    pub fn touchy(mut self, touch: Touch) -> Self {
        self.touch = Some(touch);
        self
    }

    /// Has it map no faster than a MiB in this time, on each thread.
    pub fn slow(mut self, per_mib: Duration) -> Self {
        self.slowness = per_mib;
        self
    }

    /// Puts a proxy before it, through which the client and its peers reach it.
    pub fn proxied(mut self) -> Self {
        self.is_proxied = true;
        self
    }

    /// Has it run on a host of `network`, and its proxy with it.
    pub fn inside(mut self, network: &'n Network, host: usize) -> Self {
        self.inside = Some((network, host));
        self
    }

    /// Starts it, and waits until it listens.
    pub fn start(self) -> WorkerProcess {
        let file = |what: &str| self.directory.join(format!("{what}-{}", self.index));
        let program = std::env::current_exe().expect("own path");
        let ip = self.inside.map_or(Ipv4Addr::LOCALHOST, |(network, host)| network.address(host));
        let mut command =
            self.inside.map_or_else(|| Command::new(&program), |(at, host)| at.command(host, &program));
        command.args(["--exact", "harness::workers::worker_process", "--nocapture"]);
        command.env("MAPREDUCE_TEST_CHILD", "1").env("HELD_ADDRESS", file("address"));
        command.env("HELD_IP", ip.to_string()).env(held::SLOWNESS, self.slowness.as_nanos().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(phase) = self.hold {
            command.env(held::PHASE, phase.to_string()).env(held::PASSES, self.passes.to_string());
            command.env(held::FILE, file("held")).env(held::RELEASE, file("release"));
        }
        if self.must_be_armed {
            command.env(held::ARM, file("arm"));
        }
        if let Some(touch) = self.touch {
            command.env(held::TOUCHY, format!("{touch:?}"));
        }
        let child = command.spawn().expect("the test binary can be run again");
        await_file(&file("address"));
        let address = fs::read_to_string(file("address")).expect("it was written");
        let own_address = address.parse().expect("an address");
        let proxy = self.is_proxied.then(|| match self.inside {
            Some((network, host)) => network.enter(host, || Proxy::at(IpAddr::V4(ip), own_address)),
            None => Proxy::before(own_address),
        });
        let address = proxy.as_ref().map_or(own_address, Proxy::address);
        let [held, release, arm] = ["held", "release", "arm"].map(file);
        WorkerProcess { child, address, own_address, proxy, held, release, arm }
    }
}

/// A worker's process; killed when dropped.
pub struct WorkerProcess {
    pub child: Child,
    /// What `--workers` is given: the proxy's if there is one.
    pub address: SocketAddr,
    /// Where it listens itself.
    pub own_address: SocketAddr,
    /// The file that it makes when it stands still.
    pub held: PathBuf,
    release: PathBuf,
    arm: PathBuf,
    proxy: Option<Proxy>,
}

impl WorkerProcess {
    /// Starts a worker on loopback that is held in `hold`, if it is.
    pub fn start(directory: &Path, index: usize, hold: Option<Phase>) -> Self {
        let setup = WorkerSetup::new(directory, index);
        hold.into_iter().fold(setup, WorkerSetup::hold).start()
    }

    /// How many jobs run on it, as it says itself; only of a worker that this process can reach.
    pub fn running_jobs(&self) -> usize {
        net::ask_status(self.own_address, &Wire::by_hand(), "", PATIENCE).expect("the worker lives").jobs
    }

    /// The proxy before it.
    ///
    /// # Panics
    /// If it was started without.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the worker was started behind a proxy")
    }

    /// Waits until it stands still.
    #[track_caller]
    pub fn await_held(&self) {
        await_file(&self.held);
    }

    /// Lets it go on, from now on everywhere.
    pub fn release(&self) {
        fs::write(&self.release, b"").expect("the test's directory is writable");
    }

    /// Has it stand still the next time it comes where it is held.
    pub fn arm(&self) {
        fs::write(&self.arm, b"").expect("the test's directory is writable");
    }

    /// Ends it as the kernel does where memory runs out.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it: its connections stay open, and nothing answers.
    pub fn freeze(&self) {
        signal(self.child.id(), Signal::STOP);
    }

    /// Ends what [`WorkerProcess::freeze`] did.
    pub fn thaw(&self) {
        signal(self.child.id(), Signal::CONT);
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `path` exists.
#[track_caller]
pub fn await_file(path: &Path) {
    wait_until(READY, &format!("{} to appear", path.display()), || path.exists());
}

/// A text of some hundred splits and words.
pub fn text() -> Vec<u8> {
    (0..40_000).flat_map(|n| format!("the word{} of {}\n", n % 977, n % 7).into_bytes()).collect()
}

/// Counts the words of `input` on `workers`.
///
/// # Errors
/// As [`run`].
pub fn run_over(workers: &[WorkerProcess], input: &Path, output: &Path) -> Result<(), CommandError> {
    let options = run_options(workers, input, output);
    run::<HeldCount>(&options, HeldParams::default(), &Console { quiet: true, verbose: false, fancy: false })
}

/// What `--workers` takes, each for itself.
pub fn addresses(workers: &[WorkerProcess]) -> Vec<String> {
    workers.iter().map(|worker| worker.address.to_string()).collect()
}

/// What `run` is told to count the words of `input` on `workers`; without backups, so that one that is held is waited
/// for.
pub fn run_options(workers: &[WorkerProcess], input: &Path, output: &Path) -> RunOptions {
    RunOptions {
        inputs: vec![input.to_owned()],
        files_from: None,
        skip_bad_input: false,
        hosts: "no-such-hosts.toml".into(),
        workers: Workers::Named(addresses(workers)),
        servers: None,
        top: None,
        destination: Destination::File(output.to_owned()),
        format: Format::Tsv,
        split_size: Some(10_000),
        report: None,
        threads: None,
        worker_timeout: PATIENCE,
        compress: Compress::Auto,
        backups: false,
        identity: None,
        plaintext: true,
        via_ssh: false,
        ssh_rate: None,
        new_host_keys: Default::default(),
    }
}

/// Not a test: what a worker's process runs.
#[test]
fn worker_process() {
    if !is_child() {
        return;
    }
    // Nobody stops it: it is killed. If the test is, its end of the pipe goes with it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let ip = std::env::var("HELD_IP").expect("the test says where");
    let ip: IpAddr = ip.parse().expect("the test gives an address");
    let listener = TcpListener::bind((ip, 0)).expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    let options = WorkerOptions {
        name: address.to_string(),
        cluster: String::new(),
        threads: 2,
        memory: u64::MAX,
        idle_timeout: None,
        resident_bytes: || 0,
    };
    let file = PathBuf::from(std::env::var_os("HELD_ADDRESS").expect("the test says where"));
    fs::write(file.with_extension("new"), address.to_string()).expect("the test's directory is writable");
    fs::rename(file.with_extension("new"), file).expect("the test's directory is writable");
    let (_stop, stopped) = bounded(1);
    net::serve::<HeldCount>(listener, Wire::by_hand(), options, stopped, Box::new(|line| println!("{line}")))
        .expect("threads can be started");
}
