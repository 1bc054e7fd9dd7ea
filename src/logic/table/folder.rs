//! Folder: pairs on their way into a table, looked up many at a time.
//!
//! A lookup in a large table waits for memory two or three times: for a slot, for the entry that it names, and for a
//! long key. So pairs go in groups, and each step is taken for a whole group before the next one, with the memory of
//! that one on its way (group prefetching: Chen et al., "Improving hash join performance through prefetching", ICDE
//! 2004). And what is taken for all keys alike is taken without a branch that a processor could mispredict: a third
//! of the time of a straightforward loop over words goes there.

use super::front::{Front, Held, PLACES, place_of};
use super::memory::prefetch;
use super::{FREE, GROUP, SHORT_BYTES, Table, has_tag, long_number, number_of, words_of};
use crate::job::{Emit, Span};
use crate::logic::partition::KeyHash;
use crate::logic::partition::Seed;

/// Folds the pairs of many splits into one table.
pub struct Folder<V, H = Seed> {
    table: Table<V, H>,
    front: Front<V>,
    waiting: Vec<Waiting<V>>,
    lists: Box<Lists>,
}

/// A pair with a short key.
struct Waiting<V> {
    key: Hashed,
    value: V,
}

/// A short key that is not in the front.
#[derive(Clone, Copy)]
struct Hashed {
    words: u128,
    hash: u64,
}

/// What becomes of the keys of one pass, each list filled from its front.
struct Lists {
    /// Places in the front.
    hits: [u16; PASS],
    misses: [Hashed; PASS],
    long: [Span; PASS],
}

/// Keys that are sorted into lists at once; their lists stay in the fastest cache.
const PASS: usize = 1024;

impl<V: Clone, H: KeyHash> Folder<V, H> {
    /// Makes a folder with an empty table.
    pub fn new(hasher: H) -> Self {
        let misses = [Hashed { words: 0, hash: 0 }; PASS];
        let lists = Box::new(Lists { hits: [0; PASS], misses, long: [[0; 2]; PASS] });
        Self { table: Table::new(hasher), front: Front::new(), waiting: Vec::new(), lists }
    }

    /// Takes pairs, which are folded with `combine`, until [`Batch::finish`].
    pub fn batch<C: Fn(&mut V, V)>(&mut self, combine: C) -> Batch<'_, V, H, C> {
        Batch { folder: self, combine, pairs: 0 }
    }

    /// Returns the table with all that was folded.
    pub fn finish(mut self, combine: impl Fn(&mut V, V)) -> Table<V, H> {
        for held in self.front.drain() {
            self.table.combine_short(held.number, held.value, &combine);
        }
        self.table
    }

    /// Returns the bytes of memory that are held, without what values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.front.memory_bytes()
    }
}

/// Pairs that are folded with the same `combine`.
pub struct Batch<'f, V, H, C> {
    folder: &'f mut Folder<V, H>,
    combine: C,
    pairs: u64,
}

impl<V: Clone, H: KeyHash, C: Fn(&mut V, V)> Emit<V> for Batch<'_, V, H, C> {
    #[inline]
    fn pair(&mut self, key: &[u8], value: V) {
        self.pairs += 1;
        self.fold(key, value);
    }

    #[inline]
    fn spans(&mut self, text: &[u8], spans: &[Span], value: V) {
        self.pairs += spans.len() as u64;
        for spans in spans.chunks(PASS) {
            self.fold_spans(text, spans, &value);
        }
    }
}

impl<V: Clone, H: KeyHash, C: Fn(&mut V, V)> Batch<'_, V, H, C> {
    /// Folds what waits, and returns how many pairs there were in all.
    pub fn finish(mut self) -> u64 {
        self.fold_waiting();
        self.pairs
    }

    #[inline]
    fn fold(&mut self, key: &[u8], value: V) {
        let table = &mut self.folder.table;
        let Some(words) = words_of(key) else {
            table.reserve(1);
            return table.fold_long(table.hasher.of_bytes(key), key, value, &self.combine);
        };
        let key = Hashed { words, hash: table.hasher.of_words(words) };
        if let Some(places) = self.folder.front.places()
            && let held = &mut places[place_of(key.hash)]
            && held.is(words)
        {
            return (self.combine)(&mut held.value, value);
        }
        self.folder.waiting.push(Waiting { key, value });
        if self.folder.waiting.len() >= GROUP {
            self.fold_waiting();
        }
    }

    fn fold_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.folder.waiting);
        let mut keys = [Hashed { words: 0, hash: 0 }; GROUP];
        while !waiting.is_empty() {
            let n = waiting.len().min(GROUP);
            for (key, waiting) in keys.iter_mut().zip(&waiting[..n]) {
                *key = waiting.key;
            }
            let values = waiting.drain(..n).map(|waiting| waiting.value);
            fold_group(&mut self.folder.table, &mut self.folder.front, &keys[..n], values, &self.combine);
        }
        // Its memory is used again.
        self.folder.waiting = waiting;
    }

    /// Folds `value` under each of up to [`PASS`] keys.
    fn fold_spans(&mut self, text: &[u8], spans: &[Span], value: &V) {
        let Some((&[begin, _], &[_, end])) = spans.first().zip(spans.last()) else { return };
        let is_cheap = !std::mem::needs_drop::<V>() && size_of::<V>() <= CHEAP_BYTES;
        // A short key ends with no zero; a text without zeros has none at all.
        if !is_cheap || text[begin as usize..end as usize].contains(&0) {
            return spans
                .iter()
                .for_each(|&[start, end]| self.fold(key_of(text, [start, end]), value.clone()));
        }
        let Folder { table, front, lists, .. } = &mut *self.folder;
        front.prepare(value);
        let Some(places) = front.places() else { return };
        // Sixteen bytes are read of each key, whatever its length.
        let whole = spans.iter().rposition(|&[start, _]| start as usize + SHORT_BYTES <= text.len());
        let (spans, last) = spans.split_at(whole.map_or(0, |at| at + 1));
        let (n_hits, n_misses, n_long) = sort_out(table.hasher, text, spans, places, lists);
        for &place in &lists.hits[..n_hits] {
            (self.combine)(&mut places[place as usize % PLACES].value, value.clone());
        }
        for keys in lists.misses[..n_misses].chunks(GROUP) {
            fold_group(table, front, keys, std::iter::repeat_n(value.clone(), keys.len()), &self.combine);
        }
        for spans in lists.long[..n_long].chunks(GROUP) {
            fold_long_group(table, text, spans, value, &self.combine);
        }
        last.iter().for_each(|&span| self.fold(key_of(text, span), value.clone()));
    }
}

/// Bytes of the largest value that is copied into the front.
const CHEAP_BYTES: usize = 16;

/// Keeps the first bytes of sixteen, by their number.
const MASKS: [u128; SHORT_BYTES + 1] = {
    let mut masks = [0; SHORT_BYTES + 1];
    let mut n = 1;
    while n <= SHORT_BYTES {
        masks[n] = masks[n - 1] << 8 | 0xff;
        n += 1;
    }
    masks
};

#[inline]
fn key_of(text: &[u8], [start, end]: Span) -> &[u8] {
    &text[start as usize..end as usize]
}

/// Sorts the keys at `spans` of `text` into the lists, and returns how many are in each. Behind the start of each key
/// there are sixteen bytes.
#[inline]
fn sort_out<V, H: KeyHash>(
    hasher: H,
    text: &[u8],
    spans: &[Span],
    places: &[Held<V>; PLACES],
    lists: &mut Lists,
) -> (usize, usize, usize) {
    let (mut n_hits, mut n_misses, mut n_long) = (0, 0, 0);
    for &[start, end] in spans {
        let len = (end - start) as usize;
        // An empty key is a long one.
        let is_short = len.wrapping_sub(1) < SHORT_BYTES;
        let Some(bytes) = text[start as usize..].first_chunk() else { continue };
        let words = u128::from_le_bytes(*bytes) & MASKS[len.min(SHORT_BYTES)];
        let hash = hasher.of_words(words);
        let place = place_of(hash);
        let is_hit = is_short & places[place].is(words);
        // Each is written to every list, and counted in the one that it belongs to.
        lists.hits[n_hits % PASS] = place as u16;
        n_hits += usize::from(is_hit);
        lists.misses[n_misses % PASS] = Hashed { words, hash };
        n_misses += usize::from(is_short & !is_hit);
        lists.long[n_long % PASS] = [start, end];
        n_long += usize::from(!is_short);
    }
    (n_hits, n_misses, n_long)
}

/// Folds pairs with short keys, at most [`GROUP`].
#[inline]
fn fold_group<V: Clone, H: KeyHash>(
    table: &mut Table<V, H>,
    front: &mut Front<V>,
    keys: &[Hashed],
    values: impl Iterator<Item = V>,
    combine: impl Fn(&mut V, V),
) {
    table.reserve(keys.len());
    for key in keys {
        prefetch(&table.slots, table.first_slot(key.hash));
    }
    let mut first = [FREE; GROUP];
    for (slot, key) in first.iter_mut().zip(keys) {
        *slot = table.slots[table.first_slot(key.hash)];
        if *slot != FREE {
            table.short.prefetch(number_of(*slot) as usize);
        }
    }
    for ((&Hashed { words, hash }, value), slot) in keys.iter().zip(values).zip(first) {
        let found = if slot != FREE && has_tag(slot, hash) && table.is_short_at(slot, words) {
            Ok(number_of(slot) as usize)
        } else {
            table.find_short(hash, words)
        };
        match found {
            Err(at) => table.insert_short(at, hash, words, value),
            Ok(number) => match front.consider(hash, words, number, value) {
                Err(value) => table.combine_short(number, value, &combine),
                Ok(Some(left)) => table.combine_short(left.number, left.value, &combine),
                Ok(None) => {}
            },
        }
    }
}

/// Folds `value` under long keys of `text`, at most [`GROUP`].
#[inline]
fn fold_long_group<V: Clone, H: KeyHash>(
    table: &mut Table<V, H>,
    text: &[u8],
    spans: &[Span],
    value: &V,
    combine: impl Fn(&mut V, V),
) {
    table.reserve(spans.len());
    let mut hashes = [0; GROUP];
    for (hash, &span) in hashes.iter_mut().zip(spans) {
        *hash = table.hasher.of_bytes(key_of(text, span));
        prefetch(&table.slots, table.first_slot(*hash));
    }
    let mut numbers = [usize::MAX; GROUP];
    for (number, &hash) in numbers.iter_mut().zip(&hashes[..spans.len()]) {
        let slot = table.slots[table.first_slot(hash)];
        if slot != FREE && has_tag(slot, hash) {
            *number = long_number(number_of(slot)).unwrap_or(usize::MAX);
            table.long.prefetch(*number);
        }
    }
    for &number in &numbers[..spans.len()] {
        if let Some(entry) = table.long.get(number) {
            table.texts.prefetch(entry.place);
        }
    }
    for (&span, hash) in spans.iter().zip(hashes) {
        table.fold_long(hash, key_of(text, span), value.clone(), &combine);
    }
}
