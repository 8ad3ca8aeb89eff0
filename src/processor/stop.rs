//! The graceful end: handlers finish, ownership is given back, links close.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::control::Control;
use super::handover::{give_up, hand_over, is_ours, tell_all, withdraw};
use super::linger::linger;
use super::pump::{PumpEnd, Shared};
use crate::checkpoint::{WriteCondition, WriteOutcome};
use crate::model::{ETag, OwnerId, PartitionId};
use crate::telemetry;

/// What a graceful stop came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Partitions where a hook was still running when the shutdown timeout ended. It was cut; what it had not
    /// checkpointed will be processed again.
    pub cut_partitions: Vec<PartitionId>,
    /// Partitions that may still be in this processor's name, because the store failed or did not answer in time. Others
    /// take them once the ownership has expired. Empty with
    /// [`keep_ownership_on_stop`](super::ProcessorOptions::keep_ownership_on_stop), where nothing is to be given back.
    pub not_given_back: Vec<PartitionId>,
}

/// Time for giving back ownership and closing links once the last handler is done.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Stops in an order in which nothing is read twice: a partition is given back only after its handler has finished
/// and its last checkpoint is written, and its link is closed only after that.
pub(super) async fn stop(mut control: Control) -> StopReport {
    let stopper = control.shared.stopper.clone();
    let pending = Pending::of(&control);
    let mut closing = std::mem::take(&mut control.closing);
    // Others who have claimed what was ours, or what we wait for, and who stop too, write our name back: there is a look at
    // that in the end.
    let suspect_time = control.shared.options.suspect_time();
    for (partition_id, (since, waits_for)) in std::mem::take(&mut control.passed_on) {
        if since.elapsed() < suspect_time && !control.owned.contains_key(&partition_id) {
            control.doubtful.entry(partition_id).or_insert(waits_for);
        }
    }
    // What we wait for is being read by the owner before, which goes on.
    for (partition_id, (_, waiting)) in std::mem::take(&mut control.awaited) {
        if let Some(etag) = control.owned.remove(&partition_id) {
            let shared = Arc::clone(&control.shared);
            let is_doubtful = control.doubtful.contains_key(&partition_id);
            let waits_for = control.doubtful.entry(partition_id.clone()).or_default();
            waits_for.get_or_insert_with(|| waiting.from.clone());
            let pending = pending.clone();
            closing.spawn(async move {
                let (id, from) = (partition_id.clone(), waiting.from);
                if withdraw(shared, id, etag, from, is_doubtful).await {
                    pending.done(&partition_id);
                }
            });
        }
    }
    let goes_on = control.shared.options.keep_ownership_on_stop;
    let kept: BTreeSet<_> = control.owned.keys().cloned().collect();
    // Owned without a pump: held off or just claimed. Nobody reads it, so others are not to wait for the rest.
    let (read, idle): (_, BTreeMap<_, _>) = std::mem::take(&mut control.owned)
        .into_iter()
        .partition(|(id, _)| control.pumps.contains_key(id));
    control.owned = read;
    for (partition_id, etag) in idle {
        let shared = Arc::clone(&control.shared);
        closing.spawn(give_back(
            shared,
            pending.clone(),
            partition_id,
            Some(etag),
            None,
        ));
    }
    if control.lingers.load(Ordering::Relaxed) {
        let linger_for = control.shared.options.linger.min(stopper.left() / 2);
        let end = Instant::now() + linger_for;
        let hurried = stopper.hurried();
        let is_cut = tokio::select! {
            biased;
            () = hurried => true,
            () = linger(&mut control, &mut closing, &pending, end) => false,
        };
        if is_cut {
            // A mark may have landed unseen.
            let owned = control.owned.keys().cloned();
            control.doubtful.extend(owned.map(|id| (id, None)));
        }
    }
    control.pumps_stop.cancel();
    loop {
        tokio::select! {
            biased;
            ended = control.pumps.join_next() => match ended {
                Some((partition_id, end)) => {
                    settle(&mut control, &mut closing, &pending, partition_id, end.ok());
                }
                None => break,
            },
            () = stopper.overdue(Duration::ZERO) => break,
        }
    }

    let mut cut_partitions: Vec<_> = control.pumps.keys().cloned().collect();
    cut_partitions.sort_unstable();
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
        control.doubtful.insert(partition_id.clone(), None);
        pending.done(&partition_id);
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
        closing.spawn(give_back(
            shared,
            pending.clone(),
            partition_id,
            Some(etag),
            None,
        ));
    }
    let closed = async {
        while closing.join_next().await.is_some() {}
        if control.shared.options.keep_ownership_on_stop {
            // Whoever claimed one since we looked waits for us.
            tell_all(&control.shared, &kept).await;
        } else if !control.doubtful.is_empty() {
            give_back_listed(&control.shared, &pending, &control.doubtful).await;
        }
    };
    tokio::select! {
        biased;
        () = closed => {}
        () = stopper.overdue(CLOSE_TIMEOUT) => {
            tracing::warn!(
                target: telemetry::PROCESSOR,
                "not everything was given back and closed in time; the rest expires"
            );
        }
    }
    StopReport {
        cut_partitions,
        not_given_back: pending.left(&control),
    }
}

/// What is in our name and is to be given back. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pending(Arc<Mutex<InOurName>>);

#[derive(Debug)]
struct InOurName {
    partitions: BTreeSet<PartitionId>,
    /// A listing has shown that this is all.
    is_all: bool,
}

impl Pending {
    fn of(control: &Control) -> Self {
        Self(Arc::new(Mutex::new(InOurName {
            partitions: control.owned.keys().cloned().collect(),
            is_all: false,
        })))
    }

    /// The partition is not in our name any more, unless a write of ours is still to show up.
    fn done(&self, partition_id: &PartitionId) {
        self.lock().partitions.remove(partition_id);
    }

    fn listed(&self, partitions: BTreeSet<PartitionId>) {
        *self.lock() = InOurName {
            partitions,
            is_all: true,
        };
    }

    fn left(&self, control: &Control) -> Vec<PartitionId> {
        if control.shared.options.keep_ownership_on_stop {
            return Vec::new();
        }
        let pending = self.lock();
        let mut left = pending.partitions.clone();
        if !pending.is_all {
            left.extend(control.doubtful.keys().cloned());
        }
        left.into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, InOurName> {
        // A panic cannot leave the set half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pump has ended: its heir is told to begin, or the partition is given back.
pub(super) fn settle(
    control: &mut Control,
    closing: &mut JoinSet<()>,
    pending: &Pending,
    partition_id: PartitionId,
    end: Option<PumpEnd>,
) {
    let etag = control.owned.remove(&partition_id);
    let shared = Arc::clone(&control.shared);
    match control.heirs.remove(&partition_id) {
        Some(heir) => {
            // It may have withdrawn its claim, and the record is in our name again.
            control.doubtful.insert(partition_id.clone(), None);
            pending.done(&partition_id);
            let goes_on = shared.options.keep_ownership_on_stop;
            closing.spawn(hand_over(shared, partition_id, heir, end, goes_on));
        }
        None => {
            closing.spawn(give_back(shared, pending.clone(), partition_id, etag, end));
        }
    }
}

async fn give_back(
    shared: Arc<Shared>,
    pending: Pending,
    partition_id: PartitionId,
    etag: Option<ETag>,
    end: Option<PumpEnd>,
) {
    let is_taken = match etag {
        Some(_) if shared.options.keep_ownership_on_stop => false,
        Some(etag) => match relinquish(&shared, &partition_id, etag).await {
            Some(is_taken) => {
                pending.done(&partition_id);
                is_taken
            }
            None => false,
        },
        None => {
            pending.done(&partition_id);
            end.as_ref().is_some_and(|end| end.receiver.is_some())
        }
    };
    // Claimed since the last look: who did that waits for us.
    if is_taken {
        give_up(&shared, &partition_id).await;
    }
    if let Some(receiver) = end.and_then(|end| end.receiver) {
        receiver.close().await;
    }
}

/// Gives back a partition that nobody reads any more.
pub(super) async fn release(shared: Arc<Shared>, partition_id: PartitionId, etag: ETag) {
    if relinquish(&shared, &partition_id, etag).await == Some(true) {
        give_up(&shared, &partition_id).await;
    }
}

/// Returns whether somebody else had written before; `None` if the store failed.
async fn relinquish(shared: &Shared, partition_id: &PartitionId, etag: ETag) -> Option<bool> {
    let condition = WriteCondition::Matches(etag);
    let outcome = shared
        .store
        .claim_ownership(&shared.scope, partition_id, None, &condition)
        .await;
    let error = match outcome {
        Ok(WriteOutcome::Written(_)) => return Some(false),
        Ok(WriteOutcome::Lost) => return Some(true),
        Ok(WriteOutcome::Unknown(error)) | Err(error) => error,
    };
    tracing::warn!(
        target: telemetry::LOAD_BALANCER,
        %partition_id, error = %telemetry::chain(&error),
        "ownership was not given back; it expires"
    );
    None
}

/// Gives back what the records say is ours: finds writes whose outcome we never learnt. What such a write took from one
/// of our kind, which still reads it, goes back to that.
async fn give_back_listed(
    shared: &Arc<Shared>,
    pending: &Pending,
    doubtful: &BTreeMap<PartitionId, Option<OwnerId>>,
) {
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
    let mut mine = BTreeMap::new();
    for ownership in listing.ownerships {
        let is_mine = ownership
            .owner_id
            .is_some_and(|owner| is_ours(shared, &owner));
        if is_mine {
            mine.insert(ownership.partition_id, ownership.etag);
        }
    }
    pending.listed(mine.keys().cloned().collect());
    for (partition_id, etag) in mine {
        if let Some(Some(from)) = doubtful.get(&partition_id) {
            let (id, from) = (partition_id.clone(), from.clone());
            if withdraw(Arc::clone(shared), id, etag, from, true).await {
                pending.done(&partition_id);
            }
            continue;
        }
        let Some(is_taken) = relinquish(shared, &partition_id, etag).await else {
            continue;
        };
        pending.done(&partition_id);
        if is_taken {
            give_up(shared, &partition_id).await;
        }
    }
}
