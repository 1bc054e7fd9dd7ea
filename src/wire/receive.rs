//! Receive: splits, batches and results as they come off a stream.

use std::io::Read;

use crate::logic::ids::Epoch;
use crate::logic::packing::Packing;
use crate::logic::partition::Partition;

use super::frame::{FrameError, read_payload};
use super::message::{
    BATCH_HEADER_BYTES, PACKED_BATCH_HEADER_BYTES, RESULTS_HEADER_BYTES, SPLIT_HEADER_BYTES, SplitHeader,
    decode_packed_batch, decode_results,
};
use super::pack::Packed;

/// What comes before the text of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitFront {
    pub header: SplitHeader,
    /// Of the file, as the client calls it.
    pub name: Vec<u8>,
    /// Bytes of the frame that follow.
    pub packed_bytes: usize,
}

impl SplitFront {
    /// Reads the beginning of a frame of [`Kind::Split`](super::frame::Kind), whose payload has `length` bytes.
    ///
    /// # Errors
    /// `Malformed` or `TooLong` if there is none; `Torn` if the stream stops before its end.
    pub fn read(from: &mut impl Read, length: usize) -> Result<Self, FrameError> {
        let rest = length.checked_sub(SPLIT_HEADER_BYTES);
        let rest = rest.ok_or_else(|| FrameError::Malformed("a split without its header".into()))?;
        let mut header = [0; SPLIT_HEADER_BYTES];
        from.read_exact(&mut header)?;
        let header = SplitHeader::decode(header, rest)?;
        let mut name = vec![0; usize::from(header.name_bytes)];
        from.read_exact(&mut name)?;
        Ok(Self { header, packed_bytes: rest - name.len(), name })
    }
}

/// What comes before the entries of a batch, so that room can be found for them before they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub partition: Partition,
    /// How the entries travel, and how many bytes they have when they are unpacked: one at least.
    pub packed: Packed,
    /// Bytes of the frame that follow.
    pub packed_bytes: usize,
}

impl BatchHeader {
    /// Reads the beginning of a frame of [`Kind::Batch`](super::frame::Kind), whose payload has `length` bytes.
    ///
    /// # Errors
    /// `Malformed` or `TooLong` if there is none, or no entries follow; `Torn` if the stream stops before its end.
    pub fn read(from: &mut impl Read, length: usize) -> Result<BatchHeader, FrameError> {
        let mut header = [0; PACKED_BATCH_HEADER_BYTES];
        let packed_bytes = length.checked_sub(header.len());
        let packed_bytes =
            packed_bytes.ok_or_else(|| FrameError::Malformed("a batch without its header".into()))?;
        from.read_exact(&mut header)?;
        let (partition, packed) = decode_packed_batch(header, packed_bytes)?;
        if packed.length == 0 {
            return Err(FrameError::Malformed("a batch without entries".into()));
        }
        Ok(BatchHeader { partition, packed, packed_bytes })
    }

    /// Returns the bytes that are held of the batch once it is read: partition and entries.
    pub fn kept_bytes(&self) -> u64 {
        (BATCH_HEADER_BYTES + self.packed.length) as u64
    }

    /// Returns the bytes that are held besides while it is read.
    pub fn passing_bytes(&self) -> u64 {
        match self.packed.packing {
            Packing::Plain => 0,
            _ => (self.packed_bytes + self.packed.length) as u64,
        }
    }

    /// Reads the rest of the frame and returns the batch as it was before it was packed: its partition, then its
    /// entries. A packed one goes through `buffers`.
    ///
    /// # Errors
    /// `Malformed` if it is not what its header says, `Torn` if the stream stops before its end.
    pub fn read_batch(
        self,
        from: &mut impl Read,
        [received, unpacked]: &mut [Vec<u8>; 2],
    ) -> Result<Vec<u8>, FrameError> {
        let (front, length) = (self.partition.0.to_le_bytes(), self.packed_bytes);
        let mut batch = Vec::new();
        if self.packed.packing == Packing::Plain {
            read_payload(&mut front.chain(from), &mut batch, front.len() + length)?;
        } else {
            read_payload(from, received, length)?;
            let entries = self.packed.unpack(&received[..length], unpacked)?;
            batch.reserve_exact(front.len() + entries.len());
            batch.extend_from_slice(&front);
            batch.extend_from_slice(entries);
        }
        Ok(batch)
    }
}

/// Reads the payload of a frame of [`Kind::Results`](super::frame::Kind), which has `length` bytes: its epoch and its
/// entries. Packed ones go through `buffer`.
///
/// # Errors
/// As [`BatchHeader::read`] and [`BatchHeader::read_batch`].
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
