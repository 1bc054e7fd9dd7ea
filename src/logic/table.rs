//! Table: key -> value, the fold of a map task; open addressing over an arena of keys.

use std::ops::Range;

use super::partition::Partition;

/// Keys with their hashes and folded values.
pub struct Table<V> {
    entries: Vec<V>,
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
        todo!()
    }

    /// Folds `value` into the value of `key`, whose hash is `hash`.
    pub fn fold(&mut self, hash: u64, key: &[u8], value: V, combine: impl FnOnce(&mut V, V)) {
        let _ = (hash, key, value, combine);
        todo!()
    }

    /// Returns the number of distinct keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entry at `index`, in `0..len()`, in the order of their first appearance.
    pub fn entry(&self, index: u32) -> Entry<'_, V> {
        let _ = index;
        todo!()
    }

    /// Returns all entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_, V>> {
        (0..self.len() as u32).map(|index| self.entry(index))
    }

    /// Returns the bytes of memory that the table holds.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }

    /// Groups the entries by partition, in one pass (a counting sort of their indexes).
    pub fn by_partition(&self, n_partitions: u32) -> ByPartition {
        let _ = n_partitions;
        todo!()
    }
}

/// Indexes of a table's entries, grouped by the partition of their keys.
pub struct ByPartition {
    indexes: Vec<u32>,
    starts: Vec<u32>,
}

impl ByPartition {
    /// Returns the indexes of the entries of `partition`.
    pub fn entries(&self, partition: Partition) -> &[u32] {
        let Range { start, end } = self.starts[partition.0 as usize]..self.starts[partition.0 as usize + 1];
        &self.indexes[start as usize..end as usize]
    }
}
