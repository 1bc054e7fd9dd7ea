//! Held: a word count that stands still in a phase, so that a fault can strike there and nowhere else.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mapreduce::job::{AsciiSet, Column, Cut, Emit, Job, Records, Value};
use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::{Tokenizer, Tokens};
use serde::Serialize;

/// Variables of a worker's process: the phase to stand still in, how often to pass by before, the file to create there,
/// and the one that lets it go on; and, if there is one, the file without which it passes by.
pub const PHASE: &str = "HELD_PHASE";
pub const PASSES: &str = "HELD_PASSES";
pub const FILE: &str = "HELD_FILE";
pub const RELEASE: &str = "HELD_RELEASE";
pub const ARM: &str = "HELD_ARM";

/// The nanoseconds in which a thread of it maps a MiB at best.
pub const SLOWNESS: &str = "HELD_SLOWNESS";

/// Where the job panics in a worker's process: a [`Touch`], by its name.
pub const TOUCHY: &str = "HELD_TOUCHY";

/// What the job panics at in some processes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A record with the word [`BANE`].
    Bane,
    /// Two values for a key.
    Combine,
    /// The values of a peer.
    Reduce,
}

/// The word that only touchy processes panic at.
pub const BANE: &str = "bane";

/// The word count, which can be held in each phase.
pub struct HeldCount {
    tokenizer: Tokenizer,
    params: HeldParams,
}

#[derive(Clone, Serialize)]
pub struct Count(u64);

impl Value for Count {
    const COLUMN: Column = Column::Count;

    fn count(&self) -> Option<u64> {
        Some(self.0)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        hold_in(if REDUCING.load(SeqCst) { Phase::Merge } else { Phase::Shuffle });
        self.0.encode(out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        // A worker decodes values of its peers only, when it reduces.
        REDUCING.store(true, SeqCst);
        hold_in(Phase::Reduce);
        assert!(*TOUCHES != Some(Touch::Reduce), "a value of a peer that this worker does not bear");
        u64::decode(bytes).map(Count)
    }

    fn render(&self, out: &mut Vec<u8>) {
        self.0.render(out);
    }
}

#[derive(Clone, Default, Serialize, serde::Deserialize, clap::Args)]
pub struct HeldParams {
    /// Panic when asked where the input may be cut
    #[arg(long)]
    pub bears_no_cut: bool,
}

impl Job for HeldCount {
    const NAME: &'static str = "heldcount";
    const ABOUT: &'static str = "Count words, slowly";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = HeldParams;
    type Value = Count;

    fn new(params: HeldParams) -> Result<Self, String> {
        REDUCING.store(false, SeqCst);
        hold_in(Phase::Split);
        Ok(Self { tokenizer: Tokenizer::new(Tokens::Word, false), params })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Count>) -> Result<(), String> {
        REDUCING.store(false, SeqCst);
        hold_in(Phase::Map);
        let began = Instant::now();
        self.tokenizer.for_each(records.bytes(), |word| {
            assert!(word != b"poison", "a poisoned record");
            let is_bane = word == BANE.as_bytes() && *TOUCHES == Some(Touch::Bane);
            assert!(!is_bane, "a record that this worker does not bear");
            emit.pair(word, Count(1));
        });
        dawdle(records.bytes().len(), began);
        Ok(())
    }

    fn combine(&self, into: &mut Count, other: Count) {
        assert!(*TOUCHES != Some(Touch::Combine), "values that this worker cannot combine");
        into.0 += other.0;
    }

    fn cut(&self) -> Cut {
        assert!(!self.params.bears_no_cut, "a cut that this job does not bear");
        Cut::After(AsciiSet::such(|byte| self.tokenizer.separates(byte)))
    }

    fn rank(&self, count: &Count) -> u64 {
        !count.0
    }
}

/// Whether this process has begun to reduce: what is encoded after that is the result, until it maps again.
static REDUCING: AtomicBool = AtomicBool::new(false);

/// Where a worker's process stands still, as its environment says.
struct Hold {
    phase: Phase,
    /// How often it passes by before.
    passes: u64,
    passed: AtomicU64,
    /// What it creates when it stands there, and what lets it go on.
    file: PathBuf,
    release: PathBuf,
    is_released: AtomicBool,
    /// What has it stand still at all.
    arm: Option<PathBuf>,
    is_armed: AtomicBool,
}

static HOLD: LazyLock<Option<Hold>> = LazyLock::new(|| {
    let phase = std::env::var(PHASE).ok()?;
    Some(Hold {
        phase: Phase::ALL.into_iter().find(|one| one.to_string() == phase)?,
        passes: std::env::var(PASSES).ok()?.parse().ok()?,
        passed: AtomicU64::new(0),
        file: std::env::var_os(FILE)?.into(),
        release: std::env::var_os(RELEASE)?.into(),
        is_released: AtomicBool::new(false),
        arm: std::env::var_os(ARM).map(PathBuf::from),
        is_armed: AtomicBool::new(false),
    })
});

impl Hold {
    fn is_armed(&self) -> bool {
        let is_armed = self.is_armed.load(SeqCst) || self.arm.as_ref().is_none_or(|arm| arm.exists());
        self.is_armed.store(is_armed, SeqCst);
        is_armed
    }
}

static TOUCHES: LazyLock<Option<Touch>> = LazyLock::new(|| {
    let name = std::env::var(TOUCHY).ok()?;
    [Touch::Bane, Touch::Combine, Touch::Reduce].into_iter().find(|touch| format!("{touch:?}") == name)
});

static NANOS_PER_MIB: LazyLock<u64> =
    LazyLock::new(|| std::env::var(SLOWNESS).ok().and_then(|nanos| nanos.parse().ok()).unwrap_or(0));

/// Stands still if this process is to be held in `phase`, until it is released.
fn hold_in(phase: Phase) {
    let Some(hold) = HOLD.as_ref().filter(|hold| hold.phase == phase) else { return };
    if hold.is_released.load(SeqCst) || !hold.is_armed() || hold.passed.fetch_add(1, SeqCst) < hold.passes {
        return;
    }
    fs::write(&hold.file, b"").expect("the test's directory is writable");
    while !hold.release.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    hold.is_released.store(true, SeqCst);
}

/// Takes as long for `bytes` of a split as this process is to take, from `began` on.
fn dawdle(bytes: usize, began: Instant) {
    let due = Duration::from_nanos((*NANOS_PER_MIB as f64 * bytes as f64 / f64::from(1 << 20)) as u64);
    std::thread::sleep(due.saturating_sub(began.elapsed()));
}
