//! Cut: an input cut into splits, file after file, from the beginning of the first to the end of the last.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::files::Regular;
use super::stream::{NoSpool, Spooling};
use super::stretch::Stretch;
use super::{Input, InputFile, InputKind, MAX_SPLIT_BYTES};
use crate::job::Cut;
use crate::logic::ids::SplitId;
use crate::logic::split::{Split, lookahead, next_cut};
use crate::runtime::pieces::is_lacking;
use crate::runtime::source::Cutter;
use crate::wire::encoding::Encoding;
use crate::wire::frame::MAX_RECORD_BYTES;

/// Bytes that are looked at for a boundary, at first and then: most lines are short.
const FIRST_WINDOW_BYTES: usize = 1 << 10;
pub(super) const WINDOW_BYTES: usize = 64 << 10;

/// What cuts an input.
pub(super) struct InputCutter {
    input: Arc<Input>,
    file: usize,
    /// Where the next split begins; `None` before the file is begun.
    at: Option<u64>,
    spooling: Option<Spooling>,
    next: u64,
    /// What is looked at.
    window: Vec<u8>,
}

impl InputCutter {
    pub(super) fn new(input: Arc<Input>) -> Self {
        Self { input, file: 0, at: None, spooling: None, next: 0, window: Vec::new() }
    }
}

impl Cutter for InputCutter {
    fn cut(&mut self, target_bytes: u64, cut: Cut) -> anyhow::Result<Option<Split>> {
        let target_bytes = target_bytes.clamp(1, MAX_SPLIT_BYTES);
        let input = self.input.clone();
        while let Some(file) = input.files.get(self.file) {
            let left = self.cut_file(file, target_bytes, cut);
            let offset = self.at.unwrap_or(0);
            match left {
                Ok(end) if end > offset => {
                    self.at = Some(end);
                    let id = SplitId(self.next);
                    self.next += 1;
                    return Ok(Some(Split { id, file: self.file, offset, length: end - offset }));
                }
                Ok(_) => {}
                Err(error) if input.skip_bad && is_of_input(&error) => {
                    input.leave_out(&file.path, offset, &error);
                }
                Err(error) => return Err(error),
            }
            self.file += 1;
            self.at = None;
            self.spooling = None;
        }
        Ok(None)
    }
}

impl InputCutter {
    /// Finds where the next split of `file` ends: where it begins if there is none.
    fn cut_file(&mut self, file: &InputFile, target_bytes: u64, cut: Cut) -> anyhow::Result<u64> {
        let offset = self.begin(file)?;
        if let InputKind::Regular(regular) = &file.kind {
            if offset == regular.end() {
                return Ok(offset);
            }
            let encoding = self.input.encoding(self.file, regular)?;
            if encoding != Encoding::Plain || cut == Cut::Never {
                return whole(file, regular, encoding);
            }
        }
        self.find_end(file, offset, target_bytes, cut)
    }

    /// Returns where the next split begins.
    fn begin(&mut self, file: &InputFile) -> anyhow::Result<u64> {
        if let Some(at) = self.at {
            return Ok(at);
        }
        let at = match &file.kind {
            InputKind::Regular(regular) => regular.start,
            InputKind::Stream(stream) => {
                let from = stream.take().with_context(|| format!("{} can be read once only", file.name()))?;
                self.spooling = Some(stream.begin(from, &file.name())?);
                0
            }
            InputKind::Unpacked(regular, stream) => {
                let packed = Stretch::new(self.input.clone(), self.file, regular.start, regular.end())?;
                self.spooling = Some(stream.begin(Box::new(packed), &file.name())?);
                0
            }
        };
        // What is torn is left out as a whole, however large the splits are and wherever it is unpacked.
        if let Some(spooling) = &mut self.spooling
            && self.input.skip_bad
            && (spooling.is_packed() || matches!(file.kind, InputKind::Unpacked(..)))
        {
            spooling.spool(&file.name(), u64::MAX)?;
        }
        self.at = Some(at);
        Ok(at)
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
        let descriptor = self.input.descriptor(self.file, offset)?;
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
            let read = descriptor.read_exact_at(&mut self.window, from);
            if let (Err(_), InputKind::Regular(regular)) = (&read, &file.kind) {
                regular.stamp.check(&descriptor, &file.name(), from)?;
            }
            read.with_context(|| file.cannot_read(from))?;
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
                    file.name(),
                    MAX_RECORD_BYTES >> 20
                );
            }
        }
    }

    /// Returns the lesser of `wanted` and the end of the file; spools a stream that far.
    fn available(&mut self, file: &InputFile, wanted: u64) -> anyhow::Result<u64> {
        match (&file.kind, &mut self.spooling) {
            (InputKind::Regular(regular), _) => Ok(wanted.min(regular.end())),
            (_, Some(spooling)) => spooling.spool(&file.name(), wanted),
            (_, None) => bail!("{} can be read once only", file.name()),
        }
    }
}

/// Tells whether an error lies in what is read, not in what this machine lacks.
fn is_of_input(error: &anyhow::Error) -> bool {
    !is_lacking(error.as_ref()) && error.downcast_ref::<NoSpool>().is_none()
}

/// Returns the end of a file that is one split.
///
/// # Errors
/// If it is too long for that.
fn whole(file: &InputFile, regular: &Regular, encoding: Encoding) -> anyhow::Result<u64> {
    let is_fitting = encoding != Encoding::Plain || regular.length() <= MAX_RECORD_BYTES as u64;
    let limit = MAX_RECORD_BYTES >> 20;
    ensure!(is_fitting, "{} is longer than {limit} MiB, and this job takes files as a whole", file.name());
    Ok(regular.end())
}
