//! Private: files that are the user's alone, and JSON that holds keys: opened with care, and wiped when let go of.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use serde::Serialize;
use zeroize::Zeroizing;

/// What a private thing has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// A regular file, at whose end links may lead there: the user named it.
    Named,
    /// A regular file that nobody has put a link in the place of.
    File,
}

/// Why a thing was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it is not what it should be, perhaps a symbolic link")]
    Kind,
    #[error("it belongs to another user")]
    Foreign,
    /// Files only: a directory is made private before anything is put into it.
    #[error("others may read or write it")]
    Open,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens `path`, which begins at the directory `at`, for reading. What is judged is what is opened, whatever the name
/// stands for by then; nobody is waited for, as a pipe would have it.
///
/// # Errors
/// If it is not there, is of another kind or of another user, or is a file that others may read or write.
pub fn open(at: impl AsFd, path: &Path, kind: Kind) -> Result<File, Refusal> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = flags
        | match kind {
            Kind::Directory => OFlags::DIRECTORY | OFlags::NOFOLLOW,
            Kind::Named => OFlags::empty(),
            Kind::File => OFlags::NOFOLLOW,
        };
    let file = match openat(at, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A socket has no reading side: ENXIO.
        Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Err(Refusal::Kind),
        Err(error) => return Err(Refusal::Io(error.into())),
    };
    let metadata = file.metadata()?;
    if kind != Kind::Directory && !metadata.is_file() {
        return Err(Refusal::Kind);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Refusal::Foreign);
    }
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(Refusal::Open);
    }
    Ok(file)
}

/// Reads `from` to its end, but no more than one byte beyond `limit`, so that who asks sees that there is more.
///
/// # Errors
/// If it cannot be read.
pub fn read(from: impl Read, likely: u64, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // With room for all and for the read that finds the end: what grows leaves copies behind.
    let room = likely.min(limit).saturating_add(64);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or_default()));
    from.take(limit.saturating_add(1)).read_to_end(&mut text)?;
    Ok(text)
}

/// Returns `what` as JSON that ends with a line end; in one line unless it is for people (`pretty`).
///
/// # Errors
/// If it is none.
pub fn to_json(what: &impl Serialize, pretty: bool) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    // Written twice, for its length first: a buffer that grows would leave copies behind.
    let mut length = Length(0);
    write_json(what, pretty, &mut length)?;
    let mut text = Zeroizing::new(Vec::with_capacity(length.0));
    write_json(what, pretty, &mut *text)?;
    Ok(text)
}

fn write_json(what: &impl Serialize, pretty: bool, mut to: impl Write) -> serde_json::Result<()> {
    match pretty {
        true => serde_json::to_writer_pretty(&mut to, what)?,
        false => serde_json::to_writer(&mut to, what)?,
    }
    to.write_all(b"\n").map_err(serde_json::Error::io)
}

/// Counts what is written to it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    #[test]
    fn only_what_is_private_is_opened_and_nothing_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let refused = |name: &str, kind| open(CWD, &path(name), kind).unwrap_err();
        fs::write(path("file"), "text").unwrap();
        fs::set_permissions(path("file"), Permissions::from_mode(0o600)).unwrap();
        symlink("file", path("link")).unwrap();
        assert!(open(CWD, &path("file"), Kind::File).is_ok());
        assert!(open(CWD, &path("link"), Kind::Named).is_ok());
        assert!(matches!(refused("link", Kind::File), Refusal::Kind));
        assert!(matches!(refused("file", Kind::Directory), Refusal::Kind));
        let missing = |error| matches!(error, Refusal::Io(error) if error.kind() == io::ErrorKind::NotFound);
        assert!(missing(refused("none", Kind::Named)));
        fs::set_permissions(path("file"), Permissions::from_mode(0o604)).unwrap();
        assert!(matches!(refused("link", Kind::Named), Refusal::Open));

        let begin = Instant::now();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for name in ["pipe", "socket", "."] {
            assert!(matches!(refused(name, Kind::Named), Refusal::Kind), "{name}");
        }
        assert!(begin.elapsed().as_secs() < 5);
    }

    #[test]
    fn json_never_outgrows_its_room() {
        let what = vec!["a \"text\" \u{1}".repeat(50); 20];
        for pretty in [false, true] {
            let text = to_json(&what, pretty).unwrap();
            assert_eq!(text.capacity(), text.len(), "as it was made");
            assert!(text.ends_with(b"\n"));
            assert_eq!(serde_json::from_slice::<Vec<String>>(&text).unwrap(), what);
        }
    }

    #[test]
    fn reading_ends_one_byte_beyond_the_limit() {
        assert_eq!(*read(&[7; 100][..], 100, 20).unwrap(), [7; 21]);
        let text = read(&[7; 100][..], 100, 200).unwrap();
        assert_eq!((text.len(), text.capacity()), (100, 164));
    }
}
