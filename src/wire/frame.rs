//! Frame: a length-prefixed piece of a stream, and the end of one.
//!
//! ```text
//! offset  0        4      5          8
//!         +--------+------+----------+-------------------+
//!         | length | kind | reserved | payload ...       |
//!         +--------+------+----------+-------------------+
//! ```
//!
//! `length` counts the payload only, little-endian; `reserved` is zero. A stream ends with an explicit end frame, so
//! that a peer that died is never mistaken for one that finished.

use std::io::{self, IoSlice, Read, Write};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;

/// Longest record of the input, hence longest key. A split grows until it holds its records whole.
pub const MAX_RECORD_BYTES: usize = 256 << 20;

/// Longest payload: a split, or a batch, of one record of the longest kind with room for the rest of the split.
pub const MAX_PAYLOAD_BYTES: usize = MAX_RECORD_BYTES + (64 << 20);

/// Longest payload of a control message: the routes of a thousand workers.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;

/// Longest first message of a connection: its sender may be anybody, and is not to fill our memory.
pub const MAX_HELLO_BYTES: usize = 4 << 10;

/// A payload is read in steps of this size, so that a length alone makes us allocate no more than that.
const READ_STEP_BYTES: usize = 1 << 20;

/// Parts that a payload may be written from.
const MAX_PARTS: usize = 3;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message of `wire::message`, as JSON.
    Control = 1,
    /// A split: its id, then its bytes.
    Split = 2,
    /// Entries of one partition, from one worker to another.
    Batch = 3,
    /// Entries of the result, from a worker to the client.
    Results = 4,
    /// The receiver has taken a batch.
    Ack = 5,
    /// Nothing follows.
    End = 6,
    /// Of a stream of batches: the sender lives and has none ready, or the receiver lives and takes one that crawls.
    Beat = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Control, Self::Split, Self::Batch, Self::Results, Self::Ack, Self::End, Self::Beat]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }

    /// Returns the bytes of the longest payload of this kind.
    fn max_bytes(self) -> usize {
        match self {
            Self::Split | Self::Batch | Self::Results => MAX_PAYLOAD_BYTES,
            Self::Control => MAX_CONTROL_BYTES,
            Self::Ack | Self::End | Self::Beat => 0,
        }
    }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes is longer than the {limit} allowed")]
    TooLong { length: usize, limit: usize },
    #[error("the connection ended in the middle of a conversation")]
    Torn,
    #[error("nothing came, or went, for longer than the deadline")]
    Silent,
    #[error("what arrived is not a frame (kind {0})")]
    NotAFrame(u8),
    #[error("a frame of kind {0:?} does not belong here")]
    Unexpected(Kind),
    #[error("a frame's content is malformed: {0}")]
    Malformed(String),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Torn
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}

/// What comes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// Bytes of the payload.
    pub length: usize,
}

/// Writes a frame whose payload is `parts`, one after the other: three at most. Nothing is copied, and all of it is one
/// write, as far as `to` takes it.
///
/// # Errors
/// If the payload is longer than [`MAX_PAYLOAD_BYTES`], or `to` fails.
pub fn write_frame(to: &mut impl Write, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > MAX_PAYLOAD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a frame of {length} bytes is too long"),
        ));
    }
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4] = kind as u8;
    let mut slices = [IoSlice::new(&header), IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
    debug_assert!(parts.len() <= MAX_PARTS, "a frame of {} parts", parts.len());
    for (slice, part) in slices[1..].iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    write_all(to, &mut slices)
}

fn write_all(to: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty slices are passed over.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match to.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads one frame into `payload`, of at most `limit` bytes or what its kind allows; `None` once the peer has sent its
/// end frame.
///
/// # Errors
/// `TooLong` before any allocation; `Torn` if the stream stops inside a frame *or without an end frame*, so a dead
/// peer is never mistaken for a finished one.
pub fn read_frame(
    from: &mut impl Read,
    payload: &mut Vec<u8>,
    limit: usize,
) -> Result<Option<Kind>, FrameError> {
    let Some(Header { kind, length }) = read_header(from, limit)? else { return Ok(None) };
    read_payload(from, payload, length)?;
    payload.truncate(length);
    Ok(Some(kind))
}

/// Reads the header of a frame whose payload has at most `limit` bytes, or what its kind allows; `None` once the peer
/// has sent its end frame.
///
/// # Errors
/// As [`read_frame`].
pub fn read_header(from: &mut impl Read, limit: usize) -> Result<Option<Header>, FrameError> {
    let mut header = [0u8; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let kind = Kind::of(header[4]).ok_or(FrameError::NotAFrame(header[4]))?;
    if header[5..] != [0; 3] {
        return Err(FrameError::NotAFrame(header[4]));
    }
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let limit = limit.min(kind.max_bytes());
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok((kind != Kind::End).then_some(Header { kind, length }))
}

/// Reads `length` bytes to the front of `buffer`, whose old content does not matter; no more is allocated than 1 MiB
/// ahead of what really comes.
///
/// # Errors
/// `Torn` if the stream stops before.
pub fn read_payload(from: &mut impl Read, buffer: &mut Vec<u8>, length: usize) -> Result<(), FrameError> {
    let mut read = 0;
    while read < length {
        // What is there already needs no steps.
        let end = length.min(buffer.len().max(read + READ_STEP_BYTES));
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        from.read_exact(&mut buffer[read..end])?;
        read = end;
    }
    Ok(())
}

/// Returns the first `length` bytes of `buffer`, whose old content does not matter. It never shrinks, so that what is
/// used again is not zeroed again; and where it is too small, a new one takes its place, which the system need not even
/// give memory to before it is written to.
pub fn room(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        *buffer = vec![0; length + length / 8];
    }
    &mut buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Option<Kind>, FrameError> {
        read_frame(&mut &bytes[..], &mut Vec::new(), 1 << 10)
    }

    #[test]
    fn reads_back_what_was_written() {
        let mut wire = Vec::new();
        write_frame(&mut wire, Kind::Batch, &[b"head", b"", b"body"]).expect("a vector takes all");
        write_frame(&mut wire, Kind::End, &[]).expect("a vector takes all");
        let mut from = wire.as_slice();
        let mut payload = vec![9; 3];
        assert_eq!(read_frame(&mut from, &mut payload, 8).expect("whole"), Some(Kind::Batch));
        assert_eq!(payload, b"headbody");
        assert_eq!(read_frame(&mut from, &mut payload, 8).expect("whole"), None);
        assert!(matches!(read_frame(&mut from, &mut payload, 8), Err(FrameError::Torn)));
    }

    #[test]
    fn refuses_a_length_over_the_limit_before_reading_it() {
        assert!(matches!(
            frames(&[1, 4, 0, 0, 1, 0, 0, 0]),
            Err(FrameError::TooLong { length: 1025, limit: 1024 })
        ));
    }

    #[test]
    fn no_kind_is_longer_than_it_may_be() {
        let length = |bytes: u32, kind: Kind| {
            let mut header = bytes.to_le_bytes().to_vec();
            header.extend([kind as u8, 0, 0, 0]);
            read_frame(&mut header.as_slice(), &mut Vec::new(), usize::MAX)
        };
        for (kind, most) in [
            (Kind::Control, MAX_CONTROL_BYTES),
            (Kind::Split, MAX_PAYLOAD_BYTES),
            (Kind::Ack, 0),
            (Kind::End, 0),
        ] {
            let over = length(most as u32 + 1, kind);
            assert!(
                matches!(over, Err(FrameError::TooLong { limit, .. }) if limit == most),
                "{kind:?}: {over:?}"
            );
            assert!(!matches!(length(most as u32, kind), Err(FrameError::TooLong { .. })), "{kind:?}");
        }
    }

    #[test]
    fn a_frame_is_one_write_where_that_is_taken_and_whole_where_not() {
        struct Writes(usize, Vec<Vec<u8>>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.write_vectored(&[IoSlice::new(bytes)])
            }
            fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                let all: Vec<u8> =
                    slices.iter().flat_map(|slice| slice.iter().copied()).take(self.0).collect();
                self.1.push(all);
                Ok(self.1.last().map_or(0, Vec::len))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let large = vec![b'x'; 100_000];
        for parts in [vec![], vec![&b"id"[..], b"text"], vec![b"", b"id", &large], vec![b"", b""]] {
            let mut whole = Writes(usize::MAX, Vec::new());
            write_frame(&mut whole, Kind::Split, &parts).expect("it takes all");
            assert_eq!(whole.1.len(), 1);
            let mut pieces = Writes(7, Vec::new());
            write_frame(&mut pieces, Kind::Split, &parts).expect("it takes all");
            assert_eq!(pieces.1.concat(), whole.1[0]);
            let mut payload = Vec::new();
            let read = read_frame(&mut whole.1[0].as_slice(), &mut payload, usize::MAX);
            assert_eq!((read.expect("whole"), payload), (Some(Kind::Split), parts.concat()));
        }
    }

    #[test]
    fn a_buffer_that_is_used_again_holds_the_last_payload_in_front() {
        let mut buffer = Vec::new();
        for length in [10, 3 << 20, 5, 2 << 20] {
            let bytes: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
            read_payload(&mut bytes.as_slice(), &mut buffer, length).expect("it is there");
            assert_eq!(buffer[..length], bytes);
        }
        assert_eq!(buffer.len(), 3 << 20, "it is zeroed once");
        let torn = read_payload(&mut &[0; 100][..], &mut Vec::new(), usize::MAX);
        assert!(matches!(torn, Err(FrameError::Torn)), "a length alone allocates little");
    }

    #[test]
    fn tells_a_torn_frame_from_an_end() {
        assert!(matches!(frames(&[]), Err(FrameError::Torn)));
        assert!(matches!(frames(&[2, 0, 0, 0, 1, 0, 0, 0, b'x']), Err(FrameError::Torn)));
    }

    #[test]
    fn refuses_what_is_no_frame() {
        assert!(matches!(frames(b"SSH-2.0-OpenSSH_9.2"), Err(FrameError::NotAFrame(_))));
        assert!(matches!(frames(&[0, 0, 0, 0, 1, 0, 0, 1]), Err(FrameError::NotAFrame(_))));
    }

    proptest::proptest! {
        #[test]
        fn eats_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = frames(&bytes);
        }
    }
}
