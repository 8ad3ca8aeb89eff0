//! Event hubs and their events, without any notion of a connection.

mod clock;
mod epoch;
mod hash;
mod hub;
mod log;
mod message;
mod partition;
mod position;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use clock::Clock;
pub(crate) use epoch::{Claim, Refusal};
pub(crate) use hub::{Hub, SubscribeError, Subscription};
pub(crate) use log::{LogState, Retention, StoredEvent};
pub(crate) use message::{BATCH_FORMAT, Message, PARTITION_KEY};
pub(crate) use partition::{Batch, Partition};
pub(crate) use position::Position;

use crate::amqp::limits::MAX_HUBS;

/// A receiver as the broker sees it.
pub(crate) trait Listener: fmt::Debug + Send + Sync {
    /// Events may be there to read.
    fn wake(&self);
    /// A newcomer took the place.
    fn evict(&self, newcomer: &Claim, own: &Claim);
}

/// All event hubs of an emulator.
#[derive(Debug)]
pub(crate) struct Broker {
    /// By lower-case name. PROTOCOL: entity names are case-insensitive.
    hubs: Mutex<HashMap<String, Arc<Hub>>>,
    retention: Retention,
    clock: Clock,
}

impl Broker {
    pub(crate) fn new(retention: Retention, clock: Clock) -> Self {
        Self {
            hubs: Mutex::new(HashMap::new()),
            retention,
            clock,
        }
    }

    /// Creates an event hub; false if one of that name exists or there are too many.
    pub(crate) fn create_hub(&self, name: &str, partitions: u32) -> bool {
        let mut hubs = lock(&self.hubs);
        let key = name.to_lowercase();
        if hubs.len() >= MAX_HUBS || hubs.contains_key(&key) {
            return false;
        }
        hubs.insert(
            key,
            Arc::new(Hub::new(name, partitions, self.retention, self.clock)),
        );
        true
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// All event hubs, by name.
    pub(crate) fn hubs(&self) -> Vec<Arc<Hub>> {
        let mut hubs: Vec<_> = lock(&self.hubs).values().cloned().collect();
        hubs.sort_by(|a, b| a.name().cmp(b.name()));
        hubs
    }

    pub(crate) fn hub(&self, name: &str) -> Option<Arc<Hub>> {
        lock(&self.hubs).get(&name.to_lowercase()).cloned()
    }
}

/// Locks, also after a panic elsewhere: every change made under these locks is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
