//! Protocol bugs to plant around the library, so that the oracle can show that it would notice them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use eventhubs_processor::checkpoint::{
    OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome, Written,
};
use eventhubs_processor::{
    Checkpoint, CheckpointStore, ETag, GroupScope, OwnerId, PartitionId, StoreError,
};

use crate::store::StoreClient;

/// A bug that can be planted without touching the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Bug {
    /// One checkpoint in five is acknowledged and not written.
    AckUnwritten,
    /// The stored checkpoint is read as one event further.
    CheckpointAhead,
    /// The handler checkpoints an event before it has processed it.
    CheckpointDelivered,
    /// One event in seventeen arrives with another content.
    CorruptBody,
    /// A stop gives partitions back before their handlers have finished.
    EarlyRelinquish,
    /// Every second record is missing from a listing.
    HalfListing,
    /// An ownership write that failed is taken for a successful one.
    FailedAsWritten,
    /// A receiver takes everything there is, whatever it was asked for.
    Hoard,
    /// A lost race for a partition is taken for a won one.
    LostAsWritten,
    /// A checkpoint that lost the race is written again on the new version, without looking at its number.
    NaiveCheckpoint,
    /// Renewals are not sent.
    NeverRenew,
    /// Receivers do not displace each other.
    NoOwnerLevel,
    /// Every receiver starts at the end of the partition.
    OpenAtLatest,
    /// Two events that arrive together change places.
    Reorder,
    /// A term ends and starts again for no reason.
    Restless,
    /// A request that failed is sent again at once, up to fifty times.
    RetryStorm,
    /// Partitions are not given back, and nobody is told.
    SilentRelinquish,
    /// Ages are taken by a clock that is 200 s ahead.
    SkewedDate,
    /// Silences look shorter than they are, by four suspect times.
    SlowHeir,
    /// Every receiver but the first starts one event too late.
    SkipOnOpen,
    /// A handler's failure is reported as success.
    SwallowErrors,
    /// Checkpoints are written without a condition, as the other SDKs do.
    UnconditionalCheckpoint,
    /// Ownership is written without a condition.
    UnconditionalOwnership,
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::AckUnwritten,
        Self::CheckpointAhead,
        Self::CheckpointDelivered,
        Self::CorruptBody,
        Self::EarlyRelinquish,
        Self::FailedAsWritten,
        Self::HalfListing,
        Self::Hoard,
        Self::LostAsWritten,
        Self::NaiveCheckpoint,
        Self::NeverRenew,
        Self::NoOwnerLevel,
        Self::OpenAtLatest,
        Self::Reorder,
        Self::Restless,
        Self::RetryStorm,
        Self::SilentRelinquish,
        Self::SkewedDate,
        Self::SlowHeir,
        Self::SkipOnOpen,
        Self::SwallowErrors,
        Self::UnconditionalCheckpoint,
        Self::UnconditionalOwnership,
    ];
}

/// The store as the processor gets it, with or without a bug in between.
#[derive(Clone, Debug)]
pub(crate) struct BuggyStore {
    inner: StoreClient,
    bug: Option<Bug>,
    written: Arc<Mutex<BTreeSet<PartitionId>>>,
    /// Four suspect times, for [`Bug::SlowHeir`].
    delay: Duration,
    /// Checkpoints so far.
    checkpoints: Arc<AtomicU64>,
}

/// How often a request is repeated at once by [`Bug::RetryStorm`].
const STORM: usize = 50;

impl BuggyStore {
    pub(crate) fn new(inner: StoreClient, bug: Option<Bug>, suspect_time: Duration) -> Self {
        Self {
            inner,
            bug,
            written: Arc::default(),
            delay: suspect_time * 4,
            checkpoints: Arc::default(),
        }
    }

    fn pretended(condition: &WriteCondition) -> WriteOutcome {
        let etag = match condition {
            WriteCondition::Matches(etag) => etag.clone(),
            _ => ETag::new("0x0"),
        };
        WriteOutcome::Written(Written {
            etag,
            last_modified: None,
        })
    }

    /// Whether an ownership write is under way.
    pub(crate) fn is_claiming(&self) -> bool {
        self.inner.is_claiming()
    }

    fn remember(&self, partition_id: &PartitionId) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        !written.insert(partition_id.clone())
    }
}

#[async_trait]
impl CheckpointStore for BuggyStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let mut listing = self.inner.list_ownership(scope).await;
        for _ in 0..STORM {
            if self.bug != Some(Bug::RetryStorm) || listing.is_ok() {
                break;
            }
            listing = self.inner.list_ownership(scope).await;
        }
        let mut listing = listing?;
        match self.bug {
            Some(Bug::HalfListing) => {
                let mut is_kept = false;
                listing.ownerships.retain(|_| {
                    is_kept = !is_kept;
                    is_kept
                });
            }
            Some(Bug::SlowHeir) => listing.as_of -= self.delay,
            Some(Bug::SkewedDate) => listing.as_of += Duration::from_secs(200),
            _ => {}
        }
        Ok(listing)
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        match self.bug {
            Some(Bug::SilentRelinquish) if owner_id.is_none() => {
                return Ok(Self::pretended(condition));
            }
            Some(Bug::NeverRenew) if owner_id.is_some() && self.remember(partition_id) => {
                return Ok(Self::pretended(condition));
            }
            _ => {}
        }
        let unconditional = WriteCondition::Unconditional;
        let sent = if self.bug == Some(Bug::UnconditionalOwnership) && owner_id.is_some() {
            &unconditional
        } else {
            condition
        };
        let outcome = self
            .inner
            .claim_ownership(scope, partition_id, owner_id, sent)
            .await;
        if self.bug == Some(Bug::FailedAsWritten)
            && !matches!(outcome, Ok(WriteOutcome::Written(_)))
        {
            return Ok(Self::pretended(condition));
        }
        Ok(match outcome? {
            WriteOutcome::Lost if self.bug == Some(Bug::LostAsWritten) => {
                Self::pretended(condition)
            }
            outcome => outcome,
        })
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.inner.list_checkpoints(scope).await
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let mut found = self.inner.checkpoint(scope, partition_id).await?;
        if self.bug == Some(Bug::CheckpointAhead)
            && let Some(StoredCheckpoint { checkpoint, .. }) = &mut found
        {
            checkpoint.sequence_number = checkpoint.sequence_number.map(|seq| seq + 1);
            checkpoint.offset = checkpoint
                .sequence_number
                .map(|seq| (seq * 100).to_string().into());
        }
        Ok(found)
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let number = self.checkpoints.fetch_add(1, Ordering::Relaxed);
        if self.bug == Some(Bug::AckUnwritten) && number % 5 == 4 {
            self.inner.acknowledged(checkpoint);
            return Ok(Self::pretended(condition));
        }
        let unconditional = WriteCondition::Unconditional;
        let sent = if self.bug == Some(Bug::UnconditionalCheckpoint) {
            &unconditional
        } else {
            condition
        };
        let outcome = self
            .inner
            .update_checkpoint(scope, checkpoint, sent)
            .await?;
        if matches!(outcome, WriteOutcome::Written(_)) {
            self.inner.acknowledged(checkpoint);
        }
        if self.bug == Some(Bug::NaiveCheckpoint) && matches!(outcome, WriteOutcome::Lost) {
            let found = self
                .inner
                .checkpoint(scope, &checkpoint.partition_id)
                .await?;
            let newer = found.map_or(WriteCondition::Absent, |found| found.condition());
            return self
                .inner
                .update_checkpoint(scope, checkpoint, &newer)
                .await;
        }
        Ok(outcome)
    }
}
