//! Folder: pairs on their way into a table, many at a time.
//!
//! A lookup in a large table waits for memory two or three times: for a slot, for the entry that it names, and for a
//! long key. So pairs go in groups, and each step is taken for a whole group while the memory of its next step is
//! fetched, behind the work on the groups after it (group prefetching: Chen et al., "Improving hash join performance
//! through prefetching", ICDE 2004). And what is done for all keys alike is done without a branch that a processor
//! could mispredict: a third of the time of a straightforward loop over words goes there.

use super::front::Front;
use super::memory::prefetch;
use super::{FREE, GROUP, SHORT_BYTES, Table, words_of};
use crate::job::{Emit, Span};
use crate::logic::partition::{KeyHash, Seed};

/// Folds the pairs of many splits into one table.
pub struct Folder<V, H = Seed> {
    table: Table<V, H>,
    tiny: Front<u64, V, TINY_PLACES>,
    small: Front<u128, V, SMALL_PLACES>,
    /// Pairs whose slots are being fetched.
    probing: Vec<Waiting<V>>,
    /// Pairs whose entries are being fetched: those of these numbers, which their first slots name.
    checking: Vec<(Waiting<V>, Option<usize>)>,
    /// What has left the fronts, by the numbers of its entries, which are being fetched.
    left: Vec<(usize, V)>,
    long: Gathered<V>,
    lists: Box<Lists>,
}

/// Pairs with long keys.
struct Gathered<V> {
    text: Vec<u8>,
    spans: Vec<Span>,
    values: Vec<V>,
}

impl<V> Default for Gathered<V> {
    fn default() -> Self {
        Self { text: Vec::new(), spans: Vec::new(), values: Vec::new() }
    }
}

/// Bytes of a long key above which it is folded at once: copying it would cost more than waiting for memory.
const GATHERED_BYTES: usize = 1 << 10;

/// A pair with a short key.
struct Waiting<V> {
    hash: u64,
    words: [u64; 2],
    value: V,
}

/// What becomes of the keys of one pass: each list is filled from its front.
struct Lists {
    /// Places in a front.
    hits: [u16; PASS],
    /// Short keys that are in no front.
    misses: [[u64; 2]; PASS],
    /// Keys of more than eight bytes, and then those of more than sixteen.
    longer: [Span; PASS],
}

/// Keys that are sorted out at once. What they touch stays in the fastest cache, and going over them takes about as
/// long as memory takes to answer.
const PASS: usize = 512;

/// Places of the fronts for keys of up to eight and sixteen bytes: together about 400 KiB with counts, of which most
/// is seldom touched; more gained nothing (benches/table.rs).
const TINY_PLACES: usize = 16 << 10;
const SMALL_PLACES: usize = 4 << 10;

/// Bytes of the largest value that is kept in the fronts.
const CHEAP_BYTES: usize = 16;

impl<V, H: KeyHash> Folder<V, H> {
    /// Makes a folder with an empty table.
    pub fn new(hasher: H) -> Self {
        Self {
            table: Table::new(hasher),
            tiny: Front::new(),
            small: Front::new(),
            probing: Vec::new(),
            checking: Vec::new(),
            left: Vec::new(),
            long: Gathered::default(),
            lists: Box::new(Lists { hits: [0; PASS], misses: [[0; 2]; PASS], longer: [[0; 2]; PASS] }),
        }
    }

    /// Takes pairs, which are folded with `combine`, until [`Batch::finish`].
    pub fn batch<C: Fn(&mut V, V)>(&mut self, combine: C) -> Batch<'_, V, H, C> {
        Batch { folder: self, combine, pairs: 0 }
    }

    /// Returns the table with all that was folded.
    pub fn finish(mut self, combine: impl Fn(&mut V, V)) -> Table<V, H> {
        self.settle(combine);
        self.table
    }

    /// Takes out the table with all that was folded. What comes after that goes into an empty one.
    pub fn take(&mut self, combine: impl Fn(&mut V, V)) -> Table<V, H> {
        self.settle(combine);
        let empty = Table::new(self.table.hasher);
        std::mem::replace(&mut self.table, empty)
    }

    /// Folds what is in the fronts, and has left them, into the table. Once a table: apart from what is hot.
    #[cold]
    #[inline(never)]
    fn settle(&mut self, combine: impl Fn(&mut V, V)) {
        for (number, value) in self.left.drain(..).chain(self.tiny.drain()).chain(self.small.drain()) {
            self.table.combine_short(number, value, &combine);
        }
    }

    /// Returns the bytes of memory that are held, without what values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.tiny.memory_bytes() + self.small.memory_bytes()
    }

    /// Has the table hold at least `n` keys before it grows again.
    pub fn reserve(&mut self, n: usize) {
        self.table.reserve(n);
    }

    /// Folds the pairs with long keys that were gathered.
    fn fold_gathered(&mut self, combine: impl Fn(&mut V, V)) {
        // Taken out, so that nothing of it is left should `combine` panic.
        let Gathered { mut text, mut spans, mut values } = std::mem::take(&mut self.long);
        if !spans.is_empty() {
            fold_long_group(&mut self.table, &text, &spans, values.drain(..), combine);
            text.clear();
            spans.clear();
        }
        self.long = Gathered { text, spans, values };
    }

    /// Folds the pairs whose entries were fetched, and has those of the others fetched.
    fn advance(&mut self, combine: impl Fn(&mut V, V)) {
        for (number, value) in self.left.drain(..) {
            self.table.combine_short(number, value, &combine);
        }
        let mut checking = std::mem::take(&mut self.checking);
        self.table.reserve(checking.len());
        for (pair, first) in checking.drain(..) {
            self.fold_checked(pair, first, &combine);
        }
        for pair in self.probing.drain(..) {
            let slot = self.table.slots.get(self.table.first_slot(pair.hash)).copied().unwrap_or(FREE);
            let first = self.table.short_at(slot, pair.hash);
            if let Some(number) = first {
                self.table.short.prefetch(number);
            }
            checking.push((pair, first));
        }
        self.checking = checking;
    }

    /// Folds a pair, whose first slot named the entry `first` a while ago: it may since have been taken, or moved, but
    /// entries stay what they are.
    #[inline]
    fn fold_checked(&mut self, pair: Waiting<V>, first: Option<usize>, combine: impl Fn(&mut V, V)) {
        let Waiting { hash, words, value } = pair;
        let key = number(words);
        let found = match first.filter(|&number| self.table.is_short(number, key)) {
            Some(number) => Ok(number),
            None => self.table.find_short(hash, key),
        };
        let number = match found {
            Ok(number) => number,
            Err(at) => return self.table.insert_short(at, hash, key, value),
        };
        let considered = match words {
            [word, 0] => self.tiny.consider(tiny_place(word), word, number, value),
            _ => self.small.consider(small_place(words), key, number, value),
        };
        match considered {
            Err(value) => self.table.combine_short(number, value, &combine),
            Ok(Some((number, value))) => {
                self.table.short.prefetch(number);
                self.left.push((number, value));
            }
            Ok(None) => {}
        }
    }

    #[inline]
    fn probe(&mut self, words: [u64; 2], value: V) {
        let hash = self.table.hasher.of_words(number(words));
        prefetch(&self.table.slots, self.table.first_slot(hash));
        self.probing.push(Waiting { hash, words, value });
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
    /// Returns the bytes of memory that the folder holds, without what values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        self.folder.memory_bytes()
    }

    /// Folds what waits, and returns how many pairs there were in all.
    pub fn finish(self) -> u64 {
        self.folder.advance(&self.combine);
        self.folder.advance(&self.combine);
        self.folder.fold_gathered(&self.combine);
        self.pairs
    }

    #[inline]
    fn fold(&mut self, key: &[u8], value: V) {
        let Some(words) = words_of(key) else { return self.fold_long(key, value) };
        if self.folder.probing.len() >= GROUP {
            self.folder.advance(&self.combine);
        }
        self.folder.probe([words as u64, (words >> 64) as u64], value);
    }

    fn fold_long(&mut self, key: &[u8], value: V) {
        let Folder { table, long, .. } = &mut *self.folder;
        if key.len() > GATHERED_BYTES {
            table.reserve(1);
            return table.fold_long(table.hasher.of_bytes(key), key, value, &self.combine);
        }
        let start = long.text.len() as u32;
        long.text.extend_from_slice(key);
        long.spans.push([start, start + key.len() as u32]);
        long.values.push(value);
        if long.spans.len() >= GROUP {
            self.folder.fold_gathered(&self.combine);
        }
    }

    /// Folds `value` under each of up to [`PASS`] keys.
    fn fold_spans(&mut self, text: &[u8], spans: &[Span], value: &V) {
        let Some(&first) = spans.first() else { return };
        // A key may lie within the one before it.
        let [begin, end] = spans.iter().fold(first, |all, span| [all[0].min(span[0]), all[1].max(span[1])]);
        let is_cheap = !std::mem::needs_drop::<V>() && size_of::<V>() <= CHEAP_BYTES;
        // A short key ends with no zero; a text without zeros has none at all.
        if !is_cheap || text[begin as usize..end as usize].contains(&0) {
            return spans.iter().for_each(|&span| self.fold(key_of(text, span), value.clone()));
        }
        // Sixteen bytes are read of each key, whatever its length.
        let whole = spans.iter().rposition(|&[start, _]| start as usize + SHORT_BYTES <= text.len());
        let (spans, last) = spans.split_at(whole.map_or(0, |at| at + 1));
        let (n_misses, n_long) = self.fold_in_fronts(text, spans, value);
        self.folder.advance(&self.combine);
        for at in 0..n_misses {
            self.folder.probe(self.folder.lists.misses[at], value.clone());
        }
        let Folder { table, lists, .. } = &mut *self.folder;
        for spans in lists.longer[..n_long].chunks(GROUP) {
            let values = std::iter::repeat_n(value.clone(), spans.len());
            fold_long_group(table, text, spans, values, &self.combine);
        }
        last.iter().for_each(|&span| self.fold(key_of(text, span), value.clone()));
    }

    /// Folds `value` under those keys that the fronts hold, and lists the others: how many are short, and long.
    #[inline]
    fn fold_in_fronts(&mut self, text: &[u8], spans: &[Span], value: &V) -> (usize, usize) {
        let Folder { tiny, small, lists, .. } = &mut *self.folder;
        let (keys, values) = tiny.places(value);
        let (n_hits, n_misses, n_longer) = sort_out_tiny(text, spans, keys, lists);
        for &place in &lists.hits[..n_hits] {
            (self.combine)(&mut values[place as usize % TINY_PLACES], value.clone());
        }
        let (keys, values) = small.places(value);
        let (n_hits, n_misses, n_long) = sort_out_small(text, n_longer, keys, lists, n_misses);
        for &place in &lists.hits[..n_hits] {
            (self.combine)(&mut values[place as usize % SMALL_PLACES], value.clone());
        }
        (n_misses, n_long)
    }
}

/// Sorts out the keys at `spans` of `text`, each with eight bytes or more from its start: how many of up to eight
/// bytes are in the front, and are not, and how many are longer.
#[inline]
fn sort_out_tiny(
    text: &[u8],
    spans: &[Span],
    places: &[u64; TINY_PLACES],
    lists: &mut Lists,
) -> (usize, usize, usize) {
    let (mut n_hits, mut n_misses, mut n_longer) = (0, 0, 0);
    for &[start, end] in spans {
        let Some(bytes) = text[start as usize..].first_chunk() else { panic!("{UNORDERED}") };
        let len = end - start;
        // An empty key counts as a longer one.
        let is_tiny = len.wrapping_sub(1) < 8;
        let surplus = 8u32.wrapping_sub(len) % 8 * 8;
        let word = u64::from_le_bytes(*bytes) << surplus >> surplus;
        let place = tiny_place(word);
        let is_hit = is_tiny & (places[place] == word);
        // Each is written to every list, and counted in the one that it belongs to.
        lists.hits[n_hits % PASS] = place as u16;
        n_hits += usize::from(is_hit);
        lists.misses[n_misses % PASS] = [word, 0];
        n_misses += usize::from(is_tiny & !is_hit);
        lists.longer[n_longer % PASS] = [start, end];
        n_longer += usize::from(!is_tiny);
    }
    (n_hits, n_misses, n_longer)
}

/// Sorts out the first `n_longer` of the longer keys, in the same manner, behind the `n_misses` that are there.
#[inline]
fn sort_out_small(
    text: &[u8],
    n_longer: usize,
    places: &[u128; SMALL_PLACES],
    lists: &mut Lists,
    mut n_misses: usize,
) -> (usize, usize, usize) {
    let (mut n_hits, mut n_long) = (0, 0);
    for at in 0..n_longer {
        let [start, end] = lists.longer[at % PASS];
        let Some(bytes) = text[start as usize..].first_chunk() else { panic!("{UNORDERED}") };
        let len = (end - start) as usize;
        let is_short = len.wrapping_sub(1) < SHORT_BYTES;
        let key = u128::from_le_bytes(*bytes) & MASKS[len.min(SHORT_BYTES)];
        let words = [key as u64, (key >> 64) as u64];
        let place = small_place(words);
        let is_hit = is_short & (places[place] == key);
        lists.hits[n_hits % PASS] = place as u16;
        n_hits += usize::from(is_hit);
        lists.misses[n_misses % PASS] = words;
        n_misses += usize::from(is_short & !is_hit);
        // Never ahead of what is read.
        lists.longer[n_long % PASS] = [start, end];
        n_long += usize::from(!is_short);
    }
    (n_hits, n_misses, n_long)
}

/// What a job is told whose spans are not what [`Emit::spans`] asks for.
const UNORDERED: &str = "the spans that a job emits stand in the order of their starts";

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

/// Odd numbers whose products' high bits depend on all bits below (the golden ratio's and another one).
const MIXERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x8cb9_2ba7_2f3d_8dd7];

/// Returns the place in the front of a key of up to eight bytes.
#[inline(always)]
fn tiny_place(word: u64) -> usize {
    (word.wrapping_mul(MIXERS[0]) >> (u64::BITS - TINY_PLACES.trailing_zeros())) as usize
}

/// Returns the place in the front of a key of up to sixteen bytes.
#[inline(always)]
fn small_place(words: [u64; 2]) -> usize {
    let mixed = words[0].wrapping_mul(MIXERS[0]) ^ words[1].wrapping_mul(MIXERS[1]);
    (mixed >> (u64::BITS - SMALL_PLACES.trailing_zeros())) as usize
}

#[inline(always)]
fn number(words: [u64; 2]) -> u128 {
    u128::from(words[0]) | u128::from(words[1]) << 64
}

#[inline]
fn key_of(text: &[u8], [start, end]: Span) -> &[u8] {
    &text[start as usize..end as usize]
}

/// Folds values under long keys of `text`, at most [`GROUP`].
#[inline]
fn fold_long_group<V, H: KeyHash>(
    table: &mut Table<V, H>,
    text: &[u8],
    spans: &[Span],
    values: impl Iterator<Item = V>,
    combine: impl Fn(&mut V, V),
) {
    table.reserve(spans.len());
    let mut hashes = [0; GROUP];
    for (hash, &span) in hashes.iter_mut().zip(spans) {
        *hash = table.hasher.of_bytes(key_of(text, span));
        prefetch(&table.slots, table.first_slot(*hash));
    }
    let mut numbers = [None; GROUP];
    for (number, &hash) in numbers.iter_mut().zip(&hashes[..spans.len()]) {
        *number = table.long_at(table.slots[table.first_slot(hash)], hash);
        if let Some(number) = *number {
            table.long.prefetch(number);
        }
    }
    for number in numbers.into_iter().flatten() {
        if let Some(entry) = table.long.get(number) {
            table.texts.prefetch(entry.place);
        }
    }
    for ((&span, hash), value) in spans.iter().zip(hashes).zip(values) {
        table.fold_long(hash, key_of(text, span), value, &combine);
    }
}
