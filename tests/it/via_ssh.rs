//! Via SSH: workers whose ports the client does not reach are deployed to and used all the same.

use std::fs;
use std::io::Write;
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;

use crate::deploy::{Deployed, assert_says};
use crate::harness::netns::Network;
use crate::harness::program::{Invocation, Running};
use crate::harness::{Finished, Lab, LabOptions, processes, wait_until, with_deadline, workers};
use crate::reference;

const LIMIT: Duration = Duration::from_secs(180);

/// How long a worker may take to be told of a job.
const READY: Duration = Duration::from_secs(30);

/// Runs `invocation` on the client's host, or here.
fn on_client(network: Option<&Network>, invocation: Invocation) -> Running {
    match network {
        None => invocation.spawn(),
        Some(network) => network.enter(0, || invocation.spawn()),
    }
}

fn say(lab: &Lab, network: Option<&Network>, args: &[&str]) -> Finished {
    on_client(network, lab.invocation(args)).wait()
}

/// Logins that each host has let in.
fn logins(lab: &Lab) -> Vec<usize> {
    lab.hosts.iter().map(|host| host.log().matches("Accepted publickey").count()).collect()
}

/// Tells whether a worker of the lab has begun a job.
fn has_begun(lab: &Lab, worker: usize) -> bool {
    let log = fs::read_to_string(format!("{}/log", lab.cluster().workers[worker].worker_dir));
    log.unwrap_or_default().contains(" begins")
}

/// Runs a job through SSH that stands still in its map phase while `fault` is done, and is exact all the same. Returns
/// what the client said.
fn with_fault(
    lab: &mut Lab,
    network: Option<&Network>,
    more: &[&str],
    fault: impl FnOnce(&mut Lab),
) -> String {
    let text = workers::text();
    let (first, rest) = text.split_at(text.len() / 2 / 7 * 7);
    let args = [&["run", "-", "--split-size", "10KiB", "--worker-timeout", "4s"], more].concat();
    let invocation = lab.invocation(&args).open_stdin().deadline(LIMIT);
    let mut job = on_client(network, invocation);
    let mut stdin = job.stdin.take().expect("it was asked for");
    stdin.write_all(first).expect("the client reads");
    let workers = lab.cluster().workers.len();
    wait_until(READY, "the workers to begin the job", || (0..workers).all(|worker| has_begun(lab, worker)));
    fault(lab);
    stdin.write_all(rest).expect("the client reads");
    drop(stdin);
    let finished = job.wait().expect_code(0);
    let expected = reference::word_count(&[&text], Tokens::Word, false);
    assert!(finished.stdout_bytes == expected, "the result is not exact:\n{}", finished.stderr);
    finished.stderr
}

fn exact(lab: &Lab, network: Option<&Network>, more: &[&str]) -> String {
    let text = workers::text();
    fs::write(lab.client_dir().join("text"), &text).expect("it is writable");
    let args = [&["run", "text", "--split-size", "20KiB"], more].concat();
    let finished = say(lab, network, &args).expect_code(0);
    let expected = reference::word_count(&[&text], Tokens::Word, false);
    assert!(finished.stdout_bytes == expected, "the result is not exact:\n{}", finished.stderr);
    assert!(!finished.stderr.contains(" lost in "), "{}", finished.stderr);
    finished.stderr
}

/// Three hosts of which the client reaches the SSH port alone; and each of the others the workers' ports, but not SSH,
/// so that what goes from worker to worker goes straight there.
fn firewalled(network: &Network) -> Lab {
    let lab = Lab::inside(network, &LabOptions { hosts: 3, ..LabOptions::default() });
    for (index, host) in lab.hosts.iter().enumerate() {
        let ssh = host.port;
        let of_client = [(0, 1024, ssh - 1), (0, ssh + 1, 65_534)];
        let of_others = (1..=3).filter(|other| *other != index + 1).map(|other| (other, ssh, ssh));
        network.firewall(index + 1, &of_client.into_iter().chain(of_others).collect::<Vec<_>>());
    }
    lab.write_hosts("");
    lab
}

#[test]
fn workers_behind_a_firewall_are_reached_through_ssh() {
    with_deadline(LIMIT, || {
        let Some(network) = Network::start(4) else { return };
        let net = Some(&network);
        let mut lab = firewalled(&network);
        let deployed = say(&lab, net, &["deploy", "--timeout", "3s"]).expect_code(0);
        let note =
            "the ports of 3 workers cannot be reached from here: `run` and `status` go through SSH there";
        assert_says(&deployed, &["3 of 3 hosts are ready", note]);
        let worker = lab.cluster().workers[0].address;
        let direct = || std::net::TcpStream::connect_timeout(&worker, Duration::from_secs(1));
        assert!(network.enter(0, direct).is_err(), "the firewall lets the client through");
        network.enter(2, direct).expect("the firewall stops other workers");

        let status = say(&lab, net, &["status"]).expect_code(0);
        assert_eq!(status.stdout.matches(" up ").count(), 3, "{}", status.stdout);
        let before = logins(&lab);
        let said = exact(&lab, net, &[]);
        assert!(said.contains("reaching 3 workers through SSH"), "{said}");
        // One session a host, the client's: no worker goes through SSH to another.
        let after = logins(&lab);
        assert!(before.iter().zip(&after).all(|(before, after)| after - before == 1), "{before:?} {after:?}");

        let said = with_fault(&mut lab, net, &[], |lab| lab.hosts[1].stop());
        assert!(said.contains("tp-test-02 lost in"), "{said}");
        network.enter(2, || {
            lab.hosts[1].start();
            lab.hosts[1].await_ready();
        });
        exact(&lab, net, &[]);
        say(&lab, net, &["stop", "--timeout", "5s"]).expect_code(0);
        lab.assert_nothing_left();
    });
}

/// The control: where the workers do not reach each other, either, SSH does not help them to.
#[test]
fn workers_send_to_each_other_without_ssh() {
    with_deadline(LIMIT, || {
        let Some(network) = Network::start(3) else { return };
        let net = Some(&network);
        let lab = Lab::inside(&network, &LabOptions { hosts: 2, ..LabOptions::default() });
        let ssh = lab.hosts.iter().map(|host| host.port).collect::<Vec<_>>();
        network.firewall(1, &[(2, 1024, 65_534)]);
        network.firewall(2, &[(1, 1024, ssh[1] - 1), (1, ssh[1] + 1, 65_534)]);
        lab.write_hosts("");
        say(&lab, net, &["deploy", "--timeout", "3s"]).expect_code(0);
        fs::write(lab.client_dir().join("text"), workers::text()).expect("it is writable");
        let args = ["run", "text", "--via-ssh", "--worker-timeout", "2s"];
        let finished = say(&lab, net, &args).expect_code(0);
        assert!(finished.stderr.contains(" lost in shuffle"), "{}", finished.stderr);
        let expected = reference::word_count(&[&workers::text()], Tokens::Word, false);
        assert!(finished.stdout_bytes == expected, "{}", finished.stderr);
        say(&lab, net, &["stop", "--timeout", "5s"]).expect_code(0);
        lab.assert_nothing_left();
    });
}

fn deployed(hosts: usize) -> Lab {
    let lab = Lab::start(hosts);
    lab.write_hosts("");
    lab.deploy(&[]).expect_code(0);
    lab
}

#[test]
fn ssh_can_be_asked_for_where_it_is_not_needed() {
    with_deadline(LIMIT, || {
        let lab = deployed(3);
        let deployed = logins(&lab);
        assert!(!exact(&lab, None, &[]).contains("through SSH"));
        lab.mapreduce(&["status"]).expect_code(0);
        assert_eq!(logins(&lab), deployed);
        let said = exact(&lab, None, &["--via-ssh"]);
        assert!(said.contains("reaching 3 workers through SSH"), "{said}");
        let status = lab.mapreduce(&["status", "--via-ssh"]).expect_code(0);
        assert_eq!(status.stdout.matches(" up ").count(), 3, "{}", status.stdout);
        let expected: Vec<usize> = deployed.iter().map(|logins| logins + 2).collect();
        assert_eq!(logins(&lab), expected);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// Has the record say that SSH is the way to these workers.
fn put_behind_ssh(lab: &Lab, workers: &[usize]) {
    let file = lab.client_dir().join(".mapreduce/hosts.toml.json");
    let record = fs::read(&file).expect("it is deployed");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("it is JSON");
    for worker in workers {
        record["workers"][worker]["via_ssh"] = true.into();
    }
    fs::write(&file, record.to_string()).expect("it is writable");
}

/// Logins are spaced out on request; the other workers need none, and wait with their greeting, so that none of them
/// has been kept waiting for a job when the last login is made.
#[test]
fn logins_are_spaced_out_on_request() {
    with_deadline(LIMIT, || {
        let lab = deployed(3);
        put_behind_ssh(&lab, &[0, 2]);
        let before = logins(&lab);
        fs::write(lab.client_dir().join("text"), workers::text()).expect("it is writable");
        let done = lab.mapreduce(&["run", "text", "--ssh-rate", "1/7s"]).expect_code(0);
        assert!(done.elapsed >= Duration::from_secs(7), "{:?}", done.elapsed);
        let expected = reference::word_count(&[&workers::text()], Tokens::Word, false);
        assert!(done.stdout_bytes == expected, "{}", done.stderr);
        assert!(!done.stderr.contains("left out") && !done.stderr.contains(" lost in "), "{}", done.stderr);
        let done = lab.mapreduce(&["status", "--ssh-rate", "1/3s"]).expect_code(0);
        assert!(done.elapsed >= Duration::from_secs(3), "{:?}", done.elapsed);
        assert_eq!(done.stdout.matches(" up ").count(), 3, "{}", done.stdout);
        assert_eq!(logins(&lab), [before[0] + 2, before[1], before[2] + 2]);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn worker_that_dies_behind_ssh_is_lost_and_the_others_finish() {
    with_deadline(LIMIT, || {
        let mut lab = deployed(3);
        let said = with_fault(&mut lab, None, &["--via-ssh"], |lab| {
            processes::signal(lab.cluster().workers[1].pid, Signal::KILL);
        });
        assert!(said.contains("tp-test-02 lost in map"), "{said}");
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn session_that_ends_is_a_lost_worker_and_the_others_finish() {
    with_deadline(LIMIT, || {
        let mut lab = deployed(3);
        let said = with_fault(&mut lab, None, &["--via-ssh"], |lab| lab.hosts[0].stop());
        assert!(said.contains("tp-test-01 lost in map"), "{said}");
        lab.hosts[0].start();
        lab.hosts[0].await_ready();
        // The worker lived on, and is there for the next job.
        exact(&lab, None, &["--via-ssh"]);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// A host that is frozen keeps its connections open and says nothing.
#[test]
fn session_that_is_silent_is_a_lost_worker_and_the_others_finish() {
    with_deadline(LIMIT, || {
        let mut lab = deployed(3);
        let said = with_fault(&mut lab, None, &["--via-ssh"], |lab| lab.hosts[2].freeze());
        // In which phase, that is chance: backups may have ended the map phase before it is missed.
        assert!(said.contains("tp-test-03 lost in "), "{said}");
        lab.hosts[2].thaw();
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn workers_behind_a_jump_host_are_reached_through_it() {
    with_deadline(LIMIT, || {
        let ssh_config = vec!["Host tp-test-* !tp-test-01\n  ProxyJump tp-test-01".into()];
        let lab = Lab::with(LabOptions { hosts: 3, ssh_config, ..LabOptions::default() });
        let hosts = "[[host]]\nname = \"tp-test-02\"\n[[host]]\nname = \"tp-test-03\"\n";
        fs::write(lab.client_dir().join("hosts.toml"), hosts).expect("it is writable");
        lab.deploy(&[]).expect_code(0);
        let before = logins(&lab);
        exact(&lab, None, &["--via-ssh"]);
        let after = logins(&lab);
        assert_eq!(after, [before[0] + 2, before[1] + 1, before[2] + 1]);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}
