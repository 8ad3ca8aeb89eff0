//! Leaving without a gap and without a repetition, when others of our kind are there to take over.
//!
//! The partitions are marked as "leaving" ([`leaving_id`]) and read on. Another processor of this crate claims a marked
//! partition in its next cycle, but does not read it yet. We see the claim, let the handler finish with the partition,
//! write the last checkpoint, and then write the *heir's* name once more: the record's new version tells the heir to
//! begin. If we die in between, the heir begins after the time it would have granted us anyway. To other SDKs a marked
//! partition is one with a live owner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::control::Control;
use super::cycle::MAX_CONCURRENT_WRITES;
use super::pump::{PumpEnd, Shared};
use super::stop::give_back;
use crate::balance::{leaving_id, promised_suspect_time};
use crate::checkpoint::{OwnershipListing, WriteCondition, WriteOutcome};
use crate::model::{ETag, OwnerId, PartitionId};

/// How often we look for claims, at most: a quarter of the quick pace of the others' cycles.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often an heir's name is written before it has to find out by itself.
const CONFIRM_TRIES: usize = 3;

/// Hands partitions over until all have gone, nobody is left to take them, or `end`.
pub(super) async fn linger(control: &mut Control, closing: &mut JoinSet<()>, end: Instant) {
    let Some(leaving) = leaving_id(&control.shared.owner_id) else {
        return;
    };
    let marked = timeout_at(end, mark(control, &leaving)).await;
    if marked.is_err() {
        control.doubtful.extend(control.owned.keys().cloned());
        return;
    }
    let look_every = LOOK_EVERY.min(control.shared.options.load_balancing_interval / 8);
    let mut heirs: BTreeMap<PartitionId, Heir> = BTreeMap::new();
    let mut next_look = Instant::now();
    while !control.pumps.is_empty() {
        tokio::select! {
            // Pumps first: an heir waits for them.
            biased;
            Some((partition_id, pump)) = control.pumps.join_next() => {
                let etag = control.owned.remove(&partition_id);
                let shared = Arc::clone(&control.shared);
                match heirs.remove(&partition_id) {
                    Some(heir) => {
                        closing.spawn(confirm(shared, partition_id, heir, pump.ok()));
                    }
                    None => {
                        closing.spawn(give_back(shared, partition_id, etag, pump.ok(), true));
                    }
                }
            }
            () = tokio::time::sleep_until(next_look.min(end)) => {
                if Instant::now() >= end {
                    break;
                }
                let listing = control.shared.store.list_ownership(&control.shared.scope);
                match timeout_at(end, listing).await {
                    Ok(Ok(listing)) => {
                        let has_successors = look(control, &leaving, &mut heirs, listing);
                        if !has_successors && heirs.is_empty() {
                            break;
                        }
                    }
                    // The store is down: nobody can take over through it.
                    Ok(Err(_)) if heirs.is_empty() => break,
                    Ok(Err(_)) | Err(_) => {}
                }
                next_look = Instant::now() + look_every;
            }
        }
    }
    // What was claimed and is not finished yet goes on as in any stop, but is given to its heir.
    if !heirs.is_empty() {
        control.pumps_stop.cancel();
        let deadline = end + control.shared.options.shutdown_timeout / 2;
        while let Ok(Some((partition_id, pump))) =
            timeout_at(deadline, control.pumps.join_next()).await
        {
            let etag = control.owned.remove(&partition_id);
            let shared = Arc::clone(&control.shared);
            match heirs.remove(&partition_id) {
                Some(heir) => closing.spawn(confirm(shared, partition_id, heir, pump.ok())),
                None => closing.spawn(give_back(shared, partition_id, etag, pump.ok(), true)),
            };
        }
    }
}

/// Who claimed a partition, at which version.
#[derive(Clone, Debug)]
struct Heir {
    owner_id: OwnerId,
    etag: ETag,
}

/// Writes the mark into all records of ours.
async fn mark(control: &mut Control, leaving: &OwnerId) {
    let shared = Arc::clone(&control.shared);
    // Partitions that still wait for *their* former owner are not ours to hand on.
    let marks: Vec<_> = control
        .owned
        .iter()
        .filter(|(id, _)| control.pumps.contains_key(*id))
        .map(|(id, etag)| (id.clone(), etag.clone()))
        .collect();
    let mut writes = stream::iter(marks)
        .map(|(partition_id, etag)| {
            let shared = Arc::clone(&shared);
            let leaving = leaving.clone();
            async move {
                let condition = WriteCondition::Matches(etag);
                let outcome = shared
                    .store
                    .claim_ownership(&shared.scope, &partition_id, Some(&leaving), &condition)
                    .await;
                (partition_id, outcome)
            }
        })
        .buffer_unordered(MAX_CONCURRENT_WRITES);
    while let Some((partition_id, outcome)) = writes.next().await {
        match outcome {
            Ok(WriteOutcome::Written(written)) => {
                control.owned.insert(partition_id, written.etag);
            }
            Ok(WriteOutcome::Lost) => {
                control.owned.remove(&partition_id);
                if let Some(signal) = control.signals.get(&partition_id) {
                    signal.lose();
                }
            }
            Ok(WriteOutcome::Unknown(_)) => {
                control.doubtful.insert(partition_id);
            }
            Err(_) => {}
        }
    }
}

/// Notes who claimed what and lets the handlers finish there. Returns whether anybody is left to claim the rest.
fn look(
    control: &Control,
    leaving: &OwnerId,
    heirs: &mut BTreeMap<PartitionId, Heir>,
    listing: OwnershipListing,
) -> bool {
    let mut has_successors = false;
    for record in listing.ownerships {
        let Some(owner_id) = record.owner_id else {
            continue;
        };
        if owner_id.is_same_as(leaving) || owner_id.is_same_as(&control.shared.owner_id) {
            continue;
        }
        let age = record
            .last_modified
            .and_then(|modified| listing.as_of.duration_since(modified).ok())
            .unwrap_or_default();
        // Zero for one that is leaving itself.
        has_successors |= promised_suspect_time(&owner_id).is_some_and(|promised| age < promised);
        if control.pumps.contains_key(&record.partition_id)
            && control.owned.contains_key(&record.partition_id)
        {
            if let Some(signal) = control.signals.get(&record.partition_id) {
                signal.finish();
            }
            let heir = Heir {
                owner_id,
                etag: record.etag,
            };
            heirs.entry(record.partition_id).or_insert(heir);
        }
    }
    has_successors
}

/// Tells the heir to begin. The link is closed after that, so that nobody gets in between.
async fn confirm(
    shared: Arc<Shared>,
    partition_id: PartitionId,
    heir: Heir,
    pump: Option<PumpEnd>,
) {
    tell(&shared, &partition_id, Some(heir)).await;
    if let Some(receiver) = pump.and_then(|pump| pump.receiver) {
        receiver.close().await;
    }
}

/// Tells whoever claimed the partition unseen to begin.
pub(super) async fn confirm_unseen(shared: &Shared, partition_id: &PartitionId) {
    tell(shared, partition_id, None).await;
}

async fn tell(shared: &Shared, partition_id: &PartitionId, heir: Option<Heir>) {
    let mut current = heir.clone();
    for _ in 0..CONFIRM_TRIES {
        if current.is_none() {
            current = holder(shared, partition_id).await;
        }
        let Some(Heir { owner_id, etag }) = current.take() else {
            return;
        };
        // INTEROP: other SDKs wait for nobody, and some renew at the version they wrote: it must not change.
        let is_waiting = promised_suspect_time(&owner_id).is_some_and(|promise| !promise.is_zero())
            && heir.as_ref().is_none_or(|heir| heir.owner_id == owner_id);
        if !is_waiting {
            return;
        }
        let condition = WriteCondition::Matches(etag);
        let outcome = shared
            .store
            .claim_ownership(&shared.scope, partition_id, Some(&owner_id), &condition)
            .await;
        if !matches!(outcome, Ok(WriteOutcome::Lost)) {
            return;
        }
    }
}

async fn holder(shared: &Shared, partition_id: &PartitionId) -> Option<Heir> {
    let listing = shared.store.list_ownership(&shared.scope).await.ok()?;
    let record = listing
        .ownerships
        .into_iter()
        .find(|record| record.partition_id == *partition_id)?;
    Some(Heir {
        owner_id: record.owner_id?,
        etag: record.etag,
    })
}
