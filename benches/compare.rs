//! Bench of the whole: this program against others, as processes, in turn, on one text.
//!
//! `cargo bench --bench compare -- FILE [RUNS]`; without FILE, on the book in `examples/`, repeated to 100 MB.
//! The plain program is what one would write in an afternoon: threads that read blocks, a byte loop for words, a hash
//! map with a fast hasher for each thread, then merge, sort and write. What a user finds on the machine (coreutils,
//! awk, Python) is slower by far, and counts the front of the text only.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
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

/// Runs this program and the plain one on the text, and this one and each tool on its front.
fn compare(text: &Path, runs: usize, directory: &TempDir) -> anyhow::Result<()> {
    let outputs = [directory.path().join("ours"), directory.path().join("theirs")];
    let mut plain = Command::new(std::env::current_exe().context("own path")?);
    plain.arg("--plain").arg(text).arg(&outputs[1]);
    in_turn("plain", [&mut ours(text, &outputs[0]), &mut plain], text, runs)?;
    let same = std::fs::read(&outputs[0])? == std::fs::read(&outputs[1])?;
    let why = "the plain program takes every byte beyond ASCII for a letter";
    println!(
        "{}",
        if same { "the results are the same".to_owned() } else { format!("results differ: {why}") }
    );
    let front = directory.path().join("front");
    let mut bytes = Vec::new();
    File::open(text)?.take(FRONT_BYTES).read_to_end(&mut bytes)?;
    std::fs::write(&front, bytes).context("the front of the text")?;
    for (tool, needed, script) in TOOLS {
        let missing = needed.iter().find(|program| !is_there(program));
        if let Some(program) = missing {
            println!("SKIPPED {tool}: there is no {program} on this machine");
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(&front).arg(&outputs[1]).env("LC_ALL", "C");
        in_turn(tool, [&mut ours(&front, &outputs[0]), &mut shell], &front, runs)?;
    }
    Ok(())
}

/// Bytes of the text that are enough for the tools.
const FRONT_BYTES: u64 = 50 << 20;

/// What a user would reach for: the programs that it needs, and a script that counts the words of `$1` into `$2`.
const TOOLS: [(&str, &[&str], &str); 3] = [
    (
        "coreutils",
        &["tr", "sort", "uniq"],
        r#"tr -cs '[:alnum:]_' '\n' < "$1" | sort | uniq -c | sort -rn > "$2""#,
    ),
    (
        "mawk",
        &["mawk"],
        r#"mawk '{ gsub(/[^A-Za-z0-9_]+/, " "); for (i = split($0, w, " "); i > 0; i--) n[w[i]]++ }
            END { for (k in n) print k "\t" n[k] }' "$1" | sort -t "$(printf '\t')" -k 2,2rn -k 1,1 > "$2""#,
    ),
    (
        "python3",
        &["python3"],
        r#"python3 -c 'import collections, re, sys
n = collections.Counter(re.findall(rb"\w+", open(sys.argv[1], "rb").read()))
with open(sys.argv[2], "wb") as out:
    for w, c in sorted(n.items(), key=lambda e: (-e[1], e[0])): out.write(b"%s\t%d\n" % (w, c))' "$1" "$2""#,
    ),
];

fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

fn ours(text: &Path, output: &Path) -> Command {
    let mut ours = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
    ours.args(["run", "--local", "-q", "-o"]).arg(output).arg(text);
    ours
}

/// Runs two commands in turn, after a warm-up of both, and prints the figures.
fn in_turn(other: &str, mut commands: [&mut Command; 2], text: &Path, runs: usize) -> anyhow::Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        for (times, command) in times.iter_mut().zip(&mut commands) {
            let time = timed(command)?;
            if run > 0 {
                times.push(time);
            }
        }
    }
    let megabytes = std::fs::metadata(text).context("the text")?.len() as f64 / 1e6;
    let mut medians = Vec::new();
    for (name, times) in ["mapreduce", other].iter().zip(&mut times) {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        let (least, most) = (times[0].as_secs_f64(), times[times.len() - 1].as_secs_f64());
        println!("{name:>9}  {median:.3} s ({least:.3} to {most:.3})  {:.0} MB/s", megabytes / median);
        medians.push(median);
    }
    println!("{:>9}  {:.1} times as fast as {other}", "ratio", medians[1] / medians[0]);
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
