//! A store and an event hub whose calls do not return.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;

use super::support::FlakyStore;
use crate::checkpoint::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome,
};
use crate::error::{StoreError, TransportError};
use crate::model::{
    Checkpoint, EventHubProperties, GroupScope, OwnerId, PartitionId, PartitionProperties,
    ReceivedEvent,
};
use crate::transport::fake::FakeEventHub;
use crate::transport::{PartitionReceiver, ReceiverOptions, Transport};

/// What never returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hanging {
    Nothing,
    Event,
    Initialize,
    Close,
    Error,
    Idle,
    /// A handler that waits for the checkpoint of a store that hangs.
    Checkpoint,
    Store,
    /// The writing of ownership alone: a cycle does not end.
    Claim,
    /// The reading of checkpoints alone, before a term.
    Read,
    Attach,
    LinkClose,
    /// A handler that waits for the end of the stop that waits for it.
    Stop,
}

/// A switch that turns calls into endless ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(super) fn turn(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    async fn pass(&self) {
        if self.0.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }
}

#[derive(Debug)]
pub(super) struct StickyStore {
    pub(super) inner: FlakyStore,
    pub(super) hangs: Switch,
    pub(super) hanging: Hanging,
}

impl StickyStore {
    async fn pass(&self) {
        if self.hanging != Hanging::Claim {
            self.hangs.pass().await;
        }
    }
}

#[async_trait]
impl CheckpointStore for StickyStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        self.pass().await;
        self.inner.list_ownership(scope).await
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        self.hangs.pass().await;
        self.inner
            .claim_ownership(scope, partition_id, owner_id, condition)
            .await
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.pass().await;
        self.inner.list_checkpoints(scope).await
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.pass().await;
        if self.hanging == Hanging::Read {
            pending::<()>().await;
        }
        self.inner.checkpoint(scope, partition_id).await
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        self.pass().await;
        self.inner
            .update_checkpoint(scope, checkpoint, condition)
            .await
    }
}

/// An event hub whose links cannot be opened, or not be closed.
#[derive(Debug)]
pub(super) struct StickyHub {
    pub(super) inner: FakeEventHub,
    pub(super) hanging: Hanging,
    /// How many events were taken from all links.
    pub(super) taken: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct StickyReceiver {
    inner: Box<dyn PartitionReceiver>,
    close_hangs: bool,
    taken: Arc<AtomicUsize>,
}

#[async_trait]
impl Transport for StickyHub {
    fn fully_qualified_namespace(&self) -> &str {
        self.inner.fully_qualified_namespace()
    }

    fn event_hub_name(&self) -> &str {
        self.inner.event_hub_name()
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        self.inner.event_hub_properties().await
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        self.inner.partition_properties(partition_id).await
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        if self.hanging == Hanging::Attach {
            pending::<()>().await;
        }
        Ok(Box::new(StickyReceiver {
            inner: self.inner.open_receiver(options).await?,
            close_hangs: self.hanging == Hanging::LinkClose,
            taken: Arc::clone(&self.taken),
        }))
    }

    async fn close(&self) {}
}

#[async_trait]
impl PartitionReceiver for StickyReceiver {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        let events = self.inner.receive(max).await?;
        self.taken.fetch_add(events.len(), Ordering::Relaxed);
        Ok(events)
    }

    async fn close(self: Box<Self>) {
        if self.close_hangs {
            pending::<()>().await;
        }
        self.inner.close().await;
    }
}
