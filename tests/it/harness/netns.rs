//! Netns: hosts in network namespaces of the test's own, whose links go down and have rates, as those of machines do.
//!
//! Each host has an interface, one end of a cable (a veth pair) whose other end is a port of a switch (a bridge) in a
//! namespace of its own. Nothing of it is seen, and no address of it exists, in the machine's own namespace. It needs
//! root; who is not is told so, loudly, on standard error.
//!
//! Names bear the process that made them, and when that began: what a test run that was killed left behind, later ones
//! remove.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, thread};

use rustix::fd::AsFd;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{processes, tool};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// What the names of all our namespaces begin with.
const PREFIX: &str = "mr-test-";

/// The capabilities that making networks takes, by their bits: CAP_NET_ADMIN and CAP_SYS_ADMIN.
const CAPABILITIES: u64 = 1 << 12 | 1 << 21;

/// The bytes that a limited rate lets through at once: those of a fiftieth of a second, but some packets always.
const BURSTS_PER_SECOND: u64 = 50;
const MIN_BURST_BYTES: u64 = 16 << 10;

/// `ip netns` makes its directory a mount of its own the first time, which two at a time cannot do.
static SETTING_UP: Mutex<()> = Mutex::new(());

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Hosts that reach each other, and nobody else. It goes with this value, with all processes that are in it.
pub struct Network {
    name: String,
    hosts: usize,
}

impl Network {
    /// Starts a network of `hosts` hosts; `None` for a user who may not, who is told.
    pub fn start(hosts: usize) -> Option<Network> {
        if !may_make_networks() {
            let test = thread::current().name().unwrap_or("a test").to_owned();
            // Not by a macro: the test runner would keep it to itself.
            let _ = writeln!(
                std::io::stderr(),
                "\n*** NOT RUN: {test}: needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) for network namespaces ***"
            );
            return None;
        }
        assert!(hosts < 250, "a network of {hosts} hosts");
        require_tools();
        let _alone = SETTING_UP.lock();
        remove_leftovers();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let began = began(std::process::id()).expect("this process is there");
        let network = Network { name: format!("{PREFIX}{}-{began}-{number}", std::process::id()), hosts };
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "switch", "up"]);
        (0..hosts).for_each(|host| network.add_host(host));
        Some(network)
    }

    /// The address of a host, which exists in the network only.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        assert!(host < self.hosts, "host {host} of {}", self.hosts);
        Ipv4Addr::new(10, 99, 0, host as u8 + 1)
    }

    /// A command that runs `program` on a host; its process is the program's own.
    pub fn command(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(host)]).arg(program);
        command
    }

    /// Calls `body` on a host: in a thread whose sockets, and those of threads that it starts, are there.
    pub fn enter<T: Send>(&self, host: usize, body: impl FnOnce() -> T + Send) -> T {
        let path = Path::new(NAMES).join(self.host(host));
        let inside = || {
            let namespace = File::open(&path).expect("the host's namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter it");
            body()
        };
        let name = thread::current().name().unwrap_or("test").to_owned();
        let entered = thread::scope(|scope| {
            thread::Builder::new().name(name).spawn_scoped(scope, inside).expect("a thread").join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Pulls a host's cable: it is not told of anything but that.
    pub fn link_down(&self, host: usize) {
        self.switch_port(host, "down");
    }

    /// Plugs it in again.
    pub fn link_up(&self, host: usize) {
        self.switch_port(host, "up");
    }

    /// Limits the rate of a host's link, in each direction.
    pub fn set_rate(&self, host: usize, bits_per_s: u64) {
        let burst = (bits_per_s / 8 / BURSTS_PER_SECOND).max(MIN_BURST_BYTES);
        for (namespace, interface) in self.link_ends(host) {
            tool(
                Command::new("tc")
                    .args(["-n", &namespace, "qdisc", "replace", "dev", &interface, "root"])
                    .args([
                        "tbf",
                        "rate",
                        &format!("{bits_per_s}bit"),
                        "burst",
                        &format!("{burst}b"),
                        "latency",
                        "50ms",
                    ]),
            );
        }
    }

    /// Ends what [`Network::set_rate`] did.
    pub fn clear_rate(&self, host: usize) {
        for (namespace, interface) in self.link_ends(host) {
            tool(Command::new("tc").args(["-n", &namespace, "qdisc", "del", "dev", &interface, "root"]));
        }
    }

    /// Has a host drop the connections of others to its ports, as a firewall does, without a word: each of `blocked` is
    /// a host, and the first and the last port that it does not reach. To be called once for a host.
    pub fn firewall(&self, host: usize, blocked: &[(usize, u16, u16)]) {
        let name = self.host(host);
        // What is to be dropped is looked at before what is local.
        let local = blocked.len().to_string();
        ip(&["-n", &name, "rule", "add", "pref", &local, "lookup", "local"]);
        ip(&["-n", &name, "rule", "del", "pref", "0"]);
        for (number, (from, first, last)) in blocked.iter().enumerate() {
            let (pref, from, ports) = (number.to_string(), self.address(*from), format!("{first}-{last}"));
            let what = ["from", &from.to_string(), "ipproto", "tcp", "dport", &ports, "blackhole"];
            ip(&[&["-n", &name, "rule", "add", "pref", &pref][..], &what].concat());
        }
    }

    fn add_host(&self, host: usize) {
        let (name, switch, port) = (self.host(host), self.switch(), port(host));
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let pair = ["link", "add", &port, "netns", &switch, "type", "veth"];
        ip(&[&pair[..], &["peer", "name", "eth0", "netns", &name]].concat());
        ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"]);
        ip(&["-n", &name, "address", "add", &format!("{}/24", self.address(host)), "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
    }

    fn switch_port(&self, host: usize, state: &str) {
        assert!(host < self.hosts, "host {host} of {}", self.hosts);
        ip(&["-n", &self.switch(), "link", "set", &port(host), state]);
    }

    /// Both ends of a host's cable: what each sends is what the other gets.
    fn link_ends(&self, host: usize) -> [(String, String); 2] {
        [(self.host(host), "eth0".to_owned()), (self.switch(), port(host))]
    }

    fn host(&self, host: usize) -> String {
        assert!(host < self.hosts, "host {host} of {}", self.hosts);
        format!("{}-h{host}", self.name)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let ours = format!("{}-", self.name);
        namespaces().iter().filter(|name| name.starts_with(&ours)).for_each(|name| remove(name));
    }
}

/// Tells whether this process may make namespaces and interfaces.
fn may_make_networks() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    rustix::process::geteuid().is_root() && effective.is_some_and(|bits| bits & CAPABILITIES == CAPABILITIES)
}

fn require_tools() {
    for name in ["ip", "tc"] {
        let there = Command::new(name).arg("-V").output().is_ok();
        assert!(there, "{name} is not installed; tests as root need it: apt install iproute2");
    }
}

fn port(host: usize) -> String {
    format!("port{host}")
}

/// Removes the networks of test runs that are no more.
fn remove_leftovers() {
    for name in namespaces().iter().filter(|name| is_leftover(name)) {
        remove(name);
    }
}

/// Tells whether a namespace is of a test run that is no more: a process of another start is another process.
fn is_leftover(name: &str) -> bool {
    let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    let since = parts.next().and_then(|began| began.parse::<u64>().ok());
    pid.zip(since).is_some_and(|(pid, since)| began(pid) != Some(since))
}

/// When a process began, in ticks since the machine did; `None` if there is none.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces; this is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn namespaces() -> Vec<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes one of our namespaces, and ends what still runs in it. What fails is told and passed over, for this is done
/// while a test panics, too.
fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != std::process::id()) {
        processes::signal(pid, Signal::KILL);
    }
    let deleted = Command::new("ip").args(["netns", "del", name]).output();
    match deleted {
        Ok(output) if output.status.success() => {}
        other => eprintln!("the network namespace {name} is left behind: {other:?}"),
    }
}

fn ip(args: &[&str]) {
    tool(Command::new("ip").args(args));
}
