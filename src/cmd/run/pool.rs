//! Pool: the workers that a run may use: chosen, reached, linked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use crossbeam_channel::unbounded;

use crate::edge::cluster::{Cluster, ClusterKey};
use crate::edge::input::Input;
use crate::edge::{machine, net};
use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::logic::packing::Chooser;
use crate::runtime::client::Mailbox;
use crate::runtime::link::{Connection, Link, Partner, connect_link};
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

    /// Connects to all, at once. A deployed worker that does not answer is left out where that leaves enough; a named
    /// one is missed. Returns those that answer, and how many last ones of them are more than are wanted.
    pub(super) fn reach<J: Job>(
        self,
        options: &RunOptions,
        console: &Console,
    ) -> Result<(Vec<Reached>, usize), CommandError> {
        let timeout = options.worker_timeout.min(REACH_TIMEOUT);
        let total = self.workers.len();
        let answers = self.ask_all::<J>(timeout, options.servers.unwrap_or(total))?;
        let mut reached = Vec::new();
        let mut silent = Vec::new();
        for ((name, address), answer) in self.workers.into_iter().zip(answers) {
            match answer {
                Some(Ok((connection, welcome))) => {
                    reached.push(Reached { name, address, connection, welcome });
                }
                Some(Err(cause)) => silent.push((name, cause)),
                None => {}
            }
        }
        let wanted = options.servers.unwrap_or(if self.deployed { 1 } else { total });
        if reached.len() < wanted {
            return Err(missing(silent, reached.len(), total, self.deployed));
        }
        for (name, cause) in &silent {
            console.warn(&format!("{name} is left out: {cause:#}"));
        }
        let spares = reached.len().saturating_sub(options.servers.unwrap_or(total));
        Ok((reached, spares))
    }

    /// Greets all at once. Nobody is waited for once `enough` have answered, so that a worker that is frozen does not
    /// hold up a run on the others; `None` for one that was not waited for.
    fn ask_all<J: Job>(&self, timeout: Duration, enough: usize) -> anyhow::Result<Vec<Option<Answer>>> {
        let (sender, receiver) = unbounded();
        for (index, (name, address)) in self.workers.iter().enumerate() {
            let (sender, key, address) = (sender.clone(), self.key.clone(), *address);
            let ask = move || {
                let answer = net::reach(address, key.as_ref(), Role::Client, timeout).and_then(knows::<J>);
                // Nobody listens any more once enough have answered; the connection ends then.
                let _ = sender.send((index, answer));
            };
            std::thread::Builder::new()
                .name(format!("mr:reach:{name}"))
                .spawn(ask)
                .with_context(|| format!("{name}: cannot start a thread"))?;
        }
        drop(sender);
        let mut answers: Vec<Option<Answer>> = self.workers.iter().map(|_| None).collect();
        let (mut reached, mut until) = (0, None);
        loop {
            let heard = match until {
                None => receiver.recv().ok(),
                Some(until) => receiver.recv_deadline(until).ok(),
            };
            let Some((index, answer)) = heard else { return Ok(answers) };
            reached += usize::from(answer.is_ok());
            answers[index] = Some(answer);
            if reached >= enough && until.is_none() {
                until = Some(Instant::now() + REACH_GRACE);
            }
        }
    }
}

/// What came of greeting a worker.
type Answer = anyhow::Result<(Connection, Welcome)>;

/// How long a worker may take to be reached, and then to answer. A worker that was greeted waits longer than both for
/// its job (`runtime::serve`).
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the others may still take when enough workers have answered: the first of the hosts file go before those
/// that merely were quicker.
const REACH_GRACE: Duration = Duration::from_millis(300);

/// By how much a connection outlasts the coordinator's patience with its worker.
const DEADLINE_MARGIN: Duration = Duration::from_secs(5);

/// The most threads that a worker may say it has, far more than any machine: windows and partitions go by it.
const MAX_THREADS: u32 = 4096;

/// Checks that a worker knows the job.
fn knows<J: Job>((connection, welcome): (Connection, Welcome)) -> Answer {
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

/// Makes greeted workers links that report to `mailbox`; `spares` of them are to wait.
///
/// # Errors
/// If a thread cannot be started.
pub(super) fn connect_links<V: Value>(
    workers: Vec<Reached>,
    spares: usize,
    input: &Arc<Input>,
    mailbox: &Mailbox<V>,
    options: &RunOptions,
) -> anyhow::Result<Vec<Link>> {
    let (links, cores) = (workers.len() - spares, machine::threads());
    let connect = |(index, worker): (usize, Reached)| {
        let Reached { name, address, connection, welcome } = worker;
        // The coordinator notices a silent worker first, and says so.
        connection.control.set_deadline(options.worker_timeout + DEADLINE_MARGIN)?;
        let listeners = [mailbox.listener(), mailbox.listener(), mailbox.listener()];
        let chooser = Chooser::new(options.compress, &welcome.known_packings(), links, cores);
        let address = address.to_string();
        let partner = Partner { name: name.clone(), threads: welcome.threads, address, chooser };
        connect_link(WorkerId(index as u32), partner, connection, input.clone(), listeners)
            .with_context(|| format!("{name}: cannot start a thread"))
    };
    workers.into_iter().enumerate().map(connect).collect()
}
