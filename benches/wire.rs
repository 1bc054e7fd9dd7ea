//! Wire: one stream over TCP on loopback, as it is and encrypted, in turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use divan::Bencher;
use divan::counter::BytesCount;
use mapreduce::edge::identity::{Authority, SHARED_WORKER_NAME};
use mapreduce::edge::net::Socket;
use mapreduce::edge::tls::Tls;

fn main() {
    divan::main();
}

const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS: usize = 256;
const LIMIT: Duration = Duration::from_secs(10);

/// Both ends of a connection.
fn connected() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("it listens");
    let far = listener.accept().expect("it comes").0;
    (Socket::tcp(near).expect("it is open"), Socket::tcp(far).expect("it is open"))
}

/// Sends all blocks from one thread and reads them on another.
fn carry(mut writer: impl Write + Send, mut reader: impl Read) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![b'x'; BLOCK_BYTES];
            (0..BLOCKS).for_each(|_| writer.write_all(&block).expect("it is open"));
        });
        let mut block = vec![0; BLOCK_BYTES];
        (0..BLOCKS).for_each(|_| reader.read_exact(&mut block).expect("it comes"));
    });
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn plain(bencher: Bencher) {
    bencher.counter(BytesCount::new(BLOCKS * BLOCK_BYTES)).with_inputs(connected).bench_local_values(
        |(near, far)| {
            carry(near, far);
        },
    );
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn encrypted(bencher: Bencher) {
    let authority = Authority::fresh().expect("randomness");
    let client = Tls::new(&authority.client().expect("randomness")).expect("a whole identity");
    let worker =
        Tls::new(&authority.worker(SHARED_WORKER_NAME).expect("randomness")).expect("a whole identity");
    let shaken = || {
        let (near, far) = connected();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| worker.accept(&far, LIMIT).expect("both are ours"));
            let near = client.connect(&near, SHARED_WORKER_NAME, LIMIT).expect("both are ours");
            (near, accepting.join().expect("no panic"))
        })
    };
    bencher.counter(BytesCount::new(BLOCKS * BLOCK_BYTES)).with_inputs(shaken).bench_local_values(
        |(near, far)| {
            carry(near.writer, far.reader);
        },
    );
}

/// What a connection costs before anything is said.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn handshake(bencher: Bencher) {
    let authority = Authority::fresh().expect("randomness");
    let client = Tls::new(&authority.client().expect("randomness")).expect("a whole identity");
    let worker =
        Tls::new(&authority.worker(SHARED_WORKER_NAME).expect("randomness")).expect("a whole identity");
    bencher.with_inputs(connected).bench_local_values(|(near, far)| {
        std::thread::scope(|scope| {
            scope.spawn(|| worker.accept(&far, LIMIT).expect("both are ours"));
            client.connect(&near, SHARED_WORKER_NAME, LIMIT).expect("both are ours")
        });
    });
}
