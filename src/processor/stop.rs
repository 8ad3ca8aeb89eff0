//! The graceful end: handlers finish, ownership is given back, links close.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::control::Control;
use super::handover::{give_up, hand_over, is_ours, tell_all, withdraw};
use super::linger::linger;
use super::pump::{PumpEnd, Shared};
use crate::checkpoint::{WriteCondition, WriteOutcome};
use crate::model::{ETag, PartitionId};
use crate::telemetry;

/// What a graceful stop came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Partitions whose handler was still running when the shutdown timeout ended. It was cut; what it had not
    /// checkpointed will be processed again.
    pub cut_partitions: Vec<PartitionId>,
}

/// Time for giving back ownership and closing links once the last handler is done.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Stops in an order in which nothing is read twice: a partition is given back only after its handler has finished
/// and its last checkpoint is written, and its link is closed only after that.
pub(super) async fn stop(mut control: Control) -> StopReport {
    let begun = Instant::now();
    let deadline = begun + control.shared.options.shutdown_timeout;
    let mut closing = std::mem::take(&mut control.closing);
    // What we wait for is being read by the owner before, which goes on.
    for (partition_id, (_, waiting)) in std::mem::take(&mut control.awaited) {
        if let Some(etag) = control.owned.remove(&partition_id) {
            let shared = Arc::clone(&control.shared);
            closing.spawn(withdraw(shared, partition_id, etag, waiting.from));
        }
    }
    let goes_on = control.shared.options.keep_ownership_on_stop;
    let kept: BTreeSet<_> = control.owned.keys().cloned().collect();
    // Owned without a pump: held off or just claimed. Nobody reads it, so others are not to wait for the rest.
    let (read, idle) = std::mem::take(&mut control.owned)
        .into_iter()
        .partition(|(id, _)| control.pumps.contains_key(id));
    control.owned = read;
    let idle: BTreeMap<_, _> = idle;
    for (partition_id, etag) in idle {
        let shared = Arc::clone(&control.shared);
        closing.spawn(give_back(shared, partition_id, Some(etag), None));
    }
    if control.lingers.load(Ordering::Relaxed) {
        let options = &control.shared.options;
        let end = begun + options.linger.min(options.shutdown_timeout / 2);
        linger(&mut control, &mut closing, end).await;
    }
    control.pumps_stop.cancel();
    while let Ok(Some((partition_id, end))) = timeout_at(deadline, control.pumps.join_next()).await
    {
        settle(&mut control, &mut closing, partition_id, end.ok());
    }

    let cut_partitions: Vec<_> = control.pumps.keys().cloned().collect();
    if !cut_partitions.is_empty() {
        tracing::error!(
            target: telemetry::PROCESSOR,
            partitions = ?cut_partitions,
            "handlers still ran at the end of the shutdown timeout and were cut"
        );
        control.pumps.abort_all();
        // A handler that blocks its thread cannot be aborted; it does not keep the others waiting.
        let aborted = async { while control.pumps.join_next().await.is_some() {} };
        let _ = timeout(CLOSE_TIMEOUT / 2, aborted).await;
    }
    // Their handlers are cut, too: nobody is to wait for them.
    for (partition_id, heir) in std::mem::take(&mut control.heirs) {
        control.owned.remove(&partition_id);
        control.doubtful.insert(partition_id.clone());
        closing.spawn(hand_over(
            Arc::clone(&control.shared),
            partition_id,
            heir,
            None,
            goes_on,
        ));
    }
    // Owned without a pump: cut.
    for (partition_id, etag) in std::mem::take(&mut control.owned) {
        let shared = Arc::clone(&control.shared);
        closing.spawn(give_back(shared, partition_id, Some(etag), None));
    }
    let closed = async {
        while closing.join_next().await.is_some() {}
        if control.shared.options.keep_ownership_on_stop {
            // Whoever claimed one since we looked waits for us.
            tell_all(&control.shared, &kept).await;
        } else if !control.doubtful.is_empty() {
            give_back_listed(&control.shared).await;
        }
    };
    // In the ordinary case the timeout leaves a storage call its whole try.
    let left = deadline.saturating_duration_since(Instant::now());
    if timeout(left.max(CLOSE_TIMEOUT), closed).await.is_err() {
        tracing::warn!(
            target: telemetry::PROCESSOR,
            "not everything was given back in time; the rest expires"
        );
    }
    StopReport { cut_partitions }
}

/// A pump has ended: its heir is told to begin, or the partition is given back.
pub(super) fn settle(
    control: &mut Control,
    closing: &mut JoinSet<()>,
    partition_id: PartitionId,
    end: Option<PumpEnd>,
) {
    let etag = control.owned.remove(&partition_id);
    let shared = Arc::clone(&control.shared);
    match control.heirs.remove(&partition_id) {
        Some(heir) => {
            // It may have withdrawn its claim, and the record is in our name again.
            control.doubtful.insert(partition_id.clone());
            let goes_on = shared.options.keep_ownership_on_stop;
            closing.spawn(hand_over(shared, partition_id, heir, end, goes_on));
        }
        None => {
            closing.spawn(give_back(shared, partition_id, etag, end));
        }
    }
}

async fn give_back(
    shared: Arc<Shared>,
    partition_id: PartitionId,
    etag: Option<ETag>,
    end: Option<PumpEnd>,
) {
    let is_taken = match etag {
        Some(_) if shared.options.keep_ownership_on_stop => false,
        Some(etag) => relinquish(&shared, &partition_id, etag).await,
        None => end.as_ref().is_some_and(|end| end.receiver.is_some()),
    };
    // Claimed since the last look: who did that waits for us.
    if is_taken {
        give_up(&shared, &partition_id).await;
    }
    if let Some(receiver) = end.and_then(|end| end.receiver) {
        receiver.close().await;
    }
}

/// Returns whether somebody else had written before.
async fn relinquish(shared: &Shared, partition_id: &PartitionId, etag: ETag) -> bool {
    let condition = WriteCondition::Matches(etag);
    let outcome = shared
        .store
        .claim_ownership(&shared.scope, partition_id, None, &condition)
        .await;
    let error = match outcome {
        Ok(WriteOutcome::Written(_)) => return false,
        Ok(WriteOutcome::Lost) => return true,
        Ok(WriteOutcome::Unknown(error)) | Err(error) => error,
    };
    tracing::warn!(
        target: telemetry::LOAD_BALANCER,
        %partition_id, error = %telemetry::chain(&error),
        "ownership was not given back; it expires"
    );
    false
}

/// Gives back what the records say is ours: finds writes whose outcome we never learnt.
async fn give_back_listed(shared: &Arc<Shared>) {
    let listing = match shared.store.list_ownership(&shared.scope).await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::warn!(
                target: telemetry::LOAD_BALANCER,
                error = %telemetry::chain(&error),
                "ownership that may still be in our name was not looked for; it expires"
            );
            return;
        }
    };
    let mut seen = BTreeSet::new();
    for ownership in listing.ownerships {
        let is_mine = ownership
            .owner_id
            .is_some_and(|owner| is_ours(shared, &owner));
        let partition_id = ownership.partition_id;
        if is_mine
            && seen.insert(partition_id.clone())
            && relinquish(shared, &partition_id, ownership.etag).await
        {
            give_up(shared, &partition_id).await;
        }
    }
}
