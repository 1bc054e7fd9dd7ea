//! Target: where encoded bytes go: a file that appears whole, or something that is written as it comes.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use crate::edge::signals::{RemoveAtExit, remove_at_exit};

/// Where bytes go. Dropped unfinished, a file is as if it had never been begun.
pub struct Target {
    /// What errors call it.
    name: String,
    place: Place,
    written: u64,
    /// Of these, the disk has been asked to take so many.
    begun: u64,
}

enum Place {
    /// A temporary file in the directory of `path`, renamed over it at the end.
    Whole {
        temporary: NamedTempFile,
        path: PathBuf,
        /// That of the file replaced; a new one has what the umask leaves.
        mode: Option<u32>,
        _guard: RemoveAtExit,
    },
    /// A file whose directory is not where it will be.
    Inside(File),
    /// Standard output, a device or a named pipe.
    Direct(File),
}

/// Nobody reads what is written; the inner error of an [`io::Error`], to tell it from sockets that broke.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct ClosedPipe;

impl Target {
    /// Returns standard output, without the line buffer that `std` has around it.
    ///
    /// # Errors
    /// If it is closed.
    pub fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Target::new("standard output".to_owned(), Place::Direct(file)))
    }

    /// Prepares to write `path`. A link is followed, and what it leads to is replaced.
    ///
    /// # Errors
    /// If it is a directory, or its own directory cannot be written to.
    pub fn file(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        if is_stdout(path) {
            return Target::stdout().with_context(|| name.to_string());
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => bail!("{name}: is a directory"),
            Ok(found) if found.is_file() => {
                let real = fs::canonicalize(path).with_context(|| name.to_string())?;
                // A file that the user may not write is not replaced either, though its directory would allow it.
                File::options()
                    .write(true)
                    .open(&real)
                    .with_context(|| format!("{name}: cannot be written"))?;
                let place = Place::beside(real, Some(found.permissions().mode() & 0o777))?;
                Ok(Target::new(name.to_string(), place))
            }
            Ok(_) => {
                let file = File::options().write(true).open(path).with_context(|| name.to_string())?;
                Ok(Target::new(name.to_string(), Place::Direct(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    bail!("{name}: is a link to nowhere");
                }
                Ok(Target::new(name.to_string(), Place::beside(path.to_path_buf(), None)?))
            }
            Err(error) => Err(error).with_context(|| name.to_string()),
        }
    }

    /// Returns a file of a directory that is renamed at its end; errors call it `name`.
    pub fn inside(name: String, file: File) -> Self {
        Target::new(name, Place::Inside(file))
    }

    /// # Errors
    /// If not all could be written; the error names the target.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.place {
            Place::Whole { temporary, .. } => temporary.as_file_mut(),
            Place::Inside(file) | Place::Direct(file) => file,
        };
        file.write_all(bytes).map_err(|error| named(&self.name, error))?;
        self.written += bytes.len() as u64;
        if self.written - self.begun >= WRITE_BACK_BYTES {
            match &self.place {
                Place::Whole { temporary, .. } => {
                    begin_write_back(temporary.as_file(), self.begun, self.written);
                }
                Place::Inside(file) => begin_write_back(file, self.begun, self.written),
                Place::Direct(_) => {}
            }
            self.begun = self.written;
        }
        Ok(())
    }

    /// Tells whether people look at it as it is written.
    pub fn is_terminal(&self) -> bool {
        matches!(&self.place, Place::Direct(file) if file.is_terminal())
    }

    fn new(name: String, place: Place) -> Self {
        Target { name, place, written: 0, begun: 0 }
    }

    /// Makes what was written final: on the disk, then under its name.
    ///
    /// # Errors
    /// If it cannot be; the file is then as it was.
    pub fn finish(self) -> io::Result<()> {
        let Target { name, place, .. } = self;
        place.finish().map_err(|error| named(&name, error))
    }
}

/// Bytes after which the disk is asked to take them. It works while more is made, and the end waits for the last of
/// them only: for a tenth of the time, of 120 MB.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// Asks the system to write the bytes from `begun` to `end` to the disk, and does not wait for it.
///
/// Only a hint: [`Place::finish`] waits until all is on the disk. Telling Linux that cached pages are not needed makes
/// it write the changed ones, which stay in the cache as they are being written.
#[cfg(target_os = "linux")]
fn begin_write_back(file: &File, begun: u64, end: u64) {
    let _ = rustix::fs::fadvise(
        file,
        begun,
        std::num::NonZeroU64::new(end - begun),
        rustix::fs::Advice::DontNeed,
    );
}

#[cfg(not(target_os = "linux"))]
fn begin_write_back(_: &File, _: u64, _: u64) {}

impl Place {
    fn beside(path: PathBuf, mode: Option<u32>) -> anyhow::Result<Self> {
        let name = path.display();
        let (directory, prefix) = beside(&path).with_context(|| format!("{name}: is no name of a file"))?;
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            // What replaces a file that is for its user alone must be so from the beginning.
            .permissions(Permissions::from_mode(if mode.is_some() { 0o600 } else { 0o666 }))
            .tempfile_in(directory)
            .map_err(without_path)
            .with_context(|| format!("{name}: cannot be created"))?;
        let guard = remove_at_exit(temporary.path());
        Ok(Place::Whole { temporary, path, mode, _guard: guard })
    }

    fn finish(self) -> io::Result<()> {
        let (temporary, path, mode, _guard) = match self {
            Place::Whole { temporary, path, mode, _guard } => (temporary, path, mode, _guard),
            Place::Inside(file) => return file.sync_all(),
            Place::Direct(_) => return Ok(()),
        };
        if let Some(mode) = mode {
            temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
        }
        temporary.as_file().sync_all()?;
        temporary.persist(&path).map_err(|failed| failed.error)?;
        Ok(())
    }
}

/// Returns the directory of `path`, and what the name of something temporary beside it begins with; `None` if `path`
/// has no name.
pub(super) fn beside(path: &Path) -> Option<(&Path, OsString)> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name()?);
    prefix.push(".");
    Some((directory, prefix))
}

/// Takes away the path that `tempfile` adds: of a file that nobody has heard of.
pub fn without_path(error: io::Error) -> io::Error {
    match error.to_string().rsplit_once(" at path ") {
        Some((what, _)) => io::Error::new(error.kind(), what.to_owned()),
        None => error,
    }
}

/// Has `error` name what it is about.
pub fn named(name: &str, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, ClosedPipe),
        kind => io::Error::new(kind, format!("{name}: {error}")),
    }
}

/// Tells whether `path` is a name of standard output.
pub fn is_stdout(path: &Path) -> bool {
    STDOUT_NAMES.iter().any(|stdout| path == Path::new(stdout))
}

/// Names that standard output has as a file. Where it leads to a file, that is to be written, not replaced.
const STDOUT_NAMES: [&str; 4] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn written(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let mut target = Target::file(path)?;
        target.write_all(bytes)?;
        Ok(target.finish()?)
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn file_appears_whole_and_replaces_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tsv");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        for name in names(directory.path()).iter().filter(|name| name.ends_with(".part")) {
            let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "what is not finished is for nobody else");
        }
        target.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(directory.path()), ["out.tsv"]);
    }

    #[test]
    fn dropped_target_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tsv");
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"half").unwrap();
        assert_eq!(names(directory.path()).len(), 1);
        drop(target);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn new_file_has_the_permissions_of_any_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        File::create(&plain).unwrap();
        let path = directory.path().join("out");
        written(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions(), fs::metadata(&plain).unwrap().permissions());
    }

    #[test]
    fn links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        written(&link, b"new").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::remove_file(&real).unwrap();
        assert!(Target::file(&link).is_err());
    }

    #[test]
    fn directories_and_missing_ones_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", Target::file(path).err().unwrap());
        assert!(error(directory.path()).ends_with(": is a directory"));
        let missing = error(&directory.path().join("no/out"));
        assert!(missing.contains("no/out: cannot be created: No such file"), "{missing}");
        assert!(!missing.contains(".part"), "{missing}");
    }

    #[test]
    fn devices_are_written_directly() {
        written(Path::new("/dev/null"), b"x").unwrap();
        let full = written(Path::new("/dev/full"), b"x").unwrap_err();
        assert_eq!(full.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::StorageFull);
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }
}
