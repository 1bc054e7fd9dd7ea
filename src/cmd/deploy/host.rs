//! Host: deploys to one host, in one SSH session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};

use super::DeployOptions;
use super::journal::Journal;
use crate::cmd::fanout::Turns;
use crate::cmd::way;
use crate::edge::cluster::{Cluster, DeployedWorker, Place};
use crate::edge::daemon::{Orders, Started};
use crate::edge::failure::{HostFailure, Step};
use crate::edge::hosts::Host;
use crate::edge::identity::{self, Authority};
use crate::edge::net::{self, Wire};
use crate::edge::packed::{Packer, Packing};
use crate::edge::program::Program;
use crate::edge::remote::{self, Failed, Launch, RemoteDir, Scope, Wanted};
use crate::edge::ssh::{Packed, Session, SshOptions, Upload};
use crate::edge::table;
use crate::wire::message::Role;

/// What is the same for all hosts of one deployment.
pub struct Deployment<'a> {
    pub options: &'a DeployOptions,
    pub ssh: SshOptions,
    pub program: Program,
    pub packer: Packer,
    /// The new cluster, without workers.
    pub cluster: Cluster,
    /// How to speak with its workers.
    pub wire: Wire,
    /// Signs the workers' certificates; `None` without encryption.
    pub authority: Option<Authority>,
    /// Where something of a former deployment may be.
    pub former: Vec<Place>,
    pub journal: Journal,
    pub gate: Gate,
    /// For each login.
    pub turns: Turns,
    /// Bytes uploaded so far, to all hosts.
    pub sent: AtomicU64,
}

/// What came of one host.
pub struct Deployed {
    /// Whether the program was uploaded: it was not there before.
    pub uploaded: bool,
    /// Older workers that were stopped.
    pub replaced: usize,
    /// Whether the worker is reached through SSH only.
    pub via_ssh: bool,
}

/// How long a worker that has just been started may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

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

        // While the gate is held, the other hosts wait for the program to appear in the shared directory.
        let turn = self.gate.enter();
        let (dir, place) =
            self.prepare(&mut session, index, place).map_err(|(step, cause)| fail(step)(cause))?;
        let uploaded = self.place_program(&mut session, &dir).map_err(fail(Step::Upload))?;
        self.gate.leave(turn);

        self.journal.begin().map_err(fail(Step::Record))?;
        let elsewhere = self.stop_elsewhere(&mut session, &dir, &place).map_err(fail(Step::Stop))?;
        let worker_name = format!("worker-{}-{index}", self.cluster.id);
        let address = session.host_address();
        let name = identity::worker_name(index);
        let (replaced, started) = self
            .start(&mut session, host, &dir, (&worker_name, &name), address)
            .map_err(|(step, cause)| fail(step)(cause))?;
        let address = SocketAddr::new(address, started.port);
        let via_ssh = self.check(session, address, &name).map_err(|cause| {
            self.abandon(&place, &dir, &worker_name);
            fail(Step::Reach)(cause)
        })?;
        let worker_dir = format!("{}/{worker_name}", dir.path);
        let worker =
            DeployedWorker { host: host.name.clone(), address, pid: started.pid, worker_dir, name, via_ssh };
        self.journal.ready(index, worker).map_err(fail(Step::Record))?;
        Ok(Deployed { uploaded, replaced: elsewhere + replaced, via_ssh })
    }

    /// Checks that the worker answers: at its port, or else through SSH; tells whether it did so only there.
    fn check(&self, session: Session, address: SocketAddr, name: &str) -> anyhow::Result<bool> {
        let timeout = self.options.timeout.min(CHECK_TIMEOUT);
        let Err(direct) = net::ask_status(address, &self.wire, name, timeout) else { return Ok(false) };
        match way::through(session, address, &self.wire, name, Role::Status, timeout) {
            Ok((connection, _)) => {
                connection.control.close();
                Ok(true)
            }
            Err(through) => Err(direct.context(format!("nor through SSH: {through:#}"))),
        }
    }

    /// Stops a worker that nobody reaches, for it would hold the host's memory until it is idle for long enough. If it
    /// cannot be stopped now, `stop` will find it.
    fn abandon(&self, place: &Place, dir: &RemoteDir, worker: &str) {
        // The check has used up the session; this login counts as another host's.
        self.turns.take();
        if let Ok(mut session) = Session::connect(&place.target(), &self.ssh) {
            let _ = remote::clean(&mut session, Some(&dir.path), Scope::Worker(worker), self.options.timeout);
        }
    }

    /// Makes or checks the remote directory, if the host can run the program; returns it and its place, now by its true
    /// path.
    fn prepare(
        &self,
        session: &mut Session,
        index: usize,
        place: Place,
    ) -> Result<(RemoteDir, Place), Failed> {
        let record = |result: anyhow::Result<()>| result.map_err(|cause| (Step::Record, cause));
        record(self.journal.enter(index, place.clone()))?;
        match self.look(session, index, place.remote_dir.as_deref()) {
            Ok(dir) => {
                let place = Place { remote_dir: Some(dir.path.clone()), ..place };
                record(self.journal.enter(index, place.clone()))?;
                Ok((dir, place))
            }
            Err((step, cause)) => {
                // A refusal leaves nothing; after a cut connection one cannot know.
                if step == Step::Architecture || remote::is_refusal(&cause) {
                    record(self.journal.leave(index))?;
                }
                Err((step, cause))
            }
        }
    }

    fn look(
        &self,
        session: &mut Session,
        index: usize,
        configured: Option<&str>,
    ) -> Result<RemoteDir, Failed> {
        let (program, timeout) = (&self.program, self.options.timeout);
        let (name, tag) = (program.remote_name(), format!("{}-{index}", self.cluster.id));
        let mut wanted = Wanted {
            loader: program.loader(),
            machines: program.machines(),
            configured,
            program: &name,
            digest: &program.digest,
            tools: &Packing::ALL.map(Packing::tool),
            tag: &tag,
        };
        let (system, mut dir) = remote::prepare(session, &wanted, timeout)?;
        program.check_system(&system).map_err(|cause| (Step::Architecture, cause))?;
        if dir.is_none() {
            // The host could not judge by itself.
            wanted.machines = &["*"];
            dir = remote::prepare(session, &wanted, timeout)?.1;
        }
        let unknown = || (Step::Directory, anyhow!("the host does not say where the directory is"));
        dir.ok_or_else(unknown)
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
        let mut progress = |sent: u64| {
            self.sent.fetch_add(sent, Ordering::Relaxed);
        };
        let proven = session.upload(Upload {
            bytes: &self.program.bytes,
            digest: &self.program.digest,
            packed: self.packed_for(session.host_address(), dir),
            path: &path,
            mode: 0o700,
            stall: self.options.timeout,
            progress: &mut progress,
        })?;
        if !proven {
            let digest = remote::digest(session, &path, self.options.timeout)?;
            let wanted = &self.program.digest;
            ensure!(digest == *wanted, "{path} has the digest {digest} after the upload instead of {wanted}");
        }
        Ok(true)
    }

    /// Returns the program packed as the host can unpack it, if that is of use.
    fn packed_for(&self, address: IpAddr, dir: &RemoteDir) -> Option<Packed<'_>> {
        let packing = Packing::choose(address, &dir.tools)?;
        let bytes = self.packer.packed(packing, &self.program.bytes)?;
        Some(Packed { bytes, unpack: packing.unpack() })
    }

    /// Stops the workers that former deployments have on this host in other directories than `dir`.
    fn stop_elsewhere(&self, session: &mut Session, dir: &RemoteDir, place: &Place) -> anyhow::Result<usize> {
        let mut stopped = 0;
        for former in self.former.iter().filter(|former| former.host == place.host && *former != place) {
            if former.remote_dir.as_deref() != Some(dir.path.as_str()) {
                let configured = former.remote_dir.as_deref();
                stopped += remote::clean(session, configured, Scope::All, self.options.timeout)?.stopped;
            }
            self.journal.forget_former(former);
        }
        Ok(stopped)
    }

    /// Starts the worker, whose directory and certificate have these names, in the place of older ones; returns how
    /// many those were, and its report.
    fn start(
        &self,
        session: &mut Session,
        host: &Host,
        dir: &RemoteDir,
        (worker, name): (&str, &str),
        address: IpAddr,
    ) -> Result<(usize, Started), Failed> {
        let identity = self.authority.as_ref().map(|authority| authority.worker(name)).transpose();
        let line = identity.and_then(|identity| {
            let (cluster, name) = (self.cluster.id.clone(), host.name.0.clone());
            Orders { identity, cluster, name, detached: false }.to_line()
        });
        let orders = line.map_err(|cause| (Step::Start, cause))?;
        let launch = Launch {
            dir: &dir.path,
            program: &self.program.remote_name(),
            id: &self.cluster.id,
            worker,
            arguments: &arguments(self.options, address),
            orders: &orders,
        };
        remote::start(session, &launch, self.options.timeout)
    }
}

/// Returns the arguments of `serve` for a worker at an address of the same kind as `address`.
fn arguments(options: &DeployOptions, address: IpAddr) -> String {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let idle_ms = options.idle_timeout.as_millis().max(1);
    let mut arguments = format!("--bind {any} --port 0 --idle-timeout {idle_ms}ms");
    if options.plaintext {
        arguments += " --insecure-plaintext";
    }
    if let Some(threads) = options.threads {
        arguments += &format!(" --threads {threads}");
    }
    if let Some(memory) = options.memory {
        arguments += &format!(" --memory {memory}");
    }
    arguments
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
    fn arguments_are_plain_words() {
        let options = DeployOptions {
            hosts: PathBuf::from("hosts.toml"),
            binary: None,
            remote_dir: None,
            shared_dir: None,
            idle_timeout: Duration::from_secs(60),
            parallel: 1,
            timeout: Duration::from_secs(1),
            ssh_rate: None,
            plaintext: true,
            new_host_keys: Default::default(),
            threads: Some(3),
            memory: Some(1000),
        };
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert_eq!(
            arguments(&options, v6),
            "--bind :: --port 0 --idle-timeout 60000ms --insecure-plaintext --threads 3 --memory 1000"
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
