//! Sweep: probes candidates in parallel, in their order, until enough of them answered.
//!
//! One thread per probe, one loop that starts them and takes what comes of them. When enough answered, or a probe is
//! silent for too long, nobody waits for the threads that are left: they end by their own deadlines, or with the
//! process. What they say then is not heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::failure::{HostFailure, HostName, Step};
use super::hosts::{Facts, Host};
use super::rate::Rate;

/// Refused logins after which the sweep ends if no host answered: then it is not the hosts, and more would only look
/// like an attack to what guards them.
const MAX_REFUSED_LOGINS: usize = 8;

/// Probes in flight beyond those that are expected to be needed: one for four, and this many at least. Some machines
/// of a lab do not answer though they are said to be up, and each takes a whole deadline to show it.
const MIN_SPARES: usize = 2;

/// Longest time between two looks: adding it to the clock cannot overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How a sweep is made.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Hosts that are to answer.
    pub wanted: usize,
    /// Probes at a time, at most.
    pub parallel: usize,
    /// Connections in such a time, at most.
    pub rate: Option<(u32, Duration)>,
    /// How long one probe may take in all.
    pub patience: Duration,
}

/// What is heard while it goes on.
#[derive(Debug)]
pub enum Heard<'a> {
    Answered(&'a HostName, &'a Facts),
    Failed(&'a HostFailure),
    /// Nothing may be started for such a time, for the rate's sake.
    Paused(Duration),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Swept {
    /// Those that answered first, in the order of the candidates.
    pub found: Vec<(HostName, Facts)>,
    /// Those that failed, in the order they did.
    pub failed: Vec<HostFailure>,
    /// Candidates that nobody was heard of: not started, or still in flight at the end.
    pub unheard: usize,
    /// Whether it ended early because the hosts refuse the login.
    pub refused: bool,
}

/// What one probe said.
type Answer = (usize, Result<Facts, HostFailure>);

/// The state of a sweep; indices are those of the candidates.
struct Sweep<P> {
    candidates: Vec<Host>,
    options: SweepOptions,
    probe: Arc<P>,
    rate: Rate,
    /// The next candidate to start.
    next: usize,
    /// When each probe that is waited for was started.
    in_flight: BTreeMap<usize, Instant>,
    found: BTreeMap<usize, Facts>,
    failed: Vec<HostFailure>,
    sender: Sender<Answer>,
}

/// Probes `candidates` with `probe` until enough answered or all were tried; `hear` is told of each.
pub fn sweep<P>(candidates: Vec<Host>, options: SweepOptions, probe: P, mut hear: impl FnMut(Heard)) -> Swept
where
    P: Fn(&Host) -> Result<Facts, HostFailure> + Send + Sync + 'static,
{
    let (sender, receiver) = bounded(options.parallel.max(1));
    let rate = Rate::new(options.rate);
    let mut sweep = Sweep {
        candidates,
        options,
        probe: Arc::new(probe),
        rate,
        next: 0,
        in_flight: BTreeMap::new(),
        found: BTreeMap::new(),
        failed: Vec::new(),
        sender,
    };
    sweep.run(&receiver, &mut hear);
    sweep.outcome()
}

impl<P: Fn(&Host) -> Result<Facts, HostFailure> + Send + Sync + 'static> Sweep<P> {
    fn run(&mut self, receiver: &Receiver<Answer>, hear: &mut impl FnMut(Heard)) {
        while self.missing() > 0 && !self.is_refused() {
            let pause = self.start_probes(hear);
            if self.in_flight.is_empty() && pause.is_none() {
                return;
            }
            match receiver.recv_deadline(self.next_event(pause)) {
                Ok((index, answer)) => self.take(index, answer, hear),
                Err(RecvTimeoutError::Timeout) => self.give_up_silent(hear),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Starts as many probes as may be in flight; returns how long the rate forbids the next one, if it does.
    fn start_probes(&mut self, hear: &mut impl FnMut(Heard)) -> Option<Duration> {
        while self.next < self.candidates.len() && self.in_flight.len() < self.most_in_flight() {
            let now = Instant::now();
            let wait = self.rate.wait(now);
            if wait > Duration::ZERO {
                if self.in_flight.is_empty() {
                    hear(Heard::Paused(wait));
                }
                return Some(wait);
            }
            self.rate.start(now);
            let index = self.next;
            self.next += 1;
            match self.spawn(index) {
                Ok(()) => _ = self.in_flight.insert(index, now),
                Err(failure) => self.fail(failure, hear),
            }
        }
        None
    }

    /// As many as are needed if hosts go on to answer as rarely as those before, and some spares. Both cost
    /// connections, so there is neither where those are rationed; and a refused login is no reason to try more.
    fn most_in_flight(&self) -> usize {
        let needed = self.missing();
        let parallel = self.options.parallel.max(1);
        if self.options.rate.is_some() {
            return parallel.min(needed);
        }
        let dead = self.failed.len() - self.refused_logins();
        let answered = self.found.len() + 1;
        let expected = needed.saturating_mul(answered + dead) / answered;
        parallel.min(expected.saturating_add(MIN_SPARES.max(needed / 4)))
    }

    fn spawn(&self, index: usize) -> Result<(), HostFailure> {
        let (host, probe, sender) = (self.candidates[index].clone(), self.probe.clone(), self.sender.clone());
        let name = host.name.clone();
        let started = thread::Builder::new().name(format!("mr:probe:{name}")).spawn(move || {
            // Nobody listens any more once enough hosts answered.
            let _ = sender.send((index, probe(&host)));
        });
        let cause = |error: std::io::Error| anyhow!(error).context("cannot start a thread");
        started.map(drop).map_err(|error| HostFailure::new(&name, Step::Connect, cause(error)))
    }

    fn take(&mut self, index: usize, answer: Result<Facts, HostFailure>, hear: &mut impl FnMut(Heard)) {
        // Whoever was given up already is not heard.
        if self.in_flight.remove(&index).is_none() {
            return;
        }
        match answer {
            Ok(facts) => {
                hear(Heard::Answered(&self.candidates[index].name, &facts));
                self.found.insert(index, facts);
            }
            Err(failure) => self.fail(failure, hear),
        }
    }

    fn give_up_silent(&mut self, hear: &mut impl FnMut(Heard)) {
        let patience = self.options.patience;
        let silent: Vec<usize> = self
            .in_flight
            .iter()
            .filter(|(_, started)| started.elapsed() >= patience)
            .map(|(i, _)| *i)
            .collect();
        for index in silent {
            self.in_flight.remove(&index);
            let cause = anyhow!("no answer within {} s", patience.as_secs_f32().ceil());
            let failure = HostFailure::new(&self.candidates[index].name, Step::Probe, cause);
            self.fail(failure, hear);
        }
    }

    fn fail(&mut self, failure: HostFailure, hear: &mut impl FnMut(Heard)) {
        hear(Heard::Failed(&failure));
        self.failed.push(failure);
    }

    /// When the loop has to look again: a probe has been silent for too long, or the rate allows another one.
    fn next_event(&self, pause: Option<Duration>) -> Instant {
        let now = Instant::now();
        let silent =
            self.in_flight.values().min().map(|oldest| *oldest + self.options.patience.min(LONGEST_WAIT));
        let start = pause.map(|pause| now + pause.min(LONGEST_WAIT));
        silent.into_iter().chain(start).min().unwrap_or(now)
    }

    fn missing(&self) -> usize {
        self.options.wanted.saturating_sub(self.found.len())
    }

    fn refused_logins(&self) -> usize {
        self.failed.iter().filter(|failure| failure.step == Step::Authenticate).count()
    }

    fn is_refused(&self) -> bool {
        self.found.is_empty() && self.refused_logins() >= MAX_REFUSED_LOGINS
    }

    fn outcome(self) -> Swept {
        let refused = self.is_refused();
        let unheard = self.candidates.len() - self.found.len() - self.failed.len();
        let found = self.found.into_iter().map(|(index, facts)| (self.candidates[index].name.clone(), facts));
        Swept { found: found.collect(), failed: self.failed, unheard, refused }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
                thread::sleep(Duration::from_secs(3));
            }
            Ok(facts())
        };
        let patience = Duration::from_millis(100);
        let swept = sweep(candidates(3), SweepOptions { patience, ..options(3, 8) }, probe, |_| {});
        assert_eq!(names(&swept), ["h1", "h2"]);
        assert!(swept.failed[0].cause.to_string().contains("no answer within"));
        assert!(started.elapsed() < Duration::from_secs(2));
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
            thread::sleep(Duration::from_millis(50));
            Err(failure(host, Step::Connect))
        };
        let swept = sweep(candidates(201), options(1, 40), probe, |_| {});
        assert_eq!(swept.found.len(), 1);
        // Three at a time would take 3.3 s.
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
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
        let mut paused = 0;
        let swept = sweep(candidates(9), SweepOptions { rate, ..options(5, 9) }, probe, |heard| {
            paused += usize::from(matches!(heard, Heard::Paused(_)));
        });
        assert_eq!(swept.found.len(), 5);
        assert!(paused >= 2);
        let mut starts = starts.lock().unwrap().clone();
        starts.sort();
        // The threads themselves start a little later than noted.
        assert!(starts[4] - starts[0] >= Duration::from_millis(380));
        assert_eq!(starts.len(), 5, "no spares where connections are rationed");
    }

    #[test]
    fn refused_logins_end_it_unless_some_host_answers() {
        let swept =
            sweep(candidates(50), options(5, 4), |host| Err(failure(host, Step::Authenticate)), |_| {});
        assert!(swept.refused);
        assert!(swept.failed.len() < 14 && swept.unheard > 30);
        let probe = |host: &Host| match index(host) {
            0 => Ok(facts()),
            _ => Err(failure(host, Step::Authenticate)),
        };
        let swept = sweep(candidates(50), options(5, 4), probe, |_| {});
        assert!(!swept.refused);
        assert_eq!(swept.failed.len(), 49);
    }

    #[test]
    fn nothing_wanted_or_nobody_there_is_done_at_once() {
        let none = |host: &Host| Err(failure(host, Step::Connect));
        assert_eq!(sweep(candidates(3), options(0, 3), none, |_| {}).unheard, 3);
        assert!(sweep(Vec::new(), options(3, 3), none, |_| {}).found.is_empty());
    }
}
