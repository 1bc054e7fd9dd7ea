//! Stage: a job over workers of the test's own whose client is a process: what it says, reports and writes.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::tokenize::Tokens;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::clients::{DONE, FAILED, Task};
use crate::harness::netns::Network;
use crate::harness::program::{Finished, Running};
use crate::harness::workers::{self, WorkerProcess, WorkerSetup};
use crate::harness::{entries, wait_until, with_deadline};
use crate::reference;

/// How long a whole test may take, on a machine under load.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The silence that is a loss, where one is to be noticed: the shortest that there is.
pub const SHORT: Duration = Duration::from_secs(2);

/// The silence that is a loss, where none is to be noticed on a machine under load.
pub const LONG: Duration = Duration::from_secs(20);

/// What a MiB takes each thread at least, so that a moment without a processor makes no worker look slow: who looks so
/// has no part in the shuffle, and never comes where it is to stand still.
const PACE: Duration = Duration::from_secs(1);

/// Jobs that are begun until one comes where a worker is held.
const ATTEMPTS: usize = 5;

/// Within this much more than a silence, everybody has drawn the consequences.
const GRACE: Duration = Duration::from_secs(20);

/// The usual text and its words, counted by the sequential program.
static TEXT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let text = workers::text();
    let counted = reference::word_count(&[&text], Tokens::Word, false);
    (text, counted)
});

/// Workers, by their numbers, and a text for them.
pub struct Stage<'n> {
    pub directory: TempDir,
    pub workers: Vec<WorkerProcess>,
    network: Option<&'n Network>,
    expected: Vec<u8>,
}

/// What a client that succeeded has told.
pub struct Told {
    pub stderr: String,
    pub report: Value,
}

impl Stage<'static> {
    /// Starts `n` workers, each as `set_up` has it by its number.
    pub fn set(n: usize, set_up: impl Fn(WorkerSetup<'static>, usize) -> WorkerSetup<'static>) -> Self {
        Self::start(n, None, set_up)
    }
}

impl<'n> Stage<'n> {
    /// Starts `n` workers on hosts of `network`, the first on host 1; clients run on host 0.
    pub fn inside(
        network: &'n Network,
        n: usize,
        set_up: impl Fn(WorkerSetup<'n>, usize) -> WorkerSetup<'n>,
    ) -> Self {
        Self::start(n, Some(network), |setup, index| set_up(setup.inside(network, index + 1), index))
    }

    fn start(
        n: usize,
        network: Option<&'n Network>,
        set_up: impl Fn(WorkerSetup<'n>, usize) -> WorkerSetup<'n>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let start = |index| set_up(WorkerSetup::new(directory.path(), index).slow(PACE), index).start();
        let workers = (0..n).map(start).collect();
        let stage = Self { workers, network, expected: TEXT.1.clone(), directory };
        fs::write(stage.input(), &TEXT.0).expect("it is writable");
        stage
    }

    /// Has the job be about another text.
    pub fn about(self, text: &[u8]) -> Self {
        let counted = reference::word_count(&[text], Tokens::Word, false);
        self.about_counted(text, counted)
    }

    /// The same, where its words are counted already.
    pub fn about_counted(mut self, text: &[u8], counted: Vec<u8>) -> Self {
        fs::write(self.input(), text).expect("it is writable");
        self.expected = counted;
        self
    }

    pub fn input(&self) -> PathBuf {
        self.directory.path().join("input")
    }

    pub fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// What the output must be.
    pub fn expected(&self) -> &[u8] {
        &self.expected
    }

    /// The job over all workers. No split is executed twice in it, so that a worker that stands still in a phase keeps
    /// the job there; and nobody is lost by mistake.
    pub fn task(&self) -> Task {
        let addresses = workers::addresses(&self.workers);
        Task {
            report: Some(self.directory.path().join("report")),
            timeout: LONG,
            backups: false,
            ..Task::new(addresses, &self.input(), &self.output())
        }
    }

    /// The same, where a silence is to be noticed.
    pub fn hasty_task(&self) -> Task {
        Task { timeout: SHORT, ..self.task() }
    }

    pub fn begin(&self, task: &Task) -> Running {
        let client = task.client().deadline(LIMIT);
        match self.network {
            None => client.spawn(),
            Some(network) => network.enter(0, || client.spawn()),
        }
    }

    /// Begins the job and waits until `held` stand still in it.
    ///
    /// On a machine under load, a worker may look slow all the same, and then gets no partition: a job that ends before
    /// it came where it is held is exact, and begun again.
    #[track_caller]
    pub fn begin_held(&self, task: &Task, held: &[usize]) -> Running {
        for _ in 0..ATTEMPTS {
            let mut job = self.begin(task);
            let all_held = || held.iter().all(|worker| self.workers[*worker].held.exists());
            wait_until(LIMIT, "workers to stand still", || all_held() || !job.goes_on());
            if all_held() {
                return job;
            }
            self.exact(job);
        }
        panic!("of {ATTEMPTS} jobs, none came where {held:?} are held");
    }

    /// Waits until the job has ended well, and compares its output with what it must be.
    #[track_caller]
    pub fn exact(&self, job: Running) -> Told {
        let told = self.well(job);
        let output = fs::read(self.output()).expect("there is a result");
        assert!(output == self.expected, "the result is not exact; the client said:\n{}", told.stderr);
        fs::remove_file(self.output()).expect("it is ours");
        told
    }

    /// Waits until the job has ended well.
    #[track_caller]
    pub fn well(&self, job: Running) -> Told {
        let Finished { stderr, .. } = job.wait().expect_code(DONE);
        let report = fs::read(self.directory.path().join("report")).expect("there is a report");
        Told { stderr, report: serde_json::from_slice(&report).expect("it is JSON") }
    }

    /// Waits until the job has ended with an error, and returns what was said; there is no output.
    #[track_caller]
    pub fn failed(&self, job: Running) -> String {
        self.ended(job, FAILED)
    }

    /// Waits until the job has ended with `code` and without an output; returns what was said.
    #[track_caller]
    pub fn ended(&self, job: Running, code: i32) -> String {
        let finished = job.wait().expect_code(code);
        assert!(!self.output().exists(), "there is an output; the client said:\n{}", finished.stderr);
        self.assert_tidy();
        finished.stderr
    }

    /// Checks that nothing half-written is left; a client that was killed could not see to that.
    #[track_caller]
    pub fn assert_tidy(&self) {
        let left = entries(self.directory.path());
        assert!(left.iter().all(|name| !name.ends_with(".part")), "{left:?}");
    }

    /// Waits until no job runs on these workers any more.
    #[track_caller]
    pub fn await_idle(&self, who: &[usize]) {
        let ask = || who.iter().all(|worker| self.workers[*worker].running_jobs() == 0);
        wait_until(SHORT + GRACE, &format!("workers {who:?} to drop the job"), || match self.network {
            None => ask(),
            Some(network) => network.enter(0, ask),
        });
    }

    /// Checks that these workers have dropped the job, and that the next job over them is exact and without a loss.
    #[track_caller]
    pub fn assert_usable(&self, who: &[usize]) {
        self.await_idle(who);
        let workers = who.iter().map(|worker| self.workers[*worker].address.to_string()).collect();
        let told = self.exact(self.begin(&Task { workers, backups: true, ..self.task() }));
        assert!(told.losses().is_empty(), "{}", told.stderr);
    }

    /// The phase in which `worker` was lost, as it is told on one line, and once in the report.
    #[track_caller]
    pub fn lost(&self, told: &Told, worker: usize) -> Phase {
        let address = self.workers[worker].address.to_string();
        let mine: Vec<_> = told.losses().into_iter().filter(|(worker, _)| *worker == address).collect();
        let [(_, phase)] = mine[..] else {
            panic!("{address} is lost {} times: {}", mine.len(), told.stderr)
        };
        let line = format!("worker {address} lost in {phase}: ");
        let lines = told.stderr.lines().filter(|said| said.starts_with(&line)).count();
        assert_eq!(lines, 1, "{line:?} in\n{}", told.stderr);
        phase
    }

    /// Checks that of these workers, and of nobody else, it is told that they are lost.
    #[track_caller]
    pub fn assert_lost(&self, told: &Told, who: &[usize]) {
        who.iter().for_each(|worker| _ = self.lost(told, *worker));
        assert_eq!(told.losses().len(), who.len(), "{}", told.stderr);
    }
}

impl Told {
    /// Who was lost, in which phase, as the report has it.
    pub fn losses(&self) -> Vec<(String, Phase)> {
        let losses = self.report["losses"].as_array().expect("a list");
        let loss = |loss: &Value| {
            let phase = serde_json::from_value(loss["phase"].clone()).expect("a phase");
            (loss["worker"].as_str().expect("a name").to_owned(), phase)
        };
        losses.iter().map(loss).collect()
    }

    /// What the job took.
    pub fn seconds(&self) -> f64 {
        self.report["total_seconds"].as_f64().expect("a number")
    }

    /// A figure of the report.
    pub fn figure(&self, name: &str) -> u64 {
        self.report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.report))
    }
}

/// Calls `body` for every phase, all at once, as one test.
pub fn in_each_phase(body: impl Fn(Phase) + Send + Sync + 'static) {
    with_deadline(LIMIT, move || {
        std::thread::scope(|scope| {
            let body = &body;
            let run = |phase: Phase| {
                let thread = std::thread::Builder::new().name(format!("in {phase}"));
                thread.spawn_scoped(scope, move || body(phase)).expect("a thread")
            };
            let running = Phase::ALL.map(|phase| (phase, run(phase)));
            let failed = running.map(|(phase, run)| run.join().is_err().then_some(phase));
            let failed: Vec<_> = failed.into_iter().flatten().collect();
            assert!(failed.is_empty(), "it failed in {failed:?}");
        });
    });
}
