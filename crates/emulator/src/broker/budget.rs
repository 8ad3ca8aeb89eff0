//! The memory that the events of all partitions may take together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::lock;
use super::partition::Partition;

/// Shared by all partitions of an emulator.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    shares: Mutex<Vec<Weak<Share>>>,
}

/// What one partition takes.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    partition: Weak<Partition>,
    bytes: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            shares: Mutex::new(Vec::new()),
        }
    }

    /// Enters a partition.
    pub(super) fn share(self: &Arc<Self>, partition: Weak<Partition>) -> Arc<Share> {
        let share = Arc::new(Share {
            budget: Arc::clone(self),
            partition,
            bytes: AtomicUsize::new(0),
        });
        lock(&self.shares).push(Arc::downgrade(&share));
        share
    }

    /// Has the largest partitions drop their oldest events until all fit.
    ///
    /// No partition may be locked by the caller.
    pub(super) fn relieve(&self) {
        // Every round frees something, or there is only the newest event of each partition left.
        while self.used.load(Ordering::Relaxed) > self.limit {
            let shares: Vec<_> = lock(&self.shares)
                .iter()
                .filter_map(Weak::upgrade)
                .collect();
            let largest = shares
                .iter()
                .max_by_key(|share| share.bytes.load(Ordering::Relaxed));
            let Some((share, partition)) =
                largest.and_then(|share| Some((share, share.partition.upgrade()?)))
            else {
                return;
            };
            let before = share.bytes.load(Ordering::Relaxed);
            // Some more than needed, so that not every append has to look for room.
            let over = self.used.load(Ordering::Relaxed).saturating_sub(self.limit);
            partition.free(over.max(before / 16));
            if share.bytes.load(Ordering::Relaxed) >= before {
                return;
            }
        }
    }
}

impl Share {
    /// States what the partition takes now. Called with the partition locked, hence in order.
    pub(super) fn set(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.budget
                .used
                .fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.budget
                .used
                .fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn relieve(&self) {
        self.budget.relieve();
    }
}
