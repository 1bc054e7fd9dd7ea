//! Place: where the commands of a job are executed on a worker: a directory, and a keeper that leaves nothing of them.
//!
//! The keeper is a shell that hears of each process group. When it hears no more, for the worker has ended, however
//! that came, it kills those that are left and removes the directory. So the kernel may kill a worker at any moment.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;
use tempfile::TempDir;

use super::ship::Shipped;

/// What executes commands.
pub(super) const SHELL: &str = "/bin/sh";

/// Hears `+ GROUP` and `- GROUP`, until the end.
const KEEP: &str = r#"trap '' HUP INT TERM
live=' '
while read -r what group; do
  case $what in
  +) live="$live$group " ;;
  -) live="${live%%" $group "*} ${live#*" $group "}" ;;
  esac
done
for group in $live; do kill -s KILL -- "-$group" 2>/dev/null; done
rm -rf -- "$1""#;

/// The directory and the keeper; both go when it is dropped, by when all processes have ended.
pub(super) struct Place {
    dir: TempDir,
    keeper: Child,
    /// `None` once the keeper is to end. A lock: any map thread starts processes.
    told: Mutex<Option<ChildStdin>>,
}

impl Place {
    /// Makes a directory with `files` in it, which nobody else may look at.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn make(files: &[Shipped]) -> Result<Self, String> {
        let parent = std::env::temp_dir();
        let failed = |what: &str, error: io::Error| format!("{}: {what}: {error}", parent.display());
        let private = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("mapreduce-job-").permissions(private).tempdir_in(&parent);
        let dir = dir.map_err(|error| failed("no directory can be made", error))?;
        for file in files {
            let placed = file.place(dir.path());
            placed.map_err(|error| failed(&format!("{:?} cannot be written", file.name()), error))?;
        }
        let mut keeper = Command::new(SHELL);
        keeper.args(["-c", KEEP, SHELL]).arg(dir.path()).current_dir("/").process_group(0);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut keeper = keeper.spawn().map_err(|error| format!("cannot start {SHELL}: {error}"))?;
        let told = Mutex::new(keeper.stdin.take());
        Ok(Self { dir, keeper, told })
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Has the keeper know of a group that is there.
    ///
    /// # Errors
    /// If there is no keeper any more.
    pub(super) fn keep(&self, group: Pid) -> Result<(), String> {
        self.tell('+', group).map_err(|error| format!("the shell that keeps commands has ended: {error}"))
    }

    /// Has the keeper forget a group, before its number may be that of another one.
    pub(super) fn forget(&self, group: Pid) {
        // A keeper that has ended knows of none.
        let _ = self.tell('-', group);
    }

    fn tell(&self, what: char, group: Pid) -> io::Result<()> {
        let line = format!("{what} {}\n", group.as_raw_nonzero());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_mut().map_or(Ok(()), |told| told.write_all(line.as_bytes()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It has nothing to do but to remove the directory.
        self.told.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let _ = self.keeper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_goes_with_the_place() {
        let place = Place::make(&[]).expect("a directory can be made");
        let dir = place.dir().to_owned();
        assert_eq!(std::fs::metadata(&dir).expect("it is there").permissions().mode() & 0o777, 0o700);
        std::fs::write(dir.join("left"), b"behind").expect("it is ours");
        drop(place);
        assert!(!dir.exists());
    }

    #[test]
    fn the_keeper_kills_what_it_was_not_told_to_forget() {
        let place = Place::make(&[]).expect("a directory can be made");
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("100").process_group(0).stdin(Stdio::null());
            let child = command.spawn().expect("there is such a program");
            let group = Pid::from_child(&child);
            place.keep(group).expect("there is a keeper");
            (child, group)
        };
        let [mut first, mut second, mut third] = [start(), start(), start()];
        place.forget(second.1);
        drop(place);
        assert!(!first.0.wait().expect("it is ours").success());
        assert!(!third.0.wait().expect("it is ours").success());
        assert!(second.0.try_wait().expect("it is ours").is_none(), "it was forgotten");
        let _ = second.0.kill();
        let _ = second.0.wait();
    }
}
