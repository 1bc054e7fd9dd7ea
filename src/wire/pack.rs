//! Pack: texts in a packed form, and back, from a peer that may send anything.
//!
//! ```text
//! offset  0         1              5
//!         +---------+--------------+---------------------+
//!         | packing | text length  | packed bytes ...    |   to the end of the frame
//!         +---------+--------------+---------------------+
//! ```
//!
//! `text length` counts the bytes once they are unpacked, little-endian.
//! Invariant: no more is allocated for a text than its packed form can really hold, and never more than a plain one may
//! be long.

use lz4_flex::block::{self, CompressTable};
use zstd::bulk::{Compressor, Decompressor};

use crate::logic::packing::Packing;

use super::frame::{FrameError, MAX_PAYLOAD_BYTES, room};

/// Bytes before the packed ones.
pub const PACK_HEADER_BYTES: usize = 5;

/// How a text is packed, and its length once it is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    pub packing: Packing,
    pub length: usize,
}

/// Level of Zstandard: of its levels, the higher take in less than half, and the negative ones pack little better than
/// LZ4.
const ZSTD_LEVEL: i32 = 1;

/// What one byte of a block can stand for at most: in LZ4 a byte lengthens a match by 255; in Zstandard a block of 128
/// KiB has a header of three bytes and one more.
const LZ4_MAX_RATIO: usize = 255;
const ZSTD_MAX_RATIO: usize = (128 << 10) / 4;

/// A packed text that is not at least so much smaller goes as it is.
const WORTH_IT: f64 = 0.95;

impl Packed {
    /// Returns the header.
    pub fn encode(self) -> [u8; PACK_HEADER_BYTES] {
        let [a, b, c, d] = (self.length as u32).to_le_bytes();
        [self.packing as u8, a, b, c, d]
    }

    /// Reads the header of `packed_bytes` bytes.
    ///
    /// # Errors
    /// `Malformed` for a packing that is none, or a length that so many bytes cannot hold; `TooLong` for one that no
    /// text may have.
    pub fn decode(header: [u8; PACK_HEADER_BYTES], packed_bytes: usize) -> Result<Self, FrameError> {
        let [packing, a, b, c, d] = header;
        let known = Packing::ALL.into_iter().find(|known| *known as u8 == packing);
        let packing = known.ok_or_else(|| FrameError::Malformed(format!("packing {packing} is none")))?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLong { length, limit: MAX_PAYLOAD_BYTES });
        }
        let fits = match packing {
            Packing::Plain => length == packed_bytes,
            Packing::Lz4 => length <= packed_bytes.saturating_mul(LZ4_MAX_RATIO),
            Packing::Zstd => length <= packed_bytes.saturating_mul(ZSTD_MAX_RATIO),
        };
        if !fits {
            let name = packing.name();
            let cause = format!("{packed_bytes} bytes of {name} do not hold a text of {length}");
            return Err(FrameError::Malformed(cause));
        }
        Ok(Self { packing, length })
    }

    /// Unpacks `bytes`, if need be into `buffer`, whose old content does not matter.
    ///
    /// # Errors
    /// `Malformed` if they are not what the header says.
    pub fn unpack<'t>(self, bytes: &'t [u8], buffer: &'t mut Vec<u8>) -> Result<&'t [u8], FrameError> {
        let broken = |cause: String| {
            let name = self.packing.name();
            FrameError::Malformed(format!("{} bytes of {name} cannot be unpacked: {cause}", bytes.len()))
        };
        let unpacked = match self.packing {
            Packing::Plain => return Ok(bytes),
            Packing::Lz4 => block::decompress_into(bytes, room(buffer, self.length))
                .map_err(|error| broken(error.to_string()))?,
            Packing::Zstd => Decompressor::new()
                .and_then(|mut zstd| zstd.decompress_to_buffer(bytes, room(buffer, self.length)))
                .map_err(|error| broken(error.to_string()))?,
        };
        if unpacked != self.length {
            return Err(broken(format!("{unpacked} bytes came instead of {}", self.length)));
        }
        Ok(&buffer[..unpacked])
    }
}

/// Packs one text after the other.
#[derive(Default)]
pub struct Packer {
    lz4: Option<CompressTable>,
    zstd: Option<Compressor<'static>>,
}

impl Packer {
    /// Makes a packer; what a packing needs is made when it is first used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Packs `text` into `buffer`, whose old content does not matter, and returns how many of its bytes are used;
    /// `None` where that is no gain, or cannot be done.
    pub fn pack(&mut self, packing: Packing, text: &[u8], buffer: &mut Vec<u8>) -> Option<usize> {
        let most = (text.len() as f64 * WORTH_IT) as usize;
        let packed = match packing {
            Packing::Plain => return None,
            Packing::Lz4 => {
                let table = self.lz4.get_or_insert_with(CompressTable::large);
                let space = room(buffer, block::get_maximum_output_size(text.len()));
                block::compress_into_with_table(text, space, table).ok()?
            }
            Packing::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(Compressor::new(ZSTD_LEVEL).ok()?),
                };
                // What does not fit the room is no gain.
                zstd.compress_to_buffer(text, room(buffer, most)).ok()?
            }
        };
        (packed <= most).then_some(packed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKINGS: [Packing; 2] = [Packing::Lz4, Packing::Zstd];

    fn packed(packing: Packing, text: &[u8]) -> Option<Vec<u8>> {
        // A buffer that was used before.
        let mut buffer = vec![7; 100];
        let length = Packer::new().pack(packing, text, &mut buffer)?;
        buffer.truncate(length);
        Some(buffer)
    }

    fn unpack(packing: Packing, length: usize, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
        let header = Packed { packing, length }.encode();
        let mut buffer = vec![7; 100];
        Ok(Packed::decode(header, bytes.len())?.unpack(bytes, &mut buffer)?.to_vec())
    }

    fn prose(words: usize) -> Vec<u8> {
        (0..words).map(|n| format!("word{} and ", n * 7919 % 1000)).collect::<String>().into_bytes()
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let text = prose(20_000);
        for packing in PACKINGS {
            let packed = packed(packing, &text).expect("a gain");
            assert!(packed.len() < text.len() / 2, "{packing:?}: {}", packed.len());
            assert_eq!(unpack(packing, text.len(), &packed).expect("whole"), text);
        }
        assert_eq!(unpack(Packing::Plain, 3, b"abc").expect("whole"), b"abc");
    }

    #[test]
    fn one_packer_packs_many_texts_of_any_size() {
        let mut packer = Packer::new();
        let (mut buffer, mut unpacked) = (Vec::new(), Vec::new());
        for words in [5000, 10, 30_000, 1, 5000] {
            let text = prose(words);
            for packing in PACKINGS {
                let Some(length) = packer.pack(packing, &text, &mut buffer) else { continue };
                let header = Packed { packing, length: text.len() };
                assert_eq!(header.unpack(&buffer[..length], &mut unpacked).expect("whole"), text);
            }
        }
    }

    #[test]
    fn what_cannot_be_packed_goes_as_it_is() {
        let noise: Vec<u8> =
            (0..100_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        for packing in Packing::ALL {
            assert_eq!(packed(packing, b""), None);
            assert_eq!(packed(packing, b"x"), None);
        }
        assert!(packed(Packing::Zstd, &noise[..64]).is_none());
    }

    #[test]
    fn a_text_that_is_all_alike_is_within_the_bounds() {
        let zeros = vec![0; 4 << 20];
        for packing in PACKINGS {
            let packed = packed(packing, &zeros).expect("a gain");
            assert_eq!(unpack(packing, zeros.len(), &packed).expect("whole"), zeros);
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_allocated() {
        let decode = |packing: u8, length: u32, packed| {
            let [a, b, c, d] = length.to_le_bytes();
            Packed::decode([packing, a, b, c, d], packed)
        };
        for packing in 0..3 {
            let most = MAX_PAYLOAD_BYTES as u32;
            let over = decode(packing, most + 1, usize::MAX);
            assert!(matches!(over, Err(FrameError::TooLong { limit: MAX_PAYLOAD_BYTES, .. })), "{over:?}");
            assert!(decode(packing, most, 100).is_err(), "more than 100 bytes can hold");
        }
        assert!(decode(0, 7, 8).is_err() && decode(0, 8, 8).is_ok());
        assert!(decode(1, 2551, 10).is_err() && decode(1, 2550, 10).is_ok());
        assert!(decode(3, 0, 0).is_err(), "no packing has this number");
    }

    #[test]
    fn what_is_torn_or_longer_than_it_says_is_refused() {
        let text = prose(5000);
        for packing in PACKINGS {
            let packed = packed(packing, &text).expect("a gain");
            let refused = |length, bytes: &[u8]| {
                let error = unpack(packing, length, bytes).expect_err("it is not what it says");
                assert!(matches!(error, FrameError::Malformed(_)), "{error:?}");
            };
            refused(text.len(), &packed[..packed.len() / 2]);
            refused(text.len() - 1, &packed);
            refused(text.len() + 1, &packed);
            refused(0, &packed);
            refused(text.len(), &text[..packed.len()]);
        }
    }

    proptest! {
        #[test]
        fn eats_any_bytes(header: [u8; 5], bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packed) = Packed::decode(header, bytes.len()) {
                let unpacked = packed.unpack(&bytes, &mut Vec::new()).map(<[u8]>::len);
                prop_assert!(unpacked.is_err() || unpacked.is_ok_and(|length| length == packed.length));
            }
        }

        #[test]
        fn any_text_comes_back(text in proptest::collection::vec(0u8..4, 0..4000)) {
            for packing in PACKINGS {
                if let Some(packed) = packed(packing, &text) {
                    prop_assert_eq!(unpack(packing, text.len(), &packed).expect("whole"), text.clone());
                }
            }
        }
    }
}
