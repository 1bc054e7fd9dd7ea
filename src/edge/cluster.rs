//! Cluster: what was deployed where, and how to speak with it.
//!
//! Invariant: whatever may be on a host is recorded before it gets there, so that an interrupted `deploy` leaves
//! nothing that `stop` would not find.

mod record;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::failure::HostName;
use super::hex;
use super::hosts::Host;
use super::identity::Identity;
use super::net::Wire;
use super::ssh::Target;
use super::tls::Tls;

pub use record::{Damaged, Record};

/// How client and workers of one cluster speak with each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// With the client's identity.
    Encrypted(Identity),
    /// The user trusts the wire.
    Plaintext,
    /// There are no workers to speak with any more, or not yet.
    Gone,
}

/// A deployed worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployedWorker {
    pub host: HostName,
    /// Where client and peers reach it; numeric, for a static program cannot rely on name services.
    pub address: SocketAddr,
    pub pid: u32,
    /// The worker's own directory on the host: pid, port, log.
    pub worker_dir: String,
    /// The name in the worker's certificate.
    pub name: String,
    /// Whether its port could not be reached when it was deployed, but through SSH: then others do so, too.
    pub via_ssh: bool,
}

/// A directory on a host where something of a deployment may be, and how to log in there: what `stop` visits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub host: HostName,
    pub user: Option<String>,
    pub ssh_port: Option<u16>,
    pub key: Option<PathBuf>,
    /// As configured, so with `~`; the default directory if `None`.
    pub remote_dir: Option<String>,
}

impl Place {
    /// Returns the directory `remote_dir` of a host.
    #[must_use]
    pub fn of(host: &Host, remote_dir: Option<String>) -> Place {
        Place {
            host: host.name.clone(),
            user: host.user.clone(),
            ssh_port: host.port,
            // The record may be read from another working directory.
            key: host.key.as_ref().map(|key| std::path::absolute(key).unwrap_or_else(|_| key.clone())),
            remote_dir,
        }
    }

    /// Returns what is needed to log in there.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            host: self.host.clone(),
            user: self.user.clone(),
            port: self.ssh_port,
            key: self.key.clone(),
        }
    }
}

/// The deployed workers and how to speak with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Tells the workers of this deployment from those of another on the same host; not a secret.
    pub id: String,
    /// Version of the program that was deployed.
    pub version: String,
    /// SHA-256 of the program, in hexadecimal.
    pub digest: String,
    pub protection: Protection,
    /// Those that are ready, in the order of the hosts file. None if the deployment was interrupted early.
    pub workers: Vec<DeployedWorker>,
    /// Everywhere that something may be, also from former deployments.
    pub places: Vec<Place>,
}

/// Bytes of randomness in a cluster id: 64 bits, beyond chance.
const ID_BYTES: usize = 8;

impl Cluster {
    /// Makes a cluster without workers, with a fresh id.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn fresh(digest: &str, protection: Protection) -> anyhow::Result<Cluster> {
        Ok(Cluster {
            id: hex::random(ID_BYTES)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digest: digest.to_owned(),
            protection,
            workers: Vec::new(),
            places: Vec::new(),
        })
    }

    /// Returns how to speak with the workers.
    ///
    /// # Errors
    /// If the identity in the record is damaged, or gone.
    pub fn wire(&self) -> anyhow::Result<Wire> {
        Ok(match &self.protection {
            Protection::Encrypted(identity) => Wire::Encrypted(Tls::new(identity)?),
            Protection::Plaintext => Wire::Plaintext { cluster: self.id.clone() },
            Protection::Gone => bail!("the cluster was stopped: `deploy` again"),
        })
    }

    /// Reads the record that belongs to the hosts file `hosts`; `None` if nothing is recorded.
    ///
    /// # Errors
    /// If the record cannot be read, is damaged, or belongs to another user.
    pub fn load(hosts: &Path) -> anyhow::Result<Option<Cluster>> {
        record::load(hosts)
    }

    /// Ends the cluster: of what is recorded there remains only where something may be.
    pub fn end(&mut self) {
        self.workers.clear();
        self.protection = Protection::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::identity::Authority;

    /// A cluster with a key and a worker.
    pub(super) fn sample() -> Cluster {
        let identity = Authority::fresh().unwrap().client().unwrap();
        let mut cluster = Cluster::fresh("d1", Protection::Encrypted(identity)).unwrap();
        cluster.workers.push(DeployedWorker {
            host: HostName("h1".into()),
            address: "127.0.0.2:4000".parse().unwrap(),
            pid: 7,
            worker_dir: "/tmp/x/worker-1".into(),
            name: "worker-0.mapreduce".into(),
            via_ssh: false,
        });
        cluster
    }

    #[test]
    fn neither_keys_nor_a_record_without_protection_are_taken_for_something_else() {
        assert!(!format!("{:?}", sample()).contains("key"));
        let mut json = serde_json::to_value(sample()).unwrap();
        json.as_object_mut().unwrap().remove("protection");
        assert!(serde_json::from_value::<Cluster>(json).is_err(), "it is not plaintext by default");
    }
}
