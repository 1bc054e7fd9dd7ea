//! `serve`: a worker, in the foreground for debugging by hand, or detached by `deploy`.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::Receiver;

use super::cli::{CommandError, PLAINTEXT_WARNING};
use crate::edge::console::Console;
use crate::edge::daemon::{self, Detached, Orders};
use crate::edge::identity::SharedIdentity;
use crate::edge::net::{self, Wire};
use crate::edge::signals::stop_signal;
use crate::edge::tls::Tls;
use crate::edge::{machine, output};
use crate::job::Jobs;
use crate::runtime::serve::{Log, WorkerOptions};

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub port: u16,
    /// Loopback unless told otherwise.
    pub bind: IpAddr,
    /// Map threads; all cores if `None`.
    pub threads: Option<usize>,
    /// Bytes that jobs may hold; most of the machine's memory if `None`.
    pub memory: Option<u64>,
    /// Ends the worker after such a time without a job; never if `None`.
    pub idle_timeout: Option<Duration>,
    /// Says who the worker is, and whom it serves.
    pub identity: Option<PathBuf>,
    /// Not to encrypt, wherever it listens.
    pub plaintext: bool,
    /// To let clients that prove nothing run commands and read files, too.
    pub allow_commands: bool,
    /// Set by `deploy` only: the worker's own directory. The worker reads its start-up orders (JSON) from standard
    /// input, detaches itself, and reports port and pid as one line of JSON on standard output.
    pub detach: Option<PathBuf>,
}

/// Runs a worker.
///
/// # Errors
/// If the port cannot be had.
pub fn serve<S: Jobs>(options: &ServeOptions, console: &Console) -> Result<(), CommandError> {
    match &options.detach {
        None => in_foreground::<S>(options, console),
        Some(directory) => {
            let orders = Orders::read(std::io::stdin().lock())?;
            if orders.detached {
                Ok(detached::<S>(options, directory, orders)?)
            } else {
                let started = daemon::spawn(directory, orders)?;
                let mut line = serde_json::to_vec(&started).context("reporting the worker")?;
                line.push(b'\n');
                Ok(output::print(&line)?)
            }
        }
    }
}

fn in_foreground<S: Jobs>(options: &ServeOptions, console: &Console) -> Result<(), CommandError> {
    let wire = wire_by_hand(options, console)?;
    let stop = stop_signal();
    let (listener, address) = listen(options)?;
    let log: Log = if console.quiet { Box::new(|_| {}) } else { Box::new(daemon::log_to_stderr(u64::MAX)) };
    let work = worker_options(options, address.to_string(), String::new());
    log(&format!(
        "listening on {address}: {} threads, {} for jobs; `run FILE --workers {address}{}` uses it",
        work.threads,
        crate::edge::table::bytes(work.memory),
        options.identity.as_ref().map_or_else(String::new, |file| format!(" --identity {}", file.display())),
    ));
    serve_until::<S>(listener, wire, work, stop.clone(), log)?;
    // A worker that ended by itself was idle; one that was told to is interrupted.
    if stop.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
        return Ok(());
    }
    Err(CommandError::interrupted())
}

/// Says how a worker that was started by hand speaks. Without an identity anybody may use it who reaches it, so that on
/// loopback alone it needs no leave.
fn wire_by_hand(options: &ServeOptions, console: &Console) -> Result<Wire, CommandError> {
    if let Some(file) = &options.identity {
        return Ok(Wire::Encrypted(Tls::new(&SharedIdentity::load(file)?.worker)?));
    }
    if !options.bind.is_loopback() {
        if !options.plaintext {
            let cause = anyhow!("without an identity, a worker listens on loopback only");
            return Err(CommandError::usage(cause)
                .advise("`identity FILE`, then serve --identity FILE, or deploy, which does all that"));
        }
        console.alarm(PLAINTEXT_WARNING);
    }
    Ok(Wire::by_hand())
}

fn detached<S: Jobs>(options: &ServeOptions, directory: &Path, orders: Orders) -> anyhow::Result<()> {
    // The identity is wiped here, not when the worker ends.
    let wire = match orders.identity {
        Some(identity) => Wire::Encrypted(Tls::new(&identity)?),
        None if options.plaintext => Wire::Plaintext { cluster: orders.cluster.clone() },
        None => bail!("there is no identity among the orders"),
    };
    let stop = stop_signal();
    let detached = Detached::enter(directory)?;
    let (listener, address) = listen(options)?;
    let log: Log = Box::new(daemon::log_to_stderr(daemon::LOG_LIMIT));
    let work = worker_options(options, orders.name, orders.cluster);
    log(&format!("worker of {} listening on {address}: {} threads", work.name, work.threads));
    detached.report(address.port())?;
    serve_until::<S>(listener, wire, work, stop, log)?;
    detached.remove();
    Ok(())
}

fn listen(options: &ServeOptions) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let wanted = SocketAddr::new(options.bind, options.port);
    machine::raise_open_files();
    let listener = TcpListener::bind(wanted).with_context(|| format!("cannot listen on {wanted}"))?;
    let address = listener.local_addr().context("asking for the port")?;
    Ok((listener, address))
}

fn worker_options(options: &ServeOptions, name: String, cluster: String) -> WorkerOptions {
    WorkerOptions {
        name,
        cluster,
        threads: options.threads.unwrap_or_else(machine::threads),
        memory: options.memory.unwrap_or_else(machine::memory_for_jobs),
        idle_timeout: options.idle_timeout,
        allow_commands: options.allow_commands,
        resident_bytes: machine::resident_bytes,
    }
}

fn serve_until<S: Jobs>(
    listener: TcpListener,
    wire: Wire,
    options: WorkerOptions,
    stop: Receiver<()>,
    log: Log,
) -> anyhow::Result<()> {
    net::serve::<S>(listener, wire, options, stop, log).context("serving")
}
