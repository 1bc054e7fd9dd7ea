//! Silence: hosts that are down, mute or frozen cost the time-out, and not more.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use mapreduce::edge::failure::{HostName, Step};
use mapreduce::edge::ssh::{Session, Target, Upload};

use super::{LIMIT, TIMEOUT, connect, logged_in, report};
use crate::harness::{Lab, LabOptions, with_deadline};

/// The time-out in these tests.
const SHORT: Duration = Duration::from_secs(2);

/// What else may pass before a call returns, on a machine under load; well below [`TIMEOUT`], which is not waited for.
const SLACK: Duration = Duration::from_secs(8);

#[test]
fn closed_port_is_a_failure_to_connect() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 2, down: vec![0], ..LabOptions::default() });
        let failure = connect(&lab, 0).unwrap_err();
        assert_eq!(failure.step, Step::Connect);
        assert!(report(&failure).contains("refused"), "{}", report(&failure));
        logged_in(&lab, 1);
    });
}

#[test]
fn mute_listener_costs_no_more_than_the_time_out() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target {
            host: HostName("127.0.0.1".into()),
            user: None,
            port: Some(listener.local_addr().unwrap().port()),
            key: None,
        };
        let started = Instant::now();
        let failure = Session::connect(&target, &lab.options(SHORT)).unwrap_err();
        assert_eq!(failure.step, Step::Handshake);
        assert!(started.elapsed() >= SHORT && started.elapsed() < SHORT + SLACK, "{:?}", started.elapsed());
        assert!(report(&failure).contains("no answer within 2s"), "{}", report(&failure));
    });
}

#[test]
fn listener_that_hangs_up_or_talks_nonsense_fails_at_once() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        for greeting in ["", "SSH-2.0-x\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = std::io::Write::write_all(&mut stream, greeting.as_bytes());
            });
            let target =
                Target { host: HostName("127.0.0.1".into()), user: None, port: Some(port), key: None };
            let started = Instant::now();
            let failure = Session::connect(&target, &lab.options(TIMEOUT)).unwrap_err();
            assert_eq!(failure.step, Step::Handshake, "{}", report(&failure));
            assert!(started.elapsed() < SLACK, "{greeting:?}: {:?}", started.elapsed());
            server.join().unwrap();
        }
    });
}

#[test]
fn frozen_host_is_left_at_the_deadline_and_dropped_at_once() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        lab.hosts[0].freeze();
        let started = Instant::now();
        let error = session.run("echo never", b"", SHORT).unwrap_err();
        assert!(started.elapsed() >= SHORT && started.elapsed() < SHORT + SLACK, "{:?}", started.elapsed());
        assert!(format!("{error:#}").contains("no answer within 2s"), "{error:#}");
        // The session is unusable, and says so without waiting again.
        let started = Instant::now();
        assert!(session.run("true", b"", TIMEOUT).is_err());
        drop(session);
        assert!(started.elapsed() < SHORT, "{:?}", started.elapsed());
        lab.hosts[0].thaw();
    });
}

#[test]
fn host_that_freezes_during_an_upload_or_a_command_is_left() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        for upload in [true, false] {
            let mut session = logged_in(&lab, 0);
            let data = vec![0; 64 << 20];
            let started = Instant::now();
            let error = std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(100));
                    lab.hosts[0].freeze();
                });
                if upload {
                    let path = lab.hosts[0].home.join("program");
                    // Not so fast that all is sent before the host freezes.
                    let progress = &mut |_| std::thread::sleep(Duration::from_millis(1));
                    session
                        .upload(Upload {
                            bytes: &data,
                            digest: "",
                            packed: None,
                            path: path.to_str().unwrap(),
                            mode: 0o755,
                            stall: SHORT,
                            progress,
                        })
                        .unwrap_err()
                } else {
                    session.run("cat >/dev/null; sleep 4", &data, SHORT).unwrap_err()
                }
            });
            drop(session);
            assert!(started.elapsed() < SHORT * 2 + SLACK, "{:?}", started.elapsed());
            assert!(format!("{error:#}").contains("no answer"), "{error:#}");
            lab.hosts[0].thaw();
        }
    });
}

#[test]
fn session_that_is_idle_and_frozen_is_dropped_at_once() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let session = logged_in(&lab, 0);
        lab.hosts[0].freeze();
        let started = Instant::now();
        drop(session);
        assert!(started.elapsed() < SHORT, "{:?}", started.elapsed());
        lab.hosts[0].thaw();
    });
}

#[test]
fn host_that_dies_during_a_command_is_noticed_at_once() {
    with_deadline(LIMIT, || {
        let mut lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let started = Instant::now();
        let result = std::thread::scope(|scope| {
            let running = scope.spawn(|| session.run("sleep 6", b"", TIMEOUT));
            std::thread::sleep(Duration::from_millis(200));
            lab.hosts[0].stop();
            running.join().unwrap()
        });
        assert!(result.is_err());
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    });
}
