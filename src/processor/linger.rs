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
use super::handover::{Heir, is_ours};
use super::stop::{Pending, settle};
use crate::balance::{leaving_id, promised_suspect_time};
use crate::checkpoint::{OwnershipListing, WriteCondition, WriteOutcome};
use crate::model::{ETag, OwnerId, PartitionId};

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
    // Partitions that still wait for *their* former owner are not ours to hand on.
    let mut unmarked = control.owned.clone();
    // Nor those that an heir has claimed already.
    unmarked.retain(|id, _| control.pumps.contains_key(id) && !control.heirs.contains_key(id));
    let marked = timeout_at(end, mark(control, &leaving, unmarked)).await;
    if marked.is_err() {
        let owned = control.owned.keys().cloned();
        control.doubtful.extend(owned.map(|id| (id, None)));
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
                        let seen = look(control, &leaving, listing);
                        if !seen.has_successors && control.heirs.is_empty() {
                            break;
                        }
                        // A claim that was withdrawn leaves our full name behind, which nobody would take over.
                        let _ = timeout_at(end, mark(control, &leaving, seen.unmarked)).await;
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

/// Writes the mark into records of ours.
async fn mark(
    control: &mut Control,
    leaving: &OwnerId,
    unmarked: impl IntoIterator<Item = (PartitionId, ETag)>,
) {
    let shared = Arc::clone(&control.shared);
    let mut writes = stream::iter(unmarked)
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
                control.doubtful.insert(partition_id, None);
            }
            Err(_) => {}
        }
    }
}

/// What a look has found.
#[derive(Default)]
struct Look {
    /// Whether anybody is left to claim what we still read.
    has_successors: bool,
    /// What we still read, but without the mark.
    unmarked: Vec<(PartitionId, ETag)>,
}

/// Notes who claimed what and lets the handlers finish there.
fn look(control: &mut Control, leaving: &OwnerId, listing: OwnershipListing) -> Look {
    let mut seen = Look::default();
    for record in listing.ownerships {
        let (Some(owner_id), partition_id) = (record.owner_id, record.partition_id) else {
            continue;
        };
        let is_read = control.pumps.contains_key(&partition_id);
        if is_ours(&control.shared, &owner_id) {
            // At another version than ours after somebody has withdrawn a claim. What is being finished for an heir goes
            // its way.
            if is_read && !control.heirs.contains_key(&partition_id) {
                control
                    .owned
                    .insert(partition_id.clone(), record.etag.clone());
                if !owner_id.is_same_as(leaving) {
                    seen.unmarked.push((partition_id, record.etag));
                }
            }
            continue;
        }
        let age = record
            .last_modified
            .and_then(|modified| listing.as_of.duration_since(modified).ok())
            .unwrap_or_default();
        // Zero for one that is leaving itself.
        seen.has_successors |=
            promised_suspect_time(&owner_id).is_some_and(|promised| age < promised);
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
    seen
}
