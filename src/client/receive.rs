//! A call of `receive`, before it is awaited.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::callbacks::Callbacks;
use crate::error::{BuildError, ProcessingError, ProcessorError};
use crate::model::{EventPosition, PartitionId};
use crate::processor::{
    CheckpointPolicy, CloseReason, EventProcessorBuilder, HandlerResult, PartitionContext,
    ProcessorOptions, StatusWatch, StopReport,
};

/// What [`receive`](super::EventHubConsumerClient::receive) returns: takes the optional arguments and starts when
/// awaited.
///
/// # Cancel safety
///
/// Dropping the future is a crash, as for [`EventProcessor::run`](crate::EventProcessor::run);
/// [`close`](super::EventHubConsumerClient::close) stops it gracefully.
#[must_use = "receiving starts when this is awaited"]
pub struct Receive {
    builder: EventProcessorBuilder,
    callbacks: Callbacks,
    closing: CancellationToken,
    shutdown: Option<CancellationToken>,
    take_status: Option<Box<dyn FnOnce(StatusWatch) + Send>>,
    receiving: TaskTracker,
}

/// Why [`receive`](super::EventHubConsumerClient::receive) did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// An option cannot work.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The event hub or the store cannot be used.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
}

impl Receive {
    /// Most events of one `on_event_batch` call unless told otherwise; the Python default.
    pub const DEFAULT_MAX_BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(300).unwrap();

    pub(super) fn new(
        builder: EventProcessorBuilder,
        callbacks: Callbacks,
        closing: CancellationToken,
        receiving: TaskTracker,
    ) -> Self {
        Self {
            builder,
            callbacks,
            closing,
            shutdown: None,
            take_status: None,
            receiving,
        }
    }

    /// Replaces all options; see [`ProcessorOptions`].
    pub fn with_options(mut self, options: ProcessorOptions) -> Self {
        self.builder = self.builder.with_options(options);
        self
    }

    /// Where to start in partitions that have no checkpoint. Default: [`Latest`](EventPosition::Latest).
    pub fn with_starting_position(mut self, position: EventPosition) -> Self {
        self.builder = self.builder.with_default_starting_position(position);
        self
    }

    /// The same for one partition.
    pub fn with_partition_starting_position(
        mut self,
        partition_id: impl Into<PartitionId>,
        position: EventPosition,
    ) -> Self {
        self.builder = self.builder.with_starting_position(partition_id, position);
        self
    }

    /// When checkpoints are written. Default: [`Manual`](CheckpointPolicy::Manual), by the handler.
    pub fn with_checkpoint_policy(mut self, policy: CheckpointPolicy) -> Self {
        self.builder = self.builder.with_checkpoint_policy(policy);
        self
    }

    /// Most events of one `on_event_batch` call.
    pub fn with_max_batch_size(mut self, max_batch_size: NonZeroUsize) -> Self {
        self.builder = self.builder.with_max_batch_size(max_batch_size);
        self
    }

    /// How long a batch may take to fill. Default: a batch is what is there.
    pub fn with_max_wait_time(mut self, max_wait_time: Duration) -> Self {
        self.builder = self.builder.with_max_wait_time(max_wait_time);
        self
    }

    /// How many events may wait in memory for each partition. Default: 300.
    pub fn with_prefetch(mut self, prefetch: NonZeroU32) -> Self {
        self.builder = self.builder.with_prefetch(prefetch);
        self
    }

    /// Sets anything else of the processor that receives: concurrency, failure policy, dead letters, …
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use eventhubs_processor::{EventHubConsumerClient, FailureAction, FailurePolicy, Receive};
    /// # fn more(receive: Receive) -> Receive {
    /// receive.with_processor(|processor| {
    ///     processor
    ///         .with_concurrency(NonZeroUsize::new(16).unwrap())
    ///         .with_failure_policy(FailurePolicy::retry(3).then(FailureAction::Skip))
    /// })
    /// # }
    /// ```
    pub fn with_processor(
        mut self,
        change: impl FnOnce(EventProcessorBuilder) -> EventProcessorBuilder,
    ) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// Hands out a watch on what the processor is doing, once it is about to run.
    pub fn with_status(mut self, take: impl FnOnce(StatusWatch) + Send + 'static) -> Self {
        self.take_status = Some(Box::new(take));
        self
    }

    /// Stops gracefully when `shutdown` is cancelled, as well as by
    /// [`close`](super::EventHubConsumerClient::close).
    pub fn with_shutdown(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Called for all trouble that receiving survives, with the partition it concerns if it concerns one.
    pub fn on_error<F>(mut self, on_error: F) -> Self
    where
        F: Fn(Option<&PartitionContext>, &ProcessingError) + Send + Sync + 'static,
    {
        self.callbacks.on_error = Some(Box::new(on_error));
        self
    }

    /// Called before the first event of a partition.
    pub fn on_partition_initialize<F, Fut>(mut self, on_partition_initialize: F) -> Self
    where
        F: Fn(PartitionContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.callbacks.on_partition_initialize = Some(Box::new(move |context| {
            on_partition_initialize(context).boxed()
        }));
        self
    }

    /// Called after the last event of a partition, with the reason.
    pub fn on_partition_close<F, Fut>(mut self, on_partition_close: F) -> Self
    where
        F: Fn(PartitionContext, CloseReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.callbacks.on_partition_close = Some(Box::new(move |context, reason| {
            on_partition_close(context, reason).boxed()
        }));
        self
    }
}

impl IntoFuture for Receive {
    type Output = Result<StopReport, ReceiveError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            builder,
            callbacks,
            closing,
            shutdown,
            take_status,
            receiving,
        } = self;
        let receive = async move {
            let processor = builder.build(callbacks)?;
            if let Some(take) = take_status {
                take(processor.status_watch());
            }
            let run = processor.run(closing.clone());
            let Some(shutdown) = shutdown else {
                return Ok(run.await?);
            };
            tokio::pin!(run);
            tokio::select! {
                result = &mut run => Ok(result?),
                () = shutdown.cancelled() => {
                    closing.cancel();
                    Ok(run.await?)
                }
            }
        };
        receiving.track_future(receive).boxed()
    }
}

impl fmt::Debug for Receive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive")
            .field("builder", &self.builder)
            .finish_non_exhaustive()
    }
}
