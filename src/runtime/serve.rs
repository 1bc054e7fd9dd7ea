//! Serve: a worker process: accepts clients, peers and questions, and keeps the state of each job apart.
//!
//! Invariant: whatever one connection sends ends that connection at most, never the process.

mod answers;
mod job;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::job::Job;
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::packing::Packing;
use crate::logic::worker::Event;
use crate::wire::frame::{FrameError, MAX_HELLO_BYTES};
use crate::wire::message::{Greeting, Hello, MAGIC, PROTOCOL, Role, Welcome, read_message, write_message};

use super::greet::{PROGRAM, Until};
use super::inbox::{Inbox, receive_stream};
use super::link::{Connection, Listen, Network};
use super::spawn;
use job::serve_client;

/// What a worker is told when it is started.
pub struct WorkerOptions {
    /// For the log.
    pub name: String,
    /// The cluster's key; `None` for a worker started by hand.
    pub key: Option<String>,
    /// Map threads of each job.
    pub threads: usize,
    /// Bytes that a job's map tables may hold.
    pub memory: u64,
    /// Ends the worker after such a time without a client.
    pub idle_timeout: Option<Duration>,
    /// Resident memory of this process, for `status`.
    pub resident_bytes: fn() -> u64,
}

/// Takes a line for the log.
pub type Log = Box<dyn Fn(&str) + Send + Sync>;

/// How long a stranger may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at a time: several clients with all their peers. With as many streams to other workers, that is still
/// below the usual limit of 1024 open files.
const MAX_CONNECTIONS: usize = 500;

struct Server {
    options: WorkerOptions,
    network: Arc<dyn Network>,
    log: Log,
    started: Instant,
    /// A lock: jobs begin and end, and peers look them up, on threads of their own.
    jobs: Mutex<HashMap<JobId, Entry>>,
    /// A lock, as for the jobs.
    clients: Mutex<Clients>,
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
}

/// Serves until `stop` gets a value or loses its sender, or the worker has been idle for long enough.
///
/// # Errors
/// If threads cannot be started.
pub fn serve<J: Job>(
    listener: Arc<dyn Listen>,
    network: Arc<dyn Network>,
    options: WorkerOptions,
    stop: Receiver<()>,
    log: Log,
) -> std::io::Result<()> {
    let server = Arc::new(Server {
        options,
        network,
        log,
        started: Instant::now(),
        jobs: Mutex::default(),
        clients: Mutex::new(Clients { n: 0, last: Instant::now() }),
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
            Ok(connection) => start_conversation::<J>(&server, connection),
            Err(error) => {
                (server.log)(&format!("cannot accept a connection: {error}"));
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

    fn leave(&self, job: JobId) {
        self.jobs().remove(&job);
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

    fn welcome<J: Job>(&self) -> Welcome {
        Welcome {
            program: PROGRAM.to_owned(),
            jobs: vec![J::NAME.to_owned()],
            pid: std::process::id(),
            threads: self.options.threads as u32,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            running_jobs: self.jobs().len() as u32,
            memory_bytes: (self.options.resident_bytes)(),
            packings: Packing::ALL.map(|packing| packing.name().to_owned()).to_vec(),
        }
    }

    /// Tells whether to speak with who says `hello`; the reason if not.
    fn refusal(&self, hello: &Hello) -> Option<String> {
        if hello.magic != MAGIC {
            return Some("this is a mapreduce worker".into());
        }
        if hello.key != self.options.key.as_deref().unwrap_or_default() {
            return Some("the worker belongs to another cluster".into());
        }
        if hello.protocol != PROTOCOL {
            return Some(format!("protocol {} is spoken here, not {}", PROTOCOL, hello.protocol));
        }
        if hello.program != PROGRAM && hello.role != Role::Status {
            return Some(format!("version {} is not the worker's", hello.program));
        }
        None
    }
}

fn start_conversation<J: Job>(server: &Arc<Server>, connection: Connection) {
    let control = connection.control.clone();
    if server.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
        server.connections.fetch_sub(1, Ordering::SeqCst);
        (server.log)(&format!("{}: refused, for {MAX_CONNECTIONS} connections are open", connection.peer));
        control.close();
        return;
    }
    let owned = server.clone();
    let peer = connection.peer.clone();
    let started = spawn(format!("mr:conn:{peer}"), move || {
        let closer = connection.control.clone();
        let talked = super::guarded(|| converse::<J>(&owned, connection));
        if let Err(cause) | Ok(Err(cause)) = talked {
            (owned.log)(&format!("{peer}: {cause}"));
        }
        closer.close();
        owned.connections.fetch_sub(1, Ordering::SeqCst);
    });
    if let Err(error) = started {
        server.connections.fetch_sub(1, Ordering::SeqCst);
        control.close();
        (server.log)(&format!("cannot start a thread: {error}"));
    }
}

/// Greets, and does what the other side came for.
fn converse<J: Job>(server: &Arc<Server>, mut connection: Connection) -> Result<(), String> {
    let text = |error: FrameError| error.to_string();
    connection.control.set_deadline(GREETING_TIMEOUT).map_err(|error| error.to_string())?;
    let mut reader = Until::within(GREETING_TIMEOUT, &mut connection);
    let hello: Hello = read_message(&mut reader, MAX_HELLO_BYTES).map_err(text)?;
    let refuse = |connection: &mut Connection, reason: String| {
        let refused = Greeting::Refused { reason: reason.clone(), program: PROGRAM.to_owned() };
        let _ = write_message(&mut connection.writer, &refused);
        Err(format!("refused: {reason}"))
    };
    if let Some(reason) = server.refusal(&hello) {
        return refuse(&mut connection, reason);
    }
    let welcome = Greeting::Welcome(server.welcome::<J>());
    match hello.role {
        Role::Status => write_message(&mut connection.writer, &welcome).map_err(text),
        Role::Client => {
            write_message(&mut connection.writer, &welcome).map_err(text)?;
            serve_client::<J>(server, connection)
        }
        Role::Peer { job, epoch, source } => {
            let Some(entry) = server.jobs().get(&job).cloned() else {
                return refuse(&mut connection, format!("job {job} is not running here"));
            };
            if let Err(stale) = entry.inbox.lock().open(epoch, source) {
                return refuse(&mut connection, stale.to_string());
            }
            write_message(&mut connection.writer, &welcome).map_err(text)?;
            serve_peer(&entry, connection, epoch, source)
        }
    }
}

/// Receives a peer's stream and tells the job how it ended.
fn serve_peer(entry: &Entry, connection: Connection, epoch: Epoch, source: WorkerId) -> Result<(), String> {
    let deadline = connection.control.set_deadline(entry.timeout).map_err(|error| error.to_string());
    let received = deadline.and_then(|()| receive_stream(connection, &entry.inbox, epoch));
    (entry.happened)(match &received {
        Ok(()) => Event::StreamEnded { epoch, source },
        Err(cause) => Event::StreamFailed { epoch, peer: source, cause: cause.clone() },
    });
    received
}
