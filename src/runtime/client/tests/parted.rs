//! An output in parts: each worker's result is one, and those of a merge that was broken off are forgotten.

use super::*;
use crate::runtime::source::Parts;

/// What came to be written.
#[derive(Default)]
struct Written {
    /// How many merges began.
    merges: usize,
    /// The parts that were finished since the last one began.
    parts: BTreeMap<usize, String>,
    is_final: bool,
}

/// An output in parts, one of which cannot be written, if it is so.
struct KeptParts {
    written: Arc<Mutex<Written>>,
    fails: Option<usize>,
}

struct KeptPart {
    number: usize,
    text: String,
    written: Arc<Mutex<Written>>,
    fails: bool,
}

impl Parts<u64> for KeptParts {
    fn begin(&mut self) -> io::Result<()> {
        let mut written = self.written.lock().expect("no panic");
        written.merges += 1;
        written.parts.clear();
        Ok(())
    }

    fn part(&self, number: usize) -> io::Result<Box<dyn Sink<u64>>> {
        let fails = self.fails == Some(number);
        Ok(Box::new(KeptPart { number, text: String::new(), written: self.written.clone(), fails }))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.written.lock().expect("no panic").is_final = true;
        Ok(())
    }
}

impl Sink<u64> for KeptPart {
    fn form(&self) -> Arc<dyn Form<u64>> {
        Arc::new(Tsv)
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.text += std::str::from_utf8(rendered).expect("it is text");
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<u64> {
        let Self { number, text, written, .. } = *self;
        let bytes = text.len() as u64;
        assert!(written.lock().expect("no panic").parts.insert(number, text).is_none(), "a part comes once");
        Ok(bytes)
    }
}

fn run_in_parts(faults: &[Fault], fails: Option<usize>) -> (Result<Report, RunError>, Arc<Mutex<Written>>) {
    let written = Arc::default();
    let parts = KeptParts { written: Arc::clone(&written), fails };
    let (let_go, _) = bounded(1);
    let mut watching = Watching { notes: Vec::new(), phases: Vec::new(), let_go };
    let report = run_to(faults, 0, None, source::Output::Parted(Box::new(parts)), &mut watching);
    (report, written)
}

#[test]
fn parts_are_those_of_the_live_workers_and_all_of_the_result() {
    for (fault, n_parts) in [
        (Fault::None, 3),
        (Fault::GoneIn(Phase::Merge), 2),
        (Fault::GoneAfter(2), 2),
        (Fault::MalformedAfter(2), 2),
    ] {
        let (report, written) = run_in_parts(&[Fault::None, fault, Fault::None], None);
        let report = report.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        let written = written.lock().expect("no panic");
        assert!(written.is_final && written.merges as u64 <= report.epochs, "{fault:?}");
        let numbers: Vec<usize> = written.parts.keys().copied().collect();
        assert_eq!(numbers, (0..n_parts).collect::<Vec<_>>(), "{fault:?}");
        let mut all: Vec<&str> = written.parts.values().flat_map(|part| part.lines()).collect();
        let expected = lines(&expected());
        let mut expected: Vec<&str> = expected.lines().collect();
        all.sort_unstable();
        expected.sort_unstable();
        assert_eq!(all, expected, "{fault:?}");
        let bytes: usize = written.parts.values().map(String::len).sum();
        let told = (report.output_entries, report.output_bytes);
        assert_eq!(told, (expected.len() as u64, bytes as u64), "{fault:?}");
    }
}

#[test]
fn a_part_that_cannot_be_written_ends_the_job() {
    for part in 0..3 {
        let (report, written) = run_in_parts(&[Fault::None; 3], Some(part));
        let error = report.expect_err("it cannot be written");
        assert!(matches!(error.failure, Failure::Output { .. }), "{:?}", error.failure);
        let said = error.output.expect("it says why").kind();
        let is_final = written.lock().expect("no panic").is_final;
        assert_eq!((said, is_final), (io::ErrorKind::StorageFull, false));
        // Nobody holds a part any more: a file of it would be gone.
        assert_eq!(Arc::strong_count(&written), 1);
    }
}
