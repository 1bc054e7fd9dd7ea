//! Buffers: what splits are received into, used again once their text is folded.

use std::io::Read;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::wire::frame::{FrameError, Header, read_payload};
use crate::wire::message::SplitHeader;
use crate::wire::pack::Packed;
use crate::wire::receive::SplitFront;

use super::source::Origin;

/// A buffer that grew beyond this, for one long record, is not kept.
pub(crate) const KEPT_BYTES: usize = 16 << 20;

/// Buffers that are free.
pub(crate) struct Buffers {
    home: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

impl Buffers {
    /// Keeps so many buffers at most.
    pub(crate) fn new(most: usize) -> Self {
        let (home, free) = bounded(most);
        Self { home, free }
    }

    /// Receives a split, of whose frame the header has been read.
    ///
    /// # Errors
    /// If the stream breaks, or the split's own header is malformed.
    pub(crate) fn receive(
        &self,
        from: &mut impl Read,
        frame: Header,
    ) -> Result<(SplitHeader, Received), FrameError> {
        let SplitFront { header, name, packed_bytes: length } = SplitFront::read(from, frame.length)?;
        let origin = Origin { name, offset: header.offset, encoding: header.encoding };
        let mut received =
            Received { origin, packed: header.packed, buffer: self.take(), length, home: self.home.clone() };
        read_payload(from, &mut received.buffer, length)?;
        Ok((header, received))
    }

    fn take(&self) -> Vec<u8> {
        self.free.try_recv().unwrap_or_default()
    }
}

/// A split as it came, packed or not. Its buffer is free again when it is dropped.
pub(crate) struct Received {
    pub origin: Origin,
    packed: Packed,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are the split's.
    length: usize,
    home: Sender<Vec<u8>>,
}

impl Received {
    /// Returns the text, unpacked into `unpacked` if need be.
    ///
    /// # Errors
    /// If it cannot be unpacked.
    pub(crate) fn text<'t>(&'t self, unpacked: &'t mut Vec<u8>) -> Result<&'t [u8], FrameError> {
        self.packed.unpack(&self.buffer[..self.length], unpacked)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.capacity() <= KEPT_BYTES {
            // Where there are enough, or the job is over, it is not needed.
            let _ = self.home.try_send(buffer);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::logic::ids::SplitId;
    use crate::logic::packing::Packing;
    use crate::wire::encoding::Encoding;
    use crate::wire::frame::Kind;
    use crate::wire::message::SPLIT_HEADER_BYTES;
    use crate::wire::pack::Packer;

    /// A split as it comes from a client that does not pack it.
    pub(crate) fn plain(text: &[u8]) -> Received {
        receive(&Buffers::new(1), Packing::Plain, text.len(), text).expect("it is whole")
    }

    pub(crate) fn receive(
        buffers: &Buffers,
        packing: Packing,
        length: usize,
        bytes: &[u8],
    ) -> Result<Received, FrameError> {
        let packed = Packed { packing, length };
        let header = SplitHeader {
            split: SplitId(3),
            provisional: true,
            encoding: Encoding::Plain,
            offset: 7,
            name_bytes: 2,
            packed,
        };
        let payload = [&header.encode(), &b"f1"[..], bytes].concat();
        let frame = Header { kind: Kind::Split, length: payload.len() };
        let (came, received) = buffers.receive(&mut payload.as_slice(), frame)?;
        assert_eq!(came, header);
        assert_eq!((received.origin.name.as_slice(), received.origin.offset), (&b"f1"[..], 7));
        Ok(received)
    }

    #[test]
    fn a_buffer_is_used_again_once_its_split_is_dropped() {
        let buffers = Buffers::new(2);
        let first = receive(&buffers, Packing::Plain, 5, b"a b c").expect("whole");
        let second = receive(&buffers, Packing::Plain, 3, b"d e").expect("whole");
        assert_eq!(first.text(&mut Vec::new()).expect("plain"), b"a b c");
        let place = first.buffer.as_ptr();
        drop(first);
        let third = receive(&buffers, Packing::Plain, 1, b"f").expect("whole");
        assert_eq!((third.buffer.as_ptr(), third.buffer.len()), (place, 5));
        assert_eq!(third.text(&mut Vec::new()).expect("plain"), b"f");
        assert_eq!(second.text(&mut Vec::new()).expect("plain"), b"d e");
        drop((second, third, receive(&buffers, Packing::Plain, 0, b"")));
        assert_eq!(buffers.free.len(), 2, "no more are kept");
    }

    #[test]
    fn a_long_buffer_is_not_kept() {
        let buffers = Buffers::new(2);
        let long = vec![b'x'; KEPT_BYTES + 1];
        drop(receive(&buffers, Packing::Plain, long.len(), &long).expect("whole"));
        assert!(buffers.free.is_empty());
    }

    #[test]
    fn a_packed_split_is_unpacked_into_whatever_buffer() {
        let text = b"to be or not to be, ".repeat(100);
        let buffers = Buffers::new(1);
        for packing in [Packing::Lz4, Packing::Zstd] {
            let mut packed = Vec::new();
            let length = Packer::new().pack(packing, &text, &mut packed).expect("a gain");
            let received = receive(&buffers, packing, text.len(), &packed[..length]).expect("whole");
            assert_eq!(received.text(&mut vec![1; 7]).expect("whole"), text);
            let torn = receive(&buffers, packing, text.len(), &packed[..length - 1]);
            assert!(torn.expect("it came").text(&mut Vec::new()).is_err());
        }
    }

    #[test]
    fn a_split_without_its_header_is_refused() {
        let frame = Header { kind: Kind::Split, length: SPLIT_HEADER_BYTES - 1 };
        let received = Buffers::new(1).receive(&mut &[0; 100][..], frame);
        assert!(matches!(received, Err(FrameError::Malformed(_))));
    }
}
