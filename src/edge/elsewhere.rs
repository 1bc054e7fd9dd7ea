//! Elsewhere: input that whoever maps it reads: its splits are ranges of files that nobody here looks into.
//!
//! It comes after the input that is read here.

use std::sync::Arc;

use anyhow::bail;

use crate::edge::input::Input;
use crate::job::Cut;
use crate::logic::ids::SplitId;
use crate::logic::split::Split;
use crate::runtime::report::BadInput;
use crate::runtime::source::{Cutter, Origin, SplitSource};
use crate::wire::located::{Found, Located};

/// What is read here, and what is read elsewhere.
pub struct Gathered {
    here: Arc<Input>,
    elsewhere: Vec<Found>,
    /// What could not be found elsewhere, and is left out.
    missed: Vec<BadInput>,
}

/// As so many bytes a file counts whose length is not known before it is read.
const UNKNOWN_BYTES: u64 = 1 << 20;

impl Gathered {
    /// Adds to what is read here what is read `elsewhere`, without what was `missed` there.
    pub fn new(here: Arc<Input>, elsewhere: Vec<Found>, missed: Vec<BadInput>) -> Arc<Self> {
        Arc::new(Self { here, elsewhere, missed })
    }

    /// Returns the bytes of all files as they lie there; `None` if that is not known.
    pub fn total_bytes(&self) -> Option<u64> {
        let elsewhere: Option<u64> = self.elsewhere.iter().map(|file| file.length).sum();
        self.here.total_bytes()?.checked_add(elsewhere?)
    }

    /// Returns the number of files.
    pub fn files(&self) -> usize {
        self.here.files() + self.elsewhere.len()
    }

    /// Returns what was left out by who found, opened and cut the input.
    pub fn bad(&self) -> Vec<BadInput> {
        let mut bad = self.here.bad();
        bad.extend_from_slice(&self.missed);
        bad
    }

    /// Returns the first of the files that are read elsewhere.
    pub fn first_elsewhere(&self) -> usize {
        self.here.files()
    }

    /// Returns what cuts this input, once.
    pub fn cutter(self: &Arc<Self>) -> Box<dyn Cutter> {
        let here = Some(self.here.cutter());
        Box::new(GatheredCutter { input: self.clone(), here, file: 0, at: 0, next: 0 })
    }

    fn file(&self, split: &Split) -> Option<&Found> {
        self.elsewhere.get(split.file.checked_sub(self.here.files())?)
    }
}

impl SplitSource for Gathered {
    fn origin(&self, split: &Split) -> Origin {
        match self.file(split) {
            Some(file) => Origin { name: file.place.name(), offset: split.offset, encoding: file.encoding },
            None => self.here.origin(split),
        }
    }

    fn located(&self, split: &Split) -> Option<Located> {
        let file = self.file(split)?;
        let end = split.offset + split.length;
        // All of a file is read as such, for there is nothing to look for at its ends.
        let is_part = file.has_parts() && (split.offset, Some(end)) != (0, file.length);
        Some(Located { file: file.clone(), range: is_part.then_some([split.offset, end]) })
    }

    fn open<'s>(&'s self, split: &Split) -> anyhow::Result<Box<dyn std::io::Read + Send + 's>> {
        match self.file(split) {
            Some(_) => bail!("{} is not read here", self.describe(split)),
            None => self.here.open(split),
        }
    }

    fn read(&self, split: &Split, into: &mut Vec<u8>) -> anyhow::Result<()> {
        match self.file(split) {
            Some(_) => bail!("{} is not read here", self.describe(split)),
            None => self.here.read(split, into),
        }
    }

    fn left_out(&self, split: &Split, cause: &str) -> BadInput {
        let Some(file) = self.file(split) else { return self.here.left_out(split, cause) };
        let input = String::from_utf8_lossy(&file.place.name()).into_owned();
        let bytes = file.length.map(|_| split.length);
        BadInput { input, offset: split.offset, bytes, cause: cause.to_owned() }
    }

    fn describe(&self, split: &Split) -> String {
        let Some(file) = self.file(split) else { return self.here.describe(split) };
        let name = String::from_utf8_lossy(&file.place.name()).into_owned();
        match file.length {
            Some(_) => format!("{name}, bytes {} to {}", split.offset, split.offset + split.length),
            None => name,
        }
    }
}

struct GatheredCutter {
    input: Arc<Gathered>,
    /// Until that has come to its end.
    here: Option<Box<dyn Cutter>>,
    /// Place among those that are elsewhere, and how far it is cut.
    file: usize,
    at: u64,
    next: u64,
}

impl Cutter for GatheredCutter {
    fn cut(&mut self, target_bytes: u64, cut: Cut) -> anyhow::Result<Option<Split>> {
        if let Some(here) = &mut self.here {
            if let Some(split) = here.cut(target_bytes, cut)? {
                self.next = split.id.0 + 1;
                return Ok(Some(split));
            }
            self.here = None;
        }
        while let Some(file) = self.input.elsewhere.get(self.file) {
            let left = file.length.map_or(UNKNOWN_BYTES, |length| length.saturating_sub(self.at));
            let is_cut = file.has_parts() && cut != Cut::Never;
            let length = if is_cut { left.min(target_bytes.max(1)) } else { left };
            let (offset, place) = (self.at, self.input.first_elsewhere() + self.file);
            if length == left {
                self.file += 1;
                self.at = 0;
            } else {
                self.at += length;
            }
            if length > 0 {
                let id = SplitId(self.next);
                self.next += 1;
                return Ok(Some(Split { id, file: place, offset, length }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::input::Wanted;
    use crate::wire::encoding::Encoding;
    use crate::wire::located::{PathBytes, Place};

    fn found(name: &str, length: Option<u64>, encoding: Encoding) -> Found {
        let place = Place::Path(PathBytes(name.as_bytes().to_vec()));
        Found { place, length, stamp: String::new(), encoding, has_ranges: length.is_some() }
    }

    fn gathered(text: &[u8], elsewhere: Vec<Found>) -> (Arc<Gathered>, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("here");
        std::fs::write(&path, text).expect("it is writable");
        let input = Input::open(&Wanted { files: &[path], ..Wanted::default() }).expect("it is there");
        (Gathered::new(input, elsewhere, Vec::new()), dir)
    }

    fn splits(input: &Arc<Gathered>, target: u64, cut: Cut) -> Vec<(u64, usize, u64, u64)> {
        let mut cutter = input.cutter();
        let cut = std::iter::from_fn(|| cutter.cut(target, cut).expect("it can be cut"));
        cut.map(|split| (split.id.0, split.file, split.offset, split.length)).collect()
    }

    #[test]
    fn what_is_elsewhere_is_cut_by_its_length_alone() {
        let files = vec![
            found("/a", Some(10), Encoding::Plain),
            found("/b.gz", Some(9), Encoding::Gzip),
            found("/empty", Some(0), Encoding::Plain),
            found("/c", None, Encoding::Plain),
        ];
        let (input, _dir) = gathered(b"x\ny\n", files);
        assert_eq!((input.files(), input.total_bytes()), (5, None));
        let all = splits(&input, 4, Cut::LINES);
        let expected =
            [(0, 0, 0, 4), (1, 1, 0, 4), (2, 1, 4, 4), (3, 1, 8, 2), (4, 2, 0, 9), (5, 4, 0, UNKNOWN_BYTES)];
        assert_eq!(all, expected);
        let whole = [(0, 0, 0, 4), (1, 1, 0, 10), (2, 2, 0, 9), (3, 4, 0, UNKNOWN_BYTES)];
        assert_eq!(splits(&input, 100, Cut::LINES), whole);
        assert_eq!(splits(&input, 4, Cut::Never)[1..], whole[1..]);
    }

    #[test]
    fn whoever_maps_it_is_told_what_to_read() {
        let files = vec![found("/a", Some(10), Encoding::Plain), found("/b", Some(9), Encoding::Xz)];
        let (input, _dir) = gathered(b"x\n", files.clone());
        assert_eq!(input.total_bytes(), Some(21));
        let located = |file, offset, length| input.located(&Split { id: SplitId(0), file, offset, length });
        assert_eq!(located(0, 0, 2), None);
        assert_eq!(located(1, 2, 3), Some(Located { file: files[0].clone(), range: Some([2, 5]) }));
        assert_eq!(located(1, 0, 10), Some(Located { file: files[0].clone(), range: None }));
        assert_eq!(located(2, 0, 9), Some(Located { file: files[1].clone(), range: None }));
        let split = Split { id: SplitId(0), file: 1, offset: 2, length: 3 };
        assert_eq!(input.describe(&split), "/a, bytes 2 to 5");
        assert!(input.read(&split, &mut Vec::new()).is_err() && input.open(&split).is_err());
    }
}
