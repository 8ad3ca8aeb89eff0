//! One event hub: partitions, and the receivers of each consumer group.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::epoch::{Claim, EpochTable, Refusal};
use super::hash::partition_for;
use super::log::Log;
use super::message::Message;
use super::partition::Partition;
use super::throttle::Throttle;
use super::{Clock, Listener, Settings, lock};
use crate::storage::{DataDir, DataError, HubEntry};

/// PROTOCOL: every event hub has it, and nobody can delete it.
const DEFAULT_GROUP: &str = "$default";

/// A consumer group (lower case) and a partition.
type Place = (String, usize);
type Receivers = EpochTable<Seat>;

/// A receiver at its place.
#[derive(Debug, Clone)]
struct Seat {
    listener: Arc<dyn Listener>,
    progress: Arc<Progress>,
}

/// How far a receiver is.
#[derive(Debug, Default)]
struct Progress {
    delivered: AtomicU64,
    next: AtomicI64,
}

/// A receiver as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// In lower case.
    pub(crate) group: String,
    pub(crate) partition: String,
    pub(crate) claim: Claim,
    pub(crate) connection: u64,
    /// Events it was sent.
    pub(crate) delivered: u64,
    /// The sequence number of the next event it gets.
    pub(crate) next: i64,
}

#[derive(Debug)]
pub(crate) struct Hub {
    name: String,
    created_ms: i64,
    settings: Arc<Settings>,
    /// What keeps it, and its number there.
    place: Option<(Arc<DataDir>, u32)>,
    /// Replaced as a whole when partitions are added.
    partitions: RwLock<Arc<[Arc<Partition>]>>,
    /// Consumer groups that were named (lower case). Others are taken as well unless settings say
    /// otherwise.
    groups: RwLock<BTreeSet<String>>,
    /// Receivers by consumer group (lower case) and partition. A group is here while it has any.
    receivers: Mutex<HashMap<Place, Receivers>>,
    /// Throughput, if it is limited.
    pub(crate) throttle: Option<Throttle>,
    /// Of offsets if it is geo-replicated; 0 otherwise.
    epoch: AtomicU32,
    next_subscription: AtomicU64,
    round_robin: AtomicUsize,
}

impl Hub {
    pub(super) fn open(
        entry: &HubEntry,
        data: Option<&Arc<DataDir>>,
        settings: &Arc<Settings>,
    ) -> Result<Self, DataError> {
        let groups = entry.consumer_groups.iter().map(|g| g.to_lowercase());
        let hub = Self {
            name: entry.name.clone(),
            created_ms: entry.created_ms,
            settings: Arc::clone(settings),
            place: data.map(|data| (Arc::clone(data), entry.number)),
            partitions: RwLock::new(Arc::from([])),
            groups: RwLock::new(groups.collect()),
            receivers: Mutex::new(HashMap::new()),
            throttle: settings.throughput_units.map(Throttle::new),
            epoch: AtomicU32::new(0),
            next_subscription: AtomicU64::new(1),
            round_robin: AtomicUsize::new(0),
        };
        hub.open_partitions(entry.partitions as usize)?;
        hub.open_epoch(entry.geo_epoch)?;
        Ok(hub)
    }

    /// What is on disk has the offsets it was written with, which may be of another epoch or form.
    fn open_epoch(&self, remembered: u32) -> Result<(), DataError> {
        if self.settings.is_geo_replicated {
            self.move_to(remembered.max(1))?;
        } else if remembered > 0 {
            for partition in self.partitions().iter() {
                partition.set_epoch(None);
            }
        }
        Ok(())
    }

    pub(super) fn fail_over(&self) -> Result<(), DataError> {
        self.move_to(self.epoch.load(Ordering::Acquire).saturating_add(1))
    }

    fn move_to(&self, epoch: u32) -> Result<(), DataError> {
        if let Some((data, number)) = &self.place {
            data.change_hub(*number, |entry| entry.geo_epoch = epoch)?;
        }
        self.epoch.store(epoch, Ordering::Release);
        for partition in self.partitions().iter() {
            partition.set_epoch(Some(epoch));
        }
        Ok(())
    }

    /// Whether its offsets are no numbers.
    pub(crate) fn is_geo_replicated(&self) -> bool {
        self.settings.is_geo_replicated
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn created_ms(&self) -> i64 {
        self.created_ms
    }

    pub(crate) fn clock(&self) -> Clock {
        self.settings.clock
    }

    /// The partitions of this moment.
    pub(crate) fn partitions(&self) -> Arc<[Arc<Partition>]> {
        Arc::clone(
            &self
                .partitions
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn partition(&self, id: &str) -> Option<Arc<Partition>> {
        let partitions = self
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        index_of(&partitions, id)
            .and_then(|index| partitions.get(index))
            .cloned()
    }

    /// Makes it have so many partitions, if it has fewer.
    pub(super) fn grow(&self, count: u32) -> Result<(), DataError> {
        if self.partitions().len() >= count as usize {
            return Ok(());
        }
        if let Some((data, number)) = &self.place {
            data.change_hub(*number, |entry| entry.partitions = count)?;
        }
        self.open_partitions(count as usize)
    }

    fn open_partitions(&self, count: usize) -> Result<(), DataError> {
        let mut partitions = self.partitions().to_vec();
        let settings = &self.settings;
        for index in partitions.len()..count {
            let log = match &self.place {
                None => Log::in_memory(settings.retention, settings.max_age),
                Some((data, number)) => Log::open(
                    &data.partition(*number, index),
                    data.is_synced(),
                    settings.retention,
                    settings.max_age,
                )?,
            };
            let mut log = log;
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch > 0 {
                log.set_epoch(Some(epoch));
            }
            let id = index.to_string();
            let partition = Arc::new_cyclic(|me| {
                let share = settings.budget.share(std::sync::Weak::clone(me));
                Partition::new(id, log, settings.clock, share)
            });
            partitions.push(partition);
        }
        *self
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner) = partitions.into();
        settings.budget.relieve();
        Ok(())
    }

    /// Names a consumer group.
    pub(crate) fn add_group(&self, group: &str) -> Result<(), DataError> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if groups.contains(&group.to_lowercase()) {
            return Ok(());
        }
        if let Some((data, number)) = &self.place {
            data.change_hub(*number, |entry| {
                entry.consumer_groups.push(group.to_owned());
            })?;
        }
        groups.insert(group.to_lowercase());
        Ok(())
    }

    /// Takes it from the directory. Who still holds it may use it, for itself.
    pub(super) fn retire(&self) -> Result<(), DataError> {
        for partition in self.partitions().iter() {
            partition.forget_disk();
        }
        match &self.place {
            Some((data, number)) => data.remove_hub(*number),
            None => Ok(()),
        }
    }

    /// Consumer groups that were named, in lower case.
    pub(crate) fn groups(&self) -> Vec<String> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.iter().cloned().collect()
    }

    /// Whether receivers may read in a consumer group.
    pub(crate) fn has_group(&self, group: &str) -> bool {
        !self.settings.has_strict_groups
            || group.eq_ignore_ascii_case(DEFAULT_GROUP)
            || self
                .groups
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&group.to_lowercase())
    }

    /// The partition for messages that were not sent to a certain one: by key, or in turn.
    pub(crate) fn route(&self, messages: &[Message]) -> Option<Arc<Partition>> {
        let partitions = self.partitions();
        let key = messages.iter().find_map(Message::partition_key);
        let index = match key {
            Some(key) => partition_for(key, partitions.len()),
            None => self.round_robin.fetch_add(1, Ordering::Relaxed) % partitions.len().max(1),
        };
        partitions.get(index).cloned()
    }

    /// Enters a receiver, and tells those it displaces to leave.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        group: &str,
        partition_id: &str,
        claim: &Claim,
        listener: Arc<dyn Listener>,
    ) -> Result<Subscription, SubscribeError> {
        let partitions = self.partitions();
        let index = index_of(&partitions, partition_id).ok_or(SubscribeError::NoSuchPartition)?;
        let partition = partitions
            .get(index)
            .ok_or(SubscribeError::NoSuchPartition)?;
        let id = self.next_subscription.fetch_add(1, Ordering::Relaxed);
        let key = (group.to_lowercase(), index);
        let seat = Seat {
            listener,
            progress: Arc::default(),
        };
        let evicted = lock(&self.receivers)
            .entry(key.clone())
            .or_default()
            .admit(id, claim.clone(), seat.clone())
            .map_err(SubscribeError::Refused)?;
        for old in evicted {
            old.handle.listener.evict(claim, &old.claim);
        }
        Ok(Subscription {
            id,
            key,
            hub: Arc::clone(self),
            partition: Arc::clone(partition),
            seat,
        })
    }

    /// How many receivers read a partition, in all consumer groups together.
    pub(crate) fn receiver_count(&self, partition_id: &str) -> usize {
        let Some(index) = index_of(&self.partitions(), partition_id) else {
            return 0;
        };
        let receivers = lock(&self.receivers);
        receivers
            .iter()
            .filter(|((_, at), _)| *at == index)
            .map(|(_, table)| table.len())
            .sum()
    }

    /// All receivers, by consumer group and partition.
    pub(crate) fn readers(&self) -> Vec<Reader> {
        let partitions = self.partitions();
        let receivers = lock(&self.receivers);
        let mut readers: Vec<(&Place, &Claim, &Seat)> = receivers
            .iter()
            .flat_map(|(place, table)| table.iter().map(move |(c, seat)| (place, c, seat)))
            .collect();
        readers.sort_by_key(|(place, _, _)| *place);
        let readers = readers
            .into_iter()
            .filter_map(|((group, at), claim, seat)| {
                Some(Reader {
                    group: group.clone(),
                    partition: partitions.get(*at)?.id().to_owned(),
                    claim: claim.clone(),
                    connection: seat.listener.connection(),
                    delivered: seat.progress.delivered.load(Ordering::Relaxed),
                    next: seat.progress.next.load(Ordering::Relaxed),
                })
            });
        readers.collect()
    }

    fn leave(&self, key: &Place, id: u64) {
        let mut receivers = lock(&self.receivers);
        if let Some(table) = receivers.get_mut(key) {
            table.leave(id);
            if table.is_empty() {
                receivers.remove(key);
            }
        }
    }
}

/// Ids are compared as text: "00" is no partition.
fn index_of(partitions: &[Arc<Partition>], id: &str) -> Option<usize> {
    let index: usize = id.parse().ok()?;
    partitions
        .get(index)
        .filter(|p| p.id() == id)
        .map(|_| index)
}

#[derive(Debug)]
pub(crate) enum SubscribeError {
    NoSuchPartition,
    Refused(Refusal),
}

/// A receiver's place at a partition. Dropping it frees the place and its owner level.
#[derive(Debug)]
pub(crate) struct Subscription {
    id: u64,
    key: Place,
    hub: Arc<Hub>,
    partition: Arc<Partition>,
    seat: Seat,
}

impl Subscription {
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.partition
    }

    pub(crate) fn read(&self, from: i64, max_events: usize, max_bytes: usize) -> super::Batch {
        self.partition
            .read(from, max_events, max_bytes, self.id, &self.seat.listener)
    }

    /// Notes how far the receiver is, for those who look at it.
    pub(crate) fn note(&self, delivered: u32, next: i64) {
        let progress = &self.seat.progress;
        progress
            .delivered
            .fetch_add(delivered.into(), Ordering::Relaxed);
        progress.next.store(next, Ordering::Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.partition.forget(self.id);
        self.hub.leave(&self.key, self.id);
    }
}
