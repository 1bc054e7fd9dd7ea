//! Fan-out: does the same to many hosts, some at a time, and no faster than the network's rules allow.
//!
//! Every host gets its turn and an outcome; where enough of many candidates will do, `edge::sweep` leaves the rest.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{RecvTimeoutError, unbounded};

use crate::edge::rate::Rate;

/// How often the caller is woken to show progress while no host is done.
const TICK: Duration = Duration::from_millis(100);

/// Runs `work` on each item with its index, `parallel` at a time, starts spaced out by `rate`; returns the outcomes in
/// the order of the items. `watch` is called on this thread, after each outcome and in between, with the number of
/// outcomes so far.
///
/// # Errors
/// If threads cannot be started.
pub fn each<T: Sync, R: Send>(
    items: &[T],
    parallel: usize,
    rate: Option<(u32, Duration)>,
    work: impl Fn(usize, &T) -> R + Sync,
    watch: impl FnMut(usize),
) -> anyhow::Result<Vec<R>> {
    each_in_turn(items, parallel, &Turns::new(rate), work, watch)
}

/// The same as [`each`], with `turns` for the starts; `work` may take further ones.
///
/// # Errors
/// As [`each`].
pub fn each_in_turn<T: Sync, R: Send>(
    items: &[T],
    parallel: usize,
    turns: &Turns,
    work: impl Fn(usize, &T) -> R + Sync,
    mut watch: impl FnMut(usize),
) -> anyhow::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = unbounded();
    let mut outcomes: Vec<Option<R>> = items.iter().map(|_| None).collect();
    thread::scope(|scope| -> anyhow::Result<()> {
        for number in 0..parallel.clamp(1, items.len().max(1)) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            let body = move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    turns.take();
                    // The receiver outlives this thread.
                    let _ = sender.send((index, work(index, item)));
                }
            };
            thread::Builder::new()
                .name(format!("mr:host:{number}"))
                .spawn_scoped(scope, body)
                .context("starting a thread")?;
        }
        drop(sender);
        let mut done = 0;
        loop {
            match receiver.recv_timeout(TICK) {
                Ok((index, outcome)) => {
                    outcomes[index] = Some(outcome);
                    done += 1;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            watch(done);
        }
        Ok(())
    })?;
    // A thread that panicked has made the scope panic, too, so each item has its outcome.
    Ok(outcomes.into_iter().flatten().collect())
}

/// The allowance of connections, which all threads share.
pub struct Turns {
    /// A lock, for the threads are many; it is held for no longer than a look at the clock.
    rate: Mutex<Rate>,
}

impl Turns {
    /// Makes turns at `rate`; without one, nobody waits.
    pub fn new(rate: Option<(u32, Duration)>) -> Turns {
        Turns { rate: Mutex::new(Rate::new(rate)) }
    }

    /// Waits until a connection may be made.
    pub fn take(&self) {
        loop {
            let wait = {
                let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let wait = rate.wait(now);
                if wait.is_zero() {
                    rate.start(now);
                    return;
                }
                wait
            };
            thread::sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn outcomes_are_in_order_and_bounded_in_number_at_a_time() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let both = Barrier::new(2);
        let items: Vec<u64> = (0..20).collect();
        let work = |index: usize, item: &u64| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if index < 2 {
                both.wait();
            }
            thread::sleep(Duration::from_millis(20 - item));
            running.fetch_sub(1, Ordering::SeqCst);
            (index as u64, item * 2)
        };
        let mut seen = 0;
        let outcomes = each(&items, 4, None, work, |done| seen = done).unwrap();
        assert_eq!(outcomes, items.iter().map(|&item| (item, item * 2)).collect::<Vec<_>>());
        assert_eq!(seen, 20);
        assert!((2..=4).contains(&most.into_inner()));
    }

    #[test]
    fn rate_spaces_starts_out() {
        let begin = Instant::now();
        let rate = Some((2, Duration::from_millis(150)));
        each(&[(); 5], 5, rate, |_, ()| (), |_| {}).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert!(each(&[(); 0], 4, None, |_, ()| (), |_| {}).unwrap().is_empty());
    }
}
