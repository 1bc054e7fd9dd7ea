//! Bench of the merge: entries a second, by the number of streams.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box_drop};
use mapreduce::logic::merge::{Streams, Stretch};

/// Entries of one run, in all streams together.
const N_ENTRIES: u64 = 500_000;

/// Entries of a stretch: about those of a batch.
const STRETCH_ENTRIES: usize = 10_000;

fn main() {
    divan::main();
}

/// Deals words to streams as a hash would. Most counts are small, as those of a text, so keys are often compared.
fn streams(n_streams: usize) -> Vec<Vec<Stretch<u64>>> {
    let word = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let mut all: Vec<(u64, String, usize)> = (0..N_ENTRIES)
        .map(|number| {
            (N_ENTRIES / (number + 1), format!("word{}", word(number)), word(number) as usize % n_streams)
        })
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut streams: Vec<Vec<Stretch<u64>>> = (0..n_streams).map(|_| Vec::new()).collect();
    for (count, key, stream) in all {
        let stretches = &mut streams[stream];
        if stretches.last().is_none_or(|last| last.len() == STRETCH_ENTRIES) {
            stretches.push(Stretch::new());
        }
        let last = stretches.last_mut().expect("one was pushed");
        last.push(!count, 0, key.as_bytes(), count).expect("words are in order");
    }
    streams
}

/// On one thread; the program merges parts on all.
#[divan::bench(args = [1, 2, 8, 32, 128, 1000])]
fn merge_streams(bencher: Bencher, n_streams: usize) {
    let arriving = || streams(n_streams).into_iter().map(Vec::into_iter).collect::<Vec<_>>();
    bencher.counter(ItemsCount::new(N_ENTRIES)).with_inputs(arriving).bench_local_values(|mut arriving| {
        let mut streams = Streams::new(n_streams);
        loop {
            while let Some(lacking) = streams.lacking() {
                streams.add(lacking, arriving[lacking].next());
            }
            let Some(part) = streams.cut() else { return };
            part.merged().for_each(black_box_drop);
        }
    });
}
