//! Sort: rows -> ranges of the result's order, which are sorted apart from each other (sample sort).
//!
//! A sample of the rows gives borders; each chunk of rows is grouped by the ranges between them; then a range is
//! gathered from all chunks and sorted by one thread, in its fast caches. Within a range the keys of equal rank and
//! front are ordered by their next eight bytes, kept beside the row's number, and so on: a key, far away in memory,
//! is looked at once for eight of its bytes and not once for each comparison, and looking at one does not wait for
//! another.
//!
//! Source: Frazer & McKellar, "Samplesort" (JACM 1970); Bentley & Sedgewick, "Fast algorithms for sorting and
//! searching strings" (SODA 1997); the cached bytes are those of Ng & Kakehi, "Cache efficient radix sort for string
//! sorting" (2007).

use std::sync::Arc;

use super::rows::Row;
use super::table::Table;

/// Rows of a chunk: small enough for a number of 16 bits and for a core's caches, large enough that one has many rows
/// of each range.
pub const CHUNK_ROWS: usize = 1 << 16;

/// Rows that a range is to have: with their keys' first lines they fit a core's second cache.
pub const RANGE_ROWS: usize = 1 << 14;

/// Ranges of the largest result; beyond it they grow.
const MAX_RANGES: usize = 1 << 12;

/// Rows looked at for each border: ranges are then seldom twice as large as they should be.
const SAMPLES_PER_RANGE: usize = 16;

/// The borders between ranges.
#[derive(Default)]
pub struct Borders<'t> {
    /// Rank and front of the first rows of the ranges to the right, in order.
    heads: Vec<u128>,
    /// The keys of those first rows; `None` where all rows of that rank and front belong to the right.
    keys: Vec<Option<&'t [u8]>>,
    /// Finds a place among `heads`.
    search: Search,
}

/// How rows are to be parted.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows that a range is to have.
    pub range_rows: usize,
    /// Rows of equal rank and front that may be in one range; of more, ranges are told apart by key, which is dear.
    pub tied_rows: usize,
    /// How many first rows are wanted: what lies far behind them is one range.
    pub top: Option<u64>,
}

impl Plan {
    /// Returns how to part `n` rows for so many threads.
    pub fn new(n: usize, threads: usize, top: Option<u64>) -> Self {
        // A tie must not keep one thread busy long after the others.
        Self { range_rows: RANGE_ROWS, tied_rows: (n / (8 * threads.max(1))).max(RANGE_ROWS), top }
    }
}

impl<'t> Borders<'t> {
    /// Chooses borders for the rows of all `parts`.
    pub fn choose<V>(parts: &[Vec<Row<V>>], tables: &'t [Arc<Table<V>>], plan: Plan) -> Self {
        let n: usize = parts.iter().map(Vec::len).sum();
        let n_ranges = n.div_ceil(plan.range_rows.max(1)).min(MAX_RANGES);
        if n_ranges <= 1 {
            return Self::default();
        }
        let mut sample = sample(parts, n_ranges * SAMPLES_PER_RANGE);
        sample.sort_unstable_by(|a, b| (head(a), a.key(tables)).cmp(&(head(b), b.key(tables))));
        let wanted = plan.top.map_or(n_ranges, |top| ranges_of_top(top, n, n_ranges));
        let mut borders: Vec<_> = (1..n_ranges)
            .take(wanted)
            .map(|at| sample[at * SAMPLES_PER_RANGE])
            .map(|row| (head(row), row.key(tables)))
            .collect();
        borders.dedup();
        let mut chosen = Self::default();
        for tied in borders.chunk_by(|a, b| a.0 == b.0) {
            if tied.len() * (n / n_ranges) <= plan.tied_rows {
                chosen.heads.push(tied[0].0);
                chosen.keys.push(None);
            } else {
                chosen.heads.extend(tied.iter().map(|(head, _)| *head));
                chosen.keys.extend(tied.iter().map(|(_, key)| Some(*key)));
            }
        }
        chosen.search = Search::new(&chosen.heads);
        chosen
    }

    /// Returns the number of ranges.
    pub fn ranges(&self) -> usize {
        self.heads.len() + 1
    }

    /// Returns the range of a row, in `0..ranges()`.
    #[inline]
    fn range_of<V>(&self, row: &Row<V>, tables: &[Arc<Table<V>>]) -> usize {
        let head = head(row);
        let first = self.search.count_below(head);
        match self.keys.get(first) {
            Some(None) if self.heads[first] == head => first + 1,
            Some(Some(_)) if self.heads[first] == head => {
                let key = Some(row.key(tables));
                let tied = self.heads[first..].partition_point(|border| *border == head);
                first + self.keys[first..first + tied].partition_point(|border| *border <= key)
            }
            _ => first,
        }
    }
}

/// A tree of numbers for the question that every row asks. Whole nodes are compared and counted, without a branch to
/// be guessed wrong at every second step: twice as quick as a binary search.
#[derive(Default)]
struct Search {
    /// From the root down; node `i` of a level has the nodes from `FANOUT * i` of the next one below it.
    levels: Vec<Vec<[u128; FANOUT - 1]>>,
}

const FANOUT: usize = 16;

impl Search {
    /// Makes the tree of sorted numbers.
    fn new(sorted: &[u128]) -> Self {
        let mut levels = Vec::new();
        // Numbers that stand between two of a level's nodes are those of the levels above it.
        let mut stride = 1;
        while stride <= sorted.len() {
            let number = |node: usize, at: usize| (FANOUT * node + at + 1) * stride - 1;
            let n_nodes = (sorted.len() / stride) / FANOUT + 1;
            let node = |node| std::array::from_fn(|at| *sorted.get(number(node, at)).unwrap_or(&u128::MAX));
            levels.push((0..n_nodes).map(node).collect());
            stride *= FANOUT;
        }
        levels.reverse();
        Self { levels }
    }

    /// Returns how many of the numbers are less than `head`.
    #[inline]
    fn count_below(&self, head: u128) -> usize {
        self.levels.iter().fold(0, |node, level| {
            let below: usize = level[node].iter().map(|number| usize::from(*number < head)).sum();
            FANOUT * node + below
        })
    }
}

/// Ranges that surely hold the first `top` of `n` rows: twice as many as they should fill, and two more.
fn ranges_of_top(top: u64, n: usize, n_ranges: usize) -> usize {
    let filled = u128::from(top) * n_ranges as u128 / n as u128;
    usize::try_from(filled * 2 + 2).unwrap_or(usize::MAX)
}

/// Takes `wanted` rows from places that have no pattern.
fn sample<V>(parts: &[Vec<Row<V>>], wanted: usize) -> Vec<&Row<V>> {
    let starts: Vec<usize> = parts
        .iter()
        .scan(0, |end, part| {
            let start = *end;
            *end += part.len();
            Some(start)
        })
        .collect();
    let n: usize = parts.iter().map(Vec::len).sum();
    let place = |number: usize| {
        // Multiples of the golden ratio, which spread evenly, stirred once more.
        let stirred = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let stirred = (stirred ^ (stirred >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((u128::from(stirred) * n as u128) >> 64) as usize
    };
    let row = |place: usize| {
        // Of parts with the same start all but the last are empty.
        let part = starts.partition_point(|start| *start <= place) - 1;
        &parts[part][place - starts[part]]
    };
    (0..wanted).map(|number| row(place(number))).collect()
}

/// Where the rows of each range stand in a chunk whose rows are grouped.
pub struct Grouped {
    /// The first row of each range, and the number of rows.
    starts: Vec<u32>,
}

impl Grouped {
    /// Groups the rows of `chunk`, at most [`CHUNK_ROWS`], by range.
    pub fn group<V>(chunk: &mut [Row<V>], tables: &[Arc<Table<V>>], borders: &Borders<'_>) -> Self {
        let mut starts = vec![0u32; borders.ranges() + 1];
        // First the range of each row, then its place.
        let mut places: Vec<u16> = Vec::with_capacity(chunk.len());
        for row in &*chunk {
            let range = borders.range_of(row, tables);
            starts[range + 1] += 1;
            places.push(range as u16);
        }
        for range in 1..starts.len() {
            starts[range] += starts[range - 1];
        }
        let mut next = starts.clone();
        for place in &mut places {
            let next = &mut next[*place as usize];
            *place = *next as u16;
            *next += 1;
        }
        for at in 0..chunk.len() {
            // Each swap brings a row to its place.
            while places[at] as usize != at {
                let place = places[at] as usize;
                chunk.swap(at, place);
                places.swap(at, place);
            }
        }
        Self { starts }
    }

    /// Returns the rows of `range` in the chunk that was grouped.
    pub fn rows<'c, V>(&self, range: usize, chunk: &'c [Row<V>]) -> &'c [Row<V>] {
        &chunk[self.starts[range] as usize..self.starts[range + 1] as usize]
    }

    /// Returns the number of rows of `range`.
    pub fn len(&self, range: usize) -> usize {
        (self.starts[range + 1] - self.starts[range]) as usize
    }
}

/// Sorts one range after the other.
#[derive(Default)]
pub struct Sorter {
    /// The keys of a range, one after the other.
    near: Vec<u8>,
    /// What orders an entry and, in the low 32 bits, its number.
    order: Vec<u128>,
    /// Stretches of `order` that tie, and the offset of their keys' first bytes that were not looked at.
    ties: Vec<Tie>,
}

struct Tie {
    start: usize,
    end: usize,
    offset: usize,
}

/// Entries are numbered with so many bits.
const NUMBER_BITS: u32 = 32;

/// Ties of so many are ordered by comparing keys: their first lines are in a cache by then.
const FEW: usize = 3;

impl Sorter {
    /// Sorts the rows of `cells`, together fewer than 2^32, whose keys stand in `tables`, and hands the entries to
    /// `take`.
    pub fn sort<'t, V, R>(
        &mut self,
        cells: impl Iterator<Item = &'t [Row<V>]> + Clone,
        tables: &'t [Arc<Table<V>>],
        take: impl FnOnce(&[(&[u8], &V)]) -> R,
    ) -> R {
        let mut entries = look_up(cells, tables);
        assert!(entries.len() < 1 << NUMBER_BITS, "a range of so many rows does not fit any memory");
        let mut near = std::mem::take(&mut self.near);
        bring_near(&mut entries, &mut near);
        self.order_by_head(&entries);
        while let Some(tie) = self.ties.pop() {
            self.order_tie(tie, &entries);
        }
        let entry = |ordered: &u128| entries[*ordered as u32 as usize];
        let sorted: Vec<_> = self.order.iter().map(entry).map(|(key, row)| (key, &row.value)).collect();
        let taken = take(&sorted);
        self.near = near;
        taken
    }

    fn order_by_head<V>(&mut self, entries: &[(&[u8], &Row<V>)]) {
        let ranks = || entries.iter().map(|(_, row)| row.rank);
        let least = ranks().min().unwrap_or(0);
        let span = ranks().max().unwrap_or(0) - least;
        self.order.clear();
        if span >> 32 == 0 {
            self.order.extend(entries.iter().enumerate().map(|(number, (_, row))| {
                u128::from(row.rank - least) << 96 | u128::from(row.front) << NUMBER_BITS | number as u128
            }));
            self.order.sort_unstable();
            find_ties(&self.order, 0, 8, &mut self.ties);
        } else {
            let ranked = |(number, (_, row)): (usize, &(&[u8], &Row<V>))| {
                u128::from(row.rank) << NUMBER_BITS | number as u128
            };
            self.order.extend(entries.iter().enumerate().map(ranked));
            self.order.sort_unstable();
            find_ties(&self.order, 0, 0, &mut self.ties);
        }
    }

    fn order_tie<V>(&mut self, tie: Tie, entries: &[(&[u8], &Row<V>)]) {
        let Tie { start, end, mut offset } = tie;
        let order = &mut self.order[start..end];
        let key = |ordered: u128| entries[ordered as u32 as usize].0;
        if order.len() <= FEW {
            // They reach up to the chunk before this one, and are the same so far.
            let rest = |ordered: u128| key(ordered).get(offset.saturating_sub(8)..).unwrap_or_default();
            order.sort_unstable_by(|a, b| rest(*a).cmp(rest(*b)));
            return;
        }
        loop {
            for ordered in &mut *order {
                let number = u128::from(*ordered as u32);
                *ordered = chunk_of(key(*ordered), offset) << NUMBER_BITS | number;
            }
            offset += 8;
            let first = order[0] >> NUMBER_BITS;
            if order.iter().any(|ordered| ordered >> NUMBER_BITS != first) {
                break;
            }
            if !goes_on(first) {
                return;
            }
        }
        order.sort_unstable();
        find_ties(order, start, offset, &mut self.ties);
    }
}

/// Rows whose keys are fetched from memory at the same time.
const LOOKAHEAD: usize = 32;

/// Looks up the keys of all rows in `cells`.
fn look_up<'t, V>(
    cells: impl Iterator<Item = &'t [Row<V>]> + Clone,
    tables: &'t [Arc<Table<V>>],
) -> Vec<(&'t [u8], &'t Row<V>)> {
    let mut entries = Vec::with_capacity(cells.clone().map(<[_]>::len).sum());
    for rows in cells.flat_map(|cell| cell.chunks(LOOKAHEAD)) {
        rows.iter().for_each(|row| tables[row.place.table()].prefetch_entry(row.place.entry()));
        rows.iter().for_each(|row| tables[row.place.table()].prefetch_key(row.place.entry()));
        entries.extend(rows.iter().map(|row| (row.key(tables), row)));
    }
    entries
}

/// Copies the keys of `entries` to `near`, one after the other, if they are not too many bytes for that. From their
/// tables each would be fetched again for every eight of its bytes, and to be rendered.
fn bring_near<'k, V>(entries: &mut [(&'k [u8], &Row<V>)], near: &'k mut Vec<u8>) {
    let bytes: usize = entries.iter().map(|(key, _)| key.len()).sum();
    if bytes > MAX_NEAR_BYTES {
        return;
    }
    near.clear();
    near.reserve(bytes);
    entries.iter().for_each(|(key, _)| near.extend_from_slice(key));
    let mut rest = near.as_slice();
    for (key, _) in entries {
        (*key, rest) = rest.split_at(key.len());
    }
}

/// Bytes of the keys that are copied, for each thread: a range of long words has a tenth of it.
const MAX_NEAR_BYTES: usize = 8 << 20;

/// Puts the stretches of `order` whose keys are to be looked at further, from `offset`, to `ties`; `order` begins at
/// `base`.
fn find_ties(order: &[u128], base: usize, offset: usize, ties: &mut Vec<Tie>) {
    let mut start = 0;
    for end in 1..=order.len() {
        let tied = order.get(end).is_some_and(|next| next >> NUMBER_BITS == order[start] >> NUMBER_BITS);
        if !tied {
            if end - start > 1 {
                ties.push(Tie { start: base + start, end: base + end, offset });
            }
            start = end;
        }
    }
}

/// Bits for how much of a key is left.
const LEFT_BITS: u32 = 8;

/// Returns the eight bytes of `key` from `offset`, filled up with zeros, and below them how many more bytes it has
/// than `offset - 8`, as far as that matters here: of keys that are equal so far the shorter comes first.
#[inline]
fn chunk_of(key: &[u8], offset: usize) -> u128 {
    let chunk = match key.get(offset..).and_then(<[u8]>::first_chunk) {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => partial(key.get(offset..).unwrap_or_default()),
    };
    let left = (key.len().min(offset + 9) + 8).saturating_sub(offset);
    u128::from(chunk) << LEFT_BITS | left as u128
}

/// Tells whether keys that are equal up to this chunk have bytes behind it.
fn goes_on(chunk: u128) -> bool {
    chunk as u8 > 16
}

/// Returns fewer than eight bytes, filled up with zeros, as a number.
#[inline]
fn partial(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |all, &byte| all >> 8 | u64::from(byte) << 56)
}

/// Returns rank and front of a row as one number.
#[inline]
pub fn head<V>(row: &Row<V>) -> u128 {
    u128::from(row.rank) << 64 | u128::from(row.front)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::super::partition::Seed;
    use super::super::rows::rows_of;
    use super::*;

    /// Deals keys with their ranks to tables, and their rows to as many parts.
    fn deal(keys: &[(Vec<u8>, u64)], n_parts: usize) -> (Vec<Arc<Table<u64>>>, Vec<Vec<Row<u64>>>) {
        let mut tables: Vec<_> = (0..n_parts).map(|_| Table::new(Seed([1, 2]))).collect();
        for (number, (key, rank)) in keys.iter().enumerate() {
            tables[number % n_parts].fold(key, *rank, |_, _| ());
        }
        let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
        let parts = tables.iter().enumerate().map(|(number, table)| rows_of(number, table, |rank| *rank));
        let parts = parts.collect();
        (tables, parts)
    }

    /// Parts and sorts as a worker does; the entries of each range.
    fn sorted(
        keys: &[(Vec<u8>, u64)],
        n_parts: usize,
        chunk_rows: usize,
        plan: Plan,
    ) -> Vec<Vec<(Vec<u8>, u64)>> {
        let (tables, mut parts) = deal(keys, n_parts);
        let borders = Borders::choose(&parts, &tables, plan);
        let mut grouped = Vec::new();
        for chunk in parts.iter_mut().flat_map(|part| part.chunks_mut(chunk_rows)) {
            grouped.push(Grouped::group(chunk, &tables, &borders));
        }
        let chunks: Vec<&[Row<u64>]> = parts.iter().flat_map(|part| part.chunks(chunk_rows)).collect();
        let mut sorter = Sorter::default();
        let mut range = |range| {
            let cells = grouped.iter().zip(&chunks).map(|(grouped, chunk)| grouped.rows(range, chunk));
            let n: usize = grouped.iter().map(|grouped| grouped.len(range)).sum();
            sorter.sort(cells, &tables, |entries| {
                assert_eq!(entries.len(), n);
                entries.iter().map(|(key, rank)| (key.to_vec(), **rank)).collect()
            })
        };
        (0..borders.ranges()).map(&mut range).collect()
    }

    fn in_order(keys: &[(Vec<u8>, u64)]) -> Vec<(Vec<u8>, u64)> {
        let mut keys = keys.to_vec();
        keys.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        keys
    }

    #[track_caller]
    fn assert_sorts(keys: &[(Vec<u8>, u64)]) {
        let expected = in_order(keys);
        for (n_parts, range_rows, tied_rows, chunk_rows) in [
            (1, RANGE_ROWS, RANGE_ROWS, CHUNK_ROWS),
            (1, 1, 0, 1),
            (3, 5, 1000, 7),
            (2, 16, 0, 100),
            (7, 3, 20, 2),
        ] {
            let plan = Plan { range_rows, tied_rows, top: None };
            let ranges = sorted(keys, n_parts, chunk_rows, plan);
            assert!(ranges.concat() == expected, "{n_parts} parts, {chunk_rows} rows a chunk, {plan:?}");
        }
    }

    fn keys(keys: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
        keys.iter().map(|key| (key.to_vec(), 1)).collect()
    }

    #[test]
    fn a_search_counts_what_is_below() {
        for n in (0..600).chain([4094, 4095, 4096, 4097]) {
            let numbers: Vec<u128> = (1..=n).map(|number| number * 2).collect();
            let search = Search::new(&numbers);
            for head in 0..=2 * n + 3 {
                assert_eq!(search.count_below(head), numbers.partition_point(|number| *number < head));
            }
            assert_eq!(search.count_below(u128::MAX), n as usize);
        }
        assert_eq!(Search::new(&[u128::MAX; 20]).count_below(u128::MAX), 0);
    }

    #[test]
    fn nothing_and_one_row_are_in_order() {
        assert_sorts(&[]);
        assert_sorts(&keys(&[b""]));
    }

    #[test]
    fn keys_that_begin_with_others_stand_behind_them_at_every_length() {
        let long = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let all: Vec<&[u8]> = (0..=long.len()).rev().map(|len| &long[..len]).collect();
        assert_sorts(&keys(&all));
        let zeros = [0u8; 40];
        let all: Vec<&[u8]> = (0..=zeros.len()).rev().map(|len| &zeros[..len]).collect();
        assert_sorts(&keys(&all));
        let mixed: Vec<Vec<u8>> = (0..40)
            .flat_map(|len| {
                [b"".as_slice(), b"\0", b"\0\0", b"\x01", b"\xff"].map(|end| [&zeros[..len], end].concat())
            })
            .collect();
        let mut mixed: Vec<&[u8]> = mixed.iter().map(Vec::as_slice).collect();
        mixed.sort();
        mixed.dedup();
        assert_sorts(&keys(&mixed));
    }

    #[test]
    fn ranks_of_whatever_span_come_first() {
        let ranks = [0, 1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX - 1, u64::MAX];
        let keys = (0..300u64).map(|n| (format!("key{}", n * 37 % 300).into_bytes(), ranks[n as usize % 6]));
        assert_sorts(&keys.collect::<Vec<_>>());
    }

    #[test]
    fn long_equal_beginnings_need_no_stack() {
        let keys = (0..2000).map(|n| (vec![b'a'; 1 + n * 1999 % 2000 * 8], 5));
        assert_sorts(&keys.collect::<Vec<_>>());
    }

    /// All ranks and fronts are equal: only keys tell ranges apart.
    #[test]
    fn a_tie_of_all_is_parted_by_key_where_it_is_too_large_for_one_range() {
        let keys: Vec<_> = (0..10_000)
            .map(|n| (format!("COMMON_PREFIX_{:05}", n * 7919 % 10_000).into_bytes(), 1))
            .collect();
        let plan = Plan { range_rows: 500, tied_rows: 1000, top: None };
        let ranges = sorted(&keys, 3, 512, plan);
        assert!(ranges.concat() == in_order(&keys));
        assert!(ranges.len() > 15 && ranges.iter().all(|range| range.len() < 1500), "{}", ranges.len());
        let ranges = sorted(&keys, 3, 512, Plan { tied_rows: 10_000, ..plan });
        assert!(ranges.concat() == in_order(&keys));
        assert_eq!(ranges.iter().filter(|range| !range.is_empty()).count(), 1, "few enough for one range");
    }

    #[test]
    fn ranges_are_about_as_large_as_planned_and_few_where_the_top_is_wanted() {
        let keys: Vec<_> = (0..50_000u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec(), 50_000 / (n + 1)))
            .collect();
        let plan = Plan { range_rows: 1000, tied_rows: 1000, top: None };
        let ranges = sorted(&keys, 2, CHUNK_ROWS, plan);
        assert!((45..=50).contains(&ranges.len()) && ranges.iter().all(|range| range.len() < 2500));
        for top in [0, 1, 1000, 1500, 49_999, 50_000, u64::MAX] {
            let first = sorted(&keys, 2, CHUNK_ROWS, Plan { top: Some(top), ..plan });
            assert!(first.concat() == in_order(&keys));
            assert!(first.len() as u64 <= top.min(50_000) / 500 + 4, "{} ranges for {top}", first.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, rng_seed: RngSeed::Fixed(11), ..ProptestConfig::default()
        })]

        #[test]
        fn sorts_heavy_ties_and_long_common_prefixes(
            parts in prop::collection::btree_set(
                (prop::collection::vec(0usize..4, 0..5), prop::collection::vec(0u8..3, 0..4)), 0..300),
            ranks in prop::collection::vec(prop_oneof![0u64..3, any::<u64>()], 1..20),
        ) {
            let pieces: [&[u8]; 4] = [b"PREFIX_OF_ALL_", b"\0\0\0\0\0\0\0\0", b"x", b"01234567"];
            let key = |(numbers, end): &(Vec<usize>, Vec<u8>)| {
                let beginning: Vec<u8> = numbers.iter().flat_map(|n| pieces[*n].to_vec()).collect();
                [beginning, end.clone()].concat()
            };
            let mut keys: Vec<Vec<u8>> = parts.iter().map(key).collect();
            keys.sort();
            keys.dedup();
            // In an order that is not that of keys.
            keys.sort_by_key(|key| key.iter().fold(7u64, |all, byte| all.wrapping_mul(31) ^ u64::from(*byte)));
            let keys: Vec<_> =
                keys.into_iter().enumerate().map(|(n, key)| (key, ranks[n % ranks.len()])).collect();
            assert_sorts(&keys);
        }
    }
}
