//! The seam to storage: ownership and checkpoint records, and the stores that keep them.

#[cfg(feature = "unstable-bench")]
pub(crate) mod bench;
mod blob;
#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod memory;
pub(crate) mod validate;

pub(crate) use blob::BlobFolder;
pub use blob::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, BlobStoreConfigError,
    CheckpointMigration, LegacyCheckpoints, LegacyLayout, NameCase, OtherSpelling, SplitGroup,
};
pub use memory::InMemoryCheckpointStore;

pub use crate::model::WriteCondition;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::{LastError, StoreError};
use crate::model::{Checkpoint, ETag, GroupScope, OwnerId, Ownership, PartitionId};

/// What became of a write.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteOutcome {
    /// The record now holds what was written.
    Written(Written),
    /// The condition did not hold: somebody else wrote first. A normal outcome, not an error.
    Lost,
    /// Nobody can tell whether the write took effect (the reply was lost, the deadline passed). Read the record
    /// before believing either.
    Unknown(StoreError),
}

/// What a store tells about a record it has just written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Version of the record now.
    pub etag: ETag,
    /// When it was written, by the store's clock.
    pub last_modified: Option<SystemTime>,
}

/// All ownership records of a group, read in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnershipListing {
    /// When the store answered, by its own clock: ages are `as_of - last_modified`, so that no local clock
    /// decides who is alive.
    pub as_of: SystemTime,
    /// The records, in any order. A record that cannot be understood is reported as unowned.
    pub ownerships: Vec<Ownership>,
}

/// A checkpoint as a store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The position.
    pub checkpoint: Checkpoint,
    /// Version of the record, for the next conditional write. `None` where the position comes from elsewhere, such
    /// as a record in an older format: there is nothing to replace yet, and the next write creates.
    pub etag: Option<ETag>,
}

impl StoredCheckpoint {
    /// The condition under which a write replaces exactly this checkpoint.
    #[must_use]
    pub fn condition(&self) -> WriteCondition {
        let etag = self.etag.clone();
        etag.map_or(WriteCondition::Absent, WriteCondition::Matches)
    }
}

/// Keeps ownership and checkpoint records. One store may serve many groups.
///
/// The method names are those of the other SDKs' `CheckpointStore`; what differs is that every write says on what
/// it depends, and that losing a race is an outcome. Implementations put their own deadline on every call.
#[async_trait]
pub trait CheckpointStore: fmt::Debug + Send + Sync + 'static {
    /// Reads all ownership records of the group.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. One odd record must not fail the listing.
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError>;

    /// Writes `owner_id` as the owner of a partition: claims, renews or steals it. `None` gives it back.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; nothing was written then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves it open whether the write took effect, as [`WriteOutcome::Unknown`] does.
    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError>;

    /// Reads all checkpoints of the group. Records that cannot be understood are left out (and logged): they fail
    /// [`checkpoint`](Self::checkpoint) for their partition only.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError>;

    /// Reads the checkpoint of one partition.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; [`MalformedRecord`](crate::error::StoreErrorKind::MalformedRecord) if there is a
    /// record but no position can be read from it.
    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError>;

    /// Writes a checkpoint.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; nothing was written then. [`InvalidValue`](crate::error::StoreErrorKind::InvalidValue)
    /// if the offset or the sequence number is missing: such a record stops whole groups of other SDKs.
    ///
    /// # Cancel safety
    ///
    /// As for [`claim_ownership`](Self::claim_ownership).
    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError>;

    /// Why the credential gave nothing the last time that it was asked; `None` if it did give something. The processor
    /// looks once a second and shows it in its [status](crate::ProcessorStatus::store_credential_error). The default
    /// knows of nothing.
    fn credential_error(&self) -> Option<LastError> {
        None
    }
}

#[async_trait]
impl<S: CheckpointStore + ?Sized> CheckpointStore for Arc<S> {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        (**self).list_ownership(scope).await
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        (**self)
            .claim_ownership(scope, partition_id, owner_id, condition)
            .await
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        (**self).list_checkpoints(scope).await
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        (**self).checkpoint(scope, partition_id).await
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        (**self)
            .update_checkpoint(scope, checkpoint, condition)
            .await
    }

    fn credential_error(&self) -> Option<LastError> {
        (**self).credential_error()
    }
}
