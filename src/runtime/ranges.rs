//! Ranges: a split that its worker reads itself, mapped in pieces as it is read.

use std::io::{self, Read};

use crate::job::{Cut, Records};
use crate::logic::ranged::Ranged;
use crate::wire::frame::MAX_RECORD_BYTES;
use crate::wire::located::Located;

use super::pieces::{Map, PIECE_BYTES, Unmapped, fill, map_unpacked, too_long};
use super::source::Origin;
use super::storage::Storage;

/// Maps the records of `located`, in pieces which end where `cut` allows. `buffer` is used again and again.
///
/// # Errors
/// If it cannot be read, has a record that is too long, or the map fails.
pub(crate) fn map_located(
    located: &Located,
    storage: &dyn Storage,
    cut: Cut,
    buffer: &mut Vec<u8>,
    map: Map<'_>,
) -> Result<(), Unmapped> {
    let file = &located.file;
    let name = file.place.name();
    let unopened = |error: io::Error| Unmapped::unread(&error, format!("cannot be opened: {error}"));
    match located.range {
        None => {
            let text = storage.open(file, 0, file.length.unwrap_or(u64::MAX)).map_err(unopened)?;
            let origin = Origin { name, offset: 0, encoding: file.encoding };
            map_unpacked(&origin, text, cut, buffer, map)
        }
        Some([begin, end]) => {
            let ranged = Ranged::new(cut, begin, end);
            let text = storage.open(file, ranged.at(), end).map_err(unopened)?;
            map_range(&name, ranged, text, cut, buffer, map)
        }
    }
}

/// Maps the records that `ranged` finds in `text`.
fn map_range(
    name: &[u8],
    mut ranged: Ranged,
    mut text: Box<dyn Read + Send>,
    cut: Cut,
    buffer: &mut Vec<u8>,
    map: Map<'_>,
) -> Result<(), Unmapped> {
    let mut held = 0;
    loop {
        // Of a long record more and more is read at a time, or it would be moved about for ever.
        let most = PIECE_BYTES.max(held);
        let room = match ranged.wanted().saturating_sub(held) {
            0 => TAIL_BYTES.max(held.min(PIECE_BYTES)),
            left => left.min(most) + TAIL_BYTES,
        };
        if buffer.len() < held + room {
            buffer.resize(held + room, 0);
        }
        let read = fill(text.as_mut(), &mut buffer[held..held + room]);
        let read = read.map_err(|(read, error)| {
            let at = ranged.at() + (held + read) as u64;
            Unmapped::unread(&error, format!("cannot be read at byte {at}: {error}"))
        })?;
        held += read;
        let step = ranged.step(&buffer[..held], read < room);
        let taken = step.skip + step.records;
        if step.records > 0 {
            let offset = ranged.at() - step.records as u64;
            map(Records::new(&buffer[step.skip..taken], name, offset)).map_err(Unmapped::Failed)?;
        }
        if step.is_last {
            return Ok(());
        }
        buffer.copy_within(taken..held, 0);
        held -= taken;
        if held > MAX_RECORD_BYTES {
            return Err(Unmapped::Unreadable(too_long(cut, ranged.at())));
        }
    }
}

/// Bytes that are read at a time behind the end of a range: most records are short.
const TAIL_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::storage::Listed;
    use crate::wire::encoding::Encoding;
    use crate::wire::located::{Found, PathBytes, Place};

    /// One file, which comes in small portions, and whose bytes end in an error where it is `broken`.
    struct Shelf {
        text: Vec<u8>,
        broken: Option<usize>,
    }

    struct Portions {
        text: Vec<u8>,
        at: usize,
        is_broken: bool,
    }

    impl Read for Portions {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = into.len().min(1000).min(self.text.len() - self.at);
            if most == 0 && self.is_broken {
                return Err(io::Error::other("the disk is gone"));
            }
            into[..most].copy_from_slice(&self.text[self.at..self.at + most]);
            self.at += most;
            Ok(most)
        }
    }

    impl Storage for Shelf {
        fn list(&self, _: &[Place], _: &mut dyn FnMut(Listed) -> bool) {}

        fn open(&self, _: &Found, from: u64, _: u64) -> io::Result<Box<dyn Read + Send>> {
            let text = self.text[from as usize..self.broken.unwrap_or(self.text.len())].to_vec();
            Ok(Box::new(Portions { text, at: 0, is_broken: self.broken.is_some() }))
        }
    }

    fn located(length: usize, range: Option<[u64; 2]>) -> Located {
        let place = Place::Path(PathBytes(b"/f".to_vec()));
        let (length, stamp) = (Some(length as u64), String::new());
        Located { file: Found { place, length, stamp, encoding: Encoding::Plain, has_ranges: true }, range }
    }

    fn map(shelf: &Shelf, range: Option<[u64; 2]>, into: &mut Vec<u8>) -> Result<usize, Unmapped> {
        let mut buffer = Vec::new();
        map_located(&located(shelf.text.len(), range), shelf, Cut::LINES, &mut buffer, &mut |records| {
            assert_eq!((records.file(), records.offset()), (&b"/f"[..], into.len() as u64));
            into.extend_from_slice(records.bytes());
            Ok(())
        })?;
        Ok(buffer.len())
    }

    #[test]
    fn ranges_give_each_record_once_in_little_memory() {
        let mut text: Vec<u8> = (0..600_000).flat_map(|n: u32| format!("line {n}\n").into_bytes()).collect();
        text.splice(3_000_000..3_000_000, vec![b'x'; 2_500_000]);
        let shelf = Shelf { text, broken: None };
        let length = shelf.text.len() as u64;
        for size in [300_001, 5_000_000, length - 1, length] {
            let (mut all, mut begin) = (Vec::new(), 0);
            while begin < length {
                let end = length.min(begin + size);
                let held = map(&shelf, Some([begin, end]), &mut all).expect("it can be read");
                assert!(held <= 8 * PIECE_BYTES, "{held} bytes for a record of 2.5 MB");
                begin = end;
            }
            assert!(all == shelf.text, "in ranges of {size} bytes");
        }
        let mut all = Vec::new();
        map(&shelf, None, &mut all).expect("it can be read");
        assert!(all == shelf.text);
    }

    #[test]
    fn where_a_file_cannot_be_read_is_said() {
        let shelf = Shelf { text: b"one\ntwo\nthree\nfour\n".to_vec(), broken: Some(9) };
        let failed = map(&shelf, Some([0, 5]), &mut Vec::new());
        let cause = "cannot be read at byte 9: the disk is gone";
        assert_eq!(failed, Err(Unmapped::Unreadable(cause.to_owned())));
        let failed = map(&shelf, None, &mut Vec::new());
        assert!(
            matches!(failed, Err(Unmapped::Unreadable(cause)) if cause.contains("at byte 9 of its text: the disk"))
        );
    }
}
