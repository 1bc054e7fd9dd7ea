//! Trust: host keys, as OpenSSH's `accept-new`.

use std::fs;
use std::process::Command;

use mapreduce::edge::failure::Step;

use super::{LIMIT, connect, logged_in, report};
use crate::harness::sshd::make_key;
use crate::harness::{Lab, LabOptions, tool, with_deadline};

#[test]
fn changed_host_key_is_refused_with_the_line_to_remove() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        logged_in(&lab, 0);
        lab.hosts[0].rekey();
        let failure = connect(&lab, 0).unwrap_err();
        assert_eq!(failure.step, Step::HostKey);
        let said = report(&failure);
        let file = lab.known_hosts().display().to_string();
        assert!(said.contains("could not trust the host key"), "{said}");
        assert!(said.contains(&format!("{file} line 1 has ssh-ed25519 SHA256:")), "{said}");
        // The advice works as it is printed.
        let advice = failure.advice();
        let command = &advice[advice.find("ssh-keygen").expect("the command")..];
        tool(Command::new("sh").arg("-c").arg(command));
        logged_in(&lab, 0);
    });
}

#[test]
fn nothing_is_sent_to_a_host_with_a_changed_key() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        logged_in(&lab, 0);
        lab.hosts[0].rekey();
        let before = lab.hosts[0].log().len();
        connect(&lab, 0).unwrap_err();
        let log = lab.hosts[0].log();
        assert!(!log[before..].contains("publickey"), "{log}");
    });
}

#[test]
fn hashed_names_are_found() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        logged_in(&lab, 0);
        tool(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(lab.known_hosts()));
        let hashed = fs::read_to_string(lab.known_hosts()).unwrap();
        assert!(hashed.starts_with("|1|"), "{hashed}");
        logged_in(&lab, 0);
        assert_eq!(fs::read_to_string(lab.known_hosts()).unwrap(), hashed);
        lab.hosts[0].rekey();
        assert_eq!(connect(&lab, 0).unwrap_err().step, Step::HostKey);
    });
}

/// libssh2 by itself would ask for an ECDSA or Ed25519 key, and call the host's key changed.
#[test]
fn recorded_type_of_key_is_asked_for() {
    with_deadline(LIMIT, || {
        let keys = tempfile::tempdir().unwrap();
        let lines: Vec<String> = ["rsa", "ecdsa"]
            .iter()
            .map(|kind| {
                let key = keys.path().join(kind);
                make_key(&key, kind, "");
                format!("HostKey {}", key.display())
            })
            .collect();
        let lab = Lab::with(LabOptions { hosts: 1, sshd_config: lines, ..LabOptions::default() });
        for kind in ["rsa", "ecdsa"] {
            let public = fs::read_to_string(keys.path().join(kind).with_extension("pub")).unwrap();
            let line = format!("garbage\n{} {public}", lab.hosts[0].known_as());
            fs::write(lab.known_hosts(), &line).unwrap();
            logged_in(&lab, 0);
            assert_eq!(fs::read_to_string(lab.known_hosts()).unwrap(), line);
        }
    });
}

#[test]
fn another_type_of_key_than_the_recorded_one_is_refused() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let key = lab.client_dir().join("other");
        make_key(&key, "rsa", "");
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        fs::write(lab.known_hosts(), format!("{} {public}", lab.hosts[0].known_as())).unwrap();
        let failure = connect(&lab, 0).unwrap_err();
        assert_eq!(failure.step, Step::HostKey);
        assert!(report(&failure).contains("has one of type ssh-rsa"), "{}", report(&failure));
    });
}

#[test]
fn revoked_key_is_refused() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        fs::write(lab.known_hosts(), format!("@revoked * {}\n", lab.hosts[0].public_key())).unwrap();
        let failure = connect(&lab, 0).unwrap_err();
        assert_eq!(failure.step, Step::HostKey);
        assert!(report(&failure).contains("revoked"), "{}", report(&failure));
    });
}

#[test]
fn key_that_cannot_be_recorded_is_not_trusted() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        // A directory in its place: also root cannot write there.
        fs::create_dir(lab.known_hosts()).unwrap();
        let failure = connect(&lab, 0).unwrap_err();
        assert_eq!(failure.step, Step::HostKey);
        assert!(report(&failure).contains("known_hosts"), "{}", report(&failure));
    });
}
