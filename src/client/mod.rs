//! The short way in: a client that reads like the Python one.

mod callbacks;
mod receive;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use receive::{Receive, ReceiveError};

use self::callbacks::Callbacks;
use crate::checkpoint::CheckpointStore;
use crate::error::{BuildError, TransportError};
use crate::model::{EventHubProperties, PartitionId, PartitionProperties, ReceivedEvent};
use crate::processor::{EventProcessorBuilder, HandlerResult, PartitionContext};
use crate::transport::{AmqpOptions, AmqpTransport, Transport};

/// Receives from an event hub, sharing its partitions with every other consumer of the group.
///
/// The counterpart of the Python SDK's `EventHubConsumerClient` with a checkpoint store. Clones share one connection.
/// For a handler with state, options in one value or a handle on the running processor, use
/// [`EventProcessor`](crate::EventProcessor).
///
/// # Examples
///
/// ```no_run
/// use eventhubs_processor::{BlobCheckpointStore, EventHubConsumerClient, EventPosition};
///
/// # async fn example(hub: &str, storage: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let store = BlobCheckpointStore::from_connection_string(storage, "checkpoints")?;
/// let client = EventHubConsumerClient::from_connection_string(hub, "$Default", "telemetry", store)?;
/// client
///     .receive(async |context, event| {
///         println!("{} {}", context.partition_id(), event.body_as_str());
///         context.update_checkpoint(&event).await?;
///         Ok(())
///     })
///     .with_starting_position(EventPosition::Earliest)
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EventHubConsumerClient {
    transport: Arc<dyn Transport>,
    consumer_group: String,
    store: Arc<dyn CheckpointStore>,
    closing: CancellationToken,
    receiving: TaskTracker,
}

impl EventHubConsumerClient {
    /// A client for the event hub that a connection string names.
    ///
    /// `event_hub_name` may be `None` if the connection string has an `EntityPath`; if both are given they must agree.
    ///
    /// # Errors
    ///
    /// [`BuildError`], naming what is wrong, never the secret in it.
    pub fn from_connection_string<'a>(
        connection_string: &str,
        consumer_group: impl Into<String>,
        event_hub_name: impl Into<Option<&'a str>>,
        checkpoint_store: impl CheckpointStore,
    ) -> Result<Self, BuildError> {
        Self::from_connection_string_with_options(
            connection_string,
            consumer_group,
            event_hub_name,
            checkpoint_store,
            AmqpOptions::default(),
        )
    }

    /// The same with options: a transport type, a proxy, a custom endpoint, whom to trust, timeouts.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use eventhubs_processor::{
    /// #     AmqpOptions, BlobCheckpointStore, EventHubConsumerClient, HttpProxy, TransportType,
    /// # };
    /// # fn example(hub: &str, store: BlobCheckpointStore) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let options = AmqpOptions::default()
    ///     .with_transport_type(TransportType::AmqpWebSockets)
    ///     .with_proxy(HttpProxy::new("http://proxy.contoso.com:3128")?);
    /// let client = EventHubConsumerClient::from_connection_string_with_options(
    ///     hub, "$Default", "telemetry", store, options,
    /// )?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`from_connection_string`](Self::from_connection_string).
    pub fn from_connection_string_with_options<'a>(
        connection_string: &str,
        consumer_group: impl Into<String>,
        event_hub_name: impl Into<Option<&'a str>>,
        checkpoint_store: impl CheckpointStore,
        options: AmqpOptions,
    ) -> Result<Self, BuildError> {
        let transport = AmqpTransport::from_connection_string_with_options(
            connection_string,
            event_hub_name,
            options,
        )?;
        Ok(Self::new(transport, consumer_group, checkpoint_store))
    }

    /// A client over any transport.
    pub fn new(
        transport: impl Transport,
        consumer_group: impl Into<String>,
        checkpoint_store: impl CheckpointStore,
    ) -> Self {
        Self {
            transport: Arc::new(transport),
            consumer_group: consumer_group.into(),
            store: Arc::new(checkpoint_store),
            closing: CancellationToken::new(),
            receiving: TaskTracker::new(),
        }
    }

    /// Receives from all partitions that fall to this consumer and calls `on_event` for each event, until
    /// [`close`](Self::close). What is returned is started by `.await`, after any options; on a closed client it ends
    /// at once.
    pub fn receive<F, Fut>(&self, on_event: F) -> Receive
    where
        F: Fn(PartitionContext, ReceivedEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.receive_with(Callbacks::on_event(on_event))
    }

    /// The same, calling `on_event_batch` with the events that are there: at most 300, the Python default, unless
    /// [`with_max_batch_size`](Receive::with_max_batch_size) says otherwise.
    pub fn receive_batch<F, Fut>(&self, on_event_batch: F) -> Receive
    where
        F: Fn(PartitionContext, Vec<ReceivedEvent>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.receive_with(Callbacks::on_event_batch(on_event_batch))
            .with_max_batch_size(Receive::DEFAULT_MAX_BATCH_SIZE)
    }

    fn receive_with(&self, callbacks: Callbacks) -> Receive {
        let builder = EventProcessorBuilder::new(
            Arc::clone(&self.transport),
            self.consumer_group.clone(),
            Arc::clone(&self.store),
        );
        Receive::new(
            builder,
            callbacks,
            self.closing.child_token(),
            self.receiving.clone(),
        )
    }

    /// Reads the properties of the event hub.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        self.transport.event_hub_properties().await
    }

    /// Reads the properties of a partition.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        self.transport.partition_properties(partition_id).await
    }

    /// Stops everything this client and its clones receive, gracefully, and closes the connection. Not to be awaited
    /// inside a handler: it waits for the handler.
    ///
    /// # Cancel safety
    ///
    /// The stop goes on if the future is dropped; calling again waits for it.
    pub async fn close(&self) {
        self.closing.cancel();
        self.receiving.close();
        self.receiving.wait().await;
        self.transport.close().await;
    }
}
