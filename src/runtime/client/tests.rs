//! A client runs a job over workers that are played: each folds its splits itself, and fails as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Mutex;

use super::*;
use crate::job::Cut;
use crate::jobs::word_count::{Params, WordCount};
use crate::logic::coordinator::Phase;
use crate::logic::ids::{Epoch, SplitId};
use crate::logic::packing::{Chooser, Packing};
use crate::logic::split::Split;
use crate::runtime::link::{Connection, Partner, connect_link};
use crate::runtime::memory::pair;
use crate::runtime::report::Snapshot;
use crate::runtime::source::Form;
use crate::wire::entries::encode_sorted;
use crate::wire::frame::{Kind, MAX_PAYLOAD_BYTES, read_frame, write_frame};
use crate::wire::message::{
    SPLIT_HEADER_BYTES, SplitHeader, ToWorker, decode_message, encode_results, write_message,
};
use crate::wire::pack::Packed;

/// The words of one split, which lies at as many bytes of one file as its text has.
fn text(split: &Split) -> Vec<u8> {
    (split.offset..split.offset + split.length).map(|at| b"the cat, a dog; "[at as usize % 16]).collect()
}

/// Bytes of each split, and how many there are.
const SPLIT_BYTES: u64 = 1600;
const SPLITS: u64 = 40;

struct Texts;

impl SplitSource for Texts {
    fn read(&self, split: &Split, into: &mut Vec<u8>) -> anyhow::Result<()> {
        *into = text(split);
        into.extend_from_slice(format!("word{} w{}", split.id.0, split.id.0 % 7).as_bytes());
        Ok(())
    }

    fn describe(&self, split: &Split) -> String {
        format!("split {}", split.id.0)
    }
}

struct Cuts(u64);

impl Cutter for Cuts {
    fn cut(&mut self, _: u64, _: Cut) -> anyhow::Result<Option<Split>> {
        let id = self.0;
        self.0 += 1;
        let split = Split { id: SplitId(id), file: 0, offset: id * SPLIT_BYTES, length: SPLIT_BYTES };
        Ok((id < SPLITS).then_some(split))
    }
}

type Counts = BTreeMap<Vec<u8>, u64>;

fn count(text: &[u8], into: &mut Counts) -> u64 {
    let words = text.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| *into.entry(word.to_vec()).or_default() += 1).count() as u64
}

/// Most frequent first.
fn sorted(counts: Counts) -> Vec<(Vec<u8>, u64)> {
    let mut entries: Vec<_> = counts.into_iter().collect();
    entries.sort_by(|(one, n), (other, m)| m.cmp(n).then_with(|| one.cmp(other)));
    entries
}

fn lines(entries: &[(Vec<u8>, u64)]) -> String {
    entries.iter().map(|(word, n)| format!("{}\t{n}\n", String::from_utf8_lossy(word))).collect()
}

fn expected() -> Vec<(Vec<u8>, u64)> {
    let (mut cuts, mut counts, mut text) = (Cuts(0), Counts::new(), Vec::new());
    while let Some(split) = cuts.cut(0, Cut::LINES).expect("it can be cut") {
        Texts.read(&split, &mut text).expect("it can be read");
        count(&text, &mut counts);
    }
    sorted(counts)
}

/// How a worker fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It is gone when it is asked for the phase.
    GoneIn(Phase),
    /// It is gone after so many batches of its result.
    GoneAfter(usize),
    /// So many batches of its result, and then one that cannot be.
    MalformedAfter(usize),
    /// It is gone when it has sent its result.
    GoneAtTheEnd,
    /// It takes nothing any more from its first split on.
    Frozen,
}

/// What all workers have folded: what they would send each other is looked up there.
type Tables = Arc<Mutex<BTreeMap<(WorkerId, SplitId), Counts>>>;

/// A worker that is played. Its thread ends with the connection.
struct Played {
    me: WorkerId,
    fault: Fault,
    connection: Connection,
    tables: Tables,
    /// Splits whose execution can be discarded.
    provisional: BTreeSet<SplitId>,
    members: Vec<WorkerId>,
    /// Batches of its result, last first, and of which epoch.
    batches: Vec<Vec<u8>>,
    sent: usize,
    epoch: Epoch,
    has_ended: bool,
}

impl Played {
    /// Goes on until the job ends, or the worker does.
    fn run(mut self) -> Option<()> {
        let mut payload = Vec::new();
        loop {
            let kind = read_frame(&mut self.connection.reader, &mut payload, MAX_PAYLOAD_BYTES).ok()??;
            match kind {
                Kind::Split => self.map(&payload)?,
                _ => self.obey(decode_message(&payload).ok()?)?,
            }
        }
    }

    fn say(&mut self, message: &FromWorker) -> Option<()> {
        write_message(&mut self.connection.writer, message).ok()
    }

    fn map(&mut self, payload: &[u8]) -> Option<()> {
        match self.fault {
            Fault::GoneIn(Phase::Map) => return None,
            // Until the connection is cut.
            Fault::Frozen => {
                std::thread::sleep(Duration::from_secs(20));
                return None;
            }
            _ => {}
        }
        let (header, text) = payload.split_first_chunk::<SPLIT_HEADER_BYTES>()?;
        let SplitHeader { split, provisional, .. } = SplitHeader::decode(*header, text.len()).ok()?;
        if provisional {
            self.provisional.insert(split);
        }
        let mut counts = Counts::new();
        let pairs = count(text, &mut counts);
        self.tables.lock().ok()?.insert((self.me, split), counts);
        self.say(&FromWorker::Mapped { split, pairs })
    }

    fn obey(&mut self, message: ToWorker) -> Option<()> {
        let phase = match message {
            ToWorker::Begin(_) => Phase::Split,
            ToWorker::Shuffle { .. } => Phase::Shuffle,
            ToWorker::Reduce { .. } => Phase::Reduce,
            ToWorker::Fetch { .. } => Phase::Merge,
            _ => Phase::Map,
        };
        if phase != Phase::Map && self.fault == Fault::GoneIn(phase) {
            return None;
        }
        match message {
            ToWorker::Begin(begin) => {
                assert_eq!(begin.worker, self.me);
                self.say(&FromWorker::Begun)
            }
            ToWorker::Discard { split } => {
                if self.provisional.remove(&split) {
                    self.tables.lock().ok()?.remove(&(self.me, split));
                }
                Some(())
            }
            ToWorker::Shuffle { epoch, routes } => {
                self.members = routes.workers.iter().map(|(worker, _)| *worker).collect();
                self.say(&FromWorker::Shuffled { epoch, sent_bytes: 1 })
            }
            ToWorker::Reduce { epoch, .. } => self.reduce(epoch),
            ToWorker::Fetch { credit, .. } => {
                self.has_ended = false;
                self.send(credit)
            }
            ToWorker::Credit { epoch, batches } if epoch == self.epoch && !self.has_ended => {
                self.send(batches)
            }
            ToWorker::Beat => self.say(&FromWorker::Beat),
            _ => Some(()),
        }
    }

    fn reduce(&mut self, epoch: Epoch) -> Option<()> {
        let mut mine = Counts::new();
        for ((worker, _), counts) in self.tables.lock().ok()?.iter() {
            let owner =
                |word: &[u8]| word.iter().map(|byte| *byte as usize).sum::<usize>() % self.members.len();
            for (word, n) in counts.iter().filter(|_| self.members.contains(worker)) {
                if self.members[owner(word)] == self.me {
                    *mine.entry(word.clone()).or_default() += n;
                }
            }
        }
        let mine = sorted(mine);
        let entries: Vec<_> = mine.iter().map(|(word, n)| (word.as_slice(), n)).collect();
        // Of some entries each.
        self.batches = encode_sorted(&entries, 20);
        self.batches.push(encode_sorted(&entries[..0], 20).concat());
        self.batches.reverse();
        // Credit for an earlier epoch may be on its way.
        (self.epoch, self.sent, self.has_ended) = (epoch, 0, true);
        let n = mine.len() as u64;
        self.say(&FromWorker::Reduced { epoch, distinct: n, entries: n, bytes: 1 })
    }

    fn send(&mut self, credit: u32) -> Option<()> {
        for _ in 0..credit {
            let mut batch = self.batches.pop();
            match self.fault {
                Fault::GoneAfter(n) if n == self.sent => return None,
                Fault::MalformedAfter(n) if n == self.sent => batch = Some(vec![0, 5, b'x']),
                _ => {}
            }
            self.sent += 1;
            let Some(batch) = batch else {
                self.has_ended = true;
                self.say(&FromWorker::ResultsEnd { epoch: self.epoch })?;
                return (self.fault != Fault::GoneAtTheEnd).then_some(());
            };
            let header = encode_results(self.epoch, Packed { packing: Packing::Plain, length: batch.len() });
            write_frame(&mut self.connection.writer, Kind::Results, &[&header, &batch]).ok()?;
        }
        Some(())
    }
}

/// What the sink got, and whether it was made final.
#[derive(Default)]
struct Output {
    text: String,
    is_final: bool,
}

/// A sink that waits with its first bytes until it is let go on.
struct Kept {
    output: Arc<Mutex<Output>>,
    go_on: Option<Receiver<()>>,
}

struct Tsv;

impl Form<u64> for Tsv {
    fn render(&self, entries: &[(&[u8], &u64)], out: &mut Vec<u8>) -> io::Result<()> {
        let entries: Vec<_> = entries.iter().map(|(word, n)| (word.to_vec(), **n)).collect();
        out.extend_from_slice(lines(&entries).as_bytes());
        Ok(())
    }
}

impl Sink<u64> for Kept {
    fn form(&self) -> Arc<dyn Form<u64>> {
        Arc::new(Tsv)
    }

    fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        if let Some(go_on) = self.go_on.take() {
            let _ = go_on.recv_timeout(Duration::from_secs(20));
        }
        self.output.lock().expect("no panic").text += std::str::from_utf8(rendered).expect("it is text");
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<u64> {
        let mut output = self.output.lock().expect("no panic");
        output.is_final = true;
        Ok(output.text.len() as u64)
    }
}

/// Keeps what is noted, and lets the sink go on once a second merge is wanted.
struct Watching {
    notes: Vec<String>,
    phases: Vec<Phase>,
    let_go: Sender<()>,
}

impl Progress for Watching {
    fn update(&mut self, snapshot: &Snapshot) {
        if self.phases.last() != Some(&snapshot.phase) {
            self.phases.push(snapshot.phase);
        }
        if self.phases.iter().filter(|phase| **phase == Phase::Merge).count() == 2 {
            let _ = self.let_go.try_send(());
        }
    }

    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }

    fn finish(&mut self) {}
}

struct Run {
    report: Result<Report, RunError>,
    output: Arc<Mutex<Output>>,
    notes: Vec<String>,
    phases: Vec<Phase>,
    took: Duration,
}

impl Run {
    /// Asserts that the first `top` entries came out; all of them if there are fewer.
    #[track_caller]
    fn assert_exact(&self, top: usize) -> &Report {
        let report = self.report.as_ref().unwrap_or_else(|error| panic!("{error:?}, {:?}", self.notes));
        let output = self.output.lock().expect("no panic");
        let expected = expected();
        let wanted = &expected[..top.min(expected.len())];
        assert!(output.is_final);
        assert_eq!(output.text, lines(wanted));
        assert_eq!(
            (report.output_entries, report.output_bytes),
            (wanted.len() as u64, output.text.len() as u64)
        );
        assert_eq!((report.splits, report.input_bytes), (SPLITS, SPLITS * SPLIT_BYTES));
        report
    }
}

/// Runs the job over workers with such faults, the last `spares` of which are spares; the sink waits or not.
fn run_over(faults: &[Fault], spares: usize, top: Option<u64>, waits: bool) -> Run {
    let (mailbox, tables) = (Mailbox::default(), Tables::default());
    let link = |(index, fault): (usize, &Fault)| {
        let ([client, connection], me) = (pair(), WorkerId(index as u32));
        let played = Played {
            me,
            fault: *fault,
            connection,
            tables: tables.clone(),
            provisional: BTreeSet::new(),
            members: Vec::new(),
            batches: Vec::new(),
            sent: 0,
            epoch: Epoch(0),
            has_ended: false,
        };
        std::thread::spawn(move || played.run());
        let chooser = Chooser::new(Compress::Always(Packing::Plain), &Packing::ALL, 1, 1);
        let partner = Partner { name: format!("w{index}"), threads: 2, address: String::new(), chooser };
        let listeners = [(); 3].map(|()| mailbox.listener());
        connect_link(me, partner, client, Arc::new(Texts), listeners).expect("threads can be started")
    };
    let links = faults.iter().enumerate().map(link).collect();
    let spec = RunSpec {
        job: Arc::new(WordCount::new(Params::default()).expect("the parameters are good")),
        id: JobId(1),
        params: "{}".into(),
        seed: Seed([1, 2]),
        top,
        split_bytes: Some(SPLIT_BYTES),
        input_bytes: Some(SPLITS * SPLIT_BYTES),
        input_files: 1,
        source: Arc::new(Texts),
        spares,
        backups: true,
        skip_bad_input: false,
        worker_timeout: Duration::from_secs(3),
        compress: Compress::Auto,
        local: false,
        began: Instant::now(),
    };
    let output = Arc::default();
    let (let_go, go_on) = bounded(1);
    let sink = Kept { output: Arc::clone(&output), go_on: waits.then_some(go_on) };
    let mut watching = Watching { notes: Vec::new(), phases: Vec::new(), let_go };
    let (stop, began) = (crossbeam_channel::never(), Instant::now());
    let report = run(spec, links, mailbox, Box::new(Cuts(0)), Box::new(sink), &stop, &mut watching);
    let Watching { notes, phases, .. } = watching;
    Run { report, output, notes, phases, took: began.elapsed() }
}

#[test]
fn without_a_loss_nothing_is_told_or_done_twice() {
    let run = run_over(&[Fault::None; 3], 0, None, false);
    let report = run.assert_exact(usize::MAX);
    let told = (report.losses.as_slice(), report.reexecuted_splits, report.epochs);
    assert_eq!(told, (&[][..], 0, 1));
    assert!(run.notes.is_empty(), "{:?}", run.notes);
}

#[test]
fn whatever_happens_to_one_worker_the_result_is_exact() {
    let phases = [Phase::Split, Phase::Map, Phase::Shuffle, Phase::Reduce, Phase::Merge];
    let later =
        [Fault::GoneAfter(0), Fault::GoneAfter(2), Fault::MalformedAfter(2), Fault::MalformedAfter(0)];
    for fault in phases.map(Fault::GoneIn).into_iter().chain(later) {
        let run = run_over(&[Fault::None, fault, Fault::None], 0, None, false);
        let report = run.assert_exact(usize::MAX);
        let lost: Vec<&str> = report.losses.iter().map(|loss| loss.worker.as_str()).collect();
        assert_eq!(lost, ["w1"], "{fault:?}: {:?}", run.notes);
        assert!(run.notes.iter().any(|note| note.starts_with("worker w1 lost in ")), "{:?}", run.notes);
        let later = !matches!(fault, Fault::GoneIn(Phase::Split | Phase::Map));
        assert_eq!(report.epochs, 1 + u64::from(later), "{fault:?}");
        assert_eq!(
            report.executions,
            SPLITS + report.reexecuted_splits + report.backups_started,
            "{fault:?}"
        );
    }
}

#[test]
fn who_has_delivered_its_result_may_go() {
    let run = run_over(&[Fault::GoneAtTheEnd; 3], 0, None, false);
    assert_eq!(run.assert_exact(usize::MAX).epochs, 1);
}

/// The output takes nothing, so that the merge is stuck when it is broken off: the next one waits for it, and nobody
/// else does.
#[test]
fn a_merge_that_is_stuck_is_gone_on_with_once_it_is_free() {
    let run = run_over(&[Fault::None, Fault::GoneAfter(3), Fault::None], 0, None, true);
    assert_eq!(run.assert_exact(usize::MAX).epochs, 2);
    use Phase::{Map, Merge, Reduce, Shuffle, Split};
    let expected = [Split, Map, Shuffle, Reduce, Merge, Map, Shuffle, Reduce, Merge];
    // A phase may be too short to be seen.
    let mut seen = expected.iter();
    assert!(run.phases.iter().all(|phase| seen.any(|other| other == phase)), "{:?}", run.phases);
}

/// Only the first entries are wanted: the merge that is broken off has them all, and ends well after that.
#[test]
fn a_merge_that_ends_well_after_it_was_broken_off_is_not_written_twice() {
    for top in [1, 2] {
        let run = run_over(&[Fault::None, Fault::GoneAfter(3), Fault::None], 0, Some(top as u64), true);
        run.assert_exact(top);
    }
}

#[test]
fn a_spare_joins_in_the_place_of_a_lost_worker_and_only_then() {
    for fault in [Fault::GoneIn(Phase::Map), Fault::GoneIn(Phase::Reduce), Fault::GoneAfter(2)] {
        let run = run_over(&[fault, Fault::None, Fault::None, Fault::None], 2, None, false);
        let report = run.assert_exact(usize::MAX);
        assert_eq!((report.workers, report.threads), (3, 6), "{fault:?}");
        assert!(run.notes.contains(&"worker w2 joins in the place of w0".to_owned()), "{:?}", run.notes);
    }
    let run = run_over(&[Fault::None, Fault::None, Fault::GoneIn(Phase::Split)], 1, None, false);
    assert_eq!(run.assert_exact(usize::MAX).workers, 2);
    assert!(run.notes.is_empty(), "a spare was told of the job: {:?}", run.notes);
}

#[test]
fn when_all_are_lost_there_is_no_output() {
    for phase in [Phase::Map, Phase::Shuffle, Phase::Merge] {
        let run = run_over(&[Fault::GoneIn(phase); 3], 0, None, false);
        let failure = run.report.expect_err("nobody is left").failure;
        assert!(matches!(failure, Failure::NoWorkerLeft(_)), "{failure:?}");
        assert!(!run.output.lock().expect("no panic").is_final);
        // Nobody holds the sink any more: a file of it would be gone.
        assert_eq!(Arc::strong_count(&run.output), 1);
    }
}

/// Its splits are mapped by others, its link is cut at the end, and the run waits for neither.
#[test]
fn a_frozen_worker_costs_its_time_out_and_no_more() {
    let run = run_over(&[Fault::None, Fault::Frozen], 0, None, false);
    let report = run.assert_exact(usize::MAX);
    assert!(run.took < Duration::from_secs(10), "{:?}", run.took);
    // Backups may have done its part before it was missed.
    assert!(report.losses.len() == 1 || report.backups_won > 0, "{report:?}");
}
