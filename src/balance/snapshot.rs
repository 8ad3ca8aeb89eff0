//! All that a decision may depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::model::{OwnerId, Ownership, PartitionId};

/// The group as one listing showed it.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Partitions of the event hub.
    pub(crate) partitions: BTreeSet<PartitionId>,
    /// Ownership records by partition; those of unknown partitions are ignored.
    pub(crate) ownerships: BTreeMap<PartitionId, Ownership>,
    /// When the store took the listing, by its own clock.
    pub(crate) as_of: SystemTime,
}

/// To whom a partition belongs, seen from one processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody: never claimed, given back or expired.
    Nobody,
    /// This processor, whatever the record's age.
    Me,
    /// Another live processor, by its case-folded owner id.
    Other(String),
}

impl Snapshot {
    /// Who holds a partition. An ownership counts until it is older than `expiration`; one without a date counts.
    pub(super) fn holder(
        &self,
        partition_id: &PartitionId,
        me: &OwnerId,
        expiration: Duration,
    ) -> Holder {
        let Some(ownership) = self.ownerships.get(partition_id) else {
            return Holder::Nobody;
        };
        match &ownership.owner_id {
            None => Holder::Nobody,
            Some(owner) if owner.is_same_as(me) => Holder::Me,
            Some(_) if self.age(ownership) > expiration => Holder::Nobody,
            Some(owner) => Holder::Other(owner.as_str().to_ascii_lowercase()),
        }
    }

    fn age(&self, ownership: &Ownership) -> Duration {
        // A record from the store's future is as young as can be.
        ownership
            .last_modified
            .and_then(|modified| self.as_of.duration_since(modified).ok())
            .unwrap_or_default()
    }
}
