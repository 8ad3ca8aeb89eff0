//! Passing a partition on to another processor of our kind, which has claimed it and waits.
//!
//! Whoever claims a partition from one of our kind writes its name into the record, but does not read yet. The owner
//! before sees that, lets the handler finish, writes the last checkpoint, and writes the *heir's* name once more: the
//! record's new version tells the heir to begin. If that never comes, the heir begins after the time it would have
//! granted a silent owner anyway ([`Waiting`](crate::balance::Waiting)).

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::pump::{PumpEnd, Shared};
use crate::balance::{leaving_id, promised_suspect_time};
use crate::checkpoint::{WriteCondition, WriteOutcome};
use crate::model::{ETag, OwnerId, PartitionId};
use crate::telemetry;

/// How often an heir's name is written before it has to find out by itself.
const TRIES: usize = 3;

/// Who claimed a partition of ours, at which version.
#[derive(Clone, Debug)]
pub(super) struct Heir {
    pub(super) owner_id: OwnerId,
    pub(super) etag: ETag,
    /// When it may begin untold.
    pub(super) waits_until: Instant,
}

/// Tells the heir to begin. The link is closed after that, so that nobody gets in between.
pub(super) async fn hand_over(
    shared: Arc<Shared>,
    partition_id: PartitionId,
    heir: Heir,
    pump: Option<PumpEnd>,
    goes_on: bool,
) {
    tell(&shared, &partition_id, &heir, goes_on).await;
    if let Some(receiver) = pump.and_then(|pump| pump.receiver) {
        receiver.close().await;
    }
}

/// Somebody has written a record of ours that we wanted to give back: tells whoever claimed it to begin, or gives it
/// back if the claim was withdrawn.
pub(super) async fn give_up(shared: &Shared, partition_id: &PartitionId) {
    for _ in 0..TRIES {
        let Some((owner_id, etag)) = holder(shared, partition_id).await else {
            return;
        };
        let outcome = if is_ours(shared, &owner_id) {
            write(shared, partition_id, None, etag).await
        } else if is_waiting(shared, &owner_id) {
            write(shared, partition_id, Some(&owner_id), etag).await
        } else {
            return;
        };
        if !matches!(outcome, Some(WriteOutcome::Lost)) {
            return;
        }
    }
}

/// The same for all of these.
pub(super) async fn tell_all(shared: &Shared, partition_ids: &BTreeSet<PartitionId>) {
    let Ok(listing) = shared.store.list_ownership(&shared.scope).await else {
        return;
    };
    for record in listing.ownerships {
        if let Some(owner_id) = record.owner_id
            && partition_ids.contains(&record.partition_id)
            && is_waiting(shared, &owner_id)
        {
            write(shared, &record.partition_id, Some(&owner_id), record.etag).await;
        }
    }
}

/// Gives a claim back to the owner before us, which has not told us to begin: it goes on as if nothing had been. Returns
/// whether the record is certain not to be in our name. `is_doubtful`: whether a write of ours may have landed unseen.
pub(super) async fn withdraw(
    shared: Arc<Shared>,
    partition_id: PartitionId,
    etag: ETag,
    from: OwnerId,
    is_doubtful: bool,
) -> bool {
    let outcome = write(&shared, &partition_id, Some(&from), etag).await;
    if !matches!(outcome, Some(WriteOutcome::Lost)) {
        return matches!(outcome, Some(WriteOutcome::Written(_)));
    }
    let Some((owner_id, etag)) = holder(&shared, &partition_id).await else {
        return false;
    };
    if !owner_id.is_same_as(&shared.owner_id) {
        return true;
    }
    // It has told us since: nobody reads. Unless the new version is our own.
    let owner_id = is_doubtful.then_some(&from);
    let outcome = write(&shared, &partition_id, owner_id, etag).await;
    matches!(outcome, Some(WriteOutcome::Written(_)))
}

/// `goes_on`: whether this processor would read the partition again if the claim was withdrawn.
async fn tell(shared: &Shared, partition_id: &PartitionId, heir: &Heir, goes_on: bool) {
    let mut known = Some((heir.owner_id.clone(), heir.etag.clone()));
    for _ in 0..TRIES {
        let current = match known.take() {
            Some(known) => Some(known),
            None => holder(shared, partition_id).await,
        };
        let Some((owner_id, etag)) = current else {
            return;
        };
        // Somebody who took it from our heir waits for us, unless the heir may have begun: then for the heir.
        let is_ours_to_tell = heir.owner_id == owner_id || Instant::now() < heir.waits_until;
        // A word that may have been lost is written again: an heir that has begun does not mind.
        let outcome = if is_ours(shared, &owner_id) && !goes_on {
            // Nobody reads it any more, and others would wait for us.
            write(shared, partition_id, None, etag).await
        } else if is_ours_to_tell && is_waiting(shared, &owner_id) {
            write(shared, partition_id, Some(&owner_id), etag).await
        } else {
            return;
        };
        if matches!(outcome, Some(WriteOutcome::Written(_))) {
            return;
        }
    }
}

/// Whether a record is in our name, staying or leaving.
pub(super) fn is_ours(shared: &Shared, owner_id: &OwnerId) -> bool {
    owner_id.is_same_as(&shared.owner_id)
        || leaving_id(&shared.owner_id).is_some_and(|leaving| owner_id.is_same_as(&leaving))
}

/// Whether whoever wrote this name into a record of ours waits for us.
///
/// INTEROP: other SDKs wait for nobody, and some renew at the version they wrote: it must not change.
pub(super) fn is_waiting(shared: &Shared, owner_id: &OwnerId) -> bool {
    !owner_id.is_same_as(&shared.owner_id)
        && promised_suspect_time(owner_id).is_some_and(|promise| !promise.is_zero())
}

/// `None`: the store failed. The heir finds out by itself, what is ours expires.
async fn write(
    shared: &Shared,
    partition_id: &PartitionId,
    owner_id: Option<&OwnerId>,
    etag: ETag,
) -> Option<WriteOutcome> {
    let condition = WriteCondition::Matches(etag);
    let outcome = shared
        .store
        .claim_ownership(&shared.scope, partition_id, owner_id, &condition)
        .await;
    match outcome {
        Ok(WriteOutcome::Unknown(error)) | Err(error) => {
            tracing::warn!(
                target: telemetry::LOAD_BALANCER,
                %partition_id, error = %telemetry::chain(&error),
                "a partition was not handed over in time; it is taken over later"
            );
            None
        }
        Ok(outcome) => Some(outcome),
    }
}

async fn holder(shared: &Shared, partition_id: &PartitionId) -> Option<(OwnerId, ETag)> {
    let listing = shared.store.list_ownership(&shared.scope).await.ok()?;
    let record = listing
        .ownerships
        .into_iter()
        .find(|record| record.partition_id == *partition_id)?;
    Some((record.owner_id?, record.etag))
}
