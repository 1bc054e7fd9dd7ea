//! Tests of the networks themselves: that hosts reach each other, that faults are felt, and that nothing is left.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mapreduce::edge::net::{self, Wire};

use super::{Network, PREFIX, SETTING_UP, namespaces, remove_leftovers};
use crate::harness::workers::WorkerSetup;
use crate::harness::{tool, wait_until, with_deadline};

const LIMIT: Duration = Duration::from_secs(60);

/// How long to wait for what will not come.
const SILENCE: Duration = Duration::from_millis(400);

fn within(hosts: usize, body: impl FnOnce(Network) + Send + 'static) {
    with_deadline(LIMIT, move || _ = Network::start(hosts).map(body));
}

/// A connection between two hosts: the end on host `from`, and that on host `to`.
fn connect(network: &Network, from: usize, to: usize) -> (TcpStream, TcpStream) {
    let address = (network.address(to), 0);
    let listener = network.enter(to, || TcpListener::bind(address)).expect("the host has its address");
    let address = listener.local_addr().expect("it is bound");
    let near = network.enter(from, || TcpStream::connect_timeout(&address, LIMIT)).expect("it is reached");
    (near, listener.accept().expect("it came").0)
}

/// Asks the worker in another process on another host how it is, as quickly as it is worth to wait.
fn reaches(network: &Network, from: usize, worker: SocketAddr) -> bool {
    network.enter(from, || net::ask_status(worker, &Wire::by_hand(), "", SILENCE)).is_ok()
}

#[test]
fn hosts_reach_each_other_while_their_links_are_up() {
    within(3, |network| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let worker = |host| WorkerSetup::new(directory.path(), host).inside(&network, host).start();
        let workers = [worker(0), worker(1)];
        let asked = |from, to: usize| reaches(&network, from, workers[to].own_address);
        assert!(asked(1, 0) && asked(0, 1) && asked(2, 0));
        network.link_down(0);
        assert!(!asked(1, 0), "reached through a link that is down");
        assert!(asked(2, 1), "the others are not concerned");
        network.link_up(0);
        wait_until(LIMIT, "the link to be up", || asked(1, 0));
    });
}

/// A link that is down is silent: connections stay, and go on when it is up.
#[test]
fn connections_outlive_a_link_that_is_down() {
    within(2, |network| {
        let (mut near, mut far) = connect(&network, 0, 1);
        network.link_down(1);
        near.write_all(b"late").expect("the kernel takes it");
        far.set_read_timeout(Some(SILENCE)).expect("a time-out");
        let read = far.read(&mut [0; 4]);
        assert!(matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock), "{read:?}");
        network.link_up(1);
        far.set_read_timeout(Some(LIMIT)).expect("a time-out");
        far.read_exact(&mut [0; 4]).expect("it is sent again");
    });
}

#[test]
fn rate_is_kept_in_each_direction() {
    within(2, |network| {
        let (mut near, mut far) = connect(&network, 0, 1);
        let mut move_mb = |mb: usize, to_far: bool| {
            let (from, to) = if to_far { (&mut near, &mut far) } else { (&mut far, &mut near) };
            let (bytes, mut got) = (vec![7; mb * 1_000_000], vec![0; mb * 1_000_000]);
            let began = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&bytes).expect("it is taken"));
                to.read_exact(&mut got).expect("it arrives");
            });
            began.elapsed()
        };
        let freely = move_mb(1, true).max(move_mb(1, false));
        network.set_rate(1, 8_000_000);
        for to_far in [true, false] {
            let took = move_mb(1, to_far);
            assert!(took > Duration::from_millis(700), "1 MB at 1 MB/s in {took:?}");
            assert!(took < Duration::from_secs(10), "1 MB at 1 MB/s in {took:?}");
            assert!(took > freely * 2, "{took:?}, and {freely:?} without a limit");
        }
        // How soon TCP finds out that there is no limit any more is its own affair.
        network.clear_rate(1);
        for (namespace, _) in network.link_ends(1) {
            let left = tool(Command::new("tc").args(["-n", &namespace, "qdisc", "show"]));
            assert!(!left.contains("tbf"), "{left}");
        }
    });
}

#[test]
fn nothing_of_it_is_seen_outside() {
    within(2, |network| {
        assert!(!Path::new("/sys/class/net/port0").exists());
        let addresses = std::fs::read_to_string("/proc/net/fib_trie").expect("the machine's routes");
        let address = network.address(0).to_string();
        assert!(!addresses.contains(&address), "{addresses}");
        // The check itself: inside, it is seen.
        let mut command = network.command(0, Path::new("cat"));
        assert!(tool(command.arg("/proc/net/fib_trie")).contains(&address));
    });
}

#[test]
fn a_panic_leaves_nothing() {
    with_deadline(LIMIT, || {
        let Some(network) = Network::start(2) else { return };
        let name = network.name.clone();
        let is_ours = |other: &String| other.starts_with(&format!("{name}-"));
        assert_eq!(namespaces().iter().filter(|name| is_ours(name)).count(), 3);
        let mut sleeper = network.command(1, Path::new("sleep")).arg("1000").spawn().expect("it is started");
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _network = network;
            panic!("a test fails");
        }));
        assert!(panicked.is_err());
        assert_eq!(namespaces().iter().filter(|name| is_ours(name)).count(), 0);
        // It would have slept beyond the deadline.
        assert!(!sleeper.wait().expect("it is ours").success());
    });
}

#[test]
fn leftovers_of_runs_that_are_no_more_are_removed() {
    within(0, |network| {
        // Networks that other tests start would remove it, too.
        let _alone = SETTING_UP.lock();
        // A process of this number is there, but it began at another time.
        let leftover = format!("{PREFIX}{}-1-0-h0", std::process::id());
        tool(Command::new("ip").args(["netns", "add", &leftover]));
        assert!(namespaces().contains(&leftover));
        remove_leftovers();
        assert!(!namespaces().contains(&leftover));
        assert!(namespaces().contains(&network.switch()), "a network that is in use was removed");
    });
}
