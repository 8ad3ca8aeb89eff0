//! One term of a partition, from the checkpoint it starts after to the close hook.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::PartitionContext;
use super::checkpointer::Checkpointer;
use super::handler::{CloseReason, ErasedHandler};
use super::options::ProcessorOptions;
use super::progress::Place;
use super::pump::{HEALTHY_AFTER, Pump, close};
use super::report::{contained, report};
use super::writer::Writer;
use crate::error::{
    CheckpointError, InvalidPositionError, ProcessingError, TransportError, TransportErrorKind,
};
use crate::model::{EventPosition, ReceivedEvent};
use crate::retry::Backoff;
use crate::telemetry;
use crate::transport::{PartitionReceiver, ReceiverOptions};

/// How a term ended.
#[derive(Debug)]
pub(super) enum TermEnd {
    Closed(CloseReason),
    /// Another receiver took the partition.
    Displaced(TransportError),
    /// The application failed: the partition starts again from its checkpoint.
    Failed,
    /// The place to start from is invalid. `is_replaced`: the next term starts elsewhere.
    Nowhere {
        is_replaced: bool,
    },
    /// The partition starts again elsewhere. `in_vain`: before anything was delivered here.
    Restarted {
        in_vain: bool,
    },
}

/// Most events taken from the receiver at once: enough to make its cost per event vanish, little enough that a stop
/// or a loss is seen soon.
const MAX_TAKEN: usize = 128;

/// How often the link is asked for news between two events: who was displaced hands out nothing it took before.
const HEAR_EVERY: Duration = Duration::from_millis(100);

/// While the lease does not hold, the link is asked for news this often and this long before the handler is called.
const LISTEN_EVERY: Duration = Duration::from_secs(5);
const LISTEN_FOR: Duration = Duration::from_millis(50);

/// How often a paused term looks for a proof.
const PROVE_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Term<'a> {
    pub(super) pump: &'a mut Pump,
    pub(super) context: PartitionContext,
    /// Writes checkpoints if a policy says so.
    writer: Option<Writer>,
    /// The last event handed to the application.
    delivered: Option<Place>,
    /// When the link last brought news, or was asked for them.
    heard: Instant,
    /// When the link was last asked for news because the lease did not hold.
    listened: Option<Instant>,
}

impl<'a> Term<'a> {
    pub(super) fn new(pump: &'a mut Pump) -> Self {
        let shared = &pump.shared;
        let checkpointer = Checkpointer::new(
            shared,
            pump.partition_id.clone(),
            Arc::clone(&pump.fence),
            Arc::clone(pump.restarts.slot()),
        );
        let context = PartitionContext::new(
            shared.scope.clone(),
            shared.owner_id.clone(),
            checkpointer,
            pump.signal.stopping().clone(),
        );
        let is_reset = pump.detour.as_ref().is_some_and(|detour| detour.is_reset);
        let cadence = shared.options.checkpoint_policy.cadence();
        let writer = cadence
            .map(|cadence| Writer::new(Arc::clone(shared), context.clone(), cadence, is_reset));
        Self {
            pump,
            context,
            writer,
            delivered: None,
            heard: Instant::now(),
            listened: None,
        }
    }

    /// Runs the term. The receiver stays open on a shutdown: it is the caller's to close once the partition has been
    /// given back.
    pub(super) async fn run(
        mut self,
        receiver: &mut Option<Box<dyn PartitionReceiver>>,
    ) -> TermEnd {
        let (checkpoint, wished) = match self.begin().await {
            Ok(begun) => begun,
            // The application was not told of a start, or refused it: there is nothing to close.
            Err(end) => {
                self.context.checkpointer().end();
                return end;
            }
        };
        let mut end = match self.position(checkpoint.as_ref(), wished).await {
            Ok(position) => {
                let partition_id = &self.pump.partition_id;
                tracing::info!(target: telemetry::PROCESSOR, %partition_id, ?position, "partition started");
                self.receive(position, receiver).await
            }
            Err(end) => end,
        };
        if matches!(end, TermEnd::Failed) && self.pump.restarts.slot().is_asked() {
            end = self.restarted();
        }
        let reason = match &end {
            TermEnd::Closed(reason) => *reason,
            TermEnd::Displaced(_) => CloseReason::OwnershipLost,
            TermEnd::Failed | TermEnd::Nowhere { .. } => CloseReason::Failed,
            TermEnd::Restarted { .. } => CloseReason::Restarted,
        };
        self.finish_writing(reason).await;
        if matches!(end, TermEnd::Failed) {
            self.remember_detour().await;
        }
        if reason != CloseReason::Shutdown {
            self.context.checkpointer().end();
        }
        let hook = self.handler().on_partition_close(&self.context, reason);
        if let Err(error) = contained("on_partition_close", hook).await {
            self.report(error).await;
        }
        self.context.checkpointer().end();
        let partition_id = &self.pump.partition_id;
        tracing::info!(target: telemetry::PROCESSOR, %partition_id, %reason, "partition closed");
        end
    }

    /// Delivers events until told to stop, opening a new receiver after the last delivered event whenever one fails.
    async fn receive(
        &mut self,
        mut position: EventPosition,
        receiver: &mut Option<Box<dyn PartitionReceiver>>,
    ) -> TermEnd {
        let mut backoff = self.pump.backoff();
        loop {
            let error = match self.open(position.clone()).await {
                Ok(opened) => {
                    self.pump.fence.link_is_up(opened.silence());
                    let opened_at = Instant::now();
                    let opened = receiver.insert(opened);
                    match self.deliver_all(&mut **opened).await {
                        Ok(end) => return end,
                        Err(error) => {
                            if opened_at.elapsed() >= HEALTHY_AFTER {
                                backoff.reset();
                            }
                            error
                        }
                    }
                }
                Err(OpenEnd::Stopped(reason)) => return TermEnd::Closed(reason),
                Err(OpenEnd::Failed(error)) => error,
            };
            self.pump.fence.link_is_down();
            close(receiver).await;
            if error.is_ownership_lost() {
                // The other side attached on purpose, and this side never answers in kind: whose the partition is,
                // the ownership records tell.
                return TermEnd::Displaced(error);
            }
            if error.kind() == TransportErrorKind::InvalidPosition {
                return self.nowhere(InvalidPositionError::Refused(error)).await;
            }
            if let Some(Place { offset, .. }) = &self.delivered {
                let resume_at = EventPosition::offset(offset.clone());
                if position != resume_at {
                    position = resume_at;
                    backoff.reset();
                }
            }
            self.report(ProcessingError::Receive(error)).await;
            if let Err(end) = self.pause(&mut backoff).await {
                return end;
            }
        }
    }

    async fn open(&self, position: EventPosition) -> Result<Box<dyn PartitionReceiver>, OpenEnd> {
        let shared = &self.pump.shared;
        let group = shared.scope.consumer_group();
        let mut options = ReceiverOptions::new(group, self.pump.partition_id.clone(), position);
        options.owner_level = Some(0);
        options.prefetch = shared.options.prefetch;
        options.track_last_enqueued_event_properties =
            shared.options.track_last_enqueued_event_properties;
        options.receiver_name = Some(shared.owner_id.to_string());
        tokio::select! {
            biased;
            reason = self.pump.signal.stopped() => Err(OpenEnd::Stopped(reason)),
            opened = shared.transport.open_receiver(options) => opened.map_err(OpenEnd::Failed),
        }
    }

    /// Delivers what one receiver brings. `Err`: the receiver is done and the term goes on with another.
    async fn deliver_all(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
    ) -> Result<TermEnd, TransportError> {
        let shared = Arc::clone(&self.pump.shared);
        loop {
            let events = {
                let taking = take(receiver, &shared.options);
                tokio::pin!(taking);
                loop {
                    let error = tokio::select! {
                        // The stop first, so that it is not put off by an endless stream.
                        biased;
                        reason = self.pump.signal.stopped() => return Ok(TermEnd::Closed(reason)),
                        () = self.pump.restarts.slot().asked() => return Ok(self.restarted()),
                        error = failed(&mut self.writer) => error,
                        events = &mut taking => break events?,
                    };
                    // What has been taken so far is kept.
                    self.report(ProcessingError::Checkpoint(error)).await;
                }
            };
            if events.is_empty() {
                let idle = contained("on_idle", self.handler().on_idle(&self.context)).await;
                if let Err(error) = idle {
                    self.report(error).await;
                    return Ok(TermEnd::Failed);
                }
            }
            self.heard = Instant::now();
            let mut events = VecDeque::from(events);
            while !events.is_empty()
                && self.pump.signal.reason().is_none()
                && !self.pump.restarts.slot().is_asked()
            {
                if !self.prove(receiver, &mut events).await? {
                    break;
                }
                self.hear(receiver, &mut events)?;
                let result = match self.options().max_batch_size {
                    Some(max) => {
                        let size = events.len().min(max.get());
                        self.deliver_batch(events.drain(..size).collect()).await
                    }
                    None => self.deliver_next(&mut events).await,
                };
                if let Err(error) = result {
                    self.report(error).await;
                    return Ok(TermEnd::Failed);
                }
                if let Some(writer) = &self.writer
                    && (events.is_empty() || self.options().max_batch_size.is_some())
                {
                    writer.batch_ended();
                }
            }
        }
    }

    /// Asks the link for news that are here already. Who was displaced learns it here and not after all that was taken.
    fn hear(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<(), TransportError> {
        if self.heard.elapsed() < HEAR_EVERY {
            return Ok(());
        }
        self.heard = Instant::now();
        if let Some(news) = receiver.receive(room(events)).now_or_never() {
            events.extend(news?);
        }
        Ok(())
    }

    /// Waits until the partition is known to be ours. `false`: told to stop instead.
    async fn prove(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<bool, TransportError> {
        let fence = Arc::clone(&self.pump.fence);
        if fence.lease_holds() {
            return Ok(true);
        }
        let is_due = self.listened.is_none_or(|at| at.elapsed() >= LISTEN_EVERY);
        if is_due {
            // Whoever slept through the end of the lease may have been displaced since, and the news lies unread.
            self.listened = Some(Instant::now());
            let news = tokio::time::timeout(LISTEN_FOR, receiver.receive(room(events))).await;
            self.heard = Instant::now();
            if let Ok(more) = news {
                events.extend(more?);
            }
        }
        fence.link_is_up(receiver.silence());
        if fence.holds() {
            return Ok(true);
        }
        self.report(ProcessingError::OwnershipUnproven).await;
        loop {
            let news = tokio::select! {
                biased;
                _ = self.pump.signal.stopped() => return Ok(false),
                // What is here already bounds what is taken: nothing more is, but a failed link is noticed.
                news = receiver.receive(MAX_TAKEN), if events.len() < MAX_TAKEN => Some(news?),
                () = tokio::time::sleep(PROVE_EVERY) => None,
            };
            events.extend(news.into_iter().flatten());
            fence.link_is_up(receiver.silence());
            if fence.holds() {
                let partition_id = &self.pump.partition_id;
                tracing::info!(target: telemetry::PROCESSOR, %partition_id, "ownership is proven again");
                return Ok(true);
            }
        }
    }

    async fn deliver_next(
        &mut self,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<(), ProcessingError> {
        if let Some(event) = events.pop_front()
            && self.is_new(&event)
        {
            self.note_delivery(&event);
            // Not in a `select!`: a stop waits for the call instead of cutting it.
            let hook = self.handler().on_event(&self.context, event);
            contained("on_event", hook).await?;
            self.note_completion(1);
        }
        Ok(())
    }

    async fn deliver_batch(
        &mut self,
        mut events: Vec<ReceivedEvent>,
    ) -> Result<(), ProcessingError> {
        events.retain(|event| {
            let is_new = self.is_new(event);
            if is_new {
                self.note_delivery(event);
            }
            is_new
        });
        if events.is_empty() {
            return Ok(());
        }
        let count = events.len();
        let hook = self.handler().on_event_batch(&self.context, events);
        contained("on_event_batch", hook).await?;
        self.note_completion(count);
        Ok(())
    }

    /// Whether an event was not delivered before: within a term, positions only grow.
    fn is_new(&self, event: &ReceivedEvent) -> bool {
        let sequence_number = event.sequence_number();
        let is_new = self
            .delivered
            .as_ref()
            .is_none_or(|last| sequence_number > last.sequence_number);
        if !is_new {
            let partition_id = &self.pump.partition_id;
            tracing::warn!(
                target: telemetry::PROCESSOR,
                %partition_id, sequence_number,
                "dropped an event that was delivered before"
            );
        }
        is_new
    }

    fn note_delivery(&mut self, event: &ReceivedEvent) {
        self.context.note_delivery(event);
        self.delivered = Some(Place {
            sequence_number: event.sequence_number(),
            offset: event.offset().clone(),
        });
    }

    /// Notes that the hook has returned `Ok` for the last `count` events delivered.
    fn note_completion(&self, count: usize) {
        if let (Some(writer), Some(last)) = (&self.writer, &self.delivered) {
            writer.completed(last.clone(), u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    /// Writes the last checkpoint, while the partition is ours and before anybody is told that it is free.
    async fn finish_writing(&mut self, reason: CloseReason) {
        let Some(writer) = self.writer.take() else {
            return;
        };
        if reason == CloseReason::OwnershipLost {
            return;
        }
        // A store that does not answer must not use up the time in which the stop is to be done.
        let limit = self.options().shutdown_timeout / 3;
        for error in writer.finish(limit).await {
            self.report(ProcessingError::Checkpoint(error)).await;
        }
    }

    /// Waits before the next try. `Err`: the term ends instead.
    pub(super) async fn pause(&self, backoff: &mut Backoff) -> Result<(), TermEnd> {
        if let Some(reason) = self.pump.pause(backoff).await {
            return Err(TermEnd::Closed(reason));
        }
        if self.pump.restarts.slot().is_asked() {
            return Err(self.restarted());
        }
        Ok(())
    }

    fn restarted(&self) -> TermEnd {
        TermEnd::Restarted {
            in_vain: self.delivered.is_none(),
        }
    }

    pub(super) fn handler(&self) -> &dyn ErasedHandler {
        &*self.pump.shared.handler
    }

    pub(super) fn options(&self) -> &ProcessorOptions {
        &self.pump.shared.options
    }

    pub(super) async fn report(&self, error: ProcessingError) {
        report(self.handler(), Some(&self.context), &error).await;
    }
}

/// Waits for the next events; none, if there were none for `max_wait_time`.
///
/// CANCEL: events of a batch that is still filling are lost to the receiver, but none was delivered, so whoever opens
/// the next one starts before them.
async fn take(
    receiver: &mut dyn PartitionReceiver,
    options: &ProcessorOptions,
) -> Result<Vec<ReceivedEvent>, TransportError> {
    let max = options.max_batch_size.map_or(MAX_TAKEN, NonZeroUsize::get);
    let Some(max_wait_time) = options.max_wait_time else {
        return receiver.receive(max).await;
    };
    let deadline = Instant::now() + max_wait_time;
    let mut events = Vec::new();
    while let Ok(more) =
        tokio::time::timeout_at(deadline, receiver.receive(max - events.len())).await
    {
        events.extend(more?);
        if options.max_batch_size.is_none() || events.len() >= max {
            break;
        }
    }
    Ok(events)
}

/// How many events to take when what matters is whether the link still stands. Whoever holds many takes one more at
/// most: between two questions one is handed out at least, so they do not pile up, and no link goes unasked.
fn room(held: &VecDeque<ReceivedEvent>) -> usize {
    if held.len() > MAX_TAKEN { 1 } else { MAX_TAKEN }
}

/// The next checkpoint that a policy asked for and that failed.
async fn failed(writer: &mut Option<Writer>) -> CheckpointError {
    match writer {
        Some(writer) => writer.failed().await,
        None => std::future::pending().await,
    }
}

/// Why no receiver was opened.
enum OpenEnd {
    Stopped(CloseReason),
    Failed(TransportError),
}
