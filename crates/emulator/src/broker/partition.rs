//! One partition: its log, and the receivers that wait for its next event.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::budget::Share;
use super::log::{Appended, Log, LogState, StoredEvent};
use super::message::Message;
use super::offset::Offset;
use super::position::{Position, PositionError};
use super::{Clock, Listener, lock};

#[derive(Debug)]
pub(crate) struct Partition {
    id: String,
    clock: Clock,
    /// What it takes of the memory that all partitions have together.
    share: Arc<Share>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    /// Receivers that have read everything, by subscription. Each is woken once and then forgotten.
    waiting: HashMap<u64, Arc<dyn Listener>>,
}

/// What one read gave.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) events: Vec<StoredEvent>,
    /// Where the next read starts.
    pub(crate) next: i64,
    pub(crate) state: LogState,
}

impl Partition {
    pub(crate) fn new(id: String, log: Log, clock: Clock, share: Arc<Share>) -> Self {
        share.set(log.bytes());
        let inner = Inner {
            log,
            waiting: HashMap::new(),
        };
        Self {
            id,
            clock,
            share,
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Memory its events take.
    pub(crate) fn bytes(&self) -> usize {
        self.current().log.bytes()
    }

    pub(crate) fn state(&self) -> LogState {
        self.current().log.state()
    }

    /// Appends the messages as one unit and returns where the last one went.
    ///
    /// # Errors
    ///
    /// What the disk said; then nothing has changed.
    pub(crate) fn append(&self, messages: &[Message]) -> io::Result<Option<Appended>> {
        let (appended, waiting) = {
            let mut inner = self.current();
            let appended = inner.log.append(messages, self.clock.now_ms())?;
            self.share.set(inner.log.bytes());
            (appended, std::mem::take(&mut inner.waiting))
        };
        for listener in waiting.into_values() {
            listener.wake();
        }
        self.share.relieve();
        Ok(appended)
    }

    /// Drops the oldest events until so many bytes are free.
    pub(super) fn free(&self, bytes: usize) {
        let mut inner = lock(&self.inner);
        inner.log.free(bytes);
        self.share.set(inner.log.bytes());
    }

    /// Writes nothing to disk any more.
    pub(super) fn forget_disk(&self) {
        lock(&self.inner).log.forget_disk();
    }

    /// Gives its events offsets of this epoch.
    pub(super) fn set_epoch(&self, epoch: Option<u32>) {
        let mut inner = lock(&self.inner);
        inner.log.set_epoch(epoch);
        self.share.set(inner.log.bytes());
        drop(inner);
        self.share.relieve();
    }

    pub(crate) fn resolve(&self, position: &Position) -> Result<i64, PositionError> {
        self.current().log.resolve(position)
    }

    /// Reads from a sequence number on. If there is nothing, `listener` is woken by the next append.
    pub(crate) fn read(
        &self,
        from: i64,
        max_events: usize,
        max_bytes: usize,
        subscription: u64,
        listener: &Arc<dyn Listener>,
    ) -> Batch {
        let mut inner = self.current();
        let (start, events) = inner.log.read(from, max_events, max_bytes);
        let events: Vec<_> = events.cloned().collect();
        let state = inner.log.state();
        if events.is_empty() {
            inner.waiting.insert(subscription, Arc::clone(listener));
        }
        Batch {
            next: start + events.len() as i64,
            events,
            state,
        }
    }

    /// All events that are kept, with their offsets, and the sequence number of the first.
    pub(crate) fn events(&self) -> (i64, Vec<(Offset, StoredEvent)>) {
        let inner = self.current();
        let (first, events) = inner.log.read(0, usize::MAX, usize::MAX);
        let with_offset = |event: &StoredEvent| (inner.log.offset_of(event), event.clone());
        (first, events.map(with_offset).collect())
    }

    /// Forgets a receiver that went away while it waited.
    pub(crate) fn forget(&self, subscription: u64) {
        lock(&self.inner).waiting.remove(&subscription);
    }

    /// The log without the events that are too old by now.
    fn current(&self) -> MutexGuard<'_, Inner> {
        let mut inner = lock(&self.inner);
        if inner.log.expire(self.clock) {
            self.share.set(inner.log.bytes());
        }
        inner
    }
}
