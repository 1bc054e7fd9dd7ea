//! Stage: real worker processes with an identity or without, what they hold, and honest jobs over them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use mapreduce::edge::identity::{Authority, Identity, SHARED_WORKER_NAME, SharedIdentity};
use mapreduce::edge::net::{self, Wire};
use mapreduce::edge::tls::Tls;
use mapreduce::logic::tokenize::Tokens;
use mapreduce::runtime::link::{Connection, Network};
use tempfile::TempDir;

use crate::harness::program::{Invocation, Running};
use crate::harness::served::Served;
use crate::harness::{wait_until, workers};
use crate::reference;

/// How long a whole test may take, on a machine under load.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How long a connection may take to be made or to end: a stranger has five seconds to say who it is.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// How long a worker may take to come to rest.
const REST: Duration = Duration::from_secs(30);

/// By how much a worker's memory may have grown once it is at rest: what the allocator keeps for threads that were.
const MORE_KIB: u64 = 8 << 10;

/// How often an attack is done before it is known what the allocator keeps.
const ROUNDS: usize = 3;

/// The usual text and its words, counted by the sequential program.
static TEXT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let text = workers::text();
    let counted = reference::word_count(&[&text], Tokens::Word, false);
    (text, counted)
});

/// Workers of one identity, or of none.
pub struct Stage {
    pub directory: TempDir,
    pub authority: Authority,
    /// `None` in plaintext.
    pub shared: Option<SharedIdentity>,
    pub workers: Vec<Served>,
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Of its own: how much of the program is in memory depends on what it has been asked to do.
    pub resident_kib: u64,
    pub threads: u64,
    pub files: usize,
}

impl Held {
    /// What the process `pid` holds now.
    pub fn by(pid: u32) -> Held {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
            line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is ours").count();
        Held { resident_kib: figure("RssAnon:"), threads: figure("Threads:"), files }
    }
}

impl Stage {
    /// Starts `n` workers with an identity.
    pub fn encrypted(n: usize) -> Stage {
        Stage::with_identity_and(n, &[])
    }

    /// The same, whose allocator has one heap for all threads: with one for each, what it keeps of them depends on
    /// which thread happened to hold much, and grows for a long time.
    pub fn with_one_heap(n: usize) -> Stage {
        Stage::with_identity_and(n, &[("MALLOC_ARENA_MAX", "1")])
    }

    fn with_identity_and(n: usize, env: &[(&str, &str)]) -> Stage {
        let authority = Authority::fresh().expect("there is randomness");
        let shared = SharedIdentity {
            client: authority.client().expect("it signs"),
            worker: authority.worker(SHARED_WORKER_NAME).expect("it signs"),
        };
        Stage::start(n, authority, Some(shared), env)
    }

    /// Starts `n` workers without, on loopback, and with one heap.
    pub fn plaintext(n: usize) -> Stage {
        Stage::start(n, Authority::fresh().expect("there is randomness"), None, &[("MALLOC_ARENA_MAX", "1")])
    }

    fn start(n: usize, authority: Authority, shared: Option<SharedIdentity>, env: &[(&str, &str)]) -> Stage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut stage = Stage { directory, authority, shared, workers: Vec::new() };
        fs::write(stage.input(), &TEXT.0).expect("it is writable");
        if let Some(shared) = &stage.shared {
            let json = serde_json::to_vec(shared).expect("it has a JSON form");
            fs::write(stage.identity(), json).expect("it is writable");
            fs::set_permissions(stage.identity(), fs::Permissions::from_mode(0o600)).expect("it is ours");
        }
        let arguments = stage.with_identity(&["serve", "--port", "0", "--threads", "2"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let serve = || {
            let plain = Invocation::new(&arguments).deadline(LIMIT);
            env.iter().fold(plain, |serve, (name, value)| serve.env(name, value))
        };
        stage.workers = (0..n).map(|_| Served::start(serve())).collect();
        // What is done for the first time leaves something behind.
        stage.exact(stage.job(&stage.addresses()));
        stage
    }

    pub fn input(&self) -> PathBuf {
        self.directory.path().join("input")
    }

    pub fn identity(&self) -> PathBuf {
        self.directory.path().join("lab.identity")
    }

    pub fn addresses(&self) -> Vec<String> {
        self.workers.iter().map(|worker| worker.address.to_string()).collect()
    }

    fn with_identity(&self, arguments: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        if self.shared.is_some() {
            arguments.extend(["--identity".to_owned(), self.identity().to_string_lossy().into_owned()]);
        }
        arguments
    }

    /// A run of the real program over the usual text on the workers at `addresses`.
    pub fn run(&self, addresses: &[String], more: &[&str]) -> Invocation {
        self.run_about(&self.input(), addresses, more)
    }

    /// A run of the real program over `input`.
    pub fn run_about(&self, input: &Path, addresses: &[String], more: &[&str]) -> Invocation {
        let workers = addresses.join(",");
        let input = input.to_string_lossy();
        let plain = ["run", &input, "--workers", &workers, "--split-size", "16KiB"];
        let arguments = self.with_identity(&[&plain[..], more].concat());
        Invocation::new(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Begins an honest job.
    pub fn job(&self, addresses: &[String]) -> Running {
        self.run(addresses, &[]).spawn()
    }

    /// Waits until an honest job has ended well, without a loss; returns the seconds that it took.
    #[track_caller]
    pub fn exact(&self, job: Running) -> f64 {
        let finished = job.wait().expect_code(0);
        assert!(finished.stdout_bytes == TEXT.1, "the result is not exact:\n{}", finished.stderr);
        assert!(!finished.stderr.contains(" lost in "), "{}", finished.stderr);
        finished.elapsed.as_secs_f64()
    }

    /// How the client speaks.
    pub fn wire(&self) -> Wire {
        self.shared.as_ref().map_or_else(Wire::by_hand, |shared| speaking_as(&shared.client))
    }

    /// How a worker of the cluster speaks with its peers.
    pub fn peer_wire(&self) -> Wire {
        self.shared.as_ref().map_or_else(Wire::by_hand, |shared| speaking_as(&shared.worker))
    }

    /// Connects to a worker, as who has `wire`.
    ///
    /// # Errors
    /// As [`Network::connect`].
    pub fn connect(&self, worker: usize, wire: &Wire) -> io::Result<Connection> {
        wire.connect(&self.workers[worker].address.to_string(), SHARED_WORKER_NAME, PATIENCE)
    }

    /// What the workers hold at rest.
    pub fn at_rest(&self) -> Vec<Held> {
        let mut last: Vec<Held> = Vec::new();
        wait_until(REST, "the workers to come to rest", || {
            let now: Vec<Held> = self.workers.iter().map(|worker| Held::by(worker.pid())).collect();
            let still = |(a, b): (&Held, &Held)| a.threads == b.threads && a.files == b.files;
            let is_still = last.len() == now.len() && last.iter().zip(&now).all(still);
            last = now;
            std::thread::sleep(Duration::from_millis(100));
            is_still
        });
        last
    }

    /// Waits until all workers answer, run no job, and hold what they held `before`, but for some memory; says so.
    #[track_caller]
    pub fn assert_at_rest(&self, before: &[Held], what: &str) {
        for (worker, before) in self.workers.iter().zip(before) {
            let status = net::ask_status(worker.address, &self.wire(), SHARED_WORKER_NAME, PATIENCE);
            let status =
                status.unwrap_or_else(|error| panic!("{what}: the worker does not answer: {error:#}"));
            assert_eq!(status.pid, worker.pid(), "{what}");
            let mut now = Held::by(worker.pid());
            let began = Instant::now();
            let is_more = |now: &Held| {
                now.threads > before.threads
                    || now.files > before.files
                    || now.resident_kib > before.resident_kib + MORE_KIB
            };
            while is_more(&now) && began.elapsed() < REST {
                std::thread::sleep(Duration::from_millis(50));
                now = Held::by(worker.pid());
            }
            println!("{what}: before {before:?}, after {now:?}");
            assert!(!is_more(&now), "{what}: the worker held {before:?} and now holds {now:?}");
        }
        wait_until(REST, "no job to run", || {
            self.workers.iter().all(|worker| {
                let status = net::ask_status(worker.address, &self.wire(), SHARED_WORKER_NAME, PATIENCE);
                status.is_ok_and(|status| status.jobs == 0)
            })
        });
    }

    /// Does `attack` while honest jobs run beside it over all workers; then checks that nothing is left of it.
    #[track_caller]
    pub fn withstands(&self, what: &str, attack: impl FnOnce() + Send) {
        let before = self.at_rest();
        let seconds = self.beside(attack);
        let longest = seconds.iter().copied().fold(0.0, f64::max);
        println!("{what}: {} honest jobs beside it, the longest took {longest:.2} s", seconds.len());
        self.assert_at_rest(&before, what);
        self.exact(self.job(&self.addresses()));
    }

    /// As [`Stage::withstands`], for an attack that has the workers hold much for a while: the allocator keeps a part
    /// of that, so that it is done a few times before anything is measured. What is measured then is whether more is
    /// kept each time.
    #[track_caller]
    pub fn withstands_again(&self, what: &str, attack: impl Fn() + Send + Sync) {
        let mut resident = vec![self.at_rest()[0].resident_kib];
        for _ in 0..ROUNDS {
            self.beside(&attack);
            resident.push(self.at_rest()[0].resident_kib);
        }
        println!("{what}: the allocator keeps some memory: {resident:?} KiB after one attack each");
        self.withstands(what, || (0..ROUNDS).for_each(|_| attack()));
    }

    /// Runs honest jobs while `attack` goes on, one after the other; returns the seconds that they took.
    #[track_caller]
    fn beside(&self, attack: impl FnOnce() + Send) -> Vec<f64> {
        std::thread::scope(|scope| {
            let attacking = scope.spawn(attack);
            let mut seconds = Vec::new();
            while seconds.is_empty() || !attacking.is_finished() {
                seconds.push(self.exact(self.job(&self.addresses())));
            }
            if let Err(panic) = attacking.join() {
                std::panic::resume_unwind(panic);
            }
            seconds
        })
    }
}

/// How who has `identity` speaks.
pub fn speaking_as(identity: &Identity) -> Wire {
    Wire::Encrypted(Tls::new(identity).expect("it is one of ours"))
}
