//! Record: a cluster on disk, in `.mapreduce/` beside the hosts file.
//!
//! It holds the client's private key, so it is the user's alone (0700, 0600) and is believed only if it belongs to the
//! user. Its directory is opened once, and what is in it is reached from there, so that nobody who may rename things
//! beside the hosts file can put another in its place in between.
//!
//! Invariant: a record without workers holds no key, for there is nobody to speak with.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{Cluster, Protection};
use crate::edge::hex;
use crate::edge::private::{self, Kind, Refusal};

/// A record that is no record, such as one of another version of this program.
#[derive(Debug, thiserror::Error)]
#[error("{}: the record of the cluster is damaged: {what}", .file.display())]
pub struct Damaged {
    file: PathBuf,
    what: String,
}

/// Bound on the record's size: a thousand workers take some 300 KiB.
const RECORD_LIMIT: u64 = 16 << 20;

/// Bytes of randomness in the name of a record that is being written: it must be a new one, no more.
const NAME_BYTES: usize = 8;

/// Reads the record that belongs to the hosts file `hosts`; `None` if nothing is recorded.
///
/// # Errors
/// If the record cannot be read, is damaged, or belongs to another user.
pub(super) fn load(hosts: &Path) -> anyhow::Result<Option<Cluster>> {
    let paths = Paths::of(hosts)?;
    match open_own(CWD, &paths.directory, &paths.directory, Kind::Directory)? {
        Some(directory) => paths.load(&directory),
        None => Ok(None),
    }
}

/// The record of one hosts file, held by one command at a time.
pub struct Record {
    paths: Paths,
    /// Locked while the record is held.
    directory: File,
}

impl Record {
    /// Takes hold of the record that belongs to the hosts file `hosts`; makes its directory if need be.
    ///
    /// # Errors
    /// If another command holds it, or the directory cannot be made or is not the user's own.
    pub fn hold(hosts: &Path) -> anyhow::Result<Record> {
        let paths = Paths::of(hosts)?;
        let shown = paths.directory.display();
        match DirBuilder::new().mode(0o700).create(&paths.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("creating {shown}"));
            }
            _ => {}
        }
        let directory = open_own(CWD, &paths.directory, &paths.directory, Kind::Directory)?;
        let directory = directory.with_context(|| format!("{shown} is gone"))?;
        // Whoever could write to it could put another record in the place of ours.
        directory
            .set_permissions(Permissions::from_mode(0o700))
            .with_context(|| format!("making {shown} private"))?;
        let is_held = match directory.try_lock() {
            Err(TryLockError::WouldBlock) => true,
            // Some network file systems have no locks: then the user is trusted not to do two things at once.
            Err(TryLockError::Error(_)) | Ok(()) => {
                // Who held it a moment ago has removed it.
                directory.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
            }
        };
        if is_held {
            bail!("{shown}: another deploy or stop is at work there");
        }
        sweep(&directory);
        Ok(Record { paths, directory })
    }

    /// Reads the record; `None` if nothing is recorded.
    ///
    /// # Errors
    /// As [`Cluster::load`].
    pub fn load(&self) -> anyhow::Result<Option<Cluster>> {
        self.paths.load(&self.directory)
    }

    /// Writes `cluster`, without a key if it has no workers: the whole record or, on failure, the one before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let keyless;
        let cluster = if cluster.workers.is_empty() {
            keyless = Cluster { protection: Protection::Gone, ..cluster.clone() };
            &keyless
        } else {
            cluster
        };
        let write = || -> anyhow::Result<()> {
            let text = private::to_json(cluster, true)?;
            let new = format!("{UNFINISHED}{}", hex::random(NAME_BYTES)?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&self.directory, &new, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&text)
                .and_then(|()| Ok(renameat(&self.directory, &new, &self.directory, &self.paths.name)?))
                .inspect_err(|_| _ = unlinkat(&self.directory, &new, AtFlags::empty()))?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", self.paths.file().display()))
    }

    /// Removes the record, and its directory if nothing else is in it.
    ///
    /// # Errors
    /// If the record is there and cannot be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        match unlinkat(&self.directory, &self.paths.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let file = self.paths.file();
                return Err(io::Error::from(error)).with_context(|| format!("removing {}", file.display()));
            }
        }
        self.release();
        Ok(())
    }

    /// Lets go of the record; the directory stays only if something is in it.
    pub fn release(self) {
        // Another hosts file's record may be in it. An empty one may go, whosever it is by now.
        let _ = fs::remove_dir(&self.paths.directory);
        let _ = self.directory.unlock();
    }
}

/// What the names of records that are being written begin with.
const UNFINISHED: &str = ".new-";

/// Removes what a command that was ended while it wrote left in the record's directory.
fn sweep(directory: &File) {
    for entry in Dir::read_from(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_bytes().starts_with(UNFINISHED.as_bytes()) {
            // It is litter: what cannot be removed does no harm.
            let _ = unlinkat(directory, entry.file_name(), AtFlags::empty());
        }
    }
}

/// Where the record of a hosts file is.
struct Paths {
    directory: PathBuf,
    /// Of the file in it.
    name: OsString,
}

impl Paths {
    fn of(hosts: &Path) -> anyhow::Result<Paths> {
        let name = hosts.file_name().with_context(|| format!("{} names no file", hosts.display()))?;
        let mut name = name.to_owned();
        name.push(".json");
        Ok(Paths { directory: hosts.with_file_name(".mapreduce"), name })
    }

    fn file(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Reads the record in `directory`, which is open.
    fn load(&self, directory: &File) -> anyhow::Result<Option<Cluster>> {
        let file = self.file();
        let Some(open) = open_own(directory, Path::new(&self.name), &file, Kind::File)? else {
            return Ok(None);
        };
        let likely = open.metadata().map_or(0, |metadata| metadata.len());
        let text = private::read(open, likely, RECORD_LIMIT)
            .with_context(|| format!("reading {}", file.display()))?;
        if text.len() as u64 > RECORD_LIMIT {
            return Err(Damaged { file, what: format!("it is longer than {RECORD_LIMIT} bytes") }.into());
        }
        // A serde error may quote the text it met, so it is said by position only: the text holds the key.
        let cluster = serde_json::from_slice(&text).map_err(|error| {
            let what = format!("line {}, column {}", error.line(), error.column());
            Damaged { file, what }
        })?;
        Ok(Some(cluster))
    }
}

/// Opens `path` at the directory `at`, which is `shown` to the user; `None` if it is not there.
///
/// # Errors
/// If it is another user's, a symbolic link, or a file that others could have written: it could send our data to a
/// stranger's workers.
fn open_own(at: impl AsFd, path: &Path, shown: &Path, kind: Kind) -> anyhow::Result<Option<File>> {
    let shown = shown.display();
    let refusal = match private::open(at, path, kind) {
        Ok(file) => return Ok(Some(file)),
        Err(refusal) => refusal,
    };
    Err(match refusal {
        Refusal::Io(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Refusal::Io(error) => anyhow::Error::from(error).context(format!("reading {shown}")),
        Refusal::Kind => {
            anyhow!("{shown} is not what it should be, perhaps a symbolic link; remove it if it is not yours")
        }
        Refusal::Foreign => anyhow!("{shown} belongs to another user and is not trusted"),
        Refusal::Open => {
            anyhow!("{shown} could be read or written by others: `stop`, remove it and deploy again")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::cluster::tests::sample;

    #[test]
    fn saved_record_is_loaded_and_private() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        assert_eq!(Cluster::load(&hosts).unwrap(), None);
        let cluster = sample();
        let record = Record::hold(&hosts).unwrap();
        record.save(&cluster).unwrap();
        assert_eq!(Cluster::load(&hosts).unwrap(), Some(cluster));
        let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!(mode(".mapreduce"), 0o700);
        assert_eq!(mode(".mapreduce/hosts.toml.json"), 0o600);
        record.remove().unwrap();
        assert!(!home.path().join(".mapreduce").exists());
    }

    #[test]
    fn record_without_workers_holds_no_key() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        let record = Record::hold(&hosts).unwrap();
        let mut cluster = sample();
        record.save(&cluster).unwrap();
        cluster.workers.clear();
        record.save(&cluster).unwrap();
        let text = fs::read_to_string(home.path().join(".mapreduce/hosts.toml.json")).unwrap();
        assert!(!text.contains("key") && text.contains("gone"), "{text}");
        cluster.end();
        assert_eq!(record.load().unwrap(), Some(cluster.clone()));
        assert!(cluster.wire().err().unwrap().to_string().contains("was stopped"));
        record.remove().unwrap();
    }

    #[test]
    fn directory_that_is_exchanged_in_between_is_not_taken_for_ours() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        let (ours, moved) = (home.path().join(".mapreduce"), home.path().join("moved"));
        let record = Record::hold(&hosts).unwrap();
        fs::rename(&ours, &moved).unwrap();
        fs::create_dir(&ours).unwrap();
        let cluster = sample();
        record.save(&cluster).unwrap();
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 1);
        assert_eq!(record.load().unwrap(), Some(cluster));
        record.remove().unwrap();
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 0);
    }

    #[test]
    fn what_a_write_that_was_cut_short_left_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        Record::hold(&hosts).unwrap().save(&sample()).unwrap();
        fs::write(home.path().join(".mapreduce/.new-0123"), "{").unwrap();
        Record::hold(&hosts).unwrap().remove().unwrap();
        assert!(!home.path().join(".mapreduce").exists());
    }

    #[test]
    fn two_hosts_files_have_two_records() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (home.path().join("a.toml"), home.path().join("b.toml"));
        let record = Record::hold(&a).unwrap();
        record.save(&sample()).unwrap();
        record.release();
        assert_eq!(Cluster::load(&b).unwrap(), None);
        Record::hold(&b).unwrap().remove().unwrap();
        assert!(Cluster::load(&a).unwrap().is_some());
    }

    #[test]
    fn record_is_held_by_one_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        let first = Record::hold(&hosts).unwrap();
        let refused = Record::hold(&hosts).err().unwrap();
        assert!(refused.to_string().contains("at work"), "{refused}");
        first.release();
        Record::hold(&hosts).unwrap().release();
    }

    #[test]
    fn directory_that_others_may_enter_is_made_private() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".mapreduce");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        let record = Record::hold(&home.path().join("hosts.toml")).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        record.release();
    }

    #[test]
    fn symbolic_link_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), home.path().join(".mapreduce")).unwrap();
        let hosts = home.path().join("hosts.toml");
        assert!(Cluster::load(&hosts).is_err());
        assert!(Record::hold(&hosts).is_err());
    }

    #[test]
    fn record_that_others_could_have_written_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        Record::hold(&hosts).unwrap().save(&sample()).unwrap();
        let file = home.path().join(".mapreduce/hosts.toml.json");
        for mode in [0o640, 0o602] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let error = Cluster::load(&hosts).unwrap_err().to_string();
            assert!(error.contains("by others"), "{error}");
        }
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(home.path().join("elsewhere"), &file).unwrap();
        assert!(Cluster::load(&hosts).unwrap_err().to_string().contains("symbolic link"));
    }

    #[test]
    fn damaged_record_does_not_show_the_key() {
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts.toml");
        let record = Record::hold(&hosts).unwrap();
        record.save(&sample()).unwrap();
        fs::write(home.path().join(".mapreduce/hosts.toml.json"), "{\"key\": \"s3cret\", \"id\": 5}")
            .unwrap();
        let error = format!("{:#}", Cluster::load(&hosts).unwrap_err());
        assert!(error.contains("damaged: line 1") && !error.contains("s3cret"), "{error}");
    }
}
