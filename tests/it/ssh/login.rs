//! Login: keys, agents, and what is said when nothing fits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mapreduce::edge::failure::Step;
use mapreduce::edge::ssh::Session;

use super::{LIMIT, TIMEOUT, connect, logged_in, report, said};
use crate::harness::sshd::{make_key, user_name};
use crate::harness::terminal;
use crate::harness::{Lab, LabOptions, MARKER, is_child, run_as_child, tool, with_deadline};

#[test]
fn configured_key_logs_in_and_commands_run() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(2);
        for (index, host) in lab.hosts.iter().enumerate() {
            let mut session = logged_in(&lab, index);
            assert_eq!(session.host_address(), host.address);
            assert_eq!(said(&mut session, "pwd").trim(), host.home.display().to_string());
            assert_eq!(said(&mut session, "id -un").trim(), user_name());
        }
        // The second connection finds the key recorded.
        logged_in(&lab, 0);
        let recorded = fs::read_to_string(lab.known_hosts()).unwrap();
        let wanted: String =
            lab.hosts.iter().map(|h| format!("{} {}\n", h.known_as(), h.public_key())).collect();
        assert_eq!(recorded, wanted);
        assert_eq!(fs::metadata(lab.known_hosts()).unwrap().permissions().mode() & 0o777, 0o600);
    });
}

#[test]
fn every_common_type_of_key_works_in_both_formats() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        for (kind, format) in [("ecdsa", None), ("rsa", None), ("rsa", Some("PEM")), ("ecdsa", Some("PEM"))] {
            let key = lab.client_dir().join(format!("id_{kind}_{}", format.unwrap_or("openssh")));
            make_key(&key, kind, "");
            if let Some(format) = format {
                tool(Command::new("ssh-keygen").args(["-q", "-p", "-N", "", "-m", format, "-f"]).arg(&key));
            }
            lab.hosts[0].authorize(&public(&key));
            let mut target = lab.target(0);
            target.key = Some(key.clone());
            let session = Session::connect(&target, &lab.options(TIMEOUT));
            assert!(session.is_ok(), "{}: {}", key.display(), report(&session.unwrap_err()));
        }
    });
}

#[test]
fn unknown_keys_are_refused_with_what_was_tried() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 1, wrong_key: vec![0], ..LabOptions::default() });
        let mut target = lab.target(0);
        target.key = Some(lab.root().join("no-such-key"));
        let failure = Session::connect(&target, &lab.options(TIMEOUT)).unwrap_err();
        assert_eq!(failure.step, Step::Authenticate);
        let said = report(&failure);
        for part in [
            "tp-test-01: could not log in",
            "id_lab: refused",
            "no-such-key: No such file",
            "accepts publickey",
        ] {
            assert!(said.contains(part), "{said}");
        }
    });
}

#[test]
fn agent_is_asked_for_the_configured_identity_first() {
    with_deadline(LIMIT, || {
        let agent_dir = tempfile::tempdir().unwrap();
        let socket = agent_dir.path().join("agent");
        let lab = lab_with_agent(&socket, "");
        let _agent = Agent::start(&lab, &socket);
        // Seven that the host does not know; the sixth failure would end the connection.
        for n in 0..7 {
            let key = lab.client_dir().join(format!("id_{n}"));
            make_key(&key, "ed25519", "");
            add(&socket, &key);
        }
        add(&socket, &lab.client_key());
        // Only the public half is left: the private one is in the agent.
        fs::remove_file(lab.client_key()).unwrap();
        logged_in(&lab, 0);
        assert!(!lab.hosts[0].log().contains("Failed publickey"), "{}", lab.hosts[0].log());
    });
}

#[test]
fn no_more_than_five_identities_are_tried() {
    with_deadline(LIMIT, || {
        let agent_dir = tempfile::tempdir().unwrap();
        let socket = agent_dir.path().join("agent");
        let lab = lab_with_agent(&socket, "");
        let _agent = Agent::start(&lab, &socket);
        for n in 0..7 {
            let key = lab.client_dir().join(format!("id_{n}"));
            make_key(&key, "ed25519", "");
            add(&socket, &key);
        }
        lab.hosts[0].authorize("");
        let said = report(&connect(&lab, 0).unwrap_err());
        assert_eq!(said.matches("of the agent: refused").count(), 5, "{said}");
        assert!(said.contains("no further key"), "{said}");
        // With fewer, all are tried, and the one that fits is found wherever it stands.
        let last = lab.client_dir().join("id_4");
        lab.hosts[0].authorize(&public(&last));
        logged_in(&lab, 0);
    });
}

#[test]
fn stuck_agent_is_passed_over() {
    with_deadline(LIMIT, || {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let lab = lab_with_agent(&socket, "");
        let started = Instant::now();
        logged_in(&lab, 0);
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    });
}

#[test]
fn encrypted_key_without_a_terminal_says_so() {
    if !is_child() {
        let name = "ssh::login::encrypted_key_without_a_terminal_says_so";
        run_as_child(name, &[], LIMIT).expect_code(0);
        return;
    }
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        for format in ["RFC4716", "PEM"] {
            let key = lab.client_dir().join("id_secret");
            make_key(&key, "rsa", "");
            tool(Command::new("ssh-keygen").args(["-q", "-p", "-N", "secret", "-m", format, "-f"]).arg(&key));
            lab.hosts[0].authorize(&public(&key));
            let mut target = lab.target(0);
            target.key = Some(key);
            let said = report(&Session::connect(&target, &lab.options(TIMEOUT)).unwrap_err());
            let wanted = "id_secret: is encrypted and there is no terminal: add it to ssh-agent";
            assert!(said.contains(wanted), "{format}: {said}");
            // One that the host would refuse anyhow is not asked for.
            lab.hosts[0].authorize("");
            let said = report(&Session::connect(&target, &lab.options(TIMEOUT)).unwrap_err());
            assert!(said.contains("id_secret: refused"), "{format}: {said}");
        }
    });
}

#[test]
fn passphrase_is_asked_once_for_all_hosts() {
    if is_child() {
        log_in_everywhere_with_an_encrypted_key();
        return;
    }
    let typed = ["wrong\n", "secret\n"];
    let screen =
        terminal::child("ssh::login::passphrase_is_asked_once_for_all_hosts", "Passphrase", &typed, LIMIT)
            .text;
    assert!(screen.contains("test result: ok. 1 passed"), "{screen}");
    assert_eq!(screen.matches("Passphrase of the key").count(), 2, "{screen}");
    assert!(!screen.contains("secret\r"), "the passphrase is shown: {screen}");
}

fn log_in_everywhere_with_an_encrypted_key() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(4);
        let key = lab.client_dir().join("id_secret");
        make_key(&key, "ed25519", "secret");
        std::thread::scope(|scope| {
            for index in 0..4 {
                lab.hosts[index].authorize(&public(&key));
                let mut target = lab.target(index);
                target.key = Some(key.clone());
                let options = lab.options(TIMEOUT);
                scope.spawn(move || {
                    let session = Session::connect(&target, &options);
                    assert!(session.is_ok(), "{}", report(&session.unwrap_err()));
                });
            }
        });
    });
}

#[test]
fn key_that_others_can_read_is_not_used() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        fs::set_permissions(lab.client_key(), fs::Permissions::from_mode(0o644)).unwrap();
        let said = report(&connect(&lab, 0).unwrap_err());
        let advice = format!("chmod 600 {}", lab.client_key().display());
        assert!(said.contains("others can read it (its mode is 644)") && said.contains(&advice), "{said}");
        tool(Command::new("sh").arg("-c").arg(advice));
        logged_in(&lab, 0);
    });
}

#[test]
fn host_that_wants_a_password_is_refused_without_a_terminal() {
    if !is_child() {
        let name = "ssh::login::host_that_wants_a_password_is_refused_without_a_terminal";
        run_as_child(name, &[], LIMIT).expect_code(0);
        return;
    }
    with_deadline(LIMIT, || {
        let options = LabOptions { hosts: 1, passwords: true, wrong_key: vec![0], ..LabOptions::default() };
        let said = report(&connect(&Lab::with(options), 0).unwrap_err());
        assert!(said.contains("password: there is no terminal to ask on"), "{said}");
    });
}

#[test]
fn broken_configuration_is_a_failure_of_its_own() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 1, down: vec![0], ..LabOptions::default() });
        fs::write(lab.ssh_config(), "Host *\n  Port many\n").unwrap();
        let failure = connect(&lab, 0).unwrap_err();
        assert_eq!(failure.step, Step::Configure);
        assert!(report(&failure).contains("ssh_config line 2: Port many"), "{}", report(&failure));
    });
}

#[test]
fn unknown_name_is_a_failure_to_resolve() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let target = mapreduce::edge::ssh::Target {
            host: mapreduce::edge::failure::HostName("no-such-host.invalid".into()),
            user: None,
            port: None,
            key: None,
        };
        let failure = Session::connect(&target, &lab.options(Duration::from_secs(5))).unwrap_err();
        assert_eq!(failure.step, Step::Resolve, "{}", report(&failure));
    });
}

/// A real ssh-agent.
struct Agent(Child);

impl Agent {
    fn start(lab: &Lab, socket: &Path) -> Agent {
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(socket)
            .env(MARKER, lab.root())
            .stdout(Stdio::null())
            .spawn()
            .expect("ssh-agent, of openssh-client");
        let started = Instant::now();
        while !socket.exists() {
            assert!(started.elapsed() < TIMEOUT, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Agent(child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lab_with_agent(socket: &Path, more: &str) -> Lab {
    // The first value of an option wins, so these come before those of the harness.
    let lines = format!("IdentityAgent {}\nIdentitiesOnly no\n{more}", socket.display());
    Lab::with(LabOptions { hosts: 1, ssh_config: vec![lines], ..LabOptions::default() })
}

fn add(socket: &Path, key: &Path) {
    tool(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", socket));
}

fn public(key: &Path) -> String {
    fs::read_to_string(key.with_extension("pub")).expect("a public key")
}
