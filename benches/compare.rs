//! Bench of the whole: this program against a plain one, as processes, in turn, on one text.
//!
//! `cargo bench --bench compare -- FILE [RUNS]`; without FILE, on the book in `examples/`, repeated to 100 MB.
//! The plain program is what one would write in an afternoon: threads that read blocks, a byte loop for words, a hash
//! map with a fast hasher for each thread, then merge, sort and write.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hashbrown::HashMap;
use tempfile::TempDir;

/// Pairs of runs, after a warm-up of each, unless told otherwise.
const RUNS: usize = 5;

/// Bytes of the text that is made where none is given.
const TEXT_BYTES: usize = 100 << 20;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [flag, text, output] = args.as_slice()
        && flag == "--plain"
    {
        return plain(Path::new(text), Path::new(output));
    }
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let text = match args.first() {
        Some(file) => PathBuf::from(file),
        None => repeated_book(&directory)?,
    };
    let runs = args.get(1).map_or(Ok(RUNS), |runs| runs.parse()).context("RUNS is a number")?;
    compare(&text, runs, &directory)
}

fn repeated_book(directory: &TempDir) -> anyhow::Result<PathBuf> {
    let book =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/alice.txt")).context("the book")?;
    let path = directory.path().join("text");
    println!("no FILE given: examples/alice.txt, repeated to {} MB", TEXT_BYTES >> 20);
    std::fs::write(&path, book.repeat(TEXT_BYTES / book.len())).context("a text to count")?;
    Ok(path)
}

/// Runs both in turn and prints the figures.
fn compare(text: &Path, runs: usize, directory: &TempDir) -> anyhow::Result<()> {
    let outputs = [directory.path().join("ours"), directory.path().join("plain")];
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        let mut ours = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
        ours.args(["run", "--local", "-q", "-o"]).arg(&outputs[0]).arg(text);
        let mut plain = Command::new(std::env::current_exe().context("own path")?);
        plain.arg("--plain").arg(text).arg(&outputs[1]);
        for (times, command) in times.iter_mut().zip([&mut ours, &mut plain]) {
            let time = timed(command)?;
            if run > 0 {
                times.push(time);
            }
        }
    }
    let megabytes = std::fs::metadata(text).context("the text")?.len() as f64 / 1e6;
    let mut medians = Vec::new();
    for (name, times) in ["mapreduce", "plain"].iter().zip(&mut times) {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        let (least, most) = (times[0].as_secs_f64(), times[times.len() - 1].as_secs_f64());
        println!("{name:>9}  {median:.3} s ({least:.3} to {most:.3})  {:.0} MB/s", megabytes / median);
        medians.push(median);
    }
    println!("{:>9}  {:.1} times as fast", "ratio", medians[1] / medians[0]);
    let same = std::fs::read(&outputs[0])? == std::fs::read(&outputs[1])?;
    let why = "the plain program takes every byte beyond ASCII for a letter";
    println!(
        "{}",
        if same { "the results are the same".to_owned() } else { format!("results differ: {why}") }
    );
    Ok(())
}

fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).status().context("starting a program")?;
    let time = began.elapsed();
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(time)
}

/// The plain program.
fn plain(text: &Path, output: &Path) -> anyhow::Result<()> {
    let file = File::open(text).context("opening the text")?;
    let length = file.metadata()?.len();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let counts: anyhow::Result<Vec<_>> = std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| count_blocks(&file, length, &next))).collect();
        started.into_iter().map(|thread| thread.join().expect("counting does not panic")).collect()
    });
    let mut all: HashMap<Vec<u8>, u64> = HashMap::new();
    for (word, n) in counts?.into_iter().flatten() {
        *all.entry(word).or_default() += n;
    }
    let mut sorted: Vec<_> = all.into_iter().collect();
    sorted.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut output = BufWriter::new(File::create(output).context("creating the output")?);
    for (word, n) in sorted {
        output.write_all(&word)?;
        writeln!(output, "\t{n}")?;
    }
    Ok(output.flush()?)
}

/// Bytes of a block, and of what is read beyond it to find the end of its last word.
const BLOCK: u64 = 4 << 20;
const BEYOND: u64 = 64 << 10;

/// Counts the words that begin in the blocks that this thread gets.
fn count_blocks(file: &File, length: u64, next: &AtomicU64) -> anyhow::Result<HashMap<Vec<u8>, u64>> {
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut buffer = Vec::new();
    loop {
        let start = next.fetch_add(BLOCK, Ordering::Relaxed);
        if start >= length {
            return Ok(counts);
        }
        // One byte before the block tells whether a word that began earlier goes on.
        let from = start.saturating_sub(1);
        buffer.resize(((start + BLOCK + BEYOND).min(length) - from) as usize, 0);
        file.read_exact_at(&mut buffer, from)?;
        let mut at = (start - from) as usize;
        let end = buffer.len().min((start + BLOCK - from) as usize);
        while at > 0 && at < buffer.len() && is_word(buffer[at - 1]) && is_word(buffer[at]) {
            at += 1;
        }
        while at < end {
            if !is_word(buffer[at]) {
                at += 1;
                continue;
            }
            let begin = at;
            while at < buffer.len() && is_word(buffer[at]) {
                at += 1;
            }
            match counts.get_mut(&buffer[begin..at]) {
                Some(n) => *n += 1,
                None => _ = counts.insert(buffer[begin..at].to_vec(), 1),
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}
