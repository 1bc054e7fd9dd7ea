//! Arguments: the commands and flags, as clap knows them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::edge::output::Format;
use crate::edge::site;
use crate::edge::ssh::NewHostKeys;
use crate::job::{Job, Jobs};
use crate::logic::packing::{Compress, Packing};

use super::completions::Shell;
use super::{examples, values};

/// Returns the command line of a program called `program` whose job, of all that are in `S`, is `J`.
pub fn command<S: Jobs, J: Job>(program: &str) -> clap::Command {
    let mut command = CommandLine::<J::Params>::command()
        .bin_name(program)
        .display_name(program)
        .about(S::ABOUT)
        .after_help(examples::of_program(program));
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let examples = examples::of_command(&name, program, S::list().len() > 1);
        command = command.mut_subcommand(name, |sub| sub.after_help(examples));
    }
    let jobs = S::list();
    let names: Vec<&str> = jobs.iter().map(|job| job.name).collect();
    let help = format!("Which job to run: {} [default: {}]", names.join(", "), names.first().unwrap_or(&""));
    let about = match J::NAME == names.first().copied().unwrap_or_default() {
        true => "Run a job over files, on the deployed workers or on this machine".to_owned(),
        false => format!("{}: {}", J::NAME, J::ABOUT),
    };
    command.mut_subcommand("run", |run| match jobs.len() {
        1 => run.mut_arg("job", |arg| arg.hide(true)),
        _ => run.about(about).mut_arg("job", |arg| arg.help(help)),
    })
}

#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct CommandLine<P: Args> {
    #[command(flatten)]
    pub voice: Voice,
    #[command(subcommand)]
    pub command: Command<P>,
}

#[derive(Args)]
pub struct Voice {
    /// Say nothing but errors, and that nothing is encrypted
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 100)]
    pub quiet: bool,

    /// Say more
    #[arg(short, long, global = true, display_order = 101)]
    pub verbose: bool,
}

// Parsed once; the size of its largest member does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Subcommand)]
pub enum Command<P: Args> {
    /// Find machines that answer over SSH, and write them to the hosts file
    Discover(Discover),
    /// Upload this program to the hosts and start a worker on each
    Deploy(Deploy),
    /// Run a worker in the foreground
    Serve(Serve),
    /// Make the file with which workers started by hand, and those who use them, know each other
    Identity {
        /// The file to write; it must not be there yet
        file: PathBuf,
    },
    /// Run the job over files, on the deployed workers or on this machine
    Run(Run<P>),
    /// Show what the deployed workers are doing
    Status(Status),
    /// Stop the workers and remove every trace of them from the hosts
    Stop(Stop),
    /// Print the completion script for a shell
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
}

#[derive(Args)]
pub struct Discover {
    /// How many machines are wanted
    #[arg(value_name = "N", value_parser = values::small_count)]
    pub wanted: usize,

    /// Where candidates are listed: the lab's page as JSON or HTML, or a text with one host a line
    #[arg(long, value_name = "URL|FILE", default_value = site::DEFAULT_SOURCE, conflicts_with = "range")]
    pub from: String,

    /// Candidates by pattern, such as 'tp-1a201-[00-30]'
    #[arg(long, value_name = "PATTERN", value_parser = values::plain_text)]
    pub range: Option<String>,

    /// Name to log in with, recorded in the hosts file [default: as ~/.ssh/config says, else yours]
    #[arg(long, value_name = "NAME", value_parser = values::user)]
    pub user: Option<String>,

    /// Added to names without a dot; '' for nothing
    #[arg(long, value_name = "SUFFIX", default_value = ".enst.fr", value_parser = values::suffix)]
    pub suffix: String,

    #[command(flatten)]
    pub hosts: HostsFile,

    /// Bound on each step of a probe
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::duration)]
    pub timeout: Duration,

    /// Machines probed at a time
    #[arg(long, value_name = "K", default_value = "32", value_parser = values::small_count)]
    pub parallel: usize,

    #[command(flatten)]
    pub ssh_rate: SshRate,

    #[command(flatten)]
    pub host_keys: HostKeys,
}

#[derive(Args)]
pub struct Deploy {
    #[command(flatten)]
    pub hosts: HostsFile,

    /// Program to upload: a build for the hosts, where they are not like this machine [default: this program]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,

    /// Directory on the hosts for the program and the workers' files, over the hosts file's
    #[arg(long, value_name = "DIR", value_parser = values::plain_text)]
    pub remote_dir: Option<String>,

    /// Directory that all hosts share (an NFS home, say): the program is uploaded there, once
    #[arg(long, value_name = "DIR", value_parser = values::plain_text, conflicts_with = "remote_dir")]
    pub shared_dir: Option<String>,

    /// Workers end themselves after such a time without a job
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = values::duration)]
    pub idle_timeout: Duration,

    /// Hosts deployed to at a time
    #[arg(long, value_name = "K", default_value = "32", value_parser = values::small_count)]
    pub parallel: usize,

    /// Bound on each step on a host
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = values::duration)]
    pub timeout: Duration,

    #[command(flatten)]
    pub ssh_rate: SshRate,

    #[command(flatten)]
    pub plaintext: Plaintext,

    #[command(flatten)]
    pub host_keys: HostKeys,

    #[command(flatten)]
    pub means: Means,
}

#[derive(Args)]
pub struct Serve {
    /// Port to listen on; 0 takes a free one, which the log names
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub port: u16,

    /// Address to listen on; beyond loopback only with --identity
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub bind: IpAddr,

    /// Encrypt, and serve only who has the same identity file; `identity` makes one
    #[arg(long, value_name = "FILE", conflicts_with = "insecure_plaintext")]
    pub identity: Option<PathBuf>,

    #[command(flatten)]
    pub plaintext: Plaintext,

    /// Let clients that prove nothing run commands and read files here
    #[arg(long)]
    pub allow_commands: bool,

    #[command(flatten)]
    pub means: Means,

    /// End after such a time without a job [default: never]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub idle_timeout: Option<Duration>,

    /// Used by `deploy`: take orders from standard input and go on in the background
    #[arg(long, value_name = "DIR", hide = true)]
    pub detach: Option<PathBuf>,
}

#[derive(Args)]
pub struct Run<P: Args> {
    /// Files, directories, patterns and http(s):// addresses; `-` is standard input. What is compressed with gzip,
    /// bzip2, zstd, xz or lz4 is unpacked
    #[arg(value_name = "FILE", required_unless_present_any = ["files_from", "on_workers"])]
    pub inputs: Vec<PathBuf>,

    /// Read the files that LIST names, one a line or ended by NUL; `-` is standard input
    #[arg(long, value_name = "LIST")]
    pub files_from: Option<PathBuf>,

    /// Files, directories and patterns that the workers read themselves, up to the next flag: each sees them at the
    /// same path
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub on_workers: Vec<PathBuf>,

    /// Read at most K splits at a time of what workers read themselves, all workers together [default: no limit]
    #[arg(long, value_name = "K", value_parser = values::small_count)]
    pub readers: Option<usize>,

    /// Leave out what cannot be read or unpacked, and say so in the end
    #[arg(long)]
    pub skip_bad_input: bool,

    /// Which job to run
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,

    #[command(flatten)]
    pub params: P,

    /// Write only the first K entries of the result; of commands, the first K different lines
    #[arg(long, value_name = "K", value_parser = values::count)]
    pub top: Option<usize>,

    /// Write only entries that were counted K times or more
    #[arg(long, value_name = "K", value_parser = values::count)]
    pub min_count: Option<usize>,

    /// Write the result to FILE, whole or not at all; packed if its name ends with .gz or .zst [default: standard
    /// output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write the result as part-00000.tsv and so on into a new directory, a sorted file for each worker that reduces
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "top"])]
    pub partitioned: Option<PathBuf>,

    /// How the result is written [default: as the suffix of the output file says, else tsv]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<FormatName>,

    /// Write what the run did, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    #[command(flatten)]
    pub hosts: HostsFile,

    /// Use these workers instead of the deployed ones
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        value_parser = values::worker_address,
        conflicts_with_all = ["local", "hosts", "threads"]
    )]
    pub workers: Vec<String>,

    /// Encrypt, with the identity file that the workers of --workers were started with
    #[arg(long, value_name = "FILE", requires = "workers", conflicts_with = "insecure_plaintext")]
    pub identity: Option<PathBuf>,

    #[command(flatten)]
    pub plaintext: Plaintext,

    /// Reach the deployed workers through SSH, where their ports are not reachable from here
    #[arg(long, conflicts_with_all = ["local", "workers"])]
    pub via_ssh: bool,

    #[command(flatten)]
    pub ssh_rate: SshRate,

    #[command(flatten)]
    pub host_keys: HostKeys,

    /// Use this machine only, even where workers are deployed
    #[arg(long, conflicts_with_all = ["hosts", "servers"])]
    pub local: bool,

    /// Use N of the workers, and keep the others for the place of lost ones [default: use all]
    #[arg(long, value_name = "N", value_parser = values::small_count)]
    pub servers: Option<usize>,

    /// Map threads on this machine, where no workers are used [default: all cores]
    #[arg(long, value_name = "N", value_parser = values::small_count)]
    pub threads: Option<usize>,

    /// Input that is mapped at a time [default: by the size of the input]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub split_size: Option<u64>,

    /// How text and results travel over the network; auto measures what is quickest
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub compress: CompressName,

    /// A worker that is silent for such a time counts as lost, and others do its work
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    pub worker_timeout: Duration,

    /// Do not execute late splits twice: for measurements of what that brings
    #[arg(long)]
    pub no_backups: bool,
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    pub hosts: HostsFile,

    /// Bound on the answer of a worker
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::duration)]
    pub timeout: Duration,

    /// Reach the workers through SSH, where their ports are not reachable from here
    #[arg(long)]
    pub via_ssh: bool,

    #[command(flatten)]
    pub ssh_rate: SshRate,

    #[command(flatten)]
    pub host_keys: HostKeys,
}

#[derive(Args)]
pub struct Stop {
    #[command(flatten)]
    pub hosts: HostsFile,

    /// Bound on each step on a host
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    pub timeout: Duration,

    /// Hosts cleaned at a time
    #[arg(long, value_name = "K", default_value = "32", value_parser = values::small_count)]
    pub parallel: usize,

    #[command(flatten)]
    pub ssh_rate: SshRate,

    #[command(flatten)]
    pub host_keys: HostKeys,
}

#[derive(Args)]
pub struct HostsFile {
    /// The hosts file
    #[arg(long, value_name = "FILE", default_value = "hosts.toml")]
    pub hosts: PathBuf,
}

#[derive(Args)]
pub struct SshRate {
    /// Most SSH connections in a time: 5/min is what the lab allows its own machines [default: no limit]
    #[arg(long, value_name = "N/TIME", value_parser = values::rate)]
    pub ssh_rate: Option<(u32, Duration)>,
}

#[derive(Args)]
pub struct Plaintext {
    /// Do not encrypt: for measuring, and for wires that you trust; both sides must say so
    #[arg(long)]
    pub insecure_plaintext: bool,
}

/// What that gives up. It is said also with `-q`.
pub const PLAINTEXT_WARNING: &str = "no encryption: whoever reaches a worker can run jobs there, and whoever sees the \
     network reads the input and can change the result";

#[derive(Args)]
pub struct HostKeys {
    /// Record the key of a host that is not in known_hosts, refuse it, or ask; changed keys are always refused
    #[arg(long, value_enum, value_name = "WHETHER", default_value = "yes")]
    pub accept_new_host_keys: AcceptName,
}

/// What a worker may use of its machine.
#[derive(Args)]
pub struct Means {
    /// Map threads of a worker [default: all cores]
    #[arg(long, value_name = "N", value_parser = values::small_count)]
    pub threads: Option<usize>,

    /// Memory that a worker's jobs may hold, such as 2GB [default: most of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory: Option<u64>,
}

/// Names of the formats. Their variants have no help of their own, which would stretch the help of all flags.
#[derive(Clone, Copy, ValueEnum)]
pub enum FormatName {
    Tsv,
    Csv,
    Json,
    Parquet,
}

/// Names of the packings, and of their choice. They have no help of their own, as the formats.
#[derive(Clone, Copy, ValueEnum)]
pub enum CompressName {
    None,
    Lz4,
    Zstd,
    Auto,
}

/// Whether new host keys are accepted.
#[derive(Clone, Copy, ValueEnum)]
pub enum AcceptName {
    Yes,
    No,
    Ask,
}

impl From<AcceptName> for NewHostKeys {
    fn from(name: AcceptName) -> Self {
        match name {
            AcceptName::Yes => NewHostKeys::Accept,
            AcceptName::No => NewHostKeys::Refuse,
            AcceptName::Ask => NewHostKeys::Ask,
        }
    }
}

impl From<CompressName> for Compress {
    fn from(name: CompressName) -> Self {
        match name {
            CompressName::None => Compress::Always(Packing::Plain),
            CompressName::Lz4 => Compress::Always(Packing::Lz4),
            CompressName::Zstd => Compress::Always(Packing::Zstd),
            CompressName::Auto => Compress::Auto,
        }
    }
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Tsv => Format::Tsv,
            FormatName::Csv => Format::Csv,
            FormatName::Json => Format::Json,
            FormatName::Parquet => Format::Parquet,
        }
    }
}
