//! Planted: what another user puts where our directory is to be is named, and neither followed, changed nor removed.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mapreduce::edge::remote::{self, Scope, Shell, Wanted};
use mapreduce::edge::ssh::CommandOutput;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{LIMIT, remote_dir, shared_lab};
use crate::deploy::{Deployed, assert_says};
use crate::harness::guest::{Guest, inventory, make_sticky};
use crate::harness::{LabOptions, entries, tool, with_deadline};

/// Makes a directory with such rights.
fn make_dir(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory of ours that looks like a remote directory: whoever follows a link to it would take it for one.
fn make_victim(path: &Path) {
    make_dir(path, 0o700);
    make_dir(&path.join("worker-1-0"), 0o700);
    fs::write(path.join("worker-1-0/log"), "precious").unwrap();
    for name in ["mapreduce-old", "try-1", "diary"] {
        fs::write(path.join(name), "precious").unwrap();
    }
}

/// What is planted, by the words with which it is refused.
type Plant<'a> = (&'static str, &'a dyn Fn(&Path));

/// Puts each plant on a host of its own, and deploys to all.
fn refuse_all(guest: Guest, victim_dir: &str, plants: &[Plant]) {
    let lab = shared_lab(LabOptions { hosts: plants.len(), ..LabOptions::default() });
    let victim = lab.root().join(victim_dir);
    make_victim(&victim);
    let mut watched = vec![victim.clone()];
    for (host, (_, plant)) in lab.hosts.iter().zip(plants) {
        let path = remote_dir(host);
        plant(&path);
        guest.give(&path);
        watched.push(host.tmp.clone());
    }
    let before = inventory(&watched);
    let deployed = lab.deploy(&[]).expect_code(1);
    for (host, (words, _)) in lab.hosts.iter().zip(plants) {
        let path = remote_dir(host);
        let failure = format!("error: {}: could not prepare the remote directory", host.alias);
        assert_says(&deployed, &[&failure, &format!("cause: {} {words}", path.display())]);
    }
    let advice = deployed.stderr.lines().filter(|line| line.contains("try: --remote-dir DIR")).count();
    assert_eq!(advice, plants.len(), "{}", deployed.stderr);
    assert_says(&deployed, &["(61234)"]);
    assert_eq!(inventory(&watched), before);
    // Nothing is recorded; what is gone by is the hosts file.
    let stopped = lab.stop().expect_code(0);
    assert_says(&stopped, &["stopped 0 workers"]);
    assert_eq!(inventory(&watched), before);
}

#[test]
fn whatever_is_planted_is_refused_and_left_as_it_is() {
    with_deadline(LIMIT, || {
        let Some(guest) = Guest::new() else { return };
        let victim = |path: &Path| path.ancestors().nth(3).unwrap().join("victim");
        let plants: [Plant; 10] = [
            ("belongs to another user", &|path| make_dir(path, 0o700)),
            ("belongs to another user", &|path| make_dir(path, 0o777)),
            ("is a symbolic link, which is not followed", &|path| symlink(victim(path), path).unwrap()),
            ("is a symbolic link, which is not followed", &|path| symlink("/etc", path).unwrap()),
            ("is a symbolic link, which is not followed", &|path| {
                symlink(victim(path).join("diary"), path).unwrap();
            }),
            ("is a symbolic link, which is not followed", &|path| {
                symlink(path.with_extension("x"), path).unwrap()
            }),
            ("is a symbolic link, which is not followed", &|path| symlink(path, path).unwrap()),
            ("is not a directory but a file", &|path| fs::write(path, "boo").unwrap()),
            ("is not a directory but a named pipe", &|path| _ = tool(Command::new("mkfifo").arg(path))),
            ("is not a directory but a socket", &|path| drop(UnixListener::bind(path).unwrap())),
        ];
        refuse_all(guest, "victim", &plants);
    });
}

/// Where the system lets users make hard links to files of others, one may lead to a file of ours.
#[test]
fn hard_link_to_a_file_of_ours_is_refused() {
    with_deadline(LIMIT, || {
        if Guest::new().is_none() {
            return;
        }
        let lab = shared_lab(LabOptions { hosts: 1, ..LabOptions::default() });
        let (diary, path) = (lab.root().join("diary"), remote_dir(&lab.hosts[0]));
        fs::write(&diary, "precious").unwrap();
        fs::hard_link(&diary, &path).unwrap();
        let before = inventory(&[lab.hosts[0].tmp.clone(), diary.clone()]);
        let deployed = lab.deploy(&[]).expect_code(1);
        assert_says(&deployed, &["is not a directory but a file", "try: --remote-dir DIR"]);
        lab.stop().expect_code(0);
        assert_eq!(inventory(&[lab.hosts[0].tmp.clone(), diary]), before);
    });
}

/// Others may have put something there as long as it was open to all.
#[test]
fn directory_that_was_open_to_others_is_refused_and_what_they_put_there_stays() {
    with_deadline(LIMIT, || {
        let Some(guest) = Guest::new() else { return };
        let lab = shared_lab(LabOptions { hosts: 1, ..LabOptions::default() });
        lab.deploy(&[]).expect_code(0);
        let program = format!("mapreduce-{}", &lab.cluster().digest[..16]);
        lab.stop().expect_code(0);
        let dir = remote_dir(&lab.hosts[0]);
        make_dir(&dir, 0o777);
        make_dir(&dir.join("worker-9-9"), 0o777);
        // Who opens it waits for ever.
        for name in ["worker-9-9/program", "worker-9-9/host"] {
            tool(Command::new("mkfifo").arg(dir.join(name)));
        }
        symlink("/etc", dir.join("worker-8-8")).unwrap();
        fs::write(dir.join("mapreduce-old"), "boo").unwrap();
        fs::write(dir.join(&program), "boo").unwrap();
        for name in entries(&dir) {
            guest.give(&dir.join(name));
        }
        let before = inventory(std::slice::from_ref(&dir));
        let deployed = lab.deploy(&[]).expect_code(1);
        assert_says(&deployed, &[&format!("{} has permissions 777 instead of 700", dir.display())]);
        lab.stop().expect_code(0);
        assert_eq!(inventory(std::slice::from_ref(&dir)), before);

        // Made private, it is as good as its contents.
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let deployed = lab.deploy(&[]).expect_code(1);
        assert_says(&deployed, &[&format!("{}/{program} is not a file of ours", dir.display())]);
        fs::remove_file(dir.join(&program)).unwrap();
        let before = inventory(&[dir.join("worker-9-9"), dir.join("worker-8-8"), dir.join("mapreduce-old")]);
        lab.deploy(&[]).expect_code(0);
        lab.stop().expect_code(0);
        let after = inventory(&[dir.join("worker-9-9"), dir.join("worker-8-8"), dir.join("mapreduce-old")]);
        assert_eq!(after, before);
        assert_eq!(entries(&dir), ["mapreduce-old", "worker-8-8", "worker-9-9"]);
    });
}

/// Places where somebody could exchange our directory for his own, whatever we make it.
#[test]
fn directory_in_a_place_of_others_is_refused() {
    with_deadline(LIMIT, || {
        let Some(guest) = Guest::new() else { return };
        let lab = shared_lab(LabOptions { hosts: 1, ..LabOptions::default() });
        let place = |name: &str, mode| {
            let path = lab.root().join(name);
            make_dir(&path, mode);
            make_dir(&path.join("ours"), 0o755);
            path
        };
        let refused = |dir: &Path, words: &str| {
            let deployed = lab.deploy(&["--remote-dir", dir.to_str().unwrap()]).expect_code(1);
            assert_says(&deployed, &["could not prepare the remote directory", words]);
            assert!(!dir.exists());
        };
        let open = place("open", 0o777);
        refused(&open.join("mr"), &format!("everybody may write to {}", open.display()));
        refused(&open.join("ours/mr"), &format!("everybody may write to {}", open.display()));
        let his = place("his", 0o755);
        guest.give(&his);
        refused(&his.join("mr"), &format!("{} belongs to another user", his.display()));
        refused(&his.join("ours/mr"), &format!("{} belongs to another user", his.display()));
        let group = place("group", 0o775);
        std::os::unix::fs::chown(&group, None, Some(61_234)).unwrap();
        refused(&group.join("ours/mr"), &format!("the group 61234 may write to {}", group.display()));
        // A link that leads there is one of his words, too.
        symlink(&his, lab.root().join("link")).unwrap();
        refused(&lab.root().join("link/ours/mr"), &format!("{} belongs to another user", his.display()));
        let sticky = place("sticky", 0o1777);
        lab.deploy(&["--remote-dir", sticky.join("mr").to_str().unwrap()]).expect_code(0);
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// Who knows how a worker is called can call his own process so; root could end it.
#[test]
fn processes_of_others_that_look_like_ours_live_on() {
    with_deadline(LIMIT, || {
        let Some(guest) = Guest::new() else { return };
        let lab = shared_lab(LabOptions { hosts: 1, ..LabOptions::default() });
        let dir = remote_dir(&lab.hosts[0]);
        let worker = format!("{}/worker-1-0", dir.display());
        let upload = format!("umask 077; t='{}/mapreduce-1.part'; while :; do sleep 1; done", dir.display());
        let mut fakes = [
            guest.idle(&["serve", "--detach", &worker]),
            guest.command("sh").args(["-c", &upload]).stdout(Stdio::null()).spawn().unwrap(),
        ];
        for _ in 0..2 {
            let deployed = lab.deploy(&[]).expect_code(0);
            assert!(!deployed.stderr.contains("replaced 2"), "{}", deployed.stderr);
        }
        let stopped = lab.stop().expect_code(0);
        assert_says(&stopped, &["stopped 1 worker; 1 of 1 host clean"]);
        for fake in &mut fakes {
            assert!(fake.try_wait().unwrap().is_none(), "another user's process was ended");
            fake.kill().unwrap();
            fake.wait().unwrap();
        }
        lab.assert_nothing_left();
    });
}

/// This machine's shell.
struct Local;

impl Shell for Local {
    fn run(&mut self, command: &str, stdin: &[u8], _: Duration) -> anyhow::Result<CommandOutput> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = shell.spawn()?;
        child.stdin.take().expect("a pipe").write_all(stdin)?;
        let output = child.wait_with_output()?;
        let status = output.status.code().unwrap_or(-1);
        Ok(CommandOutput { status, signal: None, stdout: output.stdout, stderr: output.stderr })
    }
}

/// Exchanges two names for each other as fast as can be, until `over`.
fn exchange(one: PathBuf, other: PathBuf, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)
            .expect("a file system that exchanges names");
    }
}

/// Ends what goes on beside a test, also when that fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A name that is now his directory, now a link to one of ours: whatever is looked at, something else is there next.
#[test]
fn name_that_changes_between_two_looks_is_never_trusted() {
    with_deadline(LIMIT, || {
        let Some(guest) = Guest::new() else { return };
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let (tmp, victim) = (place.join("tmp"), place.join("victim"));
        fs::create_dir(&tmp).unwrap();
        make_sticky(&tmp);
        make_victim(&victim);
        let (name, other) = (tmp.join("mr"), tmp.join("other"));
        make_dir(&name, 0o700);
        symlink(&victim, &other).unwrap();
        guest.give(&name);
        guest.give(&other);
        let before = inventory(std::slice::from_ref(&victim));
        let over = AtomicBool::new(false);
        let limit = Duration::from_secs(20);
        thread::scope(|scope| {
            scope.spawn(|| exchange(name.clone(), other.clone(), &over));
            let _at_end = AtEnd(&over);
            for _ in 0..150 {
                remote::clean(&mut Local, name.to_str(), Scope::All, limit)
                    .expect("nothing is ours to clean");
                let wanted = Wanted {
                    loader: None,
                    machines: &["*"],
                    configured: name.to_str(),
                    program: "mapreduce-0123",
                    digest: "",
                    tools: &[],
                    tag: "1",
                };
                let (_, cause) =
                    remote::prepare(&mut Local, &wanted, limit).expect_err("it is not to be trusted");
                assert!(remote::is_refusal(&cause), "{cause:#}");
            }
        });
        assert_eq!(inventory(std::slice::from_ref(&victim)), before);
        let his = if name.is_symlink() { other } else { name };
        assert_eq!(entries(&his), Vec::<String>::new());
    });
}
