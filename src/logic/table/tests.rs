//! Tests of the table: maps of pairs, whatever their keys, their hashes and the way they are folded.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::job::Emit;

const SEED: Seed = Seed([3, 5]);

/// A hash that may be bad: what is made of a good one.
#[derive(Clone, Copy)]
struct Weak(fn(u64) -> u64);

const GOOD: Weak = Weak(|hash| hash);

/// All that the hash of a table is used for collides: slots, tags, places of the front, or some of them.
const BAD: [Weak; 9] = [
    Weak(|_| 0),
    Weak(|_| u64::MAX),
    Weak(|_| 0x8000_0000_0000_0001),
    Weak(|hash| hash & 1),
    // One slot for all, and one tag, or one of few: other bits differ.
    Weak(|hash| (hash >> 56) << 56),
    Weak(|hash| hash & 3 << 50),
    // Tags that differ, in one slot.
    Weak(|hash| hash & !0xffff_ffff),
    // All begin in the last slots, and run over the end of the table.
    Weak(|hash| hash | 0xf_ffff),
    Weak(|hash| hash.rotate_left(32)),
];

impl KeyHash for Weak {
    fn of_words(self, words: u128) -> u64 {
        (self.0)(SEED.of_words(words))
    }

    fn of_bytes(self, key: &[u8]) -> u64 {
        (self.0)(SEED.of_bytes(key))
    }
}

fn add(into: &mut u64, other: u64) {
    *into += other;
}

type Pairs = [(Vec<u8>, u64)];

/// Folds `pairs` one by one, in batches of pairs, and of spans, and asserts that each table is a map of them.
fn assert_map(pairs: &Pairs, hasher: Weak) -> Table<u64, Weak> {
    let mut map: HashMap<&[u8], u64> = HashMap::new();
    pairs.iter().for_each(|(key, value)| *map.entry(key).or_default() += value);
    let mut table = Table::new(hasher);
    pairs.iter().for_each(|(key, value)| table.fold(key, *value, add));
    assert_is(&table, &map);
    assert_is(&by_pairs(pairs, hasher), &map);
    // Spans share their value, so each pair comes as often as its value says.
    let counts: Vec<_> = pairs.iter().map(|(key, value)| (key.clone(), value % 4)).collect();
    let mut counted: HashMap<&[u8], u64> = HashMap::new();
    counts.iter().filter(|(_, n)| *n > 0).for_each(|(key, n)| *counted.entry(key).or_default() += n);
    assert_is(&by_spans(&counts, hasher), &counted);
    table
}

fn by_pairs(pairs: &Pairs, hasher: Weak) -> Table<u64, Weak> {
    let mut folder = Folder::new(hasher);
    for pairs in pairs.chunks(1000) {
        let mut batch = folder.batch(add);
        pairs.iter().for_each(|(key, value)| batch.pair(key, *value));
        assert_eq!(batch.finish(), pairs.len() as u64);
    }
    folder.finish(add)
}

fn by_spans(counts: &Pairs, hasher: Weak) -> Table<u64, Weak> {
    let mut folder = Folder::new(hasher);
    for counts in counts.chunks(2000) {
        let (mut text, mut spans) = (Vec::new(), Vec::new());
        for (key, n) in counts {
            for _ in 0..*n {
                let start = text.len() as u32;
                text.extend_from_slice(key);
                spans.push([start, text.len() as u32]);
            }
        }
        let mut batch = folder.batch(add);
        batch.spans(&text, &spans, 1);
        assert_eq!(batch.finish(), spans.len() as u64);
    }
    folder.finish(add)
}

fn assert_is(table: &Table<u64, Weak>, map: &HashMap<&[u8], u64>) {
    assert_eq!(table.len(), map.len());
    assert_eq!(table.is_empty(), map.is_empty());
    let mut seen = 0;
    for entry in table.iter() {
        assert_eq!(map.get(entry.key), Some(entry.value), "{:?}", entry.key.escape_ascii().to_string());
        assert_eq!(entry.hash, table.hasher.of_bytes(entry.key));
        assert_eq!(table.entry(entry.index).key, entry.key);
        assert_eq!(table.entry(entry.index).value, entry.value);
        seen += 1;
    }
    assert_eq!(seen, map.len());
}

fn numbered(n_keys: usize, n_pairs: usize) -> Vec<(Vec<u8>, u64)> {
    let key = |n| if n % 3 == 0 { format!("a-key-that-is-long-{n}") } else { format!("key-{n}") };
    (0..n_pairs).map(|n| (key(n * 7919 % n_keys).into_bytes(), n as u64)).collect()
}

#[test]
fn nothing_makes_an_empty_table() {
    assert_eq!(assert_map(&[], GOOD).len(), 0);
}

#[test]
fn a_new_table_holds_nothing() {
    let table = Table::<u64>::new(SEED);
    assert_eq!((table.len(), table.memory_bytes()), (0, 0));
    assert!(table.is_empty() && table.iter().next().is_none());
    assert!(table.by_partition(3).entries(Partition(2)).is_empty());
}

#[test]
fn folds_while_it_grows() {
    let table = assert_map(&numbered(100_000, 300_000), GOOD);
    assert_eq!(table.len(), 100_000);
}

/// The whole cost of keys and counts: entries, slots and the long keys.
#[test]
fn memory_is_at_most_two_and_a_half_times_that_of_keys_and_counts() {
    for len in [11, 16, 31] {
        let mut table = Table::new(SEED);
        let n_keys = 1 << 20;
        for n in 0..n_keys {
            table.fold(format!("{n:0len$}").as_bytes(), 1u64, add);
        }
        let least = n_keys * (len + 8);
        assert!(table.memory_bytes() * 2 <= least * 5, "{} for {least}", table.memory_bytes());
    }
}

#[test]
fn keys_with_bad_hashes_stay_apart() {
    for hasher in BAD {
        assert_map(&numbered(1200, 4000), hasher);
    }
}

#[test]
fn keys_of_every_length_are_told_apart_at_every_byte() {
    let mut pairs = Vec::new();
    for filler in [0, b'x'] {
        for len in 0..40 {
            pairs.push((vec![filler; len], 1));
            for at in 0..len {
                let mut key = vec![filler; len];
                key[at] = 1;
                pairs.push((key, 1));
            }
        }
    }
    // The empty key, and the keys of one byte beside it, came twice.
    pairs.sort();
    pairs.dedup();
    pairs.extend(pairs.clone());
    let table = assert_map(&pairs, Weak(|hash| hash & 1));
    assert!(table.iter().all(|entry| *entry.value == 2));
}

/// Zeros that end a key count, also where a span lies within another one.
#[test]
fn spans_may_nest_and_hold_zeros() {
    let mut folder = Folder::new(GOOD);
    let mut batch = folder.batch(add);
    let text = b"abcdefghijk\0lmnopqrstuvwxyz, and sixteen bytes behind it";
    batch.spans(text, &[[0, 12], [0, 11], [4, 8]], 1);
    assert_eq!(batch.finish(), 3);
    let table = folder.finish(add);
    assert_is(&table, &HashMap::from([(&text[..12], 1), (&text[..11], 1), (b"efgh", 1)]));
}

#[test]
#[should_panic(expected = "in the order of their starts")]
fn spans_out_of_order_are_refused_where_they_would_be_lost() {
    let text = b"one two three four five six";
    Folder::new(GOOD).batch(add).spans(text, &[[24, 27], [0, 3]], 1);
}

#[test]
fn giant_keys_are_keys() {
    let giant = vec![b'x'; 64 << 20];
    let mut other = giant.clone();
    other[32 << 20] = b'y';
    let mut table = Table::new(SEED);
    for key in [&giant, &other, &Vec::new(), &giant, &giant] {
        table.fold(key, 1, add);
    }
    let entries: Vec<_> = table.iter().map(|entry| (entry.key.len(), *entry.value)).collect();
    assert_eq!(entries, [(64 << 20, 3), (64 << 20, 1), (0, 1)]);
}

#[test]
fn values_of_any_type_are_folded_in_order() {
    let extend = |into: &mut Vec<usize>, other| into.extend(other);
    let mut table: Table<Vec<usize>> = Table::new(SEED);
    let mut folder: Folder<Vec<usize>> = Folder::new(SEED);
    let mut batch = folder.batch(extend);
    let text = b"a b c d e f g";
    for number in 0..5000 {
        let at = (number % 7) * 2;
        table.fold(&text[at..at + 1], vec![number], extend);
        batch.spans(text, &[[at as u32, at as u32 + 1]], vec![number]);
    }
    batch.finish();
    for table in [table, folder.finish(extend)] {
        assert_eq!(table.len(), 7);
        for entry in table.iter() {
            let at = text.iter().position(|byte| entry.key == [*byte]).expect("a letter of the text") / 2;
            let expected: Vec<usize> = (0..5000).filter(|n| n % 7 == at).collect();
            assert_eq!(*entry.value, expected);
        }
    }
}

#[test]
fn every_value_is_dropped_once() {
    use std::rc::Rc;
    let value = Rc::new(());
    for n_keys in [10, 5000, 300_000] {
        let mut table: Table<Rc<()>> = Table::new(SEED);
        for n in 0..n_keys {
            table.fold(format!("{n}").as_bytes(), value.clone(), |_, _| {});
        }
        assert_eq!(Rc::strong_count(&value), n_keys + 1);
        drop(table);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}

#[test]
fn a_table_without_slots_can_be_folded_into_again() {
    let mut table = Table::new(SEED);
    for round in 1..4 {
        for n in 0..3000 {
            table.fold(format!("{n}").as_bytes(), 1, add);
        }
        assert!(table.len() == 3000 && table.iter().all(|entry| *entry.value == round));
        let before = table.memory_bytes();
        table.release_slots();
        assert!(table.memory_bytes() < before);
    }
}

#[test]
fn partitions_hold_each_entry_once() {
    let table = assert_map(&numbered(5000, 5000), GOOD);
    for n_partitions in [1, 2, 3, 16, 1000, 20_000] {
        let groups = table.by_partition(n_partitions);
        let mut seen = 0;
        for partition in (0..n_partitions).map(Partition) {
            for &index in groups.entries(partition) {
                seen += 1;
                assert_eq!(partition_of(table.entry(index as usize).hash, n_partitions), partition);
            }
        }
        assert_eq!(seen, table.len(), "{n_partitions} partitions");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, rng_seed: RngSeed::Fixed(4), ..ProptestConfig::default()
    })]

    #[test]
    fn a_table_is_a_map(
        pairs in prop::collection::vec((prop::collection::vec(0u8..3, 0..20), 0u64..9), 0..2000),
        hasher in 0..BAD.len() + 1,
    ) {
        assert_map(&pairs, BAD.get(hasher).copied().unwrap_or(GOOD));
    }

    #[test]
    fn a_table_of_words_is_a_map(
        pairs in prop::collection::vec((prop::collection::vec(b'a'..b'd', 1..40), 0u64..9), 0..2000),
        hasher in 0..BAD.len() + 1,
    ) {
        assert_map(&pairs, BAD.get(hasher).copied().unwrap_or(GOOD));
    }
}
