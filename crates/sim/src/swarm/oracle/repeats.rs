//! O13: events are processed again only if they have to be: no checkpoint of them was acknowledged before the term
//! looked where to start, and the term had a reason to start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Broken;
use crate::history::{Happening, Member, OPERATOR, Partition, Time};

/// An acknowledgement that is older than this was there when a read that is answered now was sent.
const READ_TIME: Time = 5_000;

#[derive(Debug, Default)]
pub(super) struct Repeats {
    ours: BTreeSet<Member>,
    /// Acknowledged checkpoints and when they were; the first is older than [`READ_TIME`].
    acked: BTreeMap<Partition, VecDeque<(Time, i64)>>,
    /// When a checkpoint was moved back or deleted by others.
    fell: BTreeMap<Partition, Time>,
    /// What the records say.
    stored: BTreeMap<Partition, i64>,
    /// What had been acknowledged when a member read where to start.
    read: BTreeMap<(Member, Partition), i64>,
    /// The same, of the term that runs.
    floor: BTreeMap<(Member, Partition), i64>,
    /// Members whose last term on a partition ended without any reason that the hub or the store could see.
    unexplained: BTreeSet<(Member, Partition)>,
    /// Partitions whose record an operator wrote last, in the owner's name: when the owner notices, it may take that for
    /// a namesake's doing and end its term, however late that is.
    touched: BTreeSet<Partition>,
    /// Whether what a processor reads, or is answered, may be wrong.
    is_foul: bool,
}

impl Repeats {
    pub(super) fn apply(&mut self, now: Time, happening: &Happening) -> Result<(), Broken> {
        match happening {
            Happening::CheckpointApplied { partition, seq, .. } => {
                self.stored.insert(*partition, *seq);
            }
            Happening::CheckpointDeleted { partition } => {
                self.stored.insert(*partition, -1);
            }
            _ => {}
        }
        match happening {
            Happening::Up {
                member,
                is_ours: true,
            } => {
                self.ours.insert(*member);
            }
            // What is acknowledged just after a checkpoint fell may have been written before.
            Happening::CheckpointAcked { partition, seq, .. }
                if self
                    .fell
                    .get(partition)
                    .is_none_or(|at| now - at >= READ_TIME) =>
            {
                // Whoever has not noticed the fall says that a checkpoint is as far already.
                let stored = self.stored.get(partition).copied().unwrap_or(-1);
                let seq = if self.fell.contains_key(partition) {
                    *seq.min(&stored)
                } else {
                    *seq
                };
                let acked = self.acked.entry(*partition).or_default();
                let best = acked.back().map_or(seq, |(_, best)| *best.max(&seq));
                acked.push_back((now, best));
            }
            Happening::CheckpointDeleted { partition } => self.forget(now, *partition, -1),
            Happening::CheckpointApplied {
                member,
                partition,
                before: Some(before),
                seq,
            } if before > seq && !self.ours.contains(member) => self.forget(now, *partition, *seq),
            Happening::CheckpointRead {
                member, partition, ..
            } => {
                let acked = self.acked.entry(*partition).or_default();
                let is_old = |(at, _): &(Time, i64)| now - at >= READ_TIME;
                while acked.get(1).is_some_and(is_old) {
                    acked.pop_front();
                }
                let floor = acked.front().filter(|entry| is_old(entry));
                let floor = floor.map_or(-1, |(_, seq)| *seq);
                self.read.insert((*member, *partition), floor);
            }
            Happening::TermStarted {
                member, partition, ..
            } => {
                let key = (*member, *partition);
                if self.unexplained.remove(&key) && !self.is_foul && self.ours.contains(member) {
                    let what = format!("{member} ended its term on {partition} and began another");
                    return Err(("O13 repeats", what));
                }
                let floor = self.read.get(&key).copied().unwrap_or(-1);
                self.floor.insert(key, floor);
                // Until something happens that ends terms.
                if !self.touched.contains(partition) {
                    self.unexplained.insert(key);
                }
            }
            // Whoever is told that a renewal was refused has to believe it.
            Happening::Asked {
                member,
                partition: Some(partition),
                purpose,
                is_refused: true,
                ..
            } if purpose.is_claim() => {
                self.unexplained.remove(&(*member, *partition));
            }
            // Somebody wrote in the owner's name.
            Happening::Renewed { by, partition } => {
                if *by == OPERATOR {
                    self.touched.insert(*partition);
                } else {
                    self.touched.remove(partition);
                }
                self.unexplained
                    .retain(|(member, of)| of != partition || member == by);
            }
            Happening::HandlerFailed {
                member, partition, ..
            } => {
                self.unexplained.remove(&(*member, *partition));
            }
            Happening::AttachFailed { partition, .. } => {
                self.unexplained.retain(|(_, of)| of != partition);
            }
            Happening::OwnerChanged { partition, .. } => {
                self.touched.remove(partition);
                self.unexplained.retain(|(_, of)| of != partition);
            }
            // Its own first receiver explains nothing about a term, but it displaces everybody else's.
            Happening::Attached {
                member, partition, ..
            } => {
                let own = (*member, *partition);
                let (_, of) = own;
                self.unexplained.retain(|term| term.1 != of || *term == own);
            }
            Happening::Weather { is_fair, .. } => {
                self.is_foul = !is_fair;
                self.unexplained.clear();
            }
            Happening::Down { member, .. } => {
                self.unexplained.retain(|(of, _)| of != member);
            }
            Happening::HandlerStarted {
                member,
                partition,
                seq,
                ..
            } => {
                let floor = self.floor.get(&(*member, *partition));
                if floor.is_some_and(|floor| seq <= floor) && self.ours.contains(member) {
                    let what = format!(
                        "{member} got {seq} of {partition}, though a checkpoint had been acknowledged"
                    );
                    return Err(("O13 repeats", what));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn forget(&mut self, now: Time, partition: Partition, seq: i64) {
        self.fell.insert(partition, now);
        for (_, acked) in self.acked.entry(partition).or_default() {
            *acked = seq.min(*acked);
        }
        for ((_, of), read) in &mut self.read {
            if *of == partition {
                *read = seq.min(*read);
            }
        }
        for ((_, of), floor) in &mut self.floor {
            if *of == partition {
                *floor = seq.min(*floor);
            }
        }
    }
}
