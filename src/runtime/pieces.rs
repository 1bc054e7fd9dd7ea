//! Pieces: a text that is unpacked as it is read, cut into the pieces that a map gets one after the other.

use std::error::Error;
use std::io::{self, Read};
use std::iter::successors;

use rustix::io::Errno;

use crate::job::{Cut, Records};
use crate::logic::split::last_cut;
use crate::wire::encoding::Encoding;
use crate::wire::frame::MAX_RECORD_BYTES;

use super::buffers::KEPT_BYTES;
use super::source::Origin;

/// Why a split was not mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unmapped {
    /// Its text could not be had.
    Unreadable(String),
    /// The job could not map it, or this machine lacks what reading it takes.
    Failed(String),
}

impl Unmapped {
    /// Says `cause` of a text that could not be had for `error`.
    pub(crate) fn unread(error: &(dyn Error + 'static), cause: String) -> Self {
        if is_lacking(error) { Self::Failed(cause) } else { Self::Unreadable(cause) }
    }
}

/// Tells whether an error lies in what this machine lacks, descriptors or memory, not in what is read.
pub(crate) fn is_lacking(error: &(dyn Error + 'static)) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    let mut causes =
        successors(Some(error), |&cause| cause.source()).filter_map(|cause| cause.downcast_ref());
    causes.any(|cause: &io::Error| {
        let errno = Errno::from_io_error(cause);
        cause.kind() == io::ErrorKind::OutOfMemory || errno.is_some_and(|errno| lacking.contains(&errno))
    })
}

/// What maps a piece.
pub(crate) type Map<'m> = &'m mut dyn FnMut(Records<'_>) -> Result<(), String>;

/// Bytes of a piece, if no record is longer: what is unpacked is mapped while it lies in a cache.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Maps the text of a file, which comes from `packed`, in pieces which end where `cut` allows. `buffer` is used again
/// and again.
///
/// # Errors
/// If it cannot be unpacked, has a record that is too long, or the map fails.
pub(crate) fn map_unpacked<'r>(
    origin: &Origin,
    packed: impl Read + Send + 'r,
    cut: Cut,
    buffer: &mut Vec<u8>,
    map: Map<'_>,
) -> Result<(), Unmapped> {
    let failed = |offset: u64, error: &io::Error| {
        let what = if origin.encoding == Encoding::Plain { "read" } else { "unpacked" };
        Unmapped::unread(error, format!("cannot be {what} at byte {offset} of its text: {error}"))
    };
    let mut text = origin.encoding.decoder(packed).map_err(|error| failed(0, &error))?;
    let (mut held, mut offset) = (0, origin.offset);
    loop {
        let room = PIECE_BYTES.max(held).min(MAX_RECORD_BYTES + 1 - held);
        if buffer.len() < held + room {
            buffer.resize(held + room, 0);
        }
        let read = fill(text.as_mut(), &mut buffer[held..held + room]);
        let read = read.map_err(|(read, error)| failed(offset + (held + read) as u64, &error))?;
        held += read;
        let is_last = read < room && held <= MAX_RECORD_BYTES;
        let end = if is_last { Some(held) } else { last_cut(cut, &buffer[..held]) };
        if let Some(end) = end {
            if end > 0 {
                let records = Records::new(&buffer[..end], &origin.name, offset);
                map(records).map_err(Unmapped::Failed)?;
            }
            buffer.copy_within(end..held, 0);
            held -= end;
            offset += end as u64;
        }
        if is_last {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
            return Ok(());
        }
        if held > MAX_RECORD_BYTES {
            return Err(Unmapped::Unreadable(too_long(cut, offset)));
        }
    }
}

pub(super) fn too_long(cut: Cut, offset: u64) -> String {
    let limit = MAX_RECORD_BYTES >> 20;
    match cut {
        Cut::Never => format!("is longer than {limit} MiB, and this job takes files as a whole"),
        _ => format!("has a record longer than {limit} MiB at byte {offset}: there is no place to cut it"),
    }
}

/// Reads until `into` is full or the text ends; returns the bytes read.
///
/// # Errors
/// With the bytes read before.
pub(super) fn fill(from: &mut dyn Read, into: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut read = 0;
    while read < into.len() {
        match from.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((read, error)),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &[u8], cut: Cut) -> Result<Vec<(u64, Vec<u8>)>, Unmapped> {
        let origin = Origin { name: b"f".to_vec(), offset: 5, encoding: Encoding::Plain };
        let mut pieces = Vec::new();
        map_unpacked(&origin, text, cut, &mut Vec::new(), &mut |records| {
            assert_eq!(records.file(), b"f");
            pieces.push((records.offset(), records.bytes().to_vec()));
            Ok(())
        })?;
        Ok(pieces)
    }

    #[test]
    fn a_text_comes_whole_in_pieces_that_end_where_it_may_be_cut() {
        let text: Vec<u8> = (0..400_000).flat_map(|n: u32| format!("line {n}\n").into_bytes()).collect();
        let pieces = pieces(&text, Cut::LINES).expect("it is whole");
        assert!(pieces.len() > 3);
        let mut at = 5;
        for (offset, piece) in &pieces {
            assert_eq!(*offset, at);
            assert!(piece.ends_with(b"\n"));
            at += piece.len() as u64;
        }
        assert!(pieces.iter().flat_map(|(_, piece)| piece).eq(&text));
    }

    #[test]
    fn a_long_record_and_a_whole_file_come_as_one() {
        let mut text = vec![b'x'; 5 * PIECE_BYTES + 3];
        assert_eq!(pieces(&text, Cut::LINES).expect("it is whole"), [(5, text.clone())]);
        text[PIECE_BYTES / 2] = b'\n';
        assert_eq!(pieces(&text, Cut::Never).expect("it is whole"), [(5, text.clone())]);
        let parts = pieces(&text, Cut::LINES).expect("it is whole");
        assert_eq!(
            parts.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(),
            [5, 6 + PIECE_BYTES as u64 / 2]
        );
        assert_eq!(pieces(b"", Cut::LINES), Ok(vec![]));
    }

    #[test]
    fn what_this_machine_lacks_is_no_fault_of_the_text() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::NOENT] {
            let error = io::Error::from(errno);
            let is_bad = [Errno::IO, Errno::NOENT].contains(&errno);
            let said = Unmapped::unread(&error, "no".to_owned());
            assert_eq!(matches!(said, Unmapped::Unreadable(_)), is_bad, "{errno}");
            let told = anyhow::Error::from(error).context("cannot open a file");
            assert_eq!(is_lacking(told.as_ref()), !is_bad, "{errno}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_told_from_what_cannot_be_mapped() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let origin = Origin::default();
        let read = map_unpacked(&origin, Broken, Cut::LINES, &mut Vec::new(), &mut |_| Ok(()));
        assert!(matches!(read, Err(Unmapped::Unreadable(cause)) if cause.contains("the disk is gone")));
        let mapped = map_unpacked(&origin, &b"a"[..], Cut::LINES, &mut Vec::new(), &mut |_| Err("no".into()));
        assert_eq!(mapped, Err(Unmapped::Failed("no".to_owned())));
    }
}
