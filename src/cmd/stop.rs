//! `stop`: stops the workers and removes every trace of them, also after crashes.
//!
//! Where to look is known from the record, which names every place where something may be; if that is lost, the hosts
//! file is gone by. On each host one script finds the workers by their command lines, of whatever version they are.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use super::cli::CommandError;
use super::{failures, fanout};
use crate::edge::cluster::{Cluster, Place, Record};
use crate::edge::console::Console;
use crate::edge::failure::{HostFailure, HostName, Step};
use crate::edge::hosts::HostsFile;
use crate::edge::remote::{self, Cleaned, Scope};
use crate::edge::ssh::{NewHostKeys, Session, SshOptions};
use crate::edge::table;
use crate::edge::tally::Tally;

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct StopOptions {
    pub hosts: PathBuf,
    pub timeout: Duration,
    pub parallel: usize,
    pub ssh_rate: Option<(u32, Duration)>,
    /// What becomes of hosts that are not in `known_hosts`.
    pub new_host_keys: NewHostKeys,
}

/// The directories to clean on one host, in one session.
struct Visit {
    places: Vec<Place>,
}

/// Stops what `deploy` started.
///
/// # Errors
/// If some host could not be cleaned; it stays in the record.
pub fn stop(options: &StopOptions, console: &Console) -> Result<(), CommandError> {
    let record = Record::hold(&options.hosts)?;
    let cluster = failures::load_record(&record, console)?;
    let places = match &cluster {
        Some(cluster) => cluster.places.clone(),
        None => usual_places(options)?,
    };
    let visits = visits(places);
    if visits.is_empty() {
        record.remove()?;
        console.say("nothing is deployed");
        return Ok(());
    }
    let outcomes = clean_all(&visits, options, console)?;
    let (mut stopped, mut failed) = (0, Vec::new());
    for (visit, outcome) in visits.iter().zip(outcomes) {
        match outcome {
            Ok(cleaned) => {
                stopped += cleaned.stopped as u64;
                tell(visit, &cleaned, console);
            }
            Err(failure) => failed.push(failure),
        }
    }
    match cluster {
        Some(cluster) if !failed.is_empty() => keep_failed(record, cluster, &failed)?,
        _ => record.remove()?,
    }
    conclude(stopped, failed, visits.len(), console)
}

/// Returns where `deploy` puts things on the hosts of the hosts file, if there is one.
fn usual_places(options: &StopOptions) -> anyhow::Result<Vec<Place>> {
    // An empty hosts file is an error to those who need hosts; here it means that there is nothing to do.
    let hosts = HostsFile::load_or_new(&options.hosts)?.hosts().unwrap_or_default();
    Ok(hosts.iter().map(|host| Place::of(host, host.remote_dir.clone())).collect())
}

/// Groups places by host and login.
fn visits(places: Vec<Place>) -> Vec<Visit> {
    let mut visits: Vec<Visit> = Vec::new();
    for place in places {
        let same = |visit: &&mut Visit| {
            let first = &visit.places[0];
            (&first.host, &first.user, first.ssh_port, &first.key)
                == (&place.host, &place.user, place.ssh_port, &place.key)
        };
        match visits.iter_mut().find(same) {
            Some(visit) => visit.places.push(place),
            None => visits.push(Visit { places: vec![place] }),
        }
    }
    visits
}

fn clean_all(
    visits: &[Visit],
    options: &StopOptions,
    console: &Console,
) -> anyhow::Result<Vec<Result<Cleaned, HostFailure>>> {
    let ssh = SshOptions::from_env(options.timeout, options.new_host_keys);
    let mut tally = Tally::new(console, "stop", visits.len(), "hosts");
    let outcomes = fanout::each(
        visits,
        options.parallel,
        options.ssh_rate,
        |_, visit| clean_host(visit, &ssh),
        |done| tally.update(done, ""),
    );
    tally.finish();
    outcomes
}

fn clean_host(visit: &Visit, ssh: &SshOptions) -> Result<Cleaned, HostFailure> {
    let mut session = Session::connect(&visit.places[0].target(), ssh)?;
    let mut all = Cleaned::default();
    for place in &visit.places {
        let cleaned = remote::clean(&mut session, place.remote_dir.as_deref(), Scope::All, ssh.timeout)
            .map_err(|cause| HostFailure::new(&place.host, Step::Stop, cause))?;
        all.stopped += cleaned.stopped;
        all.elsewhere.extend(cleaned.elsewhere);
    }
    Ok(all)
}

fn tell(visit: &Visit, cleaned: &Cleaned, console: &Console) {
    let host = &visit.places[0].host;
    console.detail(&format!("{host}: clean, {} stopped", table::counted(cleaned.stopped as u64, "worker")));
    for other in &cleaned.elsewhere {
        console.detail(&format!("{host}: its directory is shared with {other}, whose worker is left to it"));
    }
}

/// Leaves in the record where it could not be cleaned, and no key: what may still run there, nobody speaks with again.
fn keep_failed(record: Record, mut cluster: Cluster, failed: &[HostFailure]) -> anyhow::Result<()> {
    let stays = |host: &HostName| failed.iter().any(|failure| failure.host == *host);
    cluster.end();
    cluster.places.retain(|place| stays(&place.host));
    record.save(&cluster)?;
    record.release();
    Ok(())
}

fn conclude(
    stopped: u64,
    failed: Vec<HostFailure>,
    hosts: usize,
    console: &Console,
) -> Result<(), CommandError> {
    let left = failed.len();
    failures::print(failed, console);
    console.say(&format!(
        "stopped {}; {} of {} clean",
        table::counted(stopped, "worker"),
        hosts - left,
        table::counted(hosts as u64, "host"),
    ));
    if left == 0 {
        return Ok(());
    }
    let error = anyhow!("{} could not be cleaned", table::counted(left as u64, "host"));
    Err(CommandError::from(error).advise("stop, again, when they can be reached"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, dir: Option<&str>) -> Place {
        Place {
            host: HostName(host.into()),
            user: None,
            ssh_port: None,
            key: None,
            remote_dir: dir.map(str::to_owned),
        }
    }

    #[test]
    fn a_host_is_visited_once_for_all_its_directories() {
        let places = vec![place("a", None), place("b", None), place("a", Some("/x"))];
        let visits = visits(places);
        let dirs: Vec<usize> = visits.iter().map(|visit| visit.places.len()).collect();
        assert_eq!(dirs, [2, 1]);
    }
}
