//! Calling the handler with events, and what follows when it fails.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::PartitionContext;
use super::failure::FailureAction;
use super::fence::Fence;
use super::handler::CloseReason;
use super::pump::Shared;
use super::report::{bury, contained, report};
use super::restart::RestartSlot;
use super::signal::StopSignal;
use super::status::PartitionCell;
use super::term::TermEnd;
use crate::dead_letter::{DeadLetter, Source};
use crate::error::ProcessingError;
use crate::model::{EventParts, ReceivedEvent, UndecodableEvent, UndecodableReason};
use crate::retry::Backoff;
use crate::telemetry;

/// How often a retry that waits for a proof of ownership looks for one.
const PROVE_EVERY: Duration = Duration::from_millis(500);

/// What one call of a hook is about.
#[derive(Debug)]
pub(super) enum Work {
    Event(ReceivedEvent),
    Batch(Vec<ReceivedEvent>),
    /// No hook is called for it.
    Undecodable {
        /// The encoded message in the place of a body, at the place where it was found.
        stand_in: ReceivedEvent,
        reason: UndecodableReason,
        /// Whether the message itself says where it stands.
        has_place: bool,
    },
}

impl Work {
    /// `after`: the event before it, for want of better knowledge of its place.
    pub(super) fn undecodable(undecodable: &UndecodableEvent, after: Option<i64>) -> Self {
        let place = undecodable.sequence_number().zip(undecodable.offset());
        let parts = EventParts::new(
            undecodable
                .sequence_number()
                .unwrap_or_else(|| after.map_or(0, |after| after.saturating_add(1))),
            undecodable.offset().cloned().unwrap_or_else(|| "".into()),
            undecodable
                .enqueued_time()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            undecodable.raw().clone(),
        );
        Self::Undecodable {
            stand_in: ReceivedEvent::new(parts),
            reason: undecodable.reason(),
            has_place: place.is_some(),
        }
    }

    /// The last event that a checkpoint could name.
    pub(super) fn last_place(&self) -> Option<&ReceivedEvent> {
        match self {
            Self::Undecodable {
                has_place: false, ..
            } => None,
            _ => self.events().last(),
        }
    }

    pub(super) fn events(&self) -> &[ReceivedEvent] {
        match self {
            Self::Event(event) => std::slice::from_ref(event),
            Self::Batch(events) => events,
            Self::Undecodable { stand_in, .. } => std::slice::from_ref(stand_in),
        }
    }
}

/// What became of work that had failed.
#[derive(Debug)]
pub(super) enum Settled {
    /// It counts as done.
    Done,
    /// It is not done, and the term ends.
    Ended(TermEnd),
}

/// Returned by a hook of ours that was told to end before the application took the event. No failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody took the event")]
pub(super) struct NotTaken;

impl NotTaken {
    fn is(error: &ProcessingError) -> bool {
        matches!(error, ProcessingError::Handler { source, .. } if source.is::<Self>())
    }
}

/// Calls the hooks of one term.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) context: PartitionContext,
    pub(super) signal: StopSignal,
    pub(super) fence: Arc<Fence>,
    pub(super) slot: Arc<RestartSlot>,
    pub(super) cell: Arc<PartitionCell>,
    /// Cancelled when the term has to end: nothing is tried again.
    pub(super) ending: CancellationToken,
}

impl Caller {
    /// Calls the hook once.
    ///
    /// CANCEL: not to be dropped before it is done; a stop waits for the call instead of cutting it.
    pub(super) async fn call(&self, work: &Work) -> Result<(), ProcessingError> {
        let handler = &*self.shared.handler;
        // Spans cost nothing unless somebody listens.
        match work {
            Work::Event(event) => {
                let _running = self.cell.runs("on_event");
                let hook = handler.on_event(&self.context, event.clone());
                let span = tracing::debug_span!(
                    target: telemetry::HANDLER, "on_event",
                    sequence_number = event.sequence_number(),
                    traceparent = event.trace_context().map(|trace| trace.trace_parent()),
                    tracestate = event.trace_context().and_then(|trace| trace.trace_state()),
                );
                contained("on_event", hook.instrument(span)).await
            }
            Work::Batch(events) => {
                let _running = self.cell.runs("on_event_batch");
                let hook = handler.on_event_batch(&self.context, events.clone());
                let span = tracing::debug_span!(
                    target: telemetry::HANDLER, "on_event_batch",
                    first = events.first().map(ReceivedEvent::sequence_number),
                    events = events.len()
                );
                contained("on_event_batch", hook.instrument(span)).await
            }
            Work::Undecodable {
                stand_in,
                reason,
                has_place,
            } => Err(ProcessingError::Undecodable {
                sequence_number: has_place.then(|| stand_in.sequence_number()),
                source: Box::new(*reason),
            }),
        }
    }

    /// Does what policy and error ask for, until the work is done or the term has to end.
    ///
    /// CANCEL: as [`call`](Self::call).
    pub(super) async fn settle(&self, work: &Work, mut error: ProcessingError) -> Settled {
        let options = &self.shared.options;
        let _retrying = self.cell.retries();
        let mut backoff = options.backoff();
        let mut failures = 1;
        loop {
            if NotTaken::is(&error) {
                return Settled::Ended(match self.signal.reason() {
                    Some(reason) => TermEnd::Closed(reason),
                    None => TermEnd::Restarted { in_vain: false },
                });
            }
            self.report(&error).await;
            match options.failure_policy.action(&error, failures) {
                FailureAction::Restart => return Settled::Ended(TermEnd::Failed),
                FailureAction::Retry => {
                    if let Err(end) = self.wait(&mut backoff).await {
                        return Settled::Ended(end);
                    }
                    match self.call(work).await {
                        Ok(()) => return Settled::Done,
                        Err(next) => error = next,
                    }
                    failures += 1;
                }
                FailureAction::Skip => {
                    for event in work.events() {
                        let sequence_number = event.sequence_number();
                        self.report(&ProcessingError::Skipped { sequence_number })
                            .await;
                    }
                    return Settled::Done;
                }
                FailureAction::DeadLetter => {
                    return match self.bury(work, &error, failures).await {
                        Ok(()) => Settled::Done,
                        Err(end) => Settled::Ended(end),
                    };
                }
                FailureAction::StopPartition => {
                    self.cell.stopped_by_policy(true);
                    self.slot.pause();
                    self.report(&ProcessingError::PartitionStopped).await;
                    return Settled::Ended(TermEnd::Failed);
                }
                FailureAction::StopProcessor => {
                    let partition_id = self.context.partition_id().clone();
                    self.shared.stopper.because(partition_id, error);
                    return Settled::Ended(TermEnd::Closed(CloseReason::Shutdown));
                }
            }
        }
    }

    /// Stores all events as dead letters, however long it takes.
    async fn bury(
        &self,
        work: &Work,
        error: &ProcessingError,
        failures: u32,
    ) -> Result<(), TermEnd> {
        let options = &self.shared.options;
        for event in work.events() {
            let source = Source {
                scope: &self.shared.scope,
                partition_id: self.context.partition_id(),
                owner_id: &self.shared.owner_id,
            };
            let reason = telemetry::chain(error).to_string();
            let mut letter = DeadLetter::new(source, event, &reason, failures);
            if let Work::Undecodable { reason, .. } = work {
                letter.attempts = 0;
                letter.undecodable = Some(*reason);
            }
            let mut backoff = options.backoff();
            while let Err(error) = bury(self.shared.dead_letters.as_deref(), &letter).await {
                self.report(&ProcessingError::DeadLetter(error)).await;
                self.wait(&mut backoff).await?;
            }
            self.cell.dead_lettered();
            tracing::warn!(
                target: telemetry::PROCESSOR,
                partition_id = %letter.partition_id, sequence_number = event.sequence_number(),
                "an event became a dead letter"
            );
        }
        Ok(())
    }

    /// Waits before a retry, and until the partition is known to be ours. `Err`: the term ends instead.
    async fn wait(&self, backoff: &mut Backoff) -> Result<(), TermEnd> {
        let mut delay = self.shared.draw(|rng| backoff.next_delay(None, rng));
        loop {
            tokio::select! {
                biased;
                reason = self.signal.stopped() => return Err(TermEnd::Closed(reason)),
                () = self.ending.cancelled() => {
                    return Err(TermEnd::Closed(CloseReason::OwnershipLost));
                }
                () = self.slot.asked() => return Err(TermEnd::Restarted { in_vain: false }),
                () = tokio::time::sleep(delay) => {}
            }
            if self.fence.holds() {
                return Ok(());
            }
            delay = PROVE_EVERY;
        }
    }

    async fn report(&self, error: &ProcessingError) {
        report(&*self.shared.handler, Some(&self.context), error).await;
    }
}
