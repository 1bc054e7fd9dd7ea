//! Tests: the scripts, run by this machine's `sh`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::edge::ssh::Upload;

struct Local;

impl Shell for Local {
    fn run(&mut self, command: &str, stdin: &[u8], _: Duration) -> anyhow::Result<CommandOutput> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().unwrap().write_all(stdin)?;
        let output = child.wait_with_output()?;
        Ok(CommandOutput {
            status: output.status.code().unwrap_or(-1),
            signal: None,
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }
}

const DEADLINE: Duration = Duration::from_secs(20);

/// A private place of one test, and a remote directory in it that is not made yet.
fn place() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("remote dir");
    (home, dir)
}

/// What a program of three bytes wants.
fn wanted<'a>(dir: &'a Path, machines: &'a [&'a str]) -> Wanted<'a> {
    Wanted {
        loader: None,
        machines,
        configured: dir.to_str(),
        program: "mapreduce-0123",
        digest: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        tools: &["sh", "no-such-tool", "cat"],
        tag: "7-0",
    }
}

fn prepare(dir: &Path) -> Result<RemoteDir, Failed> {
    super::prepare(&mut Local, &wanted(dir, &["*"]), DEADLINE).map(|(_, dir)| dir.unwrap())
}

fn refusal(dir: &Path) -> String {
    let (step, cause) = prepare(dir).unwrap_err();
    assert!(step == Step::Directory && is_refusal(&cause), "{step}: {cause}");
    cause.to_string()
}

fn clean_all(dir: &Path) -> Cleaned {
    clean(&mut Local, dir.to_str(), Scope::All, DEADLINE).unwrap()
}

/// A process that looks like a worker of `dir`: a shell's arguments are on its command line, too.
struct FakeWorker(Child);

impl FakeWorker {
    fn start(dir: &Path, name: &str, body: &str) -> FakeWorker {
        let worker = dir.join(name);
        fs::create_dir(&worker).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", body, "serve", "--detach"])
            .arg(&worker)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says a line once it is ready for signals.
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        FakeWorker(child)
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const POLITE: &str = "echo; while :; do sleep 0.05; done";
const STUBBORN: &str = "trap '' TERM; echo; while :; do sleep 0.05; done";

#[test]
fn system_is_told() {
    let (_home, dir) = place();
    let wanted = Wanted { loader: Some("/no/such/loader"), ..wanted(&dir, &[]) };
    let (system, found) = super::prepare(&mut Local, &wanted, DEADLINE).unwrap();
    assert_eq!((system.arch.as_str(), found), (std::env::consts::ARCH, None));
    assert!(!system.has_loader && !system.libc.is_empty());
    let wanted = Wanted { loader: Some("/bin/sh"), ..wanted };
    assert!(super::prepare(&mut Local, &wanted, DEADLINE).unwrap().0.has_loader);
    let wanted = Wanted { loader: None, ..wanted };
    assert!(super::prepare(&mut Local, &wanted, DEADLINE).unwrap().0.has_loader);
    assert!(!dir.exists());
}

#[test]
fn directory_is_made_on_the_machines_wanted() {
    let (_home, dir) = place();
    for others in [&["other", "s390*", "x?"][..], &[], &[""], &["/*"]] {
        let (_, found) = super::prepare(&mut Local, &wanted(&dir, others), DEADLINE).unwrap();
        assert!(found.is_none() && !dir.exists(), "{others:?}");
    }
    let start = format!("{}*", &std::env::consts::ARCH[..2]);
    for this in [std::env::consts::ARCH, &start] {
        let found = super::prepare(&mut Local, &wanted(&dir, &["other", this]), DEADLINE).unwrap().1;
        assert!(found.is_some() && dir.exists(), "{this}");
        fs::remove_dir(&dir).unwrap();
    }
}

#[test]
fn directory_is_made_private_and_found_again() {
    let (_home, dir) = place();
    let made = prepare(&dir).unwrap();
    assert_eq!(made.path, fs::canonicalize(&dir).unwrap().to_str().unwrap());
    assert!(made.free_bytes.is_some() && made.digest.is_none());
    assert_eq!(made.tools, ["sh", "cat"]);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let program = dir.join("mapreduce-0123");
    for text in ["", "ab", "abcd", "abd"] {
        fs::write(&program, text).unwrap();
        let found = prepare(&dir).unwrap();
        assert_eq!(found.digest.unwrap(), crate::edge::program::digest_of(text.as_bytes()));
        assert!(found.free_bytes.is_some(), "{text}: there will be an upload");
    }
    fs::write(&program, "abc").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o600)).unwrap();
    let found = prepare(&dir.join("")).unwrap();
    assert_eq!(found.digest.unwrap(), crate::edge::program::digest_of(b"abc"));
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn directory_of_doubtful_kind_is_refused() {
    let (home, dir) = place();
    let own = home.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&own, &dir).unwrap();
    for path in [dir.clone(), dir.join("")] {
        assert!(refusal(&path).contains("symbolic link"), "{}", refusal(&path));
    }
    assert!(refusal(&dir.join(".")).contains("must not have ."));
    assert!(refusal(Path::new("relative/dir")).contains("must be absolute"));
    fs::remove_file(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    assert!(refusal(&dir).contains("not a directory"));
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refusal(&own).contains("permissions 755"), "{}", refusal(&own));
    assert!(refusal(&home.path().join("no/where")).contains("there is no directory"));
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(&home.path().join("new")).contains("everybody may write"));
    assert!(!home.path().join("new").exists());
}

#[test]
fn digest_of_a_file_is_told() {
    let (home, _) = place();
    let file = home.path().join("it's");
    assert!(digest(&mut Local, file.to_str().unwrap(), DEADLINE).is_err());
    fs::write(&file, "abc").unwrap();
    let told = digest(&mut Local, file.to_str().unwrap(), DEADLINE).unwrap();
    assert_eq!(told, crate::edge::program::digest_of(b"abc"));
}

#[test]
fn cleaning_stops_workers_and_leaves_nothing() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let mut polite = FakeWorker::start(&dir, "worker-a-0", POLITE);
    let mut suspended = FakeWorker::start(&dir, "worker-a-1", POLITE);
    let pid = rustix::process::Pid::from_child(&suspended.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    fs::write(dir.join("mapreduce-0123"), "old").unwrap();
    let cleaned = clean_all(&dir);
    assert_eq!(cleaned.stopped, 2);
    assert!(!polite.lives() && !suspended.lives());
    assert!(!dir.exists());
    assert_eq!(clean_all(&dir), Cleaned::default());
}

#[test]
fn stubborn_worker_is_killed_though_its_directory_is_gone() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let mut worker = FakeWorker::start(&dir, "worker-a-0", STUBBORN);
    fs::remove_dir_all(&dir).unwrap();
    let begin = Instant::now();
    assert_eq!(clean_all(&dir).stopped, 1);
    assert!(!worker.lives());
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[test]
fn cleaning_spares_what_is_not_ours() {
    let (home, dir) = place();
    prepare(&dir).unwrap();
    fs::write(dir.join("notes"), "").unwrap();
    symlink(home.path(), dir.join("worker-link")).unwrap();
    symlink(home.path().join("victim"), dir.join("mapreduce-link")).unwrap();
    fs::write(home.path().join("victim"), "").unwrap();
    // Process numbers in files are not believed.
    fs::create_dir(dir.join("worker-a-0")).unwrap();
    fs::write(dir.join("worker-a-0/pid"), std::process::id().to_string()).unwrap();
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut bystander = FakeWorker::start(&other, "worker-a-0", POLITE);
    assert_eq!(clean_all(&dir).stopped, 0);
    assert!(bystander.lives());
    assert!(dir.join("notes").exists() && home.path().join("victim").exists());
    assert!(!dir.join("worker-a-0").exists());
}

#[test]
fn upload_that_lost_its_client_is_ended() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let path = dir.join("mapreduce-0123");
    let (path, part) = (path.to_str().unwrap(), format!("{}.5.part", path.display()));
    let bytes = [0; 1000];
    let upload = Upload {
        bytes: &bytes,
        digest: "",
        packed: None,
        path,
        mode: 0o700,
        stall: DEADLINE,
        progress: &mut |_| (),
    };
    let script = crate::edge::ssh::receive_script(&part, &upload, "cat");
    // A process group of its own, as sshd makes it; an end of input that never comes.
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut upload = FakeWorker(command.spawn().unwrap());
    upload.0.stdin.as_ref().unwrap().write_all(b"half").unwrap();
    while fs::metadata(&part).is_ok_and(|part| part.len() == 0) || !Path::new(&part).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let older = Scope::Older { id: "b", program: "mapreduce-0123" };
    clean(&mut Local, dir.to_str(), older, DEADLINE).unwrap();
    assert!(upload.lives() && Path::new(&part).exists());
    clean_all(&dir);
    let begin = Instant::now();
    while upload.lives() {
        assert!(begin.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!dir.exists());
}

#[test]
fn symbolic_link_as_directory_is_not_cleaned() {
    let (home, dir) = place();
    let own = home.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mapreduce-1"), "").unwrap();
    symlink(&own, &dir).unwrap();
    clean_all(&dir);
    assert!(own.join("mapreduce-1").exists());
}

#[test]
fn deploying_keeps_its_own_workers_and_programs_in_use() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let mut old = FakeWorker::start(&dir, "worker-a-0", POLITE);
    let mut new = FakeWorker::start(&dir, "worker-b-0", POLITE);
    fs::create_dir(dir.join("worker-a-9")).unwrap();
    fs::write(dir.join("worker-a-9/host"), "elsewhere:1 tp-2\n").unwrap();
    fs::write(dir.join("worker-a-9/program"), "mapreduce-used\n").unwrap();
    fs::write(dir.join("worker-b-0/program"), "mapreduce-new\n").unwrap();
    for name in ["mapreduce-new", "mapreduce-new.part", "mapreduce-used", "mapreduce-old"] {
        fs::write(dir.join(name), "").unwrap();
    }
    let older = Scope::Older { id: "b", program: "mapreduce-new" };
    let cleaned = clean(&mut Local, dir.to_str(), older, DEADLINE).unwrap();
    assert_eq!(cleaned, Cleaned { stopped: 1, elsewhere: vec!["tp-2".into()] });
    assert!(!old.lives() && new.lives());
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["mapreduce-new", "mapreduce-new.part", "mapreduce-used", "worker-a-9", "worker-b-0"]);
}

/// A program that keeps what it was given, and says what it was told to.
fn write_program(dir: &Path, body: &str) {
    let program = dir.join("mapreduce-0123");
    fs::write(&program, format!("#!/bin/sh\nPATH=$PATH:/usr/bin:/bin\n{body}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
}

fn start_in(dir: &Path, orders: &str) -> Result<(usize, Started), Failed> {
    let launch = Launch {
        dir: dir.to_str().unwrap(),
        program: "mapreduce-0123",
        id: "b",
        worker: "worker-b-0",
        arguments: "--bind 0.0.0.0 --port 0",
        orders,
    };
    start(&mut Local, &launch, DEADLINE)
}

#[test]
fn worker_is_started_in_the_place_of_older_ones() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let mut old = FakeWorker::start(&dir, "worker-a-0", POLITE);
    fs::write(dir.join("mapreduce-old"), "").unwrap();
    let report = r#"mkdir "$3"; cat >"$3/orders"; echo "$*" >"$3/arguments"; echo '{"pid":7,"port":8}'"#;
    write_program(&dir, report);
    let orders = r#"{"key":"it's $HOME","name":"a \\n \"b\" %s"}"#;
    let (stopped, started) = start_in(&dir, orders).unwrap();
    assert_eq!((stopped, started), (1, Started { pid: 7, port: 8 }));
    assert!(!old.lives() && !dir.join("worker-a-0").exists() && !dir.join("mapreduce-old").exists());
    let worker = dir.join("worker-b-0");
    assert_eq!(fs::read_to_string(worker.join("orders")).unwrap(), format!("{orders}\n"));
    let expected = format!("serve --detach {} --bind 0.0.0.0 --port 0\n", worker.display());
    assert_eq!(fs::read_to_string(worker.join("arguments")).unwrap(), expected);
}

#[test]
fn worker_that_does_not_start_says_why() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let failure = |body: &str| {
        write_program(&dir, body);
        let (step, cause) = start_in(&dir, "{}").unwrap_err();
        assert_eq!(step, Step::Start, "{cause:#}");
        format!("{cause:#}")
    };
    let said = failure("echo 'no port is free' >&2; exit 5");
    assert!(said.contains("status 5") && said.contains("no port is free"), "{said}");
    assert_eq!(failure("echo hello"), "the worker did not report");
    fs::remove_file(dir.join("mapreduce-0123")).unwrap();
    let (step, cause) = start_in(&dir, "{}").unwrap_err();
    assert!(step == Step::Start && format!("{cause:#}").contains("status 127"), "{step}: {cause:#}");
}

#[test]
fn one_worker_is_stopped_alone() {
    let (_home, dir) = place();
    prepare(&dir).unwrap();
    let mut one = FakeWorker::start(&dir, "worker-a-1", POLITE);
    let mut other = FakeWorker::start(&dir, "worker-a-10", POLITE);
    fs::write(dir.join("mapreduce-new"), "").unwrap();
    clean(&mut Local, dir.to_str(), Scope::Worker("worker-a-1"), DEADLINE).unwrap();
    assert!(!one.lives() && other.lives());
    assert!(!dir.join("worker-a-1").exists() && dir.join("worker-a-10").exists());
    assert!(dir.join("mapreduce-new").exists());
}

#[test]
fn noise_of_login_shells_is_no_answer() {
    let answer = Answer::parse(b"Welcome!\nmapreduce:dir=/tmp/a=b\nmapreduce:free_kib=\n\xff\n".to_vec());
    assert_eq!(answer.value("dir"), Some("/tmp/a=b"));
    assert_eq!(answer.value("free_kib"), None);
}

#[test]
fn a_shell_that_runs_nothing_is_quoted() {
    /// An account that is closed.
    struct Closed;
    impl Shell for Closed {
        fn run(&mut self, _: &str, _: &[u8], _: Duration) -> anyhow::Result<CommandOutput> {
            let stdout = b"This account is\x1b[2J currently not available.\n".to_vec();
            Ok(CommandOutput { status: 1, signal: None, stdout, stderr: Vec::new() })
        }
    }
    let error = probe(&mut Closed, "/tmp", DEADLINE).err().unwrap().to_string();
    assert!(error.contains("status 1") && error.contains("currently not available"), "{error}");
    assert!(!error.contains('\u{1b}'));
}

#[test]
fn variables_reach_the_script_as_they_are() {
    for value in ["", "plain", "it's", "''", "a\nb", "$HOME `id` \\", "{\"key\":\"a+/=\"}"] {
        let script = whole_script(&["printf %s \"$value\"\n"], &[("value", value)]);
        assert!(script.capacity() >= script.len());
        let output = Local.run("exec sh", script.as_bytes(), DEADLINE).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), value);
    }
}
