//! Faults: a worker or the client that is lost in whatever phase ends one job and nothing else.
//!
//! Each phase is held open by the job itself, in one worker: the test waits until it stands there, then strikes. So
//! that the worker can be killed, it is a process: this test binary, run again.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use mapreduce::cmd::cli::{CommandError, Console, Exit};
use mapreduce::cmd::run::{RunOptions, Workers, run};
use mapreduce::edge::net;
use mapreduce::edge::output::{Destination, Format};
use mapreduce::job::{Emit, Job, Value};
use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::packing::Compress;
use mapreduce::logic::tokenize::{Tokenizer, Tokens};
use mapreduce::runtime::serve::WorkerOptions;
use mapreduce::wire::message::Role;
use rustix::process::Signal;
use serde::Serialize;
use tempfile::TempDir;

use crate::harness::processes::signal;
use crate::harness::{is_child, with_deadline};
use crate::reference;

/// How long a worker may be silent in these tests: several beats, also on a machine under load.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// What the job panics at when it is asked whether the input may be cut there.
const BELL: u8 = 7;

/// The word count, which can be held in each phase.
struct HeldCount(Tokenizer);

#[derive(Clone, Serialize)]
struct Count(u64);

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
struct NoParams {}

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

/// Not a test: what a worker's process runs.
#[test]
fn worker_process() {
    if !is_child() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let options = WorkerOptions {
        name: address.to_string(),
        key: None,
        threads: 2,
        memory: u64::MAX,
        idle_timeout: None,
        resident_bytes: || 0,
    };
    let file = PathBuf::from(std::env::var_os("HELD_ADDRESS").expect("the test says where"));
    fs::write(file.with_extension("new"), address.to_string()).expect("the test's directory is writable");
    fs::rename(file.with_extension("new"), file).expect("the test's directory is writable");
    // Nobody stops it: it is killed.
    let (_stop, stopped) = bounded(1);
    net::serve::<HeldCount>(listener, options, stopped, Box::new(|line| println!("{line}")))
        .expect("threads can be started");
}

/// A worker's process; killed when dropped.
struct WorkerProcess {
    child: Child,
    address: SocketAddr,
    held: PathBuf,
}

impl WorkerProcess {
    fn start(directory: &Path, index: usize, hold: Option<Phase>) -> Self {
        let file = |what: &str| directory.join(format!("{what}-{index}"));
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.args(["--exact", "faults::worker_process", "--nocapture"]);
        command.env("MAPREDUCE_TEST_CHILD", "1").env("HELD_ADDRESS", file("address"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(phase) = hold {
            command.env("HELD_PHASE", phase.to_string()).env("HELD_FILE", file("held"));
        }
        let child = command.spawn().expect("the test binary can be run again");
        await_file(&file("address"));
        let address = fs::read_to_string(file("address")).expect("it was written");
        Self { child, address: address.parse().expect("an address"), held: file("held") }
    }

    fn running_jobs(&self) -> usize {
        net::ask_status(self.address, None, PATIENCE).expect("the worker lives").jobs
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn await_file(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(30), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn await_no_job(workers: &[WorkerProcess]) {
    let started = Instant::now();
    while workers.iter().any(|worker| worker.running_jobs() > 0) {
        assert!(started.elapsed() < PATIENCE * 3, "a worker keeps a job that is over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(directory: &TempDir, holds: [Option<Phase>; 3]) -> Vec<WorkerProcess> {
    let start = |(index, hold)| WorkerProcess::start(directory.path(), index, hold);
    holds.into_iter().enumerate().map(start).collect()
}

fn text() -> Vec<u8> {
    (0..40_000).flat_map(|n| format!("the word{} of {}\n", n % 977, n % 7).into_bytes()).collect()
}

fn run_over(workers: &[WorkerProcess], input: &Path, output: &Path) -> Result<(), CommandError> {
    let options = options(workers, input, output);
    run::<HeldCount>(&options, NoParams {}, &Console { quiet: true, verbose: false, fancy: false })
}

fn options(workers: &[WorkerProcess], input: &Path, output: &Path) -> RunOptions {
    RunOptions {
        inputs: vec![input.to_owned()],
        hosts: "no-such-hosts.toml".into(),
        workers: Workers::Named(workers.iter().map(|worker| worker.address.to_string()).collect()),
        servers: None,
        top: None,
        destination: Destination::File(output.to_owned()),
        format: Format::Tsv,
        split_size: Some(10_000),
        report: None,
        threads: None,
        worker_timeout: PATIENCE,
        compress: Compress::Auto,
        backups: true,
    }
}

/// Strikes the worker that stands still in `phase`, and checks all that must hold after it.
fn strike(phase: Phase, how: Signal) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("input"), directory.path().join("output"));
    let text = text();
    fs::write(&input, &text).expect("it is writable");
    let mut workers = start(&directory, [None, Some(phase), None]);
    let error = std::thread::scope(|scope| {
        let ran = scope.spawn(|| run_over(&workers, &input, &output));
        await_file(&workers[1].held);
        let struck = Instant::now();
        signal(workers[1].child.id(), how);
        let error = ran.join().expect("no panic").expect_err("a worker is lost");
        assert!(struck.elapsed() < Duration::from_secs(15), "told only after {:?}", struck.elapsed());
        error
    });
    let said = format!("{:#}", error.cause);
    let lost = format!("worker {} was lost in {phase}", workers[1].address);
    assert!(said.contains(&lost), "{said:?} does not say {lost:?}");
    assert_eq!(error.exit, Exit::Failure);
    assert!(error.advice.is_some(), "nothing says what to do next");
    assert!(!output.exists(), "there is an output of a run that failed");
    let left: Vec<_> = fs::read_dir(directory.path()).expect("it is there").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("tmp")), "{left:?}");
    // The others are usable at once.
    drop(workers.remove(1));
    await_no_job(&workers);
    run_over(&workers, &input, &output).map_err(|error| error.cause).expect("two workers are well");
    assert!(
        fs::read(&output).expect("there is a result") == reference::word_count(&[&text], Tokens::Word, false)
    );
}

#[test]
fn killed_in_split() {
    with_deadline(Duration::from_secs(60), || strike(Phase::Split, Signal::KILL));
}

#[test]
fn killed_in_map() {
    with_deadline(Duration::from_secs(60), || strike(Phase::Map, Signal::KILL));
}

#[test]
fn killed_in_shuffle() {
    with_deadline(Duration::from_secs(60), || strike(Phase::Shuffle, Signal::KILL));
}

#[test]
fn killed_in_reduce() {
    with_deadline(Duration::from_secs(60), || strike(Phase::Reduce, Signal::KILL));
}

#[test]
fn killed_in_merge() {
    with_deadline(Duration::from_secs(60), || strike(Phase::Merge, Signal::KILL));
}

#[test]
fn frozen_in_every_phase() {
    with_deadline(Duration::from_secs(180), || {
        Phase::ALL.into_iter().for_each(|phase| strike(phase, Signal::STOP));
    });
}

/// A worker that computes for long is not taken for dead, neither by the client nor by its peers: it beats meanwhile.
#[test]
fn slow_is_not_dead() {
    with_deadline(Duration::from_secs(120), || [Phase::Shuffle, Phase::Reduce].into_iter().for_each(slow_in));
}

fn slow_in(phase: Phase) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("input"), directory.path().join("output"));
    fs::write(&input, text()).expect("it is writable");
    let workers = start(&directory, [None, Some(phase), None]);
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| run_over(&workers, &input, &output));
        await_file(&workers[1].held);
        std::thread::sleep(PATIENCE * 2);
        assert!(!ran.is_finished(), "the run ended in {phase} though all its workers beat");
        signal(workers[1].child.id(), Signal::KILL);
        assert!(ran.join().expect("no panic").is_err());
    });
}

/// A worker that was greeted waits for its job while the client waits for others, which may take two time-outs of 5 s.
#[test]
fn greeted_worker_waits_for_its_job() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workers = start(&directory, [None, None, None]);
        let (mut connection, _) =
            net::reach(workers[0].address, None, Role::Client, PATIENCE).expect("the worker is well");
        connection.control.set_deadline(Duration::from_secs(11)).expect("the connection is open");
        let read = connection.reader.read(&mut [0]).expect_err("the worker has nothing to say yet");
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock, "the worker went away");
    });
}

/// With `--servers`, as many as answer are enough: nobody waits for one that is frozen.
#[test]
fn frozen_worker_does_not_hold_up_a_run_on_the_others() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (input, output) = (directory.path().join("input"), directory.path().join("output"));
        let text = text();
        fs::write(&input, &text).expect("it is writable");
        let workers = start(&directory, [None, None, None]);
        signal(workers[0].child.id(), Signal::STOP);
        let worker_timeout = Duration::from_secs(10);
        let options = RunOptions { servers: Some(2), worker_timeout, ..options(&workers, &input, &output) };
        let began = Instant::now();
        let console = Console { quiet: true, verbose: false, fancy: false };
        run::<HeldCount>(&options, NoParams {}, &console).map_err(|error| error.cause).expect("two are well");
        assert!(began.elapsed() < Duration::from_secs(5), "waited for the frozen one: {:?}", began.elapsed());
        assert!(
            fs::read(&output).expect("there is a result")
                == reference::word_count(&[&text], Tokens::Word, false)
        );
    });
}

/// A panic of the job names the split, and the workers live on.
#[test]
fn poisoned_record() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (input, output) = (directory.path().join("input"), directory.path().join("output"));
        let mut poisoned = text();
        let at = poisoned.len() as u64;
        fs::File::create(&input)
            .and_then(|mut file| {
                poisoned.extend_from_slice(b"poison\n");
                file.write_all(&poisoned)
            })
            .expect("it is writable");
        let workers = start(&directory, [None, None, None]);
        let error = run_over(&workers, &input, &output).expect_err("a record is poisoned");
        let said = format!("{:#}", error.cause);
        assert!(said.contains("a poisoned record"), "{said}");
        assert!(said.contains(&format!("to {}", at + 7)), "{said} does not name the bytes around {at}");
        assert!(!output.exists());
        await_no_job(&workers);
    });
}

/// A job that panics where the input is to be cut, on the client, ends with its words, not in a wait.
#[test]
fn a_panic_where_the_input_is_cut_is_told() {
    with_deadline(Duration::from_secs(60), || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (input, output) = (directory.path().join("input"), directory.path().join("output"));
        fs::write(&input, [BELL; 100_000]).expect("it is writable");
        let workers = start(&directory, [None, None, None]);
        let error = run_over(&workers, &input, &output).expect_err("the input cannot be cut");
        let said = format!("{:#}", error.cause);
        assert!(said.contains("a byte that this job does not bear"), "{said}");
        assert!(!output.exists());
        await_no_job(&workers);
    });
}
