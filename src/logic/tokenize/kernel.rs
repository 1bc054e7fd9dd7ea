//! Kernel: the loops over all bytes of a text, one set of them for each kind of processor.
//!
//! The portable kernel is the reference: the others must give what it gives, bit for bit, and the tests say
//! so.

use crate::job::Span;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Tokens, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Bytes of a block: as many as bits fit a mask.
pub(super) const BLOCK: usize = 64;

/// Bytes that must follow a block that is classified: a character may end in them.
pub(super) const LOOKAHEAD: usize = 3;

/// A block, and the bytes behind it into which its last character may reach.
pub(super) type Seen = [u8; BLOCK + LOOKAHEAD];

/// Blocks that one call of a kernel classifies: their bytes and masks stay in the fastest cache until the
/// borders are found, and a call through a pointer costs nothing beside them.
pub(super) const CHUNK_BLOCKS: usize = 64;

/// The loops. None keeps state of its own, so that a kernel is a handful of pointers.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    /// Finds which bytes stand in words of UTS #18 `\w`.
    pub(super) words: Classify,
    /// Finds which bytes are not white space.
    pub(super) visible: Classify,
    pub(super) borders: FindBorders,
    pub(super) lower: Lower,
}

/// Sets a bit in each of the masks for each byte of the blocks at the front of the text that stands inside a
/// word; at least [`LOOKAHEAD`] bytes follow them. Takes and gives the bits of the block behind which the
/// last character of a block reaches.
pub(super) type Classify = fn(&[u8], &mut [u64], &mut u64);

/// Appends the borders of blocks, from their masks; returns the number of blocks whose borders found room.
pub(super) type FindBorders = fn(&[u64], &mut Borders) -> usize;

/// Writes a text in lower case to the front of a buffer with as many bytes as [`room`](super::lower::room)
/// says; returns how many it takes. Text that is made of the given tokens then has them where it would have
/// had them.
pub(super) type Lower = fn(&[u8], &mut [u8], Tokens) -> usize;

impl Kernel {
    /// Returns the kernels that this processor can run, the best one first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = [avx512::kernel(), avx2::kernel()];
        #[cfg(target_arch = "aarch64")]
        let vectors = [Some(neon::kernel())];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let vectors: [Option<Self>; 0] = [];
        vectors.into_iter().flatten().chain([portable::kernel()])
    }
}

/// Where words begin and end, by turns, from the beginning of a text.
pub(super) struct Borders {
    at: [u32; BORDERS + ROOM],
    len: usize,
    /// Index of the next block's first byte.
    base: u32,
    /// Whether the last byte stood in a word, as the lowest bit.
    inside: u64,
}

/// Borders that are handed on at once, or a few more: half as many words, which fill a quarter of the fastest
/// cache.
const BORDERS: usize = 2048;

/// Places that a block's borders are written to: one for each byte, and what is written to in vain behind
/// them.
pub(super) const ROOM: usize = BLOCK + 8;

impl Borders {
    pub(super) fn new() -> Self {
        Self { at: [0; BORDERS + ROOM], len: 0, base: 0, inside: 0 }
    }

    /// Appends the borders in the blocks of `inside`, which `write` puts down for one block: given a bit for
    /// each border and the index of the block, it returns their number.
    #[inline(always)]
    pub(super) fn extend(
        &mut self,
        inside: &[u64],
        write: impl Fn(u64, u32, &mut [u32; ROOM]) -> usize,
    ) -> usize {
        for (done, &inside) in inside.iter().enumerate() {
            let Some(room) = self.at[self.len.min(BORDERS + ROOM)..].first_chunk_mut() else { return done };
            self.len += write(inside ^ (inside << 1 | self.inside), self.base, room);
            self.inside = inside >> (BLOCK - 1);
            self.base += BLOCK as u32;
        }
        inside.len()
    }

    /// Hands the words that have both borders to `each`; an open word's first border stays.
    pub(super) fn hand_on(&mut self, text: &[u8], each: &mut dyn FnMut(&[u8], &[Span])) {
        let (words, open) = self.at[..self.len].as_chunks();
        if !words.is_empty() {
            each(text, words);
        }
        let open = open.first().copied();
        self.len = open.into_iter().len();
        self.at[0] = open.unwrap_or_default();
    }

    /// Counts indexes anew from where nothing before is needed any longer, and returns by how many bytes that
    /// is. All whole words must have been handed on.
    pub(super) fn forget(&mut self) -> u32 {
        let gone = if self.len == 1 { self.at[0] } else { self.base };
        self.at[0] = 0;
        self.base -= gone;
        gone
    }

    /// Index of the first byte that is not gone through yet.
    pub(super) fn base(&self) -> u32 {
        self.base
    }
}
