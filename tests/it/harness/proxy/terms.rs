//! Terms: what the faults in force let a connection do.

use std::time::{Duration, Instant};

use super::{Dialer, Direction, Fault, FaultId, Rule, Selection, Who};

/// The bytes of a limited rate that may move at once: those of this time, but a small message always.
const BURST: Duration = Duration::from_millis(20);
const MIN_BURST_BYTES: f64 = 256.0;

/// A fault in force, with what is left of what it lets through.
struct Limit {
    rule: Rule,
    /// The number of the first connection that was still to come.
    first_new: usize,
    to_worker: Meter,
    from_worker: Meter,
    quota: u64,
}

/// All faults in force.
#[derive(Default)]
pub(super) struct InForce(Vec<Limit>);

/// What one direction of one connection may do at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Nothing moves, and not even an end is noticed.
    pub is_dropped: bool,
    pub delay: Duration,
    /// Bytes that may move now.
    pub budget: u64,
    /// Bytes a second, where that is limited.
    pub rate: Option<u64>,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Reset,
    Close,
}

impl InForce {
    /// Takes over `rules`; what is left of those that were in force already stays as it is. For the others, connections
    /// are new from the number `first_new` on.
    pub(super) fn revise(&mut self, rules: &[Rule], first_new: usize) {
        self.0.retain(|limit| rules.iter().any(|rule| rule.id == limit.rule.id));
        let known: Vec<FaultId> = self.0.iter().map(|limit| limit.rule.id).collect();
        let added = rules.iter().filter(|rule| !known.contains(&rule.id));
        self.0.extend(added.map(|rule| Limit::new(*rule, first_new)));
    }

    /// Tells whether nobody is to be listened to.
    pub(super) fn refuses_all(&self) -> bool {
        self.0.iter().any(|Limit { rule, .. }| {
            rule.fault == Fault::Reset && rule.selection.new && rule.selection.who == Who::Everyone
        })
    }

    /// Returns how a connection is to end, if it is.
    pub(super) fn ending(&self, number: usize, dialer: Dialer) -> Option<Ending> {
        self.0.iter().filter(|limit| limit.meets(number, dialer)).find_map(|limit| match limit.rule.fault {
            Fault::Reset => Some(Ending::Reset),
            Fault::Close => Some(Ending::Close),
            _ => None,
        })
    }

    /// Returns what a connection may do in `direction`, which is not both.
    pub(super) fn terms(
        &mut self,
        number: usize,
        dialer: Dialer,
        direction: Direction,
        now: Instant,
    ) -> Terms {
        let mut terms = Terms { is_dropped: false, delay: Duration::ZERO, budget: u64::MAX, rate: None };
        for limit in self.0.iter_mut().filter(|limit| limit.concerns(number, dialer, direction)) {
            match limit.rule.fault {
                Fault::Delay(_, by) => terms.delay += by,
                Fault::Rate(_, rate) => {
                    terms.rate = Some(terms.rate.unwrap_or(rate).min(rate));
                    terms.budget = terms.budget.min(limit.meter(direction).refilled(rate, now));
                }
                Fault::Quota(..) => {
                    terms.is_dropped |= limit.quota == 0;
                    terms.budget = terms.budget.min(limit.quota);
                }
                Fault::Blackhole(_) => terms.is_dropped = true,
                Fault::Reset | Fault::Close => {}
            }
        }
        terms
    }

    /// Notes that `bytes` have moved.
    pub(super) fn charge(&mut self, number: usize, dialer: Dialer, direction: Direction, bytes: u64) {
        for limit in self.0.iter_mut().filter(|limit| limit.concerns(number, dialer, direction)) {
            match limit.rule.fault {
                Fault::Rate(..) => limit.meter(direction).tokens -= bytes as f64,
                Fault::Quota(..) => limit.quota = limit.quota.saturating_sub(bytes),
                _ => {}
            }
        }
    }
}

impl Limit {
    fn new(rule: Rule, first_new: usize) -> Self {
        let quota = if let Fault::Quota(_, bytes) = rule.fault { bytes } else { 0 };
        Self { rule, first_new, to_worker: Meter::default(), from_worker: Meter::default(), quota }
    }

    fn meets(&self, number: usize, dialer: Dialer) -> bool {
        let Selection { existing, new, .. } = self.rule.selection;
        self.rule.selection.is_of(dialer) && if number >= self.first_new { new } else { existing }
    }

    fn concerns(&self, number: usize, dialer: Dialer, direction: Direction) -> bool {
        let covered = match self.rule.fault {
            Fault::Delay(covered, _)
            | Fault::Rate(covered, _)
            | Fault::Quota(covered, _)
            | Fault::Blackhole(covered) => covered,
            Fault::Reset | Fault::Close => Direction::Both,
        };
        covered.covers(direction) && self.meets(number, dialer)
    }

    fn meter(&mut self, direction: Direction) -> &mut Meter {
        if direction == Direction::ToWorker { &mut self.to_worker } else { &mut self.from_worker }
    }
}

/// A bucket of tokens, one a byte, that fills with time.
#[derive(Default)]
struct Meter {
    tokens: f64,
    filled: Option<Instant>,
}

impl Meter {
    fn refilled(&mut self, rate: u64, now: Instant) -> u64 {
        let since = self.filled.map_or(BURST, |filled| now.saturating_duration_since(filled));
        let burst = (rate as f64 * BURST.as_secs_f64()).max(MIN_BURST_BYTES);
        self.tokens = (self.tokens + since.as_secs_f64() * rate as f64).min(burst);
        self.filled = Some(now);
        self.tokens.max(0.0) as u64
    }
}
