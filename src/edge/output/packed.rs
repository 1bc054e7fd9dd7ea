//! Packed: bytes compressed on their way to a target, as the suffix of its name says.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::target::Target;

/// How a file is packed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Zstd,
}

/// A target, and what packs the bytes that go there. Dropped unfinished, it writes nothing more: what lies in a pipe
/// is then no whole stream.
pub struct Packed {
    target: Target,
    packer: Packer,
    /// Bytes that are not packed yet. Encoders are given blocks of one size: what they make depends on the pieces, and
    /// the pieces on how the result was divided among threads and workers.
    block: Vec<u8>,
    written: u64,
}

/// Encoders into memory: an encoder around the target would end its stream there when it is dropped.
enum Packer {
    Plain,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl Packed {
    /// # Errors
    /// If there is no memory for it.
    pub fn new(target: Target, packing: Option<Packing>) -> io::Result<Self> {
        let packer = match packing {
            None => Packer::Plain,
            Some(Packing::Gzip) => Packer::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
            Some(Packing::Zstd) => {
                let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Packer::Zstd(encoder)
            }
        };
        Ok(Self { target, packer, block: Vec::new(), written: 0 })
    }

    /// # Errors
    /// If not all could be written; the error names the target.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Packer::Plain = self.packer {
            self.written += bytes.len() as u64;
            return self.target.write_all(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = BLOCK_BYTES - self.block.len();
            let (fitting, later) = rest.split_at(room.min(rest.len()));
            self.block.extend_from_slice(fitting);
            rest = later;
            if self.block.len() == BLOCK_BYTES {
                self.pack()?;
            }
        }
        Ok(())
    }

    /// Makes what was written final and returns its bytes, as they lie in the target.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn finish(mut self) -> io::Result<u64> {
        self.pack()?;
        let Self { mut target, packer, written, .. } = self;
        let rest = match packer {
            Packer::Plain => Vec::new(),
            Packer::Gzip(encoder) => encoder.finish()?,
            Packer::Zstd(encoder) => encoder.finish()?,
        };
        target.write_all(&rest)?;
        target.finish()?;
        Ok(written + rest.len() as u64)
    }

    /// Packs the block, and writes what comes of it.
    fn pack(&mut self) -> io::Result<()> {
        let packed = match &mut self.packer {
            Packer::Plain => return Ok(()),
            Packer::Gzip(encoder) => {
                encoder.write_all(&self.block)?;
                encoder.get_mut()
            }
            Packer::Zstd(encoder) => {
                encoder.write_all(&self.block)?;
                encoder.get_mut()
            }
        };
        self.block.clear();
        self.target.write_all(packed)?;
        self.written += packed.len() as u64;
        packed.clear();
        Ok(())
    }
}

/// What `gzip` takes.
const GZIP_LEVEL: u32 = 6;

/// What `zstd` takes.
const ZSTD_LEVEL: i32 = 3;

/// Bytes that are packed at a time: what comes of them is worth a write.
const BLOCK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::path::Path;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn text() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| format!("w{n}\t{}\n", n % 7).into_bytes()).collect()
    }

    fn packed(path: &Path, packing: Option<Packing>, text: &[u8], piece: usize) -> u64 {
        let mut packed = Packed::new(Target::file(path).unwrap(), packing).unwrap();
        text.chunks(piece).for_each(|piece| packed.write_all(piece).unwrap());
        packed.finish().unwrap()
    }

    fn unpacked(path: &Path, packing: Option<Packing>) -> Vec<u8> {
        let bytes = fs::read(path).unwrap();
        let mut text = Vec::new();
        match packing {
            None => text = bytes,
            Some(Packing::Gzip) => _ = MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut text).unwrap(),
            Some(Packing::Zstd) => zstd::stream::copy_decode(bytes.as_slice(), &mut text).unwrap(),
        }
        text
    }

    #[test]
    fn files_unpack_to_what_was_written_and_have_as_many_bytes_as_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for packing in [None, Some(Packing::Gzip), Some(Packing::Zstd)] {
            for text in [text(), b"x\t1\n".to_vec(), Vec::new()] {
                let bytes = packed(&path, packing, &text, 30_000);
                assert!(unpacked(&path, packing) == text, "{packing:?}");
                assert_eq!(bytes, fs::metadata(&path).unwrap().len(), "{packing:?}");
                assert!(packing.is_none() || text.len() < 1000 || bytes < text.len() as u64 / 2);
            }
        }
    }

    /// Nothing of the time, and nothing of the pieces: two runs give the same file.
    #[test]
    fn the_same_text_is_packed_to_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        for packing in [Packing::Gzip, Packing::Zstd] {
            packed(&one, Some(packing), &text(), 1000);
            packed(&other, Some(packing), &text(), 77_777);
            assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap(), "{packing:?}");
        }
    }

    /// Who reads a pipe must see that its writer has not come to the end.
    #[test]
    fn a_stream_that_is_not_finished_is_no_whole_one() {
        let directory = tempfile::tempdir().unwrap();
        for packing in [Packing::Gzip, Packing::Zstd] {
            let path = directory.path().join("pipe");
            let file = fs::File::create(&path).unwrap();
            let mut packed = Packed::new(Target::inside("pipe".into(), file), Some(packing)).unwrap();
            packed.write_all(&text()).unwrap();
            drop(packed);
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.is_empty());
            let ended = match packing {
                Packing::Gzip => MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut Vec::new()).map(drop),
                Packing::Zstd => zstd::stream::copy_decode(bytes.as_slice(), io::sink()),
            };
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{packing:?}");
        }
    }
}
