//! Serve: a worker by hand, in the foreground.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Lab, processes, with_deadline};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn port_that_is_taken_is_named() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let served = lab.mapreduce(&["serve", "--port", &port]).expect_code(1);
        assert!(served.stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", served.stderr);
    });
}

#[test]
fn worker_without_a_key_stays_on_loopback() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let served = lab.mapreduce(&["serve", "--bind", "0.0.0.0"]).expect_code(2);
        assert!(served.stderr.contains("loopback only"), "{}", served.stderr);
    });
}

#[test]
fn worker_serves_until_it_is_told_to_end() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        // A port of the kernel's choice that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let serving = lab.invocation(&["serve", "--port", &address.port().to_string()]).spawn();
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "nobody listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        processes::signal(serving.pid(), Signal::TERM);
        let served = serving.wait().expect_code(130);
        let first = served.stderr.lines().next().unwrap();
        assert!(first.contains(&format!("listening on {address}")), "{first}");
        // Every line begins with the time.
        assert!(first.starts_with("20") && first.contains("Z "), "{first}");
    });
}

#[test]
fn idle_worker_ends_by_itself() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let served = lab.mapreduce(&["serve", "--idle-timeout", "300ms"]).expect_code(0);
        assert!(served.stderr.contains("without a job"), "{}", served.stderr);
        let orders = lab.mapreduce(&["serve", "--detach", "/tmp/never-made"]).expect_code(1);
        assert!(orders.stderr.contains("no orders"), "{}", orders.stderr);
    });
}
