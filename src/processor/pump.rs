//! The task that reads one partition and calls the handler.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::PartitionContext;
use super::checkpointer::Checkpointer;
use super::handler::{CloseReason, ErasedHandler};
use super::options::ProcessorOptions;
use super::report::{contained, report};
use super::signal::StopSignal;
use crate::checkpoint::CheckpointStore;
use crate::error::{ProcessingError, TransportError};
use crate::model::{EventPosition, GroupScope, OwnerId, PartitionId, ReceivedEvent};
use crate::retry::Backoff;
use crate::telemetry;
use crate::transport::{PartitionReceiver, ReceiverOptions, Transport};

/// What all tasks of a processor share.
pub(super) struct Shared {
    pub(super) scope: GroupScope,
    pub(super) owner_id: OwnerId,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) store: Arc<dyn CheckpointStore>,
    pub(super) handler: Arc<dyn ErasedHandler>,
    pub(super) options: ProcessorOptions,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("scope", &self.scope)
            .field("owner_id", &self.owner_id)
            .field("transport", &self.transport)
            .field("store", &self.store)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What a pump leaves behind.
#[derive(Debug)]
pub(super) struct PumpEnd {
    pub(super) reason: CloseReason,
    /// Still open after a shutdown, so that nobody reads the partition before it is relinquished.
    pub(super) receiver: Option<Box<dyn PartitionReceiver>>,
    /// Set if another receiver took the partition before anybody told the pump that it was lost.
    pub(super) displaced: Option<TransportError>,
}

/// One partition for as long as this processor owns it: one term after another until told to stop.
#[derive(Debug)]
pub(super) struct Pump {
    shared: Arc<Shared>,
    partition_id: PartitionId,
    signal: StopSignal,
}

/// How a term ended.
enum TermEnd {
    Closed(CloseReason),
    /// Another receiver took the partition.
    Displaced(TransportError),
    Failed,
}

/// Most events taken from the receiver at once: enough to make its cost per event vanish, little enough that a stop
/// or a loss is seen soon.
const MAX_TAKEN: usize = 128;

/// A term that lived this long was healthy: the next failure starts with a short wait again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

impl Pump {
    pub(super) fn new(shared: Arc<Shared>, partition_id: PartitionId, signal: StopSignal) -> Self {
        Self {
            shared,
            partition_id,
            signal,
        }
    }

    pub(super) async fn run(self) -> PumpEnd {
        let mut receiver = None;
        match self.terms(&mut receiver).await {
            TermEnd::Displaced(error) => PumpEnd {
                reason: CloseReason::OwnershipLost,
                receiver,
                displaced: Some(error),
            },
            TermEnd::Closed(reason) => PumpEnd { reason, receiver, displaced: None },
            TermEnd::Failed => unreachable!("a failed term is followed by another"),
        }
    }

    async fn terms(&self, receiver: &mut Option<Box<dyn PartitionReceiver>>) -> CloseReason {
        let mut backoff = self.backoff();
        loop {
            let started = Instant::now();
            if let TermEnd::Closed(reason) = self.term(receiver).await {
                return reason;
            }
            // Events received ahead belong to the failed term.
            if let Some(receiver) = receiver.take() {
                receiver.close().await;
            }
            if started.elapsed() >= HEALTHY_AFTER {
                backoff.reset();
            }
            if let Some(reason) = self.pause(&mut backoff).await {
                return reason;
            }
        }
    }

    /// One term, from the checkpoint to the close hook.
    async fn term(&self, receiver: &mut Option<Box<dyn PartitionReceiver>>) -> TermEnd {
        let context = PartitionContext::new(
            self.shared.scope.clone(),
            self.shared.owner_id.clone(),
            Checkpointer::new(
                Arc::clone(&self.shared.store),
                self.shared.scope.clone(),
                self.partition_id.clone(),
            ),
            self.signal.stopping().clone(),
        );
        let position = match self.start(&context).await {
            Ok(position) => position,
            Err(TermEnd::Failed) => {
                context.checkpointer().end();
                return TermEnd::Failed;
            }
            // Nothing was delivered and no hook told the application of a start: there is nothing to close.
            Err(TermEnd::Closed(reason)) => {
                context.checkpointer().end();
                return TermEnd::Closed(reason);
            }
        };
        tracing::info!(
            target: telemetry::PROCESSOR,
            partition_id = %self.partition_id, ?position,
            "partition started"
        );
        let end = self.receive(&context, position, receiver).await;
        let reason = match &end {
            TermEnd::Closed(reason) => *reason,
            TermEnd::Failed => CloseReason::Failed,
        };
        if reason != CloseReason::Shutdown {
            context.checkpointer().end();
        }
        let hook = self.shared.handler.on_partition_close(&context, reason);
        if let Err(error) = contained("on_partition_close", hook).await {
            self.report(&context, error).await;
        }
        context.checkpointer().end();
        tracing::info!(
            target: telemetry::PROCESSOR,
            partition_id = %self.partition_id, %reason,
            "partition closed"
        );
        end
    }

    /// Finds out where the term starts.
    async fn start(&self, context: &PartitionContext) -> Result<EventPosition, TermEnd> {
        let mut backoff = self.backoff();
        let checkpoint = loop {
            match context.checkpointer().read().await {
                Ok(checkpoint) => break checkpoint,
                Err(error) => {
                    self.report(context, ProcessingError::ReadCheckpoint(error))
                        .await;
                    if let Some(reason) = self.pause(&mut backoff).await {
                        return Err(TermEnd::Closed(reason));
                    }
                }
            }
        };
        let hook = self.shared.handler.on_partition_initialize(context);
        let wished = match contained("on_partition_initialize", hook).await {
            Ok(wished) => wished,
            Err(error) => {
                self.report(context, error).await;
                return Err(TermEnd::Failed);
            }
        };
        Ok(checkpoint
            .as_ref()
            .and_then(EventPosition::after_checkpoint)
            .or(wished)
            .unwrap_or_else(|| self.shared.options.starting_position(&self.partition_id)))
    }

    /// Delivers events until told to stop, opening a new receiver after the last delivered event whenever one fails.
    async fn receive(
        &self,
        context: &PartitionContext,
        mut position: EventPosition,
        receiver: &mut Option<Box<dyn PartitionReceiver>>,
    ) -> TermEnd {
        let mut backoff = self.backoff();
        let mut last_delivered = None;
        loop {
            let error = match self.open(position.clone()).await {
                Ok(opened) => {
                    let opened = receiver.insert(opened);
                    match self.deliver_all(context, opened, &mut last_delivered).await {
                        Ok(end) => return end,
                        Err(error) => error,
                    }
                }
                Err(OpenEnd::Stopped(reason)) => return TermEnd::Closed(reason),
                Err(OpenEnd::Failed(error)) => error,
            };
            if let Some(receiver) = receiver.take() {
                receiver.close().await;
            }
            if let Some((_, resume_at)) = &last_delivered {
                if position != *resume_at {
                    backoff.reset();
                }
                position = resume_at.clone();
            }
            let is_lost = error.is_ownership_lost();
            self.report(context, ProcessingError::Receive(error)).await;
            if is_lost {
                // The other side attached on purpose; whether the partition is still ours, the records tell.
                return TermEnd::Closed(CloseReason::OwnershipLost);
            }
            if let Some(reason) = self.pause(&mut backoff).await {
                return TermEnd::Closed(reason);
            }
        }
    }

    async fn open(&self, position: EventPosition) -> Result<Box<dyn PartitionReceiver>, OpenEnd> {
        let options = &self.shared.options;
        let mut receiver_options = ReceiverOptions::new(
            self.shared.scope.consumer_group(),
            self.partition_id.clone(),
            position,
        );
        receiver_options.owner_level = Some(0);
        receiver_options.prefetch = options.prefetch;
        receiver_options.track_last_enqueued_event_properties =
            options.track_last_enqueued_event_properties;
        receiver_options.receiver_name = Some(self.shared.owner_id.to_string());
        tokio::select! {
            biased;
            reason = self.signal.stopped() => Err(OpenEnd::Stopped(reason)),
            opened = self.shared.transport.open_receiver(receiver_options) => {
                opened.map_err(OpenEnd::Failed)
            }
        }
    }

    /// Delivers what one receiver brings. `Err`: the receiver is done and the term goes on with another.
    async fn deliver_all(
        &self,
        context: &PartitionContext,
        receiver: &mut Box<dyn PartitionReceiver>,
        last_delivered: &mut Option<(i64, EventPosition)>,
    ) -> Result<TermEnd, TransportError> {
        loop {
            let taken = tokio::select! {
                // First, so that a stop is not put off by an endless stream.
                biased;
                reason = self.signal.stopped() => return Ok(TermEnd::Closed(reason)),
                taken = self.take(&mut **receiver) => taken?,
            };
            if taken.is_empty() {
                let hook = self.shared.handler.on_idle(context);
                if let Err(error) = contained("on_idle", hook).await {
                    self.report(context, error).await;
                    return Ok(TermEnd::Failed);
                }
            } else if let Some(end) = self.deliver(context, taken, last_delivered).await {
                return Ok(end);
            }
        }
    }

    /// Waits for the next events; none, if there were none for `max_wait_time`.
    ///
    /// CANCEL: events of a batch that is still filling are lost to this term, but none was delivered, so the next
    /// term starts before them.
    async fn take(
        &self,
        receiver: &mut dyn PartitionReceiver,
    ) -> Result<Vec<ReceivedEvent>, TransportError> {
        let options = &self.shared.options;
        let max = options
            .max_batch_size
            .map_or(MAX_TAKEN, std::num::NonZero::get);
        let Some(max_wait_time) = options.max_wait_time else {
            return receiver.receive(max).await;
        };
        let deadline = Instant::now() + max_wait_time;
        let mut taken = Vec::new();
        while let Ok(more) =
            tokio::time::timeout_at(deadline, receiver.receive(max - taken.len())).await
        {
            taken.extend(more?);
            if options.max_batch_size.is_none() || taken.len() >= max {
                break;
            }
        }
        Ok(taken)
    }

    /// Hands events to the application. `Some`: the term is over.
    async fn deliver(
        &self,
        context: &PartitionContext,
        mut events: Vec<ReceivedEvent>,
        last_delivered: &mut Option<(i64, EventPosition)>,
    ) -> Option<TermEnd> {
        self.drop_repeated(&mut events, last_delivered);
        if self.shared.options.max_batch_size.is_some() {
            return if events.is_empty() {
                None
            } else {
                self.deliver_batch(context, events, last_delivered).await
            };
        }
        for event in events {
            if let Some(reason) = self.signal.reason() {
                return Some(TermEnd::Closed(reason));
            }
            context.deliver(&event);
            *last_delivered = Some((
                event.sequence_number(),
                EventPosition::offset(event.offset().clone()),
            ));
            // Not in a `select!`: a stop waits for the call instead of cutting it.
            let hook = self.shared.handler.on_event(context, event);
            if let Err(error) = contained("on_event", hook).await {
                self.report(context, error).await;
                return Some(TermEnd::Failed);
            }
        }
        None
    }

    async fn deliver_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
        last_delivered: &mut Option<(i64, EventPosition)>,
    ) -> Option<TermEnd> {
        if let Some(reason) = self.signal.reason() {
            return Some(TermEnd::Closed(reason));
        }
        if let Some(last) = events.last() {
            context.deliver(last);
            *last_delivered = Some((
                last.sequence_number(),
                EventPosition::offset(last.offset().clone()),
            ));
        }
        let hook = self.shared.handler.on_event_batch(context, events);
        if let Err(error) = contained("on_event_batch", hook).await {
            self.report(context, error).await;
            return Some(TermEnd::Failed);
        }
        None
    }

    /// Drops what was delivered before: within a term, positions only grow.
    fn drop_repeated(
        &self,
        events: &mut Vec<ReceivedEvent>,
        last_delivered: &Option<(i64, EventPosition)>,
    ) {
        let mut last = last_delivered
            .as_ref()
            .map(|(sequence_number, _)| *sequence_number);
        events.retain(|event| {
            let is_new = last.is_none_or(|last| event.sequence_number() > last);
            if is_new {
                last = Some(event.sequence_number());
            } else {
                tracing::warn!(
                    target: telemetry::PROCESSOR,
                    partition_id = %self.partition_id,
                    sequence_number = event.sequence_number(),
                    "dropped an event that was delivered before"
                );
            }
            is_new
        });
    }

    fn backoff(&self) -> Backoff {
        let options = &self.shared.options;
        Backoff::new(options.retry_delay, options.max_retry_delay)
    }

    /// Waits before the next try. `Some`: told to stop instead.
    async fn pause(&self, backoff: &mut Backoff) -> Option<CloseReason> {
        let delay = backoff.next_delay(&mut rand::rng());
        tokio::select! {
            biased;
            reason = self.signal.stopped() => Some(reason),
            () = tokio::time::sleep(delay) => None,
        }
    }

    async fn report(&self, context: &PartitionContext, error: ProcessingError) {
        report(&*self.shared.handler, Some(context), &error).await;
    }
}

/// Why no receiver was opened.
enum OpenEnd {
    Stopped(CloseReason),
    Failed(TransportError),
}
