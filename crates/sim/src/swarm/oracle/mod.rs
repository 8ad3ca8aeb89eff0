//! Checks a history, step by step, against what is promised. It believes the hub and the store, and of a processor
//! only when its handler was called.
//!
//! The promises about a whole run:
//!
//! | | promise | where |
//! |---|---|---|
//! | O1 | a checkpoint covers processed events only | [`reading`] |
//! | O2 | ours never replaces a later one | [`reading`] |
//! | O3 | a term starts handlers in order, without a gap | [`reading`] |
//! | O4 | a term starts at the checkpoint it read | [`reading`] |
//! | O5 | one reader, but for a bounded time, and none after telling an heir | [`reading`] |
//! | O6 | a partition that lost its reader has another in bounded time | [`takeover`] |
//! | O7 | after the drain everything is processed and checkpointed | `run` |
//! | O8 | a pump holds a bounded number of events | [`buffers`] |
//! | O9 | a stop ends in time, and nothing runs after it | [`owners`], [`reading`] |
//! | O10 | equal loads, then nothing moves | `run`, [`owners`] |
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
//! | 12 | no ping-pong | [`owners`] |
//! | 13 | a newcomer gets its share | O10 after a fault of the kind `Join`; pace in `tests/scenarios.rs` |
//! | 14, 15 | an outage or a slow store moves nothing | `tests/scenarios.rs` |
//! | 16 | storage operations | O12 under faults; steady state in `tests/scenarios.rs` |
//! | 17 | a stop ends in time | O9 |
//! | 18, 19 | mixed groups | runs with foreign models: coverage and all safety checks |
//! | 20 | added partitions are read | O6, O7 |

mod buffers;
mod owners;
mod proof;
mod reading;
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
    /// When receivers were asked for whose requests left a member only after it had been paused.
    held_up: BTreeMap<(Member, Partition), Time>,
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
            held_up: BTreeMap::new(),
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
                self.held_up.remove(&(*member, *partition));
            }
            Happening::AttachHeldUp {
                member,
                partition,
                asked,
            } => {
                self.held_up.insert((*member, *partition), *asked);
            }
            Happening::AttachFailed { member, partition } => {
                self.held_up.remove(&(*member, *partition));
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
}

fn empty_log() -> Log {
    Log {
        done: -1,
        ..Log::default()
    }
}
