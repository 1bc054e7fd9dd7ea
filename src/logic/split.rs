//! Split: where the input may be cut.

/// Returns the end of the shortest prefix of `text` that ends right after a boundary byte at or after index `from`.
pub fn first_cut(text: &[u8], from: usize, is_boundary: impl Fn(u8) -> bool) -> Option<usize> {
    let tail = text.get(from..)?;
    tail.iter().position(|&byte| is_boundary(byte)).map(|at| from + at + 1)
}

use super::ids::SplitId;

/// The unit of map work: a byte range of one input file that cuts no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub id: SplitId,
    /// Place of the file among the inputs.
    pub file: usize,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes; never zero.
    pub length: u64,
}
