//! Pool: the workers that a run may use: chosen, reached, linked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};

use crate::edge::cluster::{Cluster, ClusterKey};
use crate::edge::input::Input;
use crate::edge::net;
use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::runtime::client::Mailbox;
use crate::runtime::link::{Connection, Link, connect_link};
use crate::wire::message::{Role, Welcome};

use super::{CommandError, Console, RunOptions, Workers};

/// The workers that there are to choose from.
pub(super) struct Pool {
    /// With what to call each in messages.
    workers: Vec<(String, SocketAddr)>,
    key: Option<ClusterKey>,
    /// Whether those that do not answer may be left out, for nobody named them one by one.
    deployed: bool,
}

/// A worker that has been reached and greeted.
pub(super) struct Reached {
    name: String,
    address: SocketAddr,
    connection: Connection,
    welcome: Welcome,
}

impl Pool {
    /// Finds the workers that the options mean; none for a run in-process.
    pub(super) fn choose(options: &RunOptions, console: &Console) -> Result<Self, CommandError> {
        let in_process = Self { workers: Vec::new(), key: None, deployed: false };
        let pool = match &options.workers {
            Workers::Local => return Ok(in_process),
            Workers::Named(addresses) => {
                let named = addresses.iter().map(|name| Ok((name.clone(), net::resolve(name)?)));
                let workers: Vec<_> = named.collect::<anyhow::Result<_>>()?;
                Self { workers, key: None, deployed: false }
            }
            Workers::Default | Workers::Deployed => match Cluster::load(&options.hosts)? {
                Some(cluster) if !cluster.workers.is_empty() => {
                    let named = cluster.workers.into_iter().map(|worker| (worker.host.0, worker.address));
                    Self { workers: named.collect(), key: Some(cluster.key), deployed: true }
                }
                _ if options.servers.is_some() || options.workers == Workers::Deployed => {
                    let hosts = options.hosts.display();
                    let cause = anyhow!("no cluster is deployed to the hosts of {hosts}");
                    return Err(CommandError::from(cause)
                        .advise("`deploy` first, or `run --local` to use this machine"));
                }
                _ => {
                    console.note("no cluster is deployed: running in-process");
                    return Ok(in_process);
                }
            },
        };
        let wanted = options.servers.unwrap_or(1);
        if pool.workers.len() < wanted {
            let cause = anyhow!("{wanted} servers were asked for, but there are {}", pool.workers.len());
            let most = format!("--servers {}, or discover and deploy more", pool.workers.len());
            return Err(CommandError::from(cause).advise(most));
        }
        Ok(pool)
    }

    /// Connects to all, at once, and keeps as many as are wanted. A deployed worker that does not answer is left out
    /// where that leaves enough; a named one is missed.
    pub(super) fn reach<J: Job>(
        self,
        options: &RunOptions,
        console: &Console,
    ) -> Result<Vec<Reached>, CommandError> {
        let timeout = options.worker_timeout.min(REACH_TIMEOUT);
        let key = self.key.as_ref();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let reaching = self.workers.iter().map(|(name, address)| {
                let reached = scope.spawn(move || net::reach(*address, key, Role::Client, timeout));
                (name, *address, reached)
            });
            let reaching: Vec<_> = reaching.collect();
            let join = |(name, address, thread): (&String, SocketAddr, ScopedJoinHandle<'_, _>)| {
                let reached = thread.join().unwrap_or_else(|_| Err(anyhow!("its thread ended")));
                (name.clone(), address, reached.and_then(knows::<J>))
            };
            reaching.into_iter().map(join).collect()
        });
        let total = answers.len();
        let mut reached = Vec::new();
        let mut silent = Vec::new();
        for (name, address, answer) in answers {
            match answer {
                Ok((connection, welcome)) => reached.push(Reached { name, address, connection, welcome }),
                Err(cause) => silent.push((name, cause)),
            }
        }
        let wanted = options.servers.unwrap_or(if self.deployed { 1 } else { total });
        if reached.len() < wanted {
            return Err(missing(silent, reached.len(), total, self.deployed));
        }
        for (name, cause) in &silent {
            console.warn(&format!("{name} is left out: {cause:#}"));
        }
        reached.truncate(options.servers.unwrap_or(total));
        Ok(reached)
    }
}

/// How long a worker may take to be reached and to answer.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// By how much a connection outlasts the coordinator's patience with its worker.
const DEADLINE_MARGIN: Duration = Duration::from_secs(5);

/// The most threads that a worker may say it has, far more than any machine: windows and partitions go by it.
const MAX_THREADS: u32 = 4096;

/// Checks that a worker knows the job.
fn knows<J: Job>((connection, welcome): (Connection, Welcome)) -> anyhow::Result<(Connection, Welcome)> {
    ensure!(welcome.threads <= MAX_THREADS, "the worker says that it has {} threads", welcome.threads);
    if welcome.jobs.iter().any(|name| name == J::NAME) {
        return Ok((connection, welcome));
    }
    bail!("the worker knows the job {:?}, not {:?}: it runs another program", welcome.jobs, J::NAME)
}

/// Says which workers did not answer, the first cause first.
fn missing(
    silent: Vec<(String, anyhow::Error)>,
    reached: usize,
    total: usize,
    deployed: bool,
) -> CommandError {
    let others: Vec<_> = silent.iter().skip(1).map(|(name, _)| name.as_str()).collect();
    let more = match others.is_empty() {
        true => String::new(),
        false => format!("; nor do {}", others.join(", ")),
    };
    let advice = match (deployed, reached) {
        (true, 0) => "`status` says what runs where; `deploy` starts the workers again".to_owned(),
        (true, _) => format!("run --servers {reached}, or `deploy` to start the workers again"),
        (false, _) => "start each with `serve --port PORT`, and name only those in --workers".to_owned(),
    };
    let mut cause = anyhow!("{reached} of {total} workers answer");
    if let Some((name, first)) = silent.into_iter().next() {
        cause = first.context(format!("{name} does not answer{more}")).context(cause.to_string());
    }
    CommandError::from(cause).advise(advice)
}

/// Makes greeted workers links that report to `mailbox`.
///
/// # Errors
/// If a thread cannot be started.
pub(super) fn connect_links<V: Value>(
    workers: Vec<Reached>,
    input: &Arc<Input>,
    mailbox: &Mailbox<V>,
    timeout: Duration,
) -> anyhow::Result<Vec<Link>> {
    let connect = |(index, worker): (usize, Reached)| {
        let Reached { name, address, connection, welcome } = worker;
        // The coordinator notices a silent worker first, and says so.
        connection.control.set_deadline(timeout + DEADLINE_MARGIN)?;
        let listeners = [mailbox.listener(), mailbox.listener()];
        let id = WorkerId(index as u32);
        connect_link(id, &name, welcome.threads, address.to_string(), connection, input.clone(), listeners)
            .with_context(|| format!("{name}: cannot start a thread"))
    };
    workers.into_iter().enumerate().map(connect).collect()
}
