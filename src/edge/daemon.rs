//! Daemon: how a worker that `deploy` starts detaches itself, and what it keeps in its directory.
//!
//! The program is started twice. The first process makes the worker's directory, starts the second and passes its
//! report on; the second leaves the session, keeps no descriptor of it, and is the worker. Orders come on standard
//! input, so no secret is ever on a command line, in the environment or in a file.
//!
//! A worker's directory holds `host` (which machine it is on), `program` (the file it runs), `pid`, `port` and `log`.
//! `remote/clean.sh` reads the first two; their form stays the same in all versions.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use rustix::process::{nice, setsid, umask};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::identity::Identity;
use super::private;

/// What `deploy` tells a worker on standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Who the worker is to the client and its peers; `None` where the user trusts the wire.
    pub identity: Option<Identity>,
    /// The cluster's id.
    pub cluster: String,
    /// The worker's name: its host's, as the user wrote it.
    pub name: String,
    /// Whether this is the second process, which is the worker.
    #[serde(default)]
    pub detached: bool,
}

/// What a worker says once it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: u32,
    pub port: u16,
}

impl Orders {
    /// Reads orders to the end of `from`.
    ///
    /// # Errors
    /// If they cannot be read; the reason does not repeat them.
    pub fn read(from: impl Read) -> anyhow::Result<Orders> {
        let text = private::read(from, ORDERS_LIMIT, ORDERS_LIMIT);
        let text = text.context("reading orders from standard input")?;
        serde_json::from_slice(&text)
            .map_err(|_| anyhow!("standard input holds no orders: `serve --detach` is for `deploy` to use"))
    }

    /// Returns the orders in the form that [`Orders::read`] reads, in one line.
    ///
    /// # Errors
    /// If they cannot be written as JSON.
    pub fn to_line(&self) -> anyhow::Result<Zeroizing<String>> {
        let mut text = private::to_json(self, false).context("writing orders")?;
        text.pop();
        // It stays where it is, and is taken out of what would wipe it for the moment only.
        String::from_utf8(std::mem::take(&mut *text)).map(Zeroizing::new).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            anyhow!("orders are not UTF-8")
        })
    }
}

/// Finds the worker's report in what the remote command printed, for a login shell may print more.
#[must_use]
pub fn find_report(stdout: &[u8]) -> Option<Started> {
    stdout.split(|&byte| byte == b'\n').rev().find_map(|line| serde_json::from_slice(line).ok())
}

/// Makes `directory`, starts the worker with this process's own arguments, and returns its report.
///
/// # Errors
/// If there is such a directory already, or the worker could not start: then its directory is gone again.
pub fn spawn(directory: &Path, orders: Orders) -> anyhow::Result<Started> {
    umask(PRIVATE);
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("creating {}", directory.display()))?;
    let started = start_second(directory, Orders { detached: true, ..orders });
    if started.is_err() {
        // What it logged is part of the error.
        let _ = fs::remove_dir_all(directory);
    }
    started
}

/// The worker's side of its directory.
pub struct Detached {
    directory: PathBuf,
}

impl Detached {
    /// Leaves the session of the first process. Is to be called before any thread is started, for niceness is
    /// inherited by threads started later only.
    ///
    /// # Errors
    /// If the session cannot be left.
    pub fn enter(directory: &Path) -> anyhow::Result<Detached> {
        umask(PRIVATE);
        setsid().context("leaving the session")?;
        // People sit at these machines: they come first, for the processor and for the memory. Refusals are of no
        // consequence.
        let _ = nice(NICENESS);
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        // A file system that holds the working directory of a process cannot be unmounted.
        std::env::set_current_dir("/").context("changing to /")?;
        let null = File::open("/dev/null").context("opening /dev/null")?;
        rustix::stdio::dup2_stdin(null).context("leaving standard input")?;
        Ok(Detached { directory: directory.to_owned() })
    }

    /// Notes process and port, reports them to the first process, and lets go of it.
    ///
    /// # Errors
    /// If the directory cannot be written to, or the first process is gone.
    pub fn report(&self, port: u16) -> anyhow::Result<()> {
        let started = Started { pid: std::process::id(), port };
        write_private(&self.directory.join("pid"), &format!("{}\n", started.pid))?;
        write_private(&self.directory.join("port"), &format!("{port}\n"))?;
        let mut line = serde_json::to_vec(&started)?;
        line.push(b'\n');
        io::stdout().write_all(&line).and_then(|()| io::stdout().flush()).context("reporting")?;
        let null = OpenOptions::new().write(true).open("/dev/null").context("opening /dev/null")?;
        rustix::stdio::dup2_stdout(null).context("leaving standard output")
    }

    /// Removes the directory: the worker ended as it should, so nobody will want its log.
    pub fn remove(self) {
        // It may be gone already: `stop` removes it, too.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Returns a writer of log lines on standard error, each with the time; beyond [`LOG_LIMIT`] bytes it is silent, so
/// that nobody can fill the host's disk by knocking at the port.
pub fn log_to_stderr(limit: u64) -> impl Fn(&str) + Send + Sync + 'static {
    let written = AtomicU64::new(0);
    move |line| {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let text = format!("{time} {}\n", super::sanitize::sanitize(line));
        let before = written.fetch_add(text.len() as u64, Ordering::Relaxed);
        let text = match before {
            before if before >= limit => return,
            before if before + text.len() as u64 >= limit => {
                format!("{time} the log is full and ends here\n")
            }
            _ => text,
        };
        // Where standard error is gone there is nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Bound on the log of a detached worker, in bytes: some hundred thousand lines.
pub const LOG_LIMIT: u64 = 8 << 20;

/// Permissions that files of a worker do not get: all of group and others.
const PRIVATE: rustix::fs::Mode = rustix::fs::Mode::RWXG.union(rustix::fs::Mode::RWXO);

/// As `nice` has it without an option.
const NICENESS: i32 = 10;

/// Half of the scale: of several processes that could be ended for want of memory, the worker is.
const OOM_SCORE: &str = "500";

/// Bound on the length of orders, in bytes; they have some two thousand.
const ORDERS_LIMIT: u64 = 64 << 10;

/// Bound on what the second process may say before it listens, in bytes.
const REPORT_LIMIT: u64 = 4 << 10;

/// Starts the second process and waits for its report.
fn start_second(directory: &Path, orders: Orders) -> anyhow::Result<Started> {
    let program = own_file()?;
    write_private(&directory.join("host"), &format!("{}\n", this_host()))?;
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    write_private(&directory.join("program"), &format!("{name}\n"))?;
    let log_path = directory.join("log");
    let log = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&log_path);
    let log = log.with_context(|| format!("creating {}", log_path.display()))?;
    let mut worker = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let (stdin, stdout) = (worker.stdin.take(), worker.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { bail!("the worker has no pipes") };
    // A worker that ended early says why in its log.
    let _ = stdin.write_all(orders.to_line()?.as_bytes());
    drop(stdin);
    let mut line = Vec::new();
    BufReader::new(stdout.take(REPORT_LIMIT))
        .read_until(b'\n', &mut line)
        .context("reading the worker's report")?;
    if let Some(started) = find_report(&line) {
        return Ok(started);
    }
    // It closed its standard output without a report, so it ends, unless it is broken.
    let _ = worker.kill();
    let _ = worker.wait();
    let said = fs::read_to_string(&log_path).unwrap_or_default();
    match said.trim() {
        "" => bail!("the worker ended without a word"),
        said => bail!("the worker ended: {said}"),
    }
}

/// Returns the file of this program by its name, for the worker then goes by it in lists of processes, too.
fn own_file() -> anyhow::Result<PathBuf> {
    // As it was called: what the system says is of no use if the file was replaced by the same one meanwhile, which
    // happens where hosts share a directory and deploy uploads to all of them.
    match std::env::args_os().next().map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(path),
        _ => std::env::current_exe().context("finding this program's own file"),
    }
}

/// Names this machine, since when it is up, and the space of its process numbers, in the words of `clean.sh`.
fn this_host() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let numbers = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}:{} {node}", boot.trim(), numbers.display())
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::identity::Authority;

    #[test]
    fn orders_survive_the_pipe() {
        let identity = Some(Authority::fresh().unwrap().worker("worker-1.mapreduce").unwrap());
        let orders = Orders { identity, cluster: "c".into(), name: "tp-1".into(), detached: false };
        let line = orders.to_line().unwrap();
        assert!(line.len() as u64 * 4 < ORDERS_LIMIT);
        let read = Orders::read(line.as_bytes()).unwrap();
        assert_eq!((read.identity, read.cluster), (orders.identity, orders.cluster));
        assert_eq!((read.name, read.detached), (orders.name, false));
    }

    #[test]
    fn bad_orders_are_refused_without_repeating_them() {
        let error =
            format!("{:#}", Orders::read(&b"{\"identity\": 7, \"name\": \"s3cret\"}"[..]).unwrap_err());
        assert!(!error.contains("s3cret"), "{error}");
        assert!(Orders::read(&b""[..]).is_err());
    }

    #[test]
    fn report_is_found_among_other_lines() {
        let started = Started { pid: 5, port: 80 };
        let mut text = b"motd {\"pid\":1}\n".to_vec();
        text.extend(serde_json::to_vec(&started).unwrap());
        text.push(b'\n');
        assert_eq!(find_report(&text), Some(started));
        assert_eq!(find_report(b"bash: not found\n"), None);
        assert_eq!(find_report(b"{\"pid\":1,\"port\":70000}\n"), None);
    }

    #[test]
    fn host_is_named_as_the_scripts_name_it() {
        let host = this_host();
        let script =
            "echo \"$(cat /proc/sys/kernel/random/boot_id):$(readlink /proc/self/ns/pid) $(uname -n)\"";
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        assert_eq!(host, String::from_utf8(output.stdout).unwrap().trim_end());
    }
}
