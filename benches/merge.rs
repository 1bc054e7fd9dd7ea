//! Bench of the merge: entries a second, by the number of streams.

use std::convert::Infallible;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box_drop};
use mapreduce::logic::merge::{Cursor, merge};

/// Entries of one run, in all streams together.
const N_ENTRIES: u64 = 500_000;

fn main() {
    divan::main();
}

/// A sorted stream in memory; its keys lie one after the other, as they do in frames.
#[derive(Clone, Default)]
struct Sorted {
    keys: Vec<u8>,
    /// Where each key ends, and its count.
    entries: Vec<(usize, u64)>,
}

impl Sorted {
    fn push(&mut self, key: &[u8], count: u64) {
        self.keys.extend_from_slice(key);
        self.entries.push((self.keys.len(), count));
    }
}

struct Reader<'s> {
    stream: &'s Sorted,
    at: usize,
    key_start: usize,
}

impl Cursor for Reader<'_> {
    type Value = u64;
    type Error = Infallible;

    fn head(&self) -> Option<(&[u8], &u64)> {
        let (key_end, count) = self.stream.entries.get(self.at)?;
        Some((&self.stream.keys[self.key_start..*key_end], count))
    }

    fn advance(&mut self) -> Result<(), Infallible> {
        self.key_start = self.stream.entries[self.at].0;
        self.at += 1;
        Ok(())
    }
}

/// Deals words to streams as a hash would. Most counts are small, as those of a text, so keys are often compared.
fn streams(n_streams: u64) -> Vec<Sorted> {
    let word = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let mut all: Vec<(u64, String, u64)> = (0..N_ENTRIES)
        .map(|number| (N_ENTRIES / (number + 1), format!("word{}", word(number)), word(number) % n_streams))
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut streams = vec![Sorted::default(); n_streams as usize];
    for (count, key, stream) in all {
        streams[stream as usize].push(key.as_bytes(), count);
    }
    streams
}

#[divan::bench(args = [1, 2, 8, 32, 128, 1000])]
fn merge_streams(bencher: Bencher, n_streams: u64) {
    let streams = streams(n_streams);
    bencher.counter(ItemsCount::new(N_ENTRIES)).bench_local(|| {
        let mut cursors: Vec<_> =
            streams.iter().map(|stream| Reader { stream, at: 0, key_start: 0 }).collect();
        let order = |a: (&[u8], &u64), b: (&[u8], &u64)| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0));
        merge(&mut cursors, order, |key, value| {
            black_box_drop((key, value));
            Ok(true)
        })
    });
}
