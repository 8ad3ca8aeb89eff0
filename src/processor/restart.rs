//! A partition is asked to start again elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::{EventPosition, PartitionId};

/// Where a partition is to start again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// After the stored checkpoint, which somebody moved.
    AtCheckpoint,
    /// Elsewhere; the stored checkpoint stays until it is passed.
    Seek(EventPosition),
    /// Elsewhere; the next checkpoint replaces the stored one.
    Reset(EventPosition),
}

/// Takes the wishes for one partition to its pump. The last wish counts.
#[derive(Debug, Default)]
pub(super) struct RestartSlot {
    wanted: Mutex<Option<Restart>>,
    asked: Notify,
}

impl RestartSlot {
    pub(super) fn ask(&self, restart: Restart) {
        let mut wanted = self.lock();
        // What the application asks for goes before what the store suggests.
        if restart != Restart::AtCheckpoint || wanted.is_none() {
            *wanted = Some(restart);
        }
        drop(wanted);
        self.asked.notify_one();
    }

    pub(super) fn is_asked(&self) -> bool {
        self.lock().is_some()
    }

    pub(super) fn take(&self) -> Option<Restart> {
        self.lock().take()
    }

    /// Completes once somebody has asked. Cancel safe.
    pub(super) async fn asked(&self) {
        while !self.is_asked() {
            self.asked.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Restart>> {
        // A panic cannot leave the value half written.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots of the partitions that are read.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    slots: Mutex<BTreeMap<PartitionId, Arc<RestartSlot>>>,
}

impl Restarts {
    /// Opens a slot for as long as the registration lives.
    pub(super) fn register(self: &Arc<Self>, partition_id: PartitionId) -> Registration {
        let slot = Arc::<RestartSlot>::default();
        self.lock().insert(partition_id.clone(), Arc::clone(&slot));
        Registration {
            all: Arc::clone(self),
            partition_id,
            slot,
        }
    }

    /// Passes a wish on. `false`: the partition is not read here.
    pub(super) fn ask(&self, partition_id: &PartitionId, restart: Restart) -> bool {
        let slot = self.lock().get(partition_id).map(Arc::clone);
        if let Some(slot) = &slot {
            slot.ask(restart);
        }
        slot.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Arc<RestartSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One partition's slot among all.
#[derive(Debug)]
pub(super) struct Registration {
    all: Arc<Restarts>,
    partition_id: PartitionId,
    slot: Arc<RestartSlot>,
}

impl Registration {
    pub(super) fn slot(&self) -> &Arc<RestartSlot> {
        &self.slot
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut slots = self.all.lock();
        // Unless the partition has been started anew since.
        if slots
            .get(&self.partition_id)
            .is_some_and(|slot| Arc::ptr_eq(slot, &self.slot))
        {
            slots.remove(&self.partition_id);
        }
    }
}
