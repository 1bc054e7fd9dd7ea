//! Tests of the proxy itself: what it forwards, and each fault, between a socket of the test's and another.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mapreduce::logic::ids::{Epoch, JobId, WorkerId};
use mapreduce::wire::frame::MAX_HELLO_BYTES;
use mapreduce::wire::message::{Hello, MAGIC, PROTOCOL, Role, read_message, write_message};

use super::{Dialer, Direction, Fault, Proxy, Selection};
use crate::harness::{wait_until, with_deadline};

/// A test of the proxy takes a second at most; this is for machines under load.
const LIMIT: Duration = Duration::from_secs(60);

/// How long nothing must come where nothing may.
const SILENCE: Duration = Duration::from_millis(150);

const CLIENT: Role = Role::Client;

fn peer(source: u32) -> Role {
    Role::Peer { job: JobId(1), epoch: Epoch(1), source: WorkerId(source) }
}

/// A proxy before a listener of the test's.
struct Bench {
    proxy: Proxy,
    worker: TcpListener,
}

impl Bench {
    fn set_up() -> Bench {
        let worker = TcpListener::bind("127.0.0.1:0").expect("a port");
        Bench { proxy: Proxy::before(worker.local_addr().expect("its address")), worker }
    }

    /// Connects and says hello; whether that arrives is not known.
    fn dial(&self, role: &Role) -> TcpStream {
        let mut near = TcpStream::connect(self.proxy.address()).expect("the proxy listens");
        let hello = Hello {
            magic: MAGIC.into(),
            protocol: PROTOCOL,
            program: "1".into(),
            cluster: String::new(),
            role: role.clone(),
        };
        write_message(&mut near, &hello).expect("the kernel takes it");
        near
    }

    /// Takes the next connection that gets as far as the worker.
    fn accept(&self) -> (TcpStream, Role) {
        let (mut far, _) = self.worker.accept().expect("a connection");
        let hello: Hello = read_message(&mut far, MAX_HELLO_BYTES).expect("a hello");
        (far, hello.role)
    }

    /// A connection: the end of whoever made it, and the worker's.
    fn connect(&self, role: &Role) -> (TcpStream, TcpStream) {
        let near = self.dial(role);
        let (far, said) = self.accept();
        assert_eq!(said, *role);
        (near, far)
    }
}

#[track_caller]
fn assert_arrives(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"word").expect("it is taken");
    let mut got = [0; 4];
    to.set_read_timeout(Some(LIMIT)).expect("a time-out");
    to.read_exact(&mut got).expect("it arrives");
    assert_eq!(&got, b"word");
}

#[track_caller]
fn assert_silent(from: &mut TcpStream) {
    from.set_read_timeout(Some(SILENCE)).expect("a time-out");
    let read = from.read(&mut [0; 16]);
    assert!(matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock), "{read:?}");
}

#[track_caller]
fn assert_reset(from: &mut TcpStream) {
    from.set_read_timeout(Some(LIMIT)).expect("a time-out");
    let read = from.read(&mut [0; 16]);
    assert!(matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{read:?}");
}

#[track_caller]
fn assert_ended(from: &mut TcpStream) {
    from.set_read_timeout(Some(LIMIT)).expect("a time-out");
    assert_eq!(from.read(&mut [0; 16]).expect("an orderly end"), 0);
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn within(body: impl FnOnce(Bench) + Send + 'static) {
    with_deadline(LIMIT, || body(Bench::set_up()));
}

#[test]
fn every_byte_passes_both_ways_at_once() {
    within(|bench| {
        let (near, far) = bench.connect(&CLIENT);
        let (there, back) = (noise(24 << 20, 7), noise(17 << 20, 11));
        let send = |mut to: &TcpStream, bytes: &[u8]| {
            to.write_all(bytes).expect("it is taken");
            to.shutdown(Shutdown::Write).expect("it is open");
        };
        let recv = |mut from: &TcpStream| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).expect("an orderly end");
            bytes
        };
        std::thread::scope(|scope| {
            scope.spawn(|| send(&near, &there));
            scope.spawn(|| send(&far, &back));
            let arrived = scope.spawn(|| recv(&far));
            assert!(recv(&near) == back, "what came back is not what was sent");
            assert!(arrived.join().expect("no panic") == there, "what arrived is not what was sent");
        });
        bench.proxy.await_closed(Selection::all(), LIMIT);
        let passage = bench.proxy.passages(Selection::client())[0];
        assert_eq!(passage.from_worker, back.len() as u64);
        assert!(passage.to_worker > there.len() as u64, "the hello passed, too");
    });
}

#[test]
fn who_connects_is_known() {
    within(|bench| {
        let _ends = [CLIENT, peer(2), peer(0), Role::Status].map(|role| bench.connect(&role));
        let mut stranger = TcpStream::connect(bench.proxy.address()).expect("the proxy listens");
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("the kernel takes it");
        let mut far = bench.worker.accept().expect("a connection").0;
        far.read_exact(&mut [0; 18]).expect("what the stranger said arrives");
        bench.proxy.await_that(Selection::all(), "the stranger's bytes", LIMIT, |passages| {
            passages.last().is_some_and(|passage| passage.to_worker == 18)
        });
        let dialers: Vec<Dialer> =
            bench.proxy.passages(Selection::all()).iter().map(|passage| passage.dialer).collect();
        let peer = |source| Dialer::Peer { source };
        assert_eq!(dialers, [Dialer::Client, peer(2), peer(0), Dialer::Status, Dialer::Unknown]);
        assert_eq!(bench.proxy.passages(Selection::peers()).len(), 2);
    });
}

#[test]
fn delay_is_not_a_rate() {
    within(|bench| {
        let (mut near, mut far) = bench.connect(&CLIENT);
        let by = Duration::from_millis(100);
        let fault = bench.proxy.inject(Fault::Delay(Direction::Both, by), Selection::client());
        let began = Instant::now();
        assert_arrives(&mut near, &mut far);
        assert_arrives(&mut far, &mut near);
        assert!(began.elapsed() >= by * 2, "there and back in {:?}", began.elapsed());
        // Whatever is sent at a time is late at a time.
        let began = Instant::now();
        let bytes = noise(8 << 20, 3);
        std::thread::scope(|scope| {
            scope.spawn(|| (&near).write_all(&bytes).expect("it is taken"));
            let mut got = vec![0; bytes.len()];
            (&far).read_exact(&mut got).expect("it arrives");
            assert!(got == bytes, "a delay changed the bytes");
        });
        assert!(began.elapsed() >= by);
        assert!(began.elapsed() < by * 20, "8 MiB took {:?}", began.elapsed());
        bench.proxy.lift(fault);
        let began = Instant::now();
        assert_arrives(&mut near, &mut far);
        assert!(began.elapsed() < by, "still late");
    });
}

/// The first byte of a connection is late, too, and with it the connection.
#[test]
fn delay_begins_with_the_hello() {
    within(|bench| {
        let by = Duration::from_millis(100);
        bench.proxy.inject(Fault::Delay(Direction::ToWorker, by), Selection::all());
        let began = Instant::now();
        let (mut near, mut far) = bench.connect(&CLIENT);
        assert!(began.elapsed() >= by);
        drop(near.shutdown(Shutdown::Both));
        assert_ended(&mut far);
        assert!(began.elapsed() >= by * 2, "the end overtook");
        assert_ended(&mut near);
    });
}

#[test]
fn rate_is_shared() {
    within(|bench| {
        let mut ends = [bench.connect(&CLIENT), bench.connect(&peer(1))];
        bench.proxy.inject(Fault::Rate(Direction::ToWorker, 1_000_000), Selection::all());
        let bytes = noise(250_000, 5);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (near, far) in &mut ends {
                scope.spawn(|| near.write_all(&bytes).expect("it is taken"));
                scope.spawn(|| {
                    let mut got = vec![0; bytes.len()];
                    far.read_exact(&mut got).expect("it arrives");
                    assert!(got == bytes, "a rate changed the bytes");
                });
            }
        });
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(450), "500 kB at 1 MB/s in {took:?}");
        assert!(took < Duration::from_secs(5), "500 kB at 1 MB/s in {took:?}");
        // The other direction is not concerned.
        let (near, far) = &mut ends[0];
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| far.write_all(&noise(4 << 20, 9)).expect("it is taken"));
            near.read_exact(&mut vec![0; 4 << 20]).expect("it arrives");
        });
        assert!(began.elapsed() < Duration::from_secs(2), "4 MiB took {:?}", began.elapsed());
    });
}

#[test]
fn quota_is_exact() {
    within(|bench| {
        let (mut near, mut far) = bench.connect(&CLIENT);
        bench.proxy.inject(Fault::Quota(Direction::FromWorker, 100_003), Selection::client());
        far.write_all(&noise(200_000, 5)).expect("the kernel takes it");
        bench.proxy.await_moved(Selection::client(), Direction::FromWorker, 100_003, LIMIT);
        near.read_exact(&mut vec![0; 100_003]).expect("it arrives");
        assert_silent(&mut near);
        assert_arrives(&mut near, &mut far);
        bench.proxy.heal();
        near.read_exact(&mut vec![0; 99_997]).expect("the rest arrives");
    });
}

#[test]
fn blackhole_is_silent_and_heals() {
    within(|bench| {
        let (mut near, mut far) = bench.connect(&CLIENT);
        bench.proxy.inject(Fault::Blackhole(Direction::Both), Selection::client());
        let before = bench.proxy.moved(Selection::all(), Direction::Both);
        near.write_all(b"late").expect("the kernel takes it");
        far.write_all(b"late").expect("the kernel takes it");
        assert_silent(&mut near);
        assert_silent(&mut far);
        assert_eq!(bench.proxy.moved(Selection::all(), Direction::Both), before);
        bench.proxy.heal();
        for end in [&mut near, &mut far] {
            let mut got = [0; 4];
            end.set_read_timeout(Some(LIMIT)).expect("a time-out");
            end.read_exact(&mut got).expect("it arrives after all");
            assert_eq!(&got, b"late");
        }
    });
}

#[test]
fn half_open_link_goes_one_way() {
    for dropped in [Direction::ToWorker, Direction::FromWorker] {
        within(move |bench| {
            let (mut near, mut far) = bench.connect(&peer(3));
            bench.proxy.inject(Fault::Blackhole(dropped), Selection::peer(3));
            let [from, to] = match dropped {
                Direction::ToWorker => [&mut near, &mut far],
                _ => [&mut far, &mut near],
            };
            assert_arrives(to, from);
            from.write_all(b"lost").expect("the kernel takes it");
            assert_silent(to);
            assert_arrives(to, from);
        });
    }
}

/// Through a dropped link, not even the end of a connection is noticed.
#[test]
fn blackhole_hides_an_end() {
    within(|bench| {
        let (near, mut far) = bench.connect(&CLIENT);
        bench.proxy.inject(Fault::Blackhole(Direction::Both), Selection::all());
        drop(near);
        assert_silent(&mut far);
        bench.proxy.heal();
        assert_ended(&mut far);
    });
}

#[test]
fn blackhole_takes_new_connections_and_passes_nothing_on() {
    within(|bench| {
        bench.worker.set_nonblocking(true).expect("a socket that does not block");
        for selection in [Selection::all(), Selection::client().new_only()] {
            bench.proxy.inject(Fault::Blackhole(Direction::Both), selection);
            let mut near = bench.dial(&CLIENT);
            assert_silent(&mut near);
            let accepted = bench.worker.accept();
            assert!(matches!(&accepted, Err(error) if error.kind() == ErrorKind::WouldBlock), "{accepted:?}");
            bench.proxy.heal();
            bench.proxy.await_that(Selection::client(), "the hello to move", LIMIT, |passages| {
                passages.last().is_some_and(|passage| passage.to_worker > 0)
            });
            let (mut far, role) = loop {
                match bench.worker.accept() {
                    Ok((mut far, _)) => {
                        far.set_nonblocking(false).expect("a socket that blocks");
                        let hello: Hello = read_message(&mut far, MAX_HELLO_BYTES).expect("a hello");
                        break (far, hello.role);
                    }
                    Err(_) => std::thread::yield_now(),
                }
            };
            assert_eq!(role, CLIENT);
            assert_arrives(&mut far, &mut near);
        }
    });
}

#[test]
fn faults_meet_only_whom_they_are_meant_for() {
    within(|bench| {
        let mut client = bench.connect(&CLIENT);
        let mut first = bench.connect(&peer(1));
        let mut second = bench.connect(&peer(2));
        bench.proxy.inject(Fault::Blackhole(Direction::Both), Selection::peer(2).existing_only());
        second.0.write_all(b"lost").expect("the kernel takes it");
        assert_silent(&mut second.1);
        assert_arrives(&mut client.0, &mut client.1);
        assert_arrives(&mut first.0, &mut first.1);
        let mut next = bench.connect(&peer(2));
        assert_arrives(&mut next.0, &mut next.1);
        // Now the new ones only.
        bench.proxy.heal();
        bench.proxy.inject(Fault::Reset, Selection::peers().new_only());
        assert_arrives(&mut first.0, &mut first.1);
        assert_reset(&mut bench.dial(&peer(1)));
        assert_arrives(&mut next.0, &mut next.1);
        bench.connect(&Role::Status);
    });
}

#[test]
fn reset_is_felt_at_both_ends() {
    within(|bench| {
        let (mut near, mut far) = bench.connect(&CLIENT);
        let mut other = bench.connect(&peer(0));
        bench.proxy.inject(Fault::Reset, Selection::client().existing_only());
        bench.proxy.await_closed(Selection::client(), LIMIT);
        assert_reset(&mut near);
        assert_reset(&mut far);
        assert_arrives(&mut other.0, &mut other.1);
        let mut again = bench.connect(&CLIENT);
        assert_arrives(&mut again.0, &mut again.1);
    });
}

#[test]
fn close_is_orderly_at_both_ends() {
    within(|bench| {
        let (mut near, mut far) = bench.connect(&CLIENT);
        bench.proxy.inject(Fault::Blackhole(Direction::Both), Selection::all());
        near.write_all(b"lost").expect("the kernel takes it");
        bench.proxy.inject(Fault::Close, Selection::client());
        bench.proxy.await_closed(Selection::client(), LIMIT);
        assert_ended(&mut near);
        assert_ended(&mut far);
    });
}

#[test]
fn new_connections_are_refused_until_it_heals() {
    within(|bench| {
        let mut there = bench.connect(&CLIENT);
        for _ in 0..3 {
            bench.proxy.inject(Fault::Reset, Selection::all().new_only());
            let refused = TcpStream::connect(bench.proxy.address()).expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert_arrives(&mut there.0, &mut there.1);
            bench.proxy.heal();
            let mut again = bench.connect(&CLIENT);
            assert_arrives(&mut again.0, &mut again.1);
        }
    });
}

#[test]
fn worker_that_is_not_there_is_a_reset() {
    within(|Bench { proxy, worker }| {
        drop(worker);
        let mut near = TcpStream::connect(proxy.address()).expect("the proxy listens");
        near.write_all(&[0; 64]).expect("the kernel takes it");
        assert_reset(&mut near);
        proxy.await_closed(Selection::all(), LIMIT);
    });
}

#[test]
fn waiting_in_vain_says_for_what() {
    within(|bench| {
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bench.proxy.await_connections(Selection::peer(4), 1, Duration::from_millis(20));
        }));
        let said = *waited.expect_err("nobody came").downcast::<String>().expect("a text");
        assert!(said.contains("in vain for 1 connections of Peer(4)"), "{said}");
    });
}

#[test]
fn nothing_is_left_behind() {
    within(|bench| {
        let port = bench.proxy.address().port();
        let name = format!("proxy:{port}\n");
        let threads = || {
            let tasks = std::fs::read_dir("/proc/self/task").expect("/proc").flatten();
            tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|of| of == name))
        };
        let (mut near, mut far) = bench.connect(&CLIENT);
        assert_eq!(threads().count(), 1);
        bench.proxy.inject(Fault::Blackhole(Direction::Both), Selection::all());
        far.write_all(&[0; 100]).expect("the kernel takes it");
        drop(bench);
        // It has been joined, but the kernel may list it a moment longer.
        wait_until(LIMIT, "the proxy's thread to be gone", || threads().count() == 0);
        assert!(matches!(near.read(&mut [0; 16]), Ok(0) | Err(_)), "the connection is still there");
        drop(TcpListener::bind(("127.0.0.1", port)).expect("the port is free again"));
    });
}
