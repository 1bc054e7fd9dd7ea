//! Hosts: the hosts file, `hosts.toml`, and the places it is looked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::HostName;

/// One host of the hosts file, with the file's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the user wrote it, with the suffix added to a short name.
    pub name: HostName,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub key: Option<PathBuf>,
    pub remote_dir: Option<String>,
    pub facts: Option<Facts>,
}

/// What `discover` found out about a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub cores: u32,
    pub memory_mib: u64,
    /// As `uname -m` says.
    pub arch: String,
    /// Such as `glibc 2.36` or `musl`; `unknown` where it could not be told.
    pub libc: String,
    /// Load average over one minute, in hundredths.
    pub load_percent: u32,
    /// Free space where the remote directory will be.
    pub free_mib: u64,
    /// Whether the home directory is on a network file system.
    pub network_home: bool,
}
