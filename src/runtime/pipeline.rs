//! Pipeline: tasks worked at by all threads at once, what comes of them taken in order by one.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded};

/// What comes next.
pub(crate) enum Next<T> {
    Task(T),
    /// There is none yet. No answer to one who has nothing else to do.
    NotYet,
    End,
}

/// Works at the tasks that `next` gives on up to `threads` threads, each with a worker of its own, and hands what
/// comes of them to `take` in the order of the tasks. Both are called on this thread; `next` hears whether there is
/// nothing to do but to wait for it.
///
/// # Errors
/// The first of `next`, of a worker or of `take`; tasks that were begun are ended before it is returned.
///
/// # Panics
/// If a worker does.
pub(crate) fn in_order<T: Send, O: Send, E: Send, W: FnMut(T) -> Result<O, E>>(
    threads: usize,
    mut next: impl FnMut(bool) -> Result<Next<T>, E>,
    worker: impl Fn() -> W + Sync,
    mut take: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    let ahead = TASKS_AHEAD * threads.max(1);
    let (tasks, queue) = bounded(ahead);
    let (outputs, done) = bounded(ahead);
    std::thread::scope(|scope| {
        let worker = &worker;
        let start = |index| {
            let (queue, outputs) = (queue.clone(), outputs.clone());
            let work = move || work_at(worker(), &queue, &outputs);
            Builder::new().name(format!("mr:piece:{index}")).spawn_scoped(scope, work).is_ok()
        };
        // Where one thread is to work, or no other can be started, it is this one.
        if threads > 1 && (0..threads).filter(|index| start(*index)).count() > 0 {
            // Only the threads hold an end of it, so that their end is heard.
            drop(outputs);
            return take_in_order(ahead, &mut next, tasks, done, &mut take);
        }
        let mut worker = worker();
        while let Next::Task(task) = next(true)? {
            take(worker(task)?)?;
        }
        Ok(())
    })
}

/// Tasks for each thread that are queued, worked at, or done and not taken: enough that nobody waits because one takes
/// several times as long as others, few enough that what was made may lie in a cache when it is taken.
const TASKS_AHEAD: usize = 6;

/// A task's number, and what came of it; a panic is handed on to the thread that takes.
type Done<O, E> = (u64, Result<Result<O, E>, Box<dyn Any + Send>>);

fn work_at<T, O, E>(
    mut worker: impl FnMut(T) -> Result<O, E>,
    queue: &Receiver<(u64, T)>,
    outputs: &Sender<Done<O, E>>,
) {
    for (number, task) in queue {
        let output = catch_unwind(AssertUnwindSafe(|| worker(task)));
        if output.is_err() | outputs.send((number, output)).is_err() {
            return;
        }
    }
}

fn take_in_order<T, O, E>(
    ahead: usize,
    next: &mut impl FnMut(bool) -> Result<Next<T>, E>,
    tasks: Sender<(u64, T)>,
    done: Receiver<Done<O, E>>,
    take: &mut impl FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    let mut given = 0;
    let mut ended = false;
    // What was given and not taken, in order; `None` while it is worked at.
    let mut waiting: VecDeque<Option<O>> = VecDeque::with_capacity(ahead);
    loop {
        while !ended && waiting.len() < ahead {
            match next(waiting.is_empty())? {
                // The threads listen until the sender is dropped, and there is room for all that are given.
                Next::Task(task) => _ = tasks.send((given, task)),
                Next::NotYet => break,
                Next::End => {
                    ended = true;
                    break;
                }
            }
            given += 1;
            waiting.push_back(None);
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let Ok((number, output)) = done.recv() else { panic!("the threads ended with tasks left") };
        let output = output.unwrap_or_else(|panic| resume_unwind(panic))?;
        let first = given - waiting.len() as u64;
        waiting[(number - first) as usize] = Some(output);
        while let Some(output) = waiting.pop_front_if(|output| output.is_some()).flatten() {
            take(output)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn numbers(n: u32) -> impl FnMut(bool) -> Result<Next<u32>, String> {
        let mut numbers = 0..n;
        move |_| Ok(numbers.next().map_or(Next::End, Next::Task))
    }

    #[test]
    fn outputs_come_in_the_order_of_tasks_on_however_many_threads() {
        for threads in [0, 1, 2, 3, 8] {
            let mut taken = Vec::new();
            let work = || {
                |number: u32| {
                    // The first ones take longest.
                    std::thread::sleep(Duration::from_micros(u64::from(number % 5 * 100)));
                    Ok(number * 2)
                }
            };
            let ended = in_order(threads, numbers(100), work, |output| {
                taken.push(output);
                Ok(())
            });
            assert_eq!(ended, Ok(()));
            assert_eq!(taken, (0..100).map(|number| number * 2).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn no_more_than_a_few_are_ahead_of_who_takes() {
        let begun = AtomicUsize::new(0);
        let mut taken = 0;
        let work = || {
            |number| {
                begun.fetch_add(1, Ordering::SeqCst);
                Ok(number)
            }
        };
        let ended = in_order(2, numbers(100), work, |_| {
            std::thread::sleep(Duration::from_millis(1));
            assert!(begun.load(Ordering::SeqCst) <= taken + 2 * TASKS_AHEAD);
            taken += 1;
            Ok(())
        });
        assert_eq!((ended, taken), (Ok(()), 100));
    }

    #[test]
    fn who_has_something_to_take_is_not_made_to_wait_for_the_next_task() {
        let (give, tasks) = bounded(1);
        give.send(0).expect("there is room");
        let mut given = 0;
        let next = |may_wait: bool| match may_wait {
            false => Ok(tasks.try_recv().map_or(Next::NotYet, Next::Task)),
            true => Ok(tasks.recv().map_or(Next::End, Next::Task)),
        };
        // A task comes only once the one before is taken.
        let ended = in_order(
            2,
            next,
            || |task: u32| Ok::<_, String>(task),
            |output| {
                assert_eq!(output, given);
                given += 1;
                if given < 10 {
                    give.send(given).expect("there is room");
                    return Ok(());
                }
                Err("enough".to_owned())
            },
        );
        assert_eq!(ended, Err("enough".to_owned()));
    }

    #[test]
    fn an_error_of_any_part_ends_it() {
        for threads in [1, 2, 5] {
            let fail = |in_worker: Option<u32>, in_take: Option<u32>| {
                let work =
                    || move |number| if Some(number) == in_worker { Err("worker") } else { Ok(number) };
                let take = |output| if Some(output) == in_take { Err("take") } else { Ok(()) };
                let mut numbers = 0..50;
                let next = |_| numbers.next().map(Next::Task).ok_or("next");
                in_order(threads, next, work, take)
            };
            assert_eq!(fail(Some(7), None), Err("worker"));
            assert_eq!(fail(None, Some(7)), Err("take"));
            assert_eq!(fail(None, None), Err("next"));
        }
    }

    #[test]
    fn a_panic_of_a_worker_is_one_of_the_caller() {
        for threads in [1, 3] {
            let work = || |number| if number == 7 { panic!("told to") } else { Ok(number) };
            let ended = crate::runtime::guarded(|| in_order(threads, numbers(50), work, |_| Ok(())));
            assert_eq!(ended, Err("the job panicked: told to".to_owned()));
        }
    }
}
