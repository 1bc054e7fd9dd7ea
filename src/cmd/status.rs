//! `status`: what runs where.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use super::cli::CommandError;
use super::fanout::{self, Turns};
use super::guard::guarded;
use super::way::Way;
use crate::edge::cluster::{Cluster, DeployedWorker};
use crate::edge::console::Console;
use crate::edge::net::{self, WorkerStatus};
use crate::edge::sanitize::clipped;
use crate::edge::ssh::NewHostKeys;
use crate::edge::tally::Tally;
use crate::edge::{output, table};
use crate::wire::message::Role;

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    pub hosts: PathBuf,
    pub timeout: Duration,
    /// To reach all workers through SSH, whatever the record says.
    pub via_ssh: bool,
    /// At most this many SSH connections in such a time, where the way leads through SSH.
    pub ssh_rate: Option<(u32, Duration)>,
    /// What becomes of hosts that are not in `known_hosts`, where the way leads through SSH.
    pub new_host_keys: NewHostKeys,
}

/// Workers asked at a time: a question costs a thread and a connection for a moment.
const PARALLEL: usize = 64;

/// What is shown of a version, and of why a worker does not answer: others wrote it.
const VERSION_CHARS: usize = 40;
const CAUSE_CHARS: usize = 300;

/// Asks each deployed worker how it is and prints a table on standard output.
///
/// # Errors
/// If there is no cluster, or a worker of it does not answer.
pub fn status(options: &StatusOptions, console: &Console) -> Result<(), CommandError> {
    let Some(cluster) = Cluster::load(&options.hosts)?.filter(|cluster| !cluster.workers.is_empty()) else {
        let error = anyhow!("no cluster is deployed with {}", options.hosts.display());
        return Err(CommandError::from(error).advise("deploy, with the same --hosts FILE"));
    };
    let wire = cluster.wire()?;
    let turns = Turns::new(options.ssh_rate);
    let ask = |_: usize, worker: &DeployedWorker| {
        guarded(|| {
            let way = Way::to(worker, &cluster, options.via_ssh, options.new_host_keys)?;
            if way.is_ssh() {
                turns.take();
            }
            way.open()?.greet(&wire, Role::Status, options.timeout).map(net::status_of)
        })
    };
    let mut tally = Tally::new(console, "status", cluster.workers.len(), "workers");
    let answers = fanout::each(&cluster.workers, PARALLEL, None, ask, |done| tally.update(done, ""));
    tally.finish();
    let answers = answers?;
    let silent = answers.iter().filter(|answer| answer.is_err()).count();
    let text = render(&cluster, &answers);
    output::print(text.as_bytes())?;
    if silent == 0 {
        return Ok(());
    }
    let live = cluster.workers.len() - silent;
    if live > 0 {
        console.note(&format!("`run FILE --servers {live}` works with the others"));
    }
    let error = anyhow!("{silent} of {} workers do not answer", cluster.workers.len());
    Err(CommandError::from(error).advise("deploy again, which replaces them; workers end when idle for long"))
}

fn render(cluster: &Cluster, answers: &[anyhow::Result<WorkerStatus>]) -> String {
    let header = ["Host", "Address", "Pid", "Version", "Up for", "Threads", "Jobs", "Memory", "State"];
    let mut rows = table::table(header, &[2, 5, 6, 7]);
    for (worker, answer) in cluster.workers.iter().zip(answers) {
        let (host, address) = (worker.host.to_string(), worker.address.to_string());
        let row = match answer {
            Ok(status) => [
                host,
                address,
                status.pid.to_string(),
                clipped(&status.version, VERSION_CHARS),
                humantime::format_duration(Duration::from_secs(status.uptime.as_secs())).to_string(),
                status.threads.to_string(),
                status.jobs.to_string(),
                table::bytes(status.memory_bytes),
                "up".to_owned(),
            ],
            Err(error) => {
                let dash = || "-".to_owned();
                let state = format!("no answer: {}", clipped(&format!("{error:#}"), CAUSE_CHARS));
                let pid = worker.pid.to_string();
                [host, address, pid, dash(), dash(), dash(), dash(), dash(), state]
            }
        };
        rows.add_row(row);
    }
    format!("{rows}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::cluster::Protection;
    use crate::edge::failure::HostName;

    #[test]
    fn table_has_a_row_for_each_worker() {
        let mut cluster = Cluster::fresh("d", Protection::Plaintext).unwrap();
        for (host, port) in [("h1", 4000), ("h2", 4001)] {
            cluster.workers.push(DeployedWorker {
                host: HostName(host.into()),
                address: format!("10.0.0.1:{port}").parse().unwrap(),
                pid: 77,
                worker_dir: String::new(),
                name: String::new(),
                via_ssh: false,
            });
        }
        let up = WorkerStatus {
            version: "0.1.0\x1b".into(),
            pid: 77,
            uptime: Duration::from_millis(3_725_900),
            threads: 12,
            jobs: 1,
            memory_bytes: 45_000_000,
        };
        let text = render(&cluster, &[Ok(up), Err(anyhow!("connection refused"))]);
        let row = |host: &str| text.lines().find(|line| line.contains(host)).unwrap().to_owned();
        for part in ["10.0.0.1:4000", "77", "0.1.0\\u{1b}", "1h 2m 5s", "12", "45.0 MB", "up"] {
            assert!(row("h1").contains(part), "{part}: {text}");
        }
        assert!(row("h2").contains("no answer: connection refused"), "{text}");
    }
}
