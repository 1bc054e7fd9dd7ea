//! Jump: hosts behind other hosts.

use std::fs;
use std::time::{Duration, Instant};

use mapreduce::edge::failure::Step;
use mapreduce::edge::ssh::Session;

use super::{LIMIT, connect, logged_in, report, said};
use crate::harness::{Lab, LabOptions, with_deadline};

fn lab_with_jumps(hosts: usize, lines: &str) -> Lab {
    Lab::with(LabOptions { hosts, ssh_config: vec![lines.into()], ..LabOptions::default() })
}

#[test]
fn host_behind_one_jump_host_is_reached() {
    with_deadline(LIMIT, || {
        let mut lab = lab_with_jumps(2, "Host tp-test-02\n  ProxyJump tp-test-01");
        let mut session = logged_in(&lab, 1);
        // As the host itself sees it; the address that was dialled is the jump host's.
        assert_eq!(session.host_address(), lab.hosts[1].address);
        assert_eq!(said(&mut session, "pwd").trim(), lab.hosts[1].home.display().to_string());
        let data = vec![5; 5 << 20];
        let output = session.run("cat", &data, Duration::from_secs(30)).unwrap();
        assert!(output.stdout == data);
        drop(session);
        assert_eq!(fs::read_to_string(lab.known_hosts()).unwrap().lines().count(), 2, "each key is recorded");
        // The key of the jump host is checked, too.
        lab.hosts[0].rekey();
        let failure = connect(&lab, 1).unwrap_err();
        assert_eq!((failure.step, failure.host.0.as_str()), (Step::HostKey, "tp-test-02"));
        assert!(report(&failure).contains("jump host tp-test-01: could not trust"), "{}", report(&failure));
    });
}

#[test]
fn host_behind_two_jump_hosts_is_reached() {
    with_deadline(LIMIT, || {
        let lab = lab_with_jumps(4, "Host tp-test-03\n  ProxyJump tp-test-01,tp-test-02");
        let mut session = logged_in(&lab, 2);
        assert_eq!(said(&mut session, "pwd").trim(), lab.hosts[2].home.display().to_string());
        // And by a chain of lines, each with one.
        let lab = lab_with_jumps(
            3,
            "Host tp-test-03\n  ProxyJump tp-test-02\nHost tp-test-02\n  ProxyJump tp-test-01",
        );
        let mut session = logged_in(&lab, 2);
        assert_eq!(said(&mut session, "pwd").trim(), lab.hosts[2].home.display().to_string());
        assert_eq!(session.host_address(), lab.hosts[2].address);
        assert!(lab.hosts[0].log().contains("Accepted publickey"));
    });
}

#[test]
fn host_that_is_down_behind_a_jump_host_is_a_failure_to_connect() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions {
            hosts: 3,
            down: vec![1],
            wrong_key: vec![2],
            ssh_config: vec!["Host tp-test-02 tp-test-03\n  ProxyJump tp-test-01".into()],
            ..LabOptions::default()
        });
        let failure = connect(&lab, 1).unwrap_err();
        assert_eq!(failure.step, Step::Connect, "{}", report(&failure));
        assert!(
            report(&failure).contains("jump host tp-test-01 does not reach 127."),
            "{}",
            report(&failure)
        );
        assert_eq!(connect(&lab, 2).unwrap_err().step, Step::Authenticate);
    });
}

#[test]
fn frozen_jump_host_costs_no_more_than_the_deadline() {
    with_deadline(LIMIT, || {
        let lab = lab_with_jumps(2, "Host tp-test-02\n  ProxyJump tp-test-01");
        let mut session = logged_in(&lab, 1);
        lab.hosts[0].freeze();
        let started = Instant::now();
        // More than all the buffers on the way hold.
        assert!(session.run("cat >/dev/null", &vec![0; 32 << 20], Duration::from_secs(2)).is_err());
        drop(session);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        lab.hosts[0].thaw();
    });
}

/// sshd with its usual limit drops connections at random once ten are not logged in. The hosts behind have it, too, so
/// each gets six.
#[test]
fn many_hosts_behind_one_jump_host_log_in_at_once() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions {
            hosts: 5,
            sshd_config: vec!["MaxStartups 10:30:100".into()],
            ssh_config: vec!["Host tp-test-* !tp-test-01\n  ProxyJump tp-test-01".into()],
            ..LabOptions::default()
        });
        let options = lab.options(Duration::from_secs(30));
        std::thread::scope(|scope| {
            for index in 0..24 {
                let (lab, options) = (&lab, &options);
                scope.spawn(move || {
                    let session = Session::connect(&lab.target(1 + index % 4), options);
                    assert!(session.is_ok(), "{}", report(&session.unwrap_err()));
                });
            }
        });
    });
}

#[test]
fn jump_host_that_does_not_forward_is_named_with_the_reason() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions {
            hosts: 2,
            sshd_config: vec!["AllowTcpForwarding no".into()],
            ssh_config: vec!["Host tp-test-02\n  ProxyJump tp-test-01".into()],
            ..LabOptions::default()
        });
        let failure = connect(&lab, 1).unwrap_err();
        assert_eq!(failure.step, Step::Connect);
        let said = report(&failure);
        assert!(
            said.contains("jump host tp-test-01 does not reach 127.") && said.contains("does not forward"),
            "{said}"
        );
        assert!(failure.advice().contains("AllowTcpForwarding"), "{}", failure.advice());
    });
}
