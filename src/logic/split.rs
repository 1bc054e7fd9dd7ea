//! Split: where the input may be cut.

/// Returns the end of the shortest prefix of `text` that ends right after a boundary byte at or after index `from`.
pub fn first_cut(text: &[u8], from: usize, is_boundary: impl Fn(u8) -> bool) -> Option<usize> {
    let tail = text.get(from..)?;
    tail.iter().position(|&byte| is_boundary(byte)).map(|at| from + at + 1)
}
