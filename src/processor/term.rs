//! One term of a partition, from the checkpoint it starts after to the close hook.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PartitionContext;
use super::calls::Caller;
use super::checkpointer::Checkpointer;
use super::handler::{CloseReason, ErasedHandler};
use super::options::ProcessorOptions;
use super::parallel::Parallel;
use super::progress::Place;
use super::pump::{Displaced, HEALTHY_AFTER, Pump, close};
use super::report::{contained, report};
use super::sequence::Sequence;
use super::start::Start;
use super::status::{Stage, watched};
use super::window::Limits;
use super::writer::{SharedProgress, Writer};
use crate::error::{
    InvalidPositionError, ProcessingError, StallRemedy, TransportError, TransportErrorKind,
};
use crate::retry::Backoff;
use crate::telemetry;
use crate::transport::{PartitionReceiver, ReceiverOptions};

/// Why a term needs another receiver.
#[derive(Debug)]
pub(super) enum Broken {
    Link(TransportError),
    /// Events before this one are missing.
    Gap {
        before: i64,
    },
}

impl From<TransportError> for Broken {
    fn from(error: TransportError) -> Self {
        Self::Link(error)
    }
}

/// What a listing said counts for as long: within this time a pump attaches, unless something holds it up.
const AWAKE: Duration = Duration::from_secs(2);

/// How a term ended.
#[derive(Debug)]
pub(super) enum TermEnd {
    Closed(CloseReason),
    /// Another receiver took the partition.
    Displaced(Displaced),
    /// Nothing comes, whatever is tried: the partition is to be given back.
    Stalled,
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

pub(super) struct Term<'a> {
    pub(super) pump: &'a mut Pump,
    pub(super) context: PartitionContext,
    pub(super) caller: Arc<Caller>,
    /// Writes checkpoints if a policy says so.
    pub(super) writer: Option<Writer>,
    /// The last event handed to the application.
    pub(super) delivered: Option<Place>,
    pub(super) sequence: Sequence,
    /// The partition's share of the memory, as the receiver was last told.
    pub(super) share: usize,
    /// When the link last brought news, or was asked for them.
    pub(super) heard: Instant,
    /// When the link was last asked for news because the lease did not hold.
    pub(super) listened: Option<Instant>,
    /// When the records were last looked at before a receiver was opened without a lease.
    pub(super) looked: Option<Instant>,
}

impl<'a> Term<'a> {
    pub(super) fn new(pump: &'a mut Pump) -> Self {
        let shared = &pump.shared;
        let checkpointer = Checkpointer::new(
            shared,
            pump.partition_id.clone(),
            Arc::clone(&pump.fence),
            Arc::clone(pump.restarts.slot()),
            Arc::clone(&pump.cell),
        );
        let is_reset = pump.detour.as_ref().is_some_and(|detour| detour.is_reset);
        let is_parallel = shared.options.concurrency.get() > 1;
        let progress = shared
            .options
            .checkpoint_policy
            .progress(is_parallel, is_reset);
        let progress = progress.map(SharedProgress::new);
        let context = PartitionContext::new(
            shared,
            checkpointer,
            pump.signal.stopping().clone(),
            progress.clone().filter(|_| is_parallel),
        );
        let writer =
            progress.map(|progress| Writer::new(Arc::clone(shared), context.clone(), progress));
        let caller = Caller {
            shared: Arc::clone(shared),
            context: context.clone(),
            signal: pump.signal.clone(),
            fence: Arc::clone(&pump.fence),
            slot: Arc::clone(pump.restarts.slot()),
            cell: Arc::clone(&pump.cell),
            ending: CancellationToken::new(),
        };
        let share = pump.memory.bytes();
        Self {
            pump,
            context,
            caller: Arc::new(caller),
            writer,
            delivered: None,
            sequence: Sequence::default(),
            share,
            heard: Instant::now(),
            listened: None,
            looked: None,
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
        let is_detour = self.pump.detour.is_some();
        self.pump.cell.term_begins(checkpoint.as_ref(), is_detour);
        let mut parallel = self.parallel();
        let mut end = match self.start(checkpoint.as_ref(), wished).await {
            Ok(start) => {
                let partition_id = &self.pump.partition_id;
                let position = &start.position;
                tracing::info!(target: telemetry::PROCESSOR, %partition_id, ?position, "partition started");
                self.receive(start, receiver, parallel.as_mut()).await
            }
            Err(end) => end,
        };
        if let Some(parallel) = &mut parallel {
            self.drain(parallel, &end).await;
        }
        if matches!(end, TermEnd::Failed) && self.pump.restarts.slot().is_asked() {
            end = self.restarted();
        }
        let reason = match &end {
            TermEnd::Closed(reason) => *reason,
            TermEnd::Displaced(_) => CloseReason::OwnershipLost,
            TermEnd::Failed | TermEnd::Nowhere { .. } => CloseReason::Failed,
            TermEnd::Restarted { .. } => CloseReason::Restarted,
            TermEnd::Stalled => CloseReason::Stalled,
        };
        self.finish_writing(reason).await;
        if matches!(end, TermEnd::Failed) {
            self.remember_detour().await;
        }
        if reason != CloseReason::Shutdown {
            self.context.checkpointer().end();
        }
        let running = self.pump.cell.runs("on_partition_close");
        let hook = self.handler().on_partition_close(&self.context, reason);
        if let Err(error) = contained("on_partition_close", hook).await {
            self.report(error).await;
        }
        drop(running);
        self.context.checkpointer().end();
        let partition_id = &self.pump.partition_id;
        tracing::info!(target: telemetry::PROCESSOR, %partition_id, %reason, "partition closed");
        end
    }

    /// `None`: one event, or one batch, at a time.
    fn parallel(&self) -> Option<Parallel> {
        let shared = &self.pump.shared;
        let options = self.options();
        (options.concurrency.get() > 1).then(|| {
            let limits = Limits {
                running: options.concurrency.get(),
                events: options.max_in_flight.get(),
                bytes: self.share / 2,
            };
            Parallel::new(limits, shared.ordering_key.clone())
        })
    }

    /// Delivers events until told to stop, opening a new receiver after the last delivered event whenever one fails.
    async fn receive(
        &mut self,
        mut start: Start,
        receiver: &mut Option<Box<dyn PartitionReceiver>>,
        mut parallel: Option<&mut Parallel>,
    ) -> TermEnd {
        let mut backoff = self.pump.backoff();
        // Without a lease: who slept between its claim and here may have been taken for dead. An heir that attaches as soon
        // as it is told has only waited.
        if !self.pump.is_listed || self.pump.created.elapsed() >= AWAKE {
            self.look_first().await;
        }
        loop {
            let asked_for = Instant::now();
            let opened = self.open(start.clone()).await;
            let is_refused = opened.is_err();
            let broken = match opened {
                Ok(opened) => {
                    let opened = watched(opened, &start.position, &self.pump.cell);
                    self.pump.fence.link_is_up(opened.silence());
                    let opened_at = Instant::now();
                    let opened = receiver.insert(opened);
                    let delivered = match &mut parallel {
                        Some(parallel) => self.deliver_in_parallel(&mut **opened, parallel).await,
                        None => self.deliver_all(&mut **opened).await,
                    };
                    match delivered {
                        Ok(end) => return end,
                        Err(broken) => {
                            if opened_at.elapsed() >= HEALTHY_AFTER {
                                backoff.reset();
                            }
                            broken
                        }
                    }
                }
                Err(OpenEnd::Stopped(reason)) => return TermEnd::Closed(reason),
                Err(OpenEnd::Failed(error)) => Broken::Link(error),
            };
            self.pump.fence.link_is_down();
            self.pump.cell.enter(Stage::Reconnecting);
            close(receiver).await;
            let error = match broken {
                Broken::Link(error) => error,
                Broken::Gap { before } => {
                    tracing::warn!(
                        target: telemetry::PROCESSOR,
                        partition_id = %self.pump.partition_id, before, after = self.sequence.last(),
                        "events are missing; the partition is asked again"
                    );
                    start = self.resume_at().unwrap_or(start);
                    self.look_first().await;
                    continue;
                }
            };
            if error.is_ownership_lost() {
                // The other side attached on purpose, and this side never answers in kind: whose the partition is,
                // the ownership records tell.
                return TermEnd::Displaced(Displaced {
                    error,
                    asked_for,
                    is_refused,
                });
            }
            if error.kind() == TransportErrorKind::InvalidPosition {
                return self.nowhere(InvalidPositionError::Refused(error)).await;
            }
            if let Some(resume_at) = self.resume_at()
                && start != resume_at
            {
                start = resume_at;
                backoff.reset();
            }
            let asked = error.retry_after();
            match self.pump.cell.take_treated() {
                Some(stall) => {
                    self.report(stall.into()).await;
                    if stall.remedy == StallRemedy::Release {
                        return TermEnd::Stalled;
                    }
                }
                None => self.report(ProcessingError::Receive(error)).await,
            }
            if let Err(end) = self.pause(&mut backoff, asked).await {
                return end;
            }
            self.look_first().await;
        }
    }

    /// After the last event that was delivered.
    fn resume_at(&self) -> Option<Start> {
        self.delivered.as_ref().map(Start::after)
    }

    async fn open(&self, start: Start) -> Result<Box<dyn PartitionReceiver>, OpenEnd> {
        let shared = &self.pump.shared;
        let group = shared.scope.consumer_group();
        let partition_id = self.pump.partition_id.clone();
        let mut options = ReceiverOptions::new(group, partition_id, start.position);
        options.after_sequence_number = start.after;
        options.owner_level = Some(0);
        options.prefetch = shared.options.prefetch;
        options.prefetch_bytes = self.share / 2;
        options.track_last_enqueued_event_properties =
            shared.options.track_last_enqueued_event_properties;
        options.receiver_name = Some(shared.owner_id.to_string());
        tokio::select! {
            biased;
            reason = self.pump.signal.stopped() => Err(OpenEnd::Stopped(reason)),
            opened = shared.transport.open_receiver(options) => opened.map_err(OpenEnd::Failed),
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
        let limit = self.pump.shared.stopper.left() / 3;
        for error in writer.finish(limit).await {
            self.report(ProcessingError::Checkpoint(error)).await;
        }
    }

    /// Waits before the next try, at least as long as somebody `asked`. `Err`: the term ends instead.
    pub(super) async fn pause(
        &self,
        backoff: &mut Backoff,
        asked: Option<Duration>,
    ) -> Result<(), TermEnd> {
        if let Some(reason) = self.pump.pause(backoff, asked).await {
            return Err(TermEnd::Closed(reason));
        }
        if self.pump.restarts.slot().is_asked() {
            return Err(self.restarted());
        }
        Ok(())
    }

    pub(super) fn restarted(&self) -> TermEnd {
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

/// Why no receiver was opened.
enum OpenEnd {
    Stopped(CloseReason),
    Failed(TransportError),
}
