//! Hostile: hosts that are none, and hosts that want to harm whoever logs in.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use mapreduce::edge::failure::{HostFailure, HostName, Step};
use mapreduce::edge::ssh::{Session, Target};

use super::{LIMIT, TIMEOUT, connect, logged_in, report};
use crate::harness::{Lab, LabOptions, is_child, run_as_child, with_deadline};

/// The time-out in these tests.
const SHORT: Duration = Duration::from_secs(2);

/// What else may pass before a call returns, on a machine under load.
const SLACK: Duration = Duration::from_secs(8);

/// Memory that a process may come to hold, whatever hosts send.
const MAX_RESIDENT_KIB: u64 = 160 << 10;

/// Logs in to a host that greets with `greeting`, and then says `more` for as long as anybody listens.
fn log_in_to(greeting: &'static [u8], more: Vec<u8>) -> HostFailure {
    let lab = Lab::start(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(greeting).unwrap();
        let mut hears = stream.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut hears, &mut std::io::sink()));
        while stream.write_all(&more).is_ok() {}
    });
    let target = Target { host: HostName("127.0.0.1".into()), user: None, port: Some(port), key: None };
    let started = Instant::now();
    let failure = Session::connect(&target, &lab.options(SHORT)).unwrap_err();
    assert!(started.elapsed() < SHORT + SLACK, "{:?}: {}", started.elapsed(), report(&failure));
    host.join().unwrap();
    failure
}

/// A packet as it is before there are keys, often.
fn packets(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (5 + payload.len()) % 8 + 8;
    let mut packet = ((1 + payload.len() + padding) as u32).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet.repeat((1 << 20) / packet.len())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the most that was held");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// In a process of its own, for its memory is looked at.
fn in_child(name: &str, test: impl FnOnce() + Send + 'static) {
    if !is_child() {
        run_as_child(name, &[], LIMIT).expect_code(0);
        return;
    }
    with_deadline(LIMIT, test);
    assert!(resident_kib() < MAX_RESIDENT_KIB, "{} KiB", resident_kib());
}

#[test]
fn endless_greeting_ends_with_the_time_out() {
    in_child("ssh::hostile::endless_greeting_ends_with_the_time_out", || {
        for line in [&b"welcome\r\n"[..], b"\r\n", b"x"] {
            let failure = log_in_to(b"", line.repeat(1 << 16));
            assert_eq!(failure.step, Step::Handshake, "{}", report(&failure));
        }
    });
}

#[test]
fn endless_packets_before_the_keys_end_soon_and_are_not_kept() {
    in_child("ssh::hostile::endless_packets_before_the_keys_end_soon_and_are_not_kept", || {
        // To be ignored, of no known kind, out of place, and empty.
        for payload in [&b"\x02\0\0\0\x01x"[..], b"\xc8flood", b"\x63\0\0\0\0", &[0x5e; 20_000], b"\x15"] {
            let failure = log_in_to(b"SSH-2.0-flood\r\n", packets(payload));
            assert_eq!(failure.step, Step::Handshake, "{}", report(&failure));
        }
    });
}

#[test]
fn endless_output_of_a_command_ends_it() {
    in_child("ssh::hostile::endless_output_of_a_command_ends_it", || {
        let lab = Lab::start(1);
        for command in ["yes", "yes >&2"] {
            let mut session = logged_in(&lab, 0);
            let error = session.run(command, b"", TIMEOUT).unwrap_err();
            assert!(format!("{error:#}").contains("the command wrote more than 8 MiB"), "{error:#}");
        }
        // Of what explains a failure, the beginning is told.
        let output = logged_in(&lab, 0).run("yes no | head -c 5000000 >&2; exit 1", b"", TIMEOUT).unwrap();
        assert!(output.success().is_err_and(|error| format!("{error:#}").len() < 5000));
    });
}

#[test]
fn host_behind_a_jump_host_has_an_address_that_a_host_can_have() {
    with_deadline(LIMIT, || {
        for told in ["255.255.255.255", "0.0.0.0", "224.0.0.1", "$(id)", "\u{1b}[2Jgone", ""] {
            let lab = Lab::with(LabOptions {
                hosts: 2,
                before_command: Some(format!("SSH_CONNECTION='127.0.0.1 1 {told} 22'")),
                ssh_config: vec!["Host tp-test-02\n  ProxyJump tp-test-01".into()],
                ..LabOptions::default()
            });
            let failure = connect(&lab, 1).unwrap_err();
            assert_eq!(failure.step, Step::Probe, "{}", report(&failure));
            let said = report(&failure);
            assert!(said.contains("does not tell its address") && !said.contains('\u{1b}'), "{said}");
        }
    });
}
