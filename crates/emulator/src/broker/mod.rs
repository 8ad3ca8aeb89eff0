//! Event hubs and their events, without any notion of a connection.

mod epoch;
mod hash;
mod hub;
mod log;
mod message;
mod partition;
mod position;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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
}

impl Broker {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            hubs: Mutex::new(HashMap::new()),
            retention,
        }
    }

    /// Creates an event hub; false if one of that name exists or there are too many.
    pub(crate) fn create_hub(&self, name: &str, partitions: u32) -> bool {
        let mut hubs = lock(&self.hubs);
        let key = name.to_lowercase();
        if hubs.len() >= MAX_HUBS || hubs.contains_key(&key) {
            return false;
        }
        hubs.insert(key, Arc::new(Hub::new(name, partitions, self.retention)));
        true
    }

    pub(crate) fn hub(&self, name: &str) -> Option<Arc<Hub>> {
        lock(&self.hubs).get(&name.to_lowercase()).cloned()
    }
}

/// Locks, also after a panic elsewhere: every change made under these locks is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}
