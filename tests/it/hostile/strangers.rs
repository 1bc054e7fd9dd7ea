//! Strangers: who has no certificate: garbage, bytes now and then, handshakes that are never ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mapreduce::edge::machine;
use mapreduce::runtime::link::Network;
use mapreduce::wire::frame::{HEADER_BYTES, Kind, write_frame};
use mapreduce::wire::message::{Hello, MAGIC, PROTOCOL, Role, write_message};
use socket2::{Domain, Socket, Type};

use super::stage::{LIMIT, PATIENCE, Stage, speaking_as};
use crate::harness::with_deadline;

/// Connections that send the same at the same time.
const CROWD: usize = 8;

/// Connects from `source`, an address of loopback.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// The first bytes of a true handshake.
fn client_hello(stage: &Stage) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let other = stage.authority.client().expect("it signs");
    std::thread::scope(|scope| {
        scope.spawn(|| speaking_as(&other).connect(&address, "x", Duration::from_millis(300)).err());
        let (mut stream, _) = listener.accept().expect("it connects");
        let mut hello = vec![0; 4 << 10];
        let length = stream.read(&mut hello).expect("it speaks first");
        hello.truncate(length);
        hello
    })
}

fn hello(cluster: &str, role: Role) -> Vec<u8> {
    let (magic, program) = (MAGIC.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let hello = Hello { magic, protocol: PROTOCOL, program, cluster: cluster.to_owned(), role };
    let mut bytes = Vec::new();
    write_message(&mut bytes, &hello).expect("a vector takes all");
    bytes
}

/// A record of TLS: type, version, length, content.
fn record(kind: u8, length: u16, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &length.to_be_bytes(), content].concat()
}

/// A frame's header with any kind and length.
fn header(kind: u8, length: u32) -> Vec<u8> {
    let mut header = length.to_le_bytes().to_vec();
    header.extend([kind, 0, 0, 0]);
    assert_eq!(header.len(), HEADER_BYTES);
    header
}

/// What strangers say first, and that they go on, or not.
fn garbage(stage: &Stage) -> Vec<(&'static str, Vec<u8>)> {
    let random: Vec<u8> = (0..64_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let real = client_hello(stage);
    let mut torn = real.clone();
    torn.truncate(real.len() / 2);
    let mut changed = real.clone();
    changed[40..80].fill(0xff);
    let endless_message =
        [record(22, 4, &[1, 0xff, 0xff, 0xff]), record(22, 1, &[0]).repeat(20_000)].concat();
    let mut unknown_frame = Vec::new();
    write_frame(&mut unknown_frame, Kind::Batch, &[b"ab"]).expect("a vector takes all");
    let mut all = vec![
        ("nothing", Vec::new()),
        ("one byte", vec![22]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n".to_vec()),
        ("a browser's old hello", record(22, 45, &[&[1, 0, 0, 41, 3, 1][..], &[7; 39]].concat())),
        ("SSL 2", [&[0x80, 0x2e, 1, 0, 2][..], &[0; 41]].concat()),
        ("bytes at random", random),
        ("zeros", vec![0; 1 << 20]),
        ("ones", vec![0xff; 1 << 20]),
        ("the longest record", record(22, u16::MAX, &[0; u16::MAX as usize])),
        ("a record that never ends", record(22, u16::MAX, b"")),
        ("a record of nothing, often", record(22, 0, b"").repeat(10_000)),
        ("an endless message of the handshake", endless_message),
        ("alerts", record(21, 2, &[1, 0]).repeat(5_000)),
        ("changes of the cipher", record(20, 1, &[1]).repeat(10_000)),
        ("text before the handshake", record(23, 1_000, &[0; 1_000])),
        ("half a handshake", real.clone()),
        ("a torn hello", torn),
        ("a changed hello", changed),
        ("two hellos", [&real[..], &real].concat()),
        ("a hello and text", [&real[..], &record(23, 500, &[9; 500])].concat()),
        ("a frame that does not belong here", unknown_frame),
        ("a frame of no kind", header(99, 3)),
        ("another cluster", hello("another", Role::Client)),
        ("another cluster's question", hello("another", Role::Status)),
        ("a hello that never ends", [header(1, 4_000), vec![b' '; 10]].concat()),
        ("JSON that goes deep", [header(1, 4_000), vec![b'['; 4_000]].concat()),
    ];
    all.extend((1..=7).map(|kind| ("a huge frame", header(kind, u32::MAX))));
    all
}

/// Says `bytes` to the worker and waits until it ends the connection.
fn say_to_the_end(what: &str, to: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("it listens");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // It may have ended it already.
    let _ = stream.write_all(bytes);
    let began = Instant::now();
    let mut answer = [0; 4 << 10];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{what}: the connection is still open after {PATIENCE:?}")
            }
            Err(_) => return,
        }
        assert!(began.elapsed() < PATIENCE, "{what}: it is still being answered");
    }
}

fn garbage_on(stage: &Stage) {
    let kinds = garbage(stage);
    let to = stage.workers[0].address;
    stage.withstands(&format!("garbage of {} kinds, {CROWD} at once", kinds.len()), || {
        std::thread::scope(|scope| {
            for (what, bytes) in kinds.iter().flat_map(|kind| std::iter::repeat_n(kind, CROWD)) {
                scope.spawn(|| say_to_the_end(what, to, bytes));
            }
        });
    });
}

#[test]
fn garbage_costs_an_encrypted_worker_nothing() {
    with_deadline(LIMIT, || garbage_on(&Stage::encrypted(2)));
}

#[test]
fn garbage_costs_a_plaintext_worker_nothing() {
    with_deadline(LIMIT, || garbage_on(&Stage::plaintext(2)));
}

/// Whoever has connected, been reset or gone at once, thousands of times.
#[test]
fn visits_without_a_word_cost_nothing() {
    const VISITS: usize = 2_000;
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let to = stage.workers[0].address;
        stage.withstands(&format!("{VISITS} visits without a word"), || {
            for visit in 0..VISITS {
                let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("it listens");
                if visit.is_multiple_of(2) {
                    let linger = Some(Duration::ZERO);
                    socket2::SockRef::from(&stream).set_linger(linger).expect("it is open");
                }
            }
        });
    });
}

/// A byte now and then is no handshake: whoever drips is gone when the time to say who it is has passed.
#[test]
fn who_drips_is_shown_out() {
    const DRIPPING: usize = 200;
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let hello = client_hello(&stage);
        let to = stage.workers[0].address;
        stage.withstands(&format!("{DRIPPING} that drip"), || {
            let began = Instant::now();
            let drip = |n: usize| {
                let stream = connect_from(Ipv4Addr::new(127, 7, 0, (n % 100 + 1) as u8), to);
                stream.expect("it listens")
            };
            let mut dripping: Vec<TcpStream> = (0..DRIPPING).map(drip).collect();
            for at in 0.. {
                let byte = hello[at % hello.len()];
                dripping.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
                if dripping.is_empty() {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "{} still drip", dripping.len());
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    });
}

/// A thousand connections are held open at any time, with half a handshake or without a word; for each that the worker
/// ends there is a new one at once.
#[test]
fn a_thousand_half_handshakes_do_not_keep_an_honest_job_out() {
    const HALVES: usize = 500;
    /// For a job of a tenth of a second, on a machine under load.
    const BOUND: Duration = Duration::from_secs(20);
    const SIEGE: Duration = Duration::from_secs(4);
    with_deadline(LIMIT, || {
        machine::raise_open_files();
        let stage = Stage::encrypted(2);
        let hello = client_hello(&stage);
        let alone = stage.exact(stage.job(&stage.addresses()));
        let (is_over, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut beside = Vec::new();
        let before = stage.at_rest();
        std::thread::scope(|scope| {
            for worker in &stage.workers {
                let (is_over, tried, hello) = (&is_over, &tried, &hello);
                scope.spawn(move || besiege(worker.address, HALVES, hello, is_over, tried));
            }
            while tried.load(Ordering::Relaxed) < 2 * HALVES {
                std::thread::sleep(Duration::from_millis(10));
            }
            let began = Instant::now();
            while began.elapsed() < SIEGE {
                beside.push(stage.job(&stage.addresses()).wait());
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let tried = tried.into_inner();
        let (number, longest) =
            (beside.len(), beside.iter().map(|job| job.elapsed).max().unwrap_or_default());
        println!(
            "{tried} half handshakes: {number} honest jobs beside them, the longest took {:.2} s; {alone:.2} s alone",
            longest.as_secs_f64()
        );
        assert!(longest < BOUND, "an honest job took {longest:?}");
        for job in beside {
            let lines = job.expect_code(0);
            assert!(!lines.stderr.contains(" lost in "), "{}", lines.stderr);
        }
        stage.assert_at_rest(&before, "half handshakes");
        stage.exact(stage.job(&stage.addresses()));
    });
}

/// Keeps `number` connections open, some of hosts of their own.
fn besiege(to: SocketAddr, number: usize, hello: &[u8], is_over: &AtomicBool, tried: &AtomicUsize) {
    let mut held: Vec<TcpStream> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        held.retain(|stream| {
            stream.set_nonblocking(true).is_ok()
                && stream.peek(&mut [0]).err().is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
        });
        // Those that it has answered count as ended: they are dropped, and others come.
        for _ in held.len()..number {
            let n = tried.fetch_add(1, Ordering::Relaxed);
            let source = match n % 4 {
                0 => Ipv4Addr::new(127, 8, (n >> 8) as u8, (n % 250 + 1) as u8),
                _ => Ipv4Addr::LOCALHOST,
            };
            let Ok(mut stream) = connect_from(source, to) else { continue };
            if n.is_multiple_of(2) {
                let _ = stream.write_all(hello);
            }
            held.push(stream);
            std::thread::sleep(Duration::from_micros(500));
            if is_over.load(Ordering::Relaxed) {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
