//! Merge: sorted streams -> one sorted stream, cut into parts that are merged apart from each other.
//!
//! Streams come in stretches. What does not stand behind the end of any stream's foremost stretch comes before all that
//! is still to arrive: it is the next part of the whole, which one thread merges while others merge other parts.
//!
//! Source: Knuth, "The Art of Computer Programming" 3, 5.4.1: a tree of losers, in which the path of the last winner
//! is played again, one comparison a level. Rank and front of a key are kept beside it, so that most comparisons are
//! those of two numbers.

use std::ops::Range;
use std::sync::Arc;

use super::rows::front_of;

/// Entries of a sorted stream, one after the other.
pub struct Stretch<V> {
    /// All keys, one after the other.
    keys: Vec<u8>,
    entries: Vec<Entry<V>>,
}

struct Entry<V> {
    /// Rank and, below it, front of the key.
    head: u128,
    /// Where the key ends. It begins where the one before ends.
    key_end: usize,
    value: V,
}

/// An entry that does not follow the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfOrder;

impl<V> Stretch<V> {
    /// Returns a stretch without entries.
    pub fn new() -> Self {
        Self { keys: Vec::new(), entries: Vec::new() }
    }

    /// Appends an entry. Its key is made of the first `shared` bytes of the key before and of `rest`.
    ///
    /// # Errors
    /// If it does not follow the entry before, by rank and then by key; it is not appended then.
    ///
    /// # Panics
    /// If the key before is shorter than `shared`.
    pub fn push(&mut self, rank: u64, shared: usize, rest: &[u8], value: V) -> Result<(), OutOfOrder> {
        let start = self.keys.len();
        let before = self.entries.last().map_or(0, |_| self.key_range(self.entries.len() - 1).start);
        self.keys.extend_from_within(before..before + shared);
        self.keys.extend_from_slice(rest);
        let head = u128::from(rank) << 64 | u128::from(front_of(&self.keys[start..]));
        if let Some(last) = self.entries.last()
            && (head < last.head || head == last.head && *rest <= self.keys[before + shared..start])
        {
            self.keys.truncate(start);
            return Err(OutOfOrder);
        }
        self.entries.push(Entry { head, key_end: self.keys.len(), value });
        Ok(())
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entries in order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.entries.iter().enumerate().map(|(index, entry)| (self.key(index), &entry.value))
    }

    /// Tells whether all of this follows `before`, the last entry of another stretch.
    pub fn follows(&self, before: &Place) -> bool {
        self.is_empty() || before.is_before(self.at(0))
    }

    /// Returns the last entry's place in the order; `None` if there is no entry.
    pub fn end(&self) -> Option<Place> {
        let (head, key) = self.at(self.len().checked_sub(1)?);
        Some(Place { head, key: key.to_vec() })
    }

    fn key_range(&self, index: usize) -> Range<usize> {
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].key_end);
        start..self.entries[index].key_end
    }

    fn key(&self, index: usize) -> &[u8] {
        &self.keys[self.key_range(index)]
    }

    /// Returns what orders an entry.
    fn at(&self, index: usize) -> (u128, &[u8]) {
        (self.entries[index].head, self.key(index))
    }

    /// Returns the first index from `start` of an entry behind `bound`.
    fn behind(&self, start: usize, bound: (u128, &[u8])) -> usize {
        let (mut low, mut high) = (start, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.at(middle) <= bound { low = middle + 1 } else { high = middle }
        }
        low
    }
}

impl<V> Default for Stretch<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where an entry stands in the order.
#[derive(Debug, Clone)]
pub struct Place {
    head: u128,
    key: Vec<u8>,
}

impl Place {
    fn is_before(&self, entry: (u128, &[u8])) -> bool {
        (self.head, self.key.as_slice()) < entry
    }
}

/// Streams that are being merged, as far as they have arrived.
pub struct Streams<V> {
    streams: Vec<Stream<V>>,
}

struct Stream<V> {
    /// The foremost stretch, and its first entry that is not in a part yet. It has such a one.
    foremost: Option<(Arc<Stretch<V>>, usize)>,
    ended: bool,
}

impl<V> Streams<V> {
    /// Makes `n` streams of which nothing has arrived.
    pub fn new(n: usize) -> Self {
        Self { streams: (0..n).map(|_| Stream { foremost: None, ended: false }).collect() }
    }

    /// Returns a stream whose next stretch, or end, must arrive before a part can be cut.
    pub fn lacking(&self) -> Option<usize> {
        self.streams.iter().position(|stream| stream.foremost.is_none() && !stream.ended)
    }

    /// Adds the next stretch of `stream`, which is lacking; `None` for its end.
    pub fn add(&mut self, stream: usize, stretch: Option<Stretch<V>>) {
        let stream = &mut self.streams[stream];
        stream.ended = stretch.is_none();
        stream.foremost = stretch.filter(|stretch| !stretch.is_empty()).map(|stretch| (Arc::new(stretch), 0));
    }

    /// Cuts the next part off all streams, of which none is lacking. `None` once all have ended.
    pub fn cut(&mut self) -> Option<Part<V>> {
        let ends = self.streams.iter().filter_map(|stream| stream.foremost.as_ref());
        let least = ends.min_by(|a, b| a.0.at(a.0.len() - 1).cmp(&b.0.at(b.0.len() - 1)))?.0.clone();
        let bound = least.at(least.len() - 1);
        let mut slices = Vec::with_capacity(self.streams.len());
        for stream in &mut self.streams {
            let Some((stretch, start)) = &mut stream.foremost else { continue };
            let end = stretch.behind(*start, bound);
            slices.push((stretch.clone(), *start..end));
            *start = end;
            if end == stretch.len() {
                stream.foremost = None;
            }
        }
        Some(Part { slices })
    }
}

/// A part of the whole: sorted pieces of different streams, to be merged.
pub struct Part<V> {
    slices: Vec<(Arc<Stretch<V>>, Range<usize>)>,
}

impl<V> Part<V> {
    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.slices.iter().map(|(_, slice)| slice.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entries in order. A key stands in one stream only; should it stand in two after all, the first one
    /// comes first.
    pub fn merged(&self) -> impl Iterator<Item = (&[u8], &V)> {
        let mut slices: Vec<_> =
            self.slices.iter().map(|(stretch, slice)| (&**stretch, slice.clone())).collect();
        let mut heads: Vec<u128> = slices.iter().map(|(stretch, slice)| head(stretch, slice)).collect();
        let mut tournament = Tournament::play(slices.len(), |a, b| beats(&slices, &heads, a, b));
        std::iter::from_fn(move || {
            let winner = tournament.winner;
            let (stretch, slice) = slices.get_mut(winner)?;
            let index = slice.next()?;
            let entry = (stretch.key(index), &stretch.entries[index].value);
            heads[winner] = head(stretch, slice);
            tournament.replay(|a, b| beats(&slices, &heads, a, b));
            Some(entry)
        })
    }
}

/// Returns the first head of a slice. Nothing beats that of an empty one, and what equals it is looked at again.
#[inline]
fn head<V>(stretch: &Stretch<V>, slice: &Range<usize>) -> u128 {
    if slice.is_empty() { u128::MAX } else { stretch.entries[slice.start].head }
}

#[inline]
fn beats<V>(slices: &[(&Stretch<V>, Range<usize>)], heads: &[u128], a: usize, b: usize) -> bool {
    if heads[a] == heads[b] { beats_by_key(slices, a, b) } else { heads[a] < heads[b] }
}

fn beats_by_key<V>(slices: &[(&Stretch<V>, Range<usize>)], a: usize, b: usize) -> bool {
    let key = |slice: usize| {
        let (stretch, slice) = &slices[slice];
        (!slice.is_empty()).then(|| stretch.key(slice.start))
    };
    match (key(a), key(b)) {
        (Some(one), Some(other)) => (one, a) < (other, b),
        (one, _) => one.is_some(),
    }
}

/// A knockout among players known by number.
///
/// The tree is kept as a heap: match `m` takes the winners of `2m` and `2m + 1`, and player `p` of `n` is leaf
/// `n + p`. That holds for any number of players, not for powers of two only.
struct Tournament {
    /// Who lost match `m`; there is no match 0.
    losers: Vec<usize>,
    /// A number that nobody has if there are no players.
    winner: usize,
}

impl Tournament {
    /// Plays all matches.
    fn play(n_players: usize, beats: impl Fn(usize, usize) -> bool) -> Self {
        let mut losers = vec![0; n_players];
        let mut winners: Vec<usize> = (0..2 * n_players).map(|leaf| leaf.wrapping_sub(n_players)).collect();
        for at in (1..n_players).rev() {
            let (a, b) = (winners[2 * at], winners[2 * at + 1]);
            (winners[at], losers[at]) = if beats(b, a) { (b, a) } else { (a, b) };
        }
        // A single player is both leaf and root.
        let winner = winners.get(1).copied().unwrap_or(0);
        Self { losers, winner }
    }

    /// Plays the matches of the last winner again, who has changed.
    #[inline]
    fn replay(&mut self, beats: impl Fn(usize, usize) -> bool) {
        let mut winner = self.winner;
        let mut at = (self.losers.len() + winner) / 2;
        while at > 0 {
            if beats(self.losers[at], winner) {
                std::mem::swap(&mut self.losers[at], &mut winner);
            }
            at /= 2;
        }
        self.winner = winner;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    type Ranked = (u64, Vec<u8>);

    /// Makes a stretch of `entries`; keys are pushed as wholes and as what they share in turn. Values are ranks.
    fn stretch(entries: &[Ranked]) -> Stretch<u64> {
        let mut stretch = Stretch::new();
        let mut before: &[u8] = b"";
        for (number, (rank, key)) in entries.iter().enumerate() {
            let common = before.iter().zip(key).take_while(|(a, b)| a == b).count();
            let shared = if number % 3 == 0 { 0 } else { common };
            stretch.push(*rank, shared, &key[shared..], *rank).expect("in order");
            before = key;
        }
        stretch
    }

    /// Merges `streams`, each in stretches of `n` entries, and returns the parts.
    fn parts(streams: &[Vec<Ranked>], n: usize) -> Vec<Vec<Ranked>> {
        let mut arriving: Vec<_> = streams.iter().map(|stream| stream.chunks(n)).collect();
        let mut merging = Streams::new(streams.len());
        let mut parts = Vec::new();
        loop {
            while let Some(lacking) = merging.lacking() {
                merging.add(lacking, arriving[lacking].next().map(stretch));
            }
            let Some(part) = merging.cut() else { break };
            let merged: Vec<_> = part.merged().map(|(key, rank)| (*rank, key.to_vec())).collect();
            assert_eq!((merged.len(), merged.is_empty()), (part.len(), part.is_empty()));
            assert!(!merged.is_empty(), "each part has something");
            parts.push(merged);
        }
        parts
    }

    /// Deals keys, one for each of `ranks`, to the streams that are named beside them, and sorts each stream.
    fn deal(ranks: &[(u64, usize)], n_streams: usize) -> Vec<Vec<Ranked>> {
        let mut streams = vec![Vec::new(); n_streams];
        for (number, &(rank, stream)) in ranks.iter().enumerate() {
            let key = match number % 3 {
                0 => format!("key-{number}"),
                1 => format!("{number}"),
                _ => format!("{:\0<1$}", number, number % 12),
            };
            streams[stream % n_streams].push((rank, key.into_bytes()));
        }
        streams.iter_mut().for_each(|stream| stream.sort());
        streams
    }

    #[track_caller]
    fn assert_merges(streams: &[Vec<Ranked>], n: usize) {
        let mut expected = streams.concat();
        expected.sort();
        assert!(parts(streams, n).concat() == expected, "{} streams in stretches of {n}", streams.len());
    }

    #[test]
    fn nothing_merges_to_nothing() {
        assert_merges(&[], 1);
        assert_merges(&vec![Vec::new(); 1000], 1);
    }

    #[test]
    fn every_number_of_streams_is_merged() {
        for n_streams in (1..70).chain([127, 128, 129, 1000]) {
            let ranks: Vec<(u64, usize)> =
                (0..3000).map(|n| (n * 7919 % 101, n as usize * 31 % 4096)).collect();
            for n in [1, 7, 100_000] {
                assert_merges(&deal(&ranks, n_streams), n);
            }
        }
    }

    #[test]
    fn the_greatest_head_of_all_is_an_entry_like_others() {
        let last = |more: &[u8]| (u64::MAX, [&[0xff; 8], more].concat());
        assert_merges(&[vec![last(b"a")], vec![], vec![last(b""), last(b"b")], vec![(1, b"x".to_vec())]], 2);
    }

    /// Streams that move on at the same pace give parts of about one stretch of each.
    #[test]
    fn parts_are_as_large_as_what_has_arrived() {
        let ranks: Vec<_> = (0..8000u64).map(|n| (n * 7919 % 8000, n as usize)).collect();
        let parts = parts(&deal(&ranks, 8), 100);
        assert!(parts.len() <= 80 && parts.iter().all(|part| part.len() <= 800), "{}", parts.len());
    }

    #[test]
    fn an_entry_that_does_not_follow_is_refused() {
        let mut stretch = Stretch::new();
        stretch.push(5, 0, b"prefix-b", ()).expect("the first one");
        for (rank, shared, rest) in [(4, 0, &b"z"[..]), (5, 7, b"b"), (5, 7, b"a"), (5, 8, b""), (5, 0, b"a")]
        {
            assert_eq!(stretch.push(rank, shared, rest, ()), Err(OutOfOrder));
        }
        stretch.push(5, 8, b"\0", ()).expect("it follows");
        stretch.push(6, 0, b"", ()).expect("it follows");
        assert_eq!(stretch.len(), 3);
        assert_eq!(stretch.key(1), b"prefix-b\0");
        let keys: Vec<&[u8]> = stretch.entries().map(|(key, ())| key).collect();
        assert_eq!(keys, [&b"prefix-b"[..], b"prefix-b\0", b""]);
        let end = stretch.end().expect("it has entries");
        assert!(!stretch.follows(&end) && Stretch::<()>::new().follows(&end));
        let mut next = Stretch::new();
        next.push(6, 0, b"\0", ()).expect("the first one");
        assert!(next.follows(&end));
    }

    #[test]
    fn a_key_in_two_streams_comes_twice() {
        let key = |key: &[u8]| (1, key.to_vec());
        assert_merges(&[vec![key(b"a")], vec![key(b"a"), key(b"b")]], 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default()
        })]

        #[test]
        fn merge_is_sort(
            ranks in prop::collection::vec((0u64..20, any::<usize>()), 0..200),
            n_streams in 1usize..40,
            n in 1usize..50,
        ) {
            assert_merges(&deal(&ranks, n_streams), n);
        }
    }
}
