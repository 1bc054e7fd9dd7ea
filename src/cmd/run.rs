//! `run`: runs the job over the input and writes the result.

mod explain;
mod pool;
mod reach;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::edge::input::{Input, Wanted};
use crate::edge::output::{self, Destination, Format, ReportFile};
use crate::edge::ssh::NewHostKeys;
use crate::edge::{machine, progress, random, signals, table};
use crate::job::Job;
use crate::logic::ids::JobId;
use crate::logic::packing::Compress;
use crate::logic::partition::Seed;
use crate::runtime::client::{self, Mailbox, RunSpec};
use crate::runtime::link::MIN_TIMEOUT;
use crate::runtime::local::start_local;
use crate::runtime::source::BadInput;

use super::cli::{CommandError, Console, Exit};
use explain::Told;
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
    /// Files, directories and patterns; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    /// A file with the paths of more; `-` is standard input.
    pub files_from: Option<PathBuf>,
    /// Whether what cannot be read is left out, and said in the end.
    pub skip_bad_input: bool,
    pub hosts: PathBuf,
    pub workers: Workers,
    /// How many of the workers to use, with the others as spares; all if `None`.
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
    /// Whether splits that are late are executed twice.
    pub backups: bool,
    /// Of workers that were started by hand with it.
    pub identity: Option<PathBuf>,
    /// Not to encrypt, although it is not on loopback alone.
    pub plaintext: bool,
    /// To reach deployed workers through SSH, whatever the record says.
    pub via_ssh: bool,
    /// At most this many SSH connections in such a time, where the way leads through SSH.
    pub ssh_rate: Option<(u32, Duration)>,
    /// What becomes of hosts that are not in `known_hosts`, where the way leads through SSH.
    pub new_host_keys: NewHostKeys,
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
    let pool = Pool::choose(options, console)?;
    let input = Input::open(&Wanted {
        files: &options.inputs,
        list: options.files_from.as_deref(),
        travels: !pool.is_in_process(),
        skip_bad: options.skip_bad_input,
    })?;
    let sink = output::open(&options.destination, options.format, J::COLUMNS)?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let (workers, spares) = pool.reach::<J>(options, console)?;
    let spec = RunSpec {
        job: Arc::new(job),
        id: JobId(random::number()?),
        params: wire_params,
        seed: Seed([random::number()?, random::number()?]),
        top: options.top.map(|top| top as u64),
        split_bytes: options.split_size,
        input_bytes: input.total_bytes(),
        input_files: input.files(),
        source: input.clone(),
        spares,
        backups: options.backups,
        skip_bad_input: options.skip_bad_input,
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
        false => connect_links(workers, spares, &input, &mailbox, options)?,
    };
    let names: Vec<String> = match spec.local {
        true => Vec::new(),
        false => links.iter().map(|link| link.name.clone()).collect(),
    };
    let mut progress = progress::for_console(console);
    let ran = client::run(spec, links, mailbox, input.cutter(), sink, &stop, progress.as_mut());
    let mut report =
        ran.map_err(|error| Told { names: &names, source: input.as_ref(), options }.explain(error))?;
    report.bad_inputs.splice(0..0, input.bad());
    console.block(&table::phase_table(&report, J::COLUMNS[0]));
    tell_bad_inputs(&report.bad_inputs, console);
    if let Some(file) = report_file {
        file.write(&report)?;
    }
    Ok(())
}

/// Lines about bad inputs that are shown: the report has all.
const BAD_INPUTS_SHOWN: usize = 20;

/// Says what was left out, also to who wants to hear errors only: the result lacks it.
fn tell_bad_inputs(bad: &[BadInput], console: &Console) {
    for bad in bad.iter().take(BAD_INPUTS_SHOWN) {
        let BadInput { input, offset, bytes, cause } = bad;
        let place = match (bytes, offset) {
            (Some(bytes), _) => format!("{input}, bytes {offset} to {}", offset + bytes),
            (None, 0) => input.clone(),
            (None, _) => format!("{input} from byte {offset} on"),
        };
        console.alarm(&format!("left out {place}: {cause}"));
    }
    if bad.len() > BAD_INPUTS_SHOWN {
        let more = bad.len() - BAD_INPUTS_SHOWN;
        console.alarm(&format!("left out {more} more; the file of --report lists all"));
    }
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
