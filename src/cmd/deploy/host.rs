//! Host: deploys to one host, in one SSH session.

use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;

use super::DeployOptions;
use super::journal::Journal;
use crate::edge::cluster::{Cluster, DeployedWorker, Place};
use crate::edge::daemon::{self, Orders, Started};
use crate::edge::failure::{HostFailure, Step};
use crate::edge::hosts::Host;
use crate::edge::net;
use crate::edge::program::Program;
use crate::edge::remote::{self, RemoteDir, Scope};
use crate::edge::ssh::{Session, SshOptions, failure_of, quote};
use crate::edge::table;

/// What is the same for all hosts of one deployment.
pub struct Deployment<'a> {
    pub options: &'a DeployOptions,
    pub ssh: SshOptions,
    pub program: Program,
    /// The new cluster, without workers.
    pub cluster: Cluster,
    /// Where something of a former deployment may be.
    pub former: Vec<Place>,
    pub journal: Journal,
    pub gate: Gate,
    /// Bytes uploaded so far, to all hosts.
    pub sent: AtomicU64,
}

/// What came of one host.
pub struct Deployed {
    /// Whether the program was uploaded: it was not there before.
    pub uploaded: bool,
    /// Older workers that were stopped.
    pub replaced: usize,
}

/// Free space beyond the program's own size without which no upload is begun: for pid files and logs.
const SPARE_BYTES: u64 = 1 << 20;

impl Deployment<'_> {
    /// Deploys to `host`, the `index`-th of the hosts file.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn deploy_to(&self, index: usize, host: &Host) -> Result<Deployed, HostFailure> {
        let fail = |step| move |cause: anyhow::Error| HostFailure::new(&host.name, step, cause);
        let configured = self.options.shared_dir.as_ref().or(self.options.remote_dir.as_ref());
        let place = Place::of(host, configured.or(host.remote_dir.as_ref()).cloned());
        let mut session = Session::connect(&place.target(), &self.ssh)?;

        let loader = self.program.loader();
        let system = remote::system(&mut session, loader, self.options.timeout).map_err(fail(Step::Probe))?;
        self.program.check_system(&system).map_err(fail(Step::Architecture))?;

        // While the gate is held, the other hosts wait for the program to appear in the shared directory.
        let turn = self.gate.enter();
        let (dir, place) = self.prepare(&mut session, index, place).map_err(fail(Step::Directory))?;
        let uploaded = self.place_program(&mut session, &dir).map_err(fail(Step::Upload))?;
        self.gate.leave(turn);

        self.journal.begin().map_err(fail(Step::Record))?;
        let replaced = self.replace_older(&mut session, &dir, &place).map_err(fail(Step::Stop))?;
        let worker_name = format!("worker-{}-{index}", self.cluster.id);
        let worker_dir = format!("{}/{worker_name}", dir.path);
        let address = session.host_address();
        let started =
            self.start(&mut session, host, &dir, &worker_dir, address).map_err(fail(Step::Start))?;
        let address = SocketAddr::new(address, started.port);
        let checked = net::ask_status(address, Some(&self.cluster.key), self.options.timeout);
        if let Err(cause) = checked {
            // A worker that nobody reaches would hold the host's memory until it is idle for long enough. If it
            // cannot be stopped now, `stop` will find it.
            let scope = Scope::Worker(&worker_name);
            let _ = remote::clean(&mut session, Some(&dir.path), scope, self.options.timeout);
            return Err(fail(Step::Reach)(cause));
        }
        let worker = DeployedWorker { host: host.name.clone(), address, pid: started.pid, worker_dir };
        self.journal.ready(index, worker).map_err(fail(Step::Record))?;
        Ok(Deployed { uploaded, replaced })
    }

    /// Makes or checks the remote directory; returns it and its place, now by its true path.
    fn prepare(
        &self,
        session: &mut Session,
        index: usize,
        place: Place,
    ) -> anyhow::Result<(RemoteDir, Place)> {
        self.journal.enter(index, place.clone())?;
        let (program, tag) = (self.program.remote_name(), format!("{}-{index}", self.cluster.id));
        let configured = place.remote_dir.as_deref();
        match remote::prepare_directory(session, configured, &program, &tag, self.options.timeout) {
            Ok(dir) => {
                let place = Place { remote_dir: Some(dir.path.clone()), ..place };
                self.journal.enter(index, place.clone())?;
                Ok((dir, place))
            }
            Err(error) => {
                // A refusal leaves nothing; after a cut connection one cannot know.
                if remote::is_refusal(&error) {
                    self.journal.leave(index)?;
                }
                Err(error)
            }
        }
    }

    /// Sees to it that the program is in `dir`, whole; returns whether it had to be uploaded.
    fn place_program(&self, session: &mut Session, dir: &RemoteDir) -> anyhow::Result<bool> {
        if dir.digest.as_ref() == Some(&self.program.digest) {
            return Ok(false);
        }
        let length = self.program.bytes.len() as u64;
        if let Some(free) = dir.free_bytes
            && free < length + SPARE_BYTES
        {
            bail!("{} has {} free, the program needs {}", dir.path, table::bytes(free), table::bytes(length));
        }
        let path = format!("{}/{}", dir.path, self.program.remote_name());
        let mut before = 0;
        let mut progress = |sent: u64| {
            self.sent.fetch_add(sent.saturating_sub(before), Ordering::Relaxed);
            before = sent;
        };
        let mut bytes = Cursor::new(&self.program.bytes);
        session.upload(&mut bytes, length, &path, 0o700, self.options.timeout, &mut progress)?;
        let digest = remote::digest(session, &path, self.options.timeout)?;
        if digest != self.program.digest {
            bail!("{path} has the digest {digest} after the upload instead of {}", self.program.digest);
        }
        Ok(true)
    }

    /// Stops the workers of former deployments on this host, and removes programs that none uses any more.
    fn replace_older(&self, session: &mut Session, dir: &RemoteDir, place: &Place) -> anyhow::Result<usize> {
        let timeout = self.options.timeout;
        let program = self.program.remote_name();
        let older = Scope::Older { id: &self.cluster.id, program: &program };
        let mut stopped = remote::clean(session, Some(&dir.path), older, timeout)?.stopped;
        for former in self.former.iter().filter(|former| former.host == place.host && *former != place) {
            if former.remote_dir.as_deref() != Some(dir.path.as_str()) {
                stopped += remote::clean(session, former.remote_dir.as_deref(), Scope::All, timeout)?.stopped;
            }
            self.journal.forget_former(former);
        }
        Ok(stopped)
    }

    /// Starts the worker and returns its report.
    fn start(
        &self,
        session: &mut Session,
        host: &Host,
        dir: &RemoteDir,
        worker_dir: &str,
        address: IpAddr,
    ) -> anyhow::Result<Started> {
        let name = host.name.0.clone();
        let orders = Orders { key: self.cluster.key.clone(), name, detached: false }.to_bytes()?;
        let program = format!("{}/{}", dir.path, self.program.remote_name());
        let command = start_command(self.options, &program, worker_dir, address);
        let output = session.run(&command, &orders, self.options.timeout)?;
        match daemon::find_report(&output.stdout) {
            Some(started) if output.status == 0 => Ok(started),
            _ => Err(failure_of(&output)),
        }
    }
}

/// Returns the command that starts a worker at an address of the same kind as `address`.
fn start_command(options: &DeployOptions, program: &str, worker_dir: &str, address: IpAddr) -> String {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let idle_ms = options.idle_timeout.as_millis().max(1);
    let mut command = format!(
        "exec {} serve --detach {} --bind {any} --port 0 --idle-timeout {idle_ms}ms",
        quote(program),
        quote(worker_dir)
    );
    if let Some(threads) = options.threads {
        command += &format!(" --threads {threads}");
    }
    if let Some(memory) = options.memory {
        command += &format!(" --memory {memory}");
    }
    command
}

/// With `--shared-dir`, lets one host at a time look for the program, until one has uploaded it.
pub struct Gate {
    /// Whether nobody needs to wait: there is no shared directory, or the program is in it.
    open: AtomicBool,
    /// Held by the host whose turn it is, for as long as its upload takes: that is its purpose.
    turn: Mutex<()>,
}

impl Gate {
    /// Makes a gate, which is open from the start unless a directory is `shared`.
    pub fn new(shared: bool) -> Gate {
        Gate { open: AtomicBool::new(!shared), turn: Mutex::new(()) }
    }

    /// Waits for its turn unless the gate is open. A turn that is dropped because of a failure is the next one's.
    fn enter(&self) -> Option<MutexGuard<'_, ()>> {
        if self.open.load(Ordering::Acquire) {
            return None;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.open.load(Ordering::Acquire)).then_some(turn)
    }

    /// Opens the gate: the program is in place.
    fn leave(&self, turn: Option<MutexGuard<'_, ()>>) {
        self.open.store(true, Ordering::Release);
        drop(turn);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    #[test]
    fn start_command_has_no_secret_and_is_quoted() {
        let options = DeployOptions {
            hosts: PathBuf::from("hosts.toml"),
            binary: None,
            remote_dir: None,
            shared_dir: None,
            idle_timeout: Duration::from_secs(60),
            parallel: 1,
            timeout: Duration::from_secs(1),
            ssh_rate: None,
            threads: Some(3),
            memory: Some(1000),
        };
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let command = start_command(&options, "/tmp/a b/mapreduce-1", "/tmp/a b/worker-1", v6);
        assert_eq!(
            command,
            "exec '/tmp/a b/mapreduce-1' serve --detach '/tmp/a b/worker-1' --bind :: --port 0 \
             --idle-timeout 60000ms --threads 3 --memory 1000"
        );
    }

    #[test]
    fn gate_lets_one_in_until_it_is_open() {
        let gate = Gate::new(true);
        let first = gate.enter();
        assert!(first.is_some());
        assert!(gate.turn.try_lock().is_err());
        drop(first);
        let second = gate.enter();
        gate.leave(second);
        assert!(gate.enter().is_none());
        assert!(Gate::new(false).enter().is_none());
    }
}
