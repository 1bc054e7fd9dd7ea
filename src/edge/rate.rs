//! Rate: at most so many SSH connections in any such span of time (`--ssh-rate 5/min`).
//!
//! A sliding window: the first ones start at once, later ones when the oldest of the last `limit` is `per` ago. The
//! time is passed in, so that it can be tested without waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Spaces out starts; without a rate it lets everything pass.
pub struct Rate {
    limit: usize,
    per: Duration,
    /// The last `limit` starts, oldest first.
    starts: VecDeque<Instant>,
}

impl Rate {
    /// Makes a window of `limit` starts in any span of `per`; `None` sets no bound.
    pub fn new(rate: Option<(u32, Duration)>) -> Rate {
        let (limit, per) = rate.unwrap_or((0, Duration::ZERO));
        Rate { limit: limit as usize, per, starts: VecDeque::new() }
    }

    /// Returns how long the next start has to wait at `now`; zero if it may be made.
    pub fn wait(&self, now: Instant) -> Duration {
        match self.starts.front() {
            Some(oldest) if self.starts.len() >= self.limit => {
                self.per.saturating_sub(now.saturating_duration_since(*oldest))
            }
            _ => Duration::ZERO,
        }
    }

    /// Notes a start at `now`.
    pub fn start(&mut self, now: Instant) {
        if self.limit == 0 {
            return;
        }
        if self.starts.len() == self.limit {
            self.starts.pop_front();
        }
        self.starts.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn lets_a_burst_pass_and_then_waits_for_the_window() {
        let mut rate = Rate::new(Some((5, MINUTE)));
        let begin = Instant::now();
        for second in 0..5 {
            let now = begin + Duration::from_secs(second);
            assert_eq!(rate.wait(now), Duration::ZERO);
            rate.start(now);
        }
        assert_eq!(rate.wait(begin + Duration::from_secs(10)), Duration::from_secs(50));
        assert_eq!(rate.wait(begin + MINUTE), Duration::ZERO);
        rate.start(begin + MINUTE);
        assert_eq!(rate.wait(begin + MINUTE), Duration::from_secs(1));
    }

    #[test]
    fn no_window_of_a_minute_holds_more_than_five() {
        let mut rate = Rate::new(Some((5, MINUTE)));
        let mut now = Instant::now();
        let mut starts = Vec::new();
        for _ in 0..40 {
            now += rate.wait(now);
            rate.start(now);
            starts.push(now);
        }
        for window in starts.windows(6) {
            assert!(window[5] - window[0] >= MINUTE);
        }
    }

    #[test]
    fn no_rate_sets_no_bound() {
        let mut rate = Rate::new(None);
        let now = Instant::now();
        for _ in 0..1000 {
            assert_eq!(rate.wait(now), Duration::ZERO);
            rate.start(now);
        }
    }
}
