//! Packing: which form carries the most text over a link, decided from measured rates.
//!
//! A link that carries `l` bytes a second carries `l × ratio` of text that is packed `ratio` to one, but never more
//! than the packer takes in. What gives the highest rate is chosen, split by split.
//! Invariant: no clock in here; what was measured is passed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a text travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Packing {
    /// As it is.
    Plain = 0,
    /// One block of LZ4: quick, about 2 to 1.
    Lz4 = 1,
    /// One frame of Zstandard: slower, about 3 to 1.
    Zstd = 2,
}

impl Packing {
    /// All there are, the cheaper first.
    pub const ALL: [Packing; 3] = [Packing::Plain, Packing::Lz4, Packing::Zstd];

    /// Returns the name by which workers say that they know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// Always this one, if the worker knows it.
    Always(Packing),
    /// What is quickest.
    Auto,
}

/// The share of its time that the slower choice costs before another one is taken: rates are never measured exactly.
const GAIN: f64 = 1.15;

/// The share of the time that a link is busy when more than what waits for it depends on it. A link to a worker that
/// does not map as fast is idle now and then; on a machine under load every link is slow, but not busy all the time.
const BUSY: f64 = 0.75;

/// A link that was idle so many seconds ago may be idle again.
const IDLE_HALF_LIFE: f64 = 0.1;

/// Text a second that no packer takes in: on a faster link nothing is tried.
const FASTEST_PACKER: f64 = 1.5e9;

/// Choices after which a packing that is not in use is tried again.
const STALE: u32 = 32;

/// Bytes that a link must have carried before its rate is believed.
const BELIEVED_BYTES: f64 = 256e3;

/// What is older than so many seconds of the same work counts half.
const HALF_LIFE: f64 = 0.2;

/// Chooses for one link.
#[derive(Debug)]
pub struct Chooser {
    wanted: Compress,
    /// What the other side can unpack, besides plain text.
    known: Vec<Packing>,
    /// The share of a core that a packer has when the packers of all links are at work.
    share: f64,
    current: Packing,
    link: Rate,
    packers: [Packer; Packing::ALL.len()],
    /// The share of the time that the link is busy, of late.
    busy: f64,
}

/// Bytes for each second of work; older work counts less.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    bytes: f64,
    seconds: f64,
}

/// What is known of one packing.
#[derive(Clone, Copy, Debug, Default)]
struct Packer {
    text: Rate,
    packed: f64,
    /// Choices since it was in use, or tried.
    age: u32,
}

impl Chooser {
    /// Makes a chooser for one of `links` of a client with so many `cores`, to a worker that can unpack `known`.
    pub fn new(wanted: Compress, known: &[Packing], links: usize, cores: usize) -> Self {
        Self {
            wanted,
            known: known.iter().copied().filter(|&packing| packing != Packing::Plain).collect(),
            share: (cores.max(1) as f64 / links.max(1) as f64).min(1.0),
            current: Packing::Plain,
            link: Rate::default(),
            packers: Default::default(),
            busy: 0.0,
        }
    }

    /// Tells whether measuring makes a difference.
    pub fn measures(&self) -> bool {
        self.wanted == Compress::Auto && !self.known.is_empty()
    }

    /// Takes note that the link took `bytes` in `time`, during which it was never idle.
    pub fn wrote(&mut self, bytes: usize, time: Duration) {
        self.link.add(bytes, time);
        let keep = (-time.as_secs_f64() / IDLE_HALF_LIFE).exp2();
        self.busy = 1.0 - keep * (1.0 - self.busy);
    }

    /// Takes note that there was nothing to write for such a time.
    pub fn idled(&mut self, time: Duration) {
        self.busy *= (-time.as_secs_f64() / IDLE_HALF_LIFE).exp2();
    }

    /// Takes note that a split was packed from `text` to `packed` bytes in `time`.
    pub fn packed(&mut self, packing: Packing, text: usize, packed: usize, time: Duration) {
        let packer = &mut self.packers[packing as usize];
        packer.age = 0;
        packer.packed = packer.packed * packer.text.add(text, time) + packed as f64;
    }

    /// Returns the packings of which a sample should be packed before the choice, for nothing is known of them.
    pub fn untried(&self) -> Vec<Packing> {
        let hopeless = self.link.per_second().is_none_or(|link| link > FASTEST_PACKER * self.share);
        if !self.measures() || self.busy < BUSY || hopeless {
            return Vec::new();
        }
        let untried = |packing: &Packing| {
            let packer = &self.packers[*packing as usize];
            *packing != self.current && (packer.text.seconds == 0.0 || packer.age >= STALE)
        };
        self.known.iter().copied().filter(untried).collect()
    }

    /// Takes note that a sample was packed, by this packer alone: when all links pack, each has its share of the cores.
    pub fn tried(&mut self, packing: Packing, text: usize, packed: usize, time: Duration) {
        let packer = &mut self.packers[packing as usize];
        *packer = Packer::default();
        packer.text.add(text, time.div_f64(self.share));
        packer.packed = packed as f64;
    }

    /// Chooses how the next text travels. A costlier packing is taken only for a link that all else waits for.
    pub fn choose(&mut self) -> Packing {
        if let Compress::Always(packing) = self.wanted {
            return if self.known.contains(&packing) { packing } else { Packing::Plain };
        }
        for packer in &mut self.packers {
            packer.age = packer.age.saturating_add(1);
        }
        let Some(link) = self.link.per_second() else { return self.current };
        let (best, rate) = self.best(link);
        let costlier_in_vain = best > self.current && self.busy < BUSY;
        if !costlier_in_vain && rate > GAIN * self.text_rate(self.current, link).unwrap_or(0.0) {
            self.current = best;
        }
        self.current
    }

    /// Chooses how the result comes back, over the same link; what is known of its rate is that of the way there.
    pub fn choose_for_results(&self) -> Packing {
        match (self.wanted, self.link.per_second()) {
            (Compress::Always(packing), _) if self.known.contains(&packing) => packing,
            (Compress::Auto, Some(link)) => match self.best(link) {
                (best, rate) if rate > GAIN * link => best,
                _ => Packing::Plain,
            },
            _ => Packing::Plain,
        }
    }

    /// Returns the packing that carries the most text over a link of that rate, and how much.
    fn best(&self, link: f64) -> (Packing, f64) {
        let rates = self.known.iter().filter_map(|&packing| Some((packing, self.text_rate(packing, link)?)));
        rates.fold((Packing::Plain, link), |best, other| if other.1 > best.1 { other } else { best })
    }

    /// Returns the text that a link of that rate carries in a second; `None` where nothing is known of the packer.
    fn text_rate(&self, packing: Packing, link: f64) -> Option<f64> {
        if packing == Packing::Plain {
            return Some(link);
        }
        let packer = &self.packers[packing as usize];
        let ratio = packer.text.bytes / packer.packed.max(1.0);
        (packer.text.seconds > 0.0).then(|| (packer.text.bytes / packer.text.seconds).min(link * ratio))
    }
}

impl Rate {
    /// Adds work, and returns by how much older work counts less.
    fn add(&mut self, bytes: usize, time: Duration) -> f64 {
        let keep = (-time.as_secs_f64() / HALF_LIFE).exp2();
        self.bytes = self.bytes * keep + bytes as f64;
        self.seconds = self.seconds * keep + time.as_secs_f64();
        keep
    }

    fn per_second(&self) -> Option<f64> {
        (self.bytes >= BELIEVED_BYTES && self.seconds > 0.0).then(|| self.bytes / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: usize = 4 << 20;

    /// A machine: what its link carries and, of each packing, the text that one core takes in and how small it gets.
    #[derive(Clone, Copy)]
    struct Machine {
        link: f64,
        lz4: (f64, f64),
        zstd: (f64, f64),
    }

    /// English text on the machine on which the program was first measured.
    const PROSE: Machine = Machine { link: 125e6, lz4: (450e6, 1.9), zstd: (380e6, 2.8) };

    impl Machine {
        fn pack(&self, packing: Packing, text: usize, share: f64) -> (usize, Duration) {
            let (rate, ratio) = match packing {
                Packing::Plain => (f64::INFINITY, 1.0),
                Packing::Lz4 => self.lz4,
                Packing::Zstd => self.zstd,
            };
            ((text as f64 / ratio) as usize, Duration::from_secs_f64(text as f64 / (rate * share)))
        }

        /// Has `n` splits sent, each choice as the client makes it; returns the choices.
        fn send(&self, chooser: &mut Chooser, n: usize, waits: bool, share: f64) -> Vec<Packing> {
            (0..n).map(|_| self.send_one(chooser, waits, share)).collect()
        }

        fn send_one(&self, chooser: &mut Chooser, waits: bool, share: f64) -> Packing {
            for packing in chooser.untried() {
                let (packed, time) = self.pack(packing, SPLIT / 32, 1.0);
                chooser.tried(packing, SPLIT / 32, packed, time);
            }
            let packing = chooser.choose();
            let (packed, time) = self.pack(packing, SPLIT, share);
            if packing != Packing::Plain {
                chooser.packed(packing, SPLIT, packed, time);
            }
            let time = Duration::from_secs_f64(packed as f64 / self.link);
            // A worker that does not wait for its link takes three times as long to map.
            chooser.idled(if waits { Duration::ZERO } else { time * 3 });
            chooser.wrote(packed, time);
            packing
        }
    }

    fn auto(links: usize, cores: usize) -> Chooser {
        Chooser::new(Compress::Auto, &Packing::ALL, links, cores)
    }

    #[test]
    fn a_fast_link_carries_plain_text_and_nothing_is_tried() {
        let loopback = Machine { link: 1.6e9, ..PROSE };
        let mut chooser = auto(1, 2);
        assert!(loopback.send(&mut chooser, 50, true, 1.0).iter().all(|&packing| packing == Packing::Plain));
        assert!(chooser.packers.iter().all(|packer| packer.text.seconds == 0.0));
    }

    #[test]
    fn a_slow_link_carries_what_gives_the_highest_rate_of_text() {
        let last = |machine: Machine| machine.send(&mut auto(1, 2), 40, true, 1.0)[39];
        assert_eq!(last(PROSE), Packing::Zstd, "350 MB/s against 237");
        assert_eq!(last(Machine { link: 10e6, ..PROSE }), Packing::Zstd);
        assert_eq!(last(Machine { link: 240e6, ..PROSE }), Packing::Lz4, "450 MB/s against 380");
        assert_eq!(last(Machine { link: 420e6, ..PROSE }), Packing::Plain, "450 MB/s is not worth it");
        let noise = Machine { lz4: (2e9, 1.0), zstd: (900e6, 1.0), ..PROSE };
        assert_eq!(last(noise), Packing::Plain, "what cannot be packed");
        let weak = Machine { lz4: (90e6, 1.9), zstd: (40e6, 2.8), ..PROSE };
        assert_eq!(last(weak), Packing::Plain, "a slow core");
    }

    #[test]
    fn what_goes_first_goes_plain_for_nothing_is_known_of_the_link() {
        let chosen = PROSE.send(&mut auto(1, 2), 20, true, 1.0);
        let plain = chosen.iter().take_while(|&&packing| packing == Packing::Plain).count();
        assert!((1..=8).contains(&plain), "a fifth of a second: {chosen:?}");
        assert!(chosen[plain..].iter().all(|&packing| packing == Packing::Zstd), "{chosen:?}");
        let slow = Machine { link: 12e6, ..PROSE };
        assert_eq!(slow.send(&mut auto(1, 2), 2, true, 1.0), [Packing::Plain, Packing::Zstd]);
    }

    #[test]
    fn many_links_share_the_cores_and_the_network() {
        // 1 Gbit/s for eight workers: each link sees an eighth, and its packer a quarter of a core.
        let eighth = Machine { link: 125e6 / 8.0, ..PROSE };
        assert_eq!(eighth.send(&mut auto(8, 2), 10, true, 0.25)[9], Packing::Zstd);
        // 10 Gbit/s for 32 workers: a packer of 2 cores for all would make it slower.
        let part = Machine { link: 1250e6 / 32.0, ..PROSE };
        let chosen = part.send(&mut auto(32, 2), 100, true, 2.0 / 32.0);
        assert!(chosen.iter().all(|&packing| packing == Packing::Plain), "{chosen:?}");
    }

    #[test]
    fn a_worker_that_does_not_wait_gets_plain_text() {
        let mut chooser = auto(1, 2);
        let slow = Machine { link: 50e6, ..PROSE };
        assert!(slow.send(&mut chooser, 20, false, 1.0).iter().all(|&packing| packing == Packing::Plain));
        assert_eq!(slow.send(&mut chooser, 8, true, 1.0)[7], Packing::Zstd);
        assert_eq!(
            slow.send(&mut chooser, 4, false, 1.0)[3],
            Packing::Zstd,
            "it does not wait because of it"
        );
    }

    #[test]
    fn a_packer_that_others_slow_down_is_given_up_and_tried_again() {
        let mut chooser = auto(1, 2);
        assert_eq!(PROSE.send(&mut chooser, 20, true, 1.0)[19], Packing::Zstd);
        assert_eq!(PROSE.send(&mut chooser, 20, true, 0.1)[19], Packing::Plain);
        let again = PROSE.send(&mut chooser, 2 * STALE as usize, true, 1.0);
        assert_eq!(again.last(), Some(&Packing::Zstd));
    }

    #[test]
    fn a_link_that_becomes_fast_or_slow_is_noticed() {
        let mut chooser = auto(1, 2);
        let fast = Machine { link: 1.5e9, ..PROSE };
        assert_eq!(fast.send(&mut chooser, 100, true, 1.0)[99], Packing::Plain);
        assert_eq!(PROSE.send(&mut chooser, 60, true, 1.0)[59], Packing::Zstd);
        assert_eq!(fast.send(&mut chooser, 2000, true, 1.0)[1999], Packing::Plain);
    }

    #[test]
    fn what_is_always_wanted_is_always_chosen_unless_the_worker_does_not_know_it() {
        let mut always = Chooser::new(Compress::Always(Packing::Zstd), &Packing::ALL, 4, 2);
        assert_eq!((always.choose(), always.choose_for_results()), (Packing::Zstd, Packing::Zstd));
        assert!(!always.measures());
        let mut unknown = Chooser::new(Compress::Always(Packing::Zstd), &[Packing::Lz4], 4, 2);
        assert_eq!((unknown.choose(), unknown.choose_for_results()), (Packing::Plain, Packing::Plain));
        let mut some = Chooser::new(Compress::Auto, &[Packing::Lz4], 1, 2);
        assert_eq!(PROSE.send(&mut some, 20, true, 1.0)[19], Packing::Lz4);
        let mut none = Chooser::new(Compress::Auto, &[], 1, 2);
        assert_eq!(PROSE.send(&mut none, 20, true, 1.0)[19], Packing::Plain);
    }

    #[test]
    fn results_come_back_packed_where_the_link_is_slow() {
        let after = |machine: Machine| {
            let mut chooser = auto(1, 2);
            machine.send(&mut chooser, 20, true, 1.0);
            chooser.choose_for_results()
        };
        assert_eq!(after(PROSE), Packing::Zstd);
        assert_eq!(after(Machine { link: 1.6e9, ..PROSE }), Packing::Plain);
        assert_eq!(auto(1, 2).choose_for_results(), Packing::Plain, "nothing is known of the link");
    }
}
