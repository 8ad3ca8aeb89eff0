//! O9 and O10: who owns what, and who leaves.

use super::{Broken, Log, Oracle, empty_log};
use crate::history::{Member, Partition, Time};
use crate::marks::Mark;

/// On top of the shutdown timeout: a cycle that may finish its writes, and closing.
const STOP_SLACK: Time = 2_500;

impl Oracle {
    pub(super) fn owner_changed(
        &mut self,
        now: Time,
        by: Member,
        partition: Partition,
        from: Option<Member>,
        to: Option<Member>,
    ) -> Result<(), Broken> {
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        if let Some(from) = from {
            log.owners.insert(from, Some(now));
        }
        if let Some(to) = to {
            log.owners.insert(to, None);
        }
        let log_was_released = log.released_by.is_some();
        log.owner = to;
        log.is_touched = false;
        log.told_by = None;
        log.released_by = to.is_none().then_some(by);
        let is_alive = |member: Option<Member>| {
            let life = member.and_then(|member| self.lives.get(&member));
            life.is_some_and(|life| !life.is_down)
        };
        self.moves += u64::from(is_alive(from) && to.is_some());
        let is_ours = |member: Option<Member>| {
            let life = member.and_then(|member| self.lives.get(&member));
            life.is_some_and(|life| life.is_ours)
        };
        log.untold_since = (is_alive(from) && is_ours(from) && is_ours(to)).then_some(now);
        let had_call = from.is_some_and(|from| self.calls.contains_key(&(from, partition)));
        if let Some(mark) = self.mark_of(by, from, to, log_was_released) {
            self.marks.reach(mark);
        }
        if to.is_some() && had_call && is_alive(from) {
            self.marks.reach(Mark::StolenWhileHandlerRan);
        }
        if to.is_some() {
            let changes = {
                let log = self.logs.entry(partition).or_insert_with(empty_log);
                log.changes += u32::from(self.is_healing);
                log.changes
            };
            self.most_changes = self.most_changes.max(changes);
        }
        if self.is_calm {
            let what = format!("{partition} went from {from:?} to {to:?} by {by}");
            return Err(("O10 calm", what));
        }
        let stopping = self.lives.get(&by).and_then(|life| life.stopping);
        let is_in_time =
            stopping.is_some_and(|stopping| now - stopping < self.bounds.shutdown_timeout);
        if to.is_none() && is_in_time && self.calls.contains_key(&(by, partition)) {
            let what = format!("{by} gave {partition} back while its handler ran");
            return Err(("G8 order of a stop", what));
        }
        Ok(())
    }

    fn mark_of(
        &self,
        by: Member,
        from: Option<Member>,
        to: Option<Member>,
        was_released: bool,
    ) -> Option<Mark> {
        let by_ours = self.lives.get(&by).is_some_and(|life| life.is_ours);
        let Some(to) = to else {
            return by_ours.then_some(Mark::GivenBack);
        };
        let Some(from) = from else {
            return (by_ours && was_released).then_some(Mark::ClaimedReleased);
        };
        let (from, to) = (self.lives.get(&from)?, self.lives.get(&to)?);
        Some(match (from.is_ours, to.is_ours) {
            (true, true) if from.is_down => Mark::ClaimedFromDeadKin,
            (true, true) if from.is_paused => Mark::StolenFromPaused,
            (true, true) => Mark::StolenFromKin,
            (false, true) if from.is_down => Mark::ClaimedFromDeadPeer,
            (false, true) => Mark::StolenFromPeer,
            (true, false) if !from.is_down => Mark::StolenByPeer,
            _ => return None,
        })
    }

    /// O9: a stop takes no longer than it may.
    pub(super) fn down(&mut self, now: Time, member: Member, by_crash: bool) -> Result<(), Broken> {
        let is_disturbed = self.is_disturbed(now);
        let was_hub_foul = self.is_hub_foul
            || self
                .hub_foul_at
                .is_some_and(|at| now - at < self.bounds.overlap);
        if by_crash && self.has_call(member) {
            self.marks.reach(Mark::CrashWhileHandlerRan);
        }
        let life = self.lives.entry(member).or_default();
        life.is_down = true;
        self.calls.retain(|(caller, _), _| *caller != member);
        self.current.retain(|(reader, _), _| *reader != member);
        // What somebody else has written in its name, a processor may take for a namesake's, which it has to spare.
        let owns = |log: &Log| log.owner == Some(member) && !log.is_touched;
        let left = self.logs.iter().find(|(_, log)| owns(log));
        if let Some((partition, _)) = left
            && life.is_ours
            && !by_crash
            && !is_disturbed
            && !was_hub_foul
        {
            let what = format!("{member} ended without giving {partition} back");
            return Err(("G6 hand over", what));
        }
        if let (Some(stopping), false) = (life.stopping, by_crash) {
            let was_paused = life.is_paused || life.last_pause.is_some_and(|at| at >= stopping);
            let took = now - stopping;
            if took > self.bounds.shutdown_timeout + STOP_SLACK && !was_paused {
                return Err(("O9 end", format!("{member} took {took} ms to stop")));
            }
        }
        Ok(())
    }
}
