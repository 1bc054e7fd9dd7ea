//! Soak: job after job on eight real workers under random faults from a seed: each is exact, and nothing grows.
//!
//! `MAPREDUCE_SOAK_MINUTES` says for how long, `MAPREDUCE_SOAK_MB` of what text, `MAPREDUCE_SOAK_SEED` from which seed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::processes::signal;
use crate::harness::program::{Invocation, Running};
use crate::harness::proxy::{Direction, Fault, Proxy, Selection};
use crate::harness::served::Served;
use crate::harness::{wait_until, with_deadline};
use crate::reference;

const WORKERS: usize = 8;

/// The first ones are never killed, so that their memory can be watched.
const LASTING: usize = 4;

/// Without a word on it, so long: some rounds of each kind in a run of all tests.
const USUAL_SECONDS: f64 = 20.0;

/// What a test run may take beyond.
const MARGIN: Duration = Duration::from_secs(180);

/// How soon all is as it was after a round.
const SETTLED: Duration = Duration::from_secs(60);

/// Rounds before the first look at the memory: by then it has been what a job takes.
const WARM_ROUNDS: usize = 3;

/// Threads of a worker without a job: it listens, watches, and hears signals; one more may answer a question.
const IDLE_THREADS: u64 = 4;

/// What befalls a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    Kill,
    Freeze,
    Pause,
    Cut,
    Reset,
    PairCut,
    Slow,
    KillClient,
}

const TROUBLES: [Trouble; 9] = [
    Trouble::None,
    Trouble::Kill,
    Trouble::Freeze,
    Trouble::Pause,
    Trouble::Cut,
    Trouble::Reset,
    Trouble::PairCut,
    Trouble::Slow,
    Trouble::KillClient,
];

/// A real worker behind a proxy.
struct Worker {
    served: Served,
    proxy: Proxy,
}

impl Worker {
    fn start(limit: Duration) -> Self {
        let served = Served::start(Invocation::new(&["serve", "--threads", "2"]).deadline(limit));
        let proxy = Proxy::before(served.address);
        Self { served, proxy }
    }

    /// Its resident KiB and its threads.
    fn footprint(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.served.pid())).expect("it lives");
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells");
            line.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("a number")
        };
        (figure("VmRSS:"), figure("Threads:"))
    }
}

struct Soak {
    directory: TempDir,
    workers: Vec<Worker>,
    expected: Vec<u8>,
    random: u64,
    limit: Duration,
    done: BTreeMap<Trouble, usize>,
    /// Of rounds that succeeded, how many told of a loss.
    rounds_with_loss: usize,
}

fn setting(name: &str, usual: f64) -> f64 {
    std::env::var(name).ok().map_or(usual, |value| value.parse().expect("a number in the environment"))
}

#[test]
fn soak() {
    let span = Duration::from_secs_f64(60.0 * setting("MAPREDUCE_SOAK_MINUTES", USUAL_SECONDS / 60.0));
    with_deadline(span + MARGIN, move || {
        let mut soak = Soak::begin(span + MARGIN);
        let began = Instant::now();
        let mut early = None;
        let mut rounds = 0;
        while began.elapsed() < span || rounds <= WARM_ROUNDS {
            soak.round(rounds);
            rounds += 1;
            if rounds == WARM_ROUNDS {
                early = Some(soak.footprints());
            }
        }
        let late = soak.footprints();
        println!("{rounds} rounds in {:.0?}: {:?}", began.elapsed(), soak.done);
        println!("{} rounds went on without a worker", soak.rounds_with_loss);
        for ((rss, threads), (early_rss, early_threads)) in late.into_iter().zip(early.expect("it was warm"))
        {
            println!("resident {early_rss} KiB, then {rss} KiB; threads {early_threads}, then {threads}");
            assert!(rss <= early_rss * 3 / 2 + (96 << 10), "memory has grown");
            assert!(threads <= early_threads + 2, "threads are left");
        }
    });
}

impl Soak {
    fn begin(limit: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bytes = (setting("MAPREDUCE_SOAK_MB", 3.0) * 1e6) as usize;
        let mut text = Vec::with_capacity(bytes + 64);
        for n in 0_u64.. {
            if text.len() >= bytes {
                break;
            }
            let rare = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 46;
            text.extend_from_slice(format!("the word{} of {} and w{rare}\n", n % 977, n % 7).as_bytes());
        }
        fs::write(directory.path().join("input"), &text).expect("it is writable");
        let seed = setting("MAPREDUCE_SOAK_SEED", 1.0) as u64;
        println!("seed {seed}, {} bytes", text.len());
        Self {
            directory,
            workers: (0..WORKERS).map(|_| Worker::start(limit)).collect(),
            expected: reference::word_count(&[&text], Tokens::Word, false),
            random: seed,
            limit,
            done: BTreeMap::new(),
            rounds_with_loss: 0,
        }
    }

    /// A number below `n`: SplitMix64.
    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % n as u64) as usize
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// One job with up to two faults in it.
    fn round(&mut self, number: usize) {
        let job = self.start_job();
        let kinds = 1 + self.below(2);
        // Each kind has its turn.
        let troubles: Vec<Trouble> = (0..kinds)
            .map(|kind| match kind {
                0 => TROUBLES[number % TROUBLES.len()],
                _ => TROUBLES[self.below(TROUBLES.len() - 1)],
            })
            .collect();
        let mut killed = Vec::new();
        for trouble in &troubles {
            std::thread::sleep(Duration::from_millis(self.below(60) as u64));
            killed.extend(self.strike(*trouble, &job));
            *self.done.entry(*trouble).or_default() += 1;
        }
        let victim_of_kill = troubles.contains(&Trouble::KillClient);
        let ended = job.wait();
        if victim_of_kill && ended.code.is_none() {
            let _ = fs::remove_file(self.output());
        } else {
            let ended = ended.expect_code(0);
            let result = fs::read(self.output()).expect("there is a result");
            let exact = result == self.expected;
            assert!(
                exact,
                "round {number}, {troubles:?}: it is not exact; the client said:\n{}",
                ended.stderr
            );
            fs::remove_file(self.output()).expect("it is ours");
            self.rounds_with_loss += usize::from(ended.stderr.contains(" lost in "));
        }
        self.settle(&killed);
    }

    /// Starts the job, and waits until all workers have it, or it is done.
    fn start_job(&self) -> Running {
        let addresses: Vec<_> =
            self.workers.iter().map(|worker| worker.proxy.address().to_string()).collect();
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let (input, output) = (path(&self.directory.path().join("input")), path(&self.output()));
        let addresses = addresses.join(",");
        let args = ["run", &input, "-o", &output, "--workers", &addresses, "--worker-timeout", "2s"];
        let mut job = Invocation::new(&args).deadline(self.limit).spawn();
        wait_until(SETTLED, "the job to begin", || {
            !job.goes_on() || self.workers.iter().all(|worker| worker.served.jobs() > 0)
        });
        job
    }

    /// Strikes, and returns the worker that is killed by it.
    fn strike(&mut self, trouble: Trouble, job: &Running) -> Option<usize> {
        let victim = self.below(WORKERS);
        let other = (victim + 1 + self.below(WORKERS - 1)) % WORKERS;
        let mortal = LASTING + self.below(WORKERS - LASTING);
        let delay = Duration::from_millis(self.below(300) as u64);
        let Worker { served, proxy } = &self.workers[victim];
        match trouble {
            Trouble::None => {}
            Trouble::Kill => {
                signal(self.workers[mortal].served.pid(), Signal::KILL);
                return Some(mortal);
            }
            Trouble::Freeze => signal(served.pid(), Signal::STOP),
            Trouble::Pause => {
                signal(served.pid(), Signal::STOP);
                std::thread::sleep(delay);
                signal(served.pid(), Signal::CONT);
            }
            Trouble::Cut => _ = proxy.inject(Fault::Blackhole(Direction::Both), Selection::client()),
            Trouble::Reset => _ = proxy.inject(Fault::Reset, Selection::client().existing_only()),
            Trouble::PairCut => {
                let fault = Fault::Blackhole(Direction::Both);
                proxy.inject(fault, Selection::peer(other as u32));
                self.workers[other].proxy.inject(fault, Selection::peer(victim as u32));
            }
            Trouble::Slow => _ = proxy.inject(Fault::Rate(Direction::Both, 200_000), Selection::all()),
            Trouble::KillClient => signal(job.pid(), Signal::KILL),
        }
        None
    }

    /// Makes everything whole again, and waits until nobody has a job any more.
    fn settle(&mut self, killed: &[usize]) {
        for worker in &self.workers {
            worker.proxy.heal();
            signal(worker.served.pid(), Signal::CONT);
        }
        for &worker in killed {
            self.workers[worker] = Worker::start(self.limit);
        }
        wait_until(SETTLED, "all workers to drop the job", || {
            self.workers.iter().all(|worker| worker.served.jobs() == 0)
        });
    }

    /// What those workers take that live from the beginning, once the threads of the last job have ended.
    fn footprints(&self) -> Vec<(u64, u64)> {
        let lasting = || self.workers[..LASTING].iter();
        let all_idle = || lasting().all(|worker| worker.footprint().1 <= IDLE_THREADS);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(5) && !all_idle() {
            std::thread::sleep(Duration::from_millis(50));
        }
        lasting().map(Worker::footprint).collect()
    }
}
