//! Where reading starts.

use std::time::SystemTime;

use super::{Checkpoint, Offset};

/// Where in a partition reading starts.
///
/// The constructors for a place in the log start *after* the event they name;
/// [`inclusive`](Self::inclusive) makes them start *with* it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EventPosition {
    /// With the oldest event the service still retains.
    Earliest,
    /// With the next event that is enqueued after the receiver opened. The default of the other SDKs'
    /// processors where no checkpoint exists.
    #[default]
    Latest,
    /// At an offset.
    Offset {
        /// The offset, as the service gave it.
        offset: Offset,
        /// Whether the event at the offset is delivered too.
        inclusive: bool,
    },
    /// At a sequence number.
    SequenceNumber {
        /// The sequence number.
        sequence_number: i64,
        /// Whether the event with this number is delivered too.
        inclusive: bool,
    },
    /// At an enqueued time.
    EnqueuedTime {
        /// The time; the service compares in whole milliseconds.
        time: SystemTime,
        /// Whether an event enqueued at exactly this time is delivered too.
        inclusive: bool,
    },
}

impl EventPosition {
    /// After the event at `offset`.
    pub fn offset(offset: impl Into<Offset>) -> Self {
        Self::Offset {
            offset: offset.into(),
            inclusive: false,
        }
    }

    /// After the event with `sequence_number`.
    #[must_use]
    pub fn sequence_number(sequence_number: i64) -> Self {
        Self::SequenceNumber {
            sequence_number,
            inclusive: false,
        }
    }

    /// After everything enqueued up to `time`.
    #[must_use]
    pub fn enqueued_time(time: SystemTime) -> Self {
        Self::EnqueuedTime {
            time,
            inclusive: false,
        }
    }

    /// The same position, with the event it names. [`Earliest`](Self::Earliest) and
    /// [`Latest`](Self::Latest) name no event and stay as they are.
    #[must_use]
    pub fn inclusive(mut self) -> Self {
        match &mut self {
            Self::Earliest | Self::Latest => {}
            Self::Offset { inclusive, .. }
            | Self::SequenceNumber { inclusive, .. }
            | Self::EnqueuedTime { inclusive, .. } => *inclusive = true,
        }
        self
    }

    /// The position right after a checkpoint: its offset, else its sequence number, else `None`.
    ///
    /// INTEROP: every SDK prefers the offset (Python and JS know nothing else), so a record that one of
    /// them wrote continues at the same event whoever reads it.
    #[must_use]
    pub fn after_checkpoint(checkpoint: &Checkpoint) -> Option<Self> {
        match (&checkpoint.offset, checkpoint.sequence_number) {
            (Some(offset), _) => Some(Self::offset(offset.clone())),
            (None, Some(sequence_number)) => Some(Self::sequence_number(sequence_number)),
            (None, None) => None,
        }
    }
}
