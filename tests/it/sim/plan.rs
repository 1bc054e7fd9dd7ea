//! Plan: what a seed decides before a run begins: the machines, the input, and which faults happen when.
//!
//! Swarm testing (Groce et al. 2012): each seed has but some kinds of faults, so that rare mixtures come up, and none
//! hides another for ever.

use mapreduce::logic::coordinator::Phase;
use mapreduce::logic::partition::Seed;
use mapreduce::logic::split::Split;

use super::random::Random;
use super::text::make_text;

/// Microseconds since the run began.
pub type Time = u64;

pub const MILLISECOND: Time = 1_000;
pub const SECOND: Time = 1_000_000;

/// The world in which a job runs.
pub struct Plan {
    /// Map threads of each worker; the last `spares` of them wait for the place of a lost one.
    pub threads: Vec<u32>,
    pub spares: usize,
    pub text: Vec<u8>,
    /// As how many bytes the coordinator counts one of the text.
    pub scale: u64,
    pub split_bytes: Option<u64>,
    /// Whether the size of the input is known from the start: that of standard input is not.
    pub known_size: bool,
    pub backups: bool,
    /// What reading and cutting a split takes at most.
    pub cut_micros: Time,
    pub timeout: Time,
    pub seed: Seed,
    /// What a thread takes for a byte (as the coordinator counts them), and for an entry of a shuffle or reduce.
    pub byte_micros: f64,
    pub entry_micros: f64,
    /// What a message takes, at least and at most.
    pub delay: (Time, Time),
    /// The larger, the seldomer it takes long.
    pub tail: i32,
    /// By how much each worker, and each worker's network, is slower than that.
    pub slowness: Vec<f64>,
    pub link_slowness: Vec<f64>,
    /// Entries of a batch.
    pub batch_entries: usize,
    /// Places in the text that no execution survives.
    pub poisoned: Vec<usize>,
    /// Places that no worker can unpack, and places that the client cannot read.
    pub unreadable: Vec<usize>,
    pub unread: Vec<usize>,
    /// Whether splits with such places are left out.
    pub skips: bool,
    /// Whether what is committed is folded into the first thread's table, else it stays by itself.
    pub joins_commits: bool,
    pub faults: Vec<Fault>,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    pub when: When,
    pub what: What,
}

/// When it does.
#[derive(Clone, Copy, Debug)]
pub enum When {
    At(Time),
    /// So long after the phase is entered for the first or a later time.
    In(Phase, u32, Time),
}

/// What goes wrong. Workers are given by their numbers.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The process ends, and its connections with it.
    Crash(u32),
    /// The machine is gone: nobody hears that.
    PowerOff(u32),
    /// The process stands still; if it ever goes on, then where it stood.
    Freeze(u32, Option<Time>),
    /// What the worker says is lost on its way to the client.
    Mute(u32),
    /// What the client says is lost on its way to the worker.
    Deafen(u32),
    /// Two workers do not reach each other any more, and perhaps later again. If `refused`, they hear that at once.
    Cut {
        one: u32,
        other: u32,
        refused: bool,
        heals: Option<Time>,
    },
    /// The worker computes slower from now on.
    Slow(u32, f64),
    /// Its messages take longer from now on.
    SlowLink(u32, f64),
    /// So many per cent of its executions fail from now on.
    LowMemory(u32, u64),
    /// The worker gives up.
    GiveUp(u32),
    /// The client ends without a word; if `silent`, the workers do not even see their connections close.
    KillClient {
        silent: bool,
    },
    /// The client stands still for a while.
    StandStill(Time),
    Interrupt,
    InputFails,
    OutputFails,
}

/// Kinds of faults, for the swarm and for the tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Crash,
    PowerOff,
    Freeze,
    Mute,
    Deafen,
    CutLink,
    Slow,
    SlowLink,
    LowMemory,
    GiveUp,
    KillClient,
    StandStill,
    Interrupt,
    InputFails,
    OutputFails,
}

impl What {
    pub fn kind(&self) -> Kind {
        match self {
            What::Crash(_) => Kind::Crash,
            What::PowerOff(_) => Kind::PowerOff,
            What::Freeze(..) => Kind::Freeze,
            What::Mute(_) => Kind::Mute,
            What::Deafen(_) => Kind::Deafen,
            What::Cut { .. } => Kind::CutLink,
            What::Slow(..) => Kind::Slow,
            What::SlowLink(..) => Kind::SlowLink,
            What::LowMemory(..) => Kind::LowMemory,
            What::GiveUp(_) => Kind::GiveUp,
            What::KillClient { .. } => Kind::KillClient,
            What::StandStill(_) => Kind::StandStill,
            What::Interrupt => Kind::Interrupt,
            What::InputFails => Kind::InputFails,
            What::OutputFails => Kind::OutputFails,
        }
    }
}

impl Kind {
    /// All kinds, each with the per cent of seeds that have it.
    pub const ALL: [(Kind, u64); 15] = [
        (Kind::Crash, 25),
        (Kind::PowerOff, 15),
        (Kind::Freeze, 25),
        (Kind::Mute, 8),
        (Kind::Deafen, 8),
        (Kind::CutLink, 15),
        (Kind::Slow, 25),
        (Kind::SlowLink, 15),
        (Kind::LowMemory, 8),
        (Kind::GiveUp, 6),
        (Kind::KillClient, 4),
        (Kind::StandStill, 6),
        (Kind::Interrupt, 2),
        (Kind::InputFails, 1),
        (Kind::OutputFails, 2),
    ];
}

impl Plan {
    /// Makes the plan of a seed.
    pub fn of(random: &mut Random) -> Self {
        let n = if random.chance(15) { random.between(1, 2) } else { random.between(2, 8) } as usize;
        let spares = if random.chance(35) { random.between(1, 3) as usize } else { 0 };
        let threads: Vec<u32> = (0..n + spares).map(|_| random.between(1, 3) as u32).collect();
        let words = if random.chance(5) { random.below(20) } else { random.between(50, 900) };
        let text = if random.chance(1) { Vec::new() } else { make_text(random, words) };
        let scale = [1, 100, 2_000][random.below(3) as usize];
        let bytes = text.len() as u64 * scale;
        let n_splits = random.between(1, 40);
        // Chosen sizes are only ever small beside an input that is scaled up.
        let split_bytes = (scale < 2_000 || random.chance(50)).then(|| (bytes / n_splits).max(1));
        let all_threads: u32 = threads[..n].iter().sum();
        // In some worlds nearly all time is that of messages: then much of what arrives is of an epoch that is over.
        let is_hurried = random.chance(20);
        let map_micros = if is_hurried { random.spread(1e3, 20e3) } else { random.spread(2e3, 8e6) };
        let longest_delay = if is_hurried { random.spread(50e3, 400e3) } else { random.spread(600.0, 300e3) };
        let mut plan = Self {
            slowness: vec![1.0; threads.len()],
            link_slowness: vec![1.0; threads.len()],
            threads,
            spares,
            scale,
            split_bytes,
            known_size: random.chance(75),
            backups: random.chance(85),
            cut_micros: random.spread(100.0, 30e3) as Time,
            timeout: random.between(5, 8) * SECOND,
            seed: Seed([random.next(), random.next()]),
            byte_micros: map_micros * f64::from(all_threads) / bytes.max(1) as f64,
            entry_micros: random.spread(1.0, if is_hurried { 50.0 } else { 2_000.0 }),
            delay: (random.between(20, 500), longest_delay as Time),
            tail: random.between(1, if is_hurried { 2 } else { 6 }) as i32,
            batch_entries: random.between(3, 120) as usize,
            poisoned: Vec::new(),
            unreadable: Vec::new(),
            unread: Vec::new(),
            skips: false,
            joins_commits: random.chance(50),
            faults: Vec::new(),
            text,
        };
        if random.chance(3) && !plan.text.is_empty() {
            let n_poisoned = random.between(1, 3);
            plan.poisoned = (0..n_poisoned).map(|_| random.below(plan.text.len() as u64) as usize).collect();
        }
        // Of its own, so that the seeds of the other worlds stay what they are.
        let mut bad = Random::new(plan.seed.0[0]);
        if bad.chance(8) && !plan.text.is_empty() {
            let length = plan.text.len() as u64;
            let mut places = || (0..bad.below(4)).map(|_| bad.below(length) as usize).collect::<Vec<_>>();
            (plan.unreadable, plan.unread) = (places(), places());
            plan.skips = bad.chance(80);
        }
        plan.add_faults(random, map_micros as Time);
        plan
    }

    /// Makes the plan of eight equal workers, of whom one may be slower.
    pub fn of_eight(random: &mut Random, slowness: f64, backups: bool, known_size: bool) -> Self {
        let mut plan = Self::of(random);
        plan.threads = vec![2; 8];
        plan.spares = 0;
        plan.text = make_text(random, 8_000);
        (plan.scale, plan.split_bytes) = (2_000, None);
        (plan.known_size, plan.backups, plan.cut_micros) = (known_size, backups, 100);
        (plan.byte_micros, plan.entry_micros) = (1.0, 1.0);
        (plan.delay, plan.tail) = ((100, 1_000), 2);
        plan.slowness = vec![1.0; 8];
        plan.slowness[3] = slowness;
        plan.link_slowness = vec![1.0; 8];
        plan.batch_entries = 200;
        plan.poisoned.clear();
        plan.unreadable.clear();
        plan.unread.clear();
        plan.faults.clear();
        plan
    }

    fn add_faults(&mut self, random: &mut Random, map_micros: Time) {
        if random.chance(8) {
            return;
        }
        for (kind, percent) in Kind::ALL {
            if random.chance(percent) {
                for _ in 0..random.between(1, 3) {
                    self.add_fault(random, kind, map_micros);
                }
            }
        }
    }

    /// Adds faults of a kind: one, two at once, and rarely to all workers or all but one.
    fn add_fault(&mut self, random: &mut Random, kind: Kind, map_micros: Time) {
        let all = self.threads.len();
        let n = match random.below(20) {
            0 => all - self.spares,
            1 => (all - 1).max(1),
            2 => all,
            3..=6 => 2,
            _ => 1,
        };
        let when = self.choose_time(random, map_micros);
        for worker in random.choose(n, all) {
            // Those that happen at once do not happen in the same microsecond.
            let when = match when {
                When::At(time) => When::At(time + random.below(20 * MILLISECOND)),
                When::In(phase, times, after) => {
                    When::In(phase, times, after + random.below(20 * MILLISECOND))
                }
            };
            let what = self.choose_fault(random, kind, worker);
            self.faults.push(Fault { when, what });
            if kind >= Kind::KillClient {
                return;
            }
        }
    }

    fn choose_time(&self, random: &mut Random, map_micros: Time) -> When {
        if random.chance(35) {
            return When::At(random.below(map_micros + 2 * SECOND));
        }
        // What lasts is hit often anyway.
        let phase = match random.below(10) {
            0 => Phase::Split,
            1..=2 => Phase::Map,
            3..=4 => Phase::Shuffle,
            5..=7 => Phase::Reduce,
            _ => Phase::Merge,
        };
        let after = match phase {
            Phase::Map => random.below(map_micros),
            _ if random.chance(50) => random.below(5 * MILLISECOND),
            _ => random.below(200 * MILLISECOND),
        };
        When::In(phase, 1 + random.below(5) as u32 / 3, after)
    }

    fn choose_fault(&self, random: &mut Random, kind: Kind, worker: u32) -> What {
        let percent = if random.chance(50) { 100 } else { 30 };
        match kind {
            Kind::Crash => What::Crash(worker),
            Kind::PowerOff => What::PowerOff(worker),
            Kind::Freeze if random.chance(15) => What::Freeze(worker, None),
            Kind::Freeze if random.chance(30) => {
                // Back soon after it is given up.
                What::Freeze(worker, Some(self.timeout + random.below(SECOND / 2)))
            }
            Kind::Freeze => {
                What::Freeze(worker, Some(random.spread(0.05e6, 3.0 * self.timeout as f64) as Time))
            }
            Kind::Mute => What::Mute(worker),
            Kind::Deafen => What::Deafen(worker),
            Kind::CutLink => {
                let other = random.below(self.threads.len() as u64) as u32;
                let heals = random.chance(30).then(|| random.below(20 * SECOND));
                What::Cut { one: worker, other, refused: random.chance(50), heals }
            }
            Kind::Slow => What::Slow(worker, random.spread(3.0, 100.0)),
            Kind::SlowLink => What::SlowLink(worker, random.spread(3.0, 100.0)),
            Kind::LowMemory => What::LowMemory(worker, percent),
            Kind::GiveUp => What::GiveUp(worker),
            Kind::KillClient => What::KillClient { silent: random.chance(50) },
            Kind::StandStill => What::StandStill(random.spread(0.2e6, 1.5 * self.timeout as f64) as Time),
            Kind::Interrupt => What::Interrupt,
            Kind::InputFails => What::InputFails,
            Kind::OutputFails => What::OutputFails,
        }
    }

    /// Tells whether no execution of the split succeeds.
    pub fn is_poisoned(&self, split: &Split) -> bool {
        self.has_any(split, &self.poisoned)
    }

    /// Tells whether no worker can unpack the split.
    pub fn is_unreadable(&self, split: &Split) -> bool {
        self.has_any(split, &self.unreadable)
    }

    /// Tells whether the client cannot read the split.
    pub fn is_unread(&self, split: &Split) -> bool {
        self.has_any(split, &self.unread)
    }

    /// Tells whether the split is to be left out.
    pub fn is_bad(&self, split: &Split) -> bool {
        self.is_unreadable(split) || self.is_unread(split)
    }

    fn has_any(&self, split: &Split, places: &[usize]) -> bool {
        let range = split.offset / self.scale..(split.offset + split.length) / self.scale;
        places.iter().any(|place| range.contains(&(*place as u64)))
    }
}
