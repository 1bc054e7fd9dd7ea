//! SSH: sessions to hosts, over libssh2.
//!
//! Invariant: one session, one thread. Every call has a deadline; dropping a session never waits.

mod auth;
mod buffer;
pub mod config;
mod connection;
mod exec;
mod jump;
mod keys;
pub mod known_hosts;
mod login;
mod pattern;
mod prompt;
mod pump;
mod relay;
mod tcp;
mod trust;
mod tunnel;
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
use self::known_hosts::{KnownHosts, PublicKey};
use self::login::Login;
use super::failure::{HostFailure, HostName, Step};
use super::sanitize::clipped;
pub use connection::CallError;
pub use exec::quote;
pub use prompt::{after_asking, unless_asking};
pub use trust::NewHostKeys;
pub use tunnel::TunnelError;
#[cfg(test)]
pub(crate) use upload::receive_script;
pub use upload::{Packed, Upload};

/// Bytes of what a command wrote to standard error that go into its failure.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// Characters of what a host said that are repeated to the user.
const MAX_SAID_CHARS: usize = 200;

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
    /// What becomes of hosts that are not in there.
    pub new_host_keys: NewHostKeys,
}

impl SshOptions {
    /// Takes the files from the environment, if it names any.
    pub fn from_env(timeout: Duration, new_host_keys: NewHostKeys) -> SshOptions {
        let file = |variable| env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        SshOptions {
            timeout,
            config: file("MAPREDUCE_SSH_CONFIG"),
            known_hosts: file("MAPREDUCE_KNOWN_HOSTS"),
            new_host_keys,
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
        loop {
            match open(target, options) {
                // Each time one key more is known.
                Err((_, cause)) if cause.is::<trust::AcceptedLate>() => {}
                opened => {
                    return opened.map_err(|(step, cause)| HostFailure::new(&target.host, step, cause));
                }
            }
        }
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

    /// Shows the host that we are still there, and answers what it has asked meanwhile: for a session that waits, since
    /// some hosts end one that does not (`ClientAliveInterval`, sshd_config(5)).
    ///
    /// # Errors
    /// If the session has broken, or the host has not answered within `timeout`.
    pub fn tend(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Deadline::within(timeout);
        let connection = &mut self.connection;
        // Whether the host wants to open the channel is of no matter: what counts is that it says so.
        let tended = connection
            .call(&deadline, |session| session.channel_session())
            .and_then(|mut channel| connection.call(&deadline, |_| channel.close()));
        match tended {
            Err(error) if error.is_disconnect() => Err(error).context("the session has ended meanwhile"),
            _ => Ok(()),
        }
    }

    /// Turns the session into a way to `port` of `host`, which is looked up and connected to by the host of the
    /// session; returns a socket to read from and write to, as if it were connected there.
    ///
    /// The socket can be shut down in each direction by itself. It ends when the connection behind it does, when the
    /// host ends, and when the session breaks. A host that is silent is for its user to notice.
    ///
    /// # Errors
    /// With a [`TunnelError`] if the host cannot connect there, forbids it, or has not answered within `timeout`.
    pub fn tunnel(self, host: &str, port: u16, timeout: Duration) -> anyhow::Result<OwnedFd> {
        Ok(tunnel::open(self.connection, host, port, &Deadline::within(timeout))?)
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
    tunnel::open(jump, &to.host_name, to.port, &Deadline::within(options.timeout))
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
    let asked = trust::check(login, &key, &known, &file, options.new_host_keys).map_err(at(Step::HostKey))?;
    match auth::authenticate(&mut connection, login, options.timeout) {
        Ok(()) => Ok(connection),
        Err(cause) if asked && cause.downcast_ref().is_some_and(CallError::is_disconnect) => {
            Err((Step::Connect, trust::AcceptedLate.into()))
        }
        Err(cause) => Err((Step::Authenticate, cause)),
    }
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
    let said = || format!("the host does not tell its address, but `{}`", clipped(last, MAX_SAID_CHARS));
    own_address(last).with_context(said)
}

/// The third word, if it is an address that one host can have. It is the host's word only: what is connected to there
/// has to prove who it is.
fn own_address(connection: &str) -> Option<IpAddr> {
    let address: IpAddr = connection.split_whitespace().nth(2)?.parse().ok()?;
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    (!address.is_unspecified() && !address.is_multicast() && !is_broadcast).then_some(address)
}

/// The error that a command's failure is.
pub fn failure_of(output: &CommandOutput) -> anyhow::Error {
    let ended = match &output.signal {
        Some(signal) => format!("the remote command was ended by signal {signal}"),
        None => format!("the remote command exited with status {}", output.status),
    };
    let said = &output.stderr[..output.stderr.len().min(MAX_ERROR_BYTES)];
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    if said.is_empty() { anyhow!(ended) } else { anyhow!("{said}").context(ended) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_that_of_one_host() {
        let told =
            |address: &str| own_address(&format!("10.0.0.1 40000 {address} 22")).map(|ip| ip.to_string());
        assert_eq!(told("10.0.0.2").as_deref(), Some("10.0.0.2"));
        assert_eq!(told("fe80::1").as_deref(), Some("fe80::1"));
        for address in
            ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "tp-01", "10.0.0.2;id", ""]
        {
            assert_eq!(told(address), None, "{address}");
        }
    }
}
