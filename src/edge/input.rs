//! Input: files and standard input, cut into splits that can be read again until the job ends.
//!
//! Invariant: what is read is what was there when the input was opened: a file that changed meanwhile is an error. A
//! stream is spooled to an unlinked temporary file while it comes.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};

use crate::job::Cut;
use crate::logic::ids::SplitId;
use crate::logic::split::{Split, lookahead, next_cut};
use crate::runtime::source::{Cutter, Origin, SplitSource};
use crate::wire::frame::{MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};

/// The input of a job.
pub struct Input {
    files: Vec<InputFile>,
}

struct InputFile {
    /// For people.
    name: String,
    /// The file itself, or the spool of a stream.
    file: File,
    /// Where the input begins: not at the start if someone has read of standard input before us.
    start: u64,
    kind: InputKind,
}

enum InputKind {
    Regular {
        /// Where the input ends.
        end: u64,
        stamp: Stamp,
    },
    /// What is left to be spooled. A lock: the cutter takes it when it comes to this file.
    Stream(Mutex<Option<Box<dyn Read + Send>>>),
}

/// Tells whether a file is still the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
}

/// Bytes that are looked at for a boundary, at first and then: most lines are short.
const FIRST_WINDOW_BYTES: usize = 1 << 10;
const WINDOW_BYTES: usize = 64 << 10;

/// Bytes of a stream that are spooled at a time.
const SPOOL_BYTES: usize = 256 << 10;

/// Largest size of a split that can be asked for.
pub const MAX_SPLIT_BYTES: u64 = (MAX_PAYLOAD_BYTES - MAX_RECORD_BYTES - (1 << 20)) as u64;

impl Input {
    /// Opens all of `paths`; `-` is standard input.
    ///
    /// # Errors
    /// Names the first that cannot be read.
    pub fn open(paths: &[PathBuf]) -> anyhow::Result<Arc<Self>> {
        let twice = paths.iter().filter(|path| path.as_os_str() == "-").count() > 1;
        ensure!(!twice, "standard input (-) can be read once only");
        let files = paths.iter().map(|path| open_one(path)).collect::<anyhow::Result<_>>()?;
        Ok(Arc::new(Self { files }))
    }

    /// Returns the bytes of all files; `None` if one is a stream, whose end is not known.
    pub fn total_bytes(&self) -> Option<u64> {
        let lengths = self.files.iter().map(|input| match &input.kind {
            InputKind::Regular { end, .. } => Some(end.saturating_sub(input.start)),
            InputKind::Stream(_) => None,
        });
        lengths.sum()
    }

    /// Returns the number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Returns what cuts this input, once.
    pub fn cutter(self: &Arc<Self>) -> Box<dyn Cutter> {
        let window = Vec::new();
        Box::new(InputCutter { input: self.clone(), file: 0, at: None, stream: None, next: 0, window })
    }
}

fn open_one(path: &Path) -> anyhow::Result<InputFile> {
    let standard = path.as_os_str() == "-";
    let name = if standard { "standard input".to_owned() } else { path.display().to_string() };
    let file = if standard {
        let descriptor = io::stdin().as_fd().try_clone_to_owned();
        File::from(descriptor.context("cannot read standard input")?)
    } else {
        File::open(path).with_context(|| format!("cannot open {name}"))?
    };
    of_file(name, file)
}

fn of_file(name: String, mut file: File) -> anyhow::Result<InputFile> {
    let metadata = file.metadata().with_context(|| format!("cannot read {name}"))?;
    ensure!(!metadata.is_dir(), "cannot read {name}: it is a directory");
    if metadata.is_file() && !hides_its_length(&file).with_context(|| format!("cannot read {name}"))? {
        let start = file.stream_position().with_context(|| format!("cannot read {name}"))?;
        let stamp = stamp(&metadata);
        let kind = InputKind::Regular { end: stamp.length.max(start), stamp };
        return Ok(InputFile { name, file, start, kind });
    }
    let spool = tempfile::tempfile().with_context(|| {
        format!("cannot create the spool of {name} in {}", std::env::temp_dir().display())
    })?;
    let kind = InputKind::Stream(Mutex::new(Some(Box::new(file))));
    Ok(InputFile { name, file: spool, start: 0, kind })
}

/// Tells whether a file that seems empty has bytes all the same, as those of /proc do. It is read like a stream then.
fn hides_its_length(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.len() == 0 && file.read_at(&mut [0], 0)? > 0 && file.metadata()?.len() == 0)
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    Stamp { length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
}

impl InputFile {
    fn check_unchanged(&self) -> anyhow::Result<()> {
        if let InputKind::Regular { stamp: opened, .. } = &self.kind {
            let now = self.file.metadata().with_context(|| format!("cannot read {}", self.name))?;
            ensure!(stamp(&now) == *opened, "{} was changed while it was being read", self.name);
        }
        Ok(())
    }
}

impl SplitSource for Input {
    fn read(&self, split: &Split, into: &mut Vec<u8>) -> anyhow::Result<()> {
        let input = self.files.get(split.file).context("a split of a file that is not there")?;
        let length = usize::try_from(split.length).context("a split longer than memory")?;
        // Bytes that are overwritten need not be zeroed first, and a new buffer is not even touched. It has room for
        // a somewhat longer split.
        if into.capacity() < length {
            *into = vec![0; length + length / 8];
        }
        into.resize(length, 0);
        input.file.read_exact_at(into, split.offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                anyhow::anyhow!("{} became shorter while it was read", input.name)
            }
            _ => anyhow::Error::from(error)
                .context(format!("cannot read {} at byte {}", input.name, split.offset)),
        })?;
        input.check_unchanged()
    }

    fn origin(&self, split: &Split) -> Origin {
        let name = self.files.get(split.file).map_or("?", |input| input.name.as_str());
        Origin { name: name.as_bytes().to_vec(), offset: split.offset, ..Origin::default() }
    }

    fn describe(&self, split: &Split) -> String {
        let name = self.files.get(split.file).map_or("?", |input| input.name.as_str());
        format!("{name}, bytes {} to {}", split.offset, split.offset + split.length)
    }
}

struct InputCutter {
    input: Arc<Input>,
    file: usize,
    /// Where the next split begins; `None` before the file is begun.
    at: Option<u64>,
    stream: Option<Spooling>,
    next: u64,
    /// What is looked at.
    window: Vec<u8>,
}

/// A stream on its way to its spool.
struct Spooling {
    from: Box<dyn Read + Send>,
    spooled: u64,
    ended: bool,
}

impl Cutter for InputCutter {
    fn cut(&mut self, target_bytes: u64, cut: Cut) -> anyhow::Result<Option<Split>> {
        let target_bytes = target_bytes.clamp(1, MAX_SPLIT_BYTES);
        while let Some(file) = self.input.clone().files.get(self.file) {
            let offset = self.begin(file);
            let end = self.find_end(file, offset, target_bytes, cut)?;
            if end > offset {
                self.at = Some(end);
                let id = SplitId(self.next);
                self.next += 1;
                return Ok(Some(Split { id, file: self.file, offset, length: end - offset }));
            }
            self.file += 1;
            self.at = None;
        }
        Ok(None)
    }
}

impl InputCutter {
    fn begin(&mut self, file: &InputFile) -> u64 {
        if let Some(at) = self.at {
            return at;
        }
        if let InputKind::Stream(from) = &file.kind {
            let from = from.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.stream = from.map(|from| Spooling { from, spooled: 0, ended: false });
        }
        self.at = Some(file.start);
        file.start
    }

    /// Finds where the split that begins at `offset` ends: after the first boundary at or after its target.
    fn find_end(
        &mut self,
        file: &InputFile,
        offset: u64,
        target_bytes: u64,
        cut: Cut,
    ) -> anyhow::Result<u64> {
        let wanted = offset + target_bytes;
        let available = self.available(file, wanted)?;
        if available < wanted {
            return Ok(available);
        }
        // The last byte of the target may be one that ends a record.
        let mut from = wanted - 1;
        let ahead = lookahead(cut) as u64;
        let mut window_bytes = FIRST_WINDOW_BYTES;
        loop {
            let to = self.available(file, from + window_bytes as u64)?;
            if to == from {
                return Ok(to);
            }
            self.window.resize((to - from) as usize, 0);
            file.file
                .read_exact_at(&mut self.window, from)
                .with_context(|| format!("cannot read {} at byte {from}", file.name))?;
            if let Some(at) = next_cut(cut, &self.window, 1) {
                return Ok(from + at as u64);
            }
            if to < from + window_bytes as u64 {
                return Ok(to);
            }
            from = to - ahead;
            window_bytes = WINDOW_BYTES;
            if from - offset > MAX_RECORD_BYTES as u64 + target_bytes {
                bail!(
                    "{} has a record longer than {} MiB around byte {wanted}: there is no place to cut it",
                    file.name,
                    MAX_RECORD_BYTES >> 20
                );
            }
        }
    }

    /// Returns the lesser of `wanted` and the end of the file; spools a stream that far.
    fn available(&mut self, file: &InputFile, wanted: u64) -> anyhow::Result<u64> {
        match (&file.kind, &mut self.stream) {
            (InputKind::Regular { end, .. }, _) => Ok(wanted.min(*end)),
            (InputKind::Stream(_), Some(stream)) => stream.spool(file, wanted),
            (InputKind::Stream(_), None) => bail!("{} can be read once only", file.name),
        }
    }
}

impl Spooling {
    fn spool(&mut self, file: &InputFile, wanted: u64) -> anyhow::Result<u64> {
        let mut buffer = Vec::new();
        while self.spooled < wanted && !self.ended {
            buffer.resize(SPOOL_BYTES, 0);
            match self.from.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    file.file.write_all_at(&buffer[..length], self.spooled).with_context(|| {
                        let place = std::env::temp_dir();
                        format!("cannot spool {} in {} (TMPDIR sets another)", file.name, place.display())
                    })?;
                    self.spooled += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let at = self.spooled;
                    return Err(error).with_context(|| format!("cannot read {} at byte {at}", file.name));
                }
            }
        }
        Ok(wanted.min(self.spooled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn splits(input: &Arc<Input>, target: u64) -> Vec<Vec<u8>> {
        let mut cutter = input.cutter();
        let mut parts = Vec::new();
        let mut text = Vec::new();
        while let Some(split) = cutter.cut(target, Cut::LINES).expect("the input is readable") {
            assert_eq!(split.id, SplitId(parts.len() as u64));
            input.read(&split, &mut text).expect("the split is readable");
            parts.push(text.clone());
        }
        parts
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("it is writable");
        file
    }

    fn open(files: &[&tempfile::NamedTempFile]) -> Arc<Input> {
        let paths: Vec<_> = files.iter().map(|file| file.path().to_owned()).collect();
        Input::open(&paths).expect("the files are there")
    }

    #[test]
    fn cuts_after_boundaries_only_and_covers_every_byte_once() {
        let text = b"one\ntwo three\n\nfour";
        for target in 1..=text.len() as u64 + 1 {
            let parts = splits(&open(&[&file(text)]), target);
            assert_eq!(parts.concat(), text);
            let (_, inner) = parts.split_last().expect("there is a split");
            assert!(inner.iter().all(|part| part.ends_with(b"\n") && part.len() as u64 >= target));
        }
    }

    #[test]
    fn a_split_never_joins_two_files_and_an_empty_file_gives_none() {
        let (first, empty, last) = (file(b"ab"), file(b""), file(b"cd\n"));
        let input = open(&[&first, &empty, &last]);
        assert_eq!(input.total_bytes(), Some(5));
        assert_eq!(splits(&input, 100), [b"ab".to_vec(), b"cd\n".to_vec()]);
    }

    #[test]
    fn a_record_longer_than_the_target_makes_the_split_grow() {
        let mut text = vec![b'x'; 3 * WINDOW_BYTES];
        text.extend_from_slice(b"\ny\n");
        let parts = splits(&open(&[&file(&text)]), 10);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts.concat(), text);
    }

    #[test]
    fn a_stream_gives_the_same_splits_as_a_file() {
        let text = "some words\nand more\n".repeat(20_000);
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let written = text.clone();
        let feeder = std::thread::spawn(move || writer.write_all(written.as_bytes()));
        let spool = tempfile::tempfile().expect("a temporary file");
        let kind = InputKind::Stream(Mutex::new(Some(Box::new(reader))));
        let stream =
            Arc::new(Input { files: vec![InputFile { name: "a pipe".into(), file: spool, start: 0, kind }] });
        assert_eq!(stream.total_bytes(), None);
        assert_eq!(splits(&stream, 50_000), splits(&open(&[&file(text.as_bytes())]), 50_000));
        feeder.join().expect("the feeder ends").expect("all is written");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_does_not_tell_its_length_is_a_stream() {
        let path = "/proc/self/limits";
        let input = Input::open(&[path.into()]).expect("it is there");
        assert_eq!((input.total_bytes(), input.files()), (None, 1));
        assert_eq!(splits(&input, 100).concat(), std::fs::read(path).expect("it is readable"));
        assert_eq!(open(&[&file(b"")]).total_bytes(), Some(0), "an empty file is none");
    }

    /// Someone may have read of standard input before us.
    #[test]
    fn a_file_is_read_from_where_it_stands() {
        let mut at_three = file(b"a\nbb\ncc\n").reopen().expect("it is there");
        at_three.seek(io::SeekFrom::Start(2)).expect("it is a file");
        let input =
            Arc::new(Input { files: vec![of_file("a file".into(), at_three).expect("it is readable")] });
        assert_eq!(input.total_bytes(), Some(6));
        assert_eq!(splits(&input, 1), [b"bb\n".to_vec(), b"cc\n".to_vec()]);
    }

    #[test]
    fn a_sparse_file_of_any_size_is_cut_without_reading_it_all() {
        let sparse = file(b"start\n");
        let end = 1 << 43;
        sparse.as_file().write_all_at(b"\nend", end).expect("the file system knows sparse files");
        let input = open(&[&sparse]);
        let mut cutter = input.cutter();
        let first = cutter.cut(1, Cut::LINES).expect("readable").expect("a split");
        assert_eq!((first.offset, first.length), (0, 6));
        let error = cutter.cut(1, Cut::LINES).expect_err("a record of zeros without end");
        assert!(error.to_string().contains("record longer than 256 MiB"), "{error}");
        let zeros = cutter
            .cut(u64::MAX, Cut::After(crate::job::AsciiSet::of(b"\0")))
            .expect("readable")
            .expect("a split");
        assert_eq!((zeros.offset, zeros.length), (6, MAX_SPLIT_BYTES));
    }

    #[test]
    fn a_file_that_changed_is_an_error() {
        let mut changed = file(b"one\ntwo\n");
        let input = open(&[&changed]);
        let split = input.cutter().cut(4, Cut::LINES).expect("readable").expect("a split");
        changed.write_all(b"three\n").expect("it is writable");
        let error = input.read(&split, &mut Vec::new()).expect_err("the file grew");
        assert!(error.to_string().contains("was changed"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for path in ["/nonexistent/file", "/"] {
            let error = Input::open(&[path.into()]).err().expect("it cannot be read");
            assert!(format!("{error:#}").contains(path), "{error:#}");
        }
    }
}
