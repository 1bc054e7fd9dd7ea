//! Text: what a run counts, how it is cut, and what the sequential fold gives.

use std::collections::BTreeMap;
use std::rc::Rc;

use mapreduce::job::Job;
use mapreduce::jobs::word_count::WordCount;
use mapreduce::logic::ids::SplitId;
use mapreduce::logic::partition::{KeyHash, Partition, Seed, partition_of};
use mapreduce::logic::split::{Split, next_cut};

use super::random::Random;

/// Words and how often each was seen.
pub type Counts = BTreeMap<Rc<[u8]>, u64>;

/// A word and how often it was seen.
pub type Entry = (Rc<[u8]>, u64);

const ALICE: &[u8] = include_bytes!("../../../examples/alice.txt");

/// What words are made of, where a text is made up: some take two bytes and more.
const SYLLABLES: [&str; 12] = ["a", "be", "ci", "dö", "élan", "f", "Gh", "ι", "日", "_", "9", "zzz"];

/// Makes a text of `words` words or so: a piece of a book, made-up words, or both.
pub fn make_text(random: &mut Random, words: u64) -> Vec<u8> {
    let mut text = Vec::new();
    if random.chance(70) {
        let length = (words * 6).min(ALICE.len() as u64 / 2);
        let start = random.below(ALICE.len() as u64 - length) as usize;
        text.extend_from_slice(&ALICE[start..start + length as usize]);
    }
    if text.is_empty() || random.chance(20) {
        for _ in 0..words {
            for _ in 0..random.between(1, 3) {
                // Few syllables are frequent, as few words are.
                let most = random.between(1, SYLLABLES.len() as u64);
                text.extend_from_slice(SYLLABLES[random.below(most) as usize].as_bytes());
            }
            text.push(if random.chance(10) { b'\n' } else { b' ' });
        }
    }
    text
}

/// Adds the words of `text` to `counts`.
pub fn fold(job: &WordCount, text: &[u8], counts: &mut Counts) -> u64 {
    let mut pairs = 0;
    let mut count = |word: &[u8], count: u64| {
        pairs += 1;
        add(counts, word, count);
    };
    job.map(text.into(), &mut count).expect("it cannot fail");
    pairs
}

/// Adds `count` of `word`.
fn add(counts: &mut Counts, word: &[u8], count: u64) {
    match counts.get_mut(word) {
        Some(sum) => *sum += count,
        None => drop(counts.insert(word.into(), count)),
    }
}

/// Adds all of `other`, whose words are not copied.
pub fn join<'c>(counts: &mut Counts, other: impl IntoIterator<Item = (&'c Rc<[u8]>, &'c u64)>) {
    for (word, count) in other {
        *counts.entry(word.clone()).or_default() += count;
    }
}

/// Deals words to `n` partitions; partitions without a word are left out.
pub fn by_partition(counts: &Counts, seed: Seed, n: u32) -> BTreeMap<Partition, Counts> {
    let mut parts: BTreeMap<Partition, Counts> = BTreeMap::new();
    for (word, count) in counts {
        let partition = partition_of(seed.of_bytes(word), n);
        parts.entry(partition).or_default().insert(word.clone(), *count);
    }
    parts
}

/// Puts words in the order of the result.
pub fn sorted(counts: Counts) -> Vec<Entry> {
    let mut entries: Vec<_> = counts.into_iter().collect();
    // They come in the order of their bytes, which is the second criterion.
    entries.sort_by_key(|(_, count)| !count);
    entries
}

/// Appends a line of the result.
pub fn render(word: &[u8], count: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(word);
    out.push(b'\t');
    out.extend_from_slice(count.to_string().as_bytes());
    out.push(b'\n');
}

/// Returns the result of some splits as one thread has it.
pub fn sequential(job: &WordCount, splits: &[&[u8]]) -> Vec<u8> {
    let mut counts = Counts::new();
    for text in splits {
        fold(job, text, &mut counts);
    }
    let mut out = Vec::new();
    for (word, count) in sorted(counts) {
        render(&word, count, &mut out);
    }
    out
}

/// Cuts the text as it is asked to. To the coordinator every byte counts as `scale` bytes, so that a small text is
/// cut and paced like a large one.
pub struct Cutter {
    pub scale: u64,
    at: usize,
    next: u64,
}

impl Cutter {
    pub fn new(scale: u64) -> Self {
        Self { scale, at: 0, next: 0 }
    }

    /// Returns the next split, of about `target_bytes`; `None` at the end.
    pub fn cut(&mut self, job: &WordCount, text: &[u8], target_bytes: u64) -> Option<Split> {
        let rest = &text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let target = (target_bytes / self.scale).max(1) as usize;
        let end = next_cut(job.cut(), rest, target).unwrap_or(rest.len());
        let (offset, length) = (self.at as u64 * self.scale, end as u64 * self.scale);
        let split = Split { id: SplitId(self.next), file: 0, offset, length };
        self.at += end;
        self.next += 1;
        Some(split)
    }
}

/// Returns the bytes of a split.
pub fn bytes_of<'t>(text: &'t [u8], split: &Split, scale: u64) -> &'t [u8] {
    &text[(split.offset / scale) as usize..((split.offset + split.length) / scale) as usize]
}
