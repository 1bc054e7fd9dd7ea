//! Way: how a deployed worker is reached: at its port or, where that cannot be reached from here, through SSH.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::edge::cluster::{Cluster, DeployedWorker};
use crate::edge::net::{self, Socket, Wire};
use crate::edge::ssh::{NewHostKeys, Session, SshOptions, Target};
use crate::runtime::link::Connection;
use crate::wire::message::{Role, Welcome};

/// How long each step of a login may take.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a host may take to say that it is still there.
const TEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a worker is, and how to get there.
#[derive(Clone)]
pub struct Way {
    pub address: SocketAddr,
    /// The name that it must prove.
    pub proves: String,
    /// How to log in to its host, where that is the way.
    ssh: Option<(Target, SshOptions)>,
}

impl Way {
    /// Leads straight to the port.
    pub fn direct(address: SocketAddr, proves: String) -> Way {
        Way { address, proves, ssh: None }
    }

    /// Leads to a deployed worker: through SSH if its port was out of reach when it was deployed, or if that is
    /// `wanted`.
    ///
    /// # Errors
    /// If the record does not say how to log in there.
    pub fn to(
        worker: &DeployedWorker,
        cluster: &Cluster,
        wanted: bool,
        keys: NewHostKeys,
    ) -> anyhow::Result<Way> {
        let mut way = Way::direct(worker.address, worker.name.clone());
        if wanted || worker.via_ssh {
            let place = cluster.places.iter().find(|place| place.host == worker.host);
            let place =
                place.ok_or_else(|| anyhow!("the record does not say how to log in to {}", worker.host))?;
            way.ssh = Some((place.target(), SshOptions::from_env(LOGIN_TIMEOUT, keys)));
        }
        Ok(way)
    }

    /// Tells whether it leads through SSH.
    pub fn is_ssh(&self) -> bool {
        self.ssh.is_some()
    }

    /// Logs in, if that is the way; of the worker nothing is heard yet. It may take as long as hosts, jump hosts and
    /// people that are asked for passwords do.
    ///
    /// # Errors
    /// If the host does not let us in.
    pub fn open(&self) -> anyhow::Result<OpenWay> {
        let login = |(target, options): &(Target, SshOptions)| Session::connect(target, options);
        let session = self.ssh.as_ref().map(login).transpose().map_err(anyhow::Error::new)?;
        Ok(OpenWay { address: self.address, proves: self.proves.clone(), session })
    }
}

/// A way on which nothing but the worker is left to wait for.
pub struct OpenWay {
    address: SocketAddr,
    proves: String,
    session: Option<Session>,
}

impl OpenWay {
    /// Keeps it open, where it is not used at once; to be called every few seconds.
    ///
    /// # Errors
    /// If it has broken.
    pub fn tend(&mut self) -> anyhow::Result<()> {
        match &mut self.session {
            Some(session) => session.tend(TEND_TIMEOUT),
            None => Ok(()),
        }
    }

    /// Goes there and greets the worker.
    ///
    /// # Errors
    /// If it is not there, or refuses.
    pub fn greet(self, wire: &Wire, role: Role, timeout: Duration) -> anyhow::Result<(Connection, Welcome)> {
        match self.session {
            None => net::reach(self.address, wire, &self.proves, role, timeout),
            Some(session) => through(session, self.address, wire, &self.proves, role, timeout),
        }
    }
}

/// Greets the worker at `address` through a session to its host.
///
/// # Errors
/// If the host leads to no such worker.
pub fn through(
    session: Session,
    address: SocketAddr,
    wire: &Wire,
    proves: &str,
    role: Role,
    timeout: Duration,
) -> anyhow::Result<(Connection, Welcome)> {
    let socket = session
        .tunnel(&address.ip().to_string(), address.port(), timeout)
        .context("no way to the worker through SSH")?;
    let at = format!("{address} through SSH");
    net::reach_over(Socket::of_pair(socket), &at, wire, proves, role, timeout)
}
