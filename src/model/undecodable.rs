//! A message of a partition that cannot be made an event.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use super::Offset;

/// Why a message is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UndecodableReason {
    /// It is not a valid AMQP message, or nests too deep, or counts too much.
    #[error("it is not a valid AMQP message")]
    Malformed,
    /// It is valid but does not say where in its partition it stands.
    #[error("message annotation `{annotation}` is missing or of the wrong type")]
    NoPosition {
        /// The first annotation that is missing or of the wrong type.
        annotation: &'static str,
    },
    /// It is larger than this client accepts; the beginning was kept.
    #[error("it has {len} bytes, more than are accepted")]
    TooLarge {
        /// Its size.
        len: u64,
    },
}

/// Where an event stands in its partition, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) sequence_number: Option<i64>,
    pub(crate) offset: Option<Offset>,
    pub(crate) enqueued_time: Option<SystemTime>,
}

/// A message that came from a partition and cannot be made an event: with what could be read of its position, and as
/// it came, for whoever wants to keep it.
///
/// Its `Debug` form shows the position and the size, never the content.
#[derive(Clone)]
pub struct UndecodableEvent {
    reason: UndecodableReason,
    position: Position,
    raw: Bytes,
}

impl UndecodableEvent {
    pub(crate) fn new(reason: UndecodableReason, position: Position, raw: Bytes) -> Self {
        Self {
            reason,
            position,
            raw,
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn reason(&self) -> UndecodableReason {
        self.reason
    }

    /// Its sequence number, if that could be read.
    #[must_use]
    pub fn sequence_number(&self) -> Option<i64> {
        self.position.sequence_number
    }

    /// Its offset, if that could be read.
    #[must_use]
    pub fn offset(&self) -> Option<&Offset> {
        self.position.offset.as_ref()
    }

    /// When the service enqueued it, if that could be read.
    #[must_use]
    pub fn enqueued_time(&self) -> Option<SystemTime> {
        self.position.enqueued_time
    }

    /// The encoded message, or the beginning of one that is too large.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }
}

impl fmt::Debug for UndecodableEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UndecodableEvent")
            .field("reason", &self.reason)
            .field("sequence_number", &self.position.sequence_number)
            .field("offset", &self.position.offset)
            .field("len", &self.raw.len())
            .finish_non_exhaustive()
    }
}
