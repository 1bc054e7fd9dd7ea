//! Paths: files of this machine, or of what it has mounted.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::wire::encoding::{Encoding, MAGIC_BYTES};
use crate::wire::located::{Found, Place};

/// Looks at the file at `path`, whose place is `place`.
pub(super) fn look(path: &Path, place: Place) -> io::Result<Found> {
    // Before it is opened: that of a pipe would wait for who writes it.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    let file = File::open(path)?;
    let stamp = stamp(&file.metadata()?);
    let mut magic = [0; MAGIC_BYTES];
    let first = read_first(&file, &mut magic)?;
    let length = file.metadata()?.len();
    // Those of /proc do not tell it.
    let length = (length > 0 || first.is_empty()).then_some(length);
    Ok(Found { place, length, stamp, encoding: Encoding::of(first), has_ranges: length.is_some() })
}

fn read_first<'m>(file: &File, magic: &'m mut [u8]) -> io::Result<&'m [u8]> {
    let mut read = 0;
    while read < magic.len() {
        match file.read_at(&mut magic[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&magic[..read])
}

/// Returns what tells one content of a file from another. Copies of it on several machines may well have the same.
fn stamp(metadata: &Metadata) -> String {
    format!("{} {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Opens the file at `path` at byte `from`.
pub(super) fn open(path: &Path, found: &Found, from: u64) -> io::Result<PathReader> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file any more"));
    }
    let reader = PathReader { file: File::open(path)?, at: from, stamp: found.stamp.clone() };
    match stamp(&reader.file.metadata()?) == reader.stamp {
        true => Ok(reader),
        // On this machine it may be another file, or one that was changed.
        false => Err(io::Error::other(
            "it is not the file that was found when the run began, or was changed since",
        )),
    }
}

/// Reads a file that does not change.
#[derive(Debug)]
pub(super) struct PathReader {
    file: File,
    at: u64,
    stamp: String,
}

impl Read for PathReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        // What was read before this is what was found.
        match stamp(&self.file.metadata()?) == self.stamp {
            true => Ok(read),
            false => Err(io::Error::other("it was changed while it was read")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::wire::located::PathBytes;

    fn look_at(path: &Path) -> io::Result<Found> {
        look(path, Place::Path(PathBytes(path.as_os_str().as_bytes().to_vec())))
    }

    #[test]
    fn a_file_that_changes_is_not_read_on() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"some text").expect("it is writable");
        let found = look_at(file.path()).expect("it is there");
        assert_eq!((found.length, found.encoding, found.has_ranges), (Some(9), Encoding::Plain, true));
        let mut reader = open(file.path(), &found, 5).expect("it is as it was");
        let mut into = [0; 2];
        assert_eq!(reader.read(&mut into).expect("it is as it was"), 2);
        assert_eq!(&into, b"te");
        file.write_all(b"!").expect("it is writable");
        let error = reader.read(&mut into).expect_err("it was changed");
        assert!(error.to_string().contains("changed while it was read"), "{error}");
        let error = open(file.path(), &found, 0).expect_err("it was changed");
        assert!(error.to_string().contains("not the file that was found"), "{error}");
        let path = file.path().to_owned();
        drop(file);
        assert_eq!(open(&path, &found, 0).expect_err("it is gone").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_a_file_is_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = look_at(dir.path()).expect_err("it is a directory");
        assert!(error.to_string().contains("neither a file"), "{error}");
        let packed = dir.path().join("a");
        std::fs::write(&packed, [0x1f, 0x8b, 0x08, 0]).expect("it is writable");
        assert!(!look_at(&packed).expect("it is there").has_parts());
        std::fs::write(&packed, b"").expect("it is writable");
        assert_eq!(look_at(&packed).expect("it is there").length, Some(0));
        let found = look_at(Path::new("/proc/self/limits")).expect("it is there");
        assert_eq!((found.length, found.has_ranges), (None, false));
    }
}
