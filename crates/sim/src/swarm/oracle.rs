//! Checks a history, step by step, against what is promised. It believes the hub and the store, and of a processor
//! only when its handler was called.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Happening, Member, Partition, TermId, Time};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: &'static str,
    /// When, in milliseconds.
    pub at: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.rule, self.at, self.what)
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest time that a displaced term may go on starting handlers while all is well.
    pub(crate) overlap: Time,
    pub(crate) shutdown_timeout: Time,
}

/// On top of the shutdown timeout: a cycle that may finish its writes, and closing.
const STOP_SLACK: Time = 2_500;

#[derive(Debug, Default)]
struct Log {
    appended: i64,
    /// Everything up to here has been processed.
    done: i64,
    done_ahead: BTreeSet<i64>,
    owner: Option<Member>,
    /// Who gave it back, if nobody has claimed it since.
    released_by: Option<Member>,
    last_attached: Option<(Member, Time)>,
    /// Everybody who ever owned it, and since when they do not.
    owners: BTreeMap<Member, Option<Time>>,
}

#[derive(Debug)]
struct Term {
    member: Member,
    partition: Partition,
    /// The last event of which the handler was told, or the place where the term starts.
    last: i64,
}

#[derive(Debug, Default)]
struct Life {
    is_ours: bool,
    is_down: bool,
    is_paused: bool,
    /// When it was paused last, or resumed.
    last_pause: Option<Time>,
    stopping: Option<Time>,
}

/// The state that the history must fit.
#[derive(Debug)]
pub(crate) struct Oracle {
    bounds: Bounds,
    read: usize,
    logs: BTreeMap<Partition, Log>,
    terms: BTreeMap<TermId, Term>,
    current: BTreeMap<(Member, Partition), TermId>,
    calls: BTreeMap<(Member, Partition), i64>,
    reads: BTreeMap<(Member, Partition), i64>,
    lives: BTreeMap<Member, Life>,
    /// Whether nothing is wrong and nothing may move.
    is_calm: bool,
    /// Whether the way to the store is bad for somebody.
    is_foul: bool,
    /// When it last was: load balancing may be behind for a while after that.
    foul_at: Option<Time>,
    /// Handler calls for events that had been processed before.
    pub(crate) duplicates: u64,
    pub(crate) calls_made: u64,
    pub(crate) moves: u64,
    /// Longest time that a displaced term went on, disturbed or not.
    pub(crate) longest_overlap: Time,
}

impl Oracle {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            read: 0,
            logs: BTreeMap::new(),
            terms: BTreeMap::new(),
            current: BTreeMap::new(),
            calls: BTreeMap::new(),
            reads: BTreeMap::new(),
            lives: BTreeMap::new(),
            is_calm: false,
            is_foul: false,
            foul_at: None,
            duplicates: 0,
            calls_made: 0,
            moves: 0,
            longest_overlap: 0,
        }
    }

    /// Reads on; the first broken promise ends it.
    pub(crate) fn advance(&mut self, records: &[(Time, Happening)]) -> Result<(), Violation> {
        for (now, happening) in &records[self.read..] {
            self.apply(*now, happening)
                .map_err(|(rule, what)| Violation {
                    rule,
                    at: *now,
                    what,
                })?;
        }
        self.read = records.len();
        Ok(())
    }

    /// Partitions whose events are not all processed.
    pub(crate) fn behind(&self) -> Vec<Partition> {
        let logs = self.logs.iter();
        logs.filter(|(_, log)| log.done + 1 < log.appended)
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// The newest event of each partition.
    pub(crate) fn newest(&self) -> BTreeMap<Partition, i64> {
        let logs = self.logs.iter();
        logs.map(|(partition, log)| (*partition, log.appended - 1))
            .collect()
    }

    fn apply(&mut self, now: Time, happening: &Happening) -> Result<(), (&'static str, String)> {
        match happening {
            Happening::Appended { partition, seq } => {
                let log = self.logs.entry(*partition).or_insert_with(empty_log);
                log.appended = seq + 1;
            }
            Happening::Attached {
                member,
                partition,
                after,
                ..
            } => return self.attached(now, *member, *partition, *after),
            Happening::CheckpointRead {
                member,
                partition,
                seq,
            } => {
                self.reads.insert((*member, *partition), seq.unwrap_or(-1));
            }
            Happening::CheckpointApplied {
                member,
                partition,
                before,
                seq,
            } => return self.checkpointed(*member, *partition, *before, *seq),
            Happening::OwnerChanged {
                by,
                partition,
                from,
                to,
                ..
            } => return self.owner_changed(now, *by, *partition, *from, *to),
            Happening::Misjudged {
                member,
                partition,
                why,
            } => return Err(("B2-B4", format!("{member} plans for {partition}: {why}"))),
            Happening::TermStarted {
                member,
                partition,
                term,
            } => self.term_started(*member, *partition, *term),
            Happening::TermEnded {
                member, partition, ..
            } => {
                self.current.remove(&(*member, *partition));
            }
            Happening::HandlerStarted {
                member,
                partition,
                term,
                seq,
            } => return self.handler_started(now, *member, *partition, *term, *seq),
            Happening::HandlerDone {
                member,
                partition,
                seq,
                ..
            } => {
                self.calls.remove(&(*member, *partition));
                let log = self.logs.entry(*partition).or_insert_with(empty_log);
                log.done_ahead.insert(*seq);
                while log.done_ahead.remove(&(log.done + 1)) {
                    log.done += 1;
                }
                log.done_ahead = log.done_ahead.split_off(&log.done);
            }
            Happening::HandlerFailed {
                member, partition, ..
            } => {
                self.calls.remove(&(*member, *partition));
            }
            Happening::Corrupted { partition, seq } => {
                return Err(("O11 content", format!("event {seq} of {partition}")));
            }
            Happening::Accepted {
                member,
                partition,
                what,
            } => return Err(("G4 refusal", format!("{member} on {partition}: {what}"))),
            Happening::Up { member, is_ours } => {
                let life = self.lives.entry(*member).or_default();
                life.is_ours = *is_ours;
            }
            Happening::Stopping { member } => {
                self.lives.entry(*member).or_default().stopping = Some(now);
            }
            Happening::Down { member, by_crash } => return self.down(now, *member, *by_crash),
            Happening::Paused { member } => {
                let life = self.lives.entry(*member).or_default();
                (life.is_paused, life.last_pause) = (true, Some(now));
            }
            Happening::Resumed { member } => {
                let life = self.lives.entry(*member).or_default();
                (life.is_paused, life.last_pause) = (false, Some(now));
            }
            Happening::Phase { name } => {
                self.is_calm = *name == "calm" || *name == "drain";
            }
            Happening::Weather { is_fair } => {
                if self.is_foul || !is_fair {
                    self.foul_at = Some(now);
                }
                self.is_foul = !is_fair;
            }
            Happening::Detached { .. } | Happening::Fault { .. } => {}
        }
        Ok(())
    }

    /// Whether somebody may not know yet what the records say.
    fn is_disturbed(&self, now: Time) -> bool {
        let was_foul = self
            .foul_at
            .is_some_and(|at| now - at < self.bounds.overlap);
        self.is_foul || was_foul
    }

    /// O4: a term starts at its checkpoint and goes on where it was.
    fn attached(
        &mut self,
        now: Time,
        member: Member,
        partition: Partition,
        after: i64,
    ) -> Result<(), (&'static str, String)> {
        let is_disturbed = self.is_disturbed(now);
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        log.last_attached = Some((member, now));
        let is_ours = self.lives.get(&member).is_some_and(|life| life.is_ours);
        if !is_ours {
            // A model reads its checkpoint out of sight; a term of it is a link.
            self.reads.insert((member, partition), after);
            return Ok(());
        }
        match log.owners.get(&member) {
            None => {
                let what = format!("{member} attached to {partition} without ever owning it");
                return Err(("G5 owner reads", what));
            }
            Some(Some(lost)) if now - lost > self.bounds.overlap && !is_disturbed => {
                let what = format!("{member} attached to {partition}, lost at {lost}");
                return Err(("G5 owner reads", what));
            }
            Some(_) => {}
        }
        let term = self.current.get(&(member, partition));
        let Some(term) = term.and_then(|term| self.terms.get(term)) else {
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
        Ok(())
    }

    /// O1: a checkpoint covers processed events only. O2: ours never falls.
    fn checkpointed(
        &mut self,
        member: Member,
        partition: Partition,
        before: Option<i64>,
        seq: i64,
    ) -> Result<(), (&'static str, String)> {
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        if seq > log.done {
            let what = format!(
                "{member} checkpointed {seq} of {partition}, processed up to {}",
                log.done
            );
            return Err(("O1 at least once", what));
        }
        let is_ours = self.lives.get(&member).is_some_and(|life| life.is_ours);
        if is_ours && before.is_some_and(|before| before > seq) {
            let what = format!("{member} moved {partition} from {before:?} back to {seq}");
            return Err(("O2 monotone", what));
        }
        Ok(())
    }

    fn owner_changed(
        &mut self,
        now: Time,
        by: Member,
        partition: Partition,
        from: Option<Member>,
        to: Option<Member>,
    ) -> Result<(), (&'static str, String)> {
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        if let Some(from) = from {
            log.owners.insert(from, Some(now));
        }
        if let Some(to) = to {
            log.owners.insert(to, None);
        }
        log.owner = to;
        log.released_by = to.is_none().then_some(by);
        let is_alive = |member: Option<Member>| {
            let life = member.and_then(|member| self.lives.get(&member));
            life.is_some_and(|life| !life.is_down)
        };
        self.moves += u64::from(is_alive(from) && to.is_some());
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

    fn term_started(&mut self, member: Member, partition: Partition, term: TermId) {
        let last = self.reads.get(&(member, partition)).copied().unwrap_or(-1);
        let entry = Term {
            member,
            partition,
            last,
        };
        self.terms.insert(term, entry);
        self.current.insert((member, partition), term);
    }

    /// O3: in a term, every event once and in order. O5: no two at once for long. O9: none after the end.
    fn handler_started(
        &mut self,
        now: Time,
        member: Member,
        partition: Partition,
        term: TermId,
        seq: i64,
    ) -> Result<(), (&'static str, String)> {
        self.calls_made += 1;
        let is_disturbed = self.is_disturbed(now);
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        self.duplicates += u64::from(seq <= log.done);
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
        let life = self.lives.entry(member).or_default();
        if life.is_down {
            let what = format!("{member} got {seq} of {partition} after its end");
            return Err(("O9 end", what));
        }
        if log.released_by == Some(member) && life.is_ours {
            let what = format!("{member} got {seq} of {partition} after giving it back");
            return Err(("O9 end", what));
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

    /// O9: a stop takes no longer than it may.
    fn down(
        &mut self,
        now: Time,
        member: Member,
        by_crash: bool,
    ) -> Result<(), (&'static str, String)> {
        let is_disturbed = self.is_disturbed(now);
        let life = self.lives.entry(member).or_default();
        life.is_down = true;
        self.calls.retain(|(caller, _), _| *caller != member);
        self.current.retain(|(reader, _), _| *reader != member);
        let owns = |log: &Log| log.owner == Some(member);
        let left = self.logs.iter().find(|(_, log)| owns(log));
        if let Some((partition, _)) = left
            && life.is_ours
            && !by_crash
            && !is_disturbed
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

fn empty_log() -> Log {
    Log {
        done: -1,
        ..Log::default()
    }
}
