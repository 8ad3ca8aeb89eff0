//! Protocol bugs to plant around the library, so that the oracle can show that it would notice them.

use std::collections::BTreeSet;
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
    /// Partitions are not given back, and nobody is told.
    SilentRelinquish,
    /// Ages are taken by a clock that is 200 s ahead.
    SkewedDate,
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
    pub const ALL: [Self; 17] = [
        Self::CheckpointAhead,
        Self::CheckpointDelivered,
        Self::CorruptBody,
        Self::EarlyRelinquish,
        Self::HalfListing,
        Self::LostAsWritten,
        Self::NaiveCheckpoint,
        Self::NeverRenew,
        Self::NoOwnerLevel,
        Self::OpenAtLatest,
        Self::Reorder,
        Self::SilentRelinquish,
        Self::SkewedDate,
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
}

impl BuggyStore {
    pub(crate) fn new(inner: StoreClient, bug: Option<Bug>) -> Self {
        Self {
            inner,
            bug,
            written: Arc::default(),
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

    fn remember(&self, partition_id: &PartitionId) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        !written.insert(partition_id.clone())
    }
}

#[async_trait]
impl CheckpointStore for BuggyStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let mut listing = self.inner.list_ownership(scope).await?;
        match self.bug {
            Some(Bug::HalfListing) => {
                let mut is_kept = false;
                listing.ownerships.retain(|_| {
                    is_kept = !is_kept;
                    is_kept
                });
            }
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
            .await?;
        Ok(match outcome {
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
