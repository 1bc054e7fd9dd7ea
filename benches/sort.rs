//! Bench of the sort: rows a second on one thread, from rows to their keys in order, by what keys look like.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use mapreduce::logic::partition::Seed;
use mapreduce::logic::rows::{Row, rows_of};
use mapreduce::logic::sort::{Borders, CHUNK_ROWS, Grouped, Plan, Sorter};
use mapreduce::logic::table::Table;

const SEED: Seed = Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

/// Rows of one run.
const N_ROWS: usize = 1_000_000;

/// Words as a language has them; names of a program, with long beginnings in common.
const KINDS: [&str; 2] = ["words", "names"];

fn main() {
    divan::main();
}

/// Makes a table of words, most of them rare, in an order that is not theirs.
fn table(kind: &str) -> Table<u64> {
    let mut table = Table::new(SEED);
    for number in 0..N_ROWS as u64 {
        let stirred = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let key = match kind {
            "words" => format!("{:x}", stirred >> (24 + stirred % 16)),
            _ => format!("mmDCORE{}_PHY_LANE_{}_REG_{:07}", stirred >> 62, stirred >> 60, stirred >> 41),
        };
        let count = 1 + N_ROWS as u64 / (1 + (stirred >> 32) % N_ROWS as u64);
        table.fold(key.as_bytes(), count, |into, other| *into += other);
    }
    table
}

fn rows(table: &Table<u64>) -> Vec<Row<u64>> {
    rows_of(0, table, |count| !count)
}

/// One row after the other compared by rank, front and key, for comparison.
#[divan::bench(args = KINDS)]
fn sort_by_comparing(bencher: Bencher, kind: &str) {
    let tables = [Arc::new(table(kind))];
    let mut text = Vec::new();
    bencher.counter(ItemsCount::new(tables[0].len())).with_inputs(|| rows(&tables[0])).bench_local_values(
        |mut rows| {
            rows.sort_unstable_by(|a, b| {
                let heads = (a.rank, a.front).cmp(&(b.rank, b.front));
                heads.then_with(|| a.key(&tables).cmp(b.key(&tables)))
            });
            text.clear();
            rows.iter().for_each(|row| text.extend_from_slice(row.key(&tables)));
            rows
        },
    );
}

#[divan::bench(args = KINDS)]
fn sort_by_ranges(bencher: Bencher, kind: &str) {
    let tables = [Arc::new(table(kind))];
    let mut text = Vec::new();
    bencher
        .counter(ItemsCount::new(tables[0].len()))
        .with_inputs(|| vec![rows(&tables[0])])
        .bench_local_values(|mut parts| {
            let borders = Borders::choose(&parts, &tables, Plan::new(N_ROWS, 2, None));
            let chunks = parts[0].chunks_mut(CHUNK_ROWS);
            let grouped: Vec<_> = chunks.map(|chunk| Grouped::group(chunk, &tables, &borders)).collect();
            let chunks: Vec<_> = parts[0].chunks(CHUNK_ROWS).collect();
            let mut sorter = Sorter::default();
            text.clear();
            for range in 0..borders.ranges() {
                let cells = grouped.iter().zip(&chunks).map(|(grouped, chunk)| grouped.rows(range, chunk));
                sorter.sort(cells, &tables, |entries| {
                    entries.iter().for_each(|(key, _)| text.extend_from_slice(key));
                });
            }
            parts
        });
}
