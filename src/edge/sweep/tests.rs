//! Tests: sweeps over probes that answer, fail, are silent or panic.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

fn candidates(n: usize) -> Vec<Host> {
    let host = |n| Host {
        name: HostName(format!("h{n}")),
        user: None,
        port: None,
        key: None,
        remote_dir: None,
        facts: None,
    };
    (0..n).map(host).collect()
}

fn facts() -> Facts {
    Facts {
        cores: 1,
        memory_mib: 1,
        arch: "x".into(),
        libc: "y".into(),
        load_percent: 0,
        free_mib: 1,
        network_home: false,
    }
}

fn failure(host: &Host, step: Step) -> HostFailure {
    HostFailure::new(&host.name, step, anyhow!("no"))
}

fn options(wanted: usize, parallel: usize) -> SweepOptions {
    SweepOptions { wanted, parallel, rate: None, patience: Duration::from_secs(20) }
}

fn index(host: &Host) -> usize {
    host.name.0[1..].parse().unwrap()
}

fn names(swept: &Swept) -> Vec<&str> {
    swept.found.iter().map(|(name, _)| name.0.as_str()).collect()
}

#[test]
fn stops_when_enough_answered_and_keeps_the_order_of_candidates() {
    // The earlier of each two answers later.
    let probe = |host: &Host| {
        thread::sleep(Duration::from_millis(if index(host).is_multiple_of(2) { 60 } else { 1 }));
        Ok(facts())
    };
    let swept = sweep(candidates(100), options(4, 4), probe, |_| {});
    assert_eq!(swept.found.len(), 4);
    assert!(swept.found.is_sorted_by_key(|(name, _)| name.0[1..].parse::<usize>().unwrap()));
    assert_eq!(swept.unheard, 96);
}

#[test]
fn failures_are_collected_and_the_others_go_on() {
    let probe = |host: &Host| match index(host) % 3 {
        0 => Err(failure(host, Step::Connect)),
        _ => Ok(facts()),
    };
    let mut heard = 0;
    let swept = sweep(candidates(9), options(9, 3), probe, |_| heard += 1);
    assert_eq!(names(&swept), ["h1", "h2", "h4", "h5", "h7", "h8"]);
    assert_eq!((swept.failed.len(), swept.unheard, heard), (3, 0, 9));
}

#[test]
fn a_silent_host_does_not_hold_up_the_rest() {
    let started = Instant::now();
    let probe = |host: &Host| {
        if index(host) == 0 {
            thread::sleep(Duration::from_secs(60));
        }
        Ok(facts())
    };
    let patience = Duration::from_secs(1);
    let swept = sweep(candidates(3), SweepOptions { patience, ..options(3, 8) }, probe, |_| {});
    assert_eq!(names(&swept), ["h1", "h2"]);
    assert!(swept.failed[0].cause.to_string().contains("no answer within"));
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_probe_that_panics_counts_as_silent() {
    let patience = Duration::from_millis(100);
    let probe = |_: &Host| panic!("for the test");
    let swept = sweep(candidates(1), SweepOptions { patience, ..options(1, 1) }, probe, |_| {});
    assert_eq!(swept.failed.len(), 1);
}

#[test]
fn no_more_probes_than_allowed_or_needed_are_in_flight() {
    for (wanted, parallel, most) in [(20, 3, 3), (4, 100, 6), (1, 0, 1)] {
        let now = Arc::new(AtomicUsize::new(0));
        let peak = Arc::new(AtomicUsize::new(0));
        let (counted, seen) = (now.clone(), peak.clone());
        let probe = move |_: &Host| {
            seen.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            counted.fetch_sub(1, Ordering::SeqCst);
            Ok(facts())
        };
        let swept = sweep(candidates(100), options(wanted, parallel), probe, |_| {});
        assert_eq!(swept.found.len(), wanted);
        // One that has answered may not have left its thread.
        assert!(peak.load(Ordering::SeqCst) <= most + 1, "{wanted} {parallel}: {peak:?}");
    }
}

#[test]
fn where_few_answer_more_are_probed_at_a_time() {
    let started = Instant::now();
    let probe = |host: &Host| {
        if index(host) >= 200 {
            return Ok(facts());
        }
        thread::sleep(Duration::from_millis(100));
        Err(failure(host, Step::Connect))
    };
    let swept = sweep(candidates(201), options(1, 40), probe, |_| {});
    assert_eq!(swept.found.len(), 1);
    // Three at a time would take 6.7 s.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_rate_spaces_connections() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let noted = starts.clone();
    let probe = move |_: &Host| {
        noted.lock().unwrap().push(Instant::now());
        Ok(facts())
    };
    let rate = Some((2, Duration::from_millis(200)));
    let begin = Instant::now();
    let mut paused = 0;
    let swept = sweep(candidates(9), SweepOptions { rate, ..options(5, 9) }, probe, |heard| {
        paused += usize::from(matches!(heard, Heard::Paused(_)));
    });
    assert_eq!(swept.found.len(), 5);
    assert!(paused >= 2);
    let starts = starts.lock().unwrap();
    assert_eq!(starts.len(), 5, "no spares where connections are rationed");
    assert!(*starts.iter().max().unwrap() - begin >= Duration::from_millis(400), "{starts:?}");
}

#[test]
fn refused_logins_end_it_unless_some_host_answers() {
    let swept = sweep(candidates(50), options(5, 4), |host| Err(failure(host, Step::Authenticate)), |_| {});
    assert!(swept.refused);
    assert!(swept.failed.len() < 14 && swept.unheard > 30);
    // The others are refused only once the first has been heard.
    let answered = Arc::new(AtomicBool::new(false));
    let heard = answered.clone();
    let probe = move |host: &Host| {
        if index(host) == 0 {
            return Ok(facts());
        }
        while !heard.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(failure(host, Step::Authenticate))
    };
    let swept = sweep(candidates(50), options(5, 4), probe, |heard| {
        answered.fetch_or(matches!(heard, Heard::Answered(..)), Ordering::SeqCst);
    });
    assert!(!swept.refused);
    assert_eq!(swept.failed.len(), 49);
}

#[test]
fn nothing_wanted_or_nobody_there_is_done_at_once() {
    let none = |host: &Host| Err(failure(host, Step::Connect));
    assert_eq!(sweep(candidates(3), options(0, 3), none, |_| {}).unheard, 3);
    assert!(sweep(Vec::new(), options(3, 3), none, |_| {}).found.is_empty());
}
