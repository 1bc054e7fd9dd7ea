//! Held: a word count that stands still in a phase, so that a fault can strike there and nowhere else.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use mapreduce::job::{Emit, Job, Value};
use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::{Tokenizer, Tokens};
use serde::Serialize;

/// What the job panics at when it is asked whether the input may be cut there.
pub const BELL: u8 = 7;

/// The word count, which can be held in each phase.
pub struct HeldCount(Tokenizer);

#[derive(Clone, Serialize)]
pub struct Count(u64);

impl Value for Count {
    fn encode(&self, out: &mut Vec<u8>) {
        hold_in(if REDUCING.load(SeqCst) { Phase::Merge } else { Phase::Shuffle });
        self.0.encode(out);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        // A worker decodes values of its peers only, when it reduces.
        REDUCING.store(true, SeqCst);
        hold_in(Phase::Reduce);
        u64::decode(bytes).map(Count)
    }

    fn render(&self, out: &mut Vec<u8>) {
        self.0.render(out);
    }
}

#[derive(Clone, Serialize, serde::Deserialize, clap::Args)]
pub struct NoParams {}

impl Job for HeldCount {
    const NAME: &'static str = "heldcount";
    const ABOUT: &'static str = "Count words, slowly";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = NoParams;
    type Value = Count;

    fn new(_: NoParams) -> Result<Self, String> {
        hold_in(Phase::Split);
        Ok(Self(Tokenizer::new(Tokens::Word, false)))
    }

    fn map(&self, split: &[u8], emit: &mut impl Emit<Count>) {
        hold_in(Phase::Map);
        self.0.for_each(split, |word| {
            assert!(word != b"poison", "a poisoned record");
            emit.pair(word, Count(1));
        });
    }

    fn combine(&self, into: &mut Count, other: Count) {
        into.0 += other.0;
    }

    fn is_boundary(&self, byte: u8) -> bool {
        assert!(byte != BELL, "a byte that this job does not bear");
        self.0.separates(byte)
    }

    fn rank(&self, count: &Count) -> u64 {
        !count.0
    }
}

/// In a worker's process: the phase to stand still in, and the file to create when it stands there.
static HOLD: LazyLock<Option<(String, PathBuf)>> = LazyLock::new(|| {
    let phase = std::env::var("HELD_PHASE").ok()?;
    Some((phase, std::env::var_os("HELD_FILE")?.into()))
});

/// Whether this process has begun to reduce: what is encoded after that is the result.
static REDUCING: AtomicBool = AtomicBool::new(false);

/// Stands still for ever if this process is to be held in `phase`.
fn hold_in(phase: Phase) {
    let Some((held, file)) = HOLD.as_ref() else { return };
    if *held == phase.to_string() {
        fs::write(file, b"").expect("the test's directory is writable");
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
