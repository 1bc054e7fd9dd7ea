//! Bench of the table: folds a second, with their hashes, by the size of the vocabulary.

use divan::Bencher;
use divan::counter::ItemsCount;
use mapreduce::Emit;
use mapreduce::logic::partition::{KeyHash, Seed};
use mapreduce::logic::table::{Folder, Table};

const SEED: Seed = Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

/// Folds of one run.
const N_WORDS: usize = 2_000_000;

/// Distinct words: within the second cache, within the third, and beyond.
const VOCABULARIES: [usize; 3] = [1_000, 50_000, 1_000_000];

fn main() {
    divan::main();
}

/// Returns words as a text has them: word `n` of the vocabulary about `n` times rarer than the first (Zipf's law),
/// in random order, one after the other in memory.
struct Words {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Words {
    fn new(n_distinct: usize) -> Self {
        let mut words = Self { text: Vec::new(), ends: Vec::new() };
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..N_WORDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let share = (random >> 11) as f64 / (1u64 << 53) as f64;
            let rank = (n_distinct as f64).powf(share) as usize;
            // Digits of base 26: the frequent ones are short, as in a language.
            let mut rest = rank * 7;
            while rest > 0 {
                words.text.push(b'a' + (rest % 26) as u8);
                rest /= 26;
            }
            words.ends.push(words.text.len());
        }
        words
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(&start, &end)| &self.text[start..end])
    }

    fn count(&self) -> Table<u64> {
        let mut table = Table::new(SEED);
        for word in self.iter() {
            table.fold(word, 1, |into, other| *into += other);
        }
        table
    }

    /// Counts as a map task does, which emits the words of a text by the batch.
    fn count_spans(&self) -> Table<u64> {
        let mut folder = Folder::new(SEED);
        let starts = std::iter::once(&0).chain(&self.ends);
        let spans: Vec<[u32; 2]> =
            starts.zip(&self.ends).map(|(&start, &end)| [start as u32, end as u32]).collect();
        let mut batch = folder.batch(|into, other| *into += other);
        spans.chunks(1024).for_each(|spans| batch.spans(&self.text, spans, 1));
        batch.finish();
        folder.finish(|into, other| *into += other)
    }
}

#[divan::bench]
fn hash_alone(bencher: Bencher) {
    let words = Words::new(50_000);
    bencher
        .counter(ItemsCount::new(N_WORDS))
        .bench_local(|| words.iter().fold(0, |all, word| all ^ SEED.of_bytes(word)));
}

#[divan::bench(args = VOCABULARIES)]
fn fold_into_a_new_table(bencher: Bencher, n_distinct: usize) {
    let words = Words::new(n_distinct);
    bencher.counter(ItemsCount::new(N_WORDS)).bench_local(|| words.count());
}

#[divan::bench(args = VOCABULARIES)]
fn fold_spans_into_a_new_table(bencher: Bencher, n_distinct: usize) {
    let words = Words::new(n_distinct);
    bencher.counter(ItemsCount::new(N_WORDS)).bench_local(|| words.count_spans());
}

#[divan::bench(args = VOCABULARIES)]
fn group_by_partition(bencher: Bencher, n_distinct: usize) {
    let table = Words::new(n_distinct).count();
    bencher.counter(ItemsCount::new(table.len())).bench_local(|| table.by_partition(32));
}
