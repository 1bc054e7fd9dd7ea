//! Control: frames, and the messages in them.

use mapreduce::logic::ids::{Epoch, JobId, SplitId, WorkerId};
use mapreduce::logic::packing::{Compress, Packing};
use mapreduce::logic::partition::Seed;
use mapreduce::wire::frame::{
    Kind, MAX_HELLO_BYTES, MAX_PAYLOAD_BYTES, read_frame, read_header, read_payload, write_frame,
};
use mapreduce::wire::message::{
    Begin, FromWorker, Greeting, Hello, MAGIC, PROTOCOL, Role, Routes, ToWorker, decode_message,
    write_message,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{KIB, MIB, Target};

/// A stream of frames. A length alone makes us allocate no more than a step of 1 MiB.
pub const FRAME: Target = Target {
    name: "frame",
    read: frames,
    seeds: || {
        vec![stream(&[
            (Kind::Control, b"{}"),
            (Kind::Split, b"a split"),
            (Kind::Beat, b""),
            (Kind::End, b""),
        ])]
    },
    most_allocated: |bytes| MIB + 4 * bytes + 4 * KIB,
};

/// One control message of a kind that the first byte names, as a payload and in its frame.
pub const MESSAGE: Target = Target {
    name: "message",
    read: message,
    seeds: messages,
    // Numbers of two bytes and empty texts of three become what has four to 24, in vectors that grow twofold.
    most_allocated: |bytes| MIB + 64 * bytes + 16 * KIB,
};

/// Returns `frames` as they are written.
pub fn stream(frames: &[(Kind, &[u8])]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (kind, payload) in frames {
        write_frame(&mut wire, *kind, &[payload]).expect("a vector takes all");
    }
    wire
}

fn frames(bytes: &[u8]) -> bool {
    let mut payload = Vec::new();
    let mut from = bytes;
    let ended = loop {
        let before = from;
        match read_frame(&mut from, &mut payload, MAX_PAYLOAD_BYTES) {
            Ok(Some(kind)) => {
                let read = before.len() - from.len();
                assert_eq!(stream(&[(kind, &payload)]), before[..read], "it is written as it came");
                assert_same_by_parts(&before[..read], kind, &payload);
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    // What a stranger may say is shorter.
    if let Ok(Some(_)) = read_frame(&mut &bytes[..], &mut payload, MAX_HELLO_BYTES) {
        assert!(payload.len() <= MAX_HELLO_BYTES);
    }
    ended
}

/// Checks that header and payload can be read one by one, into a buffer that holds something.
fn assert_same_by_parts(mut frame: &[u8], kind: Kind, payload: &[u8]) {
    let header = read_header(&mut frame, MAX_PAYLOAD_BYTES).expect("it was read before");
    let header = header.expect("it is not the end");
    assert_eq!((header.kind, header.length), (kind, payload.len()));
    let mut buffer = vec![7; 100];
    read_payload(&mut frame, &mut buffer, header.length).expect("it was read before");
    assert_eq!(&buffer[..header.length], payload);
}

fn message(bytes: &[u8]) -> bool {
    let Some((kind, json)) = bytes.split_first() else { return false };
    match kind {
        b'h' => survives::<Hello>(json).is_some(),
        b'g' => survives::<Greeting>(json).is_some(),
        b'f' => survives::<FromWorker>(json).is_some(),
        b't' => match survives::<ToWorker>(json) {
            Some(ToWorker::Shuffle { routes, .. }) => {
                check_routes(&routes);
                true
            }
            other => other.is_some(),
        },
        b'r' => survives::<Role>(json).is_some(),
        _ => false,
    }
}

/// Reads a message, writes it, and reads it again: from then on nothing changes.
fn survives<M: Serialize + DeserializeOwned>(json: &[u8]) -> Option<M> {
    let message: M = decode_message(json).ok()?;
    let mut wire = Vec::new();
    // What was written more tersely than we do it may be too long then.
    write_message(&mut wire, &message).ok()?;
    let mut payload = Vec::new();
    let read = read_frame(&mut wire.as_slice(), &mut payload, MAX_PAYLOAD_BYTES);
    assert!(matches!(read, Ok(Some(Kind::Control))), "{read:?}");
    let again: M = decode_message(&payload).expect("it was just written");
    let mut rewritten = Vec::new();
    write_message(&mut rewritten, &again).expect("as before");
    assert_eq!(wire, rewritten, "it is read back as it was written");
    Some(message)
}

/// Routes that are found good lead every partition to a worker that is there.
fn check_routes(routes: &Routes) {
    if routes.check().is_ok() {
        let owned: usize = routes.workers.iter().map(|(worker, _)| routes.owned_by(*worker).count()).sum();
        assert_eq!(owned, routes.n_partitions() as usize);
        assert!(owned > 0);
    }
}

fn messages() -> Vec<Vec<u8>> {
    let epoch = Epoch(2);
    let routes = Routes {
        workers: vec![(WorkerId(0), "10.0.0.1:7070".into()), (WorkerId(3), "[fe80::1]:4".into())],
        owners: vec![WorkerId(3), WorkerId(0), WorkerId(3)],
    };
    let mut seeds = vec![
        seed(b't', &ToWorker::Shuffle { epoch, routes }),
        seed(b't', &ToWorker::Commit { split: SplitId(7) }),
        seed(b't', &ToWorker::Discard { split: SplitId(u64::MAX) }),
        seed(b't', &ToWorker::Reduce { epoch, top: Some(20) }),
        seed(b't', &ToWorker::Fetch { epoch, credit: 4, packing: Packing::Zstd }),
        seed(b't', &ToWorker::Credit { epoch, batches: 1 }),
        seed(b't', &ToWorker::Beat),
        seed(b'f', &FromWorker::Begun),
        seed(b'f', &FromWorker::Mapped { split: SplitId(7), pairs: 12 }),
        seed(b'f', &FromWorker::Dropped { split: SplitId(7) }),
        seed(b'f', &FromWorker::Shuffled { epoch, sent_bytes: 1 << 40 }),
        seed(b'f', &FromWorker::PeerFailed { epoch, peer: WorkerId(3), cause: "it is \u{1b} gone".into() }),
        seed(b'f', &FromWorker::Reduced { epoch, distinct: 3, entries: 2, bytes: 1 }),
        seed(b'f', &FromWorker::ResultsEnd { epoch }),
        seed(b'f', &FromWorker::Failed { cause: "no".into() }),
        seed(b'r', &Role::Peer { job: JobId(1 << 63), epoch, source: WorkerId(3) }),
        seed(b'r', &Role::Client),
        seed(b'r', &Role::Status),
        seed(b'g', &Greeting::Refused { reason: "no".into(), program: "0.1.0".into() }),
    ];
    let role = Role::Peer { job: JobId(7), epoch, source: WorkerId(0) };
    let (magic, program, cluster) = (MAGIC.to_owned(), "0.1.0".to_owned(), "0f0f".to_owned());
    seeds.push(seed(b'h', &Hello { magic, protocol: PROTOCOL, program, cluster, role }));
    let begin = Begin {
        job: JobId(u64::MAX),
        name: "wordcount".into(),
        params: r#"{"tokens":"word","ignore_case":false}"#.into(),
        seed: Seed([1, u64::MAX]),
        worker: WorkerId(1),
        timeout_ms: 10_000,
        compress: Compress::Always(Packing::Lz4),
        members: vec!["worker-0.mapreduce".into(), String::new()],
    };
    seeds.push(seed(b't', &ToWorker::Begin(begin)));
    let cause = "a panic".to_owned();
    let dropped = vec![SplitId(1), SplitId(2)];
    seeds.push(seed(b'f', &FromWorker::MapFailed { split: SplitId(3), cause, dropped, unreadable: true }));
    seeds
}

fn seed(kind: u8, message: &impl Serialize) -> Vec<u8> {
    let mut seed = vec![kind];
    seed.extend(serde_json::to_vec(message).expect("messages are JSON"));
    seed
}
