//! Members: raw conversations with a worker of who has a certificate of the cluster, or needs none.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mapreduce::edge::identity::SHARED_WORKER_NAME;
use mapreduce::edge::net::Wire;
use mapreduce::job::Job;
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::logic::ids::{Epoch, JobId, SplitId, WorkerId};
use mapreduce::logic::packing::{Compress, Packing};
use mapreduce::logic::partition::Seed;
use mapreduce::runtime::greet::{GreetError, greet};
use mapreduce::runtime::link::Connection;
use mapreduce::wire::frame::{Kind, MAX_PAYLOAD_BYTES, read_frame, write_frame};
use mapreduce::wire::message::{
    Begin, FromWorker, Role, Routes, SplitHeader, ToWorker, decode_message, write_message,
};
use mapreduce::wire::pack::Packed;

use super::stage::{PATIENCE, Stage};

/// The epoch of what these members say.
pub const EPOCH: Epoch = Epoch(1);

/// A silence after which a worker gives a member's job up: the shortest that there is.
pub const SILENCE: Duration = Duration::from_secs(2);

/// Somebody in a conversation with a worker.
pub struct Member(pub Connection);

impl Member {
    /// Connects and is greeted.
    ///
    /// # Errors
    /// With what the worker has against it.
    pub fn greeted(stage: &Stage, worker: usize, wire: &Wire, role: Role) -> Result<Member, String> {
        let mut connection = stage.connect(worker, wire).map_err(|error| error.to_string())?;
        match greet(&mut connection, wire.cluster(), role, PATIENCE) {
            Ok(_) => Ok(Member(connection)),
            Err(GreetError::Refused { reason, .. }) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A client whose job has not begun.
    pub fn client(stage: &Stage) -> Member {
        Member::greeted(stage, 0, &stage.wire(), Role::Client).expect("a client is welcome")
    }

    /// A client whose job has begun on worker 0.
    pub fn with_job(stage: &Stage, begin: Begin) -> Member {
        Member::with_job_on(stage, 0, begin)
    }

    /// A client whose job has begun on a worker.
    pub fn with_job_on(stage: &Stage, worker: usize, begin: Begin) -> Member {
        let client = Member::greeted(stage, worker, &stage.wire(), Role::Client);
        let mut member = client.expect("a client is welcome");
        member.order(&ToWorker::Begin(begin));
        assert_eq!(member.hear(), Some(FromWorker::Begun));
        member
    }

    /// Says anything. The worker may have ended the connection already.
    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.0.writer.write_all(bytes);
    }

    pub fn frame(&mut self, kind: Kind, payload: &[u8]) {
        let _ = write_frame(&mut self.0.writer, kind, &[payload]);
    }

    pub fn order(&mut self, order: &ToWorker) {
        let _ = write_message(&mut self.0.writer, order);
    }

    /// Sends a split whose header says `packed`, with `bytes` behind it.
    pub fn split(&mut self, split: u64, packed: Packed, bytes: &[u8]) {
        let header = SplitHeader::of_text(SplitId(split), false, packed);
        self.frame(Kind::Split, &[&header.encode()[..], bytes].concat());
    }

    pub fn text(&mut self, split: u64, text: &str) {
        self.split(split, Packed { packing: Packing::Plain, length: text.len() }, text.as_bytes());
    }

    /// The next thing that the worker says but beats; `None` once it has ended the conversation.
    pub fn hear(&mut self) -> Option<FromWorker> {
        let mut payload = Vec::new();
        loop {
            match read_frame(&mut self.0.reader, &mut payload, MAX_PAYLOAD_BYTES) {
                Ok(Some(Kind::Control)) => match decode_message(&payload).expect("a message") {
                    FromWorker::Beat => {}
                    message => return Some(message),
                },
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// As [`Member::hear_refusal`], and says now and then that it is there, as an honest client does.
    pub fn hear_refusal_patiently(&mut self) -> String {
        let idle: Box<dyn Write + Send> = Box::new(std::io::sink());
        let mut writer = std::mem::replace(&mut self.0.writer, idle);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = write_message(&mut writer, &ToWorker::Beat);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let heard = self.hear_refusal();
            is_over.store(true, Ordering::Relaxed);
            heard
        })
    }

    /// Waits for what the worker has against this job; empty if it ends the conversation without a word.
    pub fn hear_refusal(&mut self) -> String {
        loop {
            match self.hear() {
                Some(FromWorker::Failed { cause } | FromWorker::MapFailed { cause, .. }) => return cause,
                Some(FromWorker::PeerFailed { cause, .. }) => return format!("peer: {cause}"),
                Some(_) => {}
                None => return String::new(),
            }
        }
    }
}

/// A job of its own of one worker, which may be two, or more.
pub fn begin() -> Begin {
    static JOBS: AtomicU64 = AtomicU64::new(1);
    Begin {
        job: JobId(0xbad << 32 | JOBS.fetch_add(1, Ordering::Relaxed)),
        name: WordCount::NAME.to_owned(),
        params: serde_json::to_string(&Params::default()).expect("they have a JSON form"),
        seed: Seed([1, 2]),
        worker: WorkerId(0),
        timeout_ms: SILENCE.as_millis() as u64,
        compress: Compress::Always(Packing::Plain),
        members: vec![SHARED_WORKER_NAME.to_owned(); 2],
    }
}

/// Has the partitions, one for each of `owners`, go to workers at these addresses.
pub fn shuffle(workers: &[(u32, &str)], owners: &[u32]) -> ToWorker {
    let worker = |&(id, address): &(u32, &str)| (WorkerId(id), address.to_owned());
    let routes = Routes {
        workers: workers.iter().map(worker).collect(),
        owners: owners.iter().copied().map(WorkerId).collect(),
    };
    ToWorker::Shuffle { epoch: EPOCH, routes }
}
