//! A thread for what must go on while hooks block the application's: load balancing, calls to the store, the connection.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;

use super::options::ControlThread;
use crate::checkpoint::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome,
};
use crate::error::{LastError, StoreError, StoreErrorKind, TransportError, TransportErrorKind};
use crate::model::{
    Checkpoint, EventHubProperties, GroupScope, OwnerId, PartitionId, PartitionProperties,
};
use crate::transport::{PartitionReceiver, ReceiverOptions, Transport};

impl ControlThread {
    /// Whether a processor that is run here gets a thread.
    pub(super) fn is_wanted(self) -> bool {
        match self {
            Self::Auto => Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread,
            Self::Own => true,
            Self::Shared => false,
        }
    }
}

/// A runtime on a thread of its own, until this is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    handle: Handle,
    _stop: DropGuard,
}

impl Thread {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("eventhubs-control".to_owned())
            .spawn(move || {
                runtime.block_on(stopped.cancelled());
                // What is left, such as a connection, ends here; nobody waits for a blocking call that hangs.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            _stop: stop.drop_guard(),
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Where the calls to the event hub and to the store run: on the caller's runtime, until [`set`](Self::set) says
/// otherwise.
///
/// INVARIANT: all of them run on the same runtime. A connection lives on the one that it was made on, and a pool hands
/// it to whoever asks: one made on a runtime that is blocked would be as dead for all others.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(Arc<OnceLock<Handle>>);

/// The thread has ended, and with it the processor.
#[derive(Debug)]
pub(super) struct Gone;

impl Place {
    pub(super) fn set(&self, handle: &Handle) {
        // A processor runs once.
        let _ = self.0.set(handle.clone());
    }

    /// # Cancel safety
    ///
    /// As `call`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Gone> {
        let Some(handle) = self.0.get() else {
            return Ok(call.await);
        };
        let call = call.in_current_span().with_current_subscriber();
        match AbortOnDropHandle::new(handle.spawn(call)).await {
            Ok(value) => Ok(value),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Gone),
        }
    }
}

impl From<Gone> for TransportError {
    fn from(Gone: Gone) -> Self {
        Self::new(TransportErrorKind::Closed, "the processor has ended")
    }
}

impl From<Gone> for StoreError {
    fn from(Gone: Gone) -> Self {
        Self::new(StoreErrorKind::Unavailable, "the processor has ended")
    }
}

/// Something whose calls are made at a place.
#[derive(Debug)]
pub(super) struct At<T: ?Sized> {
    pub(super) place: Place,
    pub(super) inner: Arc<T>,
}

#[async_trait]
impl Transport for At<dyn Transport> {
    fn fully_qualified_namespace(&self) -> &str {
        self.inner.fully_qualified_namespace()
    }

    fn event_hub_name(&self) -> &str {
        self.inner.event_hub_name()
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        let inner = Arc::clone(&self.inner);
        let call = async move { inner.event_hub_properties().await };
        self.place.run(call).await?
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        let (inner, partition_id) = (Arc::clone(&self.inner), partition_id.clone());
        let call = async move { inner.partition_properties(&partition_id).await };
        self.place.run(call).await?
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        let inner = Arc::clone(&self.inner);
        let call = async move { inner.open_receiver(options).await };
        self.place.run(call).await?
    }

    fn take_trouble(&self) -> Option<TransportError> {
        self.inner.take_trouble()
    }

    fn credential_error(&self) -> Option<LastError> {
        self.inner.credential_error()
    }

    async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        // Where the thread is gone, so is the connection.
        let _ = self.place.run(async move { inner.close().await }).await;
    }
}

#[async_trait]
impl CheckpointStore for At<dyn CheckpointStore> {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let (inner, scope) = (Arc::clone(&self.inner), scope.clone());
        let call = async move { inner.list_ownership(&scope).await };
        self.place.run(call).await?
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let inner = Arc::clone(&self.inner);
        let (scope, partition_id) = (scope.clone(), partition_id.clone());
        let (owner_id, condition) = (owner_id.cloned(), condition.clone());
        let call = async move {
            inner
                .claim_ownership(&scope, &partition_id, owner_id.as_ref(), &condition)
                .await
        };
        written(self.place.run(call).await)
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let (inner, scope) = (Arc::clone(&self.inner), scope.clone());
        let call = async move { inner.list_checkpoints(&scope).await };
        self.place.run(call).await?
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let inner = Arc::clone(&self.inner);
        let (scope, partition_id) = (scope.clone(), partition_id.clone());
        let call = async move { inner.checkpoint(&scope, &partition_id).await };
        self.place.run(call).await?
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let inner = Arc::clone(&self.inner);
        let (scope, checkpoint) = (scope.clone(), checkpoint.clone());
        let condition = condition.clone();
        let call = async move {
            inner
                .update_checkpoint(&scope, &checkpoint, &condition)
                .await
        };
        written(self.place.run(call).await)
    }

    fn credential_error(&self) -> Option<LastError> {
        self.inner.credential_error()
    }
}

/// A write that was cut off may have taken effect.
fn written(
    outcome: Result<Result<WriteOutcome, StoreError>, Gone>,
) -> Result<WriteOutcome, StoreError> {
    outcome.unwrap_or_else(|gone| Ok(WriteOutcome::Unknown(gone.into())))
}
