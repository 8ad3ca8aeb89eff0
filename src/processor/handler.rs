//! What the application does with events.

use std::fmt;
use std::future::Future;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::PartitionContext;
use crate::error::{BoxError, ProcessingError};
use crate::model::{EventPosition, ReceivedEvent};

/// What a hook returns: any error stops the partition's term and starts it again from its checkpoint.
pub type HandlerResult<T = ()> = Result<T, BoxError>;

/// Why a partition's term ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler failed or a message could not be read; this processor starts the partition again.
    Failed,
    /// Another processor took the partition. Checkpoints of this term are refused from now on.
    OwnershipLost,
    /// The partition starts again elsewhere, as [`seek`](PartitionContext::seek),
    /// [`reset_to`](PartitionContext::reset_to) or a rewound checkpoint ask for. Checkpoints of this term are refused
    /// from now on.
    Restarted,
    /// The processor is stopping, or it passes the partition on to another processor of this crate, which waits.
    /// Checkpoints are still accepted in `on_partition_close`.
    Shutdown,
    /// No event came although there were some, and nothing helped: this processor gives the partition back
    /// ([`stall_timeout`](super::ProcessorOptions::stall_timeout)). Checkpoints of this term are refused from now on.
    Stalled,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "Failed",
            Self::OwnershipLost => "OwnershipLost",
            Self::Restarted => "Restarted",
            Self::Shutdown => "Shutdown",
            Self::Stalled => "Stalled",
        })
    }
}

/// Processes the events of all partitions that the processor owns.
///
/// For one partition the hooks are called one after the other, never concurrently; for different partitions they run
/// in parallel. A slow hook delays its own partition only. The stop of a partition waits for the hook that is running and
/// starts no other but the close hook; it does not cut it before the shutdown timeout. An error or a panic ends the partition's *term*: it goes
/// to [`on_error`](Self::on_error), and the partition starts again from its checkpoint, after a wait that doubles
/// from failure to failure.
///
/// A hook that *blocks its thread* (computes for long, calls blocking code) holds up others on the same runtime: other
/// partitions wait until a worker is free. On a runtime with several threads that is all: load balancing, renewals and the connection have a
/// thread of their own ([`ControlThread`](super::ControlThread)). On a current-thread runtime a hook that blocks stops everything, unless that is
/// changed; others then take the partitions after the suspect time, and the processor notices when it goes on, before
/// the next event is handed out. What blocks belongs into `spawn_blocking`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event handler",
    note = "wrap a closure or async fn in `handler_fn(..)`, or in `handler_fn_with(state, ..)` if it captures state"
)]
pub trait EventHandler: Send + Sync + 'static {
    /// Called for each event, in the order of the partition.
    fn on_event(
        &self,
        context: &PartitionContext,
        event: ReceivedEvent,
    ) -> impl Future<Output = HandlerResult> + Send;

    /// Called with up to `max_batch_size` events instead of [`on_event`](Self::on_event), if that option is set.
    /// Calls `on_event` for each unless implemented.
    fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> impl Future<Output = HandlerResult> + Send {
        async move {
            for event in events {
                self.on_event(context, event).await?;
            }
            Ok(())
        }
    }

    /// Called when no event came for `max_wait_time`.
    fn on_idle(&self, _context: &PartitionContext) -> impl Future<Output = HandlerResult> + Send {
        async { Ok(()) }
    }

    /// Called before the first event of a term. May name the position to start from if the partition has no
    /// checkpoint; `None` leaves it to the options.
    fn on_partition_initialize(
        &self,
        _context: &PartitionContext,
    ) -> impl Future<Output = HandlerResult<Option<EventPosition>>> + Send {
        async { Ok(None) }
    }

    /// Called after the last event of a term. On [`CloseReason::Shutdown`] a checkpoint can still be written.
    fn on_partition_close(
        &self,
        _context: &PartitionContext,
        _reason: CloseReason,
    ) -> impl Future<Output = HandlerResult> + Send {
        async { Ok(()) }
    }

    /// Called for all trouble that the processor survives, with the partition it concerns if it concerns one. The
    /// error says what failed; why is in its [`source`](std::error::Error::source).
    fn on_error(
        &self,
        _context: Option<&PartitionContext>,
        _error: &ProcessingError,
    ) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Makes a handler of a closure or `async fn`.
///
/// ```
/// # use eventhubs_processor::{handler_fn, EventHandler, PartitionContext, ReceivedEvent};
/// # fn check(_: impl EventHandler) {}
/// # check(
/// handler_fn(async |context: PartitionContext, event: ReceivedEvent| {
///     println!("{}: {}", context.partition_id(), event.body_as_str());
///     context.update_checkpoint(&event).await?;
///     Ok(())
/// })
/// # );
/// ```
///
/// A closure that captures state cannot be an `async` closure (Rust does not let it be called again); use
/// [`handler_fn_with`], or clone the state before an `async move` block.
pub fn handler_fn<F, Fut>(on_event: F) -> impl EventHandler
where
    F: Fn(PartitionContext, ReceivedEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    OnEvent(on_event)
}

/// Makes a handler of a closure or `async fn` and the state that it needs, which it gets as a clone.
///
/// ```
/// # use std::sync::Arc;
/// # use std::sync::atomic::{AtomicU64, Ordering};
/// # use eventhubs_processor::{handler_fn_with, EventHandler};
/// # fn check(_: impl EventHandler) {}
/// let count = Arc::new(AtomicU64::new(0));
/// # check(
/// handler_fn_with(count, async |count, context, event| {
///     count.fetch_add(1, Ordering::Relaxed);
///     context.update_checkpoint(&event).await?;
///     Ok(())
/// })
/// # );
/// ```
pub fn handler_fn_with<S, F, Fut>(state: S, on_event: F) -> impl EventHandler
where
    S: Clone + Send + Sync + 'static,
    F: Fn(S, PartitionContext, ReceivedEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    OnEvent(move |context, event| on_event(state.clone(), context, event))
}

struct OnEvent<F>(F);

impl<F, Fut> EventHandler for OnEvent<F>
where
    F: Fn(PartitionContext, ReceivedEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    fn on_event(
        &self,
        context: &PartitionContext,
        event: ReceivedEvent,
    ) -> impl Future<Output = HandlerResult> + Send {
        (self.0)(context.clone(), event)
    }
}

/// [`EventHandler`] in the form that can be stored without its type, so that the processor is not generic. Nothing of a
/// hook runs, or panics, before its future is polled.
pub(crate) trait ErasedHandler: Send + Sync + 'static {
    fn on_event<'a>(
        &'a self,
        context: &'a PartitionContext,
        event: ReceivedEvent,
    ) -> BoxFuture<'a, HandlerResult>;

    fn on_event_batch<'a>(
        &'a self,
        context: &'a PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> BoxFuture<'a, HandlerResult>;

    fn on_idle<'a>(&'a self, context: &'a PartitionContext) -> BoxFuture<'a, HandlerResult>;

    fn on_partition_initialize<'a>(
        &'a self,
        context: &'a PartitionContext,
    ) -> BoxFuture<'a, HandlerResult<Option<EventPosition>>>;

    fn on_partition_close<'a>(
        &'a self,
        context: &'a PartitionContext,
        reason: CloseReason,
    ) -> BoxFuture<'a, HandlerResult>;

    fn on_error<'a>(
        &'a self,
        context: Option<&'a PartitionContext>,
        error: &'a ProcessingError,
    ) -> BoxFuture<'a, ()>;
}

impl<H: EventHandler> ErasedHandler for H {
    fn on_event<'a>(
        &'a self,
        context: &'a PartitionContext,
        event: ReceivedEvent,
    ) -> BoxFuture<'a, HandlerResult> {
        async move { EventHandler::on_event(self, context, event).await }.boxed()
    }

    fn on_event_batch<'a>(
        &'a self,
        context: &'a PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> BoxFuture<'a, HandlerResult> {
        async move { EventHandler::on_event_batch(self, context, events).await }.boxed()
    }

    fn on_idle<'a>(&'a self, context: &'a PartitionContext) -> BoxFuture<'a, HandlerResult> {
        async move { EventHandler::on_idle(self, context).await }.boxed()
    }

    fn on_partition_initialize<'a>(
        &'a self,
        context: &'a PartitionContext,
    ) -> BoxFuture<'a, HandlerResult<Option<EventPosition>>> {
        async move { EventHandler::on_partition_initialize(self, context).await }.boxed()
    }

    fn on_partition_close<'a>(
        &'a self,
        context: &'a PartitionContext,
        reason: CloseReason,
    ) -> BoxFuture<'a, HandlerResult> {
        async move { EventHandler::on_partition_close(self, context, reason).await }.boxed()
    }

    fn on_error<'a>(
        &'a self,
        context: Option<&'a PartitionContext>,
        error: &'a ProcessingError,
    ) -> BoxFuture<'a, ()> {
        async move { EventHandler::on_error(self, context, error).await }.boxed()
    }
}
