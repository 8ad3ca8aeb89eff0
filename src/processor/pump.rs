//! The task that owns one partition: one term after another until told to stop.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::Instrument as _;

use super::budget::{Draw, MemoryBudget};
use super::checkpointer::Notes;
use super::fence::{Fence, Lease};
use super::handler::{CloseReason, ErasedHandler};
use super::options::ProcessorOptions;
use super::parallel::OrderingKey;
use super::restart::{Registration, Restart, Restarts};
use super::signal::StopSignal;
use super::start::Start;
use super::status::{Board, PartitionCell, Stage};
use super::stopper::Stopper;
use super::term::{Term, TermEnd};
use crate::checkpoint::CheckpointStore;
use crate::dead_letter::DeadLetterSink;
use crate::error::TransportError;
use crate::model::{EventPosition, GroupScope, OwnerId, PartitionId};
use crate::retry::{Backoff, RetryMode};
use crate::telemetry;
use crate::transport::{PartitionReceiver, Transport};

/// What all tasks of a processor share.
pub(super) struct Shared {
    pub(super) scope: GroupScope,
    pub(super) owner_id: OwnerId,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) store: Arc<dyn CheckpointStore>,
    pub(super) handler: Arc<dyn ErasedHandler>,
    pub(super) options: ProcessorOptions,
    /// Our last confirmed write to any ownership record.
    pub(super) lease: Arc<Lease>,
    pub(super) notes: Arc<Notes>,
    /// Where events go that the application cannot process.
    pub(super) dead_letters: Option<Arc<dyn DeadLetterSink>>,
    pub(super) ordering_key: OrderingKey,
    pub(super) memory: MemoryBudget,
    pub(super) stopper: Stopper,
    /// Where partitions are asked to start again.
    pub(super) restarts: Arc<Restarts>,
    /// What everybody notes for those who look from outside.
    pub(super) board: Arc<Board>,
    /// Tells them that it is over.
    pub(super) _ended: DropGuard,
    /// The only source of chance in the processor, so that a seed fixes all of it.
    pub(super) rng: Mutex<StdRng>,
}

impl Shared {
    /// Draws from the processor's source of chance.
    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        // A panic cannot leave a generator in a state that matters.
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
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

/// One partition for as long as this processor owns it.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) shared: Arc<Shared>,
    pub(super) partition_id: PartitionId,
    pub(super) signal: StopSignal,
    pub(super) fence: Arc<Fence>,
    /// Where the first term started without a checkpoint. A later term starts there too: what "latest" means must not
    /// move past an event that failed.
    pub(super) started_at: Option<EventPosition>,
    /// Where the next term starts in place of the checkpoint.
    pub(super) detour: Option<Detour>,
    /// Whether the checkpoint has been taken over from the owner before (`strict_fencing`).
    pub(super) is_fenced: bool,
    pub(super) restarts: Registration,
    pub(super) cell: Arc<PartitionCell>,
    pub(super) memory: Draw,
    pub(super) created: Instant,
    /// Whether a listing has just said that the partition is ours. An heir may have waited for longer than its lease.
    pub(super) is_listed: bool,
}

/// A start that is not the checkpoint's.
#[derive(Clone, Debug)]
pub(super) struct Detour {
    pub(super) start: Start,
    /// The next checkpoint replaces the stored one, even by a lower number.
    pub(super) is_reset: bool,
}

/// How another receiver took the partition.
#[derive(Debug)]
pub(super) struct Displaced {
    pub(super) error: TransportError,
    /// When the receiver was asked for that was displaced.
    pub(super) asked_for: Instant,
    /// Whether no receiver could be opened at all: somebody reads at a higher level.
    pub(super) is_refused: bool,
}

/// What a pump leaves behind.
#[derive(Debug)]
pub(super) struct PumpEnd {
    /// Still open after a shutdown, so that nobody reads the partition before it is relinquished.
    pub(super) receiver: Option<Box<dyn PartitionReceiver>>,
    /// Set if another receiver took the partition before anybody told the pump that it was lost.
    pub(super) displaced: Option<Displaced>,
    /// Whether the partition is to be given back because nothing comes.
    pub(super) has_stalled: bool,
}

/// A term or a receiver that lived this long was healthy: the next failure starts with a short wait again.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(60);

impl Pump {
    pub(super) fn new(
        shared: Arc<Shared>,
        partition_id: PartitionId,
        signal: StopSignal,
        fence: Arc<Fence>,
    ) -> Self {
        let restarts = shared.restarts.register(partition_id.clone());
        let cell = shared.board.cell(&partition_id);
        let memory = shared.memory.draw();
        Self {
            shared,
            memory,
            created: Instant::now(),
            is_listed: false,
            partition_id,
            signal,
            fence,
            started_at: None,
            detour: None,
            is_fenced: false,
            restarts,
            cell,
        }
    }

    pub(super) async fn run(mut self) -> PumpEnd {
        let mut backoff = self.backoff();
        let mut receiver = None;
        let mut has_stalled = false;
        let (reason, displaced) = loop {
            if let Some(reason) = self.wait_while_paused().await {
                break (reason, None);
            }
            let begun = Instant::now();
            self.turn_off();
            let span = tracing::info_span!(
                target: telemetry::PROCESSOR, "term", partition_id = %self.partition_id
            );
            let term = Term::new(&mut self).run(&mut receiver);
            let end = term.instrument(span).await;
            self.cell.enter(Stage::Starting);
            // Events received ahead belong to the term that ended.
            if !matches!(end, TermEnd::Closed(_)) {
                close(&mut receiver).await;
            }
            if begun.elapsed() >= HEALTHY_AFTER {
                backoff.reset();
            }
            let stopped = match end {
                TermEnd::Closed(reason) => break (reason, None),
                TermEnd::Displaced(displaced) => {
                    break (CloseReason::OwnershipLost, Some(displaced));
                }
                TermEnd::Stalled => {
                    has_stalled = true;
                    break (CloseReason::Stalled, None);
                }
                TermEnd::Failed | TermEnd::Nowhere { is_replaced: true } => {
                    self.cell.restarted();
                    self.pause(&mut backoff, None).await
                }
                TermEnd::Nowhere { is_replaced: false } => {
                    self.pause(&mut self.slow_backoff(), None).await
                }
                TermEnd::Restarted { in_vain } => {
                    self.turn_off();
                    // Who asks again and again before the first event has to wait.
                    if in_vain {
                        self.pause(&mut backoff, None).await
                    } else {
                        self.signal.reason()
                    }
                }
            };
            if let Some(reason) = stopped {
                break (reason, None);
            }
        };
        if reason != CloseReason::Shutdown {
            close(&mut receiver).await;
        }
        PumpEnd {
            receiver,
            displaced,
            has_stalled,
        }
    }

    pub(super) fn backoff(&self) -> Backoff {
        self.shared.options.backoff()
    }

    fn slow_backoff(&self) -> Backoff {
        let longest = self.shared.options.max_retry_delay;
        Backoff::new(RetryMode::Fixed, longest, longest)
    }

    /// Notes where the partition is asked to start.
    fn turn_off(&mut self) {
        let Some(restart) = self.restarts.slot().take() else {
            return;
        };
        tracing::warn!(
            target: telemetry::PROCESSOR,
            partition_id = %self.partition_id, ?restart,
            "the partition starts again where it is asked to"
        );
        self.detour = match restart {
            Restart::AtCheckpoint => None,
            Restart::Again => self.detour.take(),
            Restart::Seek(position) => Some(Detour {
                start: position.into(),
                is_reset: false,
            }),
            Restart::Reset(position) => Some(Detour {
                start: position.into(),
                is_reset: true,
            }),
        };
    }

    /// A partition that is paused between two terms starts none. `Some`: told to stop instead.
    async fn wait_while_paused(&self) -> Option<CloseReason> {
        tokio::select! {
            biased;
            reason = self.signal.stopped() => Some(reason),
            () = self.restarts.slot().resumed() => {
                self.cell.stopped_by_policy(false);
                None
            }
        }
    }

    /// Waits before the next try, at least as long as somebody `asked`. `Some`: told to stop instead.
    pub(super) async fn pause(
        &self,
        backoff: &mut Backoff,
        asked: Option<Duration>,
    ) -> Option<CloseReason> {
        let delay = self.shared.draw(|rng| backoff.next_delay(asked, rng));
        tokio::select! {
            biased;
            reason = self.signal.stopped() => Some(reason),
            () = self.restarts.slot().asked() => None,
            () = tokio::time::sleep(delay) => None,
        }
    }
}

pub(super) async fn close(receiver: &mut Option<Box<dyn PartitionReceiver>>) {
    if let Some(receiver) = receiver.take() {
        receiver.close().await;
    }
}
