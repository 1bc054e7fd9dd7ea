//! Encoding: how files are compressed: recognised by how they begin, and unpacked as they are read.

use std::io::{self, BufReader, Read};

use serde::{Deserialize, Serialize};

/// What a file is compressed with. All of its members, frames or streams are unpacked, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Plain,
    /// RFC 1952.
    Gzip,
    Bzip2,
    /// RFC 8878.
    Zstd,
    Xz,
    /// LZ4 frames, not bare blocks.
    Lz4,
}

/// Bytes from the beginning of a file by which it is recognised.
pub const MAGIC_BYTES: usize = 10;

impl Encoding {
    pub const ALL: [Self; 6] = [Self::Plain, Self::Gzip, Self::Bzip2, Self::Zstd, Self::Xz, Self::Lz4];

    /// Recognises a file by its first [`MAGIC_BYTES`], or by all that there are. What is none of the others is plain.
    pub fn of(first: &[u8]) -> Self {
        // A block of bzip2 begins with the digits of pi, an end without blocks with those of its square root: "BZh"
        // alone may well begin a text.
        let is_bzip2 = first.starts_with(b"BZh")
            && matches!(first.get(3), Some(b'1'..=b'9'))
            && matches!(first.get(4..10), Some(b"\x31\x41\x59\x26\x53\x59" | b"\x17\x72\x45\x38\x50\x90"));
        match first {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            _ if is_bzip2 => Self::Bzip2,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // Frames to be skipped may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Lz4,
            _ => Self::Plain,
        }
    }

    /// Returns its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
        }
    }

    pub(crate) fn code(self) -> u8 {
        Self::ALL.iter().position(|encoding| *encoding == self).map_or(0, |at| at as u8)
    }

    pub(crate) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Returns what unpacks `packed`.
    ///
    /// # Errors
    /// If the memory for that cannot be had.
    pub fn decoder<'r>(self, packed: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
        let packed = BufReader::with_capacity(READ_BYTES, packed);
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
            Self::Xz => Box::new(lzma_rust2::XzReader::new(packed, true)),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
        })
    }
}

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
