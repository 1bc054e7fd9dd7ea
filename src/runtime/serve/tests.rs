//! A worker is spoken to by hand, over connections in memory.

mod losses;
mod reads;

use std::io::Read;

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::job::Job;
use crate::jobs::word_count::WordCount;
use crate::logic::ids::SplitId;
use crate::logic::limits::Limits;
use crate::logic::packing::Compress;
use crate::logic::partition::Seed;
use crate::runtime::link::MIN_TIMEOUT;
use crate::runtime::memory::Door;
use crate::runtime::storage::{Listed, Storage};
use crate::wire::encoding::Encoding;
use crate::wire::entries::{SortedDecoder, SortedEntry};
use crate::wire::frame::{Kind, MAX_PAYLOAD_BYTES, read_frame, write_frame};
use crate::wire::located::{Found, PathBytes, Place};
use crate::wire::message::{
    Begin, FromWorker, RESULTS_HEADER_BYTES, Routes, SplitHeader, ToWorker, decode_message, decode_results,
};
use crate::wire::pack::{Packed, Packer};

const CLUSTER: &str = "c1";
const EPOCH: Epoch = Epoch(1);

/// A worker that serves until this is dropped.
struct Served {
    door: Door,
    /// Where it looks for its peers.
    peers: Door,
    _stop: Sender<()>,
    /// Loses its sender when the worker has ended.
    ended: Receiver<()>,
    logged: Arc<Mutex<Vec<String>>>,
}

impl Served {
    fn start() -> Self {
        Self::start_with::<WordCount>(None)
    }

    fn start_with<J: Job>(idle_timeout: Option<Duration>) -> Self {
        Self::start_as::<J>(idle_timeout, false)
    }

    /// Starts one that lets anybody do anything.
    fn start_trusting() -> Self {
        Self::start_as::<WordCount>(None, true)
    }

    fn start_as<J: Job>(idle_timeout: Option<Duration>, allow_commands: bool) -> Self {
        let (door, peers) = (Door::new(), Door::new());
        let (stop, stopped) = bounded(1);
        let (ends, ended) = bounded(0);
        let options = WorkerOptions {
            name: "worker".into(),
            cluster: CLUSTER.into(),
            threads: 1,
            memory: u64::MAX,
            idle_timeout,
            allow_commands,
            resident_bytes: || 0,
        };
        let logged: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = logged.clone();
        let log = Box::new(move |line: &str| lines.lock().expect("no panic").push(line.to_owned()));
        let (listener, network) = (Arc::new(door.clone()), Arc::new(peers.clone()));
        std::thread::spawn(move || {
            let _ = serve::<J>(listener, network, Arc::new(Shelf), options, stopped, log);
            drop(ends);
        });
        Self { door, peers, _stop: stop, ended, logged }
    }

    fn say(&self, hello: &Hello) -> (Connection, Result<Greeting, FrameError>) {
        let mut connection = self.door.knock();
        write_message(&mut connection.writer, hello).expect("the worker listens");
        let greeting = read_message(&mut connection.reader, 1 << 10);
        (connection, greeting)
    }

    /// Asserts that the worker serves others.
    fn assert_well(&self, running_jobs: u32) {
        let begin = Instant::now();
        loop {
            let (_, greeting) = self.say(&hello(Role::Status));
            let Ok(Greeting::Welcome(welcome)) = greeting else { panic!("refused: {greeting:?}") };
            if welcome.running_jobs == running_jobs {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{} jobs run", welcome.running_jobs);
        }
    }

    fn client(&self, begin: Begin) -> Client {
        let (connection, greeting) = self.say(&hello(Role::Client));
        assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
        let mut client = Client(connection);
        client.order(&ToWorker::Begin(begin));
        client
    }
}

/// A few files: of each place one whose text is its name.
struct Shelf;

impl Storage for Shelf {
    fn list(&self, places: &[Place], tell: &mut dyn FnMut(Listed) -> bool) {
        for (index, place) in places.iter().enumerate() {
            let name = place.name();
            let listed = match name.ends_with(b"missing") {
                true => Listed::Failed(index as u32, "it is not there".to_owned()),
                false => Listed::File(index as u32, on_shelf(place.clone(), name.len() as u64)),
            };
            assert!(!name.ends_with(b"mistake"), "a mistake");
            if !tell(listed) {
                return;
            }
        }
    }

    fn open(&self, file: &Found, from: u64, _: u64) -> std::io::Result<Box<dyn Read + Send>> {
        let text = file.place.name();
        match text.ends_with(b"missing") {
            true => Err(std::io::Error::other("it is not there")),
            false => Ok(Box::new(std::io::Cursor::new(text[from as usize..].to_vec()))),
        }
    }
}

fn on_shelf(place: Place, length: u64) -> Found {
    Found { place, length: Some(length), stamp: "1".into(), encoding: Encoding::Plain, has_ranges: true }
}

fn at(path: &str) -> Place {
    Place::Path(PathBytes(path.as_bytes().to_vec()))
}

/// A client's end of a job.
struct Client(Connection);

impl Client {
    fn order(&mut self, message: &ToWorker) {
        write_message(&mut self.0.writer, message).expect("the worker listens");
    }

    fn split(&mut self, id: u64, text: &str) {
        self.packed_split(id, Packed { packing: Packing::Plain, length: text.len() }, text.as_bytes());
    }

    fn packed_split(&mut self, id: u64, packed: Packed, bytes: &[u8]) {
        self.send_split(SplitHeader::of_text(SplitId(id), false, packed), bytes);
    }

    fn provisional_split(&mut self, id: u64, text: &str) {
        let packed = Packed { packing: Packing::Plain, length: text.len() };
        self.send_split(SplitHeader::of_text(SplitId(id), true, packed), text.as_bytes());
    }

    fn send_split(&mut self, header: SplitHeader, bytes: &[u8]) {
        let header = header.encode();
        write_frame(&mut self.0.writer, Kind::Split, &[&header, bytes]).expect("the worker listens");
    }

    /// Returns the next frame that is no beat; `None` at the end.
    fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        loop {
            let mut payload = Vec::new();
            let kind = read_frame(&mut self.0.reader, &mut payload, MAX_PAYLOAD_BYTES).expect("a frame")?;
            if kind != Kind::Control || !matches!(decode_message(&payload), Ok(FromWorker::Beat)) {
                return Some((kind, payload));
            }
        }
    }

    fn hear(&mut self) -> FromWorker {
        let (kind, payload) = self.next().expect("the conversation goes on");
        assert_eq!(kind, Kind::Control);
        decode_message(&payload).expect("a message")
    }

    fn hear_failure(&mut self, what: &str) {
        let heard = self.hear();
        assert!(matches!(&heard, FromWorker::Failed { cause } if cause.contains(what)), "{heard:?}");
    }
}

fn hello(role: Role) -> Hello {
    Hello { magic: MAGIC.into(), protocol: PROTOCOL, program: PROGRAM.into(), cluster: CLUSTER.into(), role }
}

fn begin(job: u64) -> Begin {
    Begin {
        job: JobId(job),
        name: WordCount::NAME.into(),
        params: r#"{"tokens":"word","ignore_case":false}"#.into(),
        seed: Seed([1, 2]),
        worker: WorkerId(0),
        timeout_ms: MIN_TIMEOUT.as_millis() as u64,
        compress: Compress::Auto,
        members: Vec::new(),
    }
}

fn shuffle(workers: &[u32], owners: &[u32]) -> ToWorker {
    shuffle_in(EPOCH, workers, owners)
}

fn shuffle_in(epoch: Epoch, workers: &[u32], owners: &[u32]) -> ToWorker {
    let workers = workers.iter().map(|&id| (WorkerId(id), String::new())).collect();
    ToWorker::Shuffle {
        epoch,
        routes: Routes { workers, owners: owners.iter().copied().map(WorkerId).collect() },
    }
}

#[test]
fn a_job_goes_from_its_beginning_to_its_end() {
    let served = Served::start();
    let mut client = served.client(begin(7));
    assert_eq!(client.hear(), FromWorker::Begun);
    served.assert_well(1);
    client.split(5, "b a b");
    assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(5), pairs: 3 });
    client.order(&shuffle(&[0], &[0, 0]));
    assert_eq!(client.hear(), FromWorker::Shuffled { epoch: EPOCH, sent_bytes: 0 });
    client.order(&ToWorker::Reduce { epoch: EPOCH, limits: Limits::default() });
    assert_eq!(client.hear(), FromWorker::Reduced { epoch: EPOCH, distinct: 2, entries: 2, bytes: 0 });
    // More credit than there is memory for.
    client.order(&ToWorker::Fetch { epoch: EPOCH, credit: u32::MAX, packing: Packing::Plain });
    client.order(&ToWorker::Credit { epoch: EPOCH, batches: u32::MAX });
    let (kind, result) = client.next().expect("the result");
    let (header, result) = results_of(&result);
    assert_eq!(header.packing, Packing::Plain);
    let result: Result<Vec<_>, _> = SortedDecoder::<u64>::new(result).collect();
    let entry = |rest, value| SortedEntry { shared: 0, rest, value };
    assert_eq!((kind, result), (Kind::Results, Ok(vec![entry(&b"b"[..], 2), entry(b"a", 1)])));
    assert_eq!(client.hear(), FromWorker::ResultsEnd { epoch: EPOCH });
    write_frame(&mut client.0.writer, Kind::End, &[]).expect("the worker listens");
    assert_eq!(client.next(), None);
    served.assert_well(0);
}

/// Returns how the entries of a frame of [`EPOCH`]'s results are packed, and these.
fn results_of(payload: &[u8]) -> (Packed, &[u8]) {
    let (header, entries) = payload.split_first_chunk::<RESULTS_HEADER_BYTES>().expect("a header");
    let (epoch, packed) = decode_results(*header, entries.len()).expect("a header");
    assert_eq!(epoch, EPOCH);
    (packed, entries)
}

/// Packs `text` and says how.
fn packed(packing: Packing, text: &str) -> (Packed, Vec<u8>) {
    let mut bytes = Vec::new();
    let length = Packer::new().pack(packing, text.as_bytes(), &mut bytes).expect("a gain");
    bytes.truncate(length);
    (Packed { packing, length: text.len() }, bytes)
}

#[test]
fn packed_splits_are_mapped_and_packed_results_come_back() {
    let text = "to be or not to be ".repeat(500);
    for packing in [Packing::Lz4, Packing::Zstd] {
        let served = Served::start();
        let mut client = served.client(begin(7));
        assert_eq!(client.hear(), FromWorker::Begun);
        let (header, bytes) = packed(packing, &text);
        client.packed_split(1, header, &bytes);
        assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(1), pairs: 3000 });
        let words: String = (0..5000).map(|n| format!("w{n} ")).collect();
        client.split(2, &words);
        assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(2), pairs: 5000 });
        client.order(&shuffle(&[0], &[0]));
        assert!(matches!(client.hear(), FromWorker::Shuffled { .. }));
        client.order(&ToWorker::Reduce { epoch: EPOCH, limits: Limits::default() });
        assert!(matches!(client.hear(), FromWorker::Reduced { distinct: 5004, .. }));
        client.order(&ToWorker::Fetch { epoch: EPOCH, credit: 4, packing });
        let (kind, result) = client.next().expect("the result");
        let (header, result) = results_of(&result);
        assert_eq!((kind, header.packing), (Kind::Results, packing));
        let mut unpacked = Vec::new();
        let entries = SortedDecoder::<u64>::new(header.unpack(result, &mut unpacked).expect("it is whole"));
        assert_eq!(entries.filter(Result::is_ok).count(), 5004);
    }
}

#[test]
fn a_split_that_cannot_be_unpacked_fails_and_the_worker_lives() {
    let served = Served::start();
    let text = "to be or not to be ".repeat(500);
    for packing in [Packing::Lz4, Packing::Zstd] {
        let (header, bytes) = packed(packing, &text);
        let mut corrupt = bytes.clone();
        corrupt.iter_mut().for_each(|byte| *byte ^= 0xff);
        let longer = Packed { length: header.length + 1, ..header };
        for (header, bytes) in [(header, &bytes[..bytes.len() - 3]), (header, &corrupt), (longer, &bytes)] {
            let mut client = served.client(begin(7));
            assert_eq!(client.hear(), FromWorker::Begun);
            client.packed_split(1, header, bytes);
            let FromWorker::MapFailed { cause, .. } = client.hear() else { panic!("it was taken") };
            assert!(cause.contains("cannot be unpacked"), "{cause}");
            // Another split goes well: nothing of the first one stays.
            client.split(2, "a");
            assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(2), pairs: 1 });
            drop(client);
            served.assert_well(0);
        }
    }
}

#[test]
fn a_split_that_says_what_cannot_be_ends_its_job_only() {
    let served = Served::start();
    let framed = |encoding, name_bytes: u16, packing, length: u32| {
        let split = [1, 0, 0, 0, 0, 0, 0, 0, 0, encoding];
        let name = name_bytes.to_le_bytes();
        [&split[..], &[0; 8], &name, &[packing], &length.to_le_bytes()].concat()
    };
    let header = |packing, length| framed(0, 0, packing, length);
    for (payload, what) in [
        (header(1, 2551), "do not hold"),
        (header(2, 300 << 20), "do not hold"),
        (header(1, u32::MAX), "longer than"),
        (header(0, 11), "do not hold"),
        (header(9, 10), "packing 9"),
        (framed(6, 0, 0, 10), "unknown encoding"),
        (framed(0, 11, 0, 10), "name of its file"),
        (b"short".to_vec(), "without its header"),
    ] {
        let mut client = served.client(begin(7));
        assert_eq!(client.hear(), FromWorker::Begun);
        let rest: &[u8] = if payload.len() > 5 { &[0; 10] } else { &[] };
        write_frame(&mut client.0.writer, Kind::Split, &[&payload, rest]).expect("the worker listens");
        client.hear_failure(what);
        assert_eq!(client.next(), None);
        served.assert_well(0);
    }
}

#[test]
fn a_second_job_of_the_same_id_is_refused_and_the_first_goes_on() {
    let served = Served::start();
    let mut first = served.client(begin(7));
    assert_eq!(first.hear(), FromWorker::Begun);
    let mut second = served.client(begin(7));
    second.hear_failure("runs here already");
    assert_eq!(second.next(), None);
    served.assert_well(1);
    first.split(1, "a");
    assert_eq!(first.hear(), FromWorker::Mapped { split: SplitId(1), pairs: 1 });
    drop(first);
    served.assert_well(0);
    let mut again = served.client(begin(7));
    assert_eq!(again.hear(), FromWorker::Begun);
}

#[test]
fn a_job_that_cannot_be_is_refused_with_the_reason() {
    let served = Served::start();
    served.client(Begin { name: "sort".into(), ..begin(1) }).hear_failure("\"sort\"");
    served.client(Begin { params: "{".into(), ..begin(1) }).hear_failure("parameters");
    served.assert_well(0);
}

#[test]
fn who_is_not_of_this_cluster_or_version_is_refused() {
    let served = Served::start();
    let client = || hello(Role::Client);
    for (hello, what) in [
        (Hello { cluster: "another".into(), ..client() }, "another cluster"),
        (Hello { cluster: String::new(), ..hello(Role::Status) }, "another cluster"),
        (Hello { protocol: PROTOCOL + 1, ..client() }, "protocol"),
        (Hello { program: "0.0.0".into(), ..client() }, "version 0.0.0"),
        (Hello { magic: "http".into(), ..client() }, "mapreduce worker"),
        (hello(Role::Peer { job: JobId(9), epoch: EPOCH, source: WorkerId(1) }), "not running here"),
    ] {
        let (mut connection, greeting) = served.say(&hello);
        let Ok(Greeting::Refused { reason, .. }) = &greeting else { panic!("{what}: {greeting:?}") };
        assert!(reason.contains(what), "{reason}");
        let after = read_message::<Greeting>(&mut connection.reader, 1 << 10);
        assert!(matches!(after, Err(FrameError::Torn)), "the connection goes on: {after:?}");
    }
    // How a worker of another version is can be asked.
    let (_, greeting) = served.say(&Hello { program: "0.0.0".into(), ..hello(Role::Status) });
    assert!(matches!(greeting, Ok(Greeting::Welcome(_))));
    served.assert_well(0);
}

#[test]
fn garbage_ends_its_connection_only() {
    let served = Served::start();
    let mut long = (MAX_HELLO_BYTES as u32 + 1).to_le_bytes().to_vec();
    long.extend([Kind::Control as u8, 0, 0, 0]);
    for garbage in [&b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n"[..], &long, &[0; 8], b"\x02\0\0\0\x01\0\0\0{}"]
    {
        let mut connection = served.door.knock();
        std::io::Write::write_all(&mut connection.writer, garbage).expect("the worker listens");
        let answer = read_message::<Greeting>(&mut connection.reader, 1 << 10);
        assert!(matches!(answer, Err(FrameError::Torn)), "{answer:?}");
    }
    let mut client = served.client(begin(1));
    assert_eq!(client.hear(), FromWorker::Begun);
    write_frame(&mut client.0.writer, Kind::Batch, &[b"1234"]).expect("the worker listens");
    client.hear_failure("does not belong here");
    served.assert_well(0);
}

/// A byte now and then is no conversation.
#[test]
fn a_greeting_that_drips_ends_at_its_deadline() {
    let served = Served::start();
    let mut connection = served.door.knock();
    let begin = Instant::now();
    let header = [200, 0, 0, 0, Kind::Control as u8, 0, 0, 0];
    std::io::Write::write_all(&mut connection.writer, &header).expect("the worker listens");
    let mut drip = || {
        std::thread::sleep(Duration::from_millis(200));
        std::io::Write::write_all(&mut connection.writer, b" ")
    };
    while drip().is_ok() {
        assert!(begin.elapsed() < GREETING_TIMEOUT * 2, "it is still listened to");
    }
    assert!(begin.elapsed() > GREETING_TIMEOUT / 2, "it was refused for another reason");
    served.assert_well(0);
}

/// It reaches all other workers between the greeting and the job, and a host that is down takes its time.
#[test]
fn a_client_may_be_busy_before_its_job_begins() {
    let served = Served::start();
    let (connection, greeting) = served.say(&hello(Role::Client));
    assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
    std::thread::sleep(GREETING_TIMEOUT + Duration::from_secs(1));
    let mut client = Client(connection);
    client.order(&ToWorker::Begin(begin(1)));
    assert_eq!(client.hear(), FromWorker::Begun);
}

#[test]
fn routes_that_lead_nowhere_are_refused() {
    for (workers, owners) in [(&[0][..], &[][..]), (&[0], &[0, 1]), (&[0, 1, 1], &[0]), (&[1], &[1])] {
        let served = Served::start();
        let mut client = served.client(begin(1));
        assert_eq!(client.hear(), FromWorker::Begun);
        client.split(1, "a b c");
        assert!(matches!(client.hear(), FromWorker::Mapped { .. }));
        client.order(&shuffle(workers, owners));
        client.hear_failure("");
        drop(client);
        served.assert_well(0);
    }
}

/// Its client may still be busy with what was asked before it hears the reason.
#[test]
fn a_worker_that_gave_up_stays_until_its_client_ends_the_job() {
    let served = Served::start();
    let mut client = served.client(begin(1));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.order(&ToWorker::Reduce { epoch: EPOCH, limits: Limits::default() });
    client.split(1, "a");
    client.hear_failure("before the shuffle ended");
    client.order(&ToWorker::Beat);
    client.split(2, "a");
    served.assert_well(1);
    write_frame(&mut client.0.writer, Kind::End, &[]).expect("the worker listens");
    assert_eq!(client.next(), None);
    served.assert_well(0);
}

#[test]
fn a_client_that_is_silent_is_given_up_without_a_word() {
    let served = Served::start();
    let mut client = served.client(begin(1));
    assert_eq!(client.hear(), FromWorker::Begun);
    assert_eq!(client.next(), None);
    served.assert_well(0);
}
