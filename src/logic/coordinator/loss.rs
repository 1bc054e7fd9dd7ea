//! Loss: workers that are out of the job: what they held is pending again, and a running epoch begins anew.
//!
//! Invariant: a lost worker is fenced: nothing that it says later is heard.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Command, Coordinator, Failure, Loss, Notice, Phase, Standing};
use crate::logic::ids::{Epoch, WorkerId};

/// Workers that may give up for the same reason before the job does: not the workers are to blame then.
const MOST_EQUAL_REASONS: usize = 3;

/// How long to wait for more complaints after the first: who is dead is complained of by all, or is noticed meanwhile.
const COMPLAINT_GRACE: Duration = Duration::from_secs(1);

/// A worker that has been silent for so long has missed a beat.
const MISSED_BEAT: Duration = Duration::from_secs(2);

/// Streams of the current epoch that broke though both ends live.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Who complains of whom.
    pairs: BTreeSet<(WorkerId, WorkerId)>,
    /// The first one's cause, and when it came.
    first: Option<(Duration, String)>,
}

impl Complaints {
    /// Returns how many workers have trouble with `worker`, or it with them.
    fn degree(&self, worker: WorkerId) -> usize {
        let others = self.pairs.iter().filter_map(|&(accuser, accused)| match worker {
            _ if worker == accuser => Some(accused),
            _ if worker == accused => Some(accuser),
            _ => None,
        });
        others.collect::<BTreeSet<_>>().len()
    }
}

impl Coordinator {
    /// Takes `worker` out of the job, and has what it held mapped by others.
    pub(super) fn lose(
        &mut self,
        worker: WorkerId,
        cause: String,
        accuser: Option<WorkerId>,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        let (phase, progress) = (self.phase, self.progress(worker));
        let stood = std::mem::replace(&mut progress.standing, Standing::Lost);
        if self.outcome.is_some() || stood == Standing::Lost {
            return;
        }
        commands.push(Command::End { worker });
        if stood == Standing::Spare {
            // It has nothing that could get lost.
            return;
        }
        let progress = self.progress(worker);
        let in_flight = std::mem::take(&mut progress.in_flight);
        let has_delivered = phase == Phase::Merge && progress.delivered;
        let is_missed = phase <= Phase::Map || (progress.member && !has_delivered);
        let before = self.ledger.n_pending();
        for held in in_flight.iter().filter(|held| !(held.discarded && held.provisional)) {
            self.ledger.give_up(held.split.id);
        }
        if is_missed {
            self.start_over(now, commands);
        }
        let survivors = self.survivors();
        let splits = (self.ledger.n_pending() - before) as u64;
        let loss = Loss { worker, phase, cause, accuser, splits, survivors };
        self.losses.push(loss.clone());
        commands.push(Command::Notice(Notice::Lost(loss.clone())));
        if is_missed && !self.join_spare(Some(worker), now, commands) && survivors == 0 {
            self.fail(Failure::NoWorkerLeft(loss), now, commands);
        }
    }

    fn survivors(&self) -> usize {
        self.standing(|standing| matches!(standing, Standing::Live | Standing::Starting)).len()
    }

    /// Goes back to the map phase, unless it has not ended: whatever lost workers had folded is to be mapped again,
    /// and what came of a later phase is void.
    fn start_over(&mut self, now: Duration, commands: &mut Vec<Command>) {
        for lost in self.standing(|standing| standing == Standing::Lost) {
            for split in self.ledger.folded_at(lost) {
                self.forget(split, lost);
            }
        }
        if self.phase == Phase::Merge {
            commands.push(Command::BreakOffMerge);
        }
        if self.phase > Phase::Map {
            self.enter(Phase::Map, now);
        }
        self.complaints = Complaints::default();
    }

    /// Has a spare take part, if there is one, in the place of a lost worker if that is why.
    pub(super) fn join_spare(
        &mut self,
        place: Option<WorkerId>,
        now: Duration,
        commands: &mut Vec<Command>,
    ) -> bool {
        let Some(worker) = self.standing(|standing| standing == Standing::Spare).first().copied() else {
            return false;
        };
        let progress = self.progress(worker);
        progress.standing = Standing::Starting;
        progress.last_heard = now;
        commands.push(Command::Begin { worker });
        commands.push(Command::Notice(Notice::Joined { worker, place }));
        true
    }

    /// Loses a worker that gives up. When several do for the same reason, the job fails before it has used up all.
    pub(super) fn gave_up(
        &mut self,
        worker: WorkerId,
        cause: String,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        // It may be what it has delivered that is wrong.
        self.progress(worker).delivered = false;
        self.lose(worker, cause.clone(), None, now, commands);
        let equal = self.losses.iter().filter(|loss| loss.cause == cause);
        if equal.count() >= MOST_EQUAL_REASONS
            && let Some(last) = self.losses.last()
        {
            self.fail(Failure::GaveUp(last.clone()), now, commands);
        }
    }

    /// Takes a complaint. The one that does not answer its peer is most likely to blame, but not certainly.
    pub(super) fn complain(
        &mut self,
        worker: WorkerId,
        epoch: Epoch,
        peer: WorkerId,
        cause: String,
        now: Duration,
        commands: &mut Vec<Command>,
    ) {
        if epoch != self.epoch || self.phase != Phase::Shuffle {
            return;
        }
        let is_member = self.workers.get(peer.index()).is_some_and(|progress| progress.member);
        if peer == worker || !is_member {
            return self.lose(worker, cause, None, now, commands);
        }
        self.complaints.pairs.insert((worker, peer));
        self.complaints.first.get_or_insert((now, cause));
    }

    /// Evicts the one with whom most have trouble, once all had the time to say so; of several, who has missed a beat,
    /// else who has mapped least.
    pub(super) fn settle_complaints(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let Some((since, cause)) = &self.complaints.first else { return };
        if self.outcome.is_some() || now.saturating_sub(*since) < COMPLAINT_GRACE {
            return;
        }
        let blame = |worker: &WorkerId| {
            let progress = &self.workers[worker.index()];
            let is_silent = now.saturating_sub(progress.last_heard) >= MISSED_BEAT;
            (self.complaints.degree(*worker), is_silent, std::cmp::Reverse(progress.bytes_mapped), worker.0)
        };
        let concerned = self.complaints.pairs.iter().flat_map(|&(accuser, accused)| [accuser, accused]);
        let Some(evicted) = concerned.max_by_key(blame) else { return };
        let accuser = self.complaints.pairs.iter().find_map(|&(accuser, accused)| match evicted {
            _ if evicted == accused => Some(accuser),
            _ if evicted == accuser => Some(accused),
            _ => None,
        });
        let cause = cause.clone();
        self.lose(evicted, cause, accuser, now, commands);
    }
}
