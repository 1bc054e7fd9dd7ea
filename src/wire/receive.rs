//! Receive: batches and results as they come off a stream, unpacked.

use std::io::Read;

use crate::logic::ids::Epoch;
use crate::logic::packing::Packing;
use crate::logic::partition::Partition;

use super::frame::{FrameError, read_payload};
use super::message::{PACKED_BATCH_HEADER_BYTES, RESULTS_HEADER_BYTES, decode_packed_batch, decode_results};

/// Reads the payload of a frame of [`Kind::Batch`](super::frame::Kind), which has `length` bytes, and returns it as it
/// was before it was packed: its partition, then its entries. A packed one goes through `buffers`.
///
/// # Errors
/// `Malformed` or `TooLong` if it is not what its header says, `Torn` if the stream stops before its end.
pub fn read_batch(
    from: &mut impl Read,
    [received, unpacked]: &mut [Vec<u8>; 2],
    length: usize,
) -> Result<(Partition, Vec<u8>), FrameError> {
    let mut header = [0; PACKED_BATCH_HEADER_BYTES];
    let length = length.checked_sub(header.len());
    let length = length.ok_or_else(|| FrameError::Malformed("a batch without its header".into()))?;
    from.read_exact(&mut header)?;
    let (partition, packed) = decode_packed_batch(header, length)?;
    let front = partition.0.to_le_bytes();
    let mut batch = Vec::new();
    if packed.packing == Packing::Plain {
        read_payload(&mut front.chain(from), &mut batch, front.len() + length)?;
    } else {
        read_payload(from, received, length)?;
        let entries = packed.unpack(&received[..length], unpacked)?;
        batch.reserve_exact(front.len() + entries.len());
        batch.extend_from_slice(&front);
        batch.extend_from_slice(entries);
    }
    Ok((partition, batch))
}

/// Reads the payload of a frame of [`Kind::Results`](super::frame::Kind), which has `length` bytes: its epoch and its
/// entries. Packed ones go through `buffer`.
///
/// # Errors
/// As [`read_batch`].
pub fn read_results(
    from: &mut impl Read,
    buffer: &mut Vec<u8>,
    length: usize,
) -> Result<(Epoch, Vec<u8>), FrameError> {
    let mut header = [0; RESULTS_HEADER_BYTES];
    let length = length.checked_sub(header.len());
    let length = length.ok_or_else(|| FrameError::Malformed("results without their header".into()))?;
    from.read_exact(&mut header)?;
    let (epoch, packed) = decode_results(header, length)?;
    // Handed on as they are, so that the buffer is a new one.
    let mut entries = Vec::new();
    if packed.packing == Packing::Plain {
        read_payload(from, &mut entries, length)?;
    } else {
        read_payload(from, buffer, length)?;
        let length = packed.unpack(&buffer[..length], &mut entries)?.len();
        entries.truncate(length);
    }
    Ok((epoch, entries))
}
