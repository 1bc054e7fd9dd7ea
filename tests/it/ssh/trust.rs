//! Trust: host keys, as OpenSSH's `StrictHostKeyChecking`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mapreduce::edge::failure::{HostFailure, Step};
use mapreduce::edge::ssh::{NewHostKeys, Session, SshOptions};

use super::{LIMIT, TIMEOUT, connect, logged_in, report};
use crate::harness::sshd::make_key;
use crate::harness::{Lab, LabOptions, is_child, run_as_child, terminal, tool, with_deadline};

/// Logs in to the first host, whose key is treated so if it is new.
fn connect_with(lab: &Lab, new_host_keys: NewHostKeys) -> Result<Session, HostFailure> {
    Session::connect(&lab.target(0), &SshOptions { new_host_keys, ..lab.options(TIMEOUT) })
}

/// The fingerprint of the first key in `file`, as OpenSSH shows it.
fn fingerprint(file: &Path) -> String {
    let shown = tool(Command::new("ssh-keygen").arg("-lf").arg(file));
    shown.split_whitespace().nth(1).expect("a fingerprint").to_string()
}

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
        // Both keys, as OpenSSH names them.
        assert!(said.contains(&fingerprint(&lab.known_hosts())), "{said}");
        assert!(
            said.contains(&format!("presents ssh-ed25519 {}", fingerprint(&lab.hosts[0].host_key()))),
            "{said}"
        );
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

#[test]
fn unknown_host_is_refused_where_new_keys_are_with_the_command_that_accepts_it() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        let failure = connect_with(&lab, NewHostKeys::Refuse).unwrap_err();
        assert_eq!(failure.step, Step::HostKey);
        let (said, host) = (report(&failure), &lab.hosts[0]);
        for part in [
            format!("the key of {} is not in {}", host.known_as(), lab.known_hosts().display()),
            format!("presents ssh-ed25519 {}", fingerprint(&host.host_key())),
            "new keys are not accepted".into(),
        ] {
            assert!(said.contains(&part), "no {part:?} in {said}");
        }
        assert!(!lab.known_hosts().exists() && !host.log().contains("publickey"), "{}", host.log());
        let advice = failure.advice();
        tool(Command::new("sh").arg("-c").arg(&advice[advice.find("echo ").expect("the command")..]));
        drop(
            connect_with(&lab, NewHostKeys::Refuse).unwrap_or_else(|failure| panic!("{}", report(&failure))),
        );
        // A key that has changed is not accepted by any policy.
        lab.hosts[0].rekey();
        for policy in [NewHostKeys::Accept, NewHostKeys::Refuse, NewHostKeys::Ask] {
            let said = report(&connect_with(&lab, policy).unwrap_err());
            assert!(said.contains("has changed"), "{policy:?}: {said}");
        }
    });
}

#[test]
fn unknown_host_is_refused_where_nobody_can_be_asked() {
    if !is_child() {
        let name = "ssh::trust::unknown_host_is_refused_where_nobody_can_be_asked";
        run_as_child(name, &[], LIMIT).expect_code(0);
        return;
    }
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let said = report(&connect_with(&lab, NewHostKeys::Ask).unwrap_err());
        assert!(said.contains("there is no terminal to ask you on"), "{said}");
        assert!(!lab.known_hosts().exists());
    });
}

/// Four hosts, probed at once: the user is asked about each by itself, and the bar does not write over that.
#[test]
fn user_is_asked_about_one_new_host_after_the_other() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(4);
        let args =
            "discover 4 -v --range 'tp-test-[01-04]' --suffix '' --timeout 20s --accept-new-host-keys ask";
        // Neither yes nor no is asked again.
        let typed = ["yes\n", "what\n", "yes\n", "no\n", "yes\n"];
        let screen = lab.at_terminal(args, "Is that its key? (yes/no) ", &typed, LIMIT);
        assert_eq!(screen.code, Some(1), "{}", screen.text);
        assert!(screen.text.contains("only 3 of 4 hosts answered"), "{}", screen.text);
        assert!(screen.text.contains("and you did not accept it"), "{}", screen.text);
        let mut questions = 0;
        for after in screen.text.split("is not in known_hosts. It presents the key\r\n").skip(1) {
            let mut lines = after.split("\r\n");
            let key = lines.next().expect("the key");
            assert!(lab.hosts.iter().any(|host| key.ends_with(&fingerprint(&host.host_key()))), "{key:?}");
            let answer = lines.next().expect("the question").strip_prefix("Is that its key? (yes/no) ");
            assert!(answer.is_some_and(|answer| ["yes", "no", "what"].contains(&answer)), "{answer:?}");
            questions += 1;
        }
        assert_eq!(questions, typed.len(), "{}", screen.text);
        assert_eq!(fs::read_to_string(lab.known_hosts()).unwrap().lines().count(), 3);
    });
}

/// All the sessions go through one jump host.
#[test]
fn user_is_asked_once_about_a_host_that_many_sessions_meet() {
    let name = "ssh::trust::user_is_asked_once_about_a_host_that_many_sessions_meet";
    if !is_child() {
        for (answer, passed) in [("yes\n", "all get in"), ("no\n", "none gets in")] {
            let screen = terminal::child(name, "Is that its key? (yes/no) ", &[answer], LIMIT);
            assert_eq!(screen.code, Some(0), "{}", screen.text);
            assert!(screen.text.contains(passed), "{}", screen.text);
            assert_eq!(screen.text.matches("Is that its key?").count(), 1, "{}", screen.text);
        }
        return;
    }
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let connect = || connect_with(&lab, NewHostKeys::Ask).is_ok();
        let inside = std::thread::scope(|scope| {
            let sessions: Vec<_> = (0..6).map(|_| scope.spawn(connect)).collect();
            sessions.into_iter().filter_map(|session| session.join().ok()).filter(|is_in| *is_in).count()
        });
        assert!(inside == 0 || inside == 6, "{inside}");
        eprintln!("{}", if inside == 0 { "none gets in" } else { "all get in" });
    });
}

#[test]
fn host_that_hangs_up_while_the_user_thinks_is_connected_to_again() {
    let name = "ssh::trust::host_that_hangs_up_while_the_user_thinks_is_connected_to_again";
    if !is_child() {
        let pause = Duration::from_secs(5);
        let screen = terminal::slow_child(name, "Is that its key? (yes/no) ", &["yes\n"], pause, LIMIT);
        assert_eq!(screen.code, Some(0), "{}", screen.text);
        assert_eq!(screen.text.matches("Is that its key?").count(), 1, "{}", screen.text);
        return;
    }
    with_deadline(LIMIT, || {
        let sshd_config = vec!["LoginGraceTime 3".into()];
        let lab = Lab::with(LabOptions { hosts: 1, sshd_config, ..LabOptions::default() });
        drop(connect_with(&lab, NewHostKeys::Ask).unwrap_or_else(|failure| panic!("{}", report(&failure))));
        // The first is the harness's own.
        assert_eq!(lab.hosts[0].log().matches("Connection from").count(), 3, "{}", lab.hosts[0].log());
    });
}
