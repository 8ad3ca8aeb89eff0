//! How long to wait for an owner of our kind that is to finish with a partition we have claimed.

use std::time::{Duration, SystemTime};

use super::kin::promised_suspect_time;
use super::snapshot::Snapshot;
use crate::model::OwnerId;

/// The owner before us, and when it last showed life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) from: OwnerId,
    /// By the store's clock.
    last_seen: Option<SystemTime>,
}

impl Waiting {
    pub(crate) fn new(from: OwnerId) -> Self {
        Self {
            from,
            last_seen: None,
        }
    }

    /// Whether we have waited long enough to begin without being told: as long as its promise says that it may be
    /// silent, counted from our claim or from its last sign of life. By then it has died, or cannot reach the store and
    /// will be displaced. A leaver does not renew; for it our own time counts, which is longer than it stays.
    ///
    /// Time in which the store did not work for us is held against nobody.
    pub(crate) fn is_over(
        &mut self,
        snapshot: &Snapshot,
        waited: Duration,
        suspect_time: Duration,
        store_up_for: Option<Duration>,
    ) -> bool {
        let excused =
            |silence: Duration| store_up_for.map_or(silence, |up_for| silence.min(up_for));
        let promise = promised_suspect_time(&self.from).filter(|promise| !promise.is_zero());
        let Some(promise) = promise else {
            return excused(waited) > suspect_time;
        };
        let is_theirs = |owner: &OwnerId| owner.is_same_as(&self.from);
        let newest = snapshot
            .ownerships
            .values()
            .filter(|record| record.owner_id.as_ref().is_some_and(is_theirs))
            .filter_map(|record| record.last_modified)
            .max();
        // Records that others claim do not make it look dead: the last sign counts.
        self.last_seen = self.last_seen.max(newest);
        let silence = self
            .last_seen
            .and_then(|seen| snapshot.as_of.duration_since(seen).ok())
            .unwrap_or_default();
        excused(waited.max(silence)) > promise
    }
}
