//! SSH: sessions to hosts, over libssh2.
//!
//! Invariant: one session, one thread. Every call has a deadline; dropping a session never waits.

mod auth;
pub mod config;
mod connection;
mod exec;
mod jump;
mod keys;
pub mod known_hosts;
mod login;
mod pattern;
mod prompt;
mod tcp;
mod upload;

use std::env;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};

use self::connection::{Connection, Deadline};
use self::exec::{Patience, Source};
use self::known_hosts::{KnownHosts, PublicKey, Verdict};
use self::login::Login;
use super::failure::{HostFailure, HostName, Step};
pub use connection::CallError;
pub use exec::quote;
#[cfg(test)]
pub(crate) use upload::receive_script;
pub use upload::{Packed, Upload};

/// A host to log in to, as the hosts file and the command line say; `~/.ssh/config` fills in the rest.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: HostName,
    pub user: Option<String>,
    pub port: Option<u16>,
    /// The configured key, tried before the default ones.
    pub key: Option<PathBuf>,
}

/// What is the same for all sessions of one command.
#[derive(Clone, Debug)]
pub struct SshOptions {
    /// Bound on connecting, on the handshake and on each authentication.
    pub timeout: Duration,
    /// `~/.ssh/config` unless told otherwise (`MAPREDUCE_SSH_CONFIG`).
    pub config: Option<PathBuf>,
    /// `~/.ssh/known_hosts` unless told otherwise (`MAPREDUCE_KNOWN_HOSTS`).
    pub known_hosts: Option<PathBuf>,
}

impl SshOptions {
    /// Takes the files from the environment, if it names any.
    pub fn from_env(timeout: Duration) -> SshOptions {
        let file = |variable| env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        SshOptions {
            timeout,
            config: file("MAPREDUCE_SSH_CONFIG"),
            known_hosts: file("MAPREDUCE_KNOWN_HOSTS"),
        }
    }
}

/// An authenticated SSH session to one host.
pub struct Session {
    connection: Connection,
    address: IpAddr,
}

/// What a remote command left.
#[derive(Debug)]
pub struct CommandOutput {
    /// The exit status; 128 and its number for a signal, as in a shell.
    pub status: i32,
    /// The signal that ended it, such as `KILL`.
    pub signal: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Session {
    /// Connects, checks the host key, logs in; through jump hosts where `~/.ssh/config` names some.
    ///
    /// # Errors
    /// With the step that failed and its cause. A failure of a jump host is one of the host behind.
    pub fn connect(target: &Target, options: &SshOptions) -> Result<Session, HostFailure> {
        open(target, options).map_err(|(step, cause)| HostFailure { host: target.host.clone(), step, cause })
    }

    /// Returns the address of the host: the one connected to, or, behind a jump host, the one that the host's sshd
    /// saw the connection come in at.
    pub fn host_address(&self) -> IpAddr {
        self.address
    }

    /// Runs `command` in the remote shell with `stdin` as its standard input.
    ///
    /// # Errors
    /// If it has not ended by `deadline` (the session is then unusable), or the connection broke.
    pub fn run(&mut self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<CommandOutput> {
        let source = Source { from: &mut &*stdin, progress: &mut |_| () };
        exec::run(&mut self.connection, command, source, Patience::Whole(deadline))
    }

    /// Writes a remote file, atomically; tells whether the host has proven its digest, for which some have no tool.
    ///
    /// # Errors
    /// If the file could not be written whole; then there is no file at its path of ours.
    pub fn upload(&mut self, file: Upload<'_>) -> anyhow::Result<bool> {
        upload::upload(&mut self.connection, file)
    }
}

impl CommandOutput {
    /// Passes the output on if the command succeeded.
    ///
    /// # Errors
    /// With its status and what it wrote to standard error.
    pub fn success(self) -> anyhow::Result<CommandOutput> {
        if self.status == 0 { Ok(self) } else { Err(failure_of(&self)) }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What failed on the way, and why.
type Failed = (Step, anyhow::Error);

fn at<E: Into<anyhow::Error>>(step: Step) -> impl FnOnce(E) -> Failed {
    move |error| (step, error.into())
}

fn open(target: &Target, options: &SshOptions) -> Result<Session, Failed> {
    let route = login::route(target, options).map_err(at(Step::Configure))?;
    let mut behind: Option<(Connection, &Login)> = None;
    let mut address = None;
    for (index, login) in route.iter().enumerate() {
        let is_jump = index + 1 < route.len();
        let gate = is_jump.then(|| jump::Gate::enter(&login.host_name, login.port));
        let mut step = || -> Result<Connection, Failed> {
            let socket = match behind.take() {
                None => {
                    let (socket, ip) = dial(login, options)?;
                    address = Some(ip);
                    socket
                }
                Some((jump, by)) => pass(jump, by, login, options)?,
            };
            establish(socket, login, options)
        };
        let connected = step().map_err(|(step, cause)| match is_jump {
            true => (step, cause.context(format!("jump host {}: could not {step}", login.name))),
            false => (step, cause),
        })?;
        drop(gate);
        behind = Some((connected, login));
    }
    let Some((mut connection, _)) = behind else {
        return Err((Step::Configure, anyhow!("no route to the host")));
    };
    let address = match address {
        Some(address) if route.len() == 1 => address,
        _ => address_behind(&mut connection, options).map_err(at(Step::Probe))?,
    };
    Ok(Session { connection, address })
}

fn dial(login: &Login, options: &SshOptions) -> Result<(OwnedFd, IpAddr), Failed> {
    let addresses = tcp::resolve(&login.host_name, login.port, options.timeout).map_err(at(Step::Resolve))?;
    tcp::connect(&addresses, options.timeout).map_err(at(Step::Connect))
}

fn pass(jump: Connection, by: &Login, to: &Login, options: &SshOptions) -> Result<OwnedFd, Failed> {
    jump::forward(jump, &to.host_name, to.port, &Deadline::within(options.timeout))
        .with_context(|| format!("jump host {} does not reach {}:{}", by.name, to.host_name, to.port))
        .map_err(at(Step::Connect))
}

/// Handshake, host key, login.
fn establish(socket: OwnedFd, login: &Login, options: &SshOptions) -> Result<Connection, Failed> {
    let (name, port) = login.known_as();
    let file = known_hosts::user_file(options.known_hosts.as_deref()).map_err(at(Step::HostKey))?;
    let known = KnownHosts::read(&file)
        .with_context(|| format!("could not read {}", file.display()))
        .map_err(at(Step::HostKey))?;
    let mut connection = Connection::new(socket).map_err(at(Step::Handshake))?;
    shake_hands(&mut connection, &known, (name, port), options).map_err(at(Step::Handshake))?;
    let key = connection.session().host_key().map(|(key, _)| PublicKey(key.to_vec()));
    let key = key.context("the host presents no key").map_err(at(Step::HostKey))?;
    if known.check(name, port, &key).map_err(at(Step::HostKey))? == Verdict::New {
        known_hosts::record(&file, name, port, &key)
            .with_context(|| format!("could not record the key in {}", file.display()))
            .map_err(at(Step::HostKey))?;
    }
    auth::authenticate(&mut connection, login, options.timeout).map_err(at(Step::Authenticate))?;
    Ok(connection)
}

fn shake_hands(
    connection: &mut Connection,
    known: &KnownHosts,
    (name, port): (&str, u16),
    options: &SshOptions,
) -> anyhow::Result<()> {
    let session = connection.session();
    let supported = session.supported_algs(ssh2::MethodType::HostKey)?;
    session.method_pref(ssh2::MethodType::HostKey, &known.preferred(name, port, &supported))?;
    let deadline = Deadline::within(options.timeout);
    connection.call(&deadline, |session| session.handshake())?;
    Ok(())
}

/// Asks the host at which address the connection came in: the third word of `SSH_CONNECTION`, sshd(8).
fn address_behind(connection: &mut Connection, options: &SshOptions) -> anyhow::Result<IpAddr> {
    let source = Source { from: &mut std::io::empty(), progress: &mut |_| () };
    let output =
        exec::run(connection, "echo $SSH_CONNECTION", source, Patience::Whole(options.timeout))?.success()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // A talkative login shell may have written before.
    let last = text.lines().last().unwrap_or_default();
    let address = last.split_whitespace().nth(2).and_then(|word| word.parse().ok());
    address.with_context(|| format!("the host does not tell its address, but `{}`", last.trim()))
}

/// The error that a command's failure is.
pub fn failure_of(output: &CommandOutput) -> anyhow::Error {
    let ended = match &output.signal {
        Some(signal) => format!("the remote command was ended by signal {signal}"),
        None => format!("the remote command exited with status {}", output.status),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    if said.is_empty() { anyhow!(ended) } else { anyhow!("{said}").context(ended) }
}
