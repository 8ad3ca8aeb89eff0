//! What a processor remembers from cycle to cycle, and when to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt};

use super::kin::promised_suspect_time;
use super::plan::{Plan, Reason};
use super::snapshot::{BalanceRule, Snapshot};
use crate::model::{OwnerId, PartitionId};

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
    /// Whether this is the first plan.
    is_new: bool,
    /// Owners of our kind, by partition, as last seen.
    owners: BTreeMap<PartitionId, OwnerId>,
    /// When we saw a partition go from one of our kind to another, by the store's clock.
    moved: BTreeMap<PartitionId, SystemTime>,
    /// Races lost in a row.
    pub(super) retries: u32,
    /// Partitions whose record in our name had a version that was not ours, and when, by the store's clock.
    pub(super) surprises: BTreeMap<PartitionId, SystemTime>,
    bursts: u32,
    quiet: u32,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Writes that somebody else's write came before.
    pub(crate) lost: usize,
}

/// How long after a change of owner the heir may still be told to begin.
const MOVING: Duration = Duration::from_secs(60);

/// How long after that the heir may not know yet: it looks four times a second, and ages are rounded to one.
const TRANSIT: Duration = Duration::from_secs(2);

impl Memory {
    /// Notes which partitions pass from one of our kind to another.
    pub(super) fn note_moves(&mut self, snapshot: &Snapshot) {
        self.is_new = self.members.is_none();
        let owners: BTreeMap<_, _> = snapshot
            .ownerships
            .iter()
            .filter_map(|(id, record)| Some((id.clone(), record.owner_id.clone()?)))
            .filter(|(_, owner)| promised_suspect_time(owner).is_some())
            .collect();
        for (id, owner) in &owners {
            let before = self.owners.get(id);
            if before.is_some_and(|before| !before.is_same_as(owner)) {
                self.moved.insert(id.clone(), snapshot.as_of);
            }
        }
        self.moved.retain(|id, at| {
            let since = snapshot.as_of.duration_since(*at).unwrap_or_default();
            owners.contains_key(id) && since < MOVING
        });
        self.owners = owners;
    }

    /// The same for one that does not know what went on before it came: whether that is possible at all.
    pub(super) fn may_be_in_transit(&self, snapshot: &Snapshot, id: &PartitionId) -> bool {
        let record = snapshot.ownerships.get(id);
        self.is_new && record.is_some_and(|record| snapshot.age(record) < TRANSIT)
    }

    /// Whether a partition is being passed on, and its heir may have been told so lately that it does not know yet.
    pub(super) fn is_in_transit(&self, snapshot: &Snapshot, id: &PartitionId) -> bool {
        let record = snapshot.ownerships.get(id);
        self.moved.contains_key(id) && record.is_some_and(|record| snapshot.age(record) < TRANSIT)
    }

    /// Whether a partition has been passed from one of our kind to another a short while ago.
    pub(super) fn was_passed_on(&self, id: &PartitionId) -> bool {
        self.moved.contains_key(id)
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
