//! Rows: the folded entries of one partition, their keys left where they are.
//!
//! After the map phase a key may stand in the table of every thread. Joining them copies no key: a row says in which
//! table its key stands, and holds the value folded over all of them. Tables that rows point into are not changed any
//! more.

use std::sync::Arc;

use super::partition::Partition;
use super::table::{ByPartition, Entry, Table};

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

/// Where a key stands: a table's number and, in its low 40 bits, an entry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

/// A worker has at most some tables for each thread and epoch, or as many as partitions; and a table at most 2^40
/// entries.
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
    pub fn key<'t>(&self, tables: &'t [Arc<Table<V>>]) -> &'t [u8] {
        tables[self.place.table()].entry(self.place.entry()).key
    }
}

/// The entries of all tables of a worker, grouped by partition, and within each by further bits of the hash: few enough
/// at a time that a join of them stays in a core's own cache.
pub struct Grouped {
    tables: Vec<ByPartition>,
    /// Groups of one partition.
    fan: u32,
}

/// Entries of a group: half a megabyte of rows.
const GROUP_ENTRIES: usize = 16 << 10;

/// Groups in all: more would cost more caches' lines than a join of them saves.
const MOST_GROUPS: u32 = 1024;

impl Grouped {
    /// Returns into how many groups each of `n_partitions` is to be divided, for tables of so many entries.
    pub fn fan(n_entries: usize, n_partitions: u32) -> u32 {
        let wanted = u32::try_from(n_entries / GROUP_ENTRIES).unwrap_or(u32::MAX) / n_partitions;
        wanted.min(MOST_GROUPS / n_partitions).max(1)
    }

    /// Takes the tables, each grouped as `n_partitions * fan` partitions: with a hash that is cut by its high bits, the
    /// groups of a partition are neighbours.
    pub fn new(tables: Vec<ByPartition>, fan: u32) -> Self {
        Self { tables, fan }
    }

    /// Returns the indexes of one group's entries in each table.
    fn group(&self, partition: Partition, number: u32) -> impl Iterator<Item = &[u32]> {
        let group = Partition(partition.0 * self.fan + number);
        self.tables.iter().map(move |table| table.entries(group))
    }
}

/// Joins the entries of `partition` from all `tables`.
pub fn join<V: Clone>(
    tables: &[Arc<Table<V>>],
    grouped: &Grouped,
    partition: Partition,
    combine: impl Fn(&mut V, V),
    rank: impl Fn(&V) -> u64,
) -> Vec<Row<V>> {
    let mut rows = Vec::new();
    let mut joining = Joining { slots: Vec::new(), hashes: Vec::new() };
    for number in 0..grouped.fan {
        let first = rows.len();
        let n: usize = grouped.group(partition, number).map(<[u32]>::len).sum();
        rows.reserve(n);
        joining.clear(n);
        for (number, (table, indexes)) in tables.iter().zip(grouped.group(partition, number)).enumerate() {
            for indexes in indexes.chunks(LOOKAHEAD) {
                indexes.iter().for_each(|&index| table.prefetch_entry(index as usize));
                indexes.iter().for_each(|&index| table.prefetch_key(index as usize));
                for &index in indexes {
                    let entry = table.entry(index as usize);
                    match joining.find(tables, &rows[first..], &entry) {
                        Some(at) => combine(&mut rows[first + at].value, entry.value.clone()),
                        None => {
                            let place = Place::new(number, index as usize);
                            rows.push(Row {
                                rank: 0,
                                front: front_of(entry.key),
                                place,
                                value: entry.value.clone(),
                            });
                        }
                    }
                }
            }
        }
        rows[first..].iter_mut().for_each(|row| row.rank = rank(&row.value));
    }
    rows
}

/// Entries whose memory is fetched ahead.
const LOOKAHEAD: usize = 32;

/// Finds the rows of one group by their keys.
struct Joining {
    /// Zero where free, else the number of a row plus one.
    slots: Vec<usize>,
    /// Of each row.
    hashes: Vec<u64>,
}

impl Joining {
    /// Makes room for `n_rows` and forgets those before.
    fn clear(&mut self, n_rows: usize) {
        self.slots.clear();
        self.slots.resize((2 * n_rows).next_power_of_two(), 0);
        self.hashes.clear();
    }

    /// Returns the number of the row with the key of `entry`, or counts on a new one for it.
    fn find<V>(&mut self, tables: &[Arc<Table<V>>], rows: &[Row<V>], entry: &Entry<'_, V>) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = entry.hash as usize & mask;
        while self.slots[at] != 0 {
            let row = self.slots[at] - 1;
            if self.hashes[row] == entry.hash && rows[row].key(tables) == entry.key {
                return Some(row);
            }
            at = (at + 1) & mask;
        }
        self.hashes.push(entry.hash);
        self.slots[at] = self.hashes.len();
        None
    }
}

/// Returns the rows of all entries of the table with this `number` among those of a worker.
pub fn rows_of<V: Clone>(number: usize, table: &Table<V>, rank: impl Fn(&V) -> u64) -> Vec<Row<V>> {
    let row = |entry: Entry<'_, V>| {
        Row::new(Place::new(number, entry.index), entry.key, entry.value.clone(), &rank)
    };
    let mut rows = Vec::with_capacity(table.len());
    rows.extend(table.iter().map(row));
    rows
}

/// Returns the first eight bytes of `key`, filled up with zeros, as a number that compares as they do.
pub fn front_of(key: &[u8]) -> u64 {
    let mut front = [0; 8];
    let len = key.len().min(front.len());
    front[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(front)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::partition::Seed;
    use super::*;

    const SEED: Seed = Seed([7, 8]);

    fn add(into: &mut u64, other: u64) {
        *into += other;
    }

    /// Deals keys to tables, joins them, and asserts that each key has one row, in its partition, with its sum.
    fn assert_joined(n_tables: usize, n_pairs: u64, n_partitions: u32, fan: u32) {
        let mut tables: Vec<Table<u64>> = (0..n_tables).map(|_| Table::new(SEED)).collect();
        let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for n in 0..n_pairs {
            let word = n * 7919 % (n_pairs / 3 + 1);
            let key =
                if word.is_multiple_of(2) { format!("{word}") } else { format!("a-key-that-is-long-{word}") };
            let table = (n * 31 % 4096) as usize % n_tables;
            tables[table].fold(key.as_bytes(), n, add);
            *expected.entry(key.into_bytes()).or_default() += n;
        }
        let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
        let groups = tables.iter().map(|table| table.by_partition(n_partitions * fan)).collect();
        let grouped = Grouped::new(groups, fan);
        let mut joined = BTreeMap::new();
        for partition in (0..n_partitions).map(Partition) {
            for row in join(&tables, &grouped, partition, add, |value| !value) {
                let key = row.key(&tables);
                let hash = tables[row.place.table()].entry(row.place.entry()).hash;
                assert_eq!(super::super::partition::partition_of(hash, n_partitions), partition);
                assert_eq!((row.rank, row.front), (!row.value, front_of(key)));
                assert_eq!(joined.insert(key.to_vec(), row.value), None, "one row a key");
            }
        }
        assert!(joined == expected, "{n_tables} tables, {n_partitions} partitions of {fan} groups");
    }

    #[test]
    fn each_key_of_all_tables_has_one_row() {
        for n_tables in [1, 2, 3, 16] {
            for (n_partitions, fan) in [(1, 1), (1, 7), (3, 1), (5, 16)] {
                assert_joined(n_tables, 20_000, n_partitions, fan);
            }
        }
        assert_joined(2, 0, 4, 4);
        assert_joined(2, 1, 4, 4);
    }

    #[test]
    fn groups_are_as_large_as_they_should_be() {
        assert_eq!(Grouped::fan(0, 1), 1);
        assert_eq!(Grouped::fan(GROUP_ENTRIES * 64, 2), 32);
        assert_eq!(Grouped::fan(usize::MAX, 2), MOST_GROUPS / 2);
        assert_eq!(Grouped::fan(usize::MAX, u32::MAX), 1);
    }

    #[test]
    fn fronts_compare_as_the_first_bytes_do() {
        let mut keys = ["", "\0", "a", "a\0", "ab", "abcdefgh", "abcdefghi", "b", "\u{ff}"];
        keys.sort();
        assert!(keys.is_sorted_by_key(|key| front_of(key.as_bytes())));
        assert_eq!(front_of(b"abcdefghi"), front_of(b"abcdefghz"));
        assert!(front_of(b"abcdefgh") < front_of(b"abcdefgi"));
    }
}
