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
mod tests;
