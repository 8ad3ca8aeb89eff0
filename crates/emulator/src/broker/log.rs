//! The events of one partition: appended at the end, trimmed at the start.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::message::{Message, Stamp};
use super::position::{Position, PositionError};

/// How much of a partition is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// An event as receivers get it.
#[derive(Debug, Clone)]
pub(crate) struct StoredEvent {
    /// Sections in wire order, ready to be put behind a transfer.
    pub(crate) encoded: Bytes,
    /// Length of the header section at the start of `encoded`.
    pub(crate) header_len: usize,
    offset: u64,
    enqueued_ms: i64,
}

/// State of a partition as management and delivery annotations tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) begin_sequence_number: i64,
    /// -1 as long as nothing was ever enqueued.
    pub(crate) last_sequence_number: i64,
    pub(crate) last_offset: Option<u64>,
    pub(crate) last_enqueued_ms: i64,
    pub(crate) is_empty: bool,
}

/// Where an appended event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) sequence_number: i64,
    pub(crate) offset: u64,
}

/// Offsets grow by the stored size, from a start that no sequence number is near: code that mixes
/// the two up fails at once.
const FIRST_OFFSET: u64 = 1 << 32;

#[derive(Debug)]
pub(crate) struct Log {
    events: VecDeque<StoredEvent>,
    retention: Retention,
    bytes: usize,
    begin: i64,
    next_offset: u64,
    last_offset: Option<u64>,
    last_enqueued_ms: i64,
}

impl Log {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            events: VecDeque::new(),
            retention,
            bytes: 0,
            begin: 0,
            next_offset: FIRST_OFFSET,
            last_offset: None,
            last_enqueued_ms: 0,
        }
    }

    /// The sequence number the next event gets.
    pub(crate) fn end(&self) -> i64 {
        self.begin + self.events.len() as i64
    }

    pub(crate) fn state(&self) -> LogState {
        LogState {
            begin_sequence_number: self.begin,
            last_sequence_number: self.end() - 1,
            last_offset: self.last_offset,
            last_enqueued_ms: self.last_enqueued_ms,
            is_empty: self.events.is_empty(),
        }
    }

    /// Appends the messages as one unit and returns where the last one went.
    pub(crate) fn append(&mut self, messages: &[Message], now_ms: i64) -> Option<Appended> {
        // PROTOCOL: enqueued times never go back within a partition, whatever the clock does.
        let enqueued_ms = now_ms.max(self.last_enqueued_ms);
        let room = messages.iter().map(Message::stored_len).sum();
        // One allocation per batch. It lives until retention has dropped the whole batch.
        let mut buf = BytesMut::with_capacity(room);
        let mut appended = None;
        for message in messages {
            let sequence_number = self.end();
            let offset = self.next_offset;
            let text = offset.to_string();
            let stamp = Stamp {
                sequence_number,
                offset: &text,
                enqueued_ms,
            };
            let header_len = message.encode(stamp, &mut buf);
            let encoded = buf.split().freeze();
            self.bytes += encoded.len();
            self.next_offset += encoded.len() as u64;
            self.events.push_back(StoredEvent {
                encoded,
                header_len,
                offset,
                enqueued_ms,
            });
            self.last_offset = Some(offset);
            self.last_enqueued_ms = enqueued_ms;
            appended = Some(Appended {
                sequence_number,
                offset,
            });
        }
        self.trim();
        appended
    }

    /// Events from a sequence number on (or from the oldest one kept), until a count or size is
    /// reached; at least one if there is one.
    pub(crate) fn read(
        &self,
        from: i64,
        max_events: usize,
        max_bytes: usize,
    ) -> (i64, ReadFrom<'_>) {
        let from = from.clamp(self.begin, self.end());
        let start = usize::try_from(from - self.begin).unwrap_or(0);
        let mut size = 0;
        let mut count = 0;
        for event in self.events.range(start..).take(max_events) {
            if count > 0 && size + event.encoded.len() > max_bytes {
                break;
            }
            size += event.encoded.len();
            count += 1;
        }
        (from, self.events.range(start..start + count))
    }

    /// The sequence number at which a reader starts.
    pub(crate) fn resolve(&self, position: &Position) -> Result<i64, PositionError> {
        let last = self.end() - 1;
        Ok(match *position {
            Position::Start => self.begin,
            Position::End => self.end(),
            Position::Offset {
                ref text,
                inclusive,
            } => {
                let invalid = || PositionError::Offset {
                    given: text.clone(),
                    last: self
                        .last_offset
                        .map_or_else(|| "-1".to_owned(), |o| o.to_string()),
                };
                let offset: u64 = text.parse().map_err(|_| invalid())?;
                if self.last_offset.is_none_or(|last| offset > last) {
                    return Err(invalid());
                }
                self.begin
                    + self.events.partition_point(|e| {
                        e.offset < offset || (!inclusive && e.offset == offset)
                    }) as i64
            }
            Position::SequenceNumber { number, inclusive } => {
                let first = if inclusive {
                    number
                } else {
                    number.saturating_add(1)
                };
                // The next event to come is no error: a reader may wait for it.
                if first > self.end() {
                    return Err(PositionError::SequenceNumber {
                        given: number,
                        last,
                    });
                }
                first.max(self.begin)
            }
            Position::EnqueuedTime { millis, inclusive } => {
                self.begin
                    + self.events.partition_point(|e| {
                        e.enqueued_ms < millis || (!inclusive && e.enqueued_ms == millis)
                    }) as i64
            }
        })
    }

    /// Drops the oldest events beyond retention, but never the newest one.
    fn trim(&mut self) {
        while self.events.len() > 1
            && (self.events.len() > self.retention.events || self.bytes > self.retention.bytes)
        {
            if let Some(event) = self.events.pop_front() {
                self.bytes -= event.encoded.len();
                self.begin += 1;
            }
        }
    }
}

/// A run of stored events.
pub(crate) type ReadFrom<'a> = std::collections::vec_deque::Iter<'a, StoredEvent>;
