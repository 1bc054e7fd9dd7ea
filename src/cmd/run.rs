//! `run`: runs the job over the input and writes the result.

mod explain;
mod gather;
mod pool;
mod reach;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::edge::elsewhere::Gathered;
use crate::edge::input::{Input, Wanted, is_standard};
use crate::edge::output::{self, Destination, Format, ReportFile};
use crate::edge::ssh::NewHostKeys;
use crate::edge::storage::Places;
use crate::edge::{machine, progress, random, signals, table};
use crate::job::{Job, Value};
use crate::logic::coordinator::Readers;
use crate::logic::ids::JobId;
use crate::logic::limits::Limits;
use crate::logic::packing::Compress;
use crate::logic::partition::Seed;
use crate::runtime::client::{self, Mailbox, RunSpec};
use crate::runtime::link::{Link, MIN_TIMEOUT};
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
    /// Files, directories and patterns that the workers read themselves.
    pub on_workers: Vec<PathBuf>,
    /// Most splits that workers read at a time, all together.
    pub readers: Option<usize>,
    /// A file with the paths of more; `-` is standard input.
    pub files_from: Option<PathBuf>,
    /// Whether what cannot be read is left out, and said in the end.
    pub skip_bad_input: bool,
    pub hosts: PathBuf,
    pub workers: Workers,
    /// How many of the workers to use, with the others as spares; all if `None`.
    pub servers: Option<usize>,
    pub top: Option<usize>,
    /// Only entries that were counted so often, at least.
    pub min_count: Option<u64>,
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
    let job = make_job::<J>(params)?;
    check(job.as_ref(), options)?;
    machine::raise_open_files();
    let gather::Parted { files, listed, places } = gather::part(options)?;
    let pool = Pool::choose(options, console)?;
    let input = Input::open(&Wanted {
        files: &files,
        listed: &listed,
        list_was_standard: options.files_from.as_deref().is_some_and(is_standard),
        travels: !pool.is_in_process(),
        skip_bad: options.skip_bad_input,
    })?;
    let output = output::open(&options.destination, options.format, &job)?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let (mut workers, mut spares) = pool.reach::<J>(options, console)?;
    let storage = Arc::new(Places::new());
    let reached = workers.len();
    let skip_bad = options.skip_bad_input;
    let (found, missed) = gather::find(&places, &mut workers, storage.as_ref(), skip_bad, console)?;
    spares = spares.saturating_sub(reached - workers.len());
    let input = Gathered::new(input, found, missed);
    let spec = RunSpec {
        job,
        id: JobId(random::number()?),
        params: wire_params,
        seed: Seed([random::number()?, random::number()?]),
        limits: Limits { top: options.top.map(|top| top as u64), min_count: options.min_count },
        split_bytes: options.split_size,
        input_bytes: input.total_bytes(),
        input_files: input.files(),
        readers: options.readers.map(|most| Readers { most, first_file: input.first_elsewhere() }),
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
            (options.threads.unwrap_or_else(machine::threads), machine::memory_for_jobs()),
            input.clone(),
            storage,
            mailbox.listener(),
        )?],
        false => connect_links(workers, spares, &input, &mailbox, options)?,
    };
    let names = if spec.local { Vec::new() } else { names_of(&links) };
    let mut progress = progress::for_console(console);
    let ran = client::run(spec, links, mailbox, input.cutter(), output, &stop, progress.as_mut());
    let mut report = ran.map_err(|error| {
        Told { job: J::NAME, names: &names, source: input.as_ref(), options }.explain(error)
    })?;
    report.bad_inputs.splice(0..0, input.bad());
    console.block(&table::phase_table(&report, J::COLUMNS[0]));
    tell_bad_inputs(&report.bad_inputs, console);
    if let Some(file) = report_file {
        file.write(&report)?;
    }
    Ok(())
}

fn names_of(links: &[Link]) -> Vec<String> {
    links.iter().map(|link| link.name.clone()).collect()
}

fn make_job<J: Job>(params: J::Params) -> Result<Arc<J>, CommandError> {
    let made = J::new(params).map(Arc::new);
    made.map_err(|cause| CommandError {
        cause: anyhow!(cause).context(format!("job {}", J::NAME)),
        advice: Some("--help says what the job takes".into()),
        exit: Exit::Usage,
    })
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
fn check<J: Job>(job: &J, options: &RunOptions) -> Result<(), CommandError> {
    if options.worker_timeout < MIN_TIMEOUT {
        let least = MIN_TIMEOUT.as_secs();
        return Err(CommandError::usage(anyhow!(
            "--worker-timeout is at least {least} s: workers beat once a second"
        )));
    }
    let [_, value] = J::COLUMNS;
    if options.min_count.is_some() && !job.counts() {
        let cause = anyhow!("--min-count: job {} finds no counts here, but {value}", J::NAME);
        return Err(CommandError::usage(cause));
    }
    // What several workers make of a key is combined by the client only.
    if options.min_count.is_some() && J::REDUCES {
        return Err(CommandError::usage(anyhow!("--min-count: job {} reduces by itself", J::NAME)));
    }
    if matches!(options.destination, Destination::Directory(_)) && J::REDUCES && !J::Value::LINES {
        return Err(CommandError::usage(anyhow!("--partitioned: job {} reduces by itself", J::NAME)));
    }
    check_output(options)?;
    if let (Destination::File(output), Some(report)) = (&options.destination, &options.report)
        && output == report
    {
        let name = output.display();
        return Err(CommandError::usage(anyhow!("{name} cannot be both the result and the report")));
    }
    Ok(())
}

/// Refuses what cannot be written so.
fn check_output(options: &RunOptions) -> Result<(), CommandError> {
    if let (Destination::Directory(path), Some(_)) = (&options.destination, options.top) {
        let name = path.display();
        return Err(CommandError::usage(anyhow!(
            "--top is of the whole result, of which {name} would have parts"
        )));
    }
    if options.format != Format::Parquet {
        return Ok(());
    }
    if options.destination.is_stdout() {
        let error = CommandError::usage(anyhow!("standard output: Parquet is for files"));
        return Err(error.advise("name one: -o FILE.parquet"));
    }
    match &options.destination {
        Destination::File(path) if output::read_name(path).packing.is_some() => {
            let name = path.display();
            let error = CommandError::usage(anyhow!("{name}: Parquet is packed in itself"));
            Err(error.advise("leave out the last suffix of the file"))
        }
        _ => Ok(()),
    }
}
