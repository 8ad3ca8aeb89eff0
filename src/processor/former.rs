//! Versions of ownership records that we have replaced. A listing that shows one of them shows the past.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{ETag, PartitionId};

/// Versions remembered of each record: as many renewals as a listing may be late by.
const REMEMBERED: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Former(BTreeMap<PartitionId, Versions>);

#[derive(Debug)]
struct Versions {
    replaced: VecDeque<ETag>,
    /// When the last of them was replaced.
    at: Instant,
}

impl Former {
    /// Notes that the record has another version now.
    pub(super) fn note(&mut self, partition_id: PartitionId, version: ETag) {
        let versions = self.0.entry(partition_id).or_insert_with(|| Versions {
            replaced: VecDeque::new(),
            at: Instant::now(),
        });
        versions.at = Instant::now();
        versions.replaced.truncate(REMEMBERED - 1);
        versions.replaced.push_front(version);
    }

    /// How old the record is that has replaced this version; `None` if it has not been replaced, as far as we know.
    pub(super) fn age_of_successor(
        &self,
        partition_id: &PartitionId,
        version: &ETag,
    ) -> Option<Duration> {
        let versions = self.0.get(partition_id)?;
        let is_former = versions.replaced.contains(version);
        is_former.then(|| versions.at.elapsed())
    }

    /// Forgets what is not ours any more.
    pub(super) fn retain(&mut self, mut is_ours: impl FnMut(&PartitionId) -> bool) {
        self.0.retain(|partition_id, _| is_ours(partition_id));
    }
}
