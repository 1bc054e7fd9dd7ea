//! Merging: the results of an epoch's workers, in order, into an output that an earlier merge may have begun.

use std::collections::{BTreeMap, VecDeque};

use mapreduce::logic::coordinator::Event;
use mapreduce::logic::ids::{Epoch, WorkerId};

use super::Client;
use crate::sim::check::Violation;
use crate::sim::mutants::Mutant;
use crate::sim::plan::MILLISECOND;
use crate::sim::text::{Entry, render};
use crate::sim::worker::Order;
use crate::sim::world::{Happening, World};

/// Batches of a result that a worker may be ahead of the merge.
const CREDIT_BATCHES: u32 = 4;

/// A merge of one epoch's results.
pub struct Merge {
    epoch: Epoch,
    streams: BTreeMap<WorkerId, Arriving>,
    /// How much of the output it has made.
    made: usize,
    written: bool,
}

#[derive(Default)]
pub(super) struct Arriving {
    pub(super) batches: VecDeque<VecDeque<Entry>>,
    pub(super) ended: bool,
}

impl World {
    /// Returns the stream of a worker's result, if results of the epoch are wanted.
    pub(super) fn arriving(&mut self, worker: WorkerId, epoch: Epoch) -> Option<&mut Arriving> {
        let takes_any = self.mutant == Some(Mutant::MergesOldResults);
        let merge = self.merge()?;
        if merge.epoch != epoch && !takes_any {
            return None;
        }
        merge.streams.get_mut(&worker).filter(|stream| !stream.ended)
    }

    pub(super) fn start_merge(&mut self, epoch: Epoch) {
        if self.mutant == Some(Mutant::MergesOldResults)
            && let Some(merge) = &mut self.client.merge
        {
            // Of the workers that are still there.
            merge.epoch = epoch;
        } else if self.client.merge.is_some() {
            self.violate(Violation::Protocol("a merge began within another".to_owned()));
        }
        let members = self.client.brain.coordinator().members();
        let streams = members.iter().map(|worker| (*worker, Arriving::default())).collect();
        self.client.merge.get_or_insert(Merge { epoch, streams, made: 0, written: false });
        for worker in members {
            self.send_order(worker, Order::Fetch { epoch, credit: CREDIT_BATCHES });
        }
    }

    /// Merges as far as something of every stream is there.
    pub(super) fn go_on_merging(&mut self) {
        let Client { merge, output, .. } = &mut self.client;
        let Some(merge) = merge.as_mut().filter(|merge| !merge.written) else { return };
        let (mut credits, mut is_same) = (Vec::new(), true);
        let epoch = merge.epoch;
        let has_all = loop {
            let open = |stream: &&mut Arriving| !stream.ended || !stream.batches.is_empty();
            if merge.streams.values_mut().filter(open).any(|stream| stream.batches.is_empty()) {
                break false;
            }
            let first = |stream: &Arriving| {
                let (word, count) = stream.batches.front()?.front()?;
                Some((!count, word.clone()))
            };
            let heads = merge.streams.iter().filter_map(|(worker, stream)| Some((first(stream)?, *worker)));
            let Some(((rank, word), worker)) = heads.min() else { break true };
            if let Some(stream) = merge.streams.get_mut(&worker)
                && let Some(batch) = stream.batches.front_mut()
            {
                batch.pop_front();
                if batch.is_empty() {
                    stream.batches.pop_front();
                    credits.push(worker);
                }
            }
            let mut line = Vec::new();
            render(&word, !rank, &mut line);
            // What an earlier merge has written is not written again: it must be the same.
            match output.get(merge.made..merge.made + line.len()) {
                Some(before) => is_same &= before == line,
                None if merge.made == output.len() => output.extend_from_slice(&line),
                None => is_same = false,
            }
            merge.made += line.len();
        };
        merge.written = has_all;
        for worker in credits {
            self.send_order(worker, Order::Credit { epoch, batches: 1 });
        }
        if !is_same {
            self.violate(Violation::Result("a merge that began anew wrote something else".to_owned()));
        }
        if has_all {
            let delay = self.random.below(300 * MILLISECOND);
            self.after(delay, Happening::Written(epoch));
        }
    }

    pub fn written(&mut self, epoch: Epoch) {
        self.tell(Event::Merged { epoch });
    }
}
