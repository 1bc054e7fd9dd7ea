//! Parts: the result as a directory of files, one for each reducer, that appears as a whole or not at all.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::edge::signals::{RemoveAtExit, remove_at_exit};
use crate::job::Job;
use crate::runtime::source::{Parts, Sink};

use super::target::{self, Target};
use super::{Format, sink_to};

/// A directory beside its final name, until the end.
pub struct Directory<J> {
    job: Arc<J>,
    format: Format,
    /// Where it will be, and what errors call it.
    path: PathBuf,
    name: String,
    /// That of the empty directory replaced; a new one has what the umask leaves.
    mode: Option<u32>,
    place: Place,
}

/// Where the parts are written. Dropped, it is removed with all that is in it.
struct Place {
    // In this order: the guard is for as long as the directory may be there.
    directory: TempDir,
    _guard: RemoveAtExit,
}

impl<J: Job> Directory<J> {
    /// Prepares to write parts into the directory `path`.
    ///
    /// # Errors
    /// If it holds something, is no directory, or none can be made beside it.
    pub fn create(path: &Path, format: Format, job: &Arc<J>) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let (path, mode) = match fs::metadata(path) {
            Ok(found) if !found.is_dir() => bail!("{name}: is not a directory"),
            Ok(found) => {
                let mut inside = fs::read_dir(path).with_context(|| format!("{name}: cannot be read"))?;
                if inside.next().is_some() {
                    bail!("{name}: is not empty");
                }
                let real = fs::canonicalize(path).with_context(|| name.clone())?;
                (real, Some(found.permissions().mode() & 0o7777))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    bail!("{name}: is a link to nowhere");
                }
                (path.to_path_buf(), None)
            }
            Err(error) => return Err(error).with_context(|| name.clone()),
        };
        let place = Place::beside(&path).with_context(|| format!("{name}: cannot be created"))?;
        Ok(Self { job: job.clone(), format, path, name, mode, place })
    }
}

impl<J: Job> Parts<J::Value> for Directory<J> {
    fn begin(&mut self) -> io::Result<()> {
        // The one before is removed when its successor is there.
        self.place = Place::beside(&self.path).map_err(|error| target::named(&self.name, error))?;
        Ok(())
    }

    fn part(&self, number: usize) -> io::Result<Box<dyn Sink<J::Value>>> {
        let file_name = format!("part-{number:05}.{}", self.format.suffix());
        let name = format!("{}/{file_name}", self.name.trim_end_matches('/'));
        let created = File::options()
            .write(true)
            .create_new(true)
            .open(self.place.directory.path().join(file_name))
            .map_err(|error| target::named(&name, error))?;
        sink_to(Target::inside(name, created), None, self.format, &self.job)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { path, name, mode, place, .. } = *self;
        let written = place.directory.path();
        let placed = match mode {
            Some(mode) => fs::set_permissions(written, Permissions::from_mode(mode)),
            None => Ok(()),
        };
        // Over an empty directory, too; one that is not empty any more is left as it is.
        placed.and_then(|()| fs::rename(written, &path)).map_err(|error| target::named(&name, error))?;
        // It has another name now.
        let _ = place.directory.keep();
        Ok(())
    }
}

impl Place {
    fn beside(path: &Path) -> io::Result<Self> {
        let beside = target::beside(path).ok_or_else(|| io::Error::other("is no name of a directory"))?;
        let (directory, prefix) = beside;
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(directory)
            .map_err(target::without_path)?;
        let guard = remove_at_exit(directory.path());
        Ok(Self { directory, _guard: guard })
    }
}
