//! `run`: runs the job over the input and writes the result.

mod pool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::edge::input::Input;
use crate::edge::output::{self, Destination, Format, ReportFile};
use crate::edge::{machine, progress, random, signals, table};
use crate::job::Job;
use crate::logic::coordinator::{Failure, Loss};
use crate::logic::ids::{JobId, WorkerId};
use crate::logic::packing::Compress;
use crate::logic::partition::Seed;
use crate::runtime::client::{self, Mailbox, RunError, RunSpec};
use crate::runtime::link::MIN_TIMEOUT;
use crate::runtime::local::start_local;
use crate::runtime::source::SplitSource;

use super::cli::{CommandError, Console, Exit};
use pool::{Pool, connect_links};

/// Which workers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The deployed cluster, if there is one; else in-process.
    Default,
    /// The deployed cluster: the user named its hosts file.
    Deployed,
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
    /// How splits, batches and results travel.
    pub compress: Compress,
}

/// Runs the job.
///
/// # Errors
/// If the result could not be had whole; there is then no output file.
pub fn run<J: Job>(options: &RunOptions, params: J::Params, console: &Console) -> Result<(), CommandError> {
    let began = Instant::now();
    let wire_params = serde_json::to_string(&params).context("the job's parameters have no JSON form")?;
    let job = J::new(params).map_err(|cause| CommandError {
        cause: anyhow!(cause),
        advice: Some("--help says what the job takes".into()),
        exit: Exit::Usage,
    })?;
    check(options)?;
    machine::raise_open_files();
    let input = Input::open(&options.inputs)?;
    let sink = output::open(&options.destination, options.format, J::COLUMNS)?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let pool = Pool::choose(options, console)?;
    let workers = pool.reach::<J>(options, console)?;
    let spec = RunSpec {
        job: Arc::new(job),
        id: JobId(random::number()?),
        params: wire_params,
        seed: Seed([random::number()?, random::number()?]),
        top: options.top.map(|top| top as u64),
        split_bytes: options.split_size,
        input_bytes: input.total_bytes(),
        input_files: input.files(),
        worker_timeout: options.worker_timeout,
        compress: options.compress,
        local: workers.is_empty(),
        began,
    };
    // Until here a signal ends the process at once, which no worker minds: none has a job.
    let stop = signals::stop_signal();
    let mailbox = Mailbox::default();
    let links = match workers.is_empty() {
        true => vec![start_local(
            spec.job.clone(),
            options.threads.unwrap_or_else(machine::threads),
            input.clone(),
            mailbox.listener(),
        )?],
        false => connect_links(workers, &input, &mailbox, options.worker_timeout, options.compress)?,
    };
    let names: Vec<String> = match spec.local {
        true => Vec::new(),
        false => links.iter().map(|link| link.name.clone()).collect(),
    };
    let mut progress = progress::for_console(console);
    let ran = client::run(spec, links, mailbox, input.cutter(), sink, &stop, progress.as_mut());
    let report = ran.map_err(|error| explain(error, &names, &input, options))?;
    console.block(&table::phase_table(&report, J::COLUMNS[0]));
    if let Some(file) = report_file {
        file.write(&report)?;
    }
    Ok(())
}

/// Refuses what cannot be meant.
fn check(options: &RunOptions) -> Result<(), CommandError> {
    if options.worker_timeout < MIN_TIMEOUT {
        let least = MIN_TIMEOUT.as_secs();
        return Err(CommandError::usage(anyhow!(
            "--worker-timeout is at least {least} s: workers beat once a second"
        )));
    }
    if let (Destination::File(output), Some(report)) = (&options.destination, &options.report)
        && output == report
    {
        let name = output.display();
        return Err(CommandError::usage(anyhow!("{name} cannot be both the result and the report")));
    }
    Ok(())
}

/// Makes a failure what the user is told: what failed, where, and what to do next. In-process there are no `names`.
fn explain(error: RunError, names: &[String], input: &Input, options: &RunOptions) -> CommandError {
    let name = |worker: WorkerId| names.get(worker.index()).map_or("?", String::as_str);
    let (cause, advice) = match error.failure {
        Failure::Interrupted => return CommandError::interrupted(),
        Failure::NoWorkerLeft(Loss { phase, cause, .. }) | Failure::GaveUp(Loss { phase, cause, .. })
            if names.is_empty() =>
        {
            (anyhow!(cause).context(format!("the job failed in {phase}")), None)
        }
        Failure::NoWorkerLeft(Loss { worker, phase, cause, accuser, .. })
        | Failure::GaveUp(Loss { worker, phase, cause, accuser, .. }) => {
            let cause = match accuser {
                None => anyhow!(cause),
                Some(peer) => anyhow!(cause).context(format!("worker {} cannot reach it", name(peer))),
            };
            let lost = cause.context(format!("worker {} was lost in {phase}", name(worker)));
            let left = names.len().saturating_sub(1);
            let advice = match options.workers {
                _ if left == 0 => {
                    "`status` says what runs where; `deploy` starts the workers again".to_owned()
                }
                Workers::Named(_) => "run again without it in --workers, or start it again".to_owned(),
                _ => format!(
                    "run again with --servers {left}; or `deploy` to start it again, or without it in the hosts \
                     file if this happens again"
                ),
            };
            (lost, Some(advice))
        }
        Failure::ExecutionFailed { worker, split, cause, .. } => {
            let place = input.describe(&split);
            let failed = match names.is_empty() {
                true => format!("could not map the split of {place}"),
                false => format!("worker {} could not map the split of {place}", name(worker)),
            };
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
