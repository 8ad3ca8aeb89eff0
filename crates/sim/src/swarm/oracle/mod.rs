//! Checks a history, step by step, against what is promised. It believes the hub and the store, and of a processor
//! only when its handler was called.
//!
//! The promises about a whole run:
//!
//! | | promise | where |
//! |---|---|---|
//! | O1 | a checkpoint covers processed events only | [`Oracle::checkpointed`] |
//! | O2 | ours never replaces a later one | [`Oracle::checkpointed`] |
//! | O3 | a term starts handlers in order, without a gap | [`Oracle::handler_started`] |
//! | O4 | a term starts at the checkpoint it read | [`Oracle::attached`] |
//! | O5 | one reader, but for a bounded time, and none after telling an heir | [`Oracle::handler_started`] |
//! | O6 | a partition that lost its reader has another in bounded time | [`takeover`] |
//! | O7 | after the drain everything is processed and checkpointed | `run` |
//! | O8 | a pump holds a bounded number of events | [`buffers`] |
//! | O9 | a stop ends in time, and nothing runs after it | [`Oracle::down`], [`Oracle::handler_started`] |
//! | O10 | equal loads, then nothing moves | `run`, [`Oracle::owner_changed`] |
//! | O11 | an event has the content that was sent | `handler` |
//! | O12 | trouble is answered by few retries | [`storm`] |
//! | O13 | what was acknowledged as checkpointed is not processed again, and terms restart for a reason | [`repeats`] |
//!
//! The invariants of load balancing, by number:
//!
//! | | invariant | where |
//! |---|---|---|
//! | 1 | a handler starts with a proof of ownership only | [`proof`] |
//! | 2, 3, 4 | a claim follows from what was seen | `view_check`; the conditions also in `store/blobs` |
//! | 5 | checkpoints only grow | O2 |
//! | 6, 7, 8 | pure decisions; well-formed records | property tests and conformance suite of the library |
//! | 9 | coverage | O6 |
//! | 10 | balance | O10; its pace in `tests/scenarios.rs` |
//! | 11 | few moves | `tests/scenarios.rs` |
//! | 12 | no ping-pong | [`Oracle::owner_changed`] |
//! | 13 | a newcomer gets its share | O10 after a fault of the kind `Join`; pace in `tests/scenarios.rs` |
//! | 14, 15 | an outage or a slow store moves nothing | `tests/scenarios.rs` |
//! | 16 | storage operations | O12 under faults; steady state in `tests/scenarios.rs` |
//! | 17 | a stop ends in time | O9 |
//! | 18, 19 | mixed groups | runs with foreign models: coverage and all safety checks |
//! | 20 | added partitions are read | O6, O7 |

mod buffers;
mod proof;
mod repeats;
mod storm;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use self::buffers::Buffers;
use self::proof::Proofs;
use self::repeats::Repeats;
use self::storm::Storm;
use self::takeover::Takeover;
use crate::history::{Happening, Member, OPERATOR, Partition, TermId, Time};
use crate::marks::{Mark, Marks};

/// A promise and how it was broken.
type Broken = (&'static str, String);

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
    /// Silence after which ours take each other for dead.
    pub(crate) suspect: Time,
    /// Age after which ours take anybody else for dead.
    pub(crate) expiration: Time,
    /// Longest time without a reader while all is well.
    pub(crate) takeover: Time,
    /// How long a write may be on its way.
    pub(crate) late: Time,
    /// Whether a broken O2 is only counted.
    pub(crate) measures_only: bool,
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
    /// Owner changes since the faults are over.
    changes: u32,
    /// Whether it was added to a hub that was being read.
    is_added: bool,
    /// A foreign processor has moved the checkpoint back, from there.
    moved_back: Option<i64>,
    /// When its owner took it from a live one of ours, unless that one has told him to begin.
    untold_since: Option<Time>,
    /// Who told its owner to begin, and has promised by that to read no more.
    told_by: Option<Member>,
    /// An operator was the last to write its record, in its owner's name.
    is_touched: bool,
}

#[derive(Debug)]
struct Term {
    member: Member,
    partition: Partition,
    /// Receivers so far.
    attaches: u32,
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
    /// Whether the hub, or somebody with access to the records, is in the way.
    is_hub_foul: bool,
    hub_foul_at: Option<Time>,
    is_healing: bool,
    buffers: Buffers,
    proofs: Proofs,
    repeats: Repeats,
    storm: Storm,
    takeover: Takeover,
    failed: BTreeSet<(Member, Partition)>,
    /// What was reached.
    pub(crate) marks: Marks,
    /// Checkpoints of ours, and of foreign models, that replaced a later one.
    pub(crate) regressions: u64,
    pub(crate) foreign_regressions: u64,
    /// Most owner changes of a partition after the faults.
    pub(crate) most_changes: u32,
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
            is_hub_foul: false,
            hub_foul_at: None,
            is_healing: false,
            buffers: Buffers::default(),
            proofs: Proofs::new(bounds),
            repeats: Repeats::default(),
            storm: Storm::default(),
            takeover: Takeover::new(bounds),
            failed: BTreeSet::new(),
            marks: Marks::default(),
            regressions: 0,
            foreign_regressions: 0,
            most_changes: 0,
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
                .and_then(|()| self.buffers.apply(happening))
                .and_then(|()| self.proofs.apply(*now, happening))
                .and_then(|()| self.repeats.apply(*now, happening))
                .and_then(|()| self.storm.apply(*now, happening))
                .and_then(|()| self.takeover.apply(*now, happening))
                .map_err(|(rule, what)| Violation {
                    rule,
                    at: *now,
                    what,
                })?;
        }
        self.read = records.len();
        Ok(())
    }

    /// Longest time without a reader while all was well, in milliseconds.
    pub(crate) fn longest_takeover(&self) -> Time {
        self.takeover.longest
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

    fn apply(&mut self, now: Time, happening: &Happening) -> Result<(), Broken> {
        match happening {
            Happening::Appended { partition, seq } => {
                let is_first = self.logs.is_empty();
                let has_begun = self.calls_made > 0;
                let log = self.logs.entry(*partition).or_insert_with(|| Log {
                    is_added: has_begun && !is_first,
                    ..empty_log()
                });
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
            Happening::Renewed { by, partition } => {
                let log = self.logs.entry(*partition).or_insert_with(empty_log);
                if log.owner != Some(*by) {
                    log.untold_since = None;
                    log.told_by = Some(*by);
                }
                log.is_touched = *by == OPERATOR;
            }
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
                is_same_call,
            } => {
                self.handler_started(*member, *partition, *term, *seq)?;
                if !is_same_call {
                    return self.call_started(now, *member, *partition, *seq);
                }
            }
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
                self.failed.insert((*member, *partition));
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
                if self.has_call(*member) {
                    self.marks.reach(Mark::StopWhileHandlerRan);
                }
                if self.is_foul {
                    self.marks.reach(Mark::StopWhileStoreDown);
                }
            }
            Happening::Down { member, by_crash } => return self.down(now, *member, *by_crash),
            Happening::Paused { member } => {
                let life = self.lives.entry(*member).or_default();
                (life.is_paused, life.last_pause) = (true, Some(now));
                if self.has_call(*member) {
                    self.marks.reach(Mark::PausedWhileHandlerRan);
                }
            }
            Happening::Resumed { member } => {
                let life = self.lives.entry(*member).or_default();
                let slept_at = life.last_pause.unwrap_or(now);
                (life.is_paused, life.last_pause) = (false, Some(now));
                let lost = |log: &Log| {
                    let since = log.owners.get(member).copied().flatten();
                    since.is_some_and(|since| since >= slept_at)
                };
                if self.logs.values().any(lost) {
                    self.marks.reach(Mark::WokeUpDisplaced);
                }
            }
            Happening::Phase { name } => {
                self.is_calm = *name == "calm" || *name == "drain";
                self.is_healing |= *name == "heal";
            }
            Happening::Weather {
                is_fair,
                is_hub_fair,
            } => {
                if self.is_hub_foul || !is_hub_fair {
                    self.hub_foul_at = Some(now);
                }
                self.is_hub_foul = !is_hub_fair;
                if self.is_foul || !is_fair {
                    self.foul_at = Some(now);
                }
                self.is_foul = !is_fair;
            }
            Happening::Asked { .. }
            | Happening::AttachFailed { .. }
            | Happening::CheckpointAcked { .. }
            | Happening::CheckpointDeleted { .. }
            | Happening::Detached { .. }
            | Happening::Fault { .. }
            | Happening::Silent { .. }
            | Happening::Taken { .. } => {}
        }
        Ok(())
    }

    fn has_call(&self, member: Member) -> bool {
        self.calls.keys().any(|(caller, _)| *caller == member)
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
    fn checkpointed(
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

    fn owner_changed(
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

    fn term_started(&mut self, member: Member, partition: Partition, term: TermId) {
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
    fn handler_started(
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
    fn call_started(
        &mut self,
        now: Time,
        member: Member,
        partition: Partition,
        seq: i64,
    ) -> Result<(), Broken> {
        let is_disturbed = self.is_disturbed(now);
        let log = self.logs.entry(partition).or_insert_with(empty_log);
        let life = self.lives.entry(member).or_default();
        if life.is_down {
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

    /// O9: a stop takes no longer than it may.
    fn down(&mut self, now: Time, member: Member, by_crash: bool) -> Result<(), Broken> {
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

fn empty_log() -> Log {
    Log {
        done: -1,
        ..Log::default()
    }
}
