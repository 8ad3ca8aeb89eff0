//! Leaving without a gap and without a repetition, when others of our kind are there to take over.
//!
//! The partitions are marked as "leaving" ([`leaving_id`]) and read on. Another processor of this crate claims a marked
//! partition in its next cycle, and it is passed on as in any [`handover`](super::handover). To other SDKs a marked
//! partition is one with a live owner.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::control::Control;
use super::cycle::{MAX_CONCURRENT_WRITES, look_every};
use super::handover::Heir;
use super::stop::{Pending, settle};
use crate::balance::{leaving_id, promised_suspect_time};
use crate::checkpoint::{OwnershipListing, WriteCondition, WriteOutcome};
use crate::model::OwnerId;

/// Hands partitions over until all have gone, nobody is left to take them, or `end`.
pub(super) async fn linger(
    control: &mut Control,
    closing: &mut JoinSet<()>,
    pending: &Pending,
    end: Instant,
) {
    let Some(leaving) = leaving_id(&control.shared.owner_id) else {
        return;
    };
    let marked = timeout_at(end, mark(control, &leaving)).await;
    if marked.is_err() {
        control.doubtful.extend(control.owned.keys().cloned());
        return;
    }
    let look_every = look_every(control.shared.options.load_balancing_interval);
    let mut next_look = Instant::now();
    while !control.pumps.is_empty() {
        tokio::select! {
            // Pumps first: an heir waits for them.
            biased;
            Some((partition_id, pump)) = control.pumps.join_next() => {
                settle(control, closing, pending, partition_id, pump.ok());
            }
            () = tokio::time::sleep_until(next_look.min(end)) => {
                if Instant::now() >= end {
                    break;
                }
                let listing = control.shared.store.list_ownership(&control.shared.scope);
                match timeout_at(end, listing).await {
                    Ok(Ok(listing)) => {
                        let has_successors = look(control, &leaving, listing);
                        if !has_successors && control.heirs.is_empty() {
                            break;
                        }
                    }
                    // The store is down: nobody can take over through it.
                    Ok(Err(_)) if control.heirs.is_empty() => break,
                    Ok(Err(_)) | Err(_) => {}
                }
                next_look = Instant::now() + look_every;
            }
        }
    }
    // What was claimed and is not finished yet goes on as in any stop, but is given to its heir.
    if !control.heirs.is_empty() {
        control.pumps_stop.cancel();
        let deadline = Instant::now() + control.shared.stopper.left();
        while let Ok(Some((partition_id, pump))) =
            timeout_at(deadline, control.pumps.join_next()).await
        {
            settle(control, closing, pending, partition_id, pump.ok());
        }
    }
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
            // Claimed before we looked: the next look tells by whom.
            Ok(WriteOutcome::Lost) => {
                control.owned.remove(&partition_id);
            }
            Ok(WriteOutcome::Unknown(_)) => {
                control.doubtful.insert(partition_id);
            }
            Err(_) => {}
        }
    }
}

/// Notes who claimed what and lets the handlers finish there. Returns whether anybody is left to claim the rest.
fn look(control: &mut Control, leaving: &OwnerId, listing: OwnershipListing) -> bool {
    let mut has_successors = false;
    for record in listing.ownerships {
        let (Some(owner_id), partition_id) = (record.owner_id, record.partition_id) else {
            continue;
        };
        let is_read = control.pumps.contains_key(&partition_id);
        if owner_id.is_same_as(leaving) || owner_id.is_same_as(&control.shared.owner_id) {
            // At another version than ours after somebody has withdrawn a claim.
            if is_read && control.owned.contains_key(&partition_id) {
                control.owned.insert(partition_id, record.etag);
            }
            continue;
        }
        let age = record
            .last_modified
            .and_then(|modified| listing.as_of.duration_since(modified).ok())
            .unwrap_or_default();
        // Zero for one that is leaving itself.
        has_successors |= promised_suspect_time(&owner_id).is_some_and(|promised| age < promised);
        if is_read {
            if let Some(signal) = control.signals.get(&partition_id) {
                signal.finish();
            }
            let heir = Heir {
                owner_id,
                etag: record.etag,
                waits_until: Instant::now()
                    + control.shared.options.suspect_time().saturating_sub(age),
            };
            control.heirs.entry(partition_id).or_insert(heir);
        }
    }
    has_successors
}
