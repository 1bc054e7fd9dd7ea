//! Hidden: what another user sees of workers, of a job, and of what they leave on disks.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::secrets::Secrets;
use super::{LIMIT, proc, remote_dir, shared_lab};
use crate::deploy::Deployed;
use crate::harness::guest::{Guest, make_sticky};
use crate::harness::{Lab, LabOptions, entries, wait_until, with_deadline};

/// A word of the input that is nowhere else.
const WORD: &str = "Xqzzyva";

/// What of a process is for its user alone.
const PRIVATE: [&str; 5] = ["environ", "fd", "maps", "mem", "smaps"];
const PRIVATE_LINKS: [&str; 3] = ["cwd", "exe", "root"];

/// All of a worker or client that the kernel keeps from others, and what it tells them.
fn assert_process_hidden(guest: Guest, pid: u32, secrets: &Secrets) {
    for file in PRIVATE {
        guest.assert_denied(&proc(pid, file));
    }
    for link in PRIVATE_LINKS {
        guest.assert_link_denied(&proc(pid, link));
    }
    for file in ["cmdline", "status", "stat"] {
        let seen = guest.read(&proc(pid, file)).expect("everybody may read it");
        assert!(seen.len() > 10, "{file}");
        secrets.assert_none_in(&seen, file);
        assert!(!String::from_utf8_lossy(&seen).contains(WORD));
    }
}

/// The files of a deployment, on the client and on its hosts, each with its directory.
fn assert_files_hidden(guest: Guest, lab: &Lab, secrets: &Secrets) {
    let record = lab.client_dir().join(".mapreduce");
    guest.assert_denied(&record);
    guest.assert_denied(&record.join("hosts.toml.json"));
    assert_eq!(mode(&record.join("hosts.toml.json")), 0o600);
    for (worker, host) in lab.cluster().workers.iter().zip(&lab.hosts) {
        let remote = remote_dir(host);
        guest.list(&host.tmp).expect("everybody may look into what /tmp is");
        guest.assert_denied(&remote);
        assert_eq!(mode(&remote), 0o700);
        for name in entries(&remote).iter().filter(|name| name.starts_with("mapreduce-")) {
            guest.assert_denied(&remote.join(name));
            assert_eq!(mode(&remote.join(name)), 0o700);
        }
        let own = Path::new(&worker.worker_dir);
        guest.assert_denied(own);
        assert_eq!(mode(own), 0o700);
        for name in entries(own) {
            guest.assert_denied(&own.join(&name));
            assert_eq!(mode(&own.join(&name)), 0o600, "{name}");
            secrets.assert_none_in(&fs::read(own.join(&name)).unwrap(), &name);
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The files below `dir` that he finds the word in.
fn found(guest: Guest, dir: &Path) -> String {
    let output = guest.command("grep").args(["-rlaF", WORD]).arg(dir).output().expect("grep runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nothing_of_a_running_job_is_open_to_another_user() {
    with_deadline(LIMIT, || {
        let Some(guest) = Guest::new() else { return };
        let lab = shared_lab(LabOptions { hosts: 2, ..LabOptions::default() });
        let tmp = lab.client_dir().join("tmp");
        fs::create_dir(&tmp).unwrap();
        make_sticky(&tmp);
        let input = lab.client_dir().join("input");
        fs::write(&input, format!("{WORD} in a file\n")).unwrap();
        fs::set_permissions(&input, fs::Permissions::from_mode(0o600)).unwrap();
        // One result that is there is for the user alone; it must be so while it is written, too.
        let output = lab.client_dir().join("out.tsv");
        fs::write(&output, "").unwrap();
        fs::set_permissions(&output, fs::Permissions::from_mode(0o600)).unwrap();
        lab.deploy(&[]).expect_code(0);
        let secrets = Secrets::of(&lab);

        let running =
            lab.invocation(&["run", "input", "-", "-o", "out.tsv"]).env("TMPDIR", &tmp).open_stdin();
        let mut running = running.spawn();
        let text = format!("{WORD} in a stream\n").repeat(1000);
        running.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        let busy =
            || lab.mapreduce(&["status"]).stdout.lines().filter(|line| line.contains(" up ")).count() == 2;
        wait_until(Duration::from_secs(20), "both workers to be up", busy);
        let begun = || entries(&lab.client_dir()).iter().any(|name| name.ends_with(".part"));
        wait_until(Duration::from_secs(20), "the run to have begun", begun);
        assert_files_hidden(guest, &lab, &secrets);
        for worker in &lab.cluster().workers {
            assert_process_hidden(guest, worker.pid, &secrets);
        }
        assert_process_hidden(guest, running.pid(), &secrets);
        for name in entries(&lab.client_dir()).iter().filter(|name| name.ends_with(".part")) {
            guest.assert_denied(&lab.client_dir().join(name));
        }
        assert_eq!(found(guest, lab.root()), "");
        running.wait().expect_code(0);
        guest.assert_denied(&output);
        assert_eq!(found(guest, lab.root()), "");

        // What is open is seen as such.
        fs::set_permissions(&output, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(found(guest, lab.root()).ends_with("out.tsv\n"));
        assert!(guest.read(&output).is_ok());
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}
