//! Serve: a worker process: accepts clients, peers and questions, and keeps the state of each job apart.
//!
//! Invariant: whatever one connection sends ends that connection at most, never the process.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::job::{Job, Value};
use crate::logic::coordinator::window;
use crate::logic::ids::{Epoch, JobId, WorkerId};
use crate::logic::worker::Event;
use crate::wire::frame::{FrameError, Kind, MAX_PAYLOAD_BYTES, read_frame, write_frame};
use crate::wire::message::{
    Begin, FromWorker, Greeting, Hello, MAGIC, PROTOCOL, Role, ToWorker, Welcome, decode_message,
    decode_split, read_message, write_message,
};

use super::engine::SplitData;
use super::greet::PROGRAM;
use super::link::{Answer, BEAT_INTERVAL, Connection, Control, Listen, Network, READ_BUFFER_BYTES};
use super::shuffle::{Inbox, Peers, receive_stream};
use super::spawn;
use super::worker::{Input, Setup, Tell, inputs, run};

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
    /// Ends the worker after such a time without a job.
    pub idle_timeout: Option<Duration>,
    /// Resident memory of this process, for `status`.
    pub resident_bytes: fn() -> u64,
}

/// Takes a line for the log.
pub type Log = Box<dyn Fn(&str) + Send + Sync>;

/// How long a stranger may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at a time: several clients with all their peers, and far from the limit of open files.
const MAX_CONNECTIONS: usize = 1000;

struct Server {
    options: WorkerOptions,
    network: Arc<dyn Network>,
    log: Log,
    started: Instant,
    /// A lock: jobs begin and end, and peers look them up, on threads of their own.
    jobs: Mutex<HashMap<JobId, Entry>>,
    last_job: Mutex<Instant>,
    connections: AtomicUsize,
    stopping: AtomicBool,
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
        last_job: Mutex::new(Instant::now()),
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
        let mut last = server.last_job.lock().unwrap_or_else(PoisonError::into_inner);
        if !server.jobs().is_empty() {
            *last = Instant::now();
        }
        if let Some(limit) = server.options.idle_timeout
            && last.elapsed() >= limit
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

    fn welcome<J: Job>(&self) -> Welcome {
        Welcome {
            program: PROGRAM.to_owned(),
            jobs: vec![J::NAME.to_owned()],
            pid: std::process::id(),
            threads: self.options.threads as u32,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            running_jobs: self.jobs().len() as u32,
            memory_bytes: (self.options.resident_bytes)(),
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
    let hello: Hello = read_message(&mut connection.reader).map_err(text)?;
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
            if let Err(stale) = entry.inbox.open(epoch, source) {
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

/// Runs the job that the client brings, until it ends or the client is gone.
fn serve_client<J: Job>(server: &Arc<Server>, connection: Connection) -> Result<(), String> {
    let Connection { mut reader, writer, control, peer } = connection;
    let begin = match read_message(&mut reader).map_err(|error| error.to_string())? {
        ToWorker::Begin(begin) => begin,
        other => return Err(format!("a job was to begin, not {other:?}")),
    };
    let (answers, outgoing) = unbounded();
    let tell: Tell<J::Value> = Arc::new(move |answer| answers.send(answer).is_ok());
    let closer = control.clone();
    let written =
        spawn(format!("mr:write:{peer}"), move || write_answers(writer, &outgoing, closer.as_ref()))
            .map_err(|error| error.to_string())?;
    let timeout = Duration::from_millis(begin.timeout_ms).max(BEAT_INTERVAL * 2);
    control.set_deadline(timeout).map_err(|error| error.to_string())?;
    let ended = make_job::<J>(&begin).and_then(|job| {
        (server.log)(&format!("{peer}: job {} ({}) begins", begin.job, begin.name));
        run_job(server, &begin, timeout, job, reader, tell.clone())
    });
    if let Err(cause) = &ended {
        tell(Answer::Message(FromWorker::Failed { cause: cause.clone() }));
    }
    // The writer ends once it has written all that it was told.
    drop(tell);
    let _ = written.join();
    let how = ended.as_ref().map_or_else(String::as_str, |()| "ended by the client");
    (server.log)(&format!("{peer}: job {}: {how}", begin.job));
    Ok(())
}

fn make_job<J: Job>(begin: &Begin) -> Result<J, String> {
    if begin.name != J::NAME {
        return Err(format!("this worker does not know the job {:?}, only {:?}", begin.name, J::NAME));
    }
    let params =
        serde_json::from_str(&begin.params).map_err(|error| format!("the job's parameters: {error}"))?;
    super::guarded(|| J::new(params)).and_then(|made| made)
}

/// Runs the loop of one job on a thread of its own, and feeds it from the client's connection.
fn run_job<J: Job>(
    server: &Arc<Server>,
    begin: &Begin,
    timeout: Duration,
    job: J,
    reader: Box<dyn Read + Send>,
    tell: Tell<J::Value>,
) -> Result<(), String> {
    let inbox = Arc::new(Inbox::default());
    let (sender, received) = inputs::<J::Value>();
    let to_loop = sender.clone();
    let happened: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(move |event| {
        let _ = to_loop.send(Input::Happened(event));
    });
    if server.jobs().contains_key(&begin.job) {
        return Err("a job of this id runs here already".into());
    }
    server.jobs().insert(begin.job, Entry { inbox: inbox.clone(), happened, timeout });
    let threads = server.options.threads;
    let setup = Setup {
        job: Arc::new(job),
        seed: begin.seed,
        me: begin.worker,
        threads,
        window: window(threads as u32),
        memory: server.options.memory,
        peers: Some(Peers {
            network: server.network.clone(),
            key: server.options.key.clone().unwrap_or_default(),
            job: begin.job,
            me: begin.worker,
            timeout,
            open: Mutex::default(),
        }),
        inbox,
    };
    let inputs = sender.clone();
    let told = tell.clone();
    let ran = spawn(format!("mr:job:{}", begin.job), move || {
        if let Err(error) = run(setup, inputs, &received, tell) {
            let cause = format!("cannot start a thread: {error}");
            told(Answer::Message(FromWorker::Failed { cause }));
        }
    })
    .map_err(|error| error.to_string());
    let read = ran.and_then(|ran| {
        let read = read_orders(reader, &sender);
        let _ = sender.send(Input::End);
        // The loop ends at once; the threads that it started give up their tables when they notice.
        let _ = ran.join();
        read
    });
    server.jobs().remove(&begin.job);
    read
}

/// Feeds the loop with what the client sends, until it ends the job.
fn read_orders<V: Value>(reader: Box<dyn Read + Send>, inputs: &Sender<Input<V>>) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    loop {
        let mut payload = Vec::new();
        let kind = read_frame(&mut reader, &mut payload, MAX_PAYLOAD_BYTES);
        let input = match kind.map_err(|error| format!("the client is gone: {error}"))? {
            None => return Ok(()),
            Some(Kind::Split) => {
                let (split, _) = decode_split(&payload).map_err(|error| error.to_string())?;
                Input::Split(split, SplitData::Received(payload))
            }
            Some(Kind::Control) => match decode_message(&payload).map_err(|error| error.to_string())? {
                ToWorker::Beat => continue,
                ToWorker::Shuffle { epoch, routes } => Input::Shuffle { epoch, routes },
                ToWorker::Reduce { epoch, top } => Input::Happened(Event::Reduce { epoch, top }),
                ToWorker::Fetch { epoch, credit } => Input::Happened(Event::Fetch { epoch, credit }),
                ToWorker::Credit { batches } => Input::Happened(Event::Credit { batches }),
                ToWorker::Begin(_) => return Err("a job began within another".into()),
            },
            Some(other) => return Err(FrameError::Unexpected(other).to_string()),
        };
        if inputs.send(input).is_err() {
            return Err("the job ended here".into());
        }
    }
}

/// Writes answers, and beats while there are none, until the job is over or the client is gone.
fn write_answers<V: Value>(
    mut writer: Box<dyn Write + Send>,
    outgoing: &Receiver<Answer<V>>,
    control: &dyn Control,
) {
    loop {
        let written = match outgoing.recv_timeout(BEAT_INTERVAL) {
            Ok(Answer::Message(message)) => write_message(&mut writer, &message),
            Ok(Answer::Results(batch)) => {
                write_frame(&mut writer, Kind::Results, &[&batch]).map_err(FrameError::from)
            }
            Ok(Answer::Sorted(_) | Answer::Unread { .. } | Answer::Closed { .. }) => Ok(()),
            Err(RecvTimeoutError::Timeout) => write_message(&mut writer, &FromWorker::Beat),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = write_frame(&mut writer, Kind::End, &[]);
                control.close();
                return;
            }
        };
        if written.is_err() {
            control.close();
            return;
        }
    }
}
