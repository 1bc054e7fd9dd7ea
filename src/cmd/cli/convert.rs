//! Convert: from what clap parsed to the plain structs that the commands take.

use std::io::IsTerminal;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use crate::cmd::deploy::DeployOptions;
use crate::cmd::discover::{DiscoverOptions, Source};
use crate::cmd::identity::IdentityOptions;
use crate::cmd::run::{RunOptions, Workers};
use crate::cmd::serve::ServeOptions;
use crate::cmd::status::StatusOptions;
use crate::cmd::stop::StopOptions;
use crate::edge::output::{Destination, Format};

use super::args::{Command, CommandLine, Deploy, Discover, Run, Serve, Status, Stop};
use super::{Console, completions};

/// A command line that was understood.
pub struct Parsed<P> {
    pub console: Console,
    pub action: Action<P>,
}

/// What is to be done.
pub enum Action<P> {
    Discover(DiscoverOptions),
    Deploy(DeployOptions),
    Serve(ServeOptions),
    Identity(IdentityOptions),
    Run(Box<RunOptions>, P),
    Status(StatusOptions),
    Stop(StopOptions),
    /// Prints a text that is known already.
    Print(Vec<u8>),
}

/// Converts the matches of `command`, the command line of `program`.
///
/// # Errors
/// If `matches` are not those of `command`.
pub fn convert<P: clap::Args>(
    matches: &ArgMatches,
    command: &mut clap::Command,
    program: &str,
) -> Result<Parsed<P>, clap::Error> {
    let line = CommandLine::<P>::from_arg_matches(matches).map_err(|error| error.format(command))?;
    let console = Console::new(line.voice.quiet, line.voice.verbose);
    let action = match line.command {
        Command::Discover(args) => Action::Discover(discover(args)),
        Command::Deploy(args) => Action::Deploy(deploy(args)),
        Command::Serve(args) => Action::Serve(serve(args)),
        Command::Identity { file } => Action::Identity(IdentityOptions { file }),
        Command::Run(args) => {
            let (mut options, params) = run(args, std::io::stdout().is_terminal());
            if options.workers == Workers::Default && is_given(matches, "run", "hosts") {
                options.workers = Workers::Deployed;
            }
            Action::Run(Box::new(options), params)
        }
        Command::Status(args) => Action::Status(status(args)),
        Command::Stop(args) => Action::Stop(stop(args)),
        Command::Completions { shell } => Action::Print(completions::script(shell, command, program)),
    };
    Ok(Parsed { console, action })
}

fn discover(args: Discover) -> DiscoverOptions {
    DiscoverOptions {
        wanted: args.wanted,
        source: args.range.map_or(Source::From(args.from), Source::Range),
        user: args.user,
        suffix: args.suffix,
        hosts: args.hosts.hosts,
        timeout: args.timeout,
        parallel: args.parallel,
        ssh_rate: args.ssh_rate.ssh_rate,
        new_host_keys: args.host_keys.accept_new_host_keys.into(),
    }
}

fn deploy(args: Deploy) -> DeployOptions {
    DeployOptions {
        hosts: args.hosts.hosts,
        binary: args.binary,
        remote_dir: args.remote_dir,
        shared_dir: args.shared_dir,
        idle_timeout: args.idle_timeout,
        parallel: args.parallel,
        timeout: args.timeout,
        ssh_rate: args.ssh_rate.ssh_rate,
        plaintext: args.plaintext.insecure_plaintext,
        new_host_keys: args.host_keys.accept_new_host_keys.into(),
        threads: args.means.threads,
        memory: args.means.memory,
    }
}

fn serve(args: Serve) -> ServeOptions {
    ServeOptions {
        port: args.port,
        bind: args.bind,
        threads: args.means.threads,
        memory: args.means.memory,
        idle_timeout: args.idle_timeout,
        identity: args.identity,
        plaintext: args.plaintext.insecure_plaintext,
        detach: args.detach,
    }
}

fn run<P: clap::Args>(args: Run<P>, terminal: bool) -> (RunOptions, P) {
    let workers = match (args.local, args.workers) {
        (true, _) => Workers::Local,
        (false, named) if named.is_empty() => Workers::Default,
        (false, named) => Workers::Named(named),
    };
    let format = args.format.map(Format::from);
    let guessed = args.output.as_deref().map_or(Format::Tsv, format_of);
    let destination = match args.output {
        Some(path) if path == Path::new("-") => Destination::Stdout,
        Some(path) => Destination::File(path),
        None if terminal && format.is_none() => Destination::Table,
        None => Destination::Stdout,
    };
    let top = match destination {
        Destination::Table => args.top.or(Some(TABLE_ENTRIES)),
        _ => args.top,
    };
    let options = RunOptions {
        inputs: args.inputs,
        files_from: args.files_from,
        skip_bad_input: args.skip_bad_input,
        hosts: args.hosts.hosts,
        workers,
        servers: args.servers,
        top,
        destination,
        format: format.unwrap_or(guessed),
        split_size: args.split_size,
        report: args.report,
        threads: args.threads,
        worker_timeout: args.worker_timeout,
        compress: args.compress.into(),
        backups: !args.no_backups,
        identity: args.identity,
        plaintext: args.plaintext.insecure_plaintext,
        via_ssh: args.via_ssh,
        ssh_rate: args.ssh_rate.ssh_rate,
        new_host_keys: args.host_keys.accept_new_host_keys.into(),
    };
    (options, args.params)
}

/// Tells whether the user gave `flag` of `command`, rather than its default being in force.
fn is_given(matches: &ArgMatches, command: &str, flag: &str) -> bool {
    let source = matches.subcommand_matches(command).and_then(|matches| matches.value_source(flag));
    source == Some(ValueSource::CommandLine)
}

/// Entries that a terminal is shown without `--top`: what fits a small window beside the phase table.
const TABLE_ENTRIES: usize = 20;

/// Guesses the format of an output file from the suffix of its name.
fn format_of(path: &Path) -> Format {
    let suffix = path.extension().map(|suffix| suffix.to_ascii_lowercase());
    match suffix.as_deref().and_then(|suffix| suffix.to_str()) {
        Some("csv") => Format::Csv,
        Some("json" | "jsonl" | "ndjson") => Format::Json,
        _ => Format::Tsv,
    }
}

fn status(args: Status) -> StatusOptions {
    StatusOptions {
        hosts: args.hosts.hosts,
        timeout: args.timeout,
        via_ssh: args.via_ssh,
        ssh_rate: args.ssh_rate.ssh_rate,
        new_host_keys: args.host_keys.accept_new_host_keys.into(),
    }
}

fn stop(args: Stop) -> StopOptions {
    StopOptions {
        hosts: args.hosts.hosts,
        timeout: args.timeout,
        parallel: args.parallel,
        ssh_rate: args.ssh_rate.ssh_rate,
        new_host_keys: args.host_keys.accept_new_host_keys.into(),
    }
}
