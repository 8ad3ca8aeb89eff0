//! Writes checkpoints beside the handler, when a policy says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::PartitionContext;
use super::progress::{Next, Place, Progress};
use super::pump::Shared;
use crate::error::CheckpointError;
use crate::retry::Backoff;
use crate::telemetry;

/// The writer of one term. Dropping it cuts a write that is under way; what the store makes of that is no matter, since
/// each write is conditional.
#[derive(Debug)]
pub(super) struct Writer {
    state: Arc<SharedProgress>,
    errors: mpsc::Receiver<CheckpointError>,
    task: AbortOnDropHandle<()>,
}

/// What a writer and those who tell it of progress share.
#[derive(Debug)]
pub(super) struct SharedProgress {
    progress: Mutex<Progress>,
    /// The progress may have made a write due.
    changed: Notify,
    /// The last write is to be made.
    finishing: CancellationToken,
}

/// Failures that wait until the handler has returned; more are only logged.
const PENDING_ERRORS: usize = 8;

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        context: PartitionContext,
        state: Arc<SharedProgress>,
    ) -> Self {
        let (sender, errors) = mpsc::channel(PENDING_ERRORS);
        let writing = write(Arc::clone(&state), shared, context, sender);
        Self {
            state,
            errors,
            task: AbortOnDropHandle::new(tokio::spawn(writing)),
        }
    }

    /// Notes that the hook has returned `Ok` for `events` events, `place` the last of them.
    pub(super) fn completed(&self, place: Place, events: u64) {
        let now = Instant::now();
        if self.state.progress().completed(place, events, now) {
            self.state.changed.notify_one();
        }
    }

    pub(super) fn batch_ended(&self) {
        if self.state.progress().batch_ended() {
            self.state.changed.notify_one();
        }
    }

    /// The next failure of a write. Cancel safe.
    pub(super) async fn failed(&mut self) -> CheckpointError {
        match self.errors.recv().await {
            Some(error) => error,
            // The writer has ended, and the term is about to.
            None => std::future::pending().await,
        }
    }

    /// Lets the write under way end and writes what is left, once. Returns what failed.
    pub(super) async fn finish(mut self, limit: Duration) -> Vec<CheckpointError> {
        self.state.finishing.cancel();
        if timeout(limit, &mut self.task).await.is_err() {
            tracing::warn!(
                target: telemetry::PROCESSOR, ?limit,
                "the store did not answer in time for the last checkpoint of a partition"
            );
        }
        self.errors.close();
        std::iter::from_fn(|| self.errors.try_recv().ok()).collect()
    }
}

impl SharedProgress {
    pub(super) fn new(progress: Progress) -> Arc<Self> {
        Arc::new(Self {
            progress: Mutex::new(progress),
            changed: Notify::new(),
            finishing: CancellationToken::new(),
        })
    }

    /// Asks for a checkpoint as soon as everything up to `place` is done.
    pub(super) fn wish(&self, place: Place) {
        if self.progress().wish(place) {
            self.changed.notify_one();
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A panic cannot leave the progress half changed.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(
    state: Arc<SharedProgress>,
    shared: Arc<Shared>,
    context: PartitionContext,
    errors: mpsc::Sender<CheckpointError>,
) {
    let options = &shared.options;
    // The store is asked for by the load balancer at this pace too: on its return nobody waits for longer.
    let longest = options.max_retry_delay.min(options.load_balancing_interval);
    let mut backoff = Backoff::new(
        options.retry_mode,
        options.retry_delay.min(longest),
        longest,
    );
    loop {
        let is_last = state.finishing.is_cancelled();
        let next = if is_last {
            let unwritten = state.progress().unwritten();
            unwritten.map(Next::Write)
        } else {
            Some(state.progress().next(Instant::now()))
        };
        let place = match next {
            None => return,
            Some(Next::Write(place)) => place,
            Some(Next::WaitUntil(at)) => {
                tokio::select! {
                    () = state.finishing.cancelled() => {}
                    () = state.changed.notified() => {}
                    () = sleep_until(at) => {}
                }
                continue;
            }
            Some(Next::Wait) => {
                tokio::select! {
                    () = state.finishing.cancelled() => {}
                    () = state.changed.notified() => {}
                }
                continue;
            }
        };
        state.progress().write_began(&place);
        let (sequence_number, offset) = (place.sequence_number(), place.offset().clone());
        match context.checkpointer().write(sequence_number, offset).await {
            Ok(()) => {
                state.progress().write_succeeded();
                backoff.reset();
            }
            Err(error) => {
                let is_over = is_last || error.ends_term();
                let delay = shared.draw(|rng| backoff.next_delay(error.retry_after(), rng));
                state.progress().write_failed(Instant::now() + delay);
                // Why a term ends is told elsewhere.
                if error.is_ownership_lost() {
                    return;
                }
                if let Err(mpsc::error::TrySendError::Full(error)) = errors.try_send(error) {
                    let error = telemetry::chain(&error);
                    tracing::warn!(target: telemetry::PROCESSOR, %error, "a checkpoint was not written");
                }
                if is_over {
                    return;
                }
            }
        }
    }
}
