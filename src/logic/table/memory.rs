//! Memory of a table: arrays that grow without moving, on huge pages where the system has them.
//!
//! A table of millions of keys is read at random. On pages of 4 KiB almost every read misses the processor's cache of
//! page addresses as well, and the first touch of each page is a fault; on pages of 2 MiB neither costs anything
//! worth a word. Small tables stay in ordinary memory, of which they take no more than they need.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a huge page on the processors that matter; elsewhere the advice is for another size, which harms nobody.
const HUGE_PAGE: usize = 2 << 20;

/// An array of a fixed capacity, which never moves its elements.
pub struct Block<T> {
    /// Memory for `capacity` elements, of which the first `len` are there.
    start: NonNull<T>,
    len: usize,
    capacity: usize,
    /// What to unmap, if the memory is a mapping of its own and not a vector's.
    mapping: Option<Mapping>,
}

// SAFETY: a block owns its elements, as a vector does, and no other thread has a pointer to them.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: a shared block only gives out shared references.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> Block<T> {
    /// Makes an empty block for `capacity` elements.
    ///
    /// # Panics
    /// If the system has no memory for a large one.
    pub fn with_capacity(capacity: usize) -> Self {
        match Mapping::of::<T>(capacity) {
            Some(mapping) => {
                let start = mapping.start.cast();
                Self { start, len: 0, capacity, mapping: Some(mapping) }
            }
            None => Self::from(Vec::with_capacity(capacity)),
        }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `element`.
    ///
    /// # Panics
    /// If the block is full.
    #[inline]
    pub fn push(&mut self, element: T) {
        assert!(self.len < self.capacity, "a block never moves");
        // SAFETY: `len` is below the capacity, so the place lies inside the block's memory; nothing lives there yet.
        unsafe { self.start.add(self.len).write(element) };
        self.len += 1;
    }

    /// Moves the elements of `other` into this block, which is empty.
    ///
    /// # Panics
    /// If it has no room for them.
    fn take_all(&mut self, mut other: Self) {
        assert!(self.len == 0 && other.len <= self.capacity, "a block never moves");
        // SAFETY: there is room for all; the two blocks are different memory; and `other` forgets its elements before
        // anything can panic, so that each still has one owner.
        unsafe { self.start.as_ptr().copy_from_nonoverlapping(other.start.as_ptr(), other.len) };
        self.len = std::mem::replace(&mut other.len, 0);
    }
}

impl<T: Copy> Block<T> {
    /// Appends `elements`.
    ///
    /// # Panics
    /// If the block has no room for them.
    #[inline]
    pub fn extend_from_slice(&mut self, elements: &[T]) {
        assert!(elements.len() <= self.capacity - self.len, "a block never moves");
        // SAFETY: there is room for all of them behind the first `len`, which nothing else points into.
        unsafe {
            self.start.add(self.len).as_ptr().copy_from_nonoverlapping(elements.as_ptr(), elements.len())
        };
        self.len += elements.len();
    }
}

impl Block<u32> {
    /// Makes a block of `len` zeros.
    ///
    /// # Panics
    /// As [`Block::with_capacity`].
    pub fn zeros(len: usize) -> Self {
        match Mapping::of::<u32>(len) {
            // The system hands out zeros, and zeros are numbers.
            Some(mapping) => Self { start: mapping.start.cast(), len, capacity: len, mapping: Some(mapping) },
            None => Self::from(vec![0; len]),
        }
    }
}

impl<T> From<Vec<T>> for Block<T> {
    fn from(elements: Vec<T>) -> Self {
        let mut elements = ManuallyDrop::new(elements);
        let (len, capacity) = (elements.len(), elements.capacity());
        // A vector's pointer is never null.
        let start = NonNull::new(elements.as_mut_ptr()).unwrap_or(NonNull::dangling());
        Self { start, len, capacity, mapping: None }
    }
}

impl<T> Deref for Block<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` elements are there, and live as long as the block does.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Block<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the block is borrowed for itself alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        match &self.mapping {
            Some(_) => {
                let elements: *mut [T] = &mut **self;
                // SAFETY: they are there, and nobody sees them any more; their memory is unmapped after this.
                unsafe { elements.drop_in_place() };
            }
            None => {
                // SAFETY: all three parts came from a vector in `from`, and `len` is what was pushed since.
                drop(unsafe { Vec::from_raw_parts(self.start.as_ptr(), self.len, self.capacity) });
            }
        }
    }
}

/// Memory from the system, which begins where a huge page can.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    start: NonNull<u8>,
}

impl Mapping {
    /// Maps memory for `capacity` elements; `None` if they are too few to be worth it.
    ///
    /// # Panics
    /// If the system has no memory.
    fn of<T>(capacity: usize) -> Option<Self> {
        let wanted = capacity.checked_mul(size_of::<T>()).filter(|&wanted| wanted >= HUGE_PAGE)?;
        assert!(align_of::<T>() <= HUGE_PAGE, "pages are aligned for every element");
        let bytes =
            wanted.checked_next_multiple_of(HUGE_PAGE).and_then(|bytes| bytes.checked_add(HUGE_PAGE))?;
        let (protection, flags) = {
            use rustix::mm::{MapFlags, ProtFlags};
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        // SAFETY: the mapping is new, at an address that the system chooses: it overlaps nothing.
        let mapped = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags) };
        let base = mapped.ok().and_then(|mapped| NonNull::new(mapped.cast::<u8>()));
        let Some(base) = base else { panic!("the system has no {bytes} bytes of memory for a table") };
        let skipped = base.align_offset(HUGE_PAGE);
        // SAFETY: one huge page more than wanted was mapped, and less than one is skipped.
        let start = unsafe { base.add(skipped) };
        #[cfg(target_os = "linux")]
        {
            let advice = rustix::mm::Advice::LinuxHugepage;
            // Where there are none, ordinary pages do.
            // SAFETY: the range was just mapped, and this advice changes nothing of what it holds.
            let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes - skipped, advice) };
        }
        Some(Self { base, bytes, start })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is this mapping's own range, and its block, which alone pointed into it, is being dropped.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

/// Has the processor fetch `elements[index]` into its caches, and waits for nothing.
#[inline(always)]
pub fn prefetch<T>(elements: &[T], index: usize) {
    let at = elements.as_ptr().wrapping_add(index).cast::<u8>();
    fetch(at);
    if !size_of::<T>().is_power_of_two() {
        // It may lie across two lines of the cache.
        fetch(at.wrapping_add(size_of::<T>() - 1));
    }
}

#[inline(always)]
fn fetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, whatever the address is; and every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // Elsewhere the loads of a loop overlap by themselves, as far as the processor looks ahead.
        let _ = at;
    }
}

/// Elements in blocks: they never move once there are many, and take no memory that is not used.
pub struct Store<T> {
    /// All but the last are full. The first one grows until it is as large as all others.
    blocks: Vec<Block<T>>,
}

/// Elements of a block, as a power of two: 6 MiB of short keys with counts, a whole number of huge pages.
const BLOCK_BITS: u32 = 18;
const BLOCK: usize = 1 << BLOCK_BITS;

/// Elements of the first block at first, and by what it grows: a few moves of little memory.
const FIRST: usize = 1 << 8;
const GROWTH: usize = 4;

impl<T> Store<T> {
    pub fn new() -> Self {
        // Smaller elements would lie in vectors, which may be larger than they were asked to be.
        const { assert!(size_of::<T>() * BLOCK >= HUGE_PAGE, "a whole block lies in a mapping") };
        Self { blocks: Vec::new() }
    }

    #[inline]
    pub fn len(&self) -> usize {
        match self.blocks.split_last() {
            Some((last, full)) => full.len() * BLOCK + last.len(),
            None => 0,
        }
    }

    /// Appends `element` and returns its index.
    #[inline]
    pub fn push(&mut self, element: T) -> usize {
        if self.blocks.last().is_none_or(|last| last.len() == last.capacity()) {
            self.grow();
        }
        let full = self.blocks.len() - 1;
        let last = &mut self.blocks[full];
        last.push(element);
        full * BLOCK + last.len() - 1
    }

    #[cold]
    fn grow(&mut self) {
        match self.blocks.as_mut_slice() {
            [] => self.blocks.push(Block::with_capacity(FIRST)),
            [first] if first.len() < BLOCK => {
                let larger = Block::with_capacity((first.len() * GROWTH).min(BLOCK));
                let smaller = std::mem::replace(first, larger);
                first.take_all(smaller);
            }
            _ => self.blocks.push(Block::with_capacity(BLOCK)),
        }
    }

    /// Has the processor fetch the element at `index`.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        if let Some(block) = self.blocks.get(index >> BLOCK_BITS) {
            prefetch(block, index & (BLOCK - 1));
        }
    }

    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.blocks.get(index >> BLOCK_BITS)?.get(index & (BLOCK - 1))
    }

    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.blocks.get_mut(index >> BLOCK_BITS)?.get_mut(index & (BLOCK - 1))
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(|block| block.iter())
    }

    /// Returns the bytes of memory that are in use.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.len() * size_of::<T>()).sum()
    }
}

/// Texts of any length, one after the other, each behind its length.
pub struct Texts {
    blocks: Vec<Block<u8>>,
}

/// Bytes of the first block and of a later one, and by what they grow.
const FIRST_TEXTS: usize = 16 << 10;
const MOST_TEXTS: usize = 4 << 20;

/// Bytes that a cache fetches at once.
const CACHE_LINE: usize = 64;

/// Bytes of a text's length.
const LENGTH: usize = size_of::<u32>();

impl Texts {
    pub fn new() -> Self {
        Self { blocks: Vec::new() }
    }

    /// Appends `text` and returns where it stands.
    ///
    /// # Panics
    /// If it has 4 GiB or more, which no split has.
    pub fn push(&mut self, text: &[u8]) -> u64 {
        let Ok(length) = u32::try_from(text.len()) else { panic!("a key of {} bytes", text.len()) };
        let needed = LENGTH + text.len();
        if self.blocks.last().is_none_or(|last| last.capacity() - last.len() < needed) {
            let usual = self.blocks.last().map_or(FIRST_TEXTS, |last| last.capacity() * GROWTH);
            self.blocks.push(Block::with_capacity(usual.min(MOST_TEXTS).max(needed)));
        }
        let number = self.blocks.len() - 1;
        let block = &mut self.blocks[number];
        let offset = block.len();
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(text);
        (number as u64) << 32 | offset as u64
    }

    /// Returns the text at `place`, which [`Texts::push`] has returned.
    #[inline]
    pub fn get(&self, place: u64) -> &[u8] {
        let from = &self.blocks[(place >> 32) as usize][place as u32 as usize..];
        match from.split_first_chunk() {
            Some((length, rest)) => &rest[..u32::from_le_bytes(*length) as usize],
            None => &[],
        }
    }

    /// Has the processor fetch the front of the text at `place`.
    #[inline(always)]
    pub fn prefetch(&self, place: u64) {
        if let Some(block) = self.blocks.get((place >> 32) as usize) {
            let at = place as u32 as usize;
            prefetch(block, at);
            // Most long keys end on the next line.
            prefetch(block, at + CACHE_LINE - 1);
        }
    }

    /// Returns the bytes of memory that are in use.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.len()).sum()
    }
}
