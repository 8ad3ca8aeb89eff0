//! A store that counts what it is asked.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::StorageOperations;
use crate::checkpoint::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome,
};
use crate::error::{LastError, StoreError};
use crate::model::{Checkpoint, GroupScope, OwnerId, PartitionId};

/// How often each operation was asked for, and how many failed.
#[derive(Debug, Default)]
pub(in crate::processor) struct StoreCalls {
    list_ownership: AtomicU64,
    claim_ownership: AtomicU64,
    list_checkpoints: AtomicU64,
    checkpoint: AtomicU64,
    update_checkpoint: AtomicU64,
    failed: AtomicU64,
}

impl StoreCalls {
    pub(super) fn status(&self) -> StorageOperations {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StorageOperations {
            list_ownership: read(&self.list_ownership),
            claim_ownership: read(&self.claim_ownership),
            list_checkpoints: read(&self.list_checkpoints),
            checkpoint: read(&self.checkpoint),
            update_checkpoint: read(&self.update_checkpoint),
            failed: read(&self.failed),
        }
    }
}

/// Passes every call on.
#[derive(Debug)]
pub(in crate::processor) struct CountedStore {
    inner: Arc<dyn CheckpointStore>,
    calls: Arc<StoreCalls>,
}

impl CountedStore {
    pub(in crate::processor) fn new(inner: Arc<dyn CheckpointStore>) -> (Self, Arc<StoreCalls>) {
        let calls = Arc::<StoreCalls>::default();
        let store = Self {
            inner,
            calls: Arc::clone(&calls),
        };
        (store, calls)
    }

    async fn count<T>(
        &self,
        count: &AtomicU64,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        count.fetch_add(1, Ordering::Relaxed);
        let result = call.await;
        if result.is_err() {
            self.calls.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

#[async_trait]
impl CheckpointStore for CountedStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let call = self.inner.list_ownership(scope);
        self.count(&self.calls.list_ownership, call).await
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let call = self
            .inner
            .claim_ownership(scope, partition_id, owner_id, condition);
        self.count(&self.calls.claim_ownership, call).await
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let call = self.inner.list_checkpoints(scope);
        self.count(&self.calls.list_checkpoints, call).await
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let call = self.inner.checkpoint(scope, partition_id);
        self.count(&self.calls.checkpoint, call).await
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let call = self.inner.update_checkpoint(scope, checkpoint, condition);
        self.count(&self.calls.update_checkpoint, call).await
    }

    fn credential_error(&self) -> Option<LastError> {
        self.inner.credential_error()
    }
}
