//! Reduce: the job's own reduce gets groups in order, what it emits is joined, and memory is bounded.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::job::Records;
use crate::job::values::Bag;
use crate::jobs::word_count::Params;
use crate::logic::limits::Limits;
use crate::logic::partition::{Partition, Seed};
use crate::runtime::engine::{combine, group};
use crate::runtime::results::send_sorted;
use crate::wire::entries::{SortedDecoder, encode};

const SEED: Seed = Seed([3, 4]);

/// What the reduce of [`Grouping`] does.
#[derive(Clone, Copy, Default)]
enum Act {
    #[default]
    Emit,
    Fail,
    Panic,
    /// Emits until it is stopped.
    Flood,
}

/// Gathers values. Its reduce emits each group, and a line for it under one key that all have in common.
struct Grouping {
    act: Act,
    seen: Mutex<Vec<Vec<Vec<u8>>>>,
}

impl Job for Grouping {
    const NAME: &'static str = "grouping";
    const ABOUT: &'static str = "";
    const COLUMNS: [&'static str; 2] = ["key", "values"];
    const REDUCES: bool = true;
    type Params = Params;
    type Value = Bag;

    fn new(_: Params) -> Result<Self, String> {
        Ok(Self { act: Act::default(), seen: Mutex::default() })
    }

    fn map(&self, _: Records<'_>, _: &mut impl Emit<Bag>) -> Result<(), String> {
        Ok(())
    }

    fn combine(&self, into: &mut Bag, other: Bag) {
        into.merge(other);
    }

    fn reduce(
        &self,
        groups: &mut dyn Iterator<Item = (&[u8], Bag)>,
        emit: &mut dyn Emit<Bag>,
    ) -> Result<(), String> {
        let mut keys = Vec::new();
        for (key, bag) in groups {
            match self.act {
                Act::Emit => {}
                Act::Fail => return Err("no such group".to_owned()),
                Act::Panic => panic!("told to"),
                Act::Flood => loop {
                    emit.pair(key, Bag::one(&[b'x'; 1000]));
                    emit.pair(&keys.len().to_le_bytes(), Bag::one(&[b'y'; 1000]));
                    keys.push(Vec::new());
                    emit.may_hold(0)?;
                },
            }
            keys.push(key.to_vec());
            emit.pair(b"all", Bag::one(key));
            emit.pair(key, bag);
        }
        self.seen.lock().expect("no panic").push(keys);
        Ok(())
    }
}

fn work(act: Act, memory: u64) -> Work<Grouping> {
    let job = Grouping { act, ..Grouping::new(Params::default()).expect("it takes any") };
    Work { job: Arc::new(job), seed: SEED, threads: 2, memory, cancelled: AtomicBool::new(false) }
}

const PARTITIONS: u32 = 3;

fn key(n: u32) -> Vec<u8> {
    let long = if n.is_multiple_of(2) { "" } else { "-which-is-a-long-key" };
    format!("{}{long}", n * 7919 % 500).into_bytes()
}

/// Reduces what a worker has itself, and what has come from another one if that is wanted.
fn reduced(work: &Work<Grouping>, has_batches: bool) -> Result<Sorted<Bag>, String> {
    let mut table = Table::new(SEED);
    (0..1000u32)
        .for_each(|n| table.fold(&key(n), Bag::one(&n.to_le_bytes()), |into, other| into.merge(other)));
    let tables = [Arc::new(table)];
    let grouped = group(work, &tables, PARTITIONS).expect("the job is not over");
    let incoming = (0..PARTITIONS).map(Partition).map(|partition| {
        let own = combine(work, &tables, &grouped, partition);
        let mut batch = partition.0.to_le_bytes().to_vec();
        own.iter().for_each(|row| encode(row.key(&tables), &Bag::one(b"other"), &mut batch));
        Incoming { own, batches: if has_batches { vec![batch] } else { Vec::new() } }
    });
    let limits = Limits { top: None, min_count: None };
    reduce(work, &tables, incoming.collect(), limits)
}

#[test]
fn groups_come_in_order_and_what_is_made_of_them_is_joined() {
    for has_batches in [false, true] {
        let work = work(Act::Emit, u64::MAX);
        let sorted = reduced(&work, has_batches).expect("it is reduced");
        let mut expected: BTreeMap<Vec<u8>, Bag> = BTreeMap::new();
        for n in 0..1000u32 {
            expected.entry(key(n)).or_default().push(&n.to_le_bytes());
        }
        let keys: Bag = expected.keys().map(Vec::as_slice).collect();
        if has_batches {
            expected.values_mut().for_each(|bag| bag.push(b"other"));
        }
        expected.insert(b"all".to_vec(), keys);
        let mut result = BTreeMap::new();
        let mut before = Vec::new();
        send_sorted(&sorted, |batch| {
            let mut key: Vec<u8> = Vec::new();
            for entry in SortedDecoder::<Bag>::new(&batch) {
                let entry = entry.expect("whole");
                key.truncate(entry.shared);
                key.extend_from_slice(entry.rest);
                assert!(before < key, "keys are in order, and each is there once");
                before.clone_from(&key);
                result.insert(key.clone(), entry.value);
            }
            true
        })
        .expect("somebody wants it");
        assert!(result == expected, "batches: {has_batches}");
        let seen = work.job.seen.lock().expect("no panic");
        assert_eq!(seen.len(), PARTITIONS as usize);
        assert!(seen.iter().all(|keys| keys.is_sorted()));
    }
}

#[test]
fn a_reduce_that_fails_panics_or_makes_too_much_says_so() {
    for has_batches in [false, true] {
        let failure = |act, memory| reduced(&work(act, memory), has_batches).err().expect("it fails");
        assert_eq!(failure(Act::Fail, u64::MAX), "no such group");
        assert_eq!(failure(Act::Panic, u64::MAX), "the job panicked: told to");
        let said = failure(Act::Flood, 10_000_000);
        assert!(said.starts_with("the reduce needs ") && said.ends_with("(--memory)"), "{said}");
    }
}

#[test]
fn a_reduce_of_an_epoch_that_is_over_ends() {
    let work = work(Act::Flood, u64::MAX);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            work.cancel();
        });
        assert_eq!(reduced(&work, false).err().as_deref(), Some("the job is over"));
    });
}
