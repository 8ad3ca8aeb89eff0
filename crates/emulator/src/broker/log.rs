//! The events of one partition: appended at the end, trimmed at the start.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Clock;
use super::journal::Journal;
use super::message::{Message, Stamp};
use super::offset::Offset;
use super::position::{Position, PositionError};
use super::recovery::recover;
use crate::storage::DataError;

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
    pub(super) offset: u64,
    pub(super) enqueued_ms: i64,
}

impl StoredEvent {
    pub(crate) fn enqueued_ms(&self) -> i64 {
        self.enqueued_ms
    }

    /// Memory it takes.
    fn cost(&self) -> usize {
        self.encoded.len() + size_of::<Self>()
    }
}

/// Where a log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) next_sequence_number: i64,
    pub(super) next_offset: u64,
    pub(super) last_offset: Option<u64>,
    pub(super) last_enqueued_ms: i64,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            next_sequence_number: 0,
            next_offset: FIRST_OFFSET,
            last_offset: None,
            last_enqueued_ms: 0,
        }
    }
}

/// State of a partition as management and delivery annotations tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) begin_sequence_number: i64,
    /// -1 as long as nothing was ever enqueued.
    pub(crate) last_sequence_number: i64,
    pub(crate) last_offset: Option<Offset>,
    pub(crate) last_enqueued_ms: i64,
    pub(crate) is_empty: bool,
}

/// Where an appended event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) sequence_number: i64,
    pub(crate) offset: Offset,
}

/// Offsets grow by the stored size, from a start that no sequence number is near: code that mixes
/// the two up fails at once.
const FIRST_OFFSET: u64 = 1 << 32;

#[derive(Debug)]
pub(crate) struct Log {
    events: VecDeque<StoredEvent>,
    retention: Retention,
    max_age: Option<Duration>,
    bytes: usize,
    edge: Edge,
    /// Of the offsets, if the event hub is geo-replicated.
    epoch: Option<u32>,
    journal: Option<Journal>,
}

impl Log {
    #[cfg(test)]
    pub(crate) fn new(retention: Retention) -> Self {
        Self::in_memory(retention, None)
    }

    pub(crate) fn in_memory(retention: Retention, max_age: Option<Duration>) -> Self {
        Self {
            events: VecDeque::new(),
            retention,
            max_age,
            bytes: 0,
            edge: Edge::default(),
            epoch: None,
            journal: None,
        }
    }

    /// A log that a directory keeps, with what is there already.
    pub(crate) fn open(
        directory: &Path,
        is_synced: bool,
        retention: Retention,
        max_age: Option<Duration>,
    ) -> Result<Self, DataError> {
        let recovered = recover(directory, retention, is_synced)?;
        let mut log = Self::in_memory(retention, max_age);
        log.bytes = recovered.events.iter().map(StoredEvent::cost).sum();
        log.events = recovered.events.into();
        log.edge = recovered.edge;
        log.journal = Some(recovered.journal);
        log.trim();
        Ok(log)
    }

    /// The sequence number the next event gets.
    pub(crate) fn end(&self) -> i64 {
        self.edge.next_sequence_number
    }

    /// Memory the events take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin(&self) -> i64 {
        self.end() - self.events.len() as i64
    }

    pub(crate) fn state(&self) -> LogState {
        LogState {
            begin_sequence_number: self.begin(),
            last_sequence_number: self.end() - 1,
            last_offset: self.edge.last_offset.map(|number| self.offset(number)),
            last_enqueued_ms: self.edge.last_enqueued_ms,
            is_empty: self.events.is_empty(),
        }
    }

    pub(super) fn offset_of(&self, event: &StoredEvent) -> Offset {
        self.offset(event.offset)
    }

    fn offset(&self, number: u64) -> Offset {
        Offset {
            epoch: self.epoch,
            number,
        }
    }

    /// Goes on in memory alone.
    pub(crate) fn forget_disk(&mut self) {
        self.journal = None;
    }

    /// Gives all events, those to come included, offsets of this epoch. What is on disk stays.
    pub(crate) fn set_epoch(&mut self, epoch: Option<u32>) {
        self.epoch = epoch;
        for (sequence_number, event) in (self.begin()..).zip(&mut self.events) {
            // It was taken apart before, or it would not be here.
            let Ok(message) = Message::parse(&event.encoded) else {
                continue;
            };
            let number = event.offset;
            let mut buf = BytesMut::with_capacity(message.stored_len());
            let stamp = Stamp {
                sequence_number,
                offset: &Offset { epoch, number }.to_string(),
                enqueued_ms: event.enqueued_ms,
            };
            event.header_len = message.encode(stamp, &mut buf);
            event.encoded = buf.freeze();
        }
        self.bytes = self.events.iter().map(StoredEvent::cost).sum();
    }

    /// Appends the messages as one unit and returns where the last one went.
    ///
    /// # Errors
    ///
    /// What the disk said; then nothing has changed.
    pub(crate) fn append(
        &mut self,
        messages: &[Message],
        now_ms: i64,
    ) -> io::Result<Option<Appended>> {
        // PROTOCOL: enqueued times never go back within a partition, whatever the clock does.
        let enqueued_ms = now_ms.max(self.edge.last_enqueued_ms);
        let room = messages.iter().map(Message::stored_len).sum();
        // One allocation per batch. It lives until retention has dropped the whole batch.
        let mut buf = BytesMut::with_capacity(room);
        let mut edge = self.edge;
        let mut appended = None;
        let mut fresh = Vec::with_capacity(messages.len());
        for message in messages {
            let sequence_number = edge.next_sequence_number;
            let offset = edge.next_offset;
            let text = self.offset(offset).to_string();
            let stamp = Stamp {
                sequence_number,
                offset: &text,
                enqueued_ms,
            };
            let header_len = message.encode(stamp, &mut buf);
            let encoded = buf.split().freeze();
            edge = Edge {
                next_sequence_number: sequence_number + 1,
                next_offset: offset + encoded.len() as u64,
                last_offset: Some(offset),
                last_enqueued_ms: enqueued_ms,
            };
            fresh.push(StoredEvent {
                encoded,
                header_len,
                offset,
                enqueued_ms,
            });
            appended = Some(Appended {
                sequence_number,
                offset: self.offset(offset),
            });
        }
        // First to disk: what receivers see and senders hear of is there after a crash.
        if let Some(journal) = &mut self.journal
            && !fresh.is_empty()
        {
            journal.write(self.edge, enqueued_ms, &fresh)?;
        }
        self.bytes += fresh.iter().map(StoredEvent::cost).sum::<usize>();
        self.events.extend(fresh);
        self.edge = edge;
        self.trim();
        Ok(appended)
    }

    /// Events from a sequence number on (or from the oldest one kept), until a count or size is
    /// reached; at least one if there is one.
    pub(crate) fn read(
        &self,
        from: i64,
        max_events: usize,
        max_bytes: usize,
    ) -> (i64, ReadFrom<'_>) {
        let from = from.clamp(self.begin(), self.end());
        let start = usize::try_from(from - self.begin()).unwrap_or(0);
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
            Position::Start => self.begin(),
            Position::End => self.end(),
            Position::Offset {
                ref text,
                inclusive,
            } => {
                let invalid = || PositionError::Offset {
                    given: text.clone(),
                    last: self
                        .state()
                        .last_offset
                        .map_or_else(|| "-1".to_owned(), |o| o.to_string()),
                };
                let offset = match Offset::parse(text, self.epoch) {
                    Some(offset) => offset.number,
                    None if self.epoch.is_some() => {
                        let given = text.clone();
                        return Err(PositionError::Replicated { given });
                    }
                    None => return Err(invalid()),
                };
                if self.edge.last_offset.is_none_or(|last| offset > last) {
                    return Err(invalid());
                }
                self.begin()
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
                first.max(self.begin())
            }
            Position::EnqueuedTime { millis, inclusive } => {
                self.begin()
                    + self.events.partition_point(|e| {
                        e.enqueued_ms < millis || (!inclusive && e.enqueued_ms == millis)
                    }) as i64
            }
        })
    }

    /// Drops the oldest events beyond retention, but never the newest one.
    fn trim(&mut self) {
        self.drop_while(|log, _| {
            log.events.len() > 1
                && (log.events.len() > log.retention.events || log.bytes > log.retention.bytes)
        });
    }

    /// Drops events that are too old, the newest included; true if there were any.
    pub(crate) fn expire(&mut self, clock: Clock) -> bool {
        let Some(age) = self.max_age else {
            return false;
        };
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let oldest = clock.now_ms().saturating_sub(age);
        self.drop_while(|_, event| event.enqueued_ms < oldest)
    }

    /// Drops the oldest events until so many bytes are free, but never the newest one.
    pub(crate) fn free(&mut self, bytes: usize) {
        let target = self.bytes.saturating_sub(bytes);
        self.drop_while(|log, _| log.events.len() > 1 && log.bytes > target);
    }

    fn drop_while(&mut self, is_old: impl Fn(&Self, &StoredEvent) -> bool) -> bool {
        let before = self.events.len();
        while self.events.front().is_some_and(|event| is_old(self, event)) {
            if let Some(event) = self.events.pop_front() {
                self.bytes -= event.cost();
            }
        }
        let begin = self.begin();
        let has_dropped = self.events.len() < before;
        if let Some(journal) = &mut self.journal
            && has_dropped
        {
            journal.drop_before(begin);
        }
        has_dropped
    }
}

/// A run of stored events.
pub(crate) type ReadFrom<'a> = std::collections::vec_deque::Iter<'a, StoredEvent>;
