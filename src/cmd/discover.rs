//! `discover`: finds machines that answer and writes them to the hosts file.

mod show;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use crate::edge::console::Console;
use crate::edge::failure::{HostFailure, HostName};
use crate::edge::hosts::{Facts, Host, HostsFile};
use crate::edge::name;
use crate::edge::output;
use crate::edge::probe;
use crate::edge::site::{self, Listing};
use crate::edge::ssh::{NewHostKeys, SshOptions};
use crate::edge::sweep::{SweepOptions, Swept, sweep};

use super::cli::CommandError;
use show::{Show, reasons};

/// What to do when the list of machines cannot be had.
const OTHER_SOURCES: &str = "--from FILE with one host a line, or --range 'tp-1a201-[00-30]'";

/// Bound on a request for the list of machines, where `--timeout` is shorter: a page is more than a handshake.
const MIN_FETCH: Duration = Duration::from_secs(15);

/// Steps of a probe that `--timeout` bounds one by one: resolving, connecting, the handshake, logging in with a few
/// keys, the script.
const STEPS: u32 = 6;

/// How long the user may take to type a password, while the probes wait.
const TYPING: Duration = Duration::from_secs(180);

/// Where candidates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address or a file: JSON, HTML or a text list, told apart by content.
    From(String),
    /// Such as `tp-1a201-[00-30]`.
    Range(String),
}

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct DiscoverOptions {
    /// How many hosts are wanted.
    pub wanted: usize,
    pub source: Source,
    pub user: Option<String>,
    /// Added to short names.
    pub suffix: String,
    pub hosts: PathBuf,
    /// Bound on each step of a probe.
    pub timeout: Duration,
    /// Probes at a time.
    pub parallel: usize,
    /// At most this many SSH connections in such a time (`--ssh-rate 5/min`).
    pub ssh_rate: Option<(u32, Duration)>,
    /// What becomes of hosts that are not in `known_hosts`.
    pub new_host_keys: NewHostKeys,
}

/// Probes candidates until enough answered, writes the hosts file, and prints the names of the hosts found.
///
/// # Errors
/// If fewer than `options.wanted` answered (those are written), or nothing could be probed or written.
pub fn discover(options: &DiscoverOptions, console: &Console) -> Result<(), CommandError> {
    // Before anything is asked: a file that cannot be read again must not cost a sweep.
    let file = open(options)?;
    let listing = list(options, console)?;
    let candidates = candidates(&listing, options, &file);
    let how = SweepOptions {
        wanted: options.wanted,
        parallel: options.parallel,
        rate: options.ssh_rate,
        patience: patience(options),
    };
    let mut show = Show::begin(console, candidates.len(), options.wanted);
    let (ssh, deadline) = (SshOptions::from_env(options.timeout, options.new_host_keys), options.timeout);
    let swept =
        sweep(candidates, how, move |host| probe::probe(host, &ssh, deadline), |heard| show.hear(&heard));
    show.end();
    let dropped = write(options, &swept.found)?;
    print_names(&swept.found)?;
    conclude(options, console, &swept, dropped)
}

fn open(options: &DiscoverOptions) -> Result<HostsFile, CommandError> {
    let mut file = HostsFile::load_or_new(&options.hosts)?;
    if let Some(user) = &options.user {
        file.set_default_user(user);
    }
    Ok(file)
}

fn list(options: &DiscoverOptions, console: &Console) -> Result<Listing, CommandError> {
    let listing = match &options.source {
        Source::Range(range) => site::from_range(range).map_err(CommandError::usage)?,
        Source::From(source) => site::from_source(source, options.timeout.max(MIN_FETCH))
            .map_err(|cause| CommandError::from(cause).advise(OTHER_SOURCES))?,
    };
    show::listing(console, &listing);
    if listing.up.is_empty() {
        let cause = anyhow!("none of the {} machines listed is up", listing.down);
        return Err(CommandError::from(cause).advise(OTHER_SOURCES));
    }
    Ok(listing)
}

/// The hosts to probe, with what the hosts file says about each.
fn candidates(listing: &Listing, options: &DiscoverOptions, file: &HostsFile) -> Vec<Host> {
    let full = |short: &str| HostName(name::with_suffix(short, &options.suffix));
    let mut hosts: Vec<Host> = Vec::with_capacity(listing.up.len());
    let mut seen = std::collections::HashSet::new();
    for candidate in &listing.up {
        let name = full(&candidate.name);
        if seen.insert(name.clone()) {
            hosts.push(file.host(&name));
        }
    }
    hosts
}

/// How long one probe may take in all. Each step of it has a bound of its own; this is for what none of them covers.
fn patience(options: &DiscoverOptions) -> Duration {
    // The user is asked about one host after the other.
    let questions = match options.new_host_keys {
        _ if !io::stdin().is_terminal() => 0,
        NewHostKeys::Ask => u32::try_from(options.parallel).unwrap_or(u32::MAX),
        NewHostKeys::Accept | NewHostKeys::Refuse => 1,
    };
    options.timeout.saturating_mul(STEPS).saturating_add(TYPING.saturating_mul(questions))
}

/// Records what was found, and returns how many earlier finds were dropped. Where nothing was found, the file is left
/// as it is: a network that is down for an hour must not empty it.
fn write(options: &DiscoverOptions, found: &[(HostName, Facts)]) -> Result<usize, CommandError> {
    if found.is_empty() {
        return Ok(0);
    }
    // Read again: the user may have edited it while hosts were probed.
    let mut file = open(options)?;
    let dropped = file.record(found);
    file.save()
        .map_err(|cause| CommandError::from(cause).advise("--hosts FILE, with FILE where you may write"))?;
    Ok(dropped)
}

/// A reader that has seen enough is no failure; the file is written.
fn print_names(found: &[(HostName, Facts)]) -> Result<(), CommandError> {
    let names: String = found.iter().map(|(name, _)| format!("{}\n", name.0)).collect();
    match output::print(names.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Says what came of it; fewer hosts than wanted are a failure.
fn conclude(
    options: &DiscoverOptions,
    console: &Console,
    swept: &Swept,
    dropped: usize,
) -> Result<(), CommandError> {
    let (found, wanted, path) = (swept.found.len(), options.wanted, options.hosts.display());
    let failed = reasons(&swept.failed);
    if found >= wanted {
        show::written(console, found, &path.to_string(), dropped);
        if let Some(failed) = failed {
            console.say(&failed);
        }
        return Ok(());
    }
    let outcome = match found {
        0 => format!("no host answered, {wanted} wanted; nothing was written to {path}"),
        _ => format!("only {found} of {wanted} hosts answered; {path} holds those"),
    };
    let cause = match (failed, swept.refused) {
        (Some(failed), true) => anyhow!("{failed}").context("gave up, for every host refuses the login"),
        (Some(failed), false) => anyhow!("{failed}"),
        (None, _) => anyhow!("there were no more candidates"),
    };
    Err(CommandError::from(cause.context(outcome)).advise(advice(options, swept)))
}

/// Advice for the step that most hosts failed at.
fn advice(options: &DiscoverOptions, swept: &Swept) -> String {
    let mut most: Option<(usize, &HostFailure)> = None;
    for failure in &swept.failed {
        let count = swept.failed.iter().filter(|other| other.step == failure.step).count();
        if most.is_none_or(|(other, _)| count > other) {
            most = Some((count, failure));
        }
    }
    match most {
        Some((_, failure)) => failure.advice(),
        None => format!("more candidates: {}", more_candidates(options)),
    }
}

fn more_candidates(options: &DiscoverOptions) -> &'static str {
    match options.source {
        Source::Range(_) => "a wider --range, or the lab's page (no --range)",
        Source::From(_) => OTHER_SOURCES,
    }
}
