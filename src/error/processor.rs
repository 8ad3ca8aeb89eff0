//! Failures of the processor, its builder and its checkpoints.

use std::time::Duration;

use super::{
    BoxError, ConnectionStringError, StallReason, StallRemedy, StoreError, TransportError,
};
use crate::model::{OwnerId, PartitionId};

/// Options that do not fit together, or credentials that cannot be used. Found before anything is sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The connection string cannot be used.
    #[error(transparent)]
    ConnectionString(#[from] ConnectionStringError),
    /// An option has a value that cannot work.
    #[error("option `{option}` is not valid: {reason}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What is wrong, with the values.
        reason: String,
    },
}

/// What ends [`EventProcessor::run`](crate::processor::EventProcessor::run): the configuration cannot work, or the
/// application wants it so.
///
/// The former is found at the start only. Once the processor has seen the event hub and the store, no failure of either
/// ends it: those go to [`on_error`](crate::processor::EventHandler::on_error).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// The event hub does not exist or does not let us in.
    #[error("the event hub cannot be used")]
    EventHub(#[source] TransportError),
    /// The checkpoint store does not exist or does not let us in.
    #[error("the checkpoint store cannot be used")]
    CheckpointStore(#[source] StoreError),
    /// The system gives no thread for [`ControlThread::Own`](crate::ControlThread::Own).
    #[error("the processor's thread could not be started")]
    ControlThread(#[source] std::io::Error),
    /// The handler failed, and [`FailureAction::StopProcessor`](crate::FailureAction::StopProcessor) was asked for. The
    /// processor has stopped gracefully; what failed was not checkpointed.
    #[error("the handler failed in partition {partition_id}")]
    Handler {
        /// The partition.
        partition_id: PartitionId,
        /// What failed.
        #[source]
        source: Box<ProcessingError>,
    },
}

/// A checkpoint that was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The partition is not this term's any more: another processor has it, or the term was closed. Whoever reads
    /// it now keeps its own checkpoints.
    #[error("the partition is no longer owned by this processor")]
    OwnershipLost,
    /// Neither the checkpoint store nor the event hub has confirmed lately that the partition is ours, so another
    /// processor may have it. Passes with the next renewal; the checkpoint was not written.
    #[error("it is not certain that this processor still owns the partition")]
    OwnershipUnproven,
    /// Somebody else has moved the stored checkpoint back, and
    /// [`CheckpointRegression::Adopt`](crate::CheckpointRegression::Adopt) is set: the partition starts again from
    /// there.
    #[error(
        "the stored checkpoint was moved back from {from} to {to}; the partition starts again there"
    )]
    MovedBack {
        /// The sequence number that was stored before.
        from: i64,
        /// The sequence number that is stored now.
        to: i64,
    },
    /// The event was never delivered in this term, so a checkpoint there could skip events.
    #[error("sequence number {sequence_number} has not been delivered in this term")]
    NotDelivered {
        /// The sequence number asked for.
        sequence_number: i64,
    },
    /// The store failed; the checkpoint was not written.
    #[error("the checkpoint was not written")]
    Store(#[source] StoreError),
    /// Nobody can tell whether the checkpoint was written. Writing it again, or a later one, is safe.
    #[error("it is not known whether the checkpoint was written")]
    Unknown(#[source] StoreError),
}

impl CheckpointError {
    /// Whether the partition is gone, which no further try changes.
    #[must_use]
    pub fn is_ownership_lost(&self) -> bool {
        matches!(self, Self::OwnershipLost)
    }

    /// Whether the term that it belongs to has ended or is about to.
    pub(crate) fn ends_term(&self) -> bool {
        matches!(self, Self::OwnershipLost | Self::MovedBack { .. })
    }

    /// How long the store asked to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Store(error) | Self::Unknown(error) => error.retry_after(),
            Self::OwnershipLost
            | Self::OwnershipUnproven
            | Self::MovedBack { .. }
            | Self::NotDelivered { .. } => None,
        }
    }

    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::OwnershipLost | Self::MovedBack { .. } | Self::NotDelivered { .. } => false,
            Self::Store(error) => error.is_transient(),
            Self::OwnershipUnproven | Self::Unknown(_) => true,
        }
    }
}

/// A dead letter that was not stored, as far as anybody knows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// The processor has no place for dead letters:
    /// [`with_dead_letter_sink`](crate::EventProcessorBuilder::with_dead_letter_sink).
    #[error("no dead letter sink is set")]
    NoSink,
    /// The sink panicked.
    #[error("the dead letter sink panicked")]
    Panicked,
    /// The sink failed.
    #[error("the sink failed")]
    Store(#[source] BoxError),
}

impl DeadLetterError {
    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoSink => false,
            // What failed is the application's; nobody here can tell.
            Self::Panicked | Self::Store(_) => true,
        }
    }
}

/// Trouble that the processor survives, as [`on_error`](crate::processor::EventHandler::on_error) gets it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessingError {
    /// A token for the event hub could not be renewed. What is open goes on until the old one expires, and until then it
    /// is tried again.
    #[error("renewing a token")]
    Authorization(#[source] TransportError),
    /// A hook of the handler returned an error. What happens next says the
    /// [`failure_policy`](crate::ProcessorOptions::failure_policy), or the error itself.
    #[error("`{hook}` failed")]
    Handler {
        /// The hook.
        hook: &'static str,
        /// What it returned.
        source: BoxError,
    },
    /// A hook of the handler panicked. What happens next says the
    /// [`failure_policy`](crate::ProcessorOptions::failure_policy).
    #[error("`{hook}` panicked")]
    HandlerPanicked {
        /// The hook.
        hook: &'static str,
    },
    /// An event cannot be decoded, so no hook is called for it.
    #[error("an event cannot be decoded")]
    Undecodable {
        /// Its sequence number, if that much can be read.
        sequence_number: Option<i64>,
        /// What is wrong with it.
        source: BoxError,
    },
    /// An event was passed over, as [`FailureAction::Skip`](crate::FailureAction::Skip) says. The failure was told before.
    #[error("the event with sequence number {sequence_number} is skipped")]
    Skipped {
        /// Its sequence number.
        sequence_number: i64,
    },
    /// A dead letter was not stored. Tried again until it is; the partition waits.
    #[error("storing a dead letter")]
    DeadLetter(#[source] DeadLetterError),
    /// The partition is not read until it is resumed, as
    /// [`FailureAction::StopPartition`](crate::FailureAction::StopPartition) says. The failure was told before.
    #[error("the partition is stopped until it is resumed")]
    PartitionStopped,
    /// Ownership records could not be read or written. What we own goes on being read.
    #[error("load balancing")]
    LoadBalancing(#[source] StoreError),
    /// Another processor of the group uses our owner id. It keeps what it holds; each needs an id of its own.
    #[error("another processor uses the owner id `{owner_id}`")]
    DuplicateOwnerId {
        /// The id.
        owner_id: OwnerId,
    },
    /// Neither the checkpoint store nor the event hub has confirmed lately that the partition is ours: the handler is
    /// not called until one does.
    #[error("it is not certain that this processor still owns the partition; it pauses")]
    OwnershipUnproven,
    /// The partitions of the event hub could not be read. Those known go on being read.
    #[error("reading the event hub's properties")]
    EventHub(#[source] TransportError),
    /// A checkpoint that a [`CheckpointPolicy`](crate::CheckpointPolicy) asked for was not written, or that of the owner
    /// before was not taken over ([`strict_fencing`](crate::ProcessorOptions::strict_fencing)). It is tried again;
    /// events go on being processed.
    #[error("writing the checkpoint")]
    Checkpoint(#[source] CheckpointError),
    /// The service does not hold these events any more: they are lost to this consumer group, which goes on with the
    /// next one there is. The partition was left unread for longer than the retention time, or its log is compacted. A gap
    /// that shows while events come is asked about twice.
    #[error("{missing} events after sequence number {after} have expired unread")]
    EventsMissing {
        /// Sequence number of the checkpoint, or of the last event delivered.
        after: i64,
        /// How many events are missing.
        missing: i64,
    },
    /// The partition cannot start where it should; what happens next says
    /// [`invalid_position`](crate::ProcessorOptions::invalid_position).
    #[error("the position to start from is invalid")]
    InvalidPosition(#[source] InvalidPositionError),
    /// A partition's checkpoint could not be read, so nobody knows where to start; tried again until it can.
    #[error("reading the checkpoint")]
    ReadCheckpoint(#[source] StoreError),
    /// The service holds events that do not come, although the receiver is attached, nothing is wrong with it as far as
    /// anybody says, and the handler is free ([`stall_timeout`](crate::ProcessorOptions::stall_timeout)). Told again with
    /// each remedy that is tried.
    #[error("no event has come for {quiet_for:?} although there are some; {remedy}")]
    Stalled {
        /// How deliveries fail to come.
        reason: StallReason,
        /// How long nothing has come.
        quiet_for: Duration,
        /// What is tried now.
        remedy: StallRemedy,
    },
    /// Receiving failed; the receiver is opened again after the last event it delivered.
    #[error("receiving")]
    Receive(#[source] TransportError),
}

impl ProcessingError {
    /// How long the service or the store asked to wait before the next try.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Authorization(error) | Self::EventHub(error) | Self::Receive(error) => {
                error.retry_after()
            }
            Self::LoadBalancing(error) | Self::ReadCheckpoint(error) => error.retry_after(),
            Self::Checkpoint(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the trouble can pass without anybody changing code or configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::DuplicateOwnerId { .. } | Self::Handler { .. } | Self::HandlerPanicked { .. } => {
                false
            }
            Self::Undecodable { .. } | Self::Skipped { .. } | Self::PartitionStopped => false,
            Self::EventsMissing { .. } | Self::InvalidPosition(_) => false,
            Self::DeadLetter(error) => error.is_transient(),
            Self::OwnershipUnproven | Self::Stalled { .. } => true,
            Self::Checkpoint(error) => error.is_transient(),
            Self::LoadBalancing(error) | Self::ReadCheckpoint(error) => error.is_transient(),
            Self::Authorization(error) | Self::EventHub(error) | Self::Receive(error) => {
                error.is_transient()
            }
        }
    }
}

/// Why a partition cannot start where it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPositionError {
    /// The checkpoint lies beyond the last event: the event hub is another one than the checkpoint was written for, as
    /// after it was deleted and created again. Asked twice.
    #[error(
        "the checkpoint is at sequence number {checkpoint}, and the last event is {last_enqueued}"
    )]
    BeyondEnd {
        /// Sequence number of the checkpoint.
        checkpoint: i64,
        /// Sequence number of the last event; `-1` if there never was one.
        last_enqueued: i64,
    },
    /// The service refused the position.
    #[error("the service refused it")]
    Refused(#[source] TransportError),
    /// The checkpoint record cannot be understood.
    #[error("the checkpoint cannot be read")]
    Unreadable(#[source] StoreError),
}
