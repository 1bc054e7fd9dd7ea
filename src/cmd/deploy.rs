//! `deploy`: uploads the program to the hosts, starts a worker on each, and records the cluster.

mod host;
mod journal;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};

use self::host::{Deployed, Deployment, Gate};
use self::journal::{Closed, Journal};
use super::cli::{CommandError, PLAINTEXT_WARNING};
use super::failures;
use super::fanout::{self, Turns};
use crate::edge::cluster::{Cluster, Protection, Record};
use crate::edge::console::Console;
use crate::edge::failure::HostFailure;
use crate::edge::hosts::{Host, HostsFile};
use crate::edge::identity::Authority;
use crate::edge::packed::Packer;
use crate::edge::program::Program;
use crate::edge::ssh::{NewHostKeys, SshOptions};
use crate::edge::table;
use crate::edge::tally::Tally;

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct DeployOptions {
    pub hosts: PathBuf,
    /// The program to upload; this one if `None`.
    pub binary: Option<PathBuf>,
    /// Where the program goes on each host, over the hosts file's; a default if `None`.
    pub remote_dir: Option<String>,
    /// A directory that all hosts share: the program is uploaded once.
    pub shared_dir: Option<String>,
    pub idle_timeout: Duration,
    /// Hosts at a time.
    pub parallel: usize,
    /// Bound on each step.
    pub timeout: Duration,
    pub ssh_rate: Option<(u32, Duration)>,
    /// Not to encrypt what client and workers say.
    pub plaintext: bool,
    /// What becomes of hosts that are not in `known_hosts`.
    pub new_host_keys: NewHostKeys,
    /// Handed on to `serve`.
    pub threads: Option<usize>,
    pub memory: Option<u64>,
}

/// Deploys to every host of the hosts file.
///
/// # Errors
/// If some host could not be deployed to; the others are deployed and recorded.
pub fn deploy(options: &DeployOptions, console: &Console) -> Result<(), CommandError> {
    let hosts = HostsFile::load(&options.hosts)?.hosts()?;
    let program = Program::load(options.binary.as_deref()).map_err(|cause| {
        CommandError::from(cause).advise("--binary FILE, with a static Linux build of this program")
    })?;
    let ssh = SshOptions::from_env(options.timeout, options.new_host_keys);
    let record = Record::hold(&options.hosts)?;
    let former = failures::load_record(&record, console)?;
    let authority = (!options.plaintext).then(Authority::fresh).transpose()?;
    let protection = match &authority {
        Some(authority) => Protection::Encrypted(authority.client()?),
        None => {
            console.alarm(PLAINTEXT_WARNING);
            console.note("`run` must say --insecure-plaintext, too");
            Protection::Plaintext
        }
    };
    let cluster = Cluster::fresh(&program.digest, protection)?;
    console.detail(&format!(
        "deploying {} ({}, SHA-256 {}) to {}",
        program.path.display(),
        table::bytes(program.bytes.len() as u64),
        program.digest,
        table::counted(hosts.len() as u64, "host"),
    ));
    let deployment = Deployment {
        options,
        ssh,
        program,
        packer: Packer::default(),
        former: former.as_ref().map(|former| former.places.clone()).unwrap_or_default(),
        journal: Journal::open(record, former, cluster.clone()),
        wire: cluster.wire()?,
        cluster,
        authority,
        gate: Gate::new(options.shared_dir.is_some()),
        turns: Turns::new(options.ssh_rate),
        sent: AtomicU64::new(0),
    };
    let outcomes = deploy_to_all(&deployment, &hosts, console)?;
    let failed = report(&hosts, outcomes, console);
    let closed = deployment.journal.close()?;
    conclude(hosts.len(), failed, &closed, options, console)
}

fn deploy_to_all(
    deployment: &Deployment,
    hosts: &[Host],
    console: &Console,
) -> anyhow::Result<Vec<Result<Deployed, HostFailure>>> {
    let mut tally = Tally::new(console, "deploy", hosts.len(), "hosts");
    let options = deployment.options;
    let outcomes = fanout::each_in_turn(
        hosts,
        options.parallel,
        &deployment.turns,
        |index, host| deployment.deploy_to(index, host),
        |done| tally.update(done, &sent(deployment.sent.load(Ordering::Relaxed))),
    );
    tally.finish();
    outcomes.context("deploying")
}

fn sent(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!("{} sent", table::bytes(bytes)) }
}

/// Says what came of each host; returns how many failed.
fn report(hosts: &[Host], outcomes: Vec<Result<Deployed, HostFailure>>, console: &Console) -> usize {
    let (mut uploads, mut replaced, mut via_ssh) = (0, 0, 0);
    let mut failed = Vec::new();
    for (host, outcome) in hosts.iter().zip(outcomes) {
        match outcome {
            Ok(deployed) => {
                let program = if deployed.uploaded { "program uploaded" } else { "program was there" };
                console.detail(&format!("{}: ready, {program}", host.name));
                uploads += u64::from(deployed.uploaded);
                replaced += deployed.replaced as u64;
                via_ssh += u64::from(deployed.via_ssh);
            }
            Err(failure) => failed.push(failure),
        }
    }
    let replaced = match replaced {
        0 => String::new(),
        number => format!(", replaced {}", table::counted(number, "older worker")),
    };
    if hosts.len() > failed.len() {
        console.say(&format!("uploaded the program to {}{replaced}", table::counted(uploads, "host")));
    }
    if via_ssh > 0 {
        console.note(&format!(
            "the {} of {} cannot be reached from here: `run` and `status` go through SSH there",
            if via_ssh == 1 { "port" } else { "ports" },
            table::counted(via_ssh, "worker"),
        ));
    }
    let number = failed.len();
    failures::print(failed, console);
    number
}

fn conclude(
    hosts: usize,
    failed: usize,
    closed: &Closed,
    options: &DeployOptions,
    console: &Console,
) -> Result<(), CommandError> {
    if closed.former_hosts > 0 {
        console.note(&format!(
            "{} of a former deployment may still have its workers; `stop` will see to them",
            table::counted(closed.former_hosts as u64, "host"),
        ));
    }
    let ready = closed.ready;
    if failed == 0 {
        console.say(&format!(
            "{ready} of {hosts} hosts are ready; workers end by themselves after {} without a job",
            humantime::format_duration(options.idle_timeout),
        ));
        return Ok(());
    }
    if ready > 0 {
        console.note(&format!("{ready} of {hosts} hosts are ready; `run FILE --servers {ready}` works now"));
    }
    Err(anyhow!("{failed} of {} could not be deployed to", table::counted(hosts as u64, "host")).into())
}
