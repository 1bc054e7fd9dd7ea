//! Front: the most frequent short keys of late, small enough for a core's own cache.
//!
//! Words of a text follow Zipf's law: some thousands of them are four in five of all. They are folded here, each in
//! the one place that its hash gives it, and reach the table only when they leave. A key that missed takes the place
//! of another one once in a few times only, so that rare keys seldom drive out frequent ones (the idea of bimodal
//! insertion: Qureshi et al., "Adaptive insertion policies for high performance caching", ISCA 2007).

/// Places, a power of two: 256 KiB with counts, which leaves room in the second cache for what streams through it.
pub const PLACES: usize = 8192;
const PLACE_BITS: u32 = PLACES.trailing_zeros();

/// Misses for one that takes a place.
const PATIENCE: u32 = 8;

/// A key, the number of its entry in the table, and what was folded since the key came here.
pub struct Held<V> {
    /// Zero where the place is free: no short key is.
    words: u128,
    pub number: usize,
    pub value: V,
}

pub struct Front<V> {
    /// Empty before the first key.
    places: Vec<Held<V>>,
    misses: u32,
}

impl<V> Front<V> {
    /// Makes one that holds nothing.
    pub fn new() -> Self {
        Self { places: Vec::new(), misses: 0 }
    }

    /// Makes the places, before they are looked at. `value` fills them and is never folded.
    pub fn prepare(&mut self, value: &V)
    where
        V: Clone,
    {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || Held { words: 0, number: 0, value: value.clone() });
        }
    }

    /// Returns all places, for [`place_of`], or none.
    #[inline(always)]
    pub fn places(&mut self) -> Option<&mut [Held<V>; PLACES]> {
        self.places.as_mut_slice().try_into().ok()
    }

    /// Considers a key that was not here but is in the table, as entry `number`. If it comes in, with `value` for all
    /// that is folded of it so far, what stood in its place is returned.
    #[inline]
    pub fn consider(
        &mut self,
        hash: u64,
        words: u128,
        number: usize,
        value: V,
    ) -> Result<Option<Held<V>>, V> {
        self.misses += 1;
        let Some(place) = self.places.get_mut(place_of(hash)) else { return Err(value) };
        if place.words != 0 && !self.misses.is_multiple_of(PATIENCE) {
            return Err(value);
        }
        let before = std::mem::replace(place, Held { words, number, value });
        Ok((before.words != 0).then_some(before))
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Held<V>> {
        self.places.drain(..).filter(|held| held.words != 0)
    }

    /// Returns the bytes of memory that are in use.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.places.as_slice())
    }
}

impl<V> Held<V> {
    /// Tells whether this is the key's place, and it is here.
    #[inline(always)]
    pub fn is(&self, words: u128) -> bool {
        self.words == words
    }
}

/// Returns the place of a key.
#[inline(always)]
pub fn place_of(hash: u64) -> usize {
    // Not the lowest bits, by which the table's slots are found, nor the highest, which give the partition.
    (hash >> 20) as usize & ((1 << PLACE_BITS) - 1)
}
