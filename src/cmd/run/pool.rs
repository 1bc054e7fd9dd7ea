//! Pool: the workers that a run may use: chosen, reached, linked.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};

use crate::edge::cluster::{Cluster, DeployedWorker, Protection};
use crate::edge::identity::{SHARED_WORKER_NAME, SharedIdentity};
use crate::edge::input::Input;
use crate::edge::net::{self, Wire};
use crate::edge::tally::Tally;
use crate::edge::tls::Tls;
use crate::edge::{machine, table};
use crate::job::{Job, Value};
use crate::logic::ids::WorkerId;
use crate::logic::packing::Chooser;
use crate::runtime::client::Mailbox;
use crate::runtime::link::{Connection, Link, Partner, connect_link};
use crate::wire::message::{Role, Welcome};

use super::reach::{Call, ask_all};
use super::{CommandError, Console, RunOptions, Workers};
use crate::cmd::cli::PLAINTEXT_WARNING;
use crate::cmd::way::{OpenWay, Way};

/// The workers that there are to choose from.
pub(super) struct Pool {
    workers: Vec<Candidate>,
    wire: Wire,
    /// Whether those that do not answer may be left out, for nobody named them one by one.
    deployed: bool,
}

/// A worker that may be there.
struct Candidate {
    /// What it is called in messages.
    name: String,
    way: Way,
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
        let pool = match &options.workers {
            Workers::Local => Self::in_process(),
            Workers::Named(addresses) => Self::named(addresses, options, console)?,
            Workers::Default | Workers::Deployed => match Cluster::load(&options.hosts)? {
                Some(cluster) if !cluster.workers.is_empty() => Self::deployed(cluster, options, console)?,
                _ if options.servers.is_some() || options.via_ssh || options.workers == Workers::Deployed => {
                    let hosts = options.hosts.display();
                    let cause = anyhow!("no cluster is deployed to the hosts of {hosts}");
                    return Err(CommandError::from(cause)
                        .advise("`deploy` first, or `run --local` to use this machine"));
                }
                _ => {
                    console.note("no cluster is deployed: running in-process");
                    Self::in_process()
                }
            },
        };
        let wanted = options.servers.unwrap_or(1);
        if !pool.workers.is_empty() && pool.workers.len() < wanted {
            let cause = anyhow!("{wanted} servers were asked for, but there are {}", pool.workers.len());
            let most = format!("--servers {}, or discover and deploy more", pool.workers.len());
            return Err(CommandError::from(cause).advise(most));
        }
        Ok(pool)
    }

    /// Tells whether no other process is used.
    pub(super) fn is_in_process(&self) -> bool {
        self.workers.is_empty()
    }

    fn in_process() -> Self {
        Self { workers: Vec::new(), wire: Wire::by_hand(), deployed: false }
    }

    /// Takes workers that were started by hand. Without an identity they are spoken with in plaintext, which beyond
    /// loopback the user must want.
    fn named(addresses: &[String], options: &RunOptions, console: &Console) -> Result<Self, CommandError> {
        let candidate = |name: &String| -> anyhow::Result<Candidate> {
            let way = Way::direct(net::resolve(name)?, SHARED_WORKER_NAME.to_owned());
            Ok(Candidate { name: name.clone(), way })
        };
        let workers: Vec<Candidate> = addresses.iter().map(candidate).collect::<Result<_, _>>()?;
        let far = workers.iter().find(|worker| !worker.way.address.ip().is_loopback());
        let wire = match (&options.identity, far) {
            (Some(file), _) => Wire::Encrypted(Tls::new(&SharedIdentity::load(file)?.client)?),
            (None, Some(worker)) if !options.plaintext => {
                let cause = anyhow!(
                    "{} is not on this machine, and there is no identity to encrypt with",
                    worker.name
                );
                return Err(CommandError::usage(cause)
                    .advise("`identity FILE`, then serve and run with --identity FILE"));
            }
            (None, far) => {
                if far.is_some() {
                    console.alarm(PLAINTEXT_WARNING);
                }
                Wire::by_hand()
            }
        };
        Ok(Self { workers, wire, deployed: false })
    }

    /// Takes the workers of a deployed cluster, with which both sides must want the same.
    fn deployed(cluster: Cluster, options: &RunOptions, console: &Console) -> Result<Self, CommandError> {
        match (&cluster.protection, options.plaintext) {
            // That it is gone is said when it is asked how to speak with it.
            (Protection::Encrypted(_), false) | (Protection::Gone, _) => {}
            (Protection::Plaintext, true) => console.alarm(PLAINTEXT_WARNING),
            (Protection::Encrypted(_), true) => {
                let cause = anyhow!("the cluster was deployed with encryption");
                return Err(CommandError::usage(cause)
                    .advise("leave --insecure-plaintext out, or deploy --insecure-plaintext first"));
            }
            (Protection::Plaintext, false) => {
                let cause = anyhow!("the cluster was deployed with --insecure-plaintext");
                return Err(CommandError::usage(cause)
                    .advise("say so to `run`, too, if you trust the network, or deploy again without"));
            }
        }
        let wire = cluster.wire()?;
        let candidate = |worker: &DeployedWorker| -> anyhow::Result<Candidate> {
            let way = Way::to(worker, &cluster, options.via_ssh, options.new_host_keys)?;
            Ok(Candidate { name: worker.host.0.clone(), way })
        };
        let workers: Vec<Candidate> = cluster.workers.iter().map(candidate).collect::<Result<_, _>>()?;
        let through_ssh = workers.iter().filter(|worker| worker.way.is_ssh()).count();
        if through_ssh > 0 {
            let number = table::counted(through_ssh as u64, "worker");
            console.note(&format!("reaching {number} through SSH"));
        }
        Ok(Self { workers, wire, deployed: true })
    }

    /// Connects to all, at once. A deployed worker that does not answer is left out where that leaves enough; a named
    /// one is missed. Returns those that answer, and how many last ones of them are more than are wanted.
    pub(super) fn reach<J: Job>(
        self,
        options: &RunOptions,
        console: &Console,
    ) -> Result<(Vec<Reached>, usize), CommandError> {
        let total = self.workers.len();
        let answers = self.ask_all::<J>(options, options.servers.unwrap_or(total), console)?;
        let mut reached = Vec::new();
        let mut silent = Vec::new();
        for (worker, answer) in self.workers.into_iter().zip(answers) {
            let Candidate { name, way } = worker;
            match answer {
                Some(Ok((connection, welcome))) => {
                    let address = way.address;
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

    /// Opens the ways to all, then greets them at once; `None` for one that was not waited for, since `enough` others
    /// have answered.
    fn ask_all<J: Job>(
        &self,
        options: &RunOptions,
        enough: usize,
        console: &Console,
    ) -> anyhow::Result<Vec<Option<Answer>>> {
        let timeout = options.worker_timeout.min(GREETING_TIMEOUT);
        let call = |worker: &Candidate| WorkerCall {
            name: worker.name.clone(),
            way: worker.way.clone(),
            wire: self.wire.clone(),
            timeout,
            job: PhantomData::<J>,
        };
        let through_ssh = self.workers.iter().filter(|worker| worker.way.is_ssh()).count();
        let mut tally = (through_ssh > 0).then(|| Tally::new(console, "log in", through_ssh, "hosts"));
        let calls = self.workers.iter().map(call).collect();
        let mut told = 0;
        let watch = |logins| {
            if let Some(tally) = tally.as_mut().filter(|_| logins > told) {
                told = logins;
                tally.update(logins, "");
            }
        };
        let answers = ask_all(calls, options.ssh_rate, enough, watch);
        tally.into_iter().for_each(Tally::finish);
        answers
    }
}

/// What is done about one worker.
struct WorkerCall<J> {
    name: String,
    way: Way,
    wire: Wire,
    timeout: Duration,
    job: PhantomData<J>,
}

impl<J: Job> Call for WorkerCall<J> {
    type Open = OpenWay;
    type Answer = (Connection, Welcome);

    fn name(&self) -> &str {
        &self.name
    }

    fn logs_in(&self) -> bool {
        self.way.is_ssh()
    }

    fn open(&self) -> anyhow::Result<OpenWay> {
        self.way.open()
    }

    fn tend(&self, way: &mut OpenWay) -> anyhow::Result<()> {
        way.tend()
    }

    fn greet(&self, way: OpenWay) -> Answer {
        way.greet(&self.wire, Role::Client, self.timeout).and_then(knows::<J>)
    }
}

/// What came of greeting a worker.
type Answer = anyhow::Result<(Connection, Welcome)>;

/// How long a worker may take to be connected to, and then to answer. All are greeted at once, when nothing but that is
/// left to be done, for one that was greeted waits no longer than a minute for its job (`runtime::serve::job`).
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

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
