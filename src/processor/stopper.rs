//! Stopping a processor, from outside and from within.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::MAX_DURATION;
use super::stop::StopReport;
use crate::error::{ProcessingError, ProcessorError};
use crate::model::PartitionId;

/// Stops a processor gracefully, from anywhere: from a signal handler, another task, or a hook of the processor itself.
/// Clones stop the same processor; it may be stopped before it runs, and more than once.
///
/// From [`EventProcessor::stopper`](super::EventProcessor::stopper) and
/// [`ProcessorHandle::stopper`](super::ProcessorHandle::stopper); inside a hook,
/// [`PartitionContext::stop_processor`](super::PartitionContext::stop_processor) does the same.
#[derive(Clone, Debug)]
pub struct Stopper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    asked: CancellationToken,
    /// When the stop is to be done, once it has been asked for.
    deadline: watch::Sender<Option<Instant>>,
    /// What a stop may take unless somebody says otherwise.
    timeout: Duration,
    cause: Mutex<Option<ProcessorError>>,
    end: watch::Sender<Option<End>>,
}

#[derive(Clone, Debug)]
enum End {
    Stopped(StopReport),
    /// Dropped, or never able to start.
    Otherwise,
}

impl Stopper {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                asked: CancellationToken::new(),
                deadline: watch::Sender::new(None),
                timeout,
                cause: Mutex::default(),
                end: watch::Sender::new(None),
            }),
        }
    }

    /// Asks the processor to stop within its [`shutdown_timeout`](super::ProcessorOptions::shutdown_timeout), and returns
    /// at once. Does nothing if that was asked before.
    pub fn stop(&self) {
        if !self.is_stopping() {
            self.stop_within(self.shared.timeout);
        }
    }

    /// Asks the processor to stop within `timeout`, whatever its `shutdown_timeout` says, and returns at once. If the stop
    /// was asked for before, it is done by the earlier of the two deadlines: a second call can only hurry.
    ///
    /// At the deadline, hooks that still run are cut. The stop is over at most a second later.
    pub fn stop_within(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout.min(MAX_DURATION);
        self.shared.deadline.send_if_modified(|earlier| {
            let is_earliest = earlier.is_none_or(|earlier| deadline < earlier);
            if is_earliest {
                *earlier = Some(deadline);
            }
            is_earliest
        });
        self.shared.asked.cancel();
    }

    /// Whether a stop has been asked for.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.asked.is_cancelled()
    }

    /// Waits until the processor has stopped, which this alone does not ask for. All who wait get the same report. `None`:
    /// there was no stop to report, because the processor was dropped or could not start.
    ///
    /// A hook that waits for the stop of its own processor keeps that stop from ending: it is cut at the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn stopped(&self) -> Option<StopReport> {
        let mut end = self.shared.end.subscribe();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(End::Stopped(report))) => Some(report.clone()),
            // The sender is `self`, so it never fails.
            Ok(_) | Err(_) => None,
        }
    }

    /// Stops the processor because of a failure in a partition. The first one counts.
    pub(super) fn because(&self, partition_id: PartitionId, error: ProcessingError) {
        let mut cause = self.lock_cause();
        cause.get_or_insert_with(|| ProcessorError::Handler {
            partition_id,
            source: Box::new(error),
        });
        drop(cause);
        self.stop();
    }

    /// Completes when the processor is to stop. Cancel safe.
    pub(super) async fn asked(&self) {
        self.shared.asked.cancelled().await;
    }

    /// Why it was stopped, if it was stopped from within.
    pub(super) fn take_cause(&self) -> Option<ProcessorError> {
        self.lock_cause().take()
    }

    fn lock_cause(&self) -> std::sync::MutexGuard<'_, Option<ProcessorError>> {
        // A panic cannot leave the value half written.
        self.shared
            .cause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left for the stop: all of it, if none was asked for.
    pub(super) fn left(&self) -> Duration {
        match *self.shared.deadline.borrow() {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => self.shared.timeout,
        }
    }

    /// Completes `extra` after the deadline, also if the deadline comes nearer meanwhile. Cancel safe.
    pub(super) async fn overdue(&self, extra: Duration) {
        let mut deadline = self.shared.deadline.subscribe();
        loop {
            let at = *deadline.borrow_and_update();
            let passed = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at + extra).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                // The sender is `self`.
                _ = deadline.changed() => {}
            }
        }
    }

    /// Completes when the deadline comes nearer than it is now. Cancel safe.
    pub(super) fn hurried(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut deadline = self.shared.deadline.subscribe();
        async move {
            if deadline.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells all who wait.
    pub(super) fn ended(&self, report: StopReport) {
        self.shared.end.send_replace(Some(End::Stopped(report)));
    }
}

/// Tells all who wait for the stop when the processor goes without one.
#[derive(Debug)]
pub(super) struct Running(pub(super) Stopper);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shared.end.send_if_modified(|end| {
            let is_news = end.is_none();
            end.get_or_insert(End::Otherwise);
            is_news
        });
    }
}
