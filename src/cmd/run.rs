//! `run`: runs the job over the input and writes the result.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use crate::edge::cluster::{Cluster, ClusterKey};
use crate::edge::input::Input;
use crate::edge::output::{self, Destination, Format};
use crate::edge::{net, progress, signals, table};
use crate::job::{Job, Value};
use crate::logic::coordinator::Failure;
use crate::logic::ids::{JobId, WorkerId};
use crate::logic::partition::Seed;
use crate::runtime::client::{self, Mailbox, RunError, RunSpec};
use crate::runtime::link::{Connection, Link, connect_link};
use crate::runtime::local::start_local;
use crate::runtime::source::SplitSource;
use crate::wire::message::{Role, Welcome};

use super::cli::{CommandError, Console, Exit};

/// Which workers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The deployed cluster, if there is one; else in-process.
    Default,
    /// Those at `HOST:PORT`, resolved by the client.
    Named(Vec<String>),
    /// In-process.
    Local,
}

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Files; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    pub hosts: PathBuf,
    pub workers: Workers,
    /// How many of the workers to use; all if `None`.
    pub servers: Option<usize>,
    pub top: Option<usize>,
    pub destination: Destination,
    pub format: Format,
    /// Chosen from the size of the input if `None`.
    pub split_size: Option<u64>,
    pub report: Option<PathBuf>,
    /// Map threads of the in-process engine; all cores if `None`.
    pub threads: Option<usize>,
    /// How long a worker may be silent before it counts as lost.
    pub worker_timeout: Duration,
}

/// Runs the job.
///
/// # Errors
/// If the result could not be had whole; there is then no output file.
pub fn run<J: Job>(options: &RunOptions, params: J::Params, console: &Console) -> Result<(), CommandError> {
    let began = Instant::now();
    let stop = signals::stop_signal();
    let wire_params = serde_json::to_string(&params).context("the job's parameters have no JSON form")?;
    let job = J::new(params).map_err(|cause| CommandError {
        cause: anyhow!(cause),
        advice: Some("--help says what the job takes".into()),
        exit: Exit::Usage,
    })?;
    let input = Input::open(&options.inputs)?;
    let sink = output::open(&options.destination, options.format, J::COLUMNS)?;
    let pool = Pool::choose(options, console)?;
    let workers = pool.reach::<J>(options, console)?;
    let spec = RunSpec {
        job: Arc::new(job),
        id: JobId(random()?),
        params: wire_params,
        seed: Seed([random()?, random()?]),
        top: options.top.map(|top| top as u64),
        split_bytes: options.split_size,
        input_bytes: input.total_bytes(),
        input_files: input.files(),
        worker_timeout: options.worker_timeout,
        local: workers.is_empty(),
        began,
    };
    let mailbox = Mailbox::default();
    let links = match workers.is_empty() {
        true => vec![start_local(
            spec.job.clone(),
            options.threads.unwrap_or_else(all_cores),
            input.clone(),
            mailbox.listener(),
        )?],
        false => connect_links(workers, &input, &mailbox, options.worker_timeout)?,
    };
    let names: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
    let mut progress = progress::for_console(console);
    let ran = client::run(spec, links, mailbox, input.cutter(), sink, &stop, progress.as_mut());
    let report = ran.map_err(|error| explain(error, &names, &input, options))?;
    console.block(&table::phase_table(&report, J::COLUMNS[0]));
    if let Some(path) = &options.report {
        output::write_report(path, &report)?;
    }
    Ok(())
}

/// The workers that there are to choose from.
struct Pool {
    /// With what to call each in messages.
    workers: Vec<(String, SocketAddr)>,
    key: Option<ClusterKey>,
    /// Whether those that do not answer may be left out, for nobody named them one by one.
    deployed: bool,
}

/// A worker that has been reached and greeted.
struct Reached {
    name: String,
    address: SocketAddr,
    connection: Connection,
    welcome: Welcome,
}

impl Pool {
    /// Finds the workers that the options mean; none for a run in-process.
    fn choose(options: &RunOptions, console: &Console) -> Result<Self, CommandError> {
        let in_process = Self { workers: Vec::new(), key: None, deployed: false };
        let pool = match &options.workers {
            Workers::Local => return Ok(in_process),
            Workers::Named(addresses) => {
                let named = addresses.iter().map(|name| Ok((name.clone(), net::resolve(name)?)));
                let workers: Vec<_> = named.collect::<anyhow::Result<_>>()?;
                Self { workers, key: None, deployed: false }
            }
            Workers::Default => match Cluster::load(&options.hosts)? {
                Some(cluster) if !cluster.workers.is_empty() => {
                    let named = cluster.workers.into_iter().map(|worker| (worker.host.0, worker.address));
                    Self { workers: named.collect(), key: Some(cluster.key), deployed: true }
                }
                _ if options.servers.is_some() => {
                    return Err(CommandError::from(anyhow!("no cluster is deployed to take servers from"))
                        .advise("deploy first, or run without --servers to use this machine"));
                }
                _ => {
                    console.note("no cluster is deployed: running in-process on all cores");
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
    fn reach<J: Job>(self, options: &RunOptions, console: &Console) -> Result<Vec<Reached>, CommandError> {
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

/// Checks that a worker knows the job.
fn knows<J: Job>((connection, welcome): (Connection, Welcome)) -> anyhow::Result<(Connection, Welcome)> {
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

fn connect_links<V: Value>(
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

/// Makes a failure what the user is told: what failed, where, and what to do next.
fn explain(error: RunError, names: &[String], input: &Input, options: &RunOptions) -> CommandError {
    let name = |worker: WorkerId| names.get(worker.index()).map_or("?", String::as_str);
    let (cause, advice) = match error.failure {
        Failure::Interrupted => return CommandError::interrupted(),
        Failure::WorkerLost { worker, phase, cause } => {
            let lost = anyhow!(cause).context(format!("worker {} was lost in {phase}", name(worker)));
            let left = names.len().saturating_sub(1);
            let advice = match options.workers {
                _ if left == 0 => {
                    "`status` says what runs where; `deploy` starts the workers again".to_owned()
                }
                Workers::Named(_) => "run again without it in --workers, or start it again".to_owned(),
                _ => format!("run again with --servers {left}, or `deploy` to start it again"),
            };
            (lost, Some(advice))
        }
        Failure::ExecutionFailed { worker, split, cause } => {
            let place = input.describe(&split);
            let failed = format!("worker {} could not map the split of {place}", name(worker));
            (anyhow!(cause).context(failed), None)
        }
        Failure::Input { cause } => (anyhow!(cause).context("the input cannot be read"), None),
        Failure::Output { cause } => {
            let output = error.output.map_or_else(|| anyhow!(cause), anyhow::Error::from);
            (output.context("the result cannot be written"), None)
        }
    };
    CommandError { cause, advice, exit: Exit::Failure }
}

fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn random() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|error| anyhow!("the system has no random numbers to give: {error}"))
}
