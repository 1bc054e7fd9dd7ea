//! Cluster: who belongs to whom: handshakes of strangers, identities, the orders of a worker, the record of a cluster.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use mapreduce::edge::cluster::{Cluster, DeployedWorker, Place, Protection};
use mapreduce::edge::daemon::{Orders, Started, find_report};
use mapreduce::edge::failure::HostName;
use mapreduce::edge::identity::{Authority, Identity, SharedIdentity, worker_name};
use mapreduce::edge::net::Socket;
use mapreduce::edge::tls::Tls;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{KIB, Target};

/// What a stranger says in place of a handshake, to a worker and to a client. None is ever completed.
pub const HANDSHAKE: Target = Target {
    name: "handshake",
    read: handshake,
    seeds: || vec![client_hello()],
    // What both sides keep of one connection, most of it the room for its longest handshake, and certificates.
    most_allocated: |bytes| 64 * KIB + 16 * bytes,
};

/// An identity file.
pub const IDENTITY: Target = Target {
    name: "identity",
    read: |bytes| {
        survives::<SharedIdentity>(bytes).is_some_and(|shared| {
            check_identity(&shared.client);
            check_identity(&shared.worker)
        })
    },
    seeds: || {
        let authority = Authority::fresh().expect("there is randomness");
        let client = authority.client().expect("it signs");
        vec![json(&SharedIdentity { client: client.clone(), worker: client })]
    },
    most_allocated: |bytes| 128 * KIB + 64 * bytes,
};

/// What a worker is told on standard input, and what it says on standard output.
pub const ORDERS: Target = Target {
    name: "orders",
    read: orders,
    seeds: || {
        let identity = Some(shared().0.clone());
        let orders =
            |identity| Orders { identity, cluster: "0f".into(), name: "a b\u{e9}".into(), detached: false };
        vec![json(&orders(identity)), json(&orders(None)), report()]
    },
    most_allocated: |bytes| 128 * KIB + 64 * bytes,
};

/// The record of a cluster.
pub const RECORD: Target = Target {
    name: "record",
    read: |bytes| survives::<Cluster>(bytes).is_some_and(|cluster| cluster.wire().is_ok()),
    seeds: || {
        vec![json(&record(Protection::Plaintext)), json(&record(Protection::Encrypted(shared().0.clone())))]
    },
    most_allocated: |bytes| 128 * KIB + 64 * bytes,
};

/// For a handshake that has all it waits for; the other side has said all that it will.
const LIMIT: Duration = Duration::from_secs(5);

/// The type of a record with a message of the handshake: RFC 8446, section 5.1.
const HANDSHAKE_RECORD: u8 = 22;

/// A worker's identity, and what it shakes hands with.
fn shared() -> &'static (Identity, Tls) {
    static SHARED: OnceLock<(Identity, Tls)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let identity = Authority::fresh().and_then(|authority| authority.worker(&worker_name(0)));
        let identity = identity.expect("there is randomness");
        let tls = Tls::new(&identity).expect("it is whole");
        (identity, tls)
    })
}

fn handshake(bytes: &[u8]) -> bool {
    let tls = &shared().1;
    let met = |shake: &dyn Fn(&Socket) -> bool| {
        let (ours, mut theirs) = UnixStream::pair().expect("there are sockets");
        theirs.write_all(bytes).expect("so much fits");
        theirs.shutdown(Shutdown::Write).expect("it is open");
        let shaken = shake(&Socket::of_pair(ours.into()));
        assert!(!shaken, "nobody has a certificate");
        let mut answer = Vec::new();
        let _ = theirs.read_to_end(&mut answer);
        answer.first() == Some(&HANDSHAKE_RECORD)
    };
    assert!(met(&|socket| tls.connect(socket, "worker-0.mapreduce", LIMIT).is_ok()), "a client speaks first");
    met(&|socket| tls.accept(socket, LIMIT).is_ok())
}

/// The first words of a client.
fn client_hello() -> Vec<u8> {
    let (ours, mut theirs) = UnixStream::pair().expect("there are sockets");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let refused = shared().1.connect(&Socket::of_pair(ours.into()), "worker-0.mapreduce", LIMIT);
    assert!(refused.is_err(), "there is no answer");
    let mut hello = Vec::new();
    let _ = theirs.read_to_end(&mut hello);
    hello
}

/// Reads JSON, writes it, and reads it again: from then on nothing changes.
fn survives<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let again: T = serde_json::from_slice(&json(&read)).expect("it was just written");
    assert_eq!(json(&again), json(&read));
    Some(read)
}

fn json(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).expect("it is JSON")
}

/// Whether it is one that hands can be shaken with; that it is not is an error like others.
fn check_identity(identity: &Identity) -> bool {
    assert_eq!(format!("{identity:?}"), "Identity(..)", "nothing of it is shown");
    Tls::new(identity).is_ok()
}

fn orders(bytes: &[u8]) -> bool {
    let reported = find_report(bytes);
    let Ok(orders) = Orders::read(bytes) else { return reported.is_some() };
    let line = orders.to_line().expect("it is JSON");
    assert!(!line.contains('\n'), "it is one line");
    let again = Orders::read(line.as_bytes()).expect("it was just written");
    assert_eq!(again.to_line().expect("it is JSON"), line);
    orders.identity.is_none_or(|identity| check_identity(&identity))
}

fn report() -> Vec<u8> {
    [b"Welcome!\r\n{}\n".to_vec(), json(&Started { pid: 7, port: 7070 }), b"\nbye".to_vec()].concat()
}

fn record(protection: Protection) -> Cluster {
    let host = HostName("tp-01.example.org".into());
    let mut cluster = Cluster::fresh("00ff", protection).expect("there is randomness");
    cluster.workers.push(DeployedWorker {
        host: host.clone(),
        address: (Ipv4Addr::LOCALHOST, 7070).into(),
        pid: 7,
        worker_dir: "/tmp/x/worker".into(),
        name: worker_name(0),
        via_ssh: true,
    });
    let key = Some(PathBuf::from("/home/x/.ssh/k"));
    cluster.places.push(Place { host, user: Some("x".into()), ssh_port: Some(22), key, remote_dir: None });
    cluster
}
