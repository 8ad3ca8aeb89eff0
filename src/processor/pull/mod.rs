//! The pull face: partitions, and their events, as streams.

mod partition;
mod puller;
mod seat;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, ready};

pub use self::partition::Partition;
use self::puller::Offers;
pub(super) use self::puller::Puller;
use super::{EventProcessor, PartitionContext, ProcessorHandle, StopReport, Stopper};
use crate::error::{ProcessingError, ProcessorError};
use crate::model::OwnerId;

/// A processor without a handler: the application asks for partitions, and each partition for events. From
/// [`EventProcessorBuilder::build_pull`](super::EventProcessorBuilder::build_pull).
///
/// Everything else is as with a handler: load balancing, checkpoints and their policies, failures, the stop.
///
/// # Examples
///
/// ```no_run
/// use eventhubs_processor::{AmqpTransport, BlobCheckpointStore, CheckpointPolicy, EventProcessor};
///
/// # async fn example(hub: AmqpTransport, store: BlobCheckpointStore) -> Result<(), Box<dyn std::error::Error>> {
/// let mut partitions = EventProcessor::builder(hub, "$Default", store)
///     .with_checkpoint_policy(CheckpointPolicy::Automatic)
///     .build_pull()?
///     .on_error(|_, error| eprintln!("{error}"))
///     .spawn();
/// let stopper = partitions.stopper();
/// tokio::spawn(async move {
///     if tokio::signal::ctrl_c().await.is_ok() {
///         stopper.stop();
///     }
/// });
/// while let Some(partition) = partitions.next().await {
///     let mut partition = partition?;
///     tokio::spawn(async move {
///         while let Some(event) = partition.next().await {
///             println!("{} {}", partition.partition_id(), event.body_as_str());
///         }
///     });
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is read before it is spawned"]
pub struct PullProcessor {
    processor: EventProcessor,
    puller: Arc<Puller>,
}

impl PullProcessor {
    pub(super) fn new(processor: EventProcessor, puller: Arc<Puller>) -> Self {
        Self { processor, puller }
    }

    /// Called for all trouble that the processor survives, with the partition it concerns if it concerns one, as
    /// [`EventHandler::on_error`](super::EventHandler::on_error). Must not block.
    pub fn on_error<F>(self, on_error: F) -> Self
    where
        F: Fn(Option<&PartitionContext>, &ProcessingError) + Send + Sync + 'static,
    {
        self.puller.set_on_error(Box::new(on_error));
        self
    }

    /// Identity of this processor in ownership records.
    #[must_use]
    pub fn owner_id(&self) -> &OwnerId {
        self.processor.owner_id()
    }

    /// Stops this processor from anywhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.processor.stopper()
    }

    /// Runs in a task of its own.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn(self) -> Partitions {
        Partitions {
            offers: Arc::clone(self.puller.offers()),
            stopper: self.processor.stopper(),
            handle: Some(self.processor.spawn()),
            report: StopReport::default(),
        }
    }
}

/// The partitions of a running [`PullProcessor`], each as it falls to this processor; one comes again when it starts
/// anew. Dropping this is a crash, as for [`ProcessorHandle`].
///
/// A partition that nobody takes stays owned and its link open; what waits in memory stays within the limits of
/// [`prefetch`](super::ProcessorOptions::prefetch).
#[derive(Debug)]
#[must_use = "dropping this stops the processor as a crash does"]
pub struct Partitions {
    offers: Arc<Offers>,
    stopper: Stopper,
    /// Until it has ended.
    handle: Option<ProcessorHandle>,
    report: StopReport,
}

impl Partitions {
    /// The running processor, to ask it for more; `None` once its end was told.
    #[must_use]
    pub fn handle(&self) -> Option<&ProcessorHandle> {
        self.handle.as_ref()
    }

    /// Stops this processor from anywhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// The next partition to read. `None` once the processor has stopped.
    ///
    /// # Errors
    ///
    /// The [`ProcessorError`] that ended the processor, as for [`EventProcessor::run`]; after that, `None`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no partition.
    pub async fn next(&mut self) -> Option<Result<Partition, ProcessorError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Stops gracefully and waits until that is done: the streams end, and whoever reads them has
    /// [`shutdown_timeout`](super::ProcessorOptions::shutdown_timeout) to drop them. Whoever holds a [`Partition`] in the
    /// same task waits for itself.
    ///
    /// # Errors
    ///
    /// The [`ProcessorError`] that had ended the processor before, if one had and was not told yet.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a crash.
    pub async fn shutdown(self) -> Result<StopReport, ProcessorError> {
        match self.handle {
            Some(handle) => handle.shutdown().await,
            None => Ok(self.report),
        }
    }

    /// As [`shutdown`](Self::shutdown), with another timeout.
    ///
    /// # Errors
    ///
    /// As [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a crash.
    pub async fn shutdown_within(self, timeout: Duration) -> Result<StopReport, ProcessorError> {
        match self.handle {
            Some(handle) => handle.shutdown_within(timeout).await,
            None => Ok(self.report),
        }
    }
}

impl Stream for Partitions {
    type Item = Result<Partition, ProcessorError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // First, so that nothing comes unnoticed in between.
        this.offers.taker.register(cx.waker());
        if let Some(partition) = this.offers.take() {
            return Poll::Ready(Some(Ok(partition)));
        }
        let Some(handle) = &mut this.handle else {
            return Poll::Ready(None);
        };
        let ended = ready!(handle.task.poll_unpin(cx));
        this.handle = None;
        // Of terms that had no time to end.
        this.offers.clear();
        match super::ended(ended) {
            Ok(report) => {
                this.report = report;
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
