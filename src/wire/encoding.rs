//! Encoding: how files are compressed: recognised by how they begin, and unpacked as they are read.

use std::io::{self, BufRead, Read};

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

    /// Returns what unpacks `packed`, all of its members one after the other. It needs no more than
    /// [`WINDOW_BYTES`] and some. A text that ends too early, or has something else behind its end, is an error;
    /// only zeros are passed over, where gzip and xz do so.
    ///
    /// # Errors
    /// If `packed` cannot be read, or the memory cannot be had.
    pub fn decoder<'r>(self, packed: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
        let mut packed = Supply::new(packed);
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => Box::new(Gunzip::new(packed)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
            Self::Zstd => {
                // Frames to be skipped say nothing of what comes behind them.
                packed.skip_frames()?;
                match packed.peek(4)? {
                    [] => Box::new(io::empty()),
                    LZ4_MAGIC => Box::new(Unlz4::new(packed)),
                    _ => {
                        let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                        decoder.window_log_max(WINDOW_BYTES.ilog2())?;
                        Box::new(decoder)
                    }
                }
            }
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, XZ_KIB)),
            Self::Lz4 => Box::new(Unlz4::new(packed)),
        })
    }
}

/// The longest window that is unpacked: what `xz -9` takes, twice, and what zstd takes unless it is told otherwise. One
/// that is larger is refused before memory is taken for it.
pub const WINDOW_BYTES: u32 = 128 << 20;

/// KiB that an xz decoder may take: the window, and what it needs beside that.
const XZ_KIB: u32 = WINDOW_BYTES / 1024 + 256;

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// How a frame of LZ4 begins.
const LZ4_MAGIC: &[u8] = &[0x04, 0x22, 0x4d, 0x18];

/// What is to be unpacked, on its way. Unlike a `BufReader`, it shows bytes that lie on either side of a border.
struct Supply<R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Whether somebody wanted more than there is.
    ended: bool,
}

impl<R: Read> Supply<R> {
    fn new(from: R) -> Self {
        Self { from, buffer: vec![0; READ_BYTES].into(), start: 0, end: 0, ended: false }
    }

    /// Returns the next `n` bytes, or as many as there are.
    fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < n && !self.ended {
            self.read_more()?;
        }
        Ok(&self.buffer[..self.end.min(n)])
    }

    fn read_more(&mut self) -> io::Result<()> {
        loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let read = read?;
                    self.end += read;
                    self.ended = read == 0;
                    return Ok(());
                }
            }
        }
    }

    /// Passes over the frames that Zstandard and LZ4 have for other things.
    fn skip_frames(&mut self) -> io::Result<()> {
        while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d] = *self.peek(8)? {
            self.consume(8);
            let length = u64::from(u32::from_le_bytes([a, b, c, d]));
            if io::copy(&mut self.take(length), &mut io::sink())? < length {
                return Err(torn());
            }
        }
        Ok(())
    }
}

impl<R: Read> BufRead for Supply<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}

impl<R: Read> Read for Supply<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early")
}

/// Unpacks gzip, member after member. Like `gzip`, it passes over zeros behind a member: tapes are padded so.
struct Gunzip<R> {
    member: flate2::bufread::GzDecoder<Lent<R>>,
    has_ended: bool,
}

impl<R: Read> Gunzip<R> {
    fn new(packed: Supply<R>) -> Self {
        Self { member: flate2::bufread::GzDecoder::new(Lent(Some(packed))), has_ended: false }
    }

    fn begin_next(&mut self) -> io::Result<()> {
        let rest = self.member.get_mut();
        loop {
            let bytes = rest.fill_buf()?;
            match bytes.iter().position(|&byte| byte != 0) {
                _ if bytes.is_empty() => {
                    self.has_ended = true;
                    return Ok(());
                }
                Some(zeros) => {
                    rest.consume(zeros);
                    break;
                }
                None => {
                    let zeros = bytes.len();
                    rest.consume(zeros);
                }
            }
        }
        // The state of the decoder, which is large, is used again: there are files with a member for every page.
        let rest = Lent(rest.0.take());
        self.member.reset(rest);
        Ok(())
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() && !self.has_ended {
            let read = self.member.read(into)?;
            if read > 0 {
                return Ok(read);
            }
            self.begin_next()?;
        }
        Ok(0)
    }
}

/// A supply that can be taken out of a decoder to be given back to it.
struct Lent<R>(Option<Supply<R>>);

impl<R: Read> BufRead for Lent<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.as_mut().map_or(Ok(&[]), Supply::fill_buf)
    }

    fn consume(&mut self, n: usize) {
        if let Some(supply) = &mut self.0 {
            supply.consume(n);
        }
    }
}

impl<R: Read> Read for Lent<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |supply| supply.read(into))
    }
}

/// Unpacks LZ4, frame after frame. The decoder takes the end of the file for that of a frame; here that is an error. It
/// does not expect that a frame has smaller blocks than the one before: each has a decoder of its own.
struct Unlz4<R: Read>(Lz4<R>);

enum Lz4<R: Read> {
    Between(Supply<R>),
    Frame(Box<lz4_flex::frame::FrameDecoder<Supply<R>>>),
    Ended,
}

impl<R: Read> Unlz4<R> {
    fn new(packed: Supply<R>) -> Self {
        Self(Lz4::Between(packed))
    }

    fn begin_next(mut rest: Supply<R>) -> io::Result<Lz4<R>> {
        rest.skip_frames()?;
        match rest.peek(4)? {
            [] => Ok(Lz4::Ended),
            LZ4_MAGIC => Ok(Lz4::Frame(Box::new(lz4_flex::frame::FrameDecoder::new(rest)))),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no frame of LZ4 begins here")),
        }
    }
}

impl<R: Read> Read for Unlz4<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            self.0 = match std::mem::replace(&mut self.0, Lz4::Ended) {
                Lz4::Between(rest) => Self::begin_next(rest)?,
                Lz4::Frame(mut frame) => match frame.read(into)? {
                    0 if frame.get_ref().ended => return Err(torn()),
                    0 => Lz4::Between(frame.into_inner()),
                    read => {
                        self.0 = Lz4::Frame(frame);
                        return Ok(read);
                    }
                },
                Lz4::Ended => return Ok(0),
            };
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
