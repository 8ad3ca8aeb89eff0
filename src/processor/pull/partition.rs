//! One term of one partition, as a stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::oneshot;

use super::seat::{Found, Left, Seat};
use crate::error::{BoxError, CheckpointError};
use crate::model::{PartitionId, ReceivedEvent};
use crate::processor::PartitionContext;
use crate::processor::handler::{CloseReason, HandlerResult};
use crate::processor::restart::Restart;

/// One stay of one partition in this processor, as a stream of its events. From [`Partitions`](super::Partitions); made to
/// be moved into a task of its own.
///
/// Events come in the order of the partition, one at a time. An event counts as done, for a
/// [`CheckpointPolicy`](crate::CheckpointPolicy), when the next one is asked for, or with [`complete`](Self::complete). The
/// next event is not handed out before it is asked for, and the service sends no more than
/// [`prefetch`](crate::ProcessorOptions::prefetch) ahead.
///
/// The stream ends when the processor stops, when the partition is lost to another processor or starts again elsewhere,
/// and after a failure; [`close_reason`](Self::close_reason) says which. The processor waits until the `Partition` is
/// dropped: after a stop a last checkpoint can still be written, and in no case does the next stay begin beside this one.
/// So drop it soon.
///
/// Dropping it before the end ends the stay, and all events since the stored checkpoint come again in another `Partition`.
/// With an event that is not done yet this is a failure, and there is a wait that doubles from failure to failure.
#[must_use = "a partition that nobody reads stands still"]
pub struct Partition {
    context: PartitionContext,
    seat: Arc<Seat>,
    /// Where to say what became of the last event.
    outstanding: Option<oneshot::Sender<HandlerResult>>,
}

impl Partition {
    pub(super) fn new(context: PartitionContext, seat: Arc<Seat>) -> Self {
        Self {
            context,
            seat,
            outstanding: None,
        }
    }

    pub(super) fn is_at(&self, seat: &Arc<Seat>) -> bool {
        Arc::ptr_eq(&self.seat, seat)
    }

    /// The partition.
    #[must_use]
    pub fn partition_id(&self) -> &PartitionId {
        self.context.partition_id()
    }

    /// What else there is to know and to ask for: where it was read, seek, pause, dead letters. Cheap to clone, for what
    /// consumes the stream.
    #[must_use]
    pub fn context(&self) -> &PartitionContext {
        &self.context
    }

    /// The next event, which makes the one before count as done. `None`: the stay is over.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event; the one before counts as done all the same.
    pub async fn next(&mut self) -> Option<ReceivedEvent> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Has the last event count as done. Asking for the next one does that, too; this is for a consumer that does
    /// something else first.
    pub fn complete(&mut self) {
        self.settle(Ok(()));
    }

    /// Has the last event count as failed: the [`failure_policy`](crate::ProcessorOptions::failure_policy), or the error
    /// itself ([`FailureAction::because`](crate::FailureAction::because)), says what follows. If it is tried again, it
    /// comes again as the next event; by default the stream ends, and the events since the checkpoint come again in
    /// another `Partition`.
    ///
    /// Without an event that is not done it does nothing.
    pub fn fail(&mut self, error: impl Into<BoxError>) {
        self.settle(Err(error.into()));
    }

    /// As [`PartitionContext::update_checkpoint`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn update_checkpoint(&self, event: &ReceivedEvent) -> Result<(), CheckpointError> {
        self.context.update_checkpoint(event).await
    }

    /// Why the stream has ended. `None` if it has not, and if the processor was dropped.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.seat.close_reason()
    }

    fn settle(&mut self, result: HandlerResult) {
        if let Some(outstanding) = self.outstanding.take() {
            // Nobody waits for it any more if the processor is gone.
            let _ = outstanding.send(result);
        }
    }
}

impl Stream for Partition {
    type Item = ReceivedEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ReceivedEvent>> {
        let this = self.get_mut();
        this.complete();
        match this.seat.poll(cx) {
            Found::Event(delivery) => {
                this.outstanding = Some(delivery.settle);
                Poll::Ready(Some(delivery.event))
            }
            Found::End => Poll::Ready(None),
            Found::Nothing => {
                this.context.checkpointer().restarts().let_through();
                Poll::Pending
            }
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        let had_event = self.outstanding.take().is_some();
        if self.seat.leave() == Left::Running && !had_event {
            // What it has read since the checkpoint may be lost with it.
            self.context.checkpointer().restarts().ask(Restart::Again);
        }
        self.seat.vacate();
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("context", &self.context)
            .field("close_reason", &self.close_reason())
            .finish_non_exhaustive()
    }
}
