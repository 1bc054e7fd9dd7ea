//! Reach: opens the ways to all workers, then greets all at once.
//!
//! A worker that was greeted waits for its job, but not for long; a login may take any time, where a user is asked for
//! a passphrase, a jump host lets in some at a time, or `--ssh-rate` does. So nobody is greeted before the last way is
//! open.

use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::cmd::guard::guarded;
use crate::edge::rate::Rate;

/// What is done about one worker, on a thread of its own.
pub(super) trait Call: Send + 'static {
    /// A way that is open.
    type Open;
    type Answer: Send + 'static;

    /// What the worker is called.
    fn name(&self) -> &str;

    /// Tells whether opening the way makes an SSH connection.
    fn logs_in(&self) -> bool;

    /// Does all that can be done before the worker hears of us.
    fn open(&self) -> anyhow::Result<Self::Open>;

    /// Keeps an open way open; called now and then.
    fn tend(&self, open: &mut Self::Open) -> anyhow::Result<()>;

    /// Greets the worker.
    fn greet(&self, open: Self::Open) -> anyhow::Result<Self::Answer>;
}

/// What came of greeting a worker; `None` if it was not waited for.
type Outcome<C> = Option<anyhow::Result<<C as Call>::Answer>>;

/// Opens all ways, those that log in no faster than `rate`, and then greets all workers; returns what came of it, in
/// the order of the calls. `watch` is called now and then with the number of logins that have come to an end.
///
/// Nobody is waited for once `enough` have got as far, so that a host that is frozen does not hold up a run on the
/// others.
///
/// # Errors
/// If no thread can be started.
pub(super) fn ask_all<C: Call>(
    calls: Vec<C>,
    rate: Option<(u32, Duration)>,
    enough: usize,
    mut watch: impl FnMut(usize),
) -> anyhow::Result<Vec<Outcome<C>>> {
    let total = calls.len();
    let (sender, news) = unbounded();
    let (closed, gate) = bounded(0);
    let (waiting, over) = bounded(0);
    thread::Builder::new()
        .name("mr:reach".to_owned())
        .spawn(move || start_all(calls, Rate::new(rate), &Start { sender, gate, over }))
        .context("cannot start a thread")?;
    let mut outcomes: Vec<Outcome<C>> = (0..total).map(|_| None).collect();
    let (mut opened, mut ready, mut logins, mut answered, mut reached) = (0, 0, 0, 0, 0);
    // Dropped when all may greet.
    let mut closed: Option<Sender<Infallible>> = Some(closed);
    let mut until: Option<Instant> = None;
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match news.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
            Ok(News::Opened { login, ok }) => {
                opened += 1;
                logins += usize::from(login);
                ready += usize::from(ok);
            }
            Ok(News::Answered(index, answer)) => {
                answered += 1;
                reached += usize::from(answer.is_ok());
                outcomes[index] = Some(answer);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        watch(logins);
        let (done, all) = match closed {
            Some(_) => (ready, opened == total),
            None => (reached, answered == total),
        };
        if done >= enough && until.is_none() {
            until = Some(Instant::now() + GRACE);
        }
        if all || until.is_some_and(|until| until <= Instant::now()) {
            if closed.take().is_none() {
                break;
            }
            until = None;
        }
    }
    drop(waiting);
    Ok(outcomes)
}

/// How long the others may still take when enough workers have got as far: the first of the hosts file go before those
/// that merely were quicker.
const GRACE: Duration = Duration::from_millis(300);

/// How often the caller is woken to show progress while nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// How often a way that waits for the others is tended: hosts that look for it do so every 15 s or less often.
const TEND_INTERVAL: Duration = Duration::from_secs(5);

/// What the threads have to tell.
enum News<A> {
    /// Opening a way has come to an end.
    Opened {
        login: bool,
        ok: bool,
    },
    Answered(usize, anyhow::Result<A>),
}

/// What the threads begin with.
struct Start<A> {
    sender: Sender<News<A>>,
    /// Ends when all may greet.
    gate: Receiver<Infallible>,
    /// Ends when nobody is waited for any more.
    over: Receiver<Infallible>,
}

/// Starts all calls: first those that need no turn, then the others in their order.
fn start_all<C: Call>(calls: Vec<C>, mut rate: Rate, start: &Start<C::Answer>) {
    let (rationed, free): (Vec<_>, Vec<_>) =
        calls.into_iter().enumerate().partition(|(_, call)| call.logs_in());
    for (index, call) in free.into_iter().chain(rationed) {
        if call.logs_in() {
            let wait = rate.wait(Instant::now());
            if !wait.is_zero() && start.over.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            rate.start(Instant::now());
        }
        let (sender, gate) = (start.sender.clone(), start.gate.clone());
        let (name, login) = (call.name().to_owned(), call.logs_in());
        let started = thread::Builder::new()
            .name(format!("mr:reach:{name}"))
            .spawn(move || perform(&call, index, &sender, &gate));
        if let Err(error) = started {
            // Nobody listens any more once enough have answered.
            let _ = start.sender.send(News::Opened { login, ok: false });
            let _ = start.sender.send(News::Answered(index, Err(error).context("cannot start a thread")));
        }
    }
}

fn perform<C: Call>(call: &C, index: usize, sender: &Sender<News<C::Answer>>, gate: &Receiver<Infallible>) {
    let opened = guarded(|| call.open());
    if sender.send(News::Opened { login: call.logs_in(), ok: opened.is_ok() }).is_err() {
        // Nobody listens any more: the worker need not hear of us.
        return;
    }
    let answer = opened.and_then(|mut open| {
        guarded(|| {
            while gate.recv_timeout(TEND_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                call.tend(&mut open)?;
            }
            call.greet(open)
        })
    });
    // Where nobody listens, the connection ends.
    let _ = sender.send(News::Answered(index, answer));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::{bail, ensure};

    use super::*;

    /// More than a thread takes to start, on a machine under load.
    const LATE: Duration = Duration::from_millis(700);
    const NEVER: Duration = Duration::from_secs(60);

    /// A worker that does as it is told.
    #[derive(Clone, Default)]
    struct Fake {
        opens_after: Duration,
        fails_to: &'static str,
        logs_in: bool,
        /// Ways that are open, of all.
        open: Arc<AtomicUsize>,
    }

    impl Call for Fake {
        type Open = ();
        /// How many ways were open when the worker was greeted.
        type Answer = usize;

        fn name(&self) -> &str {
            "fake"
        }

        fn logs_in(&self) -> bool {
            self.logs_in
        }

        fn open(&self) -> anyhow::Result<()> {
            thread::sleep(self.opens_after);
            ensure!(self.fails_to != "open", "no way");
            assert!(self.fails_to != "open at all", "a mistake");
            self.open.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn tend(&self, (): &mut ()) -> anyhow::Result<()> {
            Ok(())
        }

        fn greet(&self, (): ()) -> anyhow::Result<usize> {
            match self.fails_to {
                "greet" => bail!("no answer"),
                "greet at all" => panic!("another mistake"),
                _ => Ok(self.open.load(Ordering::SeqCst)),
            }
        }
    }

    fn after(opens_after: Duration) -> Fake {
        Fake { opens_after, ..Fake::default() }
    }

    fn unable(fails_to: &'static str) -> Fake {
        Fake { fails_to, ..Fake::default() }
    }

    /// Asks the fakes, who then know of each other; returns their answers in words.
    fn ask(fakes: Vec<Fake>, rate: Option<(u32, Duration)>, enough: usize) -> Vec<String> {
        let open = Arc::new(AtomicUsize::new(0));
        let calls = fakes.into_iter().map(|fake| Fake { open: open.clone(), ..fake }).collect();
        let outcomes = ask_all::<Fake>(calls, rate, enough, |_| {}).unwrap();
        let words = |outcome: Outcome<Fake>| match outcome {
            Some(Ok(open)) => format!("{open} open"),
            Some(Err(cause)) => format!("{cause:#}"),
            None => "not waited for".to_owned(),
        };
        outcomes.into_iter().map(words).collect()
    }

    #[test]
    fn nobody_is_greeted_before_all_ways_are_open() {
        let fakes = vec![after(Duration::ZERO), after(LATE), after(Duration::ZERO)];
        assert_eq!(ask(fakes, None, 3), ["3 open", "3 open", "3 open"]);
    }

    #[test]
    fn failures_and_panics_are_those_of_one_worker() {
        let fakes = ["open", "greet", "open at all", "greet at all", ""].map(unable).to_vec();
        let told = ask(fakes, None, 5);
        let expected =
            ["no way", "no answer", "internal error: a mistake", "internal error: another mistake", "3 open"];
        assert_eq!(told, expected);
        assert_eq!(ask(vec![unable("open"); 2], None, 2), ["no way"; 2]);
        assert!(ask(Vec::new(), None, 0).is_empty());
    }

    #[test]
    fn nobody_is_waited_for_once_there_are_enough() {
        let begin = Instant::now();
        let fakes = vec![after(NEVER), after(Duration::ZERO), after(Duration::ZERO)];
        assert_eq!(ask(fakes, None, 2), ["not waited for", "2 open", "2 open"]);
        assert!(begin.elapsed() < NEVER / 2);
    }

    #[test]
    fn late_one_is_waited_for_where_an_early_one_fails() {
        let told = ask(vec![unable("greet"), after(LATE)], None, 1);
        // The way of the first was open, too.
        assert_eq!(told, ["no answer", "2 open"]);
    }

    #[test]
    fn logins_are_spaced_out_and_others_are_not() {
        let begin = Instant::now();
        let login = Fake { logs_in: true, ..Fake::default() };
        let fakes =
            vec![login.clone(), Fake::default(), login.clone(), login.clone(), login, Fake::default()];
        assert_eq!(ask(fakes.clone(), Some((2, LATE)), 6), ["6 open"; 6]);
        assert!(begin.elapsed() >= LATE);
        // Where those that come first are enough, the others' turns do not come.
        let begin = Instant::now();
        let told = ask(fakes, Some((2, NEVER)), 4);
        assert_eq!(told[3..5], ["not waited for"; 2]);
        assert!(begin.elapsed() < NEVER / 2);
    }
}
