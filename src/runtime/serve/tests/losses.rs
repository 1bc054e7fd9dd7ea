//! What a worker does when others are lost: splits come again, epochs are abandoned, clients vanish, spares wait.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use super::*;
use crate::job::{Emit, Job, Records, Value};
use crate::jobs::word_count::Params;
use crate::runtime::serve::job::BEGIN_TIMEOUT;

/// Nothing here takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

fn end(client: &mut Client) {
    write_frame(&mut client.0.writer, Kind::End, &[]).expect("the worker listens");
    assert_eq!(client.next(), None);
}

impl Client {
    fn fold(&mut self, id: u64, text: &str) {
        self.split(id, text);
        let pairs = text.split(' ').count() as u64;
        assert_eq!(self.hear(), FromWorker::Mapped { split: SplitId(id), pairs });
    }

    /// Has the worker, which is alone in `epoch`, reduce what it has.
    fn reduce(&mut self, epoch: Epoch, distinct: u64) {
        self.order(&shuffle_in(epoch, &[0], &[0]));
        assert_eq!(self.hear(), FromWorker::Shuffled { epoch, sent_bytes: 0 });
        self.order(&ToWorker::Reduce { epoch, limits: Limits::default() });
        let heard = self.hear();
        assert_eq!(heard, FromWorker::Reduced { epoch, distinct, entries: distinct, bytes: 0 });
    }

    /// Returns the epoch and the number of entries of the next batch of a result; `None` once it is whole.
    fn batch(&mut self) -> Option<(Epoch, usize)> {
        let (kind, payload) = self.next().expect("the conversation goes on");
        if kind == Kind::Control {
            let heard: FromWorker = decode_message(&payload).expect("a message");
            assert!(matches!(heard, FromWorker::ResultsEnd { .. }), "{heard:?}");
            return None;
        }
        let (header, entries) = payload.split_first_chunk::<RESULTS_HEADER_BYTES>().expect("a header");
        let (epoch, _) = decode_results(*header, entries.len()).expect("a header");
        Some((epoch, SortedDecoder::<u64>::new(entries).filter(Result::is_ok).count()))
    }

    fn fetch(&mut self, epoch: Epoch, credit: u32) {
        self.order(&ToWorker::Fetch { epoch, credit, packing: Packing::Plain });
    }
}

fn words(n: u64) -> String {
    (0..n).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_provisional_split_counts_only_once_it_is_committed() {
    let served = Served::start();
    let mut client = served.client(begin(7));
    assert_eq!(client.hear(), FromWorker::Begun);
    for id in 1..=3 {
        client.provisional_split(id, &words(id));
        assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(id), pairs: id });
    }
    client.order(&ToWorker::Commit { split: SplitId(2) });
    client.order(&ToWorker::Discard { split: SplitId(3) });
    client.order(&ToWorker::Discard { split: SplitId(1) });
    client.reduce(EPOCH, 2);
    end(&mut client);
    served.assert_well(0);
    let mut client = served.client(begin(7));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.order(&ToWorker::Commit { split: SplitId(1) });
    client.hear_failure("not held");
}

/// The peer is reached, and says nothing.
#[test]
fn an_epoch_is_abandoned_when_a_split_comes_and_the_next_one_has_all() {
    let served = Served::start();
    let mut client = served.client(begin(7));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.fold(1, "a b");
    client.order(&shuffle_in(Epoch(1), &[0, 1], &[0, 1]));
    let mut peer = served.peers.open().expect("the worker connects");
    let said: Hello = read_message(&mut peer.reader, MAX_HELLO_BYTES).expect("a greeting");
    assert_eq!(said.role, Role::Peer { job: JobId(7), epoch: Epoch(1), source: WorkerId(0) });
    // The peer's own stream has begun.
    let role = Role::Peer { job: JobId(7), epoch: Epoch(1), source: WorkerId(1) };
    let (mut stream, greeting) = served.say(&hello(role));
    assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
    let batch = b"\0\0\0\0\0\x02\0\0\0\x01z";
    write_frame(&mut stream.writer, Kind::Batch, &[batch]).expect("the worker listens");
    client.fold(2, "b c");
    let closed = std::io::Read::read(&mut peer.reader, &mut [0]).expect("it is closed in order");
    assert_eq!(closed, 0, "the stream of the epoch is closed");
    client.reduce(Epoch(2), 3);
    client.fetch(Epoch(2), 4);
    assert_eq!((client.batch(), client.batch()), (Some((Epoch(2), 3)), None));
    served.assert_well(1);
    end(&mut client);
    served.assert_well(0);
}

#[test]
fn a_result_that_is_abandoned_stops_and_the_next_one_is_whole() {
    let served = Served::start();
    let mut client = served.client(begin(7));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.fold(1, &words(100_000));
    client.reduce(Epoch(1), 100_000);
    client.fetch(Epoch(1), 1);
    let (epoch, first) = client.batch().expect("there are several");
    assert!(epoch == Epoch(1) && first < 100_000);
    client.fold(2, "x y");
    // It is nobody's any more.
    client.order(&ToWorker::Credit { epoch: Epoch(1), batches: 50 });
    client.reduce(Epoch(2), 100_002);
    client.fetch(Epoch(2), 60);
    let mut entries = 0;
    while let Some((epoch, n)) = client.batch() {
        assert_eq!(epoch, Epoch(2), "nothing comes of the first any more");
        entries += n;
    }
    assert_eq!(entries, 100_002);
}

#[test]
fn a_peer_that_has_heard_of_an_epoch_first_waits_and_one_of_an_epoch_that_never_is_goes() {
    let served = Served::start();
    let mut client = served.client(begin(7));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.fold(1, "a b");
    client.order(&shuffle_in(Epoch(1), &[0], &[0]));
    assert!(matches!(client.hear(), FromWorker::Shuffled { .. }));
    let peer = |epoch| hello(Role::Peer { job: JobId(7), epoch: Epoch(epoch), source: WorkerId(1) });
    std::thread::scope(|scope| {
        let early = scope.spawn(|| served.say(&peer(2)));
        let unknown = scope.spawn(|| served.say(&peer(u32::MAX)));
        // What the client orders meanwhile goes on as if they were not there.
        client.order(&ToWorker::Reduce { epoch: Epoch(1), limits: Limits::default() });
        assert!(matches!(client.hear(), FromWorker::Reduced { epoch: Epoch(1), .. }));
        assert!(!early.is_finished());
        client.order(&shuffle_in(Epoch(2), &[0, 1], &[0, 1]));
        let (_stream, greeting) = early.join().expect("no panic");
        assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
        let (_, greeting) = unknown.join().expect("no panic");
        let Ok(Greeting::Refused { reason, .. }) = greeting else { panic!("{greeting:?}") };
        assert!(reason.contains("epoch 4294967295"), "{reason}");
    });
}

/// Values that live, in whatever place.
static LIVING: AtomicI64 = AtomicI64::new(0);

#[derive(serde::Serialize)]
struct Living(u64);

impl Living {
    fn new(count: u64) -> Self {
        LIVING.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Clone for Living {
    fn clone(&self) -> Self {
        Self::new(self.0)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        LIVING.fetch_sub(1, SeqCst);
    }
}

impl Value for Living {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        u64::decode(bytes).map(Self::new)
    }

    fn render(&self, out: &mut Vec<u8>) {
        self.0.render(out);
    }
}

/// Counts words, in values whose number is known.
struct Census;

impl Job for Census {
    const NAME: &'static str = WordCount::NAME;
    const ABOUT: &'static str = "";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = Params;
    type Value = Living;

    fn new(_: Params) -> Result<Self, String> {
        Ok(Self)
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Living>) -> Result<(), String> {
        records.bytes().split(|byte| *byte == b' ').for_each(|word| emit.pair(word, Living::new(1)));
        Ok(())
    }

    fn combine(&self, into: &mut Living, other: Living) {
        into.0 += other.0;
    }
}

/// Waits until so many values live, and asserts that it is so.
fn assert_living(n: i64, when: &str) {
    let begin = Instant::now();
    while LIVING.load(SeqCst) != n {
        assert!(begin.elapsed() < DEADLINE, "{} values live and not {n}: {when}", LIVING.load(SeqCst));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How it is called, what the client does, and after how many steps.
type Ending = (&'static str, fn(Client), std::ops::Range<u32>);

/// Their number is one for the whole process, so this is one test.
#[test]
fn memory_is_given_back_however_a_job_or_an_epoch_ends() {
    const N: u64 = 20_000;
    let served = Served::start_with::<Census>(None);
    let endings: [Ending; 3] = [
        ("ended by the client", |mut client| end(&mut client), 0..4),
        ("the client vanished", drop, 0..4),
        // Its host was switched off, or the way there is cut. This takes its time.
        ("the client is silent", |mut client| while client.next().is_some() {}, 2..3),
    ];
    for (how, ending, steps) in endings {
        for n_steps in steps {
            let mut client = served.client(begin(7));
            assert_eq!(client.hear(), FromWorker::Begun);
            client.fold(1, &words(N));
            client.provisional_split(2, &words(N / 2));
            assert!(matches!(client.hear(), FromWorker::Mapped { .. }));
            if n_steps > 0 {
                client.order(&ToWorker::Commit { split: SplitId(2) });
                client.reduce(EPOCH, N);
            }
            if n_steps > 1 {
                client.fetch(EPOCH, 1);
                assert!(client.batch().is_some());
            }
            if n_steps > 2 {
                client.fold(3, "w1");
                client.reduce(Epoch(2), N);
            }
            assert!(LIVING.load(SeqCst) >= N as i64);
            ending(client);
            served.assert_well(0);
            assert_living(0, &format!("{how} after {n_steps} steps"));
        }
    }
    // What an epoch made is gone when it is abandoned, and not only with the job.
    let mut client = served.client(begin(8));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.fold(1, &words(N));
    client.reduce(EPOCH, N);
    assert_living(2 * N as i64, "tables and rows");
    client.fold(2, "w1");
    assert_living(N as i64 + 1, "the epoch is abandoned");
    client.order(&shuffle_in(Epoch(2), &[0, 1], &[0, 1]));
    let peer = served.peers.open().expect("the worker connects");
    client.fold(3, "w1");
    assert_living(N as i64 + 2, "a shuffle is abandoned");
    drop((peer, client));
    assert_living(0, "all is over");
}

#[test]
fn a_spare_waits_as_long_as_its_client_beats_and_beats_itself() {
    let served = Served::start();
    let (connection, greeting) = served.say(&hello(Role::Client));
    assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
    let mut client = Client(connection);
    let kept = Instant::now();
    while kept.elapsed() < BEGIN_TIMEOUT + Duration::from_secs(1) {
        client.order(&ToWorker::Beat);
        let beat: FromWorker = read_message(&mut client.0.reader, 1 << 10).expect("it lives");
        assert_eq!(beat, FromWorker::Beat);
    }
    served.assert_well(0);
    client.order(&ToWorker::Begin(begin(7)));
    assert_eq!(client.hear(), FromWorker::Begun);
    served.assert_well(1);
    client.fold(1, "a b");
    end(&mut client);
    served.assert_well(0);
}

#[test]
fn a_spare_that_was_not_needed_is_let_go_without_a_word() {
    let served = Served::start();
    let greeted = || {
        let (connection, greeting) = served.say(&hello(Role::Client));
        assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
        Client(connection)
    };
    let mut client = greeted();
    client.order(&ToWorker::Beat);
    end(&mut client);
    drop(greeted());
    // What has no place before a job is told of.
    let mut client = greeted();
    client.order(&ToWorker::Commit { split: SplitId(1) });
    assert_eq!(client.next(), None);
    let begin = Instant::now();
    while served.logged.lock().expect("no panic").is_empty() {
        assert!(begin.elapsed() < DEADLINE, "nothing is logged");
        std::thread::sleep(Duration::from_millis(5));
    }
    let logged = served.logged.lock().expect("no panic").clone();
    assert!(matches!(&logged[..], [line] if line.contains("did not begin with a job")), "{logged:?}");
}

#[test]
fn a_client_that_keeps_a_spare_and_says_nothing_is_given_up() {
    let served = Served::start();
    let (connection, _) = served.say(&hello(Role::Client));
    let begin = Instant::now();
    assert_eq!(Client(connection).next(), None);
    assert!(begin.elapsed() >= BEGIN_TIMEOUT - Duration::from_secs(1));
    let logged = served.logged.lock().expect("no panic").clone();
    assert!(logged.iter().all(|line| line.contains("the client did not begin a job")), "{logged:?}");
}

#[test]
fn a_worker_is_not_idle_while_it_is_kept_as_a_spare() {
    let served = Served::start_with::<WordCount>(Some(Duration::from_secs(1)));
    let (connection, _) = served.say(&hello(Role::Client));
    let mut client = Client(connection);
    for _ in 0..3 {
        client.order(&ToWorker::Beat);
        let ended = served.ended.recv_timeout(Duration::from_secs(1));
        assert_eq!(ended, Err(RecvTimeoutError::Timeout), "it ended while it was kept");
    }
    let left = Instant::now();
    drop(client);
    let ended = served.ended.recv_timeout(DEADLINE);
    assert_eq!(ended, Err(RecvTimeoutError::Disconnected), "it does not end");
    assert!(left.elapsed() >= Duration::from_millis(900));
}
