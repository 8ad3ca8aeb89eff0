//! The short way in: a client that reads like the Python one.

mod callbacks;
mod receive;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use receive::{Receive, ReceiveError};

use self::callbacks::Callbacks;
use crate::checkpoint::CheckpointStore;
use crate::error::{BuildError, TransportError, TransportErrorKind};
use crate::model::{EventHubProperties, PartitionId, PartitionProperties, ReceivedEvent};
use crate::processor::{EventProcessorBuilder, HandlerResult, PartitionContext};
use crate::retry::RetryOptions;
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
    retry: RetryOptions,
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
            retry: RetryOptions::default(),
            closing: CancellationToken::new(),
            receiving: TaskTracker::new(),
        }
    }

    /// Sets how the operations of this client are tried again. Mode and delays also hold for what
    /// [`receive`](Self::receive) does, which goes on trying until it is stopped.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryOptions) -> Self {
        self.retry = retry;
        self
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
        )
        .with_retry_mode(self.retry.mode)
        .with_retry_delay(self.retry.delay, self.retry.max_delay);
        Receive::new(
            builder,
            callbacks,
            self.closing.child_token(),
            self.receiving.clone(),
        )
    }

    /// Reads the properties of the event hub, with as many tries as [`RetryOptions`] allow.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`], of the last try.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        self.retried("reading the properties of the event hub", || {
            self.transport.event_hub_properties()
        })
        .await
    }

    /// Reads the properties of a partition, with as many tries as [`RetryOptions`] allow.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`], of the last try.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        self.retried("reading the properties of a partition", || {
            self.transport.partition_properties(partition_id)
        })
        .await
    }

    /// Tries until it succeeds, cannot succeed, or has been tried often enough.
    async fn retried<T, F>(&self, doing: &str, attempt: impl Fn() -> F) -> Result<T, TransportError>
    where
        F: Future<Output = Result<T, TransportError>>,
    {
        let mut left = self.retry.max_retries;
        let mut backoff = self.retry.backoff();
        loop {
            let error = match timeout(self.retry.try_timeout, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => TransportError::new(TransportErrorKind::Timeout, doing),
            };
            if left == 0 || !error.is_transient() {
                return Err(error);
            }
            left -= 1;
            let wait = backoff.next_delay(error.retry_after(), &mut rand::rng());
            tracing::debug!(%error, ?wait, "trying again");
            tokio::time::sleep(wait).await;
        }
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
