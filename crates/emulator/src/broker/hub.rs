//! One event hub: partitions, and the receivers of each consumer group.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::epoch::{Claim, EpochTable, Refusal};
use super::hash::partition_for;
use super::log::Retention;
use super::message::Message;
use super::partition::Partition;
use super::{Clock, Listener, lock};

/// A consumer group (lower case) and a partition.
type Place = (String, usize);
type Receivers = EpochTable<Arc<dyn Listener>>;

#[derive(Debug)]
pub(crate) struct Hub {
    name: String,
    created_ms: i64,
    clock: Clock,
    partitions: Vec<Arc<Partition>>,
    /// Receivers by consumer group (lower case) and partition. A group is here while it has any:
    /// consumer groups appear on first use.
    receivers: Mutex<HashMap<Place, Receivers>>,
    next_subscription: AtomicU64,
    round_robin: AtomicUsize,
}

impl Hub {
    pub(crate) fn new(name: &str, partitions: u32, retention: Retention, clock: Clock) -> Self {
        Self {
            name: name.to_owned(),
            created_ms: clock.now_ms(),
            clock,
            partitions: (0..partitions)
                .map(|n| Arc::new(Partition::new(n.to_string(), retention, clock)))
                .collect(),
            receivers: Mutex::new(HashMap::new()),
            next_subscription: AtomicU64::new(1),
            round_robin: AtomicUsize::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn created_ms(&self) -> i64 {
        self.created_ms
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    pub(crate) fn partition(&self, id: &str) -> Option<&Arc<Partition>> {
        self.index_of(id)
            .and_then(|index| self.partitions.get(index))
    }

    /// Ids are compared as text: "00" is no partition.
    fn index_of(&self, id: &str) -> Option<usize> {
        let index: usize = id.parse().ok()?;
        self.partitions
            .get(index)
            .filter(|p| p.id() == id)
            .map(|_| index)
    }

    /// The partition for messages that were not sent to a certain one: by key, or in turn.
    pub(crate) fn route(&self, messages: &[Message]) -> Option<&Arc<Partition>> {
        let key = messages.iter().find_map(Message::partition_key);
        let index = match key {
            Some(key) => partition_for(key, self.partitions.len()),
            None => self.round_robin.fetch_add(1, Ordering::Relaxed) % self.partitions.len().max(1),
        };
        self.partitions.get(index)
    }

    /// Enters a receiver, and tells those it displaces to leave.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        group: &str,
        partition_id: &str,
        claim: &Claim,
        listener: Arc<dyn Listener>,
    ) -> Result<Subscription, SubscribeError> {
        let index = self
            .index_of(partition_id)
            .ok_or(SubscribeError::NoSuchPartition)?;
        let partition = self
            .partitions
            .get(index)
            .ok_or(SubscribeError::NoSuchPartition)?;
        let id = self.next_subscription.fetch_add(1, Ordering::Relaxed);
        let key = (group.to_lowercase(), index);
        let evicted = lock(&self.receivers)
            .entry(key.clone())
            .or_default()
            .admit(id, claim.clone(), Arc::clone(&listener))
            .map_err(SubscribeError::Refused)?;
        for old in evicted {
            old.handle.evict(claim, &old.claim);
        }
        Ok(Subscription {
            id,
            key,
            hub: Arc::clone(self),
            partition: Arc::clone(partition),
            listener,
        })
    }

    /// How many receivers read a partition, in all consumer groups together.
    pub(crate) fn receiver_count(&self, partition_id: &str) -> usize {
        let Some(index) = self.index_of(partition_id) else {
            return 0;
        };
        let receivers = lock(&self.receivers);
        receivers
            .iter()
            .filter(|((_, at), _)| *at == index)
            .map(|(_, table)| table.len())
            .sum()
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
    listener: Arc<dyn Listener>,
}

impl Subscription {
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.partition
    }

    pub(crate) fn read(&self, from: i64, max_events: usize, max_bytes: usize) -> super::Batch {
        self.partition
            .read(from, max_events, max_bytes, self.id, &self.listener)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.partition.forget(self.id);
        self.hub.leave(&self.key, self.id);
    }
}
