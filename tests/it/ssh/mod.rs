//! SSH: sessions against real sshds.

mod hostile;
mod jump;
mod login;
mod silence;
mod transfer;
mod trust;
mod tunnel;

use std::process::Command;
use std::time::Duration;

use mapreduce::edge::failure::HostFailure;
use mapreduce::edge::ssh::Session;

use crate::harness::{Lab, tool, with_deadline};

/// Ample for loopback, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Bound on a whole test.
const LIMIT: Duration = Duration::from_secs(90);

fn connect(lab: &Lab, index: usize) -> Result<Session, HostFailure> {
    Session::connect(&lab.target(index), &lab.options(TIMEOUT))
}

/// Logs in, with the whole report if that fails.
#[track_caller]
fn logged_in(lab: &Lab, index: usize) -> Session {
    connect(lab, index).unwrap_or_else(|failure| panic!("{}", report(&failure)))
}

/// A failure and its causes, as the commands tell them.
fn report(failure: &HostFailure) -> String {
    format!("{failure}: {:#}", failure.cause)
}

/// Runs a command that must succeed, and returns its standard output.
#[track_caller]
fn said(session: &mut Session, command: &str) -> String {
    let output = session.run(command, b"", TIMEOUT).and_then(|output| output.success());
    let output = output.unwrap_or_else(|error| panic!("{command}: {error:#}"));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The harness itself, proven with OpenSSH's own client: each host has its own home and starts there.
#[test]
fn hosts_of_the_lab_can_be_told_apart() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(2);
        for host in &lab.hosts {
            let said = tool(
                Command::new("ssh")
                    .arg("-F")
                    .arg(lab.ssh_config())
                    .args(["-o", "StrictHostKeyChecking=accept-new", "-o"])
                    .arg(format!("UserKnownHostsFile={}", lab.known_hosts().display()))
                    .arg(&host.alias)
                    .arg("pwd; echo $HOME; echo $TMPDIR"),
            );
            let home = host.home.display().to_string();
            assert_eq!(said.lines().collect::<Vec<_>>(), [&home, &home, &host.tmp.display().to_string()]);
        }
    });
}
