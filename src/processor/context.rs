//! What a handler is told about the partition it is called for.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::checkpointer::Checkpointer;
use super::progress::Place;
use super::pump::Shared;
use super::report::bury;
use super::restart::Restart;
use super::stopper::Stopper;
use super::writer::SharedProgress;
use crate::dead_letter::{DeadLetter, DeadLetterSink, Source};
use crate::error::{CheckpointError, DeadLetterError};
use crate::model::{
    EventPosition, GroupScope, LastEnqueuedEventProperties, OwnerId, PartitionId, ReceivedEvent,
};

/// One term of one partition: which it is, and where to write its progress. Cheap to clone, and harmless to keep:
/// once the term has ended, checkpoints are refused.
#[derive(Clone)]
pub struct PartitionContext {
    inner: Arc<Inner>,
}

struct Inner {
    scope: GroupScope,
    partition_id: PartitionId,
    owner_id: OwnerId,
    checkpointer: Checkpointer,
    stopping: CancellationToken,
    /// Takes checkpoints while the events before may not be done yet.
    wishes: Option<Arc<SharedProgress>>,
    /// The last event that was delivered.
    last: Mutex<Option<ReceivedEvent>>,
    stopper: Stopper,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
}

impl PartitionContext {
    /// Keeps parts of `shared`, not the whole: a handler may keep contexts, and would never be dropped.
    pub(super) fn new(
        shared: &Shared,
        checkpointer: Checkpointer,
        stopping: CancellationToken,
        wishes: Option<Arc<SharedProgress>>,
    ) -> Self {
        let partition_id = checkpointer.partition_id().clone();
        let inner = Inner {
            scope: shared.scope.clone(),
            partition_id,
            owner_id: shared.owner_id.clone(),
            checkpointer,
            stopping,
            wishes,
            last: Mutex::default(),
            stopper: shared.stopper.clone(),
            dead_letters: shared.dead_letters.clone(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Host name of the namespace.
    #[must_use]
    pub fn fully_qualified_namespace(&self) -> &str {
        self.inner.scope.fully_qualified_namespace()
    }

    /// Name of the event hub.
    #[must_use]
    pub fn event_hub_name(&self) -> &str {
        self.inner.scope.event_hub_name()
    }

    /// Name of the consumer group.
    #[must_use]
    pub fn consumer_group(&self) -> &str {
        self.inner.scope.consumer_group()
    }

    /// The partition.
    #[must_use]
    pub fn partition_id(&self) -> &PartitionId {
        &self.inner.partition_id
    }

    /// Identity of the processor, as it stands in the ownership record.
    #[must_use]
    pub fn owner_id(&self) -> &OwnerId {
        &self.inner.owner_id
    }

    /// The newest event of the partition, as of the last event delivered. `None` before the first event, or if
    /// `track_last_enqueued_event_properties` is off.
    #[must_use]
    pub fn last_enqueued_event_properties(&self) -> Option<LastEnqueuedEventProperties> {
        self.last().as_ref()?.last_enqueued().cloned()
    }

    /// Completes when the term is about to end: the processor stops or the partition was lost. A long handler may
    /// watch it to cut its work short.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn stopping(&self) {
        self.inner.stopping.cancelled().await;
    }

    /// Stops the whole processor gracefully, as [`Stopper::stop`] does from outside: returns at once; this hook may
    /// finish, and none but the close hook follows.
    pub fn stop_processor(&self) {
        self.inner.stopper.stop();
    }

    /// Stores an event as a dead letter, in the sink of the processor
    /// ([`with_dead_letter_sink`](super::EventProcessorBuilder::with_dead_letter_sink)): for a hook that gets a batch and
    /// cannot process one event of it. What becomes of the event after that is the hook's matter, as that of all others.
    ///
    /// Tries once. A hook that returns the error leaves the rest to the failure policy.
    ///
    /// # Errors
    ///
    /// [`DeadLetterError::NoSink`] if the processor has none; otherwise what kept the event from being stored.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves it open whether the event was stored. Storing it again is harmless.
    pub async fn dead_letter(
        &self,
        event: &ReceivedEvent,
        reason: impl fmt::Display + Send,
    ) -> Result<(), DeadLetterError> {
        let source = Source {
            scope: &self.inner.scope,
            partition_id: &self.inner.partition_id,
            owner_id: &self.inner.owner_id,
        };
        let letter = DeadLetter::new(source, event, &reason.to_string(), 1);
        bury(self.inner.dead_letters.as_deref(), &letter).await
    }

    /// Stores that everything up to and including `event` is done: whoever reads the partition next starts after it.
    ///
    /// The stored checkpoint never moves backwards: for an event that lies before it the call succeeds without a
    /// write. Only [`reset_to`](Self::reset_to) and the policies
    /// [`CheckpointRegression::Adopt`](super::CheckpointRegression::Adopt) and
    /// [`InvalidPosition`](super::InvalidPosition) make an exception.
    ///
    /// With [`concurrency`](super::ProcessorOptions::concurrency) the call only notes the wish and returns: the checkpoint is
    /// written as soon as this event and everything before it is done, and a failure goes to
    /// [`on_error`](super::EventHandler::on_error).
    ///
    /// # Errors
    ///
    /// [`OwnershipLost`](CheckpointError::OwnershipLost) once the term has ended;
    /// [`NotDelivered`](CheckpointError::NotDelivered) for an event that this term has not delivered;
    /// [`OwnershipUnproven`](CheckpointError::OwnershipUnproven) while the partition may be somebody else's;
    /// [`MovedBack`](CheckpointError::MovedBack) if somebody rewound the checkpoint and that is to be adopted;
    /// [`Store`](CheckpointError::Store) or [`Unknown`](CheckpointError::Unknown) if the store failed. Any later
    /// checkpoint makes good for one that failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves it open whether the checkpoint was written; calling again is harmless.
    pub async fn update_checkpoint(&self, event: &ReceivedEvent) -> Result<(), CheckpointError> {
        let offset = event.offset().clone();
        if let Some(wishes) = &self.inner.wishes {
            self.inner.checkpointer.check(event.sequence_number())?;
            wishes.wish(Place::of(event));
            return Ok(());
        }
        self.inner
            .checkpointer
            .write(event.sequence_number(), offset)
            .await
    }

    /// Reads this partition again from `position`, or skips to it. The term ends once the running hook has returned
    /// (close reason [`Restarted`](super::CloseReason::Restarted)), and a new one begins there.
    ///
    /// The stored checkpoint does not move back: until the partition passes it, checkpoints succeed without a write.
    /// So a replay is this processor's alone, and ends with the partition's stay here: a crash, a stop or another owner
    /// goes on from the stored checkpoint. After a failure of the handler this processor goes on after the last event
    /// of the replay that it checkpointed. Use [`reset_to`](Self::reset_to) for a replay that outlives a crash.
    ///
    /// # Errors
    ///
    /// [`OwnershipLost`](CheckpointError::OwnershipLost) once the term has ended.
    pub fn seek(&self, position: EventPosition) -> Result<(), CheckpointError> {
        self.restart(Restart::Seek(position))
    }

    /// Moves this partition to `position`, for every later reader too: as [`seek`](Self::seek), and the next checkpoint
    /// replaces the stored one, even by a lower sequence number. A [`CheckpointPolicy`](super::CheckpointPolicy) writes
    /// it as soon as the first event is done.
    ///
    /// A checkpoint names an event that is done, so until there is one the old checkpoint stays: a crash, a stop or
    /// another owner before that goes on from the old checkpoint, and the reset has to be asked for again. If another
    /// owner checkpoints a higher sequence number meanwhile, that stands.
    ///
    /// # Errors
    ///
    /// As [`seek`](Self::seek).
    pub fn reset_to(&self, position: EventPosition) -> Result<(), CheckpointError> {
        self.restart(Restart::Reset(position))
    }

    /// Hands out no more events of this partition once the running hook has returned, until [`resume`](Self::resume).
    /// The partition stays owned and its link open; what waits in memory stays within the limits of
    /// [`prefetch`](super::ProcessorOptions::prefetch). Holds for as long as this processor owns the partition.
    pub fn pause(&self) {
        self.inner.checkpointer.restarts().pause();
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.inner.checkpointer.restarts().resume();
    }

    /// Whether the partition is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.inner.checkpointer.restarts().is_paused()
    }

    fn restart(&self, restart: Restart) -> Result<(), CheckpointError> {
        let checkpointer = &self.inner.checkpointer;
        if checkpointer.has_ended() {
            return Err(CheckpointError::OwnershipLost);
        }
        checkpointer.restarts().ask(restart);
        Ok(())
    }

    pub(super) fn checkpointer(&self) -> &Checkpointer {
        &self.inner.checkpointer
    }

    /// Notes that `event` goes to the handler now.
    pub(super) fn note_delivery(&self, event: &ReceivedEvent) {
        self.inner.checkpointer.delivered(event.sequence_number());
        *self.last() = Some(event.clone());
    }

    fn last(&self) -> MutexGuard<'_, Option<ReceivedEvent>> {
        // A panic cannot leave the value half written.
        self.inner
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PartitionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionContext")
            .field("scope", &self.inner.scope)
            .field("partition_id", &self.inner.partition_id)
            .field("owner_id", &self.inner.owner_id)
            .finish_non_exhaustive()
    }
}
