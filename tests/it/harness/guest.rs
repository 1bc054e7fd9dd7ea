//! Guest: another user on the machine, who has no account: a number that no file and no process is of.
//!
//! It needs root; who is not is told so, loudly, on standard error.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// The number of the user, and of the one group.
pub const ID: u32 = 61_234;

/// What the system says to whom a file is not for.
const DENIED: &str = "Permission denied";

/// Another user. As him, nothing can be done that needs a right of ours.
#[derive(Clone, Copy)]
pub struct Guest(());

impl Guest {
    /// `None` for a user who may not be another, who is told.
    pub fn new() -> Option<Guest> {
        let output = Guest(()).command("id").arg("-G").output();
        let is_guest = |output: &Output| output.stdout == format!("{ID}\n").as_bytes();
        if rustix::process::geteuid().is_root() && output.is_ok_and(|output| is_guest(&output)) {
            return Some(Guest(()));
        }
        let test = thread::current().name().unwrap_or("a test").to_owned();
        // Not by a macro: the test runner would keep it to itself.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** NOT RUN: {test}: needs root (CAP_SETUID, CAP_SETGID) for another user's processes ***"
        );
        None
    }

    /// A command of this user, who is in no group but his own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.uid(ID).gid(ID).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// What he gets of the file `path`; the reason if he does not.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.get(self.command("cat").arg(path))
    }

    /// The names that he sees in the directory `path`.
    pub fn list(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.get(self.command("ls").arg("-A").arg(path))
    }

    /// He cannot get at `path`, be it a file or a directory, and it is there.
    #[track_caller]
    pub fn assert_denied(&self, path: &Path) {
        let file = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let got = if file.is_dir() { self.list(path) } else { self.read(path) };
        match got {
            Err(why) => assert!(why.contains(DENIED), "{}: {why}", path.display()),
            Ok(got) => panic!("{} is open: {}", path.display(), String::from_utf8_lossy(&got)),
        }
    }

    /// He cannot see where the link `path` leads to.
    #[track_caller]
    pub fn assert_link_denied(&self, path: &Path) {
        // `readlink` alone does not say why.
        let got = self.get(self.command("readlink").arg("-v").arg(path));
        assert!(got.as_ref().is_err_and(|why| why.contains(DENIED)), "{}: {got:?}", path.display());
    }

    /// Gives him what is at `path` itself, be it a link.
    pub fn give(&self, path: &Path) {
        lchown(path, Some(ID), Some(ID)).expect("root gives files away");
    }

    /// A process of his that does nothing, with `words` on its command line. End it with [`Child::kill`].
    pub fn idle(&self, words: &[&str]) -> Child {
        let body = "while :; do sleep 1; done";
        self.command("sh").args(["-c", body]).args(words).stdout(Stdio::null()).spawn().expect("a process")
    }

    fn get(&self, command: &mut Command) -> Result<Vec<u8>, String> {
        let output = command.output().expect("a tool of every system");
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// Opens the way to `dirs` for everybody, as it is on shared machines: what is in them must see to itself.
pub fn open_way(dirs: &[&Path]) {
    for dir in dirs {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("a directory of ours");
    }
}

/// Makes `dir` what `/tmp` is.
pub fn make_sticky(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o1777)).expect("a directory of ours");
}

/// All that is in `dirs`, one a line: kind and rights, owner, group, size, links, time, name, where it leads; and what
/// the files hold. Equal if nothing has been changed.
pub fn inventory(dirs: &[PathBuf]) -> String {
    let mut command = Command::new("find");
    command.args(dirs).args(["-printf", "%M %U %G %s %n %T@ %p %l\\n"]);
    let mut text = super::tool(&mut command);
    let files = super::tool(Command::new("find").args(dirs).args(["-type", "f"]));
    for file in files.lines() {
        text += &format!("{file}: {:?}\n", fs::read(file).expect("root reads all"));
    }
    text
}
