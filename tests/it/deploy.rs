//! Deploy, status, stop: hosts become a cluster, and nothing is left of it in the end.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mapreduce::edge::cluster::Cluster;
use rustix::process::Signal;

use crate::harness::{Finished, Lab, LabOptions, entries, processes, with_deadline};

/// For tests with few hosts, on a machine under load.
const LIMIT: Duration = Duration::from_secs(120);

/// What the lab's client has deployed, seen from outside.
pub trait Deployed {
    fn write_hosts(&self, defaults: &str);
    fn deploy(&self, more: &[&str]) -> Finished;
    fn stop(&self) -> Finished;
    fn cluster(&self) -> Cluster;
    fn assert_nothing_left(&self);
}

impl Deployed for Lab {
    fn write_hosts(&self, defaults: &str) {
        let mut text = format!("[defaults]\n{defaults}\n");
        for name in self.names() {
            text += &format!("[[host]]\nname = \"{name}\"\n");
        }
        fs::write(self.client_dir().join("hosts.toml"), text).unwrap();
    }

    fn deploy(&self, more: &[&str]) -> Finished {
        self.mapreduce(&[&["deploy", "--timeout", "15s"], more].concat())
    }

    fn stop(&self) -> Finished {
        self.mapreduce(&["stop", "--timeout", "5s"])
    }

    fn cluster(&self) -> Cluster {
        Cluster::load(&self.client_dir().join("hosts.toml")).unwrap().expect("a cluster is recorded")
    }

    fn assert_nothing_left(&self) {
        // A worker that was told to end may be about to.
        let begin = Instant::now();
        while !self.worker_processes().is_empty() && begin.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.worker_processes(), []);
        for host in &self.hosts {
            assert_eq!(entries(&host.tmp), Vec::<String>::new(), "{}", host.alias);
            assert_eq!(entries(&host.home), Vec::<String>::new(), "{}", host.alias);
        }
        assert!(!self.client_dir().join(".mapreduce").exists());
    }
}

/// The default remote directory of a host.
fn remote_dir(lab: &Lab, index: usize) -> PathBuf {
    lab.hosts[index].tmp.join(format!("mapreduce-{}", rustix::process::geteuid().as_raw()))
}

fn lab(hosts: usize) -> Lab {
    let lab = Lab::start(hosts);
    lab.write_hosts("");
    lab
}

/// Another build of the program, as far as anybody can tell: bytes after the end of an ELF file do no harm.
pub fn other_build(lab: &Lab) -> PathBuf {
    let path = lab.root().join("other-build");
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_mapreduce")).unwrap();
    bytes.extend_from_slice(b"another build");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[track_caller]
pub fn assert_says(finished: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(finished.stderr.contains(part), "no {part:?} in:\n{}", finished.stderr);
    }
}

fn full_cycle(hosts: usize) {
    let lab = lab(hosts);
    let deployed = lab.deploy(&[]).expect_code(0);
    assert_eq!(deployed.stdout, "");
    assert_says(&deployed, &[&format!("{hosts} of {hosts} hosts are ready")]);
    let cluster = lab.cluster();
    assert_eq!(cluster.workers.len(), hosts);
    let named: Vec<&str> = cluster.workers.iter().map(|worker| worker.host.0.as_str()).collect();
    assert_eq!(named, lab.names());
    for (worker, host) in cluster.workers.iter().zip(&lab.hosts) {
        assert_eq!(worker.address.ip(), host.address);
    }
    assert_eq!(lab.worker_processes().len(), hosts);

    let status = lab.mapreduce(&["status"]).expect_code(0);
    for worker in &cluster.workers {
        let row = status.stdout.lines().find(|line| line.contains(&worker.host.0)).expect("a row");
        assert!(row.contains(&worker.address.to_string()) && row.contains(" up "), "{row}");
        assert!(row.contains(&worker.pid.to_string()), "{row}");
    }

    let stopped = lab.stop().expect_code(0);
    assert_says(&stopped, &[&format!("stopped {hosts} workers; {hosts} of {hosts} hosts clean")]);
    lab.assert_nothing_left();
    let gone = lab.mapreduce(&["status"]).expect_code(1);
    assert_says(&gone, &["no cluster is deployed", "try: deploy"]);
}

#[test]
fn four_hosts_are_deployed_to_and_cleaned() {
    with_deadline(LIMIT, || full_cycle(4));
}

#[test]
fn sixteen_hosts_are_deployed_to_and_cleaned() {
    with_deadline(LIMIT, || full_cycle(16));
}

#[test]
fn second_deploy_uploads_nothing_and_replaces_the_workers() {
    with_deadline(LIMIT, || {
        let lab = lab(3);
        let first = lab.deploy(&[]).expect_code(0);
        assert_says(&first, &["uploaded the program to 3 hosts"]);
        let before = lab.cluster();
        let second = lab.deploy(&[]).expect_code(0);
        assert_says(&second, &["uploaded the program to 0 hosts, replaced 3 older workers"]);
        let after = lab.cluster();
        assert_ne!(before.protection, after.protection);
        assert_eq!(lab.worker_processes().len(), 3);
        for (old, new) in before.workers.iter().zip(&after.workers) {
            assert_ne!(old.pid, new.pid);
            assert!(!Path::new(&old.worker_dir).exists());
        }
        lab.mapreduce(&["status"]).expect_code(0);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn running_worker_of_another_build_is_replaced() {
    with_deadline(LIMIT, || {
        let lab = lab(2);
        let other = other_build(&lab);
        lab.deploy(&["--binary", other.to_str().unwrap()]).expect_code(0);
        let before = lab.cluster();
        lab.deploy(&[]).expect_code(0);
        let after = lab.cluster();
        assert_ne!(before.digest, after.digest);
        assert_eq!(lab.worker_processes().len(), 2);
        for index in 0..2 {
            let programs = entries(&remote_dir(&lab, index));
            let programs: Vec<_> = programs.iter().filter(|name| name.starts_with("mapreduce-")).collect();
            assert_eq!(programs, [&format!("mapreduce-{}", &after.digest[..16])]);
        }
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn damaged_upload_is_uploaded_again() {
    with_deadline(LIMIT, || {
        let lab = lab(1);
        lab.deploy(&[]).expect_code(0);
        let program = remote_dir(&lab, 0).join(format!("mapreduce-{}", &lab.cluster().digest[..16]));
        lab.stop().expect_code(0);
        fs::create_dir(remote_dir(&lab, 0)).unwrap();
        fs::set_permissions(remote_dir(&lab, 0), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&program, "half a program").unwrap();
        let again = lab.deploy(&[]).expect_code(0);
        assert_says(&again, &["uploaded the program to 1 host"]);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// As all our private keys begin in base64: PKCS #8, ECDSA on P-256, the length of the secret.
const KEY_BEGIN: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";

#[test]
fn secret_is_nowhere_on_the_host() {
    with_deadline(LIMIT, || {
        let lab = lab(1);
        lab.deploy(&[]).expect_code(0);
        let cluster = lab.cluster();
        let worker = &cluster.workers[0];
        let holds = |text: &[u8]| text.windows(KEY_BEGIN.len()).any(|window| window == KEY_BEGIN.as_bytes());
        assert!(
            holds(&fs::read(lab.client_dir().join(".mapreduce/hosts.toml.json")).unwrap()),
            "as a key begins"
        );
        for file in ["cmdline", "environ"] {
            assert!(!holds(&fs::read(format!("/proc/{}/{file}", worker.pid)).unwrap()), "{file}");
        }
        assert_eq!(entries(Path::new(&worker.worker_dir)), ["host", "log", "pid", "port", "program"]);
        for name in entries(Path::new(&worker.worker_dir)) {
            let path = Path::new(&worker.worker_dir).join(name);
            assert!(!holds(&fs::read(&path).unwrap()), "{}", path.display());
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                path.display()
            );
        }
        assert_eq!(fs::metadata(&worker.worker_dir).unwrap().permissions().mode() & 0o777, 0o700);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn worker_is_a_detached_and_nice_guest() {
    with_deadline(LIMIT, || {
        let lab = lab(1);
        lab.deploy(&["--threads", "3", "--memory", "100MB"]).expect_code(0);
        let pid = lab.cluster().workers[0].pid;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // After the name: state, parent, group, session, terminal, ..., nice (the 17th).
        assert_eq!((fields[3], fields[4], fields[16]), (pid.to_string().as_str(), "0", "10"));
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
        for descriptor in [0, 1] {
            let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
            assert_eq!(target, Path::new("/dev/null"));
        }
        let status = lab.mapreduce(&["status"]).expect_code(0);
        assert!(status.stdout.contains(" 3 "), "{}", status.stdout);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// Deploys to three hosts of which the second is out in some way; the others must be ready and the cleaning whole.
fn one_out(lab: &Lab, step: &str) {
    let deployed = lab.deploy(&[]).expect_code(1);
    assert_says(&deployed, &[&format!("error: tp-test-02: could not {step}"), "  try: "]);
    assert_says(&deployed, &["2 of 3 hosts are ready; `run FILE --servers 2` works now"]);
    assert_eq!(lab.cluster().workers.len(), 2);
    lab.mapreduce(&["status"]).expect_code(0);
    lab.stop().expect_code(0);
    lab.assert_nothing_left();
}

#[test]
fn host_that_is_down_is_named_and_the_others_proceed() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 3, down: vec![1], ..LabOptions::default() });
        lab.write_hosts("");
        one_out(&lab, "connect");
    });
}

#[test]
fn host_that_refuses_the_key_is_named_and_the_others_proceed() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 3, wrong_key: vec![1], ..LabOptions::default() });
        lab.write_hosts("");
        one_out(&lab, "log in");
    });
}

#[test]
fn host_with_a_changed_key_is_named_and_the_others_proceed() {
    with_deadline(LIMIT, || {
        let mut lab = lab(3);
        lab.deploy(&[]).expect_code(0);
        lab.stop().expect_code(0);
        lab.hosts[1].rekey();
        one_out(&lab, "trust the host key");
    });
}

#[test]
fn planted_link_is_neither_followed_nor_removed() {
    with_deadline(LIMIT, || {
        let lab = lab(3);
        let trap = lab.root().join("trap");
        fs::create_dir(&trap).unwrap();
        fs::set_permissions(&trap, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&trap, remote_dir(&lab, 1)).unwrap();
        let deployed = lab.deploy(&[]).expect_code(1);
        assert_says(&deployed, &["tp-test-02: could not prepare the remote directory", "symbolic link"]);
        assert_eq!(lab.cluster().workers.len(), 2);
        lab.stop().expect_code(0);
        assert!(remote_dir(&lab, 1).is_symlink());
        assert_eq!(entries(&trap), Vec::<String>::new());
        fs::remove_file(remote_dir(&lab, 1)).unwrap();
        lab.assert_nothing_left();
    });
}

#[test]
fn remote_directory_that_cannot_be_made_is_refused() {
    with_deadline(LIMIT, || {
        let lab = lab(2);
        // Not even root can make a directory there.
        let deployed = lab.deploy(&["--remote-dir", "/proc/mapreduce"]).expect_code(1);
        assert_says(&deployed, &["tp-test-01: could not prepare", "/proc/mapreduce", "--remote-dir DIR"]);
        assert_says(&deployed, &["tp-test-02: could not prepare the remote directory, as tp-test-01"]);
        lab.assert_nothing_left();
        let deployed = lab.deploy(&["--remote-dir", "~/no/where"]).expect_code(1);
        assert_says(&deployed, &["there is no directory"]);
        lab.assert_nothing_left();
    });
}

/// A directory that is mounted without the right to run programs; gone when dropped.
struct Noexec(PathBuf);

impl Noexec {
    /// `None` where this user may not mount.
    fn mount(dir: PathBuf) -> Option<Noexec> {
        fs::create_dir(&dir).unwrap();
        let options = ["-t", "tmpfs", "-o", "noexec,mode=755,size=64m", "none"];
        let mounted = Command::new("mount").args(options).arg(&dir).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Noexec(dir))
    }
}

impl Drop for Noexec {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// On a real mount where the user of the tests may mount; always on hosts whose `chmod` gives no right to run anything:
/// to a program that is tried they look the same.
#[test]
fn remote_directory_without_the_right_to_run_programs_is_refused() {
    fn assert_refused(lab: &Lab, more: &[&str]) {
        let deployed = lab.deploy(more).expect_code(1);
        let parts = ["could not prepare the remote directory", "status 126", "noexec", "--remote-dir DIR"];
        assert_says(&deployed, &parts);
    }
    with_deadline(LIMIT, || {
        let before_command = Some("PATH=$TMPDIR/../bin:$PATH; export PATH".to_owned());
        let lab = Lab::with(LabOptions { hosts: 1, before_command, ..LabOptions::default() });
        lab.write_hosts("");
        if let Some(mounted) = Noexec::mount(lab.root().join("noexec")) {
            assert_refused(&lab, &["--remote-dir", mounted.0.join("mr").to_str().unwrap()]);
        }
        let bin = lab.hosts[0].dir.join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("chmod"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(bin.join("chmod"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_refused(&lab, &[]);
        lab.assert_nothing_left();
        fs::remove_dir_all(bin).unwrap();
        lab.deploy(&[]).expect_code(0);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn program_for_another_machine_is_refused_and_leaves_nothing() {
    with_deadline(LIMIT, || {
        let lab = lab(1);
        let path = other_build(&lab);
        let mut bytes = fs::read(&path).unwrap();
        bytes[18..20].copy_from_slice(&22u16.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let deployed = lab.deploy(&["--binary", path.to_str().unwrap()]).expect_code(1);
        assert_says(&deployed, &["the program is built for s390x", "--binary FILE"]);
        lab.assert_nothing_left();
        let text = lab.client_dir().join("hosts.toml");
        let deployed = lab.deploy(&["--binary", text.to_str().unwrap()]).expect_code(1);
        assert_says(&deployed, &["is no Linux program", "--binary FILE"]);
        lab.assert_nothing_left();
    });
}

#[test]
fn hung_and_dead_workers_are_cleaned() {
    with_deadline(LIMIT, || {
        let lab = lab(3);
        lab.deploy(&[]).expect_code(0);
        let cluster = lab.cluster();
        processes::signal(cluster.workers[0].pid, Signal::STOP);
        processes::signal(cluster.workers[1].pid, Signal::KILL);
        let status = lab.mapreduce(&["status", "--timeout", "4s"]).expect_code(1);
        assert_says(&status, &["2 of 3 workers do not answer", "--servers 1"]);
        assert_eq!(status.stdout.matches("no answer").count(), 2, "{}", status.stdout);
        let stopped = lab.stop().expect_code(0);
        assert_says(&stopped, &["stopped 2 workers; 3 of 3 hosts clean"]);
        lab.assert_nothing_left();
    });
}

#[test]
fn lost_record_is_made_up_for_by_the_hosts_file() {
    with_deadline(LIMIT, || {
        let lab = lab(2);
        lab.write_hosts("remote_dir = \"~/.mr\"");
        lab.deploy(&[]).expect_code(0);
        fs::remove_dir_all(lab.client_dir().join(".mapreduce")).unwrap();
        let stopped = lab.stop().expect_code(0);
        assert_says(&stopped, &["stopped 2 workers"]);
        lab.assert_nothing_left();

        lab.deploy(&[]).expect_code(0);
        fs::write(lab.client_dir().join(".mapreduce/hosts.toml.json"), "{").unwrap();
        let stopped = lab.stop().expect_code(0);
        assert_says(&stopped, &["damaged", "stopped 2 workers"]);
        lab.assert_nothing_left();
    });
}

#[test]
fn hosts_may_share_a_home() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 4, shared_home: true, ..LabOptions::default() });
        lab.write_hosts("remote_dir = \"$HOME/mr\"");
        lab.deploy(&[]).expect_code(0);
        let home = lab.hosts[0].home.join("mr");
        let workers = |prefix: &str| entries(&home).iter().filter(|name| name.starts_with(prefix)).count();
        assert_eq!((workers("worker-"), workers("mapreduce-")), (4, 1));
        lab.mapreduce(&["status"]).expect_code(0);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();

        lab.write_hosts("");
        let deployed = lab.deploy(&["--shared-dir", "~/shared"]).expect_code(0);
        assert_says(&deployed, &["uploaded the program to 1 host\n"]);
        assert_eq!(lab.worker_processes().len(), 4);
        lab.mapreduce(&["status"]).expect_code(0);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn idle_worker_ends_and_leaves_the_program_only() {
    with_deadline(LIMIT, || {
        let lab = lab(1);
        lab.deploy(&["--idle-timeout", "3s"]).expect_code(0);
        let worker_dir = lab.cluster().workers[0].worker_dir.clone();
        let begin = Instant::now();
        while Path::new(&worker_dir).exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the worker is idle and does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(entries(&remote_dir(&lab, 0)).len(), 1);
        lab.mapreduce(&["status"]).expect_code(1);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn host_that_cannot_be_cleaned_stays_recorded() {
    with_deadline(LIMIT, || {
        let mut lab = lab(2);
        lab.deploy(&[]).expect_code(0);
        lab.hosts[1].stop();
        let stopped = lab.stop().expect_code(1);
        assert_says(
            &stopped,
            &["error: tp-test-02: could not connect", "stopped 1 worker; 1 of 2 hosts clean"],
        );
        let left: Vec<_> = lab.cluster().places.iter().map(|place| place.host.0.clone()).collect();
        assert_eq!(left, ["tp-test-02"]);
        let record = fs::read_to_string(lab.client_dir().join(".mapreduce/hosts.toml.json")).unwrap();
        assert!(!record.contains("certificate") && record.contains("gone"), "{record}");
        let again = &["no cluster is deployed", "deploy"];
        assert_says(&lab.mapreduce(&["status"]).expect_code(1), again);
        assert_says(&lab.mapreduce(&["run", "hosts.toml", "--servers", "1"]).expect_code(1), again);
        lab.hosts[1].start();
        lab.hosts[1].await_ready();
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn host_that_is_no_longer_named_is_still_cleaned() {
    with_deadline(LIMIT, || {
        let lab = lab(2);
        lab.deploy(&[]).expect_code(0);
        fs::write(lab.client_dir().join("hosts.toml"), "[[host]]\nname = \"tp-test-01\"\n").unwrap();
        let deployed = lab.deploy(&["--remote-dir", "~/elsewhere"]).expect_code(0);
        assert_says(&deployed, &["1 host of a former deployment may still have its workers"]);
        assert_eq!(lab.cluster().workers.len(), 1);
        // What the former deployment had on the first host is gone already.
        assert!(!remote_dir(&lab, 0).exists());
        assert_eq!(lab.worker_processes().len(), 2);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// Ctrl-C while one host hangs: what was started meanwhile is recorded.
#[test]
fn interrupted_deploy_is_cleaned_by_stop() {
    with_deadline(LIMIT, || {
        let lab = lab(3);
        lab.hosts[1].freeze();
        let running = lab.invocation(&["deploy", "--timeout", "60s"]).spawn();
        let record = lab.client_dir().join("hosts.toml");
        let begin = Instant::now();
        while !matches!(Cluster::load(&record), Ok(Some(cluster)) if cluster.workers.len() == 2) {
            assert!(begin.elapsed() < Duration::from_secs(40), "the other hosts are not deployed to");
            std::thread::sleep(Duration::from_millis(20));
        }
        processes::signal(running.pid(), Signal::INT);
        running.wait().expect_code(130);
        lab.hosts[1].thaw();
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn stranger_is_refused_by_the_worker() {
    with_deadline(LIMIT, || {
        let lab = lab(1);
        lab.deploy(&[]).expect_code(0);
        let address: SocketAddr = lab.cluster().workers[0].address;
        let input = lab.client_dir().join("input");
        fs::write(&input, "one two\n").unwrap();
        let workers = address.to_string();
        let run = lab.mapreduce(&["run", "input", "--workers", &workers]).expect_code(1);
        assert_says(&run, &["not a mapreduce worker, or one that wants an encrypted connection"]);
        lab.mapreduce(&["identity", "other.identity"]).expect_code(0);
        let run = lab.mapreduce(&["run", "input", "--workers", &workers, "--identity", "other.identity"]);
        assert_says(&run.expect_code(1), &["its certificate is of another cluster"]);
        let run = lab.mapreduce(&["run", "input"]).expect_code(0);
        assert_eq!(run.stdout, "one\t1\ntwo\t1\n");
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

#[test]
fn without_hosts_there_is_advice() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let deployed = lab.deploy(&[]).expect_code(1);
        assert_says(&deployed, &["hosts.toml", "discover"]);
        let stopped = lab.stop().expect_code(0);
        assert_says(&stopped, &["nothing is deployed"]);
        assert_eq!(entries(&lab.client_dir()).iter().filter(|name| *name == ".mapreduce").count(), 0);
    });
}
