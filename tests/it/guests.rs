//! Guests: another user on a worker's host gets at nothing of ours, and what he puts in our way is left alone.

mod hidden;
mod planted;
mod secrets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deploy::Deployed;
use crate::harness::guest::{make_sticky, open_way};
use crate::harness::{Lab, LabHost, LabOptions};

/// For tests with few hosts, on a machine under load.
const LIMIT: Duration = Duration::from_secs(120);

/// A lab on machines that are shared: everybody may pass through its directories, and write where `TMPDIR` is.
fn shared_lab(options: LabOptions) -> Lab {
    let lab = Lab::with(options);
    lab.write_hosts("");
    open_way(&[lab.root(), &lab.client_dir()]);
    for host in &lab.hosts {
        open_way(&[&host.dir, &host.home]);
        make_sticky(&host.tmp);
    }
    lab
}

/// The default remote directory of a host.
fn remote_dir(host: &LabHost) -> PathBuf {
    host.tmp.join(format!("mapreduce-{}", rustix::process::geteuid().as_raw()))
}

/// The file of what is known of a process.
fn proc(pid: u32, file: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(file)
}
