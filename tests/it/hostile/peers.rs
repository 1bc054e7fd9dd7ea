//! Peers: workers of the cluster that send what is not theirs, or not as it should be.

use std::io::Read;
use std::time::Duration;

use mapreduce::edge::identity::SHARED_WORKER_NAME;
use mapreduce::logic::ids::{Epoch, JobId, WorkerId};
use mapreduce::logic::limits::Limits;
use mapreduce::logic::packing::Packing;
use mapreduce::logic::partition::Partition;
use mapreduce::wire::frame::{HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES};
use mapreduce::wire::message::{Begin, FromWorker, Role, ToWorker, encode_packed_batch};
use mapreduce::wire::pack::Packed;

use super::members::{EPOCH, Member, begin, shuffle};
use super::stage::{LIMIT, Stage, speaking_as};
use crate::harness::with_deadline;

/// Another worker's name, whose certificate these peers do not have.
const OTHER: &str = "worker-7.mapreduce";

/// A client's job on worker 0, of three workers of which the last is another's.
fn job(stage: &Stage) -> (Member, JobId) {
    let names = [SHARED_WORKER_NAME, SHARED_WORKER_NAME, OTHER];
    let begin = Begin { members: names.map(str::to_owned).to_vec(), timeout_ms: 10_000, ..begin() };
    let job = begin.job;
    (Member::with_job(stage, begin), job)
}

fn peer(stage: &Stage, job: JobId, epoch: Epoch, source: u32) -> Result<Member, String> {
    Member::greeted(stage, 0, &stage.peer_wire(), Role::Peer { job, epoch, source: WorkerId(source) })
}

#[track_caller]
fn assert_refused(peer: Result<Member, String>, why: &str) {
    let reason = peer.err().expect("the worker takes no such stream");
    assert!(reason.contains(why), "{reason:?} is not {why:?}");
}

#[test]
fn who_sends_for_somebody_else_is_refused() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let stranger = stage.authority.worker("worker-5.mapreduce").expect("it signs");
        stage.withstands("streams of somebody else", || {
            let (_client, job) = job(&stage);
            for source in [2, 3, 99, u32::MAX] {
                assert_refused(peer(&stage, job, EPOCH, source), "you are not worker");
            }
            // Neither is a certificate of the cluster enough whose name the client has not listed.
            for source in [0, 1, 2] {
                let role = Role::Peer { job, epoch: EPOCH, source: WorkerId(source) };
                let peer = Member::greeted(&stage, 0, &speaking_as(&stranger), role);
                assert_refused(peer, "you are not worker");
            }
            let role = Role::Peer { job, epoch: EPOCH, source: WorkerId(1) };
            let client = Member::greeted(&stage, 0, &stage.wire(), role);
            assert_refused(client, "may not do that");
        });
    });
}

fn stale_streams_on(stage: &Stage) {
    stage.withstands("streams that are stale or unknown", || {
        let begin = Begin { timeout_ms: 2_000, ..begin() };
        let job = begin.job;
        let mut client = Member::with_job(stage, begin);
        for unknown in [JobId(0), JobId(job.0 + 1_000_000), JobId(u64::MAX)] {
            assert_refused(peer(stage, unknown, EPOCH, 1), "not running here");
        }
        assert_refused(peer(stage, job, Epoch(0), 1), "its epoch is over");
        // Whoever comes before the order waits for it, as long as for any word.
        let never_ordered = |client: &mut Member, epoch| {
            std::thread::scope(|scope| {
                let waiting =
                    scope.spawn(|| assert_refused(peer(stage, job, epoch, 0), "nobody has ordered"));
                while !waiting.is_finished() {
                    client.order(&ToWorker::Beat);
                    std::thread::sleep(Duration::from_millis(100));
                }
                waiting.join().expect("it is refused");
            });
        };
        never_ordered(&mut client, EPOCH);
        let addresses = stage.addresses();
        let order = |epoch| match shuffle(&[(0, &addresses[0]), (1, &addresses[1])], &[0, 0]) {
            ToWorker::Shuffle { routes, .. } => ToWorker::Shuffle { epoch, routes },
            other => other,
        };
        client.order(&order(EPOCH));
        let first = peer(stage, job, EPOCH, 1).expect("the first of its source");
        assert_refused(peer(stage, job, EPOCH, 1), "has sent one already");
        client.order(&order(Epoch(5)));
        let newer = peer(stage, job, Epoch(5), 1).expect("a newer epoch");
        assert_refused(peer(stage, job, EPOCH, 0), "its epoch is over");
        never_ordered(&mut client, Epoch(u32::MAX));
        drop((first, newer, client));
        // The job has ended: its streams are unknown, too.
        crate::harness::wait_until(LIMIT, "the job to end", || {
            peer(stage, job, EPOCH, 1).is_err_and(|reason| reason.contains("not running here"))
        });
    });
}

#[test]
fn stale_streams_are_refused() {
    with_deadline(LIMIT, || stale_streams_on(&Stage::encrypted(2)));
}

#[test]
fn stale_streams_are_refused_in_plaintext() {
    with_deadline(LIMIT, || stale_streams_on(&Stage::plaintext(2)));
}

/// A batch whose header says `packed`, with `bytes` behind it.
fn batch(partition: u32, packing: Packing, length: usize, bytes: &[u8]) -> Vec<u8> {
    let header = encode_packed_batch(Partition(partition), Packed { packing, length });
    [&header[..], bytes].concat()
}

/// What ends a stream, and what the client hears of it.
fn broken_streams() -> Vec<(&'static str, Kind, Vec<u8>, &'static str)> {
    let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 1).expect("it packs");
    vec![
        ("a message in the middle", Kind::Control, b"{}".to_vec(), "does not belong here"),
        ("a split", Kind::Split, vec![0; 30], "does not belong here"),
        ("results", Kind::Results, vec![0; 30], "does not belong here"),
        ("an acknowledgement", Kind::Ack, Vec::new(), "does not belong here"),
        ("a batch without its header", Kind::Batch, vec![0; 3], "without its header"),
        ("a batch in no packing", Kind::Batch, [0, 0, 0, 0, 77, 1, 0, 0, 0, 1].to_vec(), "packing 77"),
        ("a plain lie", Kind::Batch, batch(0, Packing::Plain, 5, b"ab"), "do not hold"),
        ("a lie in LZ4", Kind::Batch, batch(0, Packing::Lz4, 5_000, b"ab"), "do not hold"),
        ("no Zstandard", Kind::Batch, batch(0, Packing::Zstd, 100 << 20, &[9; 50_000]), "cannot be unpacked"),
        ("more than there may be", Kind::Batch, batch(0, Packing::Zstd, 1 << 31, &bomb), "longer than"),
        ("a bomb", Kind::Batch, batch(0, Packing::Zstd, 1_000, &bomb), "cannot be unpacked"),
    ]
}

/// A job of two real workers, of which the first has a stream from `send` where the second's should be: its client has
/// routed what there is of it.
fn with_stream(stage: &Stage, send: impl FnOnce(&mut Member)) -> (Member, Member) {
    let names = vec![SHARED_WORKER_NAME.to_owned(); 2];
    let begin = Begin { members: names, timeout_ms: 10_000, ..begin() };
    let job = begin.job;
    let mut other = Member::with_job_on(stage, 1, Begin { worker: WorkerId(1), ..begin.clone() });
    let mut client = Member::with_job(stage, begin);
    client.text(1, "one two three");
    assert!(matches!(client.hear(), Some(FromWorker::Mapped { .. })));
    let addresses = stage.addresses();
    let routes = shuffle(&[(0, &addresses[0]), (1, &addresses[1])], &[0, 0]);
    client.order(&routes);
    let mut peer = peer(stage, job, EPOCH, 1).expect("its stream is awaited");
    // Its own stream comes too late; that of the first is awaited there from now on.
    other.order(&routes);
    send(&mut peer);
    (client, other)
}

/// Tells what the client of a job hears in which `send` plays a worker.
fn heard_of(stage: &Stage, send: impl FnOnce(&mut Member)) -> String {
    let (mut client, _other) = with_stream(stage, send);
    client.hear_refusal()
}

fn broken_streams_on(stage: &Stage) {
    let streams = broken_streams();
    stage.withstands(&format!("{} broken streams", streams.len() + 9), || {
        for (name, kind, payload, against) in &streams {
            let heard = heard_of(stage, |peer| {
                peer.frame(Kind::Batch, &batch(0, Packing::Plain, 3, b"\x01a\x01"));
                peer.frame(*kind, payload);
            });
            assert!(heard.contains(against), "{name}: {heard:?}");
        }
        for kind in 1..=7 {
            let header = [&u32::MAX.to_le_bytes()[..], &[kind, 0, 0, 0], b"some"].concat();
            let heard = heard_of(stage, |peer| peer.say(&header));
            assert!(heard.contains("longer than"), "kind {kind}: {heard:?}");
        }
        let heard = heard_of(stage, |peer| peer.say(&[0, 0, 0, 0, 99, 0, 0, 0]));
        assert!(heard.contains("not a frame"), "{heard:?}");
        // The longest batch that there may be, of which nothing comes but a few bytes.
        let torn = [&(MAX_PAYLOAD_BYTES as u32).to_le_bytes()[..], &[Kind::Batch as u8, 0, 0, 0]].concat();
        let heard = heard_of(stage, |peer| {
            peer.say(&torn);
            peer.say(&batch(0, Packing::Plain, MAX_PAYLOAD_BYTES - 9, b"some bytes"));
            peer.0.control.close();
        });
        assert!(heard.contains("middle of a conversation"), "{heard:?}");
    });
}

#[test]
fn broken_streams_fail_their_peer_only() {
    with_deadline(LIMIT, || broken_streams_on(&Stage::encrypted(2)));
}

#[test]
fn broken_streams_fail_their_peer_only_in_plaintext() {
    with_deadline(LIMIT, || broken_streams_on(&Stage::plaintext(2)));
}

/// A stream that is whole, but holds what is not this worker's, fails the job and no other.
#[test]
fn partitions_that_are_not_here_fail_the_reduce() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        stage.withstands("partitions that are not here", || {
            for (partition, entries, against) in [
                (u32::MAX, &b"\x01a\x01"[..], "partition 4294967295"),
                (7, b"\x01a\x01", "partition 7"),
                (0, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "malformed"),
            ] {
                let (mut client, _other) = with_stream(&stage, |peer| {
                    peer.frame(Kind::Batch, &batch(partition, Packing::Plain, entries.len(), entries));
                    peer.frame(Kind::End, b"");
                    // Acknowledged, the end too.
                    let _ = peer.0.reader.read_exact(&mut [0; 2 * HEADER_BYTES]);
                });
                assert!(matches!(client.hear(), Some(FromWorker::Shuffled { .. })));
                client.order(&ToWorker::Reduce { epoch: EPOCH, limits: Limits::default() });
                let heard = client.hear_refusal();
                assert!(heard.contains(against), "{heard:?} is not {against:?}");
            }
        });
    });
}
