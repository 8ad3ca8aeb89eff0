//! What a processor remembers from cycle to cycle, and when to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt};

use super::kin::promised_suspect_time;
use super::plan::{Plan, Reason};
use super::snapshot::{BalanceRule, Snapshot};
use crate::model::{ETag, OwnerId, PartitionId};

/// Between two listings in a burst of claims: enough for simultaneous starters to see each other's first claims.
const BURST: Duration = Duration::from_millis(50);

/// Bursts in a row before a longer pause; doubling chunks reach 65 000 partitions within this.
const MAX_BURSTS: u32 = 16;

/// Claims that lose their race are tried again at once this many times, on a fresh listing.
const MAX_RETRIES: u32 = 3;

/// Quiet rounds at the quick pace after the last change.
const QUIET_ROUNDS: u32 = 4;

/// Ages are differences of two times that are rounded to a second.
const RESOLUTION: Duration = Duration::from_secs(1);

/// Carried from one cycle's plan to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Live owners seen last, by case-folded id; `None` before the first plan.
    pub(super) members: Option<BTreeSet<String>>,
    /// How many free partitions were claimed at once last time.
    pub(super) chunk: usize,
    /// Rounds in a row in which nothing was stolen because the group still changed.
    pub(super) deferrals: u32,
    /// Rounds in a row in which free partitions were left to others.
    pub(super) orphan_rounds: u32,
    /// Owners of our kind, by partition, as last seen.
    owners: BTreeMap<PartitionId, OwnerId>,
    /// Partitions that went from one of our kind to another, or may have before we came.
    moves: BTreeMap<PartitionId, Move>,
    /// Races lost in a row.
    pub(super) retries: u32,
    /// Partitions whose record in our name had a version that was not ours, and when, by the store's clock.
    pub(super) surprises: BTreeMap<PartitionId, SystemTime>,
    bursts: u32,
    quiet: u32,
}

/// A partition whose heir may still wait to be told that it may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Move {
    /// Whether we saw it move.
    is_certain: bool,
    /// By then it has begun in any case, by the store's clock.
    until: SystemTime,
    /// The version that its record has now.
    version: ETag,
    /// When we saw that version first, by our own clock.
    seen: Duration,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Writes that somebody else's write came before.
    pub(crate) lost: usize,
}

/// How long after a change of owner the heir may still be told to begin, at least and at most: as long as the owner before
/// has promised to be alive.
const MOVING: Duration = Duration::from_secs(60);
const MAX_MOVING: Duration = Duration::from_secs(3600);

/// Once the record of a partition has been what it is for this long by the store's clock, whose ages are rounded to a
/// second, its heir has seen it: it looks four times a second.
const TRANSIT: Duration = Duration::from_secs(2);

/// The same by our own clock, since we saw it first.
const TRANSIT_SEEN: Duration = Duration::from_millis(500);

impl Memory {
    /// Notes which partitions pass from one of our kind to another. Who has just come does not know what went on before,
    /// so to it any of them may.
    pub(super) fn note_moves(&mut self, snapshot: &Snapshot, running_for: Duration) {
        let is_first = self.members.is_none();
        let owners: BTreeMap<_, _> = snapshot
            .ownerships
            .iter()
            .filter_map(|(id, record)| Some((id.clone(), record.owner_id.clone()?)))
            .filter(|(_, owner)| promised_suspect_time(owner).is_some())
            .collect();
        let promises = owners.values().filter_map(promised_suspect_time);
        let longest_promise = promises.max().unwrap_or_default();
        for (id, owner) in &owners {
            let version = &snapshot.ownerships[id].etag;
            let before = self.owners.get(id);
            let is_certain = before.is_some_and(|before| !before.is_same_as(owner));
            if is_first || is_certain {
                let promise = before.and_then(promised_suspect_time);
                let wait = promise.unwrap_or_default().max(longest_promise);
                let heirs_move = Move {
                    is_certain,
                    until: snapshot.as_of + wait.clamp(MOVING, MAX_MOVING) + TRANSIT,
                    version: version.clone(),
                    seen: running_for,
                };
                self.moves.insert(id.clone(), heirs_move);
            } else if let Some(heirs_move) = self.moves.get_mut(id)
                && heirs_move.version != *version
            {
                heirs_move.version = version.clone();
                heirs_move.seen = running_for;
            }
        }
        self.moves
            .retain(|id, heirs_move| owners.contains_key(id) && snapshot.as_of < heirs_move.until);
        self.owners = owners;
    }

    /// Whether a partition is being passed on, and its heir may have been told so lately that it does not know yet.
    pub(super) fn is_in_transit(
        &self,
        snapshot: &Snapshot,
        running_for: Duration,
        id: &PartitionId,
    ) -> bool {
        let (Some(heirs_move), Some(record)) = (self.moves.get(id), snapshot.ownerships.get(id))
        else {
            return false;
        };
        snapshot.age(record) < TRANSIT && running_for.saturating_sub(heirs_move.seen) < TRANSIT_SEEN
    }

    /// Whether a partition has been passed from one of our kind to another a short while ago.
    pub(super) fn was_passed_on(&self, id: &PartitionId) -> bool {
        self.moves
            .get(id)
            .is_some_and(|heirs_move| heirs_move.is_certain)
    }

    /// How long to wait before the next cycle.
    pub(crate) fn next_delay(
        &mut self,
        plan: &Plan,
        outcome: Outcome,
        rule: &BalanceRule,
        rng: &mut (impl Rng + ?Sized),
    ) -> Duration {
        let round = rule.round();
        self.retries = if outcome.lost > 0 {
            self.retries + 1
        } else {
            0
        };
        let is_burst =
            plan.reason == Reason::MoreToClaim || (outcome.lost > 0 && self.retries <= MAX_RETRIES);
        if is_burst && self.bursts < MAX_BURSTS {
            self.bursts += 1;
            self.quiet = 0;
            return BURST.min(round).mul_f64(rng.random_range(1.0..1.5));
        }
        self.bursts = 0;
        self.retries = self.retries.min(1);
        if plan.reason == Reason::InTransit {
            self.quiet = 0;
            return TRANSIT_SEEN.mul_f64(rng.random_range(1.0..1.2));
        }
        let is_quiet = plan.reason == Reason::Settled && outcome.lost == 0;
        self.quiet = if is_quiet {
            self.quiet.saturating_add(1)
        } else {
            0
        };
        if self.quiet <= QUIET_ROUNDS {
            // Wide, so that of several processors that want the same each sees what the one before took.
            return round.mul_f64(rng.random_range(0.8..1.4));
        }
        let delay = rule.interval.mul_f64(rng.random_range(0.95..1.1));
        // Somebody seems late: look again when it would be too late, neither before nor long after.
        match plan.next_suspicion {
            Some(left) if left < delay => {
                (left + RESOLUTION + round.mul_f64(rng.random_range(0.0..0.5))).min(delay)
            }
            _ => delay,
        }
    }
}
