//! Simulation: the real coordinator and the real worker machines in a made-up world, from a seed: nothing is lost.
//!
//! In the manner of FoundationDB's and TigerBeetle's simulators. Real: `logic::coordinator`, `logic::worker`,
//! `logic::inbox`, the hash and the cutting, a text and its fold. Made up: time, the network, processes, and what goes
//! wrong with them. A seed decides everything (`sim/plan.rs`), and the same seed gives the same run.
//!
//! ```sh
//! cargo test --test it sim -- --nocapture                                    # what CI runs, with its summary
//! MAPREDUCE_SIM_SEED=12345 cargo test --test it sim::seeds -- --nocapture    # one seed again, with its whole trace
//! MAPREDUCE_SIM_SEEDS=1000000 cargo test --test it sim::seeds -- --nocapture # the long soak
//! ```

mod check;
mod client;
mod faults;
mod mutants;
mod network;
mod plan;
mod random;
mod tally;
mod text;
mod worker;
mod world;

use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mapreduce::job::Job;
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::logic::coordinator::Phase;

use crate::harness::with_deadline;
use check::{Violation, check};
use mutants::Mutant;
use plan::{Kind, Plan};
use random::Random;
use tally::Tally;
use world::World;

/// Seeds that CI runs, and how long they may take there.
const SEEDS: u64 = 20_000;
const DEADLINE: Duration = Duration::from_secs(240);

/// Within so many seeds each mutant must be found.
const MUTANT_SEEDS: u64 = 1_000;

/// Whatever is injected, whenever: the result is that of the sequential fold, or the job fails for a reason, in time.
#[test]
fn seeds() {
    if let Some(seed) = number("MAPREDUCE_SIM_SEED") {
        return replay(seed);
    }
    let seeds = number("MAPREDUCE_SIM_SEEDS");
    let deadline = DEADLINE * (seeds.unwrap_or(0) / SEEDS + 1) as u32;
    let began = Instant::now();
    let tally = with_deadline(deadline, move || run_seeds(seeds.unwrap_or(SEEDS)));
    println!("{} seeds in {:.1} s\n{tally}", tally.seeds, began.elapsed().as_secs_f64());
    if tally.seeds >= SEEDS {
        assert_harmful(&tally);
    }
}

/// A simulator that does not find what is wrong proves nothing.
#[test]
fn mutants_are_found() {
    let found = with_deadline(DEADLINE, || Mutant::ALL.map(|mutant| (mutant, find(mutant))));
    for (mutant, found) in &found {
        match found {
            Some((seed, violation)) => println!("{mutant:?}: seed {seed}: {violation}"),
            None => println!("{mutant:?}: not found within {MUTANT_SEEDS} seeds"),
        }
    }
    let missed: Vec<_> =
        found.iter().filter(|(_, found)| found.is_none()).map(|(mutant, _)| mutant).collect();
    assert!(missed.is_empty(), "{missed:?} were not found");
}

/// A seed that fails can be looked at again.
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 77, 1234] {
        let [one, other] = [(); 2].map(|()| run_seed(seed, None, true));
        assert!(one.trace(true).len() > 10);
        assert_eq!(one.trace(true), other.trace(true), "seed {seed}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number of seeds, or a seed"))
}

fn run_seed(seed: u64, mutant: Option<Mutant>, traced: bool) -> World {
    let job = WordCount::new(Params::default()).expect("the parameters are good");
    let mut random = Random::new(seed);
    let plan = Plan::of(&mut random);
    let mut world = World::new(plan, random, Rc::new(job), mutant, traced);
    world.run();
    world
}

/// Runs a seed with its whole trace.
fn replay(seed: u64) {
    let world = run_seed(seed, None, true);
    println!("{}", describe(&world));
    world.trace(true).iter().for_each(|line| println!("{line}"));
    if let Err(violation) = check(&world) {
        panic!("seed {seed}: {violation}");
    }
    println!("seed {seed}: {:?}", world.client.brain.coordinator().outcome());
}

fn describe(world: &World) -> String {
    let plan = &world.plan;
    format!(
        "{} workers ({} spares), threads {:?}, {} bytes x {}, splits of {:?}, time-out {} s, faults: {:#?}",
        plan.threads.len(),
        plan.spares,
        plan.threads,
        plan.text.len(),
        plan.scale,
        plan.split_bytes,
        plan.timeout / plan::SECOND,
        plan.faults
    )
}

/// Runs seeds on all cores, until one fails.
fn run_seeds(n: u64) -> Tally {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sum, failed) = (Mutex::new(Tally::default()), Mutex::new(None::<(u64, Violation)>));
    let work = || {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= n {
                break;
            }
            let world = run_seed(seed, None, false);
            tally.note(&world);
            if let Err(violation) = check(&world) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().expect("no thread panicked").get_or_insert((seed, violation));
            }
        }
        sum.lock().expect("no thread panicked").join(&tally);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some((seed, violation)) = failed.into_inner().expect("no thread panicked") {
        let world = run_seed(seed, None, true);
        println!("{}", describe(&world));
        world.trace(false).iter().for_each(|line| println!("{line}"));
        panic!(
            "seed {seed}: {violation}\nreplay: MAPREDUCE_SIM_SEED={seed} \
             cargo test --test it sim::seeds -- --nocapture"
        );
    }
    sum.into_inner().expect("no thread panicked")
}

/// Asserts that every kind of fault happened, and every phase was hit, often enough to count.
fn assert_harmful(tally: &Tally) {
    for (kind, _) in Kind::ALL {
        let n = tally.injected.get(&kind).copied().unwrap_or(0);
        assert!(n >= 20, "{kind:?} was injected {n} times only");
    }
    for phase in Phase::ALL {
        let n = tally.losses_in.get(&phase).copied().unwrap_or(0);
        assert!(n >= 200, "{n} workers only were lost in {phase}");
    }
    assert!(tally.survived >= tally.seeds / 5, "few runs lose workers and end well");
    assert!(tally.totals.backups_won >= 1_000 && tally.joined >= 500 && tally.failed_executions >= 500);
}

/// Returns the first seed at which a mutant is found, and what it did.
fn find(mutant: Mutant) -> Option<(u64, Violation)> {
    (0..MUTANT_SEEDS).find_map(|seed| Some((seed, check(&run_seed(seed, Some(mutant), false)).err()?)))
}
