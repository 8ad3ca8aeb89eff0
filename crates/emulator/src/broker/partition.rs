//! One partition: its log, and the receivers that wait for its next event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::log::{Appended, Log, LogState, Retention, StoredEvent};
use super::message::Message;
use super::position::{Position, PositionError};
use super::{Clock, Listener, lock};

#[derive(Debug)]
pub(crate) struct Partition {
    id: String,
    clock: Clock,
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
    pub(crate) fn new(id: String, retention: Retention, clock: Clock) -> Self {
        let inner = Inner {
            log: Log::new(retention),
            waiting: HashMap::new(),
        };
        Self {
            id,
            clock,
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn state(&self) -> LogState {
        lock(&self.inner).log.state()
    }

    pub(crate) fn append(&self, messages: &[Message]) -> Option<Appended> {
        let (appended, waiting) = {
            let mut inner = lock(&self.inner);
            let appended = inner.log.append(messages, self.clock.now_ms());
            (appended, std::mem::take(&mut inner.waiting))
        };
        for listener in waiting.into_values() {
            listener.wake();
        }
        appended
    }

    pub(crate) fn resolve(&self, position: &Position) -> Result<i64, PositionError> {
        lock(&self.inner).log.resolve(position)
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
        let mut inner = lock(&self.inner);
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

    /// Forgets a receiver that went away while it waited.
    pub(crate) fn forget(&self, subscription: u64) {
        lock(&self.inner).waiting.remove(&subscription);
    }
}
