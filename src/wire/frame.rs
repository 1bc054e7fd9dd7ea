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

use std::io::{self, Read, Write};

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

/// Parts of a payload up to this size are copied behind the header, so that a small frame is one write, hence one
/// packet; what is larger is not worth the copy.
const SMALL_PART_BYTES: usize = 16 << 10;

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

/// Writes a frame whose payload is `parts`, one after the other.
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
    let mut small = vec![0; HEADER_BYTES];
    small[..4].copy_from_slice(&(length as u32).to_le_bytes());
    small[4] = kind as u8;
    for part in parts {
        if part.len() <= SMALL_PART_BYTES {
            small.extend_from_slice(part);
        } else {
            to.write_all(&small)?;
            small.clear();
            to.write_all(part)?;
        }
    }
    to.write_all(&small)
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
    payload.clear();
    while payload.len() < length {
        let start = payload.len();
        payload.resize(length.min(start + READ_STEP_BYTES), 0);
        from.read_exact(&mut payload[start..])?;
    }
    Ok(if kind == Kind::End { None } else { Some(kind) })
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
    fn a_small_frame_is_one_write_and_a_large_part_is_not_copied() {
        struct Writes(Vec<usize>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let large = vec![0; SMALL_PART_BYTES + 1];
        for (parts, expected) in [
            (vec![], vec![8]),
            (vec![&b"id"[..], b"text"], vec![14]),
            (vec![b"id", &large], vec![10, large.len()]),
        ] {
            let mut writes = Writes(Vec::new());
            write_frame(&mut writes, Kind::Split, &parts).expect("it takes all");
            assert_eq!(writes.0, expected);
        }
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
