//! Journal: keeps the record of the cluster true while hosts are deployed to at the same time.
//!
//! Until a first worker is about to be started the former cluster stays recorded as it was, for it works as it did;
//! from then on the new one is, and of the former one only its places are kept. At any moment the record names every
//! place where something may be.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::edge::cluster::{Cluster, DeployedWorker, Place, Record};

/// What came of a deployment, as far as the record is concerned.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Workers that are ready.
    pub ready: usize,
    /// Hosts that are not in this deployment but still have something of a former one.
    pub former_hosts: usize,
}

/// The record, shared by the threads that deploy.
pub struct Journal {
    /// A lock, for the record is one and the threads are many; it is held while the file is written, which is short.
    state: Mutex<State>,
}

struct State {
    record: Record,
    former: Option<Cluster>,
    new: Cluster,
    /// Ready workers with the index of their host.
    ready: Vec<(usize, DeployedWorker)>,
    /// Places of this deployment with the index of their host.
    places: Vec<(usize, Place)>,
    /// Whether the new cluster has taken the former one's place.
    begun: bool,
}

impl Journal {
    /// Opens the journal of the cluster `new`, which may replace `former`.
    pub fn open(record: Record, former: Option<Cluster>, new: Cluster) -> Journal {
        let state = State { record, former, new, ready: Vec::new(), places: Vec::new(), begun: false };
        Journal { state: Mutex::new(state) }
    }

    /// Notes that something may be at `place` from now on; replaces what was noted for the host before.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn enter(&self, index: usize, place: Place) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.places.retain(|(host, _)| *host != index);
        state.places.push((index, place));
        state.save()
    }

    /// Notes that nothing was left on the host by this deployment.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn leave(&self, index: usize) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.places.retain(|(host, _)| *host != index);
        state.save()
    }

    /// Notes that workers of the former cluster are being replaced: the new one takes its place.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn begin(&self) -> anyhow::Result<()> {
        let mut state = self.lock();
        if state.begun {
            return Ok(());
        }
        state.begun = true;
        if let Some(former) = &mut state.former {
            former.end();
        }
        state.save()
    }

    /// Notes that a worker is ready.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn ready(&self, index: usize, worker: DeployedWorker) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.ready.push((index, worker));
        state.ready.sort_by_key(|(index, _)| *index);
        state.save()
    }

    /// Notes that nothing of the former cluster is left at `place`.
    pub fn forget_former(&self, place: &Place) {
        if let Some(former) = &mut self.lock().former {
            former.places.retain(|other| other != place);
        }
    }

    /// Writes the record a last time; removes it if there is nothing to record.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn close(self) -> anyhow::Result<Closed> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let cluster = state.cluster();
        let hosts = |places: &[Place]| {
            let mut hosts: Vec<_> = places.iter().map(|place| place.host.clone()).collect();
            hosts.sort();
            hosts.dedup();
            hosts
        };
        let own: Vec<Place> = state.places.iter().map(|(_, place)| place.clone()).collect();
        let own = hosts(&own);
        let former_hosts = hosts(&cluster.places).iter().filter(|host| !own.contains(host)).count();
        let closed = Closed { ready: state.ready.len(), former_hosts };
        if cluster.places.is_empty() && cluster.workers.is_empty() {
            state.record.remove()?;
        } else {
            state.record.save(&cluster)?;
            state.record.release();
        }
        Ok(closed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is made in full before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn save(&self) -> anyhow::Result<()> {
        self.record.save(&self.cluster())
    }

    /// Returns what is to be recorded now.
    fn cluster(&self) -> Cluster {
        let mut cluster = match &self.former {
            Some(former) if !self.begun => former.clone(),
            _ => Cluster {
                workers: self.ready.iter().map(|(_, worker)| worker.clone()).collect(),
                places: self.former.iter().flat_map(|former| former.places.clone()).collect(),
                ..self.new.clone()
            },
        };
        for (_, place) in &self.places {
            if !cluster.places.contains(place) {
                cluster.places.push(place.clone());
            }
        }
        cluster
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::edge::cluster::Protection;
    use crate::edge::failure::HostName;

    fn place(host: &str) -> Place {
        Place { host: HostName(host.into()), user: None, ssh_port: None, key: None, remote_dir: None }
    }

    fn worker(host: &str) -> DeployedWorker {
        DeployedWorker {
            host: HostName(host.into()),
            address: "127.0.0.2:4000".parse().unwrap(),
            pid: 1,
            worker_dir: "/tmp/w".into(),
            name: "worker-0.mapreduce".into(),
            via_ssh: false,
        }
    }

    fn hosts_file() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        (home, hosts)
    }

    fn open(hosts: &Path) -> (Journal, Cluster) {
        let former = Cluster::load(hosts).unwrap();
        let new = Cluster::fresh("d", Protection::Plaintext).unwrap();
        (Journal::open(Record::hold(hosts).unwrap(), former, new.clone()), new)
    }

    fn recorded(hosts: &Path) -> Cluster {
        Cluster::load(hosts).unwrap().unwrap()
    }

    #[test]
    fn workers_are_recorded_in_the_order_of_the_hosts() {
        let (_home, hosts) = hosts_file();
        let (journal, new) = open(&hosts);
        for index in [2, 0, 1] {
            journal.enter(index, place(&format!("h{index}"))).unwrap();
            journal.begin().unwrap();
            journal.ready(index, worker(&format!("h{index}"))).unwrap();
        }
        assert_eq!(journal.close().unwrap(), Closed { ready: 3, former_hosts: 0 });
        let cluster = recorded(&hosts);
        assert_eq!(cluster.id, new.id);
        assert_eq!(cluster.workers, [worker("h0"), worker("h1"), worker("h2")]);
        assert_eq!(cluster.places.len(), 3);
    }

    #[test]
    fn place_is_recorded_before_anything_is_there() {
        let (_home, hosts) = hosts_file();
        let (journal, _) = open(&hosts);
        journal.enter(0, place("h0")).unwrap();
        assert_eq!(recorded(&hosts).places, [place("h0")]);
        assert!(recorded(&hosts).workers.is_empty());
        journal.leave(0).unwrap();
        journal.close().unwrap();
        assert_eq!(Cluster::load(&hosts).unwrap(), None);
    }

    #[test]
    fn former_cluster_stays_until_it_is_replaced() {
        let (_home, hosts) = hosts_file();
        let (journal, first) = open(&hosts);
        for (index, name) in ["h0", "h1"].iter().enumerate() {
            journal.enter(index, place(name)).unwrap();
            journal.begin().unwrap();
            journal.ready(index, worker(name)).unwrap();
        }
        journal.close().unwrap();

        let (journal, _) = open(&hosts);
        journal.enter(0, place("h9")).unwrap();
        assert_eq!(recorded(&hosts).id, first.id);
        assert_eq!(recorded(&hosts).places.len(), 3);
        journal.leave(0).unwrap();
        assert_eq!(journal.close().unwrap().ready, 0);
        assert_eq!(recorded(&hosts).workers.len(), 2);

        let (journal, second) = open(&hosts);
        journal.enter(0, place("h0")).unwrap();
        assert_eq!(recorded(&hosts).id, first.id);
        journal.begin().unwrap();
        assert_eq!((recorded(&hosts).id, recorded(&hosts).protection), (second.id.clone(), Protection::Gone));
        journal.ready(0, worker("h0")).unwrap();
        assert_eq!(journal.close().unwrap(), Closed { ready: 1, former_hosts: 1 });
        let cluster = recorded(&hosts);
        assert_eq!(cluster.id, second.id);
        assert_eq!(cluster.workers, [worker("h0")]);
        assert_eq!(cluster.places, [place("h0"), place("h1")]);
    }
}
