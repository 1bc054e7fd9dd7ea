//! Fuzz: feeds a target with bytes that are led by the coverage of our code, and watches what it allocates.
//!
//! `sh .ci/fuzz` builds this and runs each target for ten seconds; `sh .ci/fuzz 600 frame hosts` runs these two for ten
//! minutes each. It keeps what it learns below `target/fuzz/corpus`. A finding is written below `target/fuzz/found`;
//! once it is mended, its file belongs into `tests/fuzz/corpus/TARGET`, which `cargo test` reads, too.
//!
//! The target is named by `MAPREDUCE_FUZZ`. With `MAPREDUCE_FUZZ_SEEDS` the target's seeds are written into that
//! directory. All arguments are libFuzzer's.

#![no_main]

mod targets;

use std::env;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

use targets::{LONGEST, Target};

/// Counts the bytes that live.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

static TARGET: OnceLock<Target> = OnceLock::new();

/// The most that one input made us allocate.
static PEAK: AtomicUsize = AtomicUsize::new(0);

fuzz_target!(
    init: begin(),
    |bytes: &[u8]| {
        let target = TARGET.get().expect("it begins with one");
        let before = ALLOCATED.current_usage();
        ALLOCATED.reset_peak_usage();
        (target.read)(&bytes[..bytes.len().min(LONGEST)]);
        let peak = ALLOCATED.peak_usage().saturating_sub(before);
        let most = (target.most_allocated)(bytes.len());
        assert!(peak <= most, "{} bytes made us allocate {peak} bytes, more than {most}", bytes.len());
        if peak > PEAK.fetch_max(peak, Ordering::Relaxed) {
            eprintln!("PEAK {peak} bytes allocated at once, for an input of {}", bytes.len());
        }
    }
);

fn begin() {
    let wanted = env::var("MAPREDUCE_FUZZ").expect("MAPREDUCE_FUZZ names the target");
    let named = targets::ALL.into_iter().find(|target| target.name == wanted);
    let target = TARGET.get_or_init(|| named.expect("MAPREDUCE_FUZZ names a target of targets/mod.rs"));
    if let Some(dir) = env::var_os("MAPREDUCE_FUZZ_SEEDS") {
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(Path::new(&dir).join(format!("seed-{number:02}")), seed).expect("a seed is written");
        }
    }
}
