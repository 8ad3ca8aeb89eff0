//! What the application asks of a partition from outside: to start again elsewhere, to pause.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::{EventPosition, PartitionId};

/// Where a partition is to start again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// After the stored checkpoint, which somebody moved.
    AtCheckpoint,
    /// As after a failure: after the stored checkpoint, or where a replay began.
    Again,
    /// Elsewhere; the stored checkpoint stays until it is passed.
    Seek(EventPosition),
    /// Elsewhere; the next checkpoint replaces the stored one.
    Reset(EventPosition),
}

/// Takes the wishes for one partition to its pump. The last wish counts.
#[derive(Debug, Default)]
pub(super) struct RestartSlot {
    wishes: watch::Sender<Wishes>,
}

#[derive(Debug, Default)]
struct Wishes {
    restart: Option<Restart>,
    is_paused: bool,
    /// Nobody asks for the next event.
    is_held: bool,
}

impl RestartSlot {
    pub(super) fn ask(&self, restart: Restart) {
        self.wishes.send_modify(|wishes| {
            // What the application asks for goes before what the store suggests.
            let is_wish = matches!(restart, Restart::Seek(_) | Restart::Reset(_));
            if is_wish || wishes.restart.is_none() {
                wishes.restart = Some(restart);
            }
        });
    }

    pub(super) fn is_asked(&self) -> bool {
        self.wishes.borrow().restart.is_some()
    }

    pub(super) fn take(&self) -> Option<Restart> {
        let mut taken = None;
        self.wishes.send_if_modified(|wishes| {
            taken = wishes.restart.take();
            taken.is_some()
        });
        taken
    }

    /// Completes once somebody has asked. Cancel safe.
    pub(super) async fn asked(&self) {
        self.wait_for(|wishes| wishes.restart.is_some()).await;
    }

    pub(super) fn pause(&self) {
        self.set_paused(true);
    }

    pub(super) fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, is_paused: bool) {
        self.wishes.send_if_modified(|wishes| {
            std::mem::replace(&mut wishes.is_paused, is_paused) != is_paused
        });
    }

    pub(super) fn is_paused(&self) -> bool {
        self.wishes.borrow().is_paused
    }

    /// Completes once the partition is not paused. Cancel safe.
    pub(super) async fn resumed(&self) {
        self.wait_for(|wishes| !wishes.is_paused).await;
    }

    /// Hands out no event until somebody asks for one.
    pub(super) fn hold(&self) {
        self.set_held(true);
    }

    /// Somebody asks for the next event.
    pub(super) fn let_through(&self) {
        self.set_held(false);
    }

    fn set_held(&self, is_held: bool) {
        self.wishes
            .send_if_modified(|wishes| std::mem::replace(&mut wishes.is_held, is_held) != is_held);
    }

    /// Whether an event may be handed out now.
    pub(super) fn is_open(&self) -> bool {
        let wishes = self.wishes.borrow();
        !wishes.is_paused && !wishes.is_held
    }

    /// Completes once an event may be handed out. Cancel safe.
    pub(super) async fn opened(&self) {
        self.wait_for(|wishes| !wishes.is_paused && !wishes.is_held)
            .await;
    }

    async fn wait_for(&self, is_so: impl FnMut(&Wishes) -> bool) {
        let mut wishes = self.wishes.subscribe();
        if wishes.wait_for(is_so).await.is_err() {
            // Not reached: the sender is `self`.
            std::future::pending::<()>().await;
        }
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

    /// The slot of a partition; `None` if it is not read here.
    pub(super) fn of(&self, partition_id: &PartitionId) -> Option<Arc<RestartSlot>> {
        self.lock().get(partition_id).map(Arc::clone)
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
