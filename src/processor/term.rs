//! One term of a partition, from the checkpoint it starts after to the close hook.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::PartitionContext;
use super::checkpointer::Checkpointer;
use super::handler::{CloseReason, ErasedHandler};
use super::options::ProcessorOptions;
use super::pump::{HEALTHY_AFTER, Pump, close};
use super::report::{contained, report};
use crate::error::{ProcessingError, TransportError};
use crate::model::{Checkpoint, EventPosition, PartitionProperties, ReceivedEvent};
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
}

/// Most events taken from the receiver at once: enough to make its cost per event vanish, little enough that a stop
/// or a loss is seen soon.
const MAX_TAKEN: usize = 128;

/// While the lease does not hold, the link is asked for news this often and this long before the handler is called.
const LISTEN_EVERY: Duration = Duration::from_secs(5);
const LISTEN_FOR: Duration = Duration::from_millis(50);

/// How often a paused term looks for a proof.
const PROVE_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Term<'a> {
    pump: &'a mut Pump,
    context: PartitionContext,
    /// The last event handed to the application.
    delivered: Option<Delivered>,
    /// When the link was last asked for news because the lease did not hold.
    listened: Option<Instant>,
}

struct Delivered {
    sequence_number: i64,
    resume_at: EventPosition,
}

impl<'a> Term<'a> {
    pub(super) fn new(pump: &'a mut Pump) -> Self {
        let shared = &pump.shared;
        let checkpointer = Checkpointer::new(
            Arc::clone(&shared.store),
            shared.scope.clone(),
            pump.partition_id.clone(),
            Arc::clone(&pump.fence),
        );
        let context = PartitionContext::new(
            shared.scope.clone(),
            shared.owner_id.clone(),
            checkpointer,
            pump.signal.stopping().clone(),
        );
        Self {
            pump,
            context,
            delivered: None,
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
        let end = match self.position(checkpoint.as_ref(), wished).await {
            Ok(position) => {
                let partition_id = &self.pump.partition_id;
                tracing::info!(target: telemetry::PROCESSOR, %partition_id, ?position, "partition started");
                self.receive(position, receiver).await
            }
            Err(reason) => TermEnd::Closed(reason),
        };
        let reason = match &end {
            TermEnd::Closed(reason) => *reason,
            TermEnd::Displaced(_) => CloseReason::OwnershipLost,
            TermEnd::Failed => CloseReason::Failed,
        };
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

    /// Reads the checkpoint and tells the application of the start; it may wish for a position.
    async fn begin(&self) -> Result<(Option<Checkpoint>, Option<EventPosition>), TermEnd> {
        let mut backoff = self.pump.backoff();
        let checkpoint = loop {
            match self.context.checkpointer().read().await {
                Ok(checkpoint) => break checkpoint,
                Err(error) => self.report(ProcessingError::ReadCheckpoint(error)).await,
            }
            if let Some(reason) = self.pump.pause(&mut backoff).await {
                return Err(TermEnd::Closed(reason));
            }
        };
        let hook = self.handler().on_partition_initialize(&self.context);
        match contained("on_partition_initialize", hook).await {
            Ok(wished) => Ok((checkpoint, wished)),
            Err(error) => {
                self.report(error).await;
                Err(TermEnd::Failed)
            }
        }
    }

    /// Where the term starts. `Err`: told to stop before that was known.
    async fn position(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        wished: Option<EventPosition>,
    ) -> Result<EventPosition, CloseReason> {
        let known = checkpoint
            .and_then(EventPosition::after_checkpoint)
            .or_else(|| self.pump.started_at.clone());
        if let Some(position) = known {
            return Ok(position);
        }
        let position =
            wished.unwrap_or_else(|| self.options().starting_position(&self.pump.partition_id));
        let position = match position {
            EventPosition::Latest => self.pin_latest().await?,
            position => position,
        };
        self.pump.started_at = Some(position.clone());
        Ok(position)
    }

    /// Turns "latest" into a place in the log. Asked again after a lost link, "latest" would be a later place, and what
    /// came in between would never be read.
    async fn pin_latest(&self) -> Result<EventPosition, CloseReason> {
        let mut backoff = self.pump.backoff();
        loop {
            let transport = &self.pump.shared.transport;
            let properties = tokio::select! {
                biased;
                reason = self.pump.signal.stopped() => return Err(reason),
                properties = transport.partition_properties(&self.pump.partition_id) => properties,
            };
            match properties {
                Ok(PartitionProperties {
                    last_enqueued_sequence_number: last,
                    ..
                }) if last < 0 => {
                    return Ok(EventPosition::Earliest);
                }
                Ok(properties) => {
                    let last = properties.last_enqueued_sequence_number;
                    return Ok(EventPosition::sequence_number(last));
                }
                Err(error) => self.report(ProcessingError::EventHub(error)).await,
            }
            if let Some(reason) = self.pump.pause(&mut backoff).await {
                return Err(reason);
            }
        }
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
            if let Some(Delivered { resume_at, .. }) = &self.delivered
                && position != *resume_at
            {
                position = resume_at.clone();
                backoff.reset();
            }
            self.report(ProcessingError::Receive(error)).await;
            if let Some(reason) = self.pump.pause(&mut backoff).await {
                return TermEnd::Closed(reason);
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
        loop {
            let events = tokio::select! {
                // First, so that a stop is not put off by an endless stream.
                biased;
                reason = self.pump.signal.stopped() => return Ok(TermEnd::Closed(reason)),
                events = take(receiver, &self.pump.shared.options) => events?,
            };
            if events.is_empty() {
                let idle = contained("on_idle", self.handler().on_idle(&self.context)).await;
                if let Err(error) = idle {
                    self.report(error).await;
                    return Ok(TermEnd::Failed);
                }
            }
            let mut events = VecDeque::from(events);
            while !events.is_empty() && self.pump.signal.reason().is_none() {
                if !self.prove(receiver, &mut events).await? {
                    break;
                }
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
            }
        }
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
        if is_due && events.len() <= MAX_TAKEN {
            // Whoever slept through the end of the lease may have been displaced since, and the news lies unread.
            self.listened = Some(Instant::now());
            let news = tokio::time::timeout(LISTEN_FOR, receiver.receive(MAX_TAKEN)).await;
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
        let hook = self.handler().on_event_batch(&self.context, events);
        contained("on_event_batch", hook).await
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
        self.delivered = Some(Delivered {
            sequence_number: event.sequence_number(),
            resume_at: EventPosition::offset(event.offset().clone()),
        });
    }

    fn handler(&self) -> &dyn ErasedHandler {
        &*self.pump.shared.handler
    }

    fn options(&self) -> &ProcessorOptions {
        &self.pump.shared.options
    }

    async fn report(&self, error: ProcessingError) {
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

/// Why no receiver was opened.
enum OpenEnd {
    Stopped(CloseReason),
    Failed(TransportError),
}
