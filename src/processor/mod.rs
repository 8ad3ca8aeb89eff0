//! The event processor: shares an event hub's partitions with other processors and calls the application's handler.

mod budget;
mod builder;
mod calls;
mod checkpointer;
mod context;
mod control;
mod control_thread;
mod cycle;
mod deliver;
mod failure;
mod fence;
mod former;
mod handler;
mod handover;
mod inbox;
mod linger;
mod options;
mod parallel;
mod policies;
mod progress;
mod pull;
mod pump;
mod register;
mod report;
mod restart;
mod sequence;
mod signal;
mod start;
mod status;
mod stop;
mod stopper;
mod term;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;

pub use budget::MemoryBudget;
pub use builder::EventProcessorBuilder;
pub use context::PartitionContext;
pub use failure::{FailureAction, FailurePolicy};
pub use handler::{CloseReason, EventHandler, HandlerResult, handler_fn, handler_fn_with};
pub use options::{ControlThread, LoadBalancingProfile, ProcessorOptions, UnprovenOwnership};
pub use policies::{CheckpointPolicy, CheckpointRegression, InvalidPosition};
pub use pull::{Partition, Partitions, PullProcessor};
pub use status::{
    LoadBalancingStatus, PartitionState, PartitionStatus, ProcessorStatus, StatusWatch,
    StorageOperations,
};
pub use stop::StopReport;
pub use stopper::Stopper;

use self::checkpointer::Notes;
use self::control::Control;
use self::control_thread::{Place, Thread};
use self::pump::Shared;
use self::restart::{Restart, RestartSlot, Restarts};
use self::status::Board;
use self::stopper::Running;
use crate::checkpoint::CheckpointStore;
use crate::error::{CheckpointError, ProcessorError};
use crate::model::{EventPosition, GroupScope, OwnerId, PartitionId};
use crate::transport::Transport;

/// Reads an event hub in a consumer group, together with every other processor of that group.
///
/// It claims its share of the partitions through ownership records in the [`CheckpointStore`], reads each in a task of
/// its own, calls the [`EventHandler`], and gives partitions up and takes them over as processors come and go. The
/// records are those of the Azure SDKs, so processors of any language can share the group.
///
/// # Examples
///
/// ```no_run
/// use eventhubs_processor::{
///     AmqpTransport, BlobCheckpointStore, EventPosition, EventProcessor, handler_fn,
/// };
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let hub = AmqpTransport::from_connection_string(&std::env::var("EVENTHUBS_CONNECTION_STRING")?, "telemetry")?;
/// let store = BlobCheckpointStore::from_connection_string(
///     &std::env::var("STORAGE_CONNECTION_STRING")?,
///     "checkpoints",
/// )?;
/// let processor = EventProcessor::builder(hub, "$Default", store)
///     .with_default_starting_position(EventPosition::Earliest)
///     .build(handler_fn(async |context, event| {
///         println!("{} {}", context.partition_id(), event.body_as_str());
///         context.update_checkpoint(&event).await?;
///         Ok(())
///     }))?;
/// let stop = CancellationToken::new();
/// processor.run(stop).await?;
/// # Ok(())
/// # }
/// ```
pub struct EventProcessor {
    shared: Arc<Shared>,
    /// Where the calls of `shared` to the event hub and the store run.
    place: Place,
    running: Running,
}

impl EventProcessor {
    /// Starts to describe a processor that reads `consumer_group` over `transport` and keeps its records in `store`.
    pub fn builder(
        transport: impl Transport,
        consumer_group: impl Into<String>,
        store: impl CheckpointStore,
    ) -> EventProcessorBuilder {
        EventProcessorBuilder::new(Arc::new(transport), consumer_group.into(), Arc::new(store))
    }

    /// Identity of this processor in ownership records.
    #[must_use]
    pub fn owner_id(&self) -> &OwnerId {
        &self.shared.owner_id
    }

    /// The consumer group it reads, with its event hub and namespace.
    #[must_use]
    pub fn scope(&self) -> &GroupScope {
        &self.shared.scope
    }

    /// Stops this processor from anywhere, also before it runs.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.shared.stopper.clone()
    }

    /// A look at the processor from outside, for when it runs.
    #[must_use]
    pub fn status_watch(&self) -> StatusWatch {
        StatusWatch::new(Arc::clone(&self.shared.board))
    }

    /// Runs until `shutdown` is cancelled or a [`Stopper`] asks, then stops gracefully: no new event is handed out, running handlers finish
    /// (up to `shutdown_timeout`; a second after that it is over in any case), partitions are closed and given back, links are closed. If other processors of this
    /// crate are alive, each partition is first read on until one of them has claimed it
    /// ([`linger`](ProcessorOptions::linger)).
    ///
    /// No failure of the event hub, of the store or of the handler ends it; they go to
    /// [`EventHandler::on_error`] and are tried again.
    ///
    /// # Errors
    ///
    /// [`ProcessorError`] if at the start the event hub or the store does not exist or refuses the credentials.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a crash: handlers are cut where they wait, nothing is given back, and other processors
    /// take the partitions once the ownership has expired. No task is left behind.
    pub async fn run(self, shutdown: CancellationToken) -> Result<StopReport, ProcessorError> {
        let Self {
            shared,
            place,
            running,
        } = self;
        let is_thread_wanted = shared.options.control_thread.is_wanted();
        // Made here: hooks run where the caller runs.
        let control = Control::new(shared, &shutdown);
        let result = if is_thread_wanted {
            let thread = Thread::start().map_err(ProcessorError::ControlThread)?;
            place.set(thread.handle());
            let control = control.run().in_current_span().with_current_subscriber();
            ended(AbortOnDropHandle::new(thread.handle().spawn(control)).await)
        } else {
            // The loop's state is large; one box here keeps callers' futures small.
            Box::pin(control.run()).await
        };
        drop(running);
        result
    }

    /// Runs in a task of its own.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn spawn(self) -> ProcessorHandle {
        let stopper = self.stopper();
        let owner_id = self.shared.owner_id.clone();
        let (notes, restarts) = (
            Arc::clone(&self.shared.notes),
            Arc::clone(&self.shared.restarts),
        );
        let board = Arc::clone(&self.shared.board);
        let task = AbortOnDropHandle::new(tokio::spawn(self.run(CancellationToken::new())));
        ProcessorHandle {
            owner_id,
            board,
            notes,
            restarts,
            stopper,
            task,
        }
    }
}

impl fmt::Debug for EventProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventProcessor")
            .field("shared", &self.shared)
            .finish()
    }
}

/// A processor that runs in a task. Dropping the handle without [`shutdown`](Self::shutdown) is a crash, as for
/// [`EventProcessor::run`].
#[derive(Debug)]
pub struct ProcessorHandle {
    owner_id: OwnerId,
    board: Arc<Board>,
    notes: Arc<Notes>,
    restarts: Arc<Restarts>,
    stopper: Stopper,
    task: AbortOnDropHandle<Result<StopReport, ProcessorError>>,
}

impl ProcessorHandle {
    /// Identity of the processor in ownership records.
    #[must_use]
    pub fn owner_id(&self) -> &OwnerId {
        &self.owner_id
    }

    /// Whether the processor has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// What the processor is doing: its partitions, how far each is, and what it has counted.
    #[must_use]
    pub fn status(&self) -> ProcessorStatus {
        self.board.status()
    }

    /// A watch on [`status`](Self::status).
    #[must_use]
    pub fn status_watch(&self) -> StatusWatch {
        StatusWatch::new(Arc::clone(&self.board))
    }

    /// Reads a partition again from `position`, or skips to it: [`PartitionContext::seek`] from outside.
    ///
    /// # Errors
    ///
    /// [`OwnershipLost`](CheckpointError::OwnershipLost) if this processor does not read the partition. If the partition
    /// moves on at the same time, the wish is lost without an error.
    pub fn seek(
        &self,
        partition_id: &PartitionId,
        position: EventPosition,
    ) -> Result<(), CheckpointError> {
        self.restart(partition_id, Restart::Seek(position))
    }

    /// Moves a partition to `position`, for every later reader too: [`PartitionContext::reset_to`] from outside.
    ///
    /// # Errors
    ///
    /// As [`seek`](Self::seek).
    pub fn reset_to(
        &self,
        partition_id: &PartitionId,
        position: EventPosition,
    ) -> Result<(), CheckpointError> {
        self.restart(partition_id, Restart::Reset(position))
    }

    fn restart(&self, partition_id: &PartitionId, restart: Restart) -> Result<(), CheckpointError> {
        self.slot(partition_id)
            .map(|slot| slot.ask(restart))
            .ok_or(CheckpointError::OwnershipLost)
    }

    /// Hands out no more events of a partition once the running hook has returned; it stays owned.
    /// [`PartitionContext::pause`] from outside. Returns whether this processor reads the partition; if not, nothing
    /// happens.
    pub fn pause(&self, partition_id: &PartitionId) -> bool {
        self.slot(partition_id).map(|slot| slot.pause()).is_some()
    }

    /// Goes on with a partition that was paused, or stopped by
    /// [`FailureAction::StopPartition`]. Returns whether this processor reads the partition.
    pub fn resume(&self, partition_id: &PartitionId) -> bool {
        self.slot(partition_id).map(|slot| slot.resume()).is_some()
    }

    fn slot(&self, partition_id: &PartitionId) -> Option<Arc<RestartSlot>> {
        self.restarts.of(partition_id)
    }

    /// How many checkpoints somebody else had moved back and this processor has written again
    /// ([`CheckpointRegression::Heal`]). Each is logged as well.
    #[must_use]
    pub fn checkpoint_regressions_repaired(&self) -> u64 {
        self.notes.regressions_repaired.load(Ordering::Relaxed)
    }

    /// Stops this processor from anywhere. It does not keep it running: only the handle does.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Stops gracefully and waits until that is done, which takes at most
    /// [`shutdown_timeout`](ProcessorOptions::shutdown_timeout) and a second. Not for a hook of the processor, which the
    /// stop waits for: there, use [`PartitionContext::stop_processor`].
    ///
    /// # Errors
    ///
    /// The [`ProcessorError`] that had ended the processor before, if one had.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a crash.
    pub async fn shutdown(self) -> Result<StopReport, ProcessorError> {
        self.stopper.stop();
        self.join().await
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
        self.stopper.stop_within(timeout);
        self.join().await
    }

    /// Waits until the processor ends.
    ///
    /// # Errors
    ///
    /// As [`EventProcessor::run`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a crash.
    pub async fn join(self) -> Result<StopReport, ProcessorError> {
        ended(self.task.await)
    }
}

/// How a processor in a task of its own has ended.
fn ended(
    joined: Result<Result<StopReport, ProcessorError>, JoinError>,
) -> Result<StopReport, ProcessorError> {
    match joined {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Only a runtime that shuts down cancels the task.
        Err(_) => Ok(StopReport::default()),
    }
}
