//! Processes: finds and ends the processes of a lab, by the lab's directory in their environment or command line.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::MARKER;

/// A process, as `/proc` tells.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub name: String,
    pub command_line: String,
}

impl Process {
    pub fn is_sshd(&self) -> bool {
        self.name.starts_with("sshd")
    }
}

/// Returns the living processes that belong to the lab in `root`, without this one.
pub fn marked(root: &Path) -> Vec<Process> {
    let root = root.to_string_lossy().into_owned();
    let marker = format!("{MARKER}={root}");
    all()
        .into_iter()
        .filter(|process| process.pid != std::process::id() && belongs(process, &root, &marker))
        .collect()
}

/// Returns the children of `pid`, their children, and so on.
pub fn descendants(pid: u32) -> Vec<Process> {
    let everyone = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in everyone.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// Waits until the lab has no process any more; returns those that are left after `grace`.
pub fn await_none(root: &Path, grace: Duration) -> Vec<Process> {
    let started = Instant::now();
    loop {
        let left = marked(root);
        if left.is_empty() || started.elapsed() > grace {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills every process of the lab, sessions of its sshds included.
pub fn kill_all(root: &Path) {
    for process in marked(root) {
        for pid in freeze_tree(process.pid, |_| true) {
            signal(pid, Signal::KILL);
        }
    }
}

/// Stops `pid` and those of its descendants that `belongs` chooses, so that none of them forks any more, and returns
/// them.
pub fn freeze_tree(pid: u32, belongs: impl Fn(&Process) -> bool) -> Vec<u32> {
    let mut frozen = vec![pid];
    signal(pid, Signal::STOP);
    loop {
        let mut more: Vec<u32> = descendants(pid).iter().filter(|p| belongs(p)).map(|p| p.pid).collect();
        more.retain(|pid| !frozen.contains(pid));
        if more.is_empty() {
            return frozen;
        }
        more.iter().for_each(|pid| signal(*pid, Signal::STOP));
        frozen.extend(more);
    }
}

/// Sends a signal to one process; one that has ended is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn belongs(process: &Process, root: &str, marker: &str) -> bool {
    let proc_dir = format!("/proc/{}", process.pid);
    process.command_line.contains(root)
        || fs::read(format!("{proc_dir}/environ")).is_ok_and(|environ| {
            environ.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
        })
        || fs::read_link(format!("{proc_dir}/cwd")).is_ok_and(|cwd| cwd.starts_with(root))
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc, by which the harness finds leftover processes");
    entries.flatten().filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Reads one process; `None` if it has ended, also if it is a zombie.
fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold spaces and parentheses itself.
    let (front, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let name = front.split_once('(')?.1.to_string();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
    (!matches!(state, "Z" | "X")).then_some(Process { pid, parent, name, command_line })
}
