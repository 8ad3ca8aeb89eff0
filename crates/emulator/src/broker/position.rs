//! Where a reader wants to start.

use thiserror::Error;

/// A starting position as the selector filter of a receiver says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    Start,
    End,
    /// Offsets are opaque to clients, so the text is kept.
    Offset {
        text: String,
        inclusive: bool,
    },
    SequenceNumber {
        number: i64,
        inclusive: bool,
    },
    EnqueuedTime {
        millis: i64,
        inclusive: bool,
    },
}

/// A position the partition does not have. The texts are those of the service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum PositionError {
    #[error("The supplied offset '{given}' is invalid. The last offset in the system is '{last}'")]
    Offset { given: String, last: String },
    #[error(
        "The supplied sequence number '{given}' is invalid. The last sequence number in the \
         system is '{last}'"
    )]
    SequenceNumber { given: i64, last: i64 },
    /// The condition is the service's, the wording a guess.
    #[error(
        "The supplied offset '{given}' is invalid. Offsets of a geo-replicated namespace are good \
         until its next fail-over, and for receivers that desire com.microsoft:georeplication."
    )]
    Replicated { given: String },
}
