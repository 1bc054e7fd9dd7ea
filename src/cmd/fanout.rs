//! Fan-out: does the same to many hosts, some at a time, and no faster than the network's rules allow.
//!
//! Every host gets its turn and an outcome; where enough of many candidates will do, `edge::sweep` leaves the rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
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
    mut watch: impl FnMut(usize),
) -> anyhow::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let turns = Turns::new(rate);
    let (sender, receiver) = unbounded();
    let mut outcomes: Vec<Option<R>> = items.iter().map(|_| None).collect();
    thread::scope(|scope| -> anyhow::Result<()> {
        for number in 0..parallel.clamp(1, items.len().max(1)) {
            let (sender, next, turns, work) = (sender.clone(), &next, &turns, &work);
            let body = move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    turns.await_turn();
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

/// Turns to make an SSH connection, as `--ssh-rate` allots them.
pub struct Turns {
    /// A lock, for all threads share the allowance; it is held for no longer than a look at the clock.
    rate: Mutex<Rate>,
}

impl Turns {
    /// Allots `rate`; without one it is everybody's turn at once.
    pub fn new(rate: Option<(u32, Duration)>) -> Turns {
        Turns { rate: Mutex::new(Rate::new(rate)) }
    }

    /// Waits for a turn, and takes it.
    pub fn await_turn(&self) {
        while let Err(wait) = self.try_turn() {
            thread::sleep(wait);
        }
    }

    /// Takes a turn if there is one.
    ///
    /// # Errors
    /// With the time until the next, if there is none now.
    pub fn try_turn(&self) -> Result<(), Duration> {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let wait = rate.wait(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        rate.start(now);
        Ok(())
    }
}

/// Does what concerns one host alone; a panic in it, which is a mistake of ours, is that host's failure.
///
/// # Errors
/// Those of `work`.
pub fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned());
        Err(anyhow!("internal error: {}", said.as_deref().unwrap_or("no message")))
    })
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
    fn panic_about_a_host_is_its_failure() {
        let work = |index: usize, (): &()| {
            guarded(|| {
                assert!(index != 1, "number {index}");
                Ok(index)
            })
        };
        let outcomes = each(&[(); 3], 3, None, work, |_| {}).unwrap();
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
        assert_eq!(outcomes[1].as_ref().unwrap_err().to_string(), "internal error: number 1");
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert!(each(&[(); 0], 4, None, |_, ()| (), |_| {}).unwrap().is_empty());
    }
}
