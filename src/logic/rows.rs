//! Rows: the folded entries of one partition, their keys left where they are.
//!
//! After the map phase a key may stand in the table of every thread. Joining them copies no key: a row says in which
//! table its key stands, and holds the value folded over all of them. Tables that rows point into are not changed any
//! more.

use super::partition::Partition;
use super::table::{ByPartition, Table};

/// A key's rank and front, by which most rows can be ordered without looking at their keys; where the key stands; and
/// its folded value.
pub struct Row<V> {
    /// What the job ranks the value.
    pub rank: u64,
    /// The first eight bytes of the key, filled up with zeros, as a number that compares as they do.
    pub front: u64,
    pub place: Place,
    pub value: V,
}

/// Where a key stands: a table's number and, in its low [`ENTRY_BITS`] bits, an entry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

/// A worker has at most so many tables as it has threads or partitions, and a table at most 2^40 entries.
const ENTRY_BITS: u32 = 40;

impl Place {
    pub fn new(table: usize, entry: usize) -> Self {
        Self((table as u64) << ENTRY_BITS | entry as u64)
    }

    pub fn table(self) -> usize {
        (self.0 >> ENTRY_BITS) as usize
    }

    pub fn entry(self) -> usize {
        (self.0 & ((1 << ENTRY_BITS) - 1)) as usize
    }
}

impl<V> Row<V> {
    /// Makes the row of `key`, which stands at `place`.
    pub fn new(place: Place, key: &[u8], value: V, rank: impl Fn(&V) -> u64) -> Self {
        Self { rank: rank(&value), front: front_of(key), place, value }
    }

    /// Returns the key of this row, which was made of `tables`.
    pub fn key<'t>(&self, tables: &'t [Table<V>]) -> &'t [u8] {
        tables[self.place.table()].entry(self.place.entry()).key
    }
}

/// Joins the entries of `partition` from all `tables`, grouped as `grouped` says.
pub fn join<V: Clone>(
    tables: &[Table<V>],
    grouped: &[ByPartition],
    partition: Partition,
    combine: impl Fn(&mut V, V),
    rank: impl Fn(&V) -> u64,
) -> Vec<Row<V>> {
    let mut folded: Table<(Place, V)> = Table::new();
    for (number, (table, grouped)) in tables.iter().zip(grouped).enumerate() {
        for &index in grouped.entries(partition) {
            let entry = table.entry(index);
            let pair = (Place::new(number, index), entry.value.clone());
            folded.fold(entry.hash, entry.key, pair, |into, other| combine(&mut into.1, other.1));
        }
    }
    folded.iter().map(|entry| Row::new(entry.value.0, entry.key, entry.value.1.clone(), &rank)).collect()
}

/// Returns the rows of all entries of the table with this `number` among those of a worker.
pub fn rows_of<V: Clone>(number: usize, table: &Table<V>, rank: impl Fn(&V) -> u64) -> Vec<Row<V>> {
    let row = |(index, entry): (usize, super::table::Entry<'_, V>)| {
        Row::new(Place::new(number, index), entry.key, entry.value.clone(), &rank)
    };
    table.iter().enumerate().map(row).collect()
}

/// Returns the first eight bytes of `key`, filled up with zeros, as a number that compares as they do.
pub fn front_of(key: &[u8]) -> u64 {
    let mut front = [0; 8];
    let len = key.len().min(front.len());
    front[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(front)
}
