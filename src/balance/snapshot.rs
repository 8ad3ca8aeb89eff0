//! What a decision is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::LoadBalancingStrategy;
use crate::model::{ETag, OwnerId, Ownership, PartitionId};

/// The group as one listing showed it.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Partitions of the event hub.
    pub(crate) partitions: BTreeSet<PartitionId>,
    /// Ownership records by partition. Those of unknown partitions tell who is alive and nothing else.
    pub(crate) ownerships: BTreeMap<PartitionId, Ownership>,
    /// When the store took the listing, by its own clock.
    pub(crate) as_of: SystemTime,
}

impl Snapshot {
    /// How long ago a record was written, by the store's clock. One without a date, or from the store's future, is as
    /// young as can be.
    pub(crate) fn age(&self, ownership: &Ownership) -> Duration {
        ownership
            .last_modified
            .and_then(|modified| self.as_of.duration_since(modified).ok())
            .unwrap_or_default()
    }
}

/// What a processor knows of itself when it decides.
#[derive(Clone, Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) owner_id: &'a OwnerId,
    /// What it owns, at the version it wrote last.
    pub(crate) held: &'a BTreeMap<PartitionId, ETag>,
    /// Owned, but the owner before still works on them.
    pub(crate) awaited: &'a BTreeSet<PartitionId>,
    /// Claimed by others of our kind, but we have not finished with them yet.
    pub(crate) handing_over: &'a BTreeSet<PartitionId>,
    /// Partitions where a write of ours may have taken effect unseen.
    pub(crate) doubtful: &'a BTreeSet<PartitionId>,
    /// How long it has been at work, by its own clock.
    pub(crate) running_for: Duration,
    /// For how long the store has worked again after it did not: nobody can be blamed for a longer silence. `None`: as
    /// far back as it matters.
    pub(crate) store_up_for: Option<Duration>,
}

/// The part of the options that decisions depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BalanceRule {
    pub(crate) strategy: LoadBalancingStrategy,
    pub(crate) interval: Duration,
    /// Silence after which an owner that used our own id would count as gone.
    pub(crate) suspect_time: Duration,
    pub(crate) ownership_expiration: Duration,
}

impl BalanceRule {
    /// The pace while something is unsettled: a second at the default interval.
    pub(super) fn round(&self) -> Duration {
        (self.interval / 8).min(Duration::from_secs(1))
    }
}
