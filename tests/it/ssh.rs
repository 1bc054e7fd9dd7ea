//! SSH: sessions against real sshds.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Lab, tool, with_deadline};

/// The harness itself, proven with OpenSSH's own client: each host has its own home and starts there.
#[test]
fn hosts_of_the_lab_can_be_told_apart() {
    with_deadline(Duration::from_secs(30), || {
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
