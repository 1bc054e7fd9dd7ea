//! Tunnel: a way to any port through a session.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use mapreduce::edge::ssh::TunnelError;

use super::{LIMIT, TIMEOUT, logged_in};
use crate::harness::{Lab, LabOptions, with_deadline};

const MIB: usize = 1 << 20;

/// What passes before the end of one side is seen at the other, on a machine under load.
const SLACK: Duration = Duration::from_secs(8);

/// Opens a way to `to` through the host `index`.
fn tunnel(lab: &Lab, index: usize, to: SocketAddr) -> UnixStream {
    let end = logged_in(lab, index).tunnel(&to.ip().to_string(), to.port(), TIMEOUT);
    let end: UnixStream = end.unwrap_or_else(|error| panic!("{error:#}")).into();
    end.set_read_timeout(Some(LIMIT)).unwrap();
    end.set_write_timeout(Some(LIMIT)).unwrap();
    end
}

/// A server for one connection.
fn serve<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// Sends back what it gets until that ends.
fn echo(mut stream: TcpStream) {
    let mut from = stream.try_clone().unwrap();
    let mut chunk = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if stream.write_all(&chunk[..length]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Bytes without a pattern that a mix-up could keep.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

/// Writes `data` and its end on a thread of its own, and returns what is read meanwhile, to its end.
fn exchange(mut end: UnixStream, data: &[u8]) -> Vec<u8> {
    let mut writer = end.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(data).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut read = Vec::new();
        end.read_to_end(&mut read).unwrap();
        read
    })
}

#[test]
fn bytes_pass_in_both_directions_at_once_and_each_ends_by_itself() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        for len in [0, 1, 100_000, 48 * MIB] {
            let (address, server) = serve(echo);
            let data = noise(len, 7);
            assert!(exchange(tunnel(&lab, 0, address), &data) == data, "{len} bytes");
            server.join().unwrap();
        }
    });
}

/// Both sides send before either reads: no ring of full buffers holds.
#[test]
fn large_transfers_cross() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let (there, back) = (noise(24 * MIB, 3), noise(32 * MIB, 5));
        let answer = back.clone();
        let (address, server) = serve(move |stream| {
            let mut from = stream.try_clone().unwrap();
            let mut to = stream;
            let sender = thread::spawn(move || {
                to.write_all(&answer).unwrap();
                to.shutdown(Shutdown::Write).unwrap();
            });
            let mut read = Vec::new();
            from.read_to_end(&mut read).unwrap();
            sender.join().unwrap();
            read
        });
        assert!(exchange(tunnel(&lab, 0, address), &there) == back);
        assert!(server.join().unwrap() == there);
    });
}

/// sshd asks for new keys again and again; a job's input is long enough for that.
#[test]
fn new_session_keys_in_the_middle_do_no_harm() {
    with_deadline(LIMIT, || {
        let sshd_config = vec!["RekeyLimit 2M".into()];
        let lab = Lab::with(LabOptions { hosts: 1, sshd_config, ..LabOptions::default() });
        let (address, server) = serve(echo);
        let data = noise(24 * MIB, 11);
        assert!(exchange(tunnel(&lab, 0, address), &data) == data);
        server.join().unwrap();
    });
}

#[test]
fn last_words_of_a_side_that_closes_at_once_arrive() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let data = noise(100_000, 13);
        let (address, server) = serve(|mut stream| {
            let mut read = Vec::new();
            stream.read_to_end(&mut read).map(|_| read)
        });
        let mut end = tunnel(&lab, 0, address);
        end.write_all(&data).unwrap();
        drop(end);
        assert!(server.join().unwrap().unwrap() == data);
        // And the other way round.
        let words = data.clone();
        let (address, server) = serve(move |mut stream| stream.write_all(&words).unwrap());
        let mut end = tunnel(&lab, 0, address);
        let mut read = Vec::new();
        end.read_to_end(&mut read).unwrap();
        assert!(read == data);
        server.join().unwrap();
    });
}

#[test]
fn closed_port_and_forbidden_forwarding_are_told_apart() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = logged_in(&lab, 0).tunnel("127.0.0.1", closed.port(), TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), format!("it cannot connect to {closed}"));
        assert!(matches!(error.downcast_ref(), Some(TunnelError::Unreachable { .. })), "{error:?}");
        let sshd_config = vec!["AllowTcpForwarding no".into()];
        let lab = Lab::with(LabOptions { hosts: 1, sshd_config, ..LabOptions::default() });
        let error = logged_in(&lab, 0).tunnel("127.0.0.1", closed.port(), TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), format!("its sshd does not forward connections to {closed}"));
        let advice = error.downcast_ref::<TunnelError>().and_then(TunnelError::advice).unwrap_or_default();
        assert!(advice.contains("AllowTcpForwarding"), "{advice}");
    });
}

#[test]
fn frozen_host_costs_the_time_out() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let session = logged_in(&lab, 0);
        lab.hosts[0].freeze();
        let started = Instant::now();
        let error = session.tunnel("127.0.0.1", 1, Duration::from_secs(1)).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", started.elapsed());
        assert!(error.downcast_ref::<TunnelError>().is_some_and(TunnelError::is_disconnect), "{error:#}");
        lab.hosts[0].thaw();
    });
}

/// A session that waits for others is kept, also by a host that ends those that do not speak.
#[test]
fn session_that_is_tended_lives_on() {
    with_deadline(LIMIT, || {
        let sshd_config = vec!["ClientAliveInterval 1".into(), "ClientAliveCountMax 2".into()];
        let lab = Lab::with(LabOptions { hosts: 1, sshd_config, ..LabOptions::default() });
        let (mut tended, mut left_alone) = (logged_in(&lab, 0), logged_in(&lab, 0));
        for _ in 0..12 {
            thread::sleep(Duration::from_millis(500));
            tended.tend(TIMEOUT).unwrap();
        }
        let (address, server) = serve(echo);
        let end = tended.tunnel(&address.ip().to_string(), address.port(), TIMEOUT).unwrap();
        assert_eq!(exchange(end.into(), b"still there"), b"still there");
        server.join().unwrap();
        let error = left_alone.tend(TIMEOUT).unwrap_err();
        assert!(format!("{error:#}").starts_with("the session has ended meanwhile: "), "{error:#}");
    });
}

/// Tells how many threads of this process carry for `host`.
fn pumps(host: &str) -> usize {
    // The kernel keeps fifteen bytes of a name, so that the addresses differ in the first.
    let name = &format!("mr:tunnel:{host}")[..15];
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let named =
        |path: std::path::PathBuf| std::fs::read_to_string(path).is_ok_and(|comm| comm.trim() == name);
    threads.filter(|thread| named(thread.path().join("comm"))).count()
}

#[track_caller]
fn assert_no_pump_left(host: &str) {
    crate::harness::wait_until(SLACK, "the end of the thread that carries", || pumps(host) == 0);
}

#[test]
fn end_of_the_host_is_the_end_of_the_stream() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        // An address of its own tells the thread of this test from others.
        let listener = TcpListener::bind("127.7.0.1:0").unwrap();
        let mut end = tunnel(&lab, 0, listener.local_addr().unwrap());
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"first words").unwrap();
        let mut read = [0; 11];
        end.read_exact(&mut read).unwrap();
        assert_eq!(pumps("127.7.0.1"), 1);
        let started = Instant::now();
        lab.hosts[0].stop();
        assert_eq!(end.read(&mut read).unwrap_or(0), 0);
        assert!(started.elapsed() < SLACK, "{:?}", started.elapsed());
        assert!(end.write_all(&[0; 4 * MIB]).is_err());
        assert_no_pump_left("127.7.0.1");
    });
}

#[test]
fn host_that_dies_in_the_middle_of_transfers_is_noticed_by_both_directions() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        let (address, server) = serve(echo);
        let mut end = tunnel(&lab, 0, address);
        let mut writer = end.try_clone().unwrap();
        let writing = thread::spawn(move || while writer.write_all(&[1; 64 << 10]).is_ok() {});
        let mut chunk = vec![0; MIB];
        end.read_exact(&mut chunk).unwrap();
        lab.hosts[0].stop();
        let stopped = Instant::now();
        while let Ok(1..) = end.read(&mut chunk) {}
        writing.join().unwrap();
        assert!(stopped.elapsed() < SLACK, "{:?}", stopped.elapsed());
        server.join().unwrap();
    });
}

#[test]
fn thread_ends_with_our_end_even_if_the_host_is_frozen() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let listener = TcpListener::bind("127.8.0.1:0").unwrap();
        let mut end = tunnel(&lab, 0, listener.local_addr().unwrap());
        lab.hosts[0].freeze();
        end.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        // More than all the buffers on the way hold.
        while end.write_all(&[0; MIB]).is_ok() {}
        end.shutdown(Shutdown::Both).unwrap();
        assert_no_pump_left("127.8.0.1");
        lab.hosts[0].thaw();
        // And where the host lives, but the server neither reads nor closes.
        let end = tunnel(&lab, 0, listener.local_addr().unwrap());
        let _served = listener.accept().unwrap();
        drop(end);
        assert_no_pump_left("127.8.0.1");
    });
}

/// Whatever our side did last: read some of it, write what the server does not take, or nothing.
#[test]
fn thread_ends_with_our_end_even_if_the_host_sends_for_ever() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        for stuffed in [false, true] {
            let listener = TcpListener::bind("127.6.0.1:0").unwrap();
            let mut end = tunnel(&lab, 0, listener.local_addr().unwrap());
            let mut served = listener.accept().unwrap().0;
            let sending = thread::spawn(move || while served.write_all(&[1; 64 << 10]).is_ok() {});
            end.read_exact(&mut [0; MIB]).unwrap();
            if stuffed {
                end.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
                while end.write_all(&[0; MIB]).is_ok() {}
            }
            drop(end);
            let left = Instant::now();
            assert_no_pump_left("127.6.0.1");
            sending.join().unwrap();
            eprintln!("stuffed {stuffed}: ended after {:?}", left.elapsed());
        }
    });
}

#[test]
fn idle_way_costs_no_processor_time() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let listener = TcpListener::bind("127.9.0.1:0").unwrap();
        // Three that wait: for both sides, for ours only, for the host only.
        let ends = [(); 3].map(|()| tunnel(&lab, 0, listener.local_addr().unwrap()));
        let served = [(); 3].map(|()| listener.accept().unwrap().0);
        ends[1].shutdown(Shutdown::Write).unwrap();
        served[2].shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(300));
        let before = ticks("127.9.0.1");
        thread::sleep(Duration::from_secs(1));
        // In hundredths of a second.
        assert!(ticks("127.9.0.1") - before <= 5);
        drop((ends, served));
        assert_no_pump_left("127.9.0.1");
    });
}

/// The processor time, in ticks, that the threads for `host` have used.
fn ticks(host: &str) -> u64 {
    let name = &format!("(mr:tunnel:{host}")[..16];
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats
        .filter(|stat| stat.contains(name))
        .map(|stat| {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}

/// Not a benchmark, but a guard against round trips per packet: each way takes about a second.
#[test]
fn sixty_four_mebibytes_each_way_are_not_slow() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let data = noise(64 * MIB, 17);
        let (address, server) = serve(|mut stream| {
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        });
        let mut end = tunnel(&lab, 0, address);
        let started = Instant::now();
        end.write_all(&data).unwrap();
        end.shutdown(Shutdown::Write).unwrap();
        server.join().unwrap();
        let there = started.elapsed();
        let (address, server) = serve(move |mut stream| stream.write_all(&data).unwrap());
        let mut end = tunnel(&lab, 0, address);
        let started = Instant::now();
        std::io::copy(&mut end, &mut std::io::sink()).unwrap();
        let back = started.elapsed();
        server.join().unwrap();
        eprintln!("64 MiB: there {there:?}, back {back:?}");
        assert!(there.max(back) < Duration::from_secs(30), "{there:?}, {back:?}");
    });
}
