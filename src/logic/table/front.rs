//! Front: the most frequent short keys of late, small enough for a core's own cache.
//!
//! Words of a text follow Zipf's law: some thousands of them are four in five of all. They are folded here, each in
//! the one place that a hash gives it, and reach the table only when they leave. A key that missed takes the place of
//! another one once in a few times only, so that rare keys seldom drive out frequent ones (the idea of bimodal
//! insertion: Qureshi et al., "Adaptive insertion policies for high performance caching", ISCA 2007).

/// Misses for one that takes a place.
const PATIENCE: u32 = 8;

/// Keys of one width in `PLACES` places, a power of two.
pub struct Front<K, V, const PLACES: usize> {
    /// All empty before the first key. A key of zeros stands where a place is free: no short key is.
    keys: Vec<K>,
    /// What was folded of each key since it came here.
    values: Vec<V>,
    /// The numbers of the keys' entries in the table.
    numbers: Vec<usize>,
    misses: u32,
}

impl<K: Copy + Eq + Default, V, const PLACES: usize> Front<K, V, PLACES> {
    /// Makes one that holds nothing.
    pub fn new() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), numbers: Vec::new(), misses: 0 }
    }

    /// Returns the keys in all places and their values. Before the first time there are none, and `value` fills the
    /// places of the new ones; it is never folded.
    #[inline(always)]
    pub fn places(&mut self, value: &V) -> (&[K; PLACES], &mut [V; PLACES])
    where
        V: Clone,
    {
        if self.keys.len() != PLACES {
            self.fill(value);
        }
        match (self.keys.as_slice().try_into(), self.values.as_mut_slice().try_into()) {
            (Ok(keys), Ok(values)) => (keys, values),
            _ => unreachable!("there are as many keys and values as places"),
        }
    }

    /// Makes the places, in the memory of earlier ones if there is any.
    #[cold]
    #[inline(never)]
    fn fill(&mut self, value: &V)
    where
        V: Clone,
    {
        self.keys.resize(PLACES, K::default());
        self.values.resize(PLACES, value.clone());
        self.numbers.resize(PLACES, 0);
    }

    /// Considers a key that was not in its place but is in the table, as entry `number`. If it comes in, with `value`
    /// for all that is folded of it so far, what stood there before is returned.
    #[inline]
    pub fn consider(
        &mut self,
        place: usize,
        key: K,
        number: usize,
        value: V,
    ) -> Result<Option<(usize, V)>, V> {
        let (Some(held), Some(old), Some(at)) =
            (self.keys.get_mut(place), self.values.get_mut(place), self.numbers.get_mut(place))
        else {
            return Err(value);
        };
        self.misses = self.misses.wrapping_add(1);
        let is_free = *held == K::default();
        if !is_free && !self.misses.is_multiple_of(PATIENCE) {
            return Err(value);
        }
        *held = key;
        let (number, value) = (std::mem::replace(at, number), std::mem::replace(old, value));
        Ok((!is_free).then_some((number, value)))
    }

    /// Takes out everything: the number of each entry, and what is to be folded into it.
    pub fn drain(&mut self) -> impl Iterator<Item = (usize, V)> {
        let held = self.keys.drain(..).zip(self.numbers.drain(..).zip(self.values.drain(..)));
        held.filter(|(key, _)| *key != K::default()).map(|(_, entry)| entry)
    }

    /// Returns the bytes of memory that are in use.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.keys.as_slice())
            + size_of_val(self.values.as_slice())
            + size_of_val(self.numbers.as_slice())
    }
}
