//! What a processor is doing: snapshots, a watch on them, and the watchdog that reads the same numbers.

mod board;
mod cell;
mod counted;
#[cfg(feature = "metrics")]
mod metrics;
mod monitor;
mod stall;
mod watched;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub(super) use board::{Board, Holding};
pub(super) use cell::{PartitionCell, Stage};
pub(super) use counted::CountedStore;
pub(super) use monitor::Monitor;
pub(super) use watched::watched;

use crate::error::LastError;
use crate::model::{LastEnqueuedEventProperties, OwnerId, PartitionId};

/// A processor at one moment. Numbers that count begin with the processor, and go on when a partition leaves and comes
/// back.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProcessorStatus {
    /// When this was put together, on this machine's clock.
    pub taken_at: SystemTime,
    /// Identity of the processor in ownership records.
    pub owner_id: OwnerId,
    /// The partitions it owns.
    pub partitions: BTreeMap<PartitionId, PartitionStatus>,
    /// What load balancing has done.
    pub load_balancing: LoadBalancingStatus,
    /// What the checkpoint store was asked.
    pub storage: StorageOperations,
    /// Checkpoints that somebody else had moved back and that were written again.
    pub checkpoint_regressions_repaired: u64,
    /// Why there is no new token or signature for the event hub: the credential gave none, or the service did not accept
    /// it. What was accepted before is good until it ends. `None` as soon as one is accepted. Looked at once a second
    /// ([`Transport::credential_error`](crate::Transport::credential_error)).
    pub event_hub_credential_error: Option<LastError>,
    /// Why the credential gave no new token or signature for the checkpoint store; otherwise as above
    /// ([`CheckpointStore::credential_error`](crate::CheckpointStore::credential_error)).
    pub store_credential_error: Option<LastError>,
    /// Whether the processor has ended: this is its last state.
    pub has_ended: bool,
}

/// One partition of a [`ProcessorStatus`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// What it is doing.
    pub state: PartitionState,
    /// Sequence number of the last event handed to the handler in this term.
    pub last_delivered: Option<i64>,
    /// Everything up to this sequence number is done: the last event the handler is done with and, before the first of a
    /// term, where the term starts. `None` if that is not known as a number.
    pub last_processed: Option<i64>,
    /// Sequence number of the last checkpoint that was read or written.
    pub last_checkpointed: Option<i64>,
    /// When this processor last wrote a checkpoint.
    pub last_checkpoint_time: Option<SystemTime>,
    /// Events handed out that are not part of what is done without a gap: at most one, a batch, or the window of
    /// [`concurrency`](crate::ProcessorOptions::concurrency).
    pub events_in_flight: usize,
    /// Calls of `on_event` or `on_event_batch` that are running.
    pub running_calls: usize,
    /// Bytes received that the handler has not been given yet. `None`: the transport does not say.
    pub buffered_bytes: Option<u64>,
    /// The newest event of the partition, as the service last told: with an event if
    /// [`track_last_enqueued_event_properties`](crate::ProcessorOptions::track_last_enqueued_event_properties) is on,
    /// else once a minute.
    pub last_enqueued: Option<LastEnqueuedEventProperties>,
    /// When the last event that is done was enqueued, on the service's clock. `None` before the first of a term.
    pub last_processed_enqueued_time: Option<SystemTime>,
    /// How many events are enqueued after `last_processed`. `None` until both are known.
    pub lag_events: Option<u64>,
    /// Events that are done.
    pub events: u64,
    /// Events passed over ([`FailureAction::Skip`](crate::FailureAction::Skip)).
    pub skipped: u64,
    /// Events that became dead letters.
    pub dead_letters: u64,
    /// Calls of hooks that failed or panicked.
    pub failures: u64,
    /// Terms that ended in a failure and were followed by another.
    pub restarts: u64,
    /// How often deliveries stopped ([`ProcessingError::Stalled`](crate::ProcessingError::Stalled)). A stall that takes
    /// several remedies counts once.
    pub stalls: u64,
    /// Calls of hooks that ran for longer than [`slow_handler_warning`](crate::ProcessorOptions::slow_handler_warning).
    pub slow_calls: u64,
    /// The last trouble in this partition, as [`on_error`](crate::EventHandler::on_error) was told of it.
    pub last_error: Option<LastError>,
}

/// What a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartitionState {
    /// Not read for now: a receiver outside of the group's rules took it, or nothing could be received.
    HeldOff,
    /// Paused by the application.
    Paused,
    /// Being read, or waiting for events.
    Reading,
    /// The receiver failed and is being opened again.
    Reconnecting,
    /// An event is being tried again, or its dead letter stored.
    Retrying,
    /// Deliveries have stopped, and the watchdog is at work.
    Stalled,
    /// Reading the checkpoint, being initialized, opening the first receiver, or waiting for that after a failure.
    Starting,
    /// Stopped by [`FailureAction::StopPartition`](crate::FailureAction::StopPartition) until it is resumed.
    Stopped,
    /// It is not certain that it is still ours; no event is handed out.
    Unproven,
    /// Claimed, but the owner before has not finished yet.
    WaitingForOwner,
}

/// What load balancing has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadBalancingStatus {
    /// Looks at the ownership records that succeeded.
    pub cycles: u64,
    /// Looks that failed.
    pub failed_cycles: u64,
    /// Partitions claimed that nobody held.
    pub claims: u64,
    /// Partitions claimed from live owners.
    pub steals: u64,
    /// Partitions that somebody else claimed from us.
    pub losses: u64,
}

/// What the checkpoint store was asked, by kind. A listing may take several requests, and an operation that is retried
/// counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageOperations {
    /// Listings of ownership.
    pub list_ownership: u64,
    /// Ownership records claimed, renewed or given back.
    pub claim_ownership: u64,
    /// Listings of checkpoints.
    pub list_checkpoints: u64,
    /// Checkpoints read.
    pub checkpoint: u64,
    /// Checkpoints written.
    pub update_checkpoint: u64,
    /// Those of all kinds that failed.
    pub failed: u64,
}

impl StorageOperations {
    /// Operations of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.list_ownership
            + self.claim_ownership
            + self.list_checkpoints
            + self.checkpoint
            + self.update_checkpoint
    }
}

impl PartitionStatus {
    /// How old the oldest event is that is not done, at most. Zero without lag; `None` while that is not known.
    ///
    /// Nobody tells when that event was enqueued, so this goes by the last event that is done, which is older; if only one
    /// event is behind, by that one. The times are the service's, `now` is this machine's.
    #[must_use]
    pub fn lag(&self, now: SystemTime) -> Option<Duration> {
        let enqueued = match self.lag_events? {
            0 => return Some(Duration::ZERO),
            1 => self.last_enqueued.as_ref()?.enqueued_time,
            _ => self.last_processed_enqueued_time?,
        };
        Some(now.duration_since(enqueued).unwrap_or_default())
    }

    /// How long ago this processor last wrote a checkpoint. `None` if it has not yet.
    #[must_use]
    pub fn checkpoint_age(&self, now: SystemTime) -> Option<Duration> {
        let written = self.last_checkpoint_time?;
        Some(now.duration_since(written).unwrap_or_default())
    }
}

/// How often a watch tells of changes, at most.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// A look at a processor from outside, before, while and after it runs. It keeps nothing alive, and whoever does not
/// look costs nothing.
pub struct StatusWatch {
    board: Arc<Board>,
    seen: Option<(ProcessorStatus, Instant)>,
}

impl StatusWatch {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self { board, seen: None }
    }

    /// The state now.
    #[must_use]
    pub fn status(&self) -> ProcessorStatus {
        self.board.status()
    }

    /// Waits until the state differs from the one told last, and returns it: at once the first time, then twice a second at most.
    /// `None` once the processor has ended and its last state was told.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn changed(&mut self) -> Option<ProcessorStatus> {
        loop {
            if let Some((seen, at)) = &self.seen {
                if seen.has_ended {
                    return None;
                }
                let next = *at + TELL_EVERY;
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = self.board.ended.cancelled() => {}
                }
            }
            let status = self.board.status();
            let now = Instant::now();
            if let Some((seen, at)) = &mut self.seen {
                seen.taken_at = status.taken_at;
                if *seen == status {
                    *at = now;
                    continue;
                }
            }
            self.seen = Some((status.clone(), now));
            return Some(status);
        }
    }
}

impl fmt::Debug for StatusWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusWatch").finish_non_exhaustive()
    }
}
