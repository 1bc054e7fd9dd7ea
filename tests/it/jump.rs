//! Jump: the whole program through jump hosts, which see no more of it than SSH.

use std::fs;
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;

use crate::deploy::{Deployed, assert_says};
use crate::harness::{Lab, LabOptions, with_deadline};
use crate::reference;

const LIMIT: Duration = Duration::from_secs(120);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

/// Logins that the host `index` has let in.
fn logins(lab: &Lab, index: usize) -> usize {
    lab.hosts[index].log().matches("Accepted publickey").count()
}

/// Goes from a range of names to nothing left, with three workers behind the first `jumps` hosts of a lab.
fn cycle_behind(jumps: usize, lines: &str) {
    let lab = Lab::with(LabOptions {
        hosts: jumps + 3,
        ssh_config: vec![lines.into()],
        // What sshd allows by default.
        sshd_config: vec!["MaxStartups 10:30:100".into()],
        ..LabOptions::default()
    });
    fs::write(lab.client_dir().join("book.txt"), BOOK).unwrap();
    let range = format!("tp-test-[{:02}-{:02}]", jumps + 1, jumps + 3);
    lab.mapreduce(&["discover", "3", "--range", &range, "--suffix", "", "--timeout", "15s"]).expect_code(0);
    assert_says(&lab.deploy(&[]).expect_code(0), &["3 of 3 hosts are ready"]);
    for (worker, host) in lab.cluster().workers.iter().zip(&lab.hosts[jumps..]) {
        assert_eq!((&worker.host.0, worker.address.ip()), (&host.alias, host.address));
    }
    assert_eq!(lab.worker_processes().len(), 3);
    let counted = lab.mapreduce(&["run", "book.txt", "--split-size", "10KiB"]).expect_code(0);
    assert!(
        counted.stdout_bytes == reference::word_count(&[BOOK], Tokens::Word, false),
        "{}",
        counted.stderr
    );
    let status = lab.mapreduce(&["status"]).expect_code(0);
    assert_eq!(status.stdout.matches(" up ").count(), 3, "{}", status.stdout);
    assert_says(&lab.stop().expect_code(0), &["stopped 3 workers; 3 of 3 hosts clean"]);
    lab.assert_nothing_left();
    // Each session with a worker's host went through all the jump hosts.
    let behind: usize = (jumps..jumps + 3).map(|index| logins(&lab, index)).sum();
    assert!(behind >= 9, "discover, deploy and stop log in to three hosts: {behind}");
    for jump in 0..jumps {
        assert_eq!(logins(&lab, jump), behind, "{}", lab.hosts[jump].alias);
    }
    assert_eq!(fs::read_to_string(lab.known_hosts()).unwrap().lines().count(), jumps + 3);
}

#[test]
fn program_works_behind_one_jump_host() {
    with_deadline(LIMIT, || cycle_behind(1, "Host tp-test-* !tp-test-01\n  ProxyJump tp-test-01"));
}

#[test]
fn program_works_behind_two_jump_hosts() {
    with_deadline(LIMIT, || {
        cycle_behind(2, "Host tp-test-* !tp-test-01 !tp-test-02\n  ProxyJump tp-test-01,tp-test-02");
    });
}

#[test]
fn worker_killed_behind_a_jump_host_and_its_files_are_cleaned() {
    with_deadline(LIMIT, || {
        let ssh_config = vec!["Host tp-test-* !tp-test-01\n  ProxyJump tp-test-01".into()];
        let mut lab = Lab::with(LabOptions { hosts: 2, ssh_config, ..LabOptions::default() });
        fs::write(lab.client_dir().join("hosts.toml"), "[[host]]\nname = \"tp-test-02\"\n").unwrap();
        lab.deploy(&[]).expect_code(0);
        // A record of what could not be stopped names no workers.
        let worker = lab.cluster().workers[0].pid;
        // Without the jump host nothing is reached, and nothing forgotten.
        lab.hosts[0].stop();
        let failed = lab.stop().expect_code(1);
        assert_says(&failed, &["tp-test-02: could not connect", "jump host tp-test-01: could not connect"]);
        lab.hosts[0].start();
        lab.hosts[0].await_ready();
        crate::harness::processes::signal(worker, rustix::process::Signal::KILL);
        assert_says(&lab.stop().expect_code(0), &["1 of 1 host clean"]);
        lab.assert_nothing_left();
    });
}
