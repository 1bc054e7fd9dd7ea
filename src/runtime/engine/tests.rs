//! Engine: what map threads do with executions, commits, failures and memory.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, unbounded};

use super::*;
use crate::job::{Emit, Records};
use crate::jobs::word_count::{Params, WordCount};
use crate::logic::ids::SplitId;
use crate::logic::packing::Packing;
use crate::logic::worker::Execution;
use crate::runtime::buffers;
use crate::runtime::reduce::{Incoming, reduce};

/// Nothing here takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

/// Counts words. At `panic` it panics, at `wait` it waits for a word from the test, and what is folded with `evil`
/// panics then.
struct Touchy {
    words: WordCount,
    gate: Receiver<()>,
}

const EVIL: u64 = 666;

impl Job for Touchy {
    const NAME: &'static str = "touchy";
    const ABOUT: &'static str = "";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        Ok(Self { words: WordCount::new(params)?, gate: never() })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        self.words.map(records, &mut |word: &[u8], count| {
            assert!(word != b"panic", "told to {}", "x".repeat(5000));
            if word == b"wait" {
                let _ = self.gate.recv_timeout(DEADLINE);
            }
            emit.pair(word, if word == b"evil" { EVIL } else { count });
        })
    }

    fn combine(&self, into: &mut u64, other: u64) {
        assert!(other != EVIL, "evil was combined");
        self.words.combine(into, other);
    }
}

fn work_with(threads: usize, memory: u64, gate: Receiver<()>) -> Arc<Work<Touchy>> {
    let job = Touchy { gate, ..Touchy::new(Params::default()).expect("the parameters are good") };
    let cancelled = AtomicBool::new(false);
    Arc::new(Work { job: Arc::new(job), seed: Seed([1, 2]), threads, memory, cancelled })
}

fn work(threads: usize, memory: u64) -> Arc<Work<Touchy>> {
    work_with(threads, memory, never())
}

/// Map threads, and what is heard of them.
struct Mapping {
    mappers: Mappers<Touchy>,
    heard: Receiver<MapEvent>,
    gate: Sender<()>,
    weak: Weak<Work<Touchy>>,
}

impl Mapping {
    fn start(threads: usize, memory: u64) -> Self {
        let (gate, gated) = unbounded();
        let work = work_with(threads, memory, gated);
        let (tell, heard) = unbounded();
        let tell: Heard = Arc::new(move |event| {
            let _ = tell.send(event);
        });
        let mappers = Mappers::start(&work, &tell).expect("threads can be started");
        Self { mappers, heard, gate, weak: Arc::downgrade(&work) }
    }

    fn begin(&self, id: u64, provisional: bool, text: &str) {
        let data = SplitData::Received(buffers::tests::plain(text.as_bytes()));
        self.mappers.execute(SplitId(id), provisional, data);
    }

    fn hear(&self) -> (u64, Execution) {
        match self.heard.recv_timeout(DEADLINE).expect("every execution is answered") {
            MapEvent::Executed { split, end } => (split.0, end),
            MapEvent::Broken { cause } => panic!("it is broken: {cause}"),
        }
    }

    fn run(&self, id: u64, provisional: bool, text: &str) -> Execution {
        self.begin(id, provisional, text);
        let (heard, end) = self.hear();
        assert_eq!(heard, id);
        end
    }

    /// Has a split folded and returns its number of pairs.
    fn fold(&self, id: u64, provisional: bool, text: &str) -> u64 {
        match self.run(id, provisional, text) {
            Execution::Folded { pairs } => pairs,
            other => panic!("it was not folded: {other:?}"),
        }
    }

    /// Waits until a thread has begun with a split that waits.
    fn await_begun(&self) {
        let begun = Instant::now();
        while self.mappers.waiting_splits() > 0 {
            assert!(begun.elapsed() < DEADLINE, "it does not begin");
            std::thread::yield_now();
        }
    }

    /// Waits until committed tables are merged.
    fn await_merged(&self) {
        let begun = Instant::now();
        while self.mappers.tables().committed() > 0 {
            assert!(begun.elapsed() < DEADLINE, "it is not merged");
            std::thread::yield_now();
        }
    }

    fn tables(&self) -> Vec<Arc<Table<u64>>> {
        self.mappers.tables().all().expect("nothing panicked")
    }

    /// Asserts what has been folded so far, and that the bytes of it are counted.
    fn assert_holds(&self, expected: &[(&str, u64)]) {
        let tables = self.tables();
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for table in &tables {
            for entry in table.iter() {
                *counts.entry(String::from_utf8_lossy(entry.key).into_owned()).or_default() += entry.value;
            }
        }
        let expected = expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        assert_eq!(counts, expected);
        let bytes: usize = tables.iter().map(|table| table.memory_bytes()).sum();
        assert_eq!(self.mappers.tables().bytes(), bytes);
    }

    fn assert_released(self) {
        let Self { mappers, weak, .. } = self;
        mappers.end();
        let ended = Instant::now();
        while weak.strong_count() > 0 {
            assert!(ended.elapsed() < DEADLINE, "{} still hold it", weak.strong_count());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn failed(end: Execution) -> (String, Vec<u64>) {
    match end {
        Execution::Failed { cause, dropped, .. } => {
            (cause, dropped.into_iter().map(|split| split.0).collect())
        }
        other => panic!("it did not fail: {other:?}"),
    }
}

#[test]
fn splits_are_folded_straight_away_or_apart_until_they_are_committed() {
    let mapping = Mapping::start(2, u64::MAX);
    assert_eq!(mapping.fold(1, false, "a b"), 2);
    assert_eq!(mapping.fold(2, true, "b b a-key-that-is-rather-long"), 8);
    assert_eq!(mapping.fold(3, true, "c"), 1);
    assert_eq!(mapping.fold(4, true, "d"), 1);
    mapping.mappers.commit(SplitId(2));
    mapping.mappers.discard(SplitId(3));
    mapping.mappers.commit(SplitId(4));
    mapping.mappers.discard(SplitId(4));
    mapping.mappers.commit(SplitId(9));
    let long = [("key", 1), ("that", 1), ("is", 1), ("rather", 1), ("long", 1)];
    mapping.assert_holds(&[&[("a", 2), ("b", 3), ("d", 1)][..], &long].concat());
    mapping.assert_released();
}

#[test]
fn tables_are_returned_as_often_as_is_asked_for_and_new_ones_added() {
    let mapping = Mapping::start(1, u64::MAX);
    assert!(mapping.tables().is_empty(), "nothing was folded");
    mapping.fold(1, false, "a b");
    let first = mapping.tables();
    assert_eq!((first.len(), mapping.tables().len()), (1, 1));
    mapping.fold(2, false, "b c");
    mapping.fold(3, true, "c d");
    mapping.mappers.commit(SplitId(3));
    mapping.await_merged();
    let second = mapping.tables();
    assert_eq!(second.len(), 2, "one more for what was folded since, of whatever kind");
    assert!(Arc::ptr_eq(&first[0], &second[0]));
    assert_eq!((first[0].len(), second[1].len()), (2, 3));
    mapping.assert_holds(&[("a", 1), ("b", 2), ("c", 2), ("d", 1)]);
}

#[test]
fn a_panic_takes_the_slot_with_it_and_the_thread_lives_on() {
    let mapping = Mapping::start(1, u64::MAX);
    mapping.fold(1, false, "a b");
    mapping.tables();
    mapping.fold(2, false, "b c");
    mapping.fold(3, true, "d");
    mapping.mappers.commit(SplitId(3));
    mapping.await_merged();
    mapping.fold(4, true, "e");
    let (cause, dropped) = failed(mapping.run(5, false, "x panic"));
    assert!(cause.starts_with("the job panicked: told to x") && cause.len() < 2000, "{cause}");
    assert_eq!(dropped, [2, 3], "what is finished or held is not lost");
    mapping.mappers.commit(SplitId(4));
    mapping.fold(2, false, "b c");
    mapping.assert_holds(&[("a", 1), ("b", 2), ("c", 1), ("e", 1)]);
}

#[test]
fn a_provisional_execution_that_panics_costs_itself_only() {
    let mapping = Mapping::start(1, u64::MAX);
    mapping.fold(1, false, "a");
    mapping.fold(2, true, "b");
    assert!(failed(mapping.run(3, true, "a b c panic")).1.is_empty());
    mapping.fold(4, true, "c");
    mapping.mappers.commit(SplitId(2));
    mapping.mappers.commit(SplitId(4));
    mapping.assert_holds(&[("a", 1), ("b", 1), ("c", 1)]);
}

#[test]
fn a_split_that_cannot_be_read_costs_itself_only() {
    let mapping = Mapping::start(1, u64::MAX);
    mapping.fold(1, false, "a");
    for provisional in [false, true] {
        let torn = buffers::tests::receive(&buffers::Buffers::new(1), Packing::Zstd, 9, b"torn");
        let torn = SplitData::Received(torn.expect("it came"));
        mapping.mappers.execute(SplitId(2), provisional, torn);
        let (cause, dropped) = failed(mapping.hear().1);
        assert!(cause.contains("cannot be unpacked") && dropped.is_empty(), "{cause} {dropped:?}");
    }
    mapping.assert_holds(&[("a", 1)]);
}

#[test]
fn memory_is_bounded_and_what_was_dropped_makes_room() {
    let range = |words: std::ops::Range<u64>| words.map(|n| format!("w{n} ")).collect::<String>();
    let words = |from: u64| range(from..from + 3000);
    let mapping = Mapping::start(1, 600_000);
    mapping.fold(1, false, "a");
    mapping.fold(2, true, &words(0));
    mapping.fold(3, true, &words(3000));
    // Apart: nothing else is lost, and its own memory is free again.
    for id in 4..20 {
        if let Execution::Failed { cause, dropped, .. } = mapping.run(id, true, &words(id * 3000)) {
            assert!(cause.contains("--memory") && dropped.is_empty(), "{cause}");
            let held = mapping.mappers.tables().bytes();
            assert!(held <= 600_000, "{held} bytes");
        }
    }
    for id in 2..20 {
        mapping.mappers.discard(SplitId(id));
    }
    mapping.fold(20, false, &words(0));
    let (cause, dropped) = failed(mapping.run(21, false, &range(0..30_000)));
    assert!(cause.contains("--memory"), "{cause}");
    assert_eq!(dropped, [1, 20]);
    assert_eq!(mapping.mappers.tables().bytes(), 0);
    mapping.fold(1, false, "a");
    mapping.assert_holds(&[("a", 1)]);
}

#[test]
fn what_has_not_begun_can_be_cancelled_and_is_answered_once() {
    let mapping = Mapping::start(1, u64::MAX);
    mapping.begin(1, false, "wait a");
    mapping.await_begun();
    mapping.begin(2, false, "b");
    mapping.begin(3, true, "c");
    for id in [1, 2, 3, 3, 9] {
        mapping.mappers.cancel(SplitId(id));
    }
    assert_eq!(mapping.hear(), (2, Execution::Cancelled));
    assert_eq!(mapping.hear(), (3, Execution::Cancelled));
    // It may come again while its first order still waits.
    mapping.begin(2, false, "b");
    mapping.gate.send(()).expect("it waits");
    assert_eq!(mapping.hear(), (1, Execution::Folded { pairs: 2 }));
    assert_eq!(mapping.hear(), (2, Execution::Folded { pairs: 1 }));
    mapping.fold(4, false, "d");
    assert!(mapping.heard.is_empty());
    mapping.assert_holds(&[("wait", 1), ("a", 1), ("b", 1), ("d", 1)]);
}

#[test]
fn the_shuffle_waits_for_no_provisional_execution_and_takes_what_is_not_merged() {
    let mapping = Mapping::start(1, u64::MAX);
    mapping.fold(1, false, "a");
    mapping.fold(2, true, "a b");
    mapping.begin(3, true, "wait");
    mapping.await_begun();
    // Its thread is busy: the committed table waits to be merged.
    mapping.mappers.commit(SplitId(2));
    mapping.assert_holds(&[("a", 2), ("b", 1)]);
    assert_eq!(mapping.tables().len(), 2);
    mapping.gate.send(()).expect("it waits");
    assert_eq!(mapping.hear().0, 3);
    mapping.mappers.discard(SplitId(3));
    mapping.fold(4, false, "c");
    mapping.assert_holds(&[("a", 2), ("b", 1), ("c", 1)]);
}

#[test]
fn a_merge_that_panics_breaks_the_job_here() {
    let mapping = Mapping::start(1, u64::MAX);
    mapping.fold(1, false, "evil");
    mapping.fold(2, true, "evil");
    mapping.mappers.commit(SplitId(2));
    let heard = mapping.heard.recv_timeout(DEADLINE).expect("it is told");
    assert!(matches!(heard, MapEvent::Broken { cause } if cause.contains("evil was combined")));
    // Whoever asks before that is heard gets no tables that are not whole.
    for _ in 0..2 {
        let refused = mapping.mappers.tables().all().map(|tables| tables.len());
        assert!(refused.is_err_and(|cause| cause.contains("evil was combined")));
    }
    mapping.assert_released();
}

#[test]
fn all_is_released_at_the_end_as_soon_as_nobody_is_at_work() {
    let mapping = Mapping::start(3, u64::MAX);
    mapping.fold(1, false, "a b");
    mapping.fold(2, true, "c");
    let table = Arc::downgrade(&mapping.tables()[0]);
    mapping.begin(3, false, "wait");
    mapping.await_begun();
    mapping.begin(4, false, "b");
    let gate = mapping.gate.clone();
    let opener = std::thread::spawn(move || {
        while table.strong_count() > 0 {
            std::thread::yield_now();
        }
        // Only now: tables did not wait for who is at work.
        gate.send(())
    });
    mapping.assert_released();
    opener.join().expect("no panic").expect("it waits");
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
    assert!(group(&work, &[Arc::new(Table::new(work.seed))], 4).is_err());
}

#[test]
fn malformed_batches_are_an_error() {
    for batch in [vec![0], vec![0, 0, 0, 0, 9, b'x']] {
        let incoming = Incoming { own: Vec::new(), batches: vec![batch] };
        assert!(reduce(&work(1, 0), &[], vec![incoming], None).is_err());
    }
}
