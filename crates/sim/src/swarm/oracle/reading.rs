//! O1 to O5: terms, handlers and checkpoints.

use super::{Broken, Oracle, Term, empty_log};
use crate::history::{Member, OPERATOR, Partition, TermId, Time};
use crate::marks::Mark;

impl Oracle {
    /// O4: a term starts at its checkpoint and goes on where it was.
    pub(super) fn attached(
        &mut self,
        now: Time,
        member: Member,
        partition: Partition,
        after: i64,
    ) -> Result<(), Broken> {
        let is_disturbed = self.is_disturbed(now);
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        log.last_attached = Some((member, now));
        let is_ours = self.lives.get(&member).is_some_and(|life| life.is_ours);
        if !is_ours {
            // A model reads its checkpoint out of sight; a term of it is a link.
            self.reads.insert((member, partition), after);
            if member == OPERATOR {
                self.marks.reach(Mark::OutsiderDisplacedUs);
            }
            return Ok(());
        }
        let patience = self.bounds.suspect / 2;
        if let Some(since) = log.untold_since.take()
            && now - since >= patience
            && log.owner == Some(member)
        {
            self.marks.reach(Mark::HeirWaitedOut);
        }
        if log.is_added {
            self.marks.reach(Mark::NewPartitionRead);
        }
        // A pause stops what a processor says, not its timers: one whose look at the records got no answer may have asked in
        // its pause, as in life one can be stopped just before it sends. What it could know when it asked is what counts.
        let asked = self.held_up.remove(&(member, partition));
        match log.owners.get(&member) {
            None => {
                let what = format!("{member} attached to {partition} without ever owning it");
                return Err(("G5 owner reads", what));
            }
            Some(Some(lost))
                if now - lost > self.bounds.overlap
                    && !is_disturbed
                    && asked.is_none_or(|asked| asked > *lost) =>
            {
                let what = format!("{member} attached to {partition}, lost at {lost}");
                return Err(("G5 owner reads", what));
            }
            Some(_) => {}
        }
        // Asked for by somebody who crashed before the answer.
        if self.lives.get(&member).is_some_and(|life| life.is_down) {
            return Ok(());
        }
        let term = self.current.get(&(member, partition));
        let Some(term) = term.and_then(|term| self.terms.get_mut(term)) else {
            let what = format!("{member} attached to {partition} outside of a term");
            return Err(("O4 start", what));
        };
        if after != term.last {
            let what = format!(
                "{member} attached to {partition} after {after}, not after {}",
                term.last
            );
            return Err(("O4 start", what));
        }
        term.attaches += 1;
        if term.attaches > 1 {
            self.marks.reach(Mark::AttachAgainInTerm);
        }
        Ok(())
    }

    /// O1: a checkpoint covers processed events only. O2: ours never falls.
    pub(super) fn checkpointed(
        &mut self,
        member: Member,
        partition: Partition,
        before: Option<i64>,
        seq: i64,
    ) -> Result<(), Broken> {
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        if seq > log.done {
            let what = format!(
                "{member} checkpointed {seq} of {partition}, processed up to {}",
                log.done
            );
            return Err(("O1 at least once", what));
        }
        let is_ours = self.lives.get(&member).is_some_and(|life| life.is_ours);
        let fell_from = before.filter(|before| *before > seq);
        match (fell_from, is_ours) {
            (Some(before), true) => {
                self.regressions += 1;
                let what = format!("{member} moved {partition} from {before} back to {seq}");
                if !self.bounds.measures_only {
                    return Err(("O2 monotone", what));
                }
            }
            (Some(before), false) => {
                self.foreign_regressions += 1;
                log.moved_back = Some(before.max(log.moved_back.unwrap_or(before)));
                self.marks.reach(Mark::CheckpointMovedBackByPeer);
            }
            (None, true) if log.moved_back.is_some_and(|from| seq >= from) => {
                log.moved_back = None;
                self.marks.reach(Mark::CheckpointHealed);
            }
            (None, _) => {}
        }
        Ok(())
    }

    pub(super) fn term_started(&mut self, member: Member, partition: Partition, term: TermId) {
        let last = self.reads.get(&(member, partition)).copied().unwrap_or(-1);
        let entry = Term {
            member,
            partition,
            attaches: 0,
            last,
        };
        if self.failed.remove(&(member, partition)) {
            self.marks.reach(Mark::TermAfterFailure);
        }
        self.terms.insert(term, entry);
        self.current.insert((member, partition), term);
    }

    /// O3: in a term, every event once and in order. Then [`Self::call_started`], O5: no two at once for long, and O9:
    /// none after the end.
    pub(super) fn handler_started(
        &mut self,
        member: Member,
        partition: Partition,
        term: TermId,
        seq: i64,
    ) -> Result<(), Broken> {
        self.calls_made += 1;
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        let is_again = seq <= log.done;
        self.duplicates += u64::from(is_again);
        if is_again {
            self.marks.reach(Mark::Repeated);
        }
        if seq >= log.appended {
            return Err((
                "O11 content",
                format!("event {seq} of {partition} never was"),
            ));
        }
        let Some(term) = self.terms.get_mut(&term) else {
            return Err(("O3 order", format!("{member} has no term on {partition}")));
        };
        if (term.member, term.partition) != (member, partition) || seq != term.last + 1 {
            let what = format!(
                "{member} got {seq} of {partition} after {} (term of {} on {})",
                term.last, term.member, term.partition
            );
            return Err(("O3 order", what));
        }
        term.last = seq;
        self.calls.insert((member, partition), seq);
        Ok(())
    }

    /// The same, for calls: a batch in hand may be finished.
    pub(super) fn call_started(
        &mut self,
        now: Time,
        member: Member,
        partition: Partition,
        seq: i64,
    ) -> Result<(), Broken> {
        let is_disturbed = self.is_disturbed(now);
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        let life = self.lives.entry(member).or_default();
        // The tasks of a model that is killed run on to their next wait. Of ours nothing may.
        if life.is_down && life.is_ours {
            let what = format!("{member} got {seq} of {partition} after its end");
            return Err(("O9 end", what));
        }
        if log.released_by == Some(member) && life.is_ours {
            let what = format!("{member} got {seq} of {partition} after giving it back");
            return Err(("O9 end", what));
        }
        if log.told_by == Some(member) {
            let what = format!("{member} got {seq} of {partition} after telling its heir to begin");
            return Err(("O5 one reader", what));
        }
        if let Some((reader, since)) = log.last_attached
            && reader != member
            && life.is_ours
        {
            // A processor that is not scheduled can learn nothing.
            let overlap = now - since.max(life.last_pause.unwrap_or(0));
            self.longest_overlap = self.longest_overlap.max(overlap);
            if overlap > self.bounds.overlap && !is_disturbed {
                let what = format!(
                    "{member} got {seq} of {partition}, {overlap} ms after {reader} had attached"
                );
                return Err(("O5 one reader", what));
            }
        }
        Ok(())
    }
}
