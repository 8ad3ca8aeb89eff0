//! What a processor remembers from cycle to cycle, and when to look again.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::plan::{Plan, Reason};
use super::snapshot::BalanceRule;
use crate::model::PartitionId;

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
    /// Races lost in a row.
    pub(super) retries: u32,
    /// Partitions whose record in our name once had a version that was not ours.
    pub(super) surprises: BTreeSet<PartitionId>,
    bursts: u32,
    quiet: u32,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Writes that somebody else's write came before.
    pub(crate) lost: usize,
    /// Whether some partition waits for its former owner to finish.
    pub(crate) is_waiting: bool,
}

impl Memory {
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
        if outcome.is_waiting {
            self.quiet = 0;
            return (round / 4).mul_f64(rng.random_range(0.8..1.2));
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
