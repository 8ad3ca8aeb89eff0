//! Event hubs and their events, without any notion of a connection.

mod budget;
mod clock;
mod epoch;
mod hash;
mod hub;
mod journal;
mod log;
mod message;
mod offset;
mod partition;
mod position;
mod recovery;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

pub(crate) use budget::Budget;
pub(crate) use clock::Clock;
pub(crate) use epoch::{Claim, Refusal};
pub(crate) use hub::{Hub, SubscribeError, Subscription};
pub(crate) use log::{LogState, Retention, StoredEvent};
#[cfg(feature = "unstable-fuzz")]
pub(crate) use message::Stamp;
pub(crate) use message::{BATCH_FORMAT, Message, PARTITION_KEY};
pub(crate) use partition::{Batch, Partition};
pub(crate) use position::{Position, PositionError};

use crate::amqp::limits::{MAX_HUBS, MAX_PARTITIONS};
use crate::storage::{DataDir, DataError, HubEntry};

/// A receiver as the broker sees it.
pub(crate) trait Listener: fmt::Debug + Send + Sync {
    /// The connection it is on.
    fn connection(&self) -> u64;
    /// Events may be there to read.
    fn wake(&self);
    /// A newcomer took the place.
    fn evict(&self, newcomer: &Claim, own: &Claim);
}

/// What holds for all event hubs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) retention: Retention,
    pub(crate) max_age: Option<Duration>,
    pub(crate) clock: Clock,
    /// Memory that the events of all partitions may take together.
    pub(crate) budget: Arc<Budget>,
    /// Per event hub.
    pub(crate) throughput_units: Option<u32>,
    /// Consumer groups have to be created before anybody can read in them.
    pub(crate) has_strict_groups: bool,
    /// Offsets are no numbers and change with every fail-over.
    pub(crate) is_geo_replicated: bool,
}

impl Settings {
    pub(crate) fn new(retention: Retention, clock: Clock) -> Self {
        Self {
            retention,
            max_age: None,
            clock,
            budget: Arc::new(Budget::new(usize::MAX)),
            throughput_units: None,
            has_strict_groups: false,
            is_geo_replicated: false,
        }
    }
}

/// Why an event hub was not created or changed.
#[derive(Debug, Error)]
pub(crate) enum HubError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("there is one of that name, or there are too many")]
    Exists,
    #[error(
        "there are no more than {} partitions",
        crate::amqp::limits::MAX_PARTITIONS
    )]
    TooManyPartitions,
}

/// All event hubs of an emulator.
#[derive(Debug)]
pub(crate) struct Broker {
    /// By lower-case name. PROTOCOL: entity names are case-insensitive.
    hubs: Mutex<HashMap<String, Arc<Hub>>>,
    settings: Arc<Settings>,
    data: Option<Arc<DataDir>>,
}

impl Broker {
    #[cfg(test)]
    pub(crate) fn new(retention: Retention, clock: Clock) -> Self {
        Self::open(Settings::new(retention, clock), None).unwrap()
    }

    /// The event hubs of a directory, or none.
    pub(crate) fn open(settings: Settings, data: Option<Arc<DataDir>>) -> Result<Self, DataError> {
        let settings = Arc::new(settings);
        let mut hubs = HashMap::new();
        if let Some(data) = &data {
            for entry in data.hubs() {
                let hub = Arc::new(Hub::open(&entry, Some(data), &settings)?);
                hubs.insert(entry.name.to_lowercase(), hub);
            }
        }
        Ok(Self {
            hubs: Mutex::new(hubs),
            settings,
            data,
        })
    }

    #[cfg(test)]
    pub(crate) fn create_hub(&self, name: &str, partitions: u32) -> bool {
        self.add_hub(name, partitions).is_ok()
    }

    /// Creates an event hub.
    pub(crate) fn add_hub(&self, name: &str, partitions: u32) -> Result<(), HubError> {
        let mut hubs = lock(&self.hubs);
        let key = name.to_lowercase();
        if hubs.len() >= MAX_HUBS || hubs.contains_key(&key) {
            return Err(HubError::Exists);
        }
        let mut entry = HubEntry {
            number: 0,
            name: name.to_owned(),
            partitions,
            created_ms: self.settings.clock.now_ms(),
            consumer_groups: Vec::new(),
            geo_epoch: 0,
        };
        if let Some(data) = &self.data {
            entry = data.add_hub(entry)?;
        }
        let hub = Hub::open(&entry, self.data.as_ref(), &self.settings)?;
        hubs.insert(key, Arc::new(hub));
        Ok(())
    }

    /// Makes an event hub have at least so many partitions, told how many it has.
    pub(crate) fn grow_hub(
        &self,
        hub: &Hub,
        wanted: impl FnOnce(u32) -> u32,
    ) -> Result<(), HubError> {
        // One at a time: two that grow the same hub would both open its new partitions.
        let _hubs = lock(&self.hubs);
        let partitions = wanted(u32::try_from(hub.partitions().len()).unwrap_or(u32::MAX));
        if partitions > MAX_PARTITIONS {
            return Err(HubError::TooManyPartitions);
        }
        Ok(hub.grow(partitions)?)
    }

    /// Takes an event hub away, with its events.
    pub(crate) fn remove_hub(&self, name: &str) -> Result<Option<Arc<Hub>>, DataError> {
        let mut hubs = lock(&self.hubs);
        let key = name.to_lowercase();
        let Some(hub) = hubs.get(&key).cloned() else {
            return Ok(None);
        };
        hub.retire()?;
        hubs.remove(&key);
        Ok(Some(hub))
    }

    /// Moves all event hubs to another region: the offsets they had are good no more.
    ///
    /// # Errors
    ///
    /// What the data directory said; event hubs before that one have moved.
    pub(crate) fn fail_over(&self) -> Result<(), DataError> {
        self.hubs().iter().try_for_each(|hub| hub.fail_over())
    }

    pub(crate) fn is_geo_replicated(&self) -> bool {
        self.settings.is_geo_replicated
    }

    pub(crate) fn clock(&self) -> Clock {
        self.settings.clock
    }

    pub(crate) fn hub(&self, name: &str) -> Option<Arc<Hub>> {
        lock(&self.hubs).get(&name.to_lowercase()).cloned()
    }

    /// All event hubs, by name.
    pub(crate) fn hubs(&self) -> Vec<Arc<Hub>> {
        let mut hubs: Vec<_> = lock(&self.hubs).values().cloned().collect();
        hubs.sort_by(|a, b| a.name().cmp(b.name()));
        hubs
    }
}

/// Locks, also after a panic elsewhere: every change made under these locks is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
