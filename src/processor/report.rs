//! Calls into the application: contained, and none of them can hold up load balancing.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::PartitionContext;
use super::handler::{ErasedHandler, HandlerResult};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::{DeadLetterError, ProcessingError};
use crate::telemetry;

/// Runs one hook. A panic ends as an error; its payload is not looked at, since it may quote an event.
pub(super) async fn contained<T>(
    hook: &'static str,
    call: impl Future<Output = HandlerResult<T>>,
) -> Result<T, ProcessingError> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ProcessingError::Handler { hook, source }),
        Err(_) => Err(ProcessingError::HandlerPanicked { hook }),
    }
}

/// Stores a dead letter, once. Without a sink that fails: `build` refuses a policy that needs one, but not an error of
/// the handler that asks for it.
pub(super) async fn bury(
    sink: Option<&dyn DeadLetterSink>,
    letter: &DeadLetter,
) -> Result<(), DeadLetterError> {
    let sink = sink.ok_or(DeadLetterError::NoSink)?;
    // Within the future, so that nothing runs outside of what is contained.
    let stored = async { sink.store(letter).await };
    match contained("store", stored).await {
        Ok(()) => Ok(()),
        Err(ProcessingError::Handler { source, .. }) => Err(DeadLetterError::Store(source)),
        Err(_) => Err(DeadLetterError::Panicked),
    }
}

/// Tells the application and the log about trouble in a partition, in the partition's own task.
pub(super) async fn report(
    handler: &dyn ErasedHandler,
    context: Option<&PartitionContext>,
    error: &ProcessingError,
) {
    let partition_id = context.map(|context| context.partition_id().as_str());
    let _running = context.map(|context| {
        let cell = context.checkpointer().cell();
        cell.failed(error);
        cell.runs("on_error")
    });
    tracing::warn!(
        target: telemetry::PROCESSOR,
        partition_id,
        error = %telemetry::chain(error), reaction = %error.reaction(),
        "the processor goes on after an error"
    );
    let hook = async {
        handler.on_error(context, error).await;
        Ok(())
    };
    if contained("on_error", hook).await.is_err() {
        tracing::error!(target: telemetry::PROCESSOR, partition_id, "on_error panicked");
    }
}

/// Errors that wait for a slow `on_error`; more are only logged.
const PENDING_REPORTS: usize = 64;

/// Tells the application about trouble that concerns no single partition, from a task of its own: an `on_error`
/// that hangs must not stop renewals.
#[derive(Debug)]
pub(super) struct Reporter {
    errors: mpsc::Sender<ProcessingError>,
    _task: AbortOnDropHandle<()>,
}

impl Reporter {
    pub(super) fn new(handler: Arc<dyn ErasedHandler>) -> Self {
        let (errors, mut pending) = mpsc::channel::<ProcessingError>(PENDING_REPORTS);
        let task = tokio::spawn(async move {
            while let Some(error) = pending.recv().await {
                report(&*handler, None, &error).await;
            }
        });
        Self {
            errors,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn report(&self, error: ProcessingError) {
        if let Err(mpsc::error::TrySendError::Full(error)) = self.errors.try_send(error) {
            let error = telemetry::chain(&error);
            tracing::warn!(target: telemetry::PROCESSOR, %error, "on_error is too slow to be told");
        }
    }
}
