//! Table: key -> value, the fold of a map task; open addressing, short keys inline.
//!
//! Small *slots*, of four bytes, are probed one after the other from where the low bits of the hash point. A slot
//! names an entry: among those of *short* keys, which stand in their entries, 24 bytes with a count, or among those
//! of *long* keys, which hold the hash and where the key stands behind all others. A slot keeps some bits of the hash,
//! so a probe seldom reads a wrong entry. Entries and keys lie in the order of their first appearance and never move,
//! so growing concerns the slots alone.
//!
//! A large table lies outside the caches, and folding one pair after the other waits for memory at each. A
//! [`Folder`] gathers pairs and looks many up at a time.
//!
//! Invariant: a key stands in one entry, and each entry's number in one slot. Whether a key is short depends on the
//! key alone.

mod folder;
mod front;
mod memory;
#[cfg(test)]
mod tests;

pub use folder::{Batch, Folder};

use memory::{Block, Store, Texts, prefetch};

use super::partition::{KeyHash, Partition, Seed, partition_of};

/// Keys with their folded values.
pub struct Table<V, H = Seed> {
    hasher: H,
    /// Zero where free, else the tag of a hash and, below it, an entry's index plus one. Their number is a power of
    /// two, or zero in a table that has none yet, or none any more.
    slots: Block<u32>,
    short: Store<Short<V>>,
    long: Store<Long<V>>,
    /// The long keys.
    texts: Texts,
}

/// One key of a table.
pub struct Entry<'t, V> {
    /// Names the entry in its table, for [`Table::entry`].
    pub index: usize,
    pub hash: u64,
    pub key: &'t [u8],
    pub value: &'t V,
}

/// An entry whose key stands in it.
struct Short<V> {
    /// Filled up with zeros. As the last byte of a short key is not zero, its length can be told.
    key: [u8; SHORT_BYTES],
    value: V,
}

/// An entry whose key stands among the texts, at `place`.
struct Long<V> {
    hash: u64,
    place: u64,
    value: V,
}

/// Bytes of the longest short key: nine in ten words of a text in whatever language.
const SHORT_BYTES: usize = 16;

impl<V, H: KeyHash> Table<V, H> {
    /// Returns an empty table, which holds no memory yet. It finds its keys by the hashes that `hasher` gives them.
    pub fn new(hasher: H) -> Self {
        Self { hasher, slots: Block::zeros(0), short: Store::new(), long: Store::new(), texts: Texts::new() }
    }

    /// Folds `value` into the value of `key`.
    ///
    /// # Panics
    /// If the table holds 3 * 2^29 keys already, 1.6 billion: they and their entries fill some 60 GiB.
    pub fn fold(&mut self, key: &[u8], value: V, combine: impl FnOnce(&mut V, V)) {
        self.reserve(1);
        match words_of(key) {
            Some(words) => self.fold_short(self.hasher.of_words(words), words, value, combine),
            None => self.fold_long(self.hasher.of_bytes(key), key, value, combine),
        };
    }

    /// Returns the number of distinct keys.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an entry.
    ///
    /// # Panics
    /// If there is no such entry: indexes come from other entries and from [`Table::by_partition`].
    pub fn entry(&self, index: usize) -> Entry<'_, V> {
        let entry = match kind_of(index) {
            Kind::Long(number) => self.long.get(number).map(|long| self.view_long(index, long)),
            Kind::Short(number) => self.short.get(number).map(|short| self.view_short(index, short)),
        };
        match entry {
            Some(entry) => entry,
            None => panic!("no entry {index} of {}", self.len()),
        }
    }

    /// Has the processor fetch the entry at `index`.
    #[inline]
    pub fn prefetch_entry(&self, index: usize) {
        match kind_of(index) {
            Kind::Long(number) => self.long.prefetch(number),
            Kind::Short(number) => self.short.prefetch(number),
        }
    }

    /// Has the processor fetch the key of the entry at `index`, if it does not stand in the entry itself.
    #[inline]
    pub fn prefetch_key(&self, index: usize) {
        if let Kind::Long(number) = kind_of(index)
            && let Some(long) = self.long.get(number)
        {
            self.texts.prefetch(long.place);
        }
    }

    /// Returns all entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_, V>> {
        let short = self.short.iter().enumerate();
        let long = self.long.iter().enumerate();
        let short = short.map(|(number, short)| self.view_short(index_of(Kind::Short(number)), short));
        short.chain(long.map(|(number, long)| self.view_long(index_of(Kind::Long(number)), long)))
    }

    /// Returns the bytes of memory that the table holds, without what values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots)
            + self.short.memory_bytes()
            + self.long.memory_bytes()
            + self.texts.memory_bytes()
    }

    /// Gives back what only folding needs. Folding more is still possible, but makes all of it anew.
    pub fn release_slots(&mut self) {
        self.slots = Block::zeros(0);
    }

    /// Groups the entries by partition, in two passes (a counting sort of their indexes).
    pub fn by_partition(&self, n_partitions: u32) -> ByPartition {
        let partition = |hash| partition_of(hash, n_partitions).0 as usize;
        // Where each partition starts, moved up by one place: filling a partition moves its start to the next one's.
        let mut starts = vec![0; n_partitions as usize + 2];
        self.hashes().for_each(|(_, hash)| starts[partition(hash) + 2] += 1);
        for at in 2..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut indexes = vec![0; self.len()];
        for (index, hash) in self.hashes() {
            let next = &mut starts[partition(hash) + 1];
            // No table has so many entries that this cuts anything off.
            indexes[*next] = index as u32;
            *next += 1;
        }
        ByPartition { indexes, starts }
    }

    /// Returns the indexes of all entries, with their hashes.
    fn hashes(&self) -> impl Iterator<Item = (usize, u64)> {
        let short = self.short.iter().enumerate();
        let long = self.long.iter().enumerate();
        let short = short.map(|(number, short)| (index_of(Kind::Short(number)), self.hash_of(short)));
        short.chain(long.map(|(number, long)| (index_of(Kind::Long(number)), long.hash)))
    }

    #[inline]
    fn hash_of(&self, short: &Short<V>) -> u64 {
        self.hasher.of_words(u128::from_le_bytes(short.key))
    }

    fn view_short<'t>(&'t self, index: usize, short: &'t Short<V>) -> Entry<'t, V> {
        Entry { index, hash: self.hash_of(short), key: short.bytes(), value: &short.value }
    }

    fn view_long<'t>(&'t self, index: usize, long: &'t Long<V>) -> Entry<'t, V> {
        Entry { index, hash: long.hash, key: self.texts.get(long.place), value: &long.value }
    }

    /// Folds a pair with a short key.
    #[inline]
    fn fold_short(&mut self, hash: u64, words: u128, value: V, combine: impl FnOnce(&mut V, V)) {
        match self.find_short(hash, words) {
            Ok(number) => self.combine_short(number, value, combine),
            Err(slot) => self.insert_short(slot, hash, words, value),
        }
    }

    /// Finds the entry of a short key, or the slot where its number belongs.
    #[inline]
    fn find_short(&self, hash: u64, words: u128) -> Result<usize, usize> {
        let mut at = self.first_slot(hash);
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return Err(at);
            }
            if let Some(number) = self.short_at(slot, hash)
                && self.is_short(number, words)
            {
                return Ok(number);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Returns the number of the short key's entry that `slot` names, if it has the tag of `hash`.
    #[inline(always)]
    fn short_at(&self, slot: u32, hash: u64) -> Option<usize> {
        match self.named(slot, hash)? {
            Kind::Short(number) => Some(number),
            Kind::Long(_) => None,
        }
    }

    /// Returns the number of the long key's entry that `slot` names, if it has the tag of `hash`.
    #[inline(always)]
    fn long_at(&self, slot: u32, hash: u64) -> Option<usize> {
        match self.named(slot, hash)? {
            Kind::Short(_) => None,
            Kind::Long(number) => Some(number),
        }
    }

    #[inline(always)]
    fn named(&self, slot: u32, hash: u64) -> Option<Kind> {
        let mask = index_mask(self.slots.len());
        let is_named = slot != FREE && (slot ^ tag_of(hash)) & !mask == 0;
        is_named.then(|| kind_of(((slot & mask) - 1) as usize))
    }

    /// Tells whether this is the key of a short key's entry.
    #[inline(always)]
    fn is_short(&self, number: usize, words: u128) -> bool {
        self.short.get(number).is_some_and(|entry| u128::from_le_bytes(entry.key) == words)
    }

    #[inline]
    fn combine_short(&mut self, number: usize, value: V, combine: impl FnOnce(&mut V, V)) {
        if let Some(entry) = self.short.get_mut(number) {
            combine(&mut entry.value, value);
        }
    }

    #[inline]
    fn insert_short(&mut self, at: usize, hash: u64, words: u128, value: V) {
        let number = self.short.push(Short { key: words.to_le_bytes(), value });
        self.slots[at] = slot_of(hash, index_of(Kind::Short(number)), self.slots.len());
    }

    /// Folds a pair with a long key.
    #[inline]
    fn fold_long(&mut self, hash: u64, key: &[u8], value: V, combine: impl FnOnce(&mut V, V)) {
        let mut at = self.first_slot(hash);
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                let place = self.texts.push(key);
                let number = self.long.push(Long { hash, place, value });
                self.slots[at] = slot_of(hash, index_of(Kind::Long(number)), self.slots.len());
                return;
            }
            if let Some(number) = self.long_at(slot, hash)
                && let Some(entry) = self.long.get_mut(number)
                && entry.hash == hash
                && self.texts.get(entry.place) == key
            {
                return combine(&mut entry.value, value);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Returns where the key with this hash is looked for first; no slot of a table that has none.
    #[inline]
    fn first_slot(&self, hash: u64) -> usize {
        hash as usize & self.slots.len().wrapping_sub(1)
    }

    /// Makes room for `n` more entries, of which some slots always stay free.
    #[inline]
    fn reserve(&mut self, n: usize) {
        if self.len() + n > self.slots.len() / 4 * 3 {
            self.grow(n);
        }
    }

    /// Makes at least twice as many slots, with room for `n` more entries.
    #[cold]
    fn grow(&mut self, n: usize) {
        let enough = ((self.len() + n) / 3 * 4 + 4).next_power_of_two();
        let n_slots = (self.slots.len() * 2).max(FIRST_SLOTS).max(enough);
        assert!(n_slots <= MAX_SLOTS, "a table takes {} keys and no more", MAX_SLOTS / 4 * 3);
        // The old ones are of no more use; they go first, so that both are never held at the same time.
        self.slots = Block::zeros(0);
        let mut slots = Block::zeros(n_slots);
        let mut waiting = [(0, 0); GROUP];
        let mut hashes = self.hashes();
        loop {
            let mut n = 0;
            for (waiting, (index, hash)) in waiting.iter_mut().zip(&mut hashes) {
                *waiting = (index, hash);
                prefetch(&slots, hash as usize & (n_slots - 1));
                n += 1;
            }
            for &(index, hash) in &waiting[..n] {
                let mut at = hash as usize & (n_slots - 1);
                while slots[at] != FREE {
                    at = (at + 1) & (n_slots - 1);
                }
                slots[at] = slot_of(hash, index, n_slots);
            }
            if n < GROUP {
                break;
            }
        }
        drop(hashes);
        self.slots = slots;
    }
}

impl<V> Short<V> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.key[..SHORT_BYTES - u128::from_le_bytes(self.key).leading_zeros() as usize / 8]
    }
}

/// Indexes of a table's entries, grouped by the partition of their keys.
pub struct ByPartition {
    indexes: Vec<u32>,
    starts: Vec<usize>,
}

impl ByPartition {
    /// Returns the indexes of the entries of `partition`.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn entries(&self, partition: Partition) -> &[u32] {
        let at = partition.0 as usize;
        &self.indexes[self.starts[at]..self.starts[at + 1]]
    }
}

/// Pairs or entries that are looked up together: more than the misses that a core has in flight, few enough for its
/// fastest cache.
const GROUP: usize = 32;

/// Returns a short key as a number, its first byte lowest; `None` for a long one.
#[inline]
fn words_of(key: &[u8]) -> Option<u128> {
    let len = key.len();
    if len > SHORT_BYTES || key.last().is_none_or(|&last| last == 0) {
        return None;
    }
    Some(match (key.first_chunk(), key.last_chunk()) {
        // The last eight bytes overlap the first ones by 16 - len.
        (Some(first), Some(last)) => {
            let last = u128::from(u64::from_le_bytes(*last)) << 64 >> (8 * (SHORT_BYTES - len));
            u128::from(u64::from_le_bytes(*first)) | last
        }
        _ => few_words(key),
    })
}

/// Returns a key of fewer than eight bytes as a number, its first byte lowest.
#[inline]
fn few_words(key: &[u8]) -> u128 {
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

/// Slots of a table with its first key: 4 KiB, which is nothing beside a split.
const FIRST_SLOTS: usize = 1024;

const FREE: u32 = 0;

/// Slots of the largest table: indexes plus one need all bits of its slots.
const MAX_SLOTS: usize = 1 << 31;

/// An entry by its number among those of its kind.
enum Kind {
    Short(usize),
    Long(usize),
}

/// Returns the index of an entry: its number, and below it its kind.
#[inline(always)]
fn index_of(kind: Kind) -> usize {
    match kind {
        Kind::Short(number) => number << 1,
        Kind::Long(number) => number << 1 | 1,
    }
}

#[inline(always)]
fn kind_of(index: usize) -> Kind {
    if index & 1 == 0 { Kind::Short(index >> 1) } else { Kind::Long(index >> 1) }
}

/// Returns the bits of a slot that hold an index plus one. Of so many slots three quarters are taken at most, so an
/// index is less than twice their number.
#[inline(always)]
fn index_mask(n_slots: usize) -> u32 {
    (2 * n_slots as u64).wrapping_sub(1) as u32
}

/// Returns a hash's bits for the tag, which is what an index leaves of them: neither the lowest ones, which choose the
/// slot, nor the highest ones, which the keys of a partition share.
#[inline(always)]
fn tag_of(hash: u64) -> u32 {
    (hash >> 24) as u32
}

#[inline(always)]
fn slot_of(hash: u64, index: usize, n_slots: usize) -> u32 {
    let mask = index_mask(n_slots);
    tag_of(hash) & !mask | (index as u32 + 1)
}
