//! Harness: a lab of real `sshd` processes on loopback addresses, and the real binary run against it.
//!
//! Every host of a [`Lab`] logs in as the user who runs the tests, but has its own address, port, host key, home and
//! `TMPDIR`. All a lab makes lies in one temporary directory, whose path marks its processes: when the lab is dropped,
//! none of them may be left.

#![allow(dead_code)] // Each test uses a part.

pub mod clients;
pub mod deadline;
pub mod guest;
pub mod held;
pub mod netns;
pub mod processes;
pub mod program;
pub mod proxy;
pub mod recorder;
pub mod served;
pub mod sshd;
pub mod terminal;
pub mod web;
pub mod workers;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mapreduce::edge::failure::HostName;
use mapreduce::edge::ssh::{NewHostKeys, SshOptions, Target};
use tempfile::TempDir;

pub use deadline::with_deadline;
pub use program::Finished;
pub use sshd::LabHost;

/// Environment variable that marks every process of a lab with the lab's directory.
pub const MARKER: &str = "MAPREDUCE_LAB";

/// How long processes that are about to end may take to do so.
const GRACE: Duration = Duration::from_secs(8);

/// The last octets of loopback addresses that were given out, so that parallel tests use different ones.
static ADDRESSES: AtomicU32 = AtomicU32::new(0);

/// What a lab is made of.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    pub hosts: usize,
    /// All hosts see one home directory, as with NFS.
    pub shared_home: bool,
    /// Hosts (by index) whose sshd is not started: their port is closed.
    pub down: Vec<usize>,
    /// Hosts (by index) that do not know the client's key.
    pub wrong_key: Vec<usize>,
    /// Lines for each `sshd_config`, after the harness's own (sshd takes the first value of an option).
    pub sshd_config: Vec<String>,
    /// Hosts offer password login, too; nobody knows the password.
    pub passwords: bool,
    /// What the remote shell runs before each command.
    pub before_command: Option<String>,
    /// Lines for the front of the client's SSH configuration, before the hosts.
    pub ssh_config: Vec<String>,
}

/// Hosts that can be logged in to, and a client that may.
pub struct Lab {
    root: PathBuf,
    _dir: TempDir,
    pub hosts: Vec<LabHost>,
}

impl Lab {
    /// Starts a lab of `n` ordinary hosts.
    pub fn start(n: usize) -> Lab {
        Lab::with(LabOptions { hosts: n, ..LabOptions::default() })
    }

    /// Starts a lab.
    pub fn with(options: LabOptions) -> Lab {
        let mut lab = Lab::of_nobody();
        for index in 0..options.hosts {
            let host = LabHost::prepare(&lab.root, index, next_address(), &options);
            lab.hosts.push(host);
        }
        lab.write_ssh_config(&options);
        for (index, host) in lab.hosts.iter_mut().enumerate() {
            if !options.down.contains(&index) {
                host.start();
            }
        }
        for host in &mut lab.hosts {
            host.await_ready();
        }
        lab
    }

    /// Starts a lab whose hosts are those of `network`, from host 1 on; the client is to run on host 0.
    pub fn inside(network: &netns::Network, options: &LabOptions) -> Lab {
        let mut lab = Lab::of_nobody();
        let root = lab.root.clone();
        let start = |index: usize| {
            let address = IpAddr::V4(network.address(index + 1));
            network.enter(index + 1, || {
                let mut host = LabHost::prepare(&root, index, address, options);
                host.start();
                host.await_ready();
                host
            })
        };
        lab.hosts.extend((0..options.hosts).map(start));
        lab.write_ssh_config(options);
        lab
    }

    /// Makes what a client needs that may log in.
    fn of_nobody() -> Lab {
        sshd::require_tools();
        let dir = tempfile::Builder::new().prefix("mr-lab-").tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("the temporary directory's path");
        deadline::register(&root);
        let lab = Lab { root, _dir: dir, hosts: Vec::new() };
        fs::create_dir_all(lab.client_dir().join("home")).expect("the client's directory");
        sshd::make_key(&lab.client_key(), "ed25519", "");
        sshd::make_key(&lab.client_dir().join("id_stranger"), "ed25519", "");
        lab
    }

    /// The directory that everything of the lab lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The client's directory: key, configuration, known hosts, home.
    pub fn client_dir(&self) -> PathBuf {
        self.root.join("client")
    }

    pub fn client_key(&self) -> PathBuf {
        self.client_dir().join("id_lab")
    }

    pub fn ssh_config(&self) -> PathBuf {
        self.client_dir().join("ssh_config")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.client_dir().join("known_hosts")
    }

    /// The names under which the client's configuration knows the hosts, in order.
    pub fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.alias.clone()).collect()
    }

    /// What the library needs to log in to a host of the lab.
    pub fn options(&self, timeout: Duration) -> SshOptions {
        SshOptions {
            timeout,
            config: Some(self.ssh_config()),
            known_hosts: Some(self.known_hosts()),
            new_host_keys: NewHostKeys::Accept,
        }
    }

    pub fn target(&self, index: usize) -> Target {
        Target { host: HostName(self.hosts[index].alias.clone()), user: None, port: None, key: None }
    }

    /// Runs the program with `args` in the client's directory; see [`program::Invocation`] for more control.
    pub fn mapreduce(&self, args: &[&str]) -> Finished {
        self.invocation(args).run()
    }

    /// A run of the program with the lab's environment, to be refined and then run.
    pub fn invocation(&self, args: &[&str]) -> program::Invocation {
        program::Invocation::new(args)
            .current_dir(&self.client_dir())
            .env(MARKER, &self.root)
            .env("HOME", self.client_dir().join("home"))
            .env("MAPREDUCE_SSH_CONFIG", self.ssh_config())
            .env("MAPREDUCE_KNOWN_HOSTS", self.known_hosts())
    }

    /// Processes of the lab other than its sshds and their sessions, such as workers: pid and command line.
    pub fn worker_processes(&self) -> Vec<(u32, String)> {
        processes::marked(&self.root)
            .into_iter()
            .filter(|process| !process.is_sshd())
            .map(|process| (process.pid, process.command_line))
            .collect()
    }

    fn write_ssh_config(&self, options: &LabOptions) {
        let user = sshd::user_name();
        let key = self.client_key();
        let mut text = options.ssh_config.join("\n") + "\n";
        for host in &self.hosts {
            text += &format!(
                "Host {alias} {alias}.enst.fr\n  HostName {address}\n  Port {port}\n",
                alias = host.alias,
                address = host.address,
                port = host.port,
            );
        }
        text += &format!(
            "Host *\n  User {user}\n  IdentityFile {key}\n  IdentitiesOnly yes\n  IdentityAgent none\n",
            key = key.display(),
        );
        fs::write(self.ssh_config(), text).expect("the client's SSH configuration");
    }

    fn print_logs(&self) {
        for host in &self.hosts {
            eprintln!("--- {} ({}:{}): sshd\n{}", host.alias, host.address, host.port, host.log());
        }
        for file in log_files(&self.root) {
            let text = fs::read(&file).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(8 * 1024)..];
            eprintln!("--- {}\n{}", file.display(), String::from_utf8_lossy(tail));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for host in &mut self.hosts {
            host.stop();
        }
        let left = processes::await_none(&self.root, GRACE);
        processes::kill_all(&self.root);
        deadline::unregister(&self.root);
        if !left.is_empty() && !std::thread::panicking() {
            self.print_logs();
            panic!("processes were left behind by the test (they are killed now): {left:#?}");
        }
    }
}

/// Waits until `is_so`, which is looked at often, for `limit` at most.
///
/// # Panics
/// With `what` if it is not so by then.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The names of what is in `dir`, sorted.
pub fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string());
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).expect("a readable entry").expect("a name in UTF-8")).collect();
    names.sort();
    names
}

/// Runs this test binary again with only the test `name`, in an environment of its own and without a terminal.
///
/// The test tells by the variable `MAPREDUCE_TEST_CHILD` that it is the child.
pub fn run_as_child(name: &str, env: &[(&str, &str)], deadline: Duration) -> Finished {
    let mut invocation = program::Invocation::of(
        &std::env::current_exe().expect("own path"),
        &["--exact", name, "--nocapture"],
    );
    invocation = invocation.env("MAPREDUCE_TEST_CHILD", "1").deadline(deadline);
    for (key, value) in env {
        invocation = invocation.env(key, value);
    }
    invocation.run()
}

/// Tells whether this process was started by [`run_as_child`].
pub fn is_child() -> bool {
    std::env::var_os("MAPREDUCE_TEST_CHILD").is_some()
}

fn next_address() -> IpAddr {
    // 127.0.0.1 stays free for what is not a host of a lab.
    let n = ADDRESSES.fetch_add(1, Ordering::Relaxed) % (254 * 200);
    let octets = [127, 0, (n / 253) as u8, (n % 253 + 2) as u8];
    IpAddr::V4(Ipv4Addr::from(octets))
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(log_files(&path));
        } else if kind.is_file() && path.to_string_lossy().ends_with("log") && !path.ends_with("sshd.log") {
            found.push(path);
        }
    }
    found
}

/// Runs a tool that the harness needs, and returns what it printed.
pub fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("could not run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
