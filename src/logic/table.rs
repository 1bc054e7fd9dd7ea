//! Table: key -> value, the fold of a map task; open addressing, short keys inline.
//!
//! Three parts: small *slots*, probed one after the other from where the low bits of the hash point; *entries*, in the
//! order of their keys' first appearance, which hold keys of up to 16 bytes themselves; and the longer *keys*, one
//! after the other. Entries keep the whole hash, so growing reads neither keys nor old slots, and a slot keeps some
//! bits of it, so a probe seldom reads a wrong entry.
//!
//! A large table lies outside the caches, and folding one pair after the other waits for memory at each. A [`Batch`]
//! gathers pairs, and looks up the slots of all, then the entries of all, so that the waits overlap (the idea of group
//! prefetching: Chen et al., "Improving hash join performance through prefetching", ICDE 2004).
//!
//! Invariant: a key stands in one entry, and each entry's number in one slot.

use super::partition::{Partition, partition_of};

/// Keys with their hashes and folded values.
pub struct Table<V> {
    /// Zero where free, else the tag of a hash and, below it, an entry's number plus one. Their number is a power of
    /// two, or zero in a new table.
    slots: Vec<u64>,
    entries: Vec<Stored<V>>,
    /// Keys that are too long to stand in their entries.
    keys: Vec<u8>,
}

/// One key of a table.
pub struct Entry<'t, V> {
    pub hash: u64,
    pub key: &'t [u8],
    pub value: &'t V,
}

impl<V> Table<V> {
    /// Returns an empty table, which holds no memory yet.
    pub fn new() -> Self {
        Self { slots: Vec::new(), entries: Vec::new(), keys: Vec::new() }
    }

    /// Folds `value` into the value of `key`, whose hash is `hash`.
    ///
    /// # Panics
    /// If the table holds 3 * 2^38 keys already. Slots and entries alone would fill 25 TiB, so memory ends before.
    #[inline]
    pub fn fold(&mut self, hash: u64, key: &[u8], value: V, combine: impl FnOnce(&mut V, V)) {
        if let Some(key) = Held::of(key) {
            return self.fold_held(Stored { hash, key, value }, combine);
        }
        self.reserve(1);
        match self.find(hash, |entry| entry.key.bytes(&self.keys) == key) {
            Found::Entry(number) => combine(&mut self.entries[number].value, value),
            Found::Slot(at) => {
                let held = Held::at(self.keys.len(), key.len());
                self.keys.extend_from_slice(key);
                self.put(at, Stored { hash, key: held, value });
            }
        }
    }

    /// Returns the number of distinct keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entry at `index`, in `0..len()`, in the order of their first appearance.
    ///
    /// # Panics
    /// If there is no such entry: indexes come from [`Table::by_partition`].
    pub fn entry(&self, index: usize) -> Entry<'_, V> {
        self.view(&self.entries[index])
    }

    /// Returns all entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_, V>> {
        self.entries.iter().map(|stored| self.view(stored))
    }

    /// Returns the bytes of memory that the table holds, without what values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.slots.as_slice())
            + self.entries.capacity() * size_of::<Stored<V>>()
            + self.keys.capacity()
    }

    /// Groups the entries by partition, in one pass (a counting sort of their indexes).
    pub fn by_partition(&self, n_partitions: u32) -> ByPartition {
        let partition = |stored: &Stored<V>| partition_of(stored.hash, n_partitions).0 as usize;
        // Where each partition starts, moved up by one place: filling a partition moves its start to the next one's.
        let mut starts = vec![0; n_partitions as usize + 2];
        for stored in &self.entries {
            starts[partition(stored) + 2] += 1;
        }
        for at in 2..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut indexes = vec![0; self.entries.len()];
        for (index, stored) in self.entries.iter().enumerate() {
            let next = &mut starts[partition(stored) + 1];
            indexes[*next] = index;
            *next += 1;
        }
        ByPartition { indexes, starts }
    }

    fn view<'t>(&'t self, stored: &'t Stored<V>) -> Entry<'t, V> {
        Entry { hash: stored.hash, key: stored.key.bytes(&self.keys), value: &stored.value }
    }

    /// Folds a pair whose key stands in its entry.
    #[inline]
    fn fold_held(&mut self, pair: Stored<V>, combine: impl FnOnce(&mut V, V)) {
        self.reserve(1);
        match self.find(pair.hash, |entry| entry.key == pair.key) {
            Found::Entry(number) => combine(&mut self.entries[number].value, pair.value),
            Found::Slot(at) => self.put(at, pair),
        }
    }

    /// Finds the entry of the key whose hash is `hash`, or the slot where its number belongs.
    #[inline]
    fn find(&self, hash: u64, is_same: impl Fn(&Stored<V>) -> bool) -> Found {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return Found::Slot(at);
            }
            if has_tag(slot, hash) {
                let entry = &self.entries[number_of(slot)];
                if entry.hash == hash && is_same(entry) {
                    return Found::Entry(number_of(slot));
                }
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn put(&mut self, at: usize, entry: Stored<V>) {
        self.slots[at] = slot_of(entry.hash, self.entries.len());
        self.entries.push(entry);
    }

    /// Makes room for `n` more entries, of which some slots always stay free.
    #[inline]
    fn reserve(&mut self, n: usize) {
        while self.entries.len() + n > self.slots.len() / 4 * 3 {
            self.grow();
        }
    }

    /// Doubles the slots.
    #[cold]
    fn grow(&mut self) {
        let n_slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        assert!(n_slots as u64 <= MAX_SLOTS, "a table of so many keys does not fit any memory");
        // The old ones are of no more use; they go first, so that both are never held at the same time.
        self.slots = Vec::new();
        self.slots = vec![FREE; n_slots];
        let mask = n_slots - 1;
        for (number, entry) in self.entries.iter().enumerate() {
            let mut at = entry.hash as usize & mask;
            while self.slots[at] != FREE {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot_of(entry.hash, number);
        }
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// Indexes of a table's entries, grouped by the partition of their keys.
pub struct ByPartition {
    indexes: Vec<usize>,
    starts: Vec<usize>,
}

impl ByPartition {
    /// Returns the indexes of the entries of `partition`, in the order of their first appearance.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn entries(&self, partition: Partition) -> &[usize] {
        let at = partition.0 as usize;
        &self.indexes[self.starts[at]..self.starts[at + 1]]
    }
}

/// Pairs on their way into a table.
pub struct Batch<'t, V, C> {
    table: &'t mut Table<V>,
    combine: C,
    /// Pairs with short keys; others are folded at once.
    waiting: Vec<Stored<V>>,
}

impl<'t, V, C: Fn(&mut V, V)> Batch<'t, V, C> {
    /// Makes an empty batch. What is folded into it is in the table after [`Batch::finish`], in whatever order.
    pub fn new(table: &'t mut Table<V>, combine: C) -> Self {
        Self { table, combine, waiting: Vec::with_capacity(BATCH) }
    }

    /// Folds `value` into the value of `key`, whose hash is `hash`.
    #[inline]
    pub fn fold(&mut self, hash: u64, key: &[u8], value: V) {
        let Some(key) = Held::of(key) else {
            return self.table.fold(hash, key, value, &self.combine);
        };
        self.waiting.push(Stored { hash, key, value });
        if self.waiting.len() == BATCH {
            self.flush();
        }
    }

    /// Puts what waits into the table.
    pub fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        let n = self.waiting.len();
        if n == 0 {
            // Nor has a table that nothing was ever put into any slots.
            return;
        }
        self.table.reserve(n);
        let mask = self.table.slots.len() - 1;
        // Each loop is one of loads that do not depend on each other, so that the processor waits for all at once.
        let mut slots = [FREE; BATCH];
        for (slot, pair) in slots.iter_mut().zip(&self.waiting) {
            *slot = self.table.slots[pair.hash as usize & mask];
        }
        let mut found = [false; BATCH];
        for ((found, &slot), pair) in found.iter_mut().zip(&slots).zip(&self.waiting) {
            if slot != FREE && has_tag(slot, pair.hash) {
                let entry = &self.table.entries[number_of(slot)];
                *found = entry.hash == pair.hash && entry.key == pair.key;
            }
        }
        for ((pair, slot), found) in self.waiting.drain(..).zip(slots).zip(found) {
            if found {
                (self.combine)(&mut self.table.entries[number_of(slot)].value, pair.value);
            } else {
                self.table.fold_held(pair, &self.combine);
            }
        }
    }
}

/// Pairs that are looked up together: more than the misses that a core has in flight, few enough for its fastest
/// cache.
const BATCH: usize = 32;

/// Where a key belongs.
enum Found {
    Entry(usize),
    Slot(usize),
}

/// What an entry is made of; 40 bytes for a count.
struct Stored<V> {
    hash: u64,
    key: Held,
    value: V,
}

/// A key in an entry: itself, filled up with zeros, or its place among the long ones.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    inline: [u8; INLINE],
    len: usize,
}

/// Bytes of the longest key that stands in its entry: nine in ten words of a text in whatever language.
const INLINE: usize = 16;

impl Held {
    /// Returns a key as it stands in its entry; `None` if it is too long for that.
    #[inline]
    fn of(key: &[u8]) -> Option<Self> {
        let len = key.len();
        let words = match (key.first_chunk(), key.last_chunk()) {
            // The last eight bytes overlap the first ones by 16 - len.
            (Some(first), Some(last)) if len <= INLINE => {
                let last = u128::from(u64::from_le_bytes(*last)) << 64 >> (8 * (INLINE - len));
                u128::from(u64::from_le_bytes(*first)) | last
            }
            (Some(_), _) => return None,
            _ => short(key),
        };
        Some(Self { inline: words.to_le_bytes(), len })
    }

    fn at(start: usize, len: usize) -> Self {
        Self { inline: (start as u128).to_le_bytes(), len }
    }

    #[inline]
    fn bytes<'k>(&'k self, keys: &'k [u8]) -> &'k [u8] {
        if self.len <= INLINE {
            return &self.inline[..self.len];
        }
        let start = u128::from_le_bytes(self.inline) as usize;
        &keys[start..start + self.len]
    }
}

/// Returns a key of fewer than eight bytes as a number, its first byte lowest.
#[inline]
fn short(key: &[u8]) -> u128 {
    let len = key.len();
    if let (Some(first), Some(last)) = (key.first_chunk(), key.last_chunk()) {
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4));
        return u128::from(u64::from(u32::from_le_bytes(*first)) | last);
    }
    match *key {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c] => u32::from_le_bytes([a, b, c, 0]).into(),
        _ => 0,
    }
}

/// Slots of a table with its first key: 8 KiB, which is nothing beside a split.
const FIRST_SLOTS: usize = 1024;

const FREE: u64 = 0;

/// Bits of a slot that hold an entry's number plus one. The 24 above them are the tag: those of the hash in the same
/// place. The keys of one reducer's table share some of them (see `partition_of`), yet with a thousand partitions
/// 14 are left.
const NUMBER_BITS: u32 = 40;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

/// Slots of the largest table: each entry's number plus one fits its bits, for some slots are always free.
const MAX_SLOTS: u64 = 1 << NUMBER_BITS;

#[inline]
fn slot_of(hash: u64, number: usize) -> u64 {
    hash & !NUMBER_MASK | (number as u64 + 1)
}

#[inline]
fn has_tag(slot: u64, hash: u64) -> bool {
    (slot ^ hash) >> NUMBER_BITS == 0
}

#[inline]
fn number_of(slot: u64) -> usize {
    (slot & NUMBER_MASK) as usize - 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::super::partition::{Seed, hash};
    use super::*;

    const SEED: Seed = Seed([3, 5]);

    fn add(into: &mut u64, other: u64) {
        *into += other;
    }

    /// Folds `pairs` under the hashes that `hash` gives, and asserts that the table is a map of them, and that it is
    /// the same one when they are folded in batches.
    fn assert_map(pairs: &[(Vec<u8>, u64)], hash: impl Fn(&[u8]) -> u64) -> Table<u64> {
        let mut batched = Table::new();
        let mut batch = Batch::new(&mut batched, add);
        pairs.iter().for_each(|(key, value)| batch.fold(hash(key), key, *value));
        batch.finish();
        let table = assert_map_one_by_one(pairs, hash);
        let sorted = |table: &Table<u64>| {
            let mut entries: Vec<_> =
                table.iter().map(|entry| (entry.key.to_vec(), entry.hash, *entry.value)).collect();
            entries.sort();
            entries
        };
        assert!(sorted(&batched) == sorted(&table), "a batch folds what a table folds");
        table
    }

    fn assert_map_one_by_one(pairs: &[(Vec<u8>, u64)], hash: impl Fn(&[u8]) -> u64) -> Table<u64> {
        let mut table = Table::new();
        let mut map: HashMap<&[u8], u64> = HashMap::new();
        let mut order: Vec<&[u8]> = Vec::new();
        for (key, value) in pairs {
            table.fold(hash(key), key, *value, add);
            *map.entry(key).or_insert_with(|| {
                order.push(key);
                0
            }) += value;
        }
        assert_eq!(table.len(), map.len());
        assert_eq!(table.is_empty(), map.is_empty());
        assert!(table.iter().map(|entry| entry.key).eq(order), "entries stand in the order of appearance");
        for (index, entry) in table.iter().enumerate() {
            assert_eq!(map.get(entry.key), Some(entry.value), "{:?}", entry.key);
            assert_eq!(entry.hash, hash(entry.key));
            assert_eq!(table.entry(index).key, entry.key);
        }
        table
    }

    fn numbered(n_keys: usize, n_pairs: usize) -> Vec<(Vec<u8>, u64)> {
        (0..n_pairs).map(|n| (format!("key-{}", n * 7919 % n_keys).into_bytes(), n as u64)).collect()
    }

    #[test]
    fn nothing_makes_an_empty_table() {
        assert_eq!(assert_map(&[], |_| 0).len(), 0);
    }

    #[test]
    fn a_new_table_holds_nothing() {
        let table = Table::<u64>::new();
        assert_eq!((table.len(), table.memory_bytes()), (0, 0));
        assert!(table.is_empty() && table.iter().next().is_none());
        assert!(table.by_partition(3).entries(Partition(2)).is_empty());
    }

    #[test]
    fn folds_while_it_grows() {
        let table = assert_map(&numbered(100_000, 300_000), |key| hash(SEED, key));
        assert_eq!(table.len(), 100_000);
        let least = 100_000 * size_of::<Stored<u64>>();
        assert!((least..4 * least).contains(&table.memory_bytes()), "{}", table.memory_bytes());
    }

    #[test]
    fn keys_with_one_hash_stay_apart() {
        for same in [0, 1, u64::MAX, 0x8000_0000_0000_0001] {
            assert_map(&numbered(1500, 4000), |_| same);
        }
    }

    #[test]
    fn hashes_that_differ_in_few_bits_stay_apart() {
        // One slot for all, and one tag, or one of few: the bits between the two differ.
        assert_map(&numbered(900, 3000), |key| (hash(SEED, key) >> 50) << 20);
        assert_map(&numbered(900, 3000), |key| hash(SEED, key) & 3 << 40);
        // All begin in the last slots, and run over the end of the table.
        assert_map(&numbered(700, 3000), |key| hash(SEED, key) | 0xf_ffff);
    }

    #[test]
    fn keys_of_every_length_are_told_apart_at_every_byte() {
        let mut pairs = Vec::new();
        for len in 0..40 {
            pairs.push((vec![0; len], 1));
            for at in 0..len {
                let mut key = vec![0; len];
                key[at] = 1;
                pairs.push((key, 1));
            }
        }
        pairs.extend(pairs.clone());
        let table = assert_map(&pairs, |key| key.len() as u64 % 2);
        assert!(table.iter().all(|entry| *entry.value == 2));
    }

    #[test]
    fn giant_keys_are_keys() {
        let giant = vec![b'x'; 64 << 20];
        let mut other = giant.clone();
        other[32 << 20] = b'y';
        let mut table = Table::new();
        for key in [&giant, &other, &Vec::new(), &giant, &giant] {
            table.fold(hash(SEED, key), key, 1, add);
        }
        assert!(table.iter().map(|entry| (entry.key.len(), *entry.value)).eq([
            (64 << 20, 3),
            (64 << 20, 1),
            (0, 1)
        ]));
    }

    #[test]
    fn values_of_any_type_are_folded_in_order() {
        let mut table: Table<Vec<usize>> = Table::new();
        for number in 0..5000 {
            let key = [(number % 7) as u8];
            table.fold(hash(SEED, &key), &key, vec![number], |into, other| into.extend(other));
        }
        for entry in table.iter() {
            let expected: Vec<usize> = (0..5000).filter(|n| (n % 7) as u8 == entry.key[0]).collect();
            assert_eq!(*entry.value, expected);
        }
    }

    #[test]
    fn partitions_hold_each_entry_once() {
        let table = assert_map(&numbered(5000, 5000), |key| hash(SEED, key));
        for n_partitions in [1, 2, 3, 16, 1000, 20_000] {
            let groups = table.by_partition(n_partitions);
            let mut seen = vec![0; table.len()];
            for partition in (0..n_partitions).map(Partition) {
                let indexes = groups.entries(partition);
                assert!(indexes.is_sorted());
                for &index in indexes {
                    seen[index] += 1;
                    assert_eq!(partition_of(table.entry(index).hash, n_partitions), partition);
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{n_partitions} partitions");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, rng_seed: RngSeed::Fixed(4), ..ProptestConfig::default()
        })]

        #[test]
        fn a_table_is_a_map(
            pairs in prop::collection::vec((prop::collection::vec(0u8..3, 0..20), 0u64..9), 0..2000),
            hash_bits in prop_oneof![Just(0u64), Just(7), Just(u64::MAX), any::<u64>()],
        ) {
            assert_map(&pairs, |key| hash(SEED, key) & hash_bits);
        }
    }
}
