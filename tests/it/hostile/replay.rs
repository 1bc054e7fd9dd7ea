//! Replay: what an honest client and honest workers sent is sent again, byte for byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mapreduce::wire::message::{Begin, FromWorker, ToWorker};

use super::members::{Member, begin};
use super::stage::{LIMIT, PATIENCE, Stage};
use crate::harness::recorder::{Recorded, Recorder};
use crate::harness::with_deadline;

/// How long somebody who replays waits for the worker's answer to all that it said.
const ANSWER: Duration = Duration::from_secs(3);

/// Runs a job, and returns what was sent to each worker.
fn recorded(stage: &Stage) -> Vec<Vec<Recorded>> {
    let recorders: Vec<Recorder> =
        stage.workers.iter().map(|worker| Recorder::before(worker.address)).collect();
    let addresses: Vec<String> = recorders.iter().map(|recorder| recorder.address.to_string()).collect();
    stage.exact(stage.job(&addresses));
    let recorded: Vec<_> = recorders.iter().map(Recorder::recorded).collect();
    for (worker, connections) in recorded.iter().enumerate() {
        assert!(
            connections.len() >= 2,
            "worker {worker}: the client's and a peer's are {}",
            connections.len()
        );
    }
    recorded
}

/// Sends `bytes`, and returns how much the worker says to that.
fn replay(to: SocketAddr, bytes: &[u8]) -> usize {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("it listens");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_read_timeout(Some(ANSWER)).expect("a time-out");
    let _ = stream.write_all(bytes);
    let (began, mut said, mut answer) = (Instant::now(), 0, [0; 16 << 10]);
    while let Ok(length @ 1..) = stream.read(&mut answer) {
        said += length;
        if began.elapsed() > ANSWER {
            break;
        }
    }
    said
}

fn replayed_on(stage: &Stage, what: &str) -> Vec<(usize, usize)> {
    let recorded = recorded(stage);
    let mut said = Vec::new();
    stage.withstands(what, || {
        for (worker, connection) in
            stage.workers.iter().zip(&recorded).flat_map(|(worker, all)| all.iter().map(move |c| (worker, c)))
        {
            // Twice at once: the second finds the first one's job, if there is one.
            std::thread::scope(|scope| {
                let again = || replay(worker.address, &connection.to_worker);
                let [first, second] = [scope.spawn(again), scope.spawn(again)];
                let heard = [first, second].map(|replayed| replayed.join().expect("no panic"));
                said.extend(heard.map(|heard| (heard, connection.from_worker.len())));
            });
        }
    });
    said
}

/// Without the keys, a recorded conversation gets no further than its first words: the other side's are others now.
#[test]
fn replayed_ciphertext_is_noise() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        for (said, first_time) in replayed_on(&stage, "replayed ciphertext") {
            // Of the answer no more than the worker's part of the handshake.
            assert!(said < 4_000 && said < first_time, "{said} bytes, {first_time} the first time");
        }
    });
}

/// Where nothing is proven, a recorded client is a client: its job runs again by itself, and touches no other.
#[test]
fn replayed_plaintext_touches_no_other_job() {
    with_deadline(LIMIT, || {
        let stage = Stage::plaintext(2);
        replayed_on(&stage, "replayed plaintext");
    });
}

/// A job's id is its own as long as it runs.
#[test]
fn a_job_that_runs_is_not_begun_again() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(1);
        let begin = begin();
        let mut first = Member::with_job(&stage, begin.clone());
        for _ in 0..20 {
            let mut second = Member::client(&stage);
            second.order(&ToWorker::Begin(Begin { ..begin.clone() }));
            assert!(second.hear_refusal().contains("runs here already"));
        }
        first.text(1, "one two three");
        assert!(matches!(first.hear(), Some(FromWorker::Mapped { .. })));
    });
}
