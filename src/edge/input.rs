//! Input: files and standard input, cut into splits that can be read again until the job ends.
//!
//! Invariant: what is read is what was there when the input was opened: a file that changed meanwhile is an error. A
//! stream is spooled to an unlinked temporary file while it comes.

mod cut;
mod files;
mod list;
mod stream;
mod stretch;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};

use crate::logic::split::Split;
use crate::runtime::source::{BadInput, Cutter, Origin, SplitSource};
use crate::wire::encoding::{Encoding, MAGIC_BYTES};
use crate::wire::frame::{MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};

use cut::InputCutter;
use files::{Descriptors, HELD_FILES, Regular, look_at};
use list::{STANDARD, cannot_open};
pub use list::{is_standard, listed};
use stream::Stream;
use stretch::Stretch;

/// What is to be read, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'w> {
    /// Files, directories and patterns; `-` is standard input.
    pub files: &'w [PathBuf],
    /// Files and directories of a list.
    pub listed: &'w [PathBuf],
    /// Whether that list was standard input, which is at its end then.
    pub list_was_standard: bool,
    /// Whether splits are sent to workers.
    pub travels: bool,
    /// Whether what cannot be read is left out, and said in the end.
    pub skip_bad: bool,
}

/// The input of a job.
pub struct Input {
    files: Vec<InputFile>,
    descriptors: Descriptors,
    skip_bad: bool,
    /// What was left out. A lock: the cutter puts it in, who reports takes it out.
    bad: Mutex<Vec<BadInput>>,
}

struct InputFile {
    /// As it was named or found; `-` for standard input.
    path: PathBuf,
    kind: InputKind,
}

enum InputKind {
    Regular(Regular),
    Stream(Stream),
    /// A file that is compressed and too long for a split that travels: unpacked like a stream.
    Unpacked(Regular, Stream),
}

/// Largest size of a split that can be asked for.
pub const MAX_SPLIT_BYTES: u64 = (MAX_PAYLOAD_BYTES - MAX_RECORD_BYTES - (1 << 20)) as u64;

impl Input {
    /// Finds all that is wanted, and looks at each file.
    ///
    /// # Errors
    /// Names the first that cannot be read, unless that is to be left out; or there is nothing.
    pub fn open(wanted: &Wanted<'_>) -> anyhow::Result<Arc<Self>> {
        let found = list::find(wanted)?;
        let holds = found.len() <= HELD_FILES;
        let mut input = Self {
            files: Vec::with_capacity(found.len()),
            descriptors: Descriptors::default(),
            skip_bad: wanted.skip_bad,
            bad: Mutex::default(),
        };
        for (path, had) in found {
            match had.and_then(|()| open_one(&path, holds, wanted.travels)) {
                Ok(kind) => input.files.push(InputFile { path, kind }),
                Err(error) if wanted.skip_bad => input.leave_out(&path, 0, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(input))
    }

    /// Returns the bytes of all files as they lie on the disk; `None` if it is not known how many will be mapped,
    /// for one is a stream.
    pub fn total_bytes(&self) -> Option<u64> {
        let lengths = self.files.iter().map(|input| match &input.kind {
            InputKind::Regular(regular) => Some(regular.length()),
            InputKind::Stream(_) | InputKind::Unpacked(..) => None,
        });
        lengths.sum()
    }

    /// Returns the number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Returns what cuts this input, once.
    pub fn cutter(self: &Arc<Self>) -> Box<dyn Cutter> {
        Box::new(InputCutter::new(self.clone()))
    }

    /// Returns what was left out so far, for it cannot be read.
    pub fn bad(&self) -> Vec<BadInput> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leave_out(&self, path: &Path, offset: u64, cause: &anyhow::Error) {
        let input = name_of(path);
        let bad = BadInput { input, offset, bytes: None, cause: format!("{cause:#}") };
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).push(bad);
    }

    fn file(&self, place: usize) -> anyhow::Result<&InputFile> {
        self.files.get(place).context("a split of a file that is not there")
    }

    /// Returns what the bytes of a file are read from, at byte `at`: the file, or the spool of it.
    fn descriptor(&self, place: usize, at: u64) -> anyhow::Result<Arc<File>> {
        let input = self.file(place)?;
        match &input.kind {
            InputKind::Regular(regular) => self.descriptors.open(place, &input.path, regular, at),
            InputKind::Stream(stream) | InputKind::Unpacked(_, stream) => {
                stream.spool().with_context(|| format!("nothing of {} has been spooled", input.name()))
            }
        }
    }

    /// Returns how a regular file is compressed; that it has `first` at its beginning is looked at once.
    fn encoding(&self, place: usize, regular: &Regular) -> anyhow::Result<Encoding> {
        if let Some(encoding) = regular.encoding.get() {
            return Ok(*encoding);
        }
        let input = self.file(place)?;
        let file = self.descriptors.open(place, &input.path, regular, regular.start)?;
        let encoding = recognise(&file, regular.start);
        let encoding = encoding.with_context(|| input.cannot_read(regular.start))?;
        Ok(*regular.encoding.get_or_init(|| encoding))
    }
}

/// Recognises how what begins at `start` of a file is compressed.
fn recognise(file: &File, start: u64) -> io::Result<Encoding> {
    let (mut first, mut read) = ([0; MAGIC_BYTES], 0);
    while read < first.len() {
        match file.read_at(&mut first[read..], start + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Encoding::of(&first[..read]))
}

/// What errors call the file at `path`.
fn name_of(path: &Path) -> String {
    if path.as_os_str() == STANDARD { "standard input".to_owned() } else { path.display().to_string() }
}

fn open_one(path: &Path, holds: bool, travels: bool) -> anyhow::Result<InputKind> {
    let name = name_of(path);
    if path.as_os_str() == STANDARD {
        let descriptor = io::stdin().as_fd().try_clone_to_owned();
        return of_open(&name, File::from(descriptor.context("cannot read standard input")?), true, travels);
    }
    let metadata = look_at(path).map_err(|error| cannot_open(path, error))?;
    // Others are few, or seem to be empty.
    let is_plain_file = metadata.is_file() && metadata.len() > 0;
    if is_plain_file && !holds && !(travels && metadata.len() > MAX_SPLIT_BYTES) {
        return Ok(InputKind::Regular(Regular::new(0, &metadata)));
    }
    let file = File::open(path).map_err(|error| cannot_open(path, error))?;
    of_open(&name, file, holds, travels)
}

/// Makes an input of a file that is open; it may have been read of. It stays open if `holds`.
fn of_open(name: &str, mut file: File, holds: bool, travels: bool) -> anyhow::Result<InputKind> {
    let cannot_read = || format!("cannot read {name}");
    let metadata = file.metadata().with_context(cannot_read)?;
    ensure!(!metadata.is_dir(), "cannot read {name}: it is a directory");
    if !metadata.is_file() || hides_its_length(&file).with_context(cannot_read)? {
        return Ok(InputKind::Stream(Stream::new(file)));
    }
    let start = file.stream_position().with_context(cannot_read)?;
    let regular = Regular::new(start, &metadata);
    let is_too_long = travels && regular.length() > MAX_SPLIT_BYTES;
    if is_too_long && recognise(&file, start).with_context(cannot_read)? != Encoding::Plain {
        let regular = Regular { held: Some(Arc::new(file)), ..regular };
        return Ok(InputKind::Unpacked(regular, Stream::later()));
    }
    Ok(InputKind::Regular(Regular { held: holds.then(|| Arc::new(file)), ..regular }))
}

/// Tells whether a file that seems empty has bytes all the same, as those of /proc do. It is read like a stream then.
fn hides_its_length(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.len() == 0 && file.read_at(&mut [0], 0)? > 0 && file.metadata()?.len() == 0)
}

impl InputFile {
    /// What errors call it.
    fn name(&self) -> String {
        name_of(&self.path)
    }

    fn cannot_read(&self, at: u64) -> String {
        format!("cannot read {} at byte {at}", self.name())
    }

    fn check_unchanged(&self, file: &File, at: u64) -> anyhow::Result<()> {
        match &self.kind {
            InputKind::Regular(regular) | InputKind::Unpacked(regular, _) => {
                regular.stamp.check(file, &self.name(), at)
            }
            InputKind::Stream(_) => Ok(()),
        }
    }
}

impl SplitSource for Input {
    fn read(&self, split: &Split, into: &mut Vec<u8>) -> anyhow::Result<()> {
        let (input, file) = (self.file(split.file)?, self.descriptor(split.file, split.offset)?);
        let length = usize::try_from(split.length).context("a split longer than memory")?;
        // Bytes that are overwritten need not be zeroed first, and a new buffer is not even touched. It has room for
        // a somewhat longer split.
        if into.capacity() < length {
            *into = vec![0; length + length / 8];
        }
        into.resize(length, 0);
        let read = file.read_exact_at(into, split.offset);
        if let InputKind::Regular(regular) = &input.kind {
            // What became of it says more than that the end came too early.
            regular.stamp.check(&file, &input.name(), split.offset)?;
        }
        read.with_context(|| input.cannot_read(split.offset))
    }

    fn open<'s>(&'s self, split: &Split) -> anyhow::Result<Box<dyn Read + Send + 's>> {
        Ok(Box::new(Stretch::new(self, split.file, split.offset, split.offset + split.length)?))
    }

    fn origin(&self, split: &Split) -> Origin {
        let Some(input) = self.files.get(split.file) else { return Origin::default() };
        let encoding = match &input.kind {
            InputKind::Regular(regular) => regular.encoding.get().copied().unwrap_or_default(),
            InputKind::Stream(_) | InputKind::Unpacked(..) => Encoding::Plain,
        };
        let offset = if encoding == Encoding::Plain { split.offset } else { 0 };
        Origin { name: input.path.as_os_str().as_bytes().to_vec(), offset, encoding }
    }

    fn describe(&self, split: &Split) -> String {
        let name = self.files.get(split.file).map_or("?".to_owned(), InputFile::name);
        format!("{name}, bytes {} to {}", split.offset, split.offset + split.length)
    }

    fn left_out(&self, split: &Split, cause: &str) -> BadInput {
        let input = self.files.get(split.file).map_or("?".to_owned(), InputFile::name);
        BadInput { input, offset: split.offset, bytes: Some(split.length), cause: cause.to_owned() }
    }
}
