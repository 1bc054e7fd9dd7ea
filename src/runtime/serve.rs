//! Serve: a worker process: accepts clients, peers and questions, and keeps the state of each job apart.
//!
//! Invariant: whatever one connection sends ends that connection at most, never the process.

mod answers;
mod job;
mod listing;
mod lobby;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::job::Jobs;
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::packing::Packing;
use crate::logic::worker::Event;
use crate::wire::frame::{FrameError, MAX_HELLO_BYTES};
use crate::wire::message::{
    CLIENT_NAME, Greeting, Hello, MAGIC, PROTOCOL, Role, Welcome, read_message, write_message,
};

use super::greet::{PROGRAM, Until};
use super::inbox::{Inbox, ReceiveError, receive_stream};
use super::link::{Connection, Knock, Listen, Network};
use super::spawn;
use super::storage::Storage;
use job::serve_client;
use lobby::Lobby;

/// What a worker is told when it is started.
pub struct WorkerOptions {
    /// For the log.
    pub name: String,
    /// What connections must say they are of, where no certificate proves it; empty for a worker started by hand.
    pub cluster: String,
    /// Map threads of each job.
    pub threads: usize,
    /// Bytes that a job's map tables may hold.
    pub memory: u64,
    /// Ends the worker after such a time without a client.
    pub idle_timeout: Option<Duration>,
    /// Whether clients that prove nothing may run commands and read files here.
    pub allow_commands: bool,
    /// Resident memory of this process, for `status`.
    pub resident_bytes: fn() -> u64,
}

/// Takes a line for the log.
pub type Log = Box<dyn Fn(&str) + Send + Sync>;

/// How long a stranger may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at a time of those who belong here: several clients with all their peers. With as many streams to other
/// workers, that is still below the usual limit of 1024 open files.
const MAX_CONNECTIONS: usize = 500;

struct Server {
    options: WorkerOptions,
    network: Arc<dyn Network>,
    storage: Arc<dyn Storage>,
    log: Log,
    started: Instant,
    /// A lock: jobs begin and end, and peers look them up, on threads of their own.
    jobs: Mutex<HashMap<JobId, Entry>>,
    /// A lock, as for the jobs.
    clients: Mutex<Clients>,
    lobby: Arc<Lobby>,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

/// Clients that keep this worker, be it as a spare whose job has not begun.
struct Clients {
    n: usize,
    /// When the last one went.
    last: Instant,
}

/// One client; it goes with this.
struct Kept<'s>(&'s Server);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let mut clients = self.0.clients();
        clients.n -= 1;
        clients.last = Instant::now();
    }
}

/// What a peer's stream needs of the job that it belongs to.
#[derive(Clone)]
struct Entry {
    inbox: Arc<Inbox>,
    happened: Arc<dyn Fn(Event) + Send + Sync>,
    timeout: Duration,
    /// The names that the workers have proven, by their ids; empty where nothing is proven.
    members: Vec<String>,
}

/// Serves until `stop` gets a value or loses its sender, or the worker has been idle for long enough.
///
/// # Errors
/// If threads cannot be started.
pub fn serve<S: Jobs>(
    listener: Arc<dyn Listen>,
    network: Arc<dyn Network>,
    storage: Arc<dyn Storage>,
    options: WorkerOptions,
    stop: Receiver<()>,
    log: Log,
) -> std::io::Result<()> {
    let server = Arc::new(Server {
        options,
        network,
        storage,
        log,
        started: Instant::now(),
        jobs: Mutex::default(),
        clients: Mutex::new(Clients { n: 0, last: Instant::now() }),
        lobby: Arc::default(),
        connections: AtomicUsize::new(0),
        stopping: AtomicBool::new(false),
    });
    let (watched, waker) = (server.clone(), listener.clone());
    spawn("mr:watch".into(), move || {
        watch(&watched, &stop);
        watched.stopping.store(true, Ordering::SeqCst);
        waker.wake();
    })?;
    loop {
        let accepted = listener.accept();
        if server.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        match accepted {
            Ok(knock) => start_conversation::<S>(&server, knock),
            Err(error) => {
                server.mention("somebody", &format!("cannot accept a connection: {error}"));
                // Out of descriptors, most likely: those that are open must end first.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Waits for the end: a stop, or idleness.
fn watch(server: &Server, stop: &Receiver<()>) {
    loop {
        match stop.recv_timeout(Duration::from_millis(200)) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                (server.log)("stopped");
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(limit) = server.options.idle_timeout
            && server.idle() >= limit
        {
            (server.log)(&format!("ends after {} s without a job", limit.as_secs()));
            return;
        }
    }
}

impl Server {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the job known to peers.
    fn enter(&self, job: JobId, entry: Entry) -> Result<(), String> {
        match self.jobs().entry(job) {
            hash_map::Entry::Occupied(_) => Err("a job of this id runs here already".to_owned()),
            hash_map::Entry::Vacant(place) => {
                place.insert(entry);
                Ok(())
            }
        }
    }

    /// Waits until the job has ended, for `limit` at most.
    fn await_end(&self, job: JobId, limit: Duration) {
        let until = Instant::now() + limit;
        while self.jobs().contains_key(&job) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn leave(&self, job: JobId) {
        self.jobs().remove(&job);
    }

    /// Tells whether the client at the other end may run commands and read files here: who has proven who it is may do
    /// as much over SSH.
    fn trusts(&self, connection: &Connection) -> bool {
        connection.proven.is_some() || self.options.allow_commands
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts on a client, as long as what is returned lives.
    fn keep(&self) -> Kept<'_> {
        self.clients().n += 1;
        Kept(self)
    }

    /// Returns for how long there has been no client: one that keeps this worker as a spare may need it any time.
    fn idle(&self) -> Duration {
        let clients = self.clients();
        if clients.n > 0 { Duration::ZERO } else { clients.last.elapsed() }
    }

    fn welcome<S: Jobs>(&self) -> Welcome {
        Welcome {
            program: PROGRAM.to_owned(),
            jobs: S::list().iter().map(|job| job.name.to_owned()).collect(),
            pid: std::process::id(),
            threads: self.options.threads as u32,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            running_jobs: self.jobs().len() as u32,
            memory_bytes: (self.options.resident_bytes)(),
            packings: Packing::ALL.map(|packing| packing.name().to_owned()).to_vec(),
        }
    }

    /// Tells whether to speak with who says `hello` and has `proven` its name; the reason if not.
    fn refusal(&self, hello: &Hello, proven: Option<&str>) -> Option<String> {
        if hello.magic != MAGIC {
            return Some("this is a mapreduce worker".into());
        }
        if proven.is_none() && hello.cluster != self.options.cluster {
            return Some("the worker belongs to another cluster".into());
        }
        if hello.protocol != PROTOCOL {
            return Some(format!("protocol {} is spoken here, not {}", PROTOCOL, hello.protocol));
        }
        if hello.program != PROGRAM && hello.role != Role::Status {
            return Some(format!("version {} is not the worker's", hello.program));
        }
        let is_client = !matches!(hello.role, Role::Peer { .. });
        match proven {
            Some(name) if is_client != (name == CLIENT_NAME) => {
                Some(format!("{name} may not do that in this cluster"))
            }
            _ => None,
        }
    }

    /// Logs what came of a connection that anybody could have made, now and then.
    fn mention(&self, peer: &str, cause: &str) {
        if let Some(line) = self.lobby.mention(peer, cause) {
            (self.log)(&line);
        }
    }

    /// Counts a connection of somebody who belongs here, as long as what is returned lives; `None` if there are enough.
    fn admit(&self) -> Option<Admitted<'_>> {
        let admitted = Admitted(self);
        (self.connections.fetch_add(1, Ordering::SeqCst) < MAX_CONNECTIONS).then_some(admitted)
    }
}

/// One connection of somebody who belongs here; it is not counted any more when this is dropped.
struct Admitted<'s>(&'s Server);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

fn start_conversation<S: Jobs>(server: &Arc<Server>, knock: Knock) {
    let place = server.lobby.enter(&knock.host, &knock.control);
    let (owned, control, peer) = (server.clone(), knock.control.clone(), knock.peer.clone());
    let knock_peer = peer.clone();
    let started = spawn(format!("mr:conn:{peer}"), move || {
        let closer = knock.control.clone();
        match super::guarded(|| meet(&owned, knock)).flatten() {
            Ok((connection, hello)) => {
                // Who was shown out at the last moment knocks again.
                let is_here = place.leave();
                let talked = super::guarded(|| match is_here {
                    true => converse::<S>(&owned, connection, hello),
                    false => Ok(()),
                });
                if let Err(cause) = talked.flatten() {
                    (owned.log)(&format!("{peer}: {cause}"));
                }
            }
            Err(cause) => owned.mention(&peer, &cause),
        }
        closer.close();
    });
    if let Err(error) = started {
        control.close();
        server.mention(&knock_peer, &format!("cannot start a thread: {error}"));
    }
}

/// Finds out whose a connection is.
///
/// # Errors
/// If it is nobody's who may come here.
fn meet(server: &Server, knock: Knock) -> Result<(Connection, Hello), String> {
    let began = Instant::now();
    let text = |error: FrameError| error.to_string();
    let mut connection = (knock.open)(GREETING_TIMEOUT).map_err(|error| text(error.into()))?;
    let mut reader = Until::within(GREETING_TIMEOUT.saturating_sub(began.elapsed()), &mut connection);
    let hello: Hello = read_message(&mut reader, MAX_HELLO_BYTES).map_err(text)?;
    // What is said to it takes no longer, either.
    connection.control.set_deadline(GREETING_TIMEOUT).map_err(|error| error.to_string())?;
    match server.refusal(&hello, connection.proven.as_deref()) {
        Some(reason) => Err(refuse(&mut connection, &reason)),
        None => Ok((connection, hello)),
    }
}

/// Tells the other side why there is nothing to be had here; returns that for the log.
fn refuse(connection: &mut Connection, reason: &str) -> String {
    let refused = Greeting::Refused { reason: reason.to_owned(), program: PROGRAM.to_owned() };
    // It may be gone.
    let _ = write_message(&mut connection.writer, &refused);
    format!("refused: {reason}")
}

/// Does what the other side came for.
fn converse<S: Jobs>(server: &Arc<Server>, mut connection: Connection, hello: Hello) -> Result<(), String> {
    let text = |error: FrameError| error.to_string();
    let Some(_admitted) = server.admit() else {
        let reason = format!("{MAX_CONNECTIONS} connections are open already");
        return Err(refuse(&mut connection, &reason));
    };
    let welcome = Greeting::Welcome(server.welcome::<S>());
    match hello.role {
        Role::Status => write_message(&mut connection.writer, &welcome).map_err(text),
        Role::Client => {
            write_message(&mut connection.writer, &welcome).map_err(text)?;
            serve_client::<S>(server, connection)
        }
        Role::Peer { job, epoch, source } => {
            let Some(entry) = server.jobs().get(&job).cloned() else {
                return Err(refuse(&mut connection, &format!("job {job} is not running here")));
            };
            if connection.proven.is_some() && connection.proven.as_ref() != entry.members.get(source.index())
            {
                return Err(refuse(&mut connection, &format!("you are not worker {} of this job", source.0)));
            }
            if let Err(cause) = entry.inbox.open(epoch, source, &connection.control, entry.timeout) {
                return Err(refuse(&mut connection, &cause));
            }
            write_message(&mut connection.writer, &welcome).map_err(text)?;
            let received = serve_peer(&entry, connection, epoch, source);
            if matches!(received, Err(ReceiveError::Own(_))) {
                // The client is to hear why from this worker, before the peer tells of a stream that broke.
                server.await_end(job, entry.timeout);
            }
            received.map_err(|error| error.to_string())
        }
    }
}

/// Receives a peer's stream and tells the job how it ended.
fn serve_peer(
    entry: &Entry,
    connection: Connection,
    epoch: Epoch,
    source: WorkerId,
) -> Result<(), ReceiveError> {
    let deadline =
        connection.control.set_deadline(entry.timeout).map_err(|error| FrameError::from(error).into());
    let received = deadline.and_then(|()| receive_stream(connection, &entry.inbox, epoch));
    (entry.happened)(match &received {
        Ok(()) => Event::StreamEnded { epoch, source },
        Err(ReceiveError::Peer(cause)) => Event::StreamFailed { epoch, peer: source, cause: cause.clone() },
        Err(ReceiveError::Own(cause)) => Event::ShuffleFailed { epoch, cause: cause.clone() },
    });
    received
}
