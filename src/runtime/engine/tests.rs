use std::time::Duration;

use super::*;
use crate::job::Emit;
use crate::jobs::word_count::{Params, WordCount};
use crate::runtime::buffers;
use crate::runtime::reduce::{Incoming, reduce};

/// Counts words until one of them is `panic`.
pub(super) struct Touchy(WordCount);

impl Job for Touchy {
    const NAME: &'static str = "touchy";
    const ABOUT: &'static str = "";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        WordCount::new(params).map(Self)
    }

    fn map(&self, split: &[u8], emit: &mut impl Emit<u64>) {
        self.0.map(split, &mut |word: &[u8], count| {
            assert!(word != b"panic", "told to {}", "x".repeat(5000));
            emit.pair(word, count);
        });
    }

    fn combine(&self, into: &mut u64, other: u64) {
        self.0.combine(into, other);
    }
}

fn work(threads: usize, memory: u64) -> Arc<Work<Touchy>> {
    let job = Arc::new(Touchy::new(Params::default()).expect("the parameters are good"));
    Arc::new(Work { job, seed: Seed([1, 2]), threads, memory, cancelled: AtomicBool::new(false) })
}

fn split(text: &str) -> SplitData {
    SplitData::Received(buffers::tests::plain(text.as_bytes()))
}

/// Has `texts` folded, one after the other, and returns what was heard of each.
fn fold_all(work: &Arc<Work<Touchy>>, texts: &[&str]) -> (Vec<Result<u64, String>>, Vec<Table<u64>>) {
    let (heard, answers) = unbounded();
    let executed: Executed = Arc::new(move |split, result| {
        let _ = heard.send((split, result));
    });
    let mappers = Mappers::start(work, &executed).expect("threads can be started");
    let results = texts.iter().enumerate().map(|(id, text)| {
        mappers.execute(SplitId(id as u64), split(text));
        let (split, result) =
            answers.recv_timeout(Duration::from_secs(20)).expect("every execution is answered");
        assert_eq!(split, SplitId(id as u64));
        result
    });
    let results = results.collect();
    (results, mappers.finish().expect("no thread ended early"))
}

#[test]
fn a_panic_is_a_failed_execution_and_the_threads_live_on() {
    let (results, tables) = fold_all(&work(1, u64::MAX), &["a b", "panic", "b"]);
    assert_eq!((&results[0], &results[2]), (&Ok(2), &Ok(1)));
    let cause = results[1].as_ref().expect_err("it panicked");
    assert!(cause.starts_with("the job panicked: told to x") && cause.len() < 2000, "{cause}");
    assert_eq!(tables.iter().map(Table::len).sum::<usize>(), 2);
}

#[test]
fn tables_beyond_the_memory_are_a_failed_execution() {
    let (results, _) = fold_all(&work(2, 100), &["a"]);
    let cause = results[0].as_ref().expect_err("a table takes more");
    assert!(cause.contains("--memory"), "{cause}");
}

#[test]
fn every_index_is_called_once_on_however_many_threads() {
    for threads in [1, 2, 7] {
        let called: Vec<_> = (0..50).map(|_| AtomicUsize::new(0)).collect();
        let all = on_all_threads(&work(threads, 0), called.len(), |index| {
            called[index].fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        assert_eq!(all, Ok(()));
        assert!(called.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn the_first_error_or_panic_ends_the_work() {
    for panics in [false, true] {
        let called = AtomicUsize::new(0);
        let failed = on_all_threads(&work(1, 0), 10, |index| {
            called.fetch_add(1, Ordering::Relaxed);
            assert!(index < 3 || !panics, "index 3");
            if index < 3 { Ok(()) } else { Err("index 3".to_owned()) }
        });
        assert!(failed.is_err_and(|cause| cause.ends_with("index 3")));
        assert_eq!(called.into_inner(), 4, "none is called after it");
    }
}

#[test]
fn a_job_that_is_over_computes_nothing() {
    let work = work(2, 0);
    work.cancelled.store(true, Ordering::Relaxed);
    assert!(group(&work, &[Table::new(work.seed)], 4).is_err());
}

#[test]
fn malformed_batches_are_an_error() {
    for batch in [vec![0], vec![0, 0, 0, 0, 9, b'x']] {
        let incoming = Incoming { own: Vec::new(), batches: vec![batch] };
        assert!(reduce(&work(1, 0), &Arc::default(), vec![incoming], None).is_err());
    }
}
