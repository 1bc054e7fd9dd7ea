//! Job: the conversation with one client: its job begins, is fed, answers, and ends with the connection.

use std::io::{self, BufReader, Read};
use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};

use super::answers::{Outgoing, teller, write_answers};
use super::listing::list;
use super::{Entry, Server};
use crate::job::{Job, Jobs, Value, Visitor};
use crate::logic::coordinator::window;
use crate::logic::worker::Event;
use crate::runtime::buffers::Buffers;
use crate::runtime::engine::SplitData;
use crate::runtime::greet::Until;
use crate::runtime::inbox::Inbox;
use crate::runtime::link::{Answer, Connection, Control, MIN_TIMEOUT, READ_BUFFER_BYTES};
use crate::runtime::shuffle::Peers;
use crate::runtime::storage::Storage;
use crate::runtime::worker::{Input, Setup, inputs, run};
use crate::runtime::{guarded, spawn};
use crate::wire::frame::{
    FrameError, Header, Kind, MAX_CONTROL_BYTES, MAX_PAYLOAD_BYTES, read_frame, read_header, read_payload,
};
use crate::wire::message::{Begin, FromWorker, SplitHeader, ToWorker, decode_message};

/// How long a client may say nothing between the greeting and its job. It reaches all other workers meanwhile, and some
/// of them may not answer. A client that keeps this worker as a spare, for one that may be lost, beats meanwhile.
pub(super) const BEGIN_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 8 } else { 60 });

/// The longest silence that a client can ask for: what is dead by then is not waited for any longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs the job that the client brings, until it ends or the client is gone.
pub(super) fn serve_client<S: Jobs>(server: &Arc<Server>, mut connection: Connection) -> Result<(), String> {
    let _kept = server.keep();
    let (answers, outgoing) = unbounded();
    let (writer, closer) =
        (replace(&mut connection.writer, Box::new(io::sink())), connection.control.clone());
    // It beats from now on, so that the client sees a spare die.
    let written = spawn(format!("mr:write:{}", connection.peer), move || {
        write_answers(writer, &outgoing, closer.as_ref());
    })
    .map_err(|error| error.to_string())?;
    let trusted = server.trusts(&connection);
    let ended = match wait_for_job(server, &mut connection, trusted, &answers) {
        Ok(None) => Ok(()),
        Ok(Some(begin)) => {
            let Connection { reader, control, peer, .. } = connection;
            let beginning = Beginning {
                server,
                begin: &begin,
                trusted,
                reader,
                control: control.as_ref(),
                peer: &peer,
                answers: &answers,
            };
            let ended = S::pick(&begin.name, beginning).unwrap_or_else(|| Err(unknown::<S>(&begin.name)));
            let how = ended.as_ref().map_or_else(ToString::to_string, |()| "ended by the client".to_owned());
            (server.log)(&format!("{peer}: job {}: {how}", begin.job));
            if let Err(Broken::Refused(cause)) = ended {
                let _ = answers.send(Outgoing::Message(FromWorker::Failed { cause }));
            }
            Ok(())
        }
        Err(cause) => Err(cause),
    };
    // The writer ends once it has written all that it was told.
    drop(answers);
    let _ = written.join();
    ended
}

/// Waits until the client begins its job, and lists files for it; `None` if it goes without: it needed no spare.
fn wait_for_job(
    server: &Server,
    connection: &mut Connection,
    trusted: bool,
    answers: &Sender<Outgoing>,
) -> Result<Option<Begin>, String> {
    let mut payload = Vec::new();
    loop {
        let mut reader = Until::within(BEGIN_TIMEOUT, connection);
        let message = match read_frame(&mut reader, &mut payload, MAX_CONTROL_BYTES) {
            Ok(Some(Kind::Control)) => decode_message(&payload),
            Ok(Some(kind)) => Err(FrameError::Unexpected(kind)),
            Ok(None) | Err(FrameError::Torn) => return Ok(None),
            Err(error) => Err(error),
        };
        match message {
            Ok(ToWorker::Begin(begin)) => return Ok(Some(begin)),
            Ok(ToWorker::Beat) => {}
            Ok(ToWorker::List { places }) if trusted => list(server.storage.as_ref(), &places, answers)?,
            Ok(ToWorker::List { .. }) => {
                let cause = untrusted(READS);
                let _ = answers.send(Outgoing::Message(FromWorker::Failed { cause: cause.clone() }));
                return Err(cause);
            }
            Ok(_) => return Err("the client did not begin with a job".to_owned()),
            Err(error) => return Err(format!("the client did not begin a job: {error}")),
        }
    }
}

/// Why a job ended that the client did not end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// It is not heard any more. It is told nothing: that its link closes says as much, and does not sound as if this
    /// worker had something against the job.
    #[error("the client is gone: {0}")]
    Gone(FrameError),
    #[error("{0}")]
    Refused(String),
}

impl From<String> for Broken {
    fn from(cause: String) -> Self {
        Self::Refused(cause)
    }
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Torn | FrameError::Silent | FrameError::Io(_) => Self::Gone(error),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// A job that is to begin, whichever it is.
struct Beginning<'b> {
    server: &'b Arc<Server>,
    begin: &'b Begin,
    /// Whether the client may run commands and read files here.
    trusted: bool,
    reader: Box<dyn Read + Send>,
    control: &'b dyn Control,
    peer: &'b str,
    answers: &'b Sender<Outgoing>,
}

impl Visitor for Beginning<'_> {
    type Output = Result<(), Broken>;

    fn visit<J: Job>(self) -> Self::Output {
        let Self { server, begin, trusted, reader, control, peer, answers } = self;
        if J::NEEDS_TRUST && !trusted {
            return Err(untrusted(&format!("the job {} runs commands", J::NAME)).into());
        }
        let timeout = Duration::from_millis(begin.timeout_ms).clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        control.set_deadline(timeout).map_err(|error| error.to_string())?;
        let job = make_job::<J>(begin)?;
        (server.log)(&format!("{peer}: job {} ({}) begins", begin.job, begin.name));
        run_job(server, begin, timeout, job, trusted, reader, answers)
    }
}

/// What is refused to those that could be anybody.
const READS: &str = "this run has workers read files themselves";

/// Says why `what` is not to be had by a client that could be anybody.
fn untrusted(what: &str) -> String {
    format!(
        "{what}, and this worker does so only for clients that prove who they are, unless it is started with `serve \
         --allow-commands`"
    )
}

fn unknown<S: Jobs>(name: &str) -> Broken {
    let known: Vec<&str> = S::list().iter().map(|job| job.name).collect();
    Broken::Refused(format!("this worker does not know the job {name:?}, only {known:?}"))
}

fn make_job<J: Job>(begin: &Begin) -> Result<J, String> {
    let params =
        serde_json::from_str(&begin.params).map_err(|error| format!("the job's parameters: {error}"))?;
    guarded(|| J::new(params)).and_then(|made| made)
}

/// Runs the loop of one job on a thread of its own, and feeds it from the client's connection.
fn run_job<J: Job>(
    server: &Arc<Server>,
    begin: &Begin,
    timeout: Duration,
    job: J,
    trusted: bool,
    reader: Box<dyn Read + Send>,
    answers: &Sender<Outgoing>,
) -> Result<(), Broken> {
    let inbox = Arc::new(Inbox::new(server.options.memory));
    let (sender, received) = inputs::<J::Value>();
    let to_loop = sender.clone();
    let happened: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(move |event| {
        let _ = to_loop.send(Input::Happened(event));
    });
    let members = begin.members.clone();
    server.enter(begin.job, Entry { inbox: inbox.clone(), happened, timeout, members })?;
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
            cluster: server.options.cluster.clone(),
            members: begin.members.clone(),
            job: begin.job,
            timeout,
            compress: begin.compress,
            cores: threads,
        }),
        inbox: inbox.clone(),
    };
    let inputs = sender.clone();
    let (tell, told) = (teller::<J::Value>(answers), teller::<J::Value>(answers));
    let ran = spawn(format!("mr:job:{}", begin.job), move || {
        let ran = guarded(|| run(setup, inputs, &received, tell).map_err(|error| error.to_string()));
        if let Err(cause) = ran.flatten() {
            told(Answer::Message(FromWorker::Failed { cause }));
        }
    })
    .map_err(|error| Broken::Refused(error.to_string()));
    let read = ran.and_then(|ran| {
        let read = read_orders(
            reader,
            &sender,
            answers,
            &inbox,
            trusted.then_some(&server.storage),
            window(threads as u32),
        );
        let _ = sender.send(Input::End);
        // The loop ends at once; the threads that it started give up their tables when they notice.
        let _ = ran.join();
        read
    });
    server.leave(begin.job);
    read
}

const ENDED: &str = "the job ended here";

/// Feeds the loop with what the client sends, until it ends the job. No more than `window` splits are held. Without
/// `storage` the client may not have files read.
fn read_orders<V: Value>(
    reader: Box<dyn Read + Send>,
    inputs: &Sender<Input<V>>,
    answers: &Sender<Outgoing>,
    inbox: &Inbox,
    storage: Option<&Arc<dyn Storage>>,
    window: usize,
) -> Result<(), Broken> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let buffers = Buffers::new(window);
    let mut control = Vec::new();
    loop {
        let input = match read_header(&mut reader, MAX_PAYLOAD_BYTES)? {
            None => return Ok(()),
            Some(header @ Header { kind: Kind::Split, .. }) => {
                let (header, received) = buffers.receive(&mut reader, header)?;
                let SplitHeader { split, provisional, .. } = header;
                Input::Split { split, provisional, data: SplitData::Received(received) }
            }
            Some(Header { kind: Kind::Control, length }) => {
                read_payload(&mut reader, &mut control, length)?;
                match order(decode_message(&control[..length])?, storage, answers)? {
                    Some(Input::Shuffle { epoch, routes }) => {
                        let told = inputs.send(Input::Shuffle { epoch, routes });
                        // Not before the loop knows: what comes of a stream is to find it shuffling.
                        inbox.begin_epoch(epoch);
                        match told {
                            Ok(()) => continue,
                            Err(_) => return Err(ENDED.to_owned().into()),
                        }
                    }
                    Some(input) => input,
                    None => continue,
                }
            }
            Some(Header { kind, .. }) => return Err(FrameError::Unexpected(kind).into()),
        };
        if inputs.send(input).is_err() {
            return Err(ENDED.to_owned().into());
        }
    }
}

/// Makes an input of what the client says; `None` if there is nothing to do.
fn order<V: Value>(
    message: ToWorker,
    storage: Option<&Arc<dyn Storage>>,
    answers: &Sender<Outgoing>,
) -> Result<Option<Input<V>>, String> {
    Ok(Some(match message {
        ToWorker::Read { split, provisional, located } => {
            let storage = storage.ok_or_else(|| untrusted(READS))?;
            located.check().map_err(|error| error.to_string())?;
            let data = SplitData::Located(Box::new(located), storage.clone());
            Input::Split { split, provisional, data }
        }
        ToWorker::Beat => return Ok(None),
        ToWorker::Shuffle { epoch, routes } => {
            routes.check().map_err(|error| error.to_string())?;
            Input::Shuffle { epoch, routes }
        }
        ToWorker::Reduce { epoch, limits } => Input::Happened(Event::Reduce { epoch, limits }),
        ToWorker::Fetch { epoch, credit, packing } => {
            // Before the first batch; a writer that is gone is noticed elsewhere.
            let _ = answers.send(Outgoing::Pack(packing));
            Input::Happened(Event::Fetch { epoch, credit })
        }
        ToWorker::Commit { split } => Input::Happened(Event::Commit { split }),
        ToWorker::Discard { split } => Input::Happened(Event::Discard { split }),
        ToWorker::Credit { epoch, batches } => Input::Happened(Event::Credit { epoch, batches }),
        ToWorker::Begin(_) => return Err("a job began within another".into()),
        ToWorker::List { .. } => return Err("files are listed before a job begins".into()),
    }))
}
