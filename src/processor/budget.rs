//! How much memory the events of all partitions may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound for the bytes of events that wait in memory, shared by all partitions that draw on it, in equal parts.
/// Clones are the same budget: give one to several processors to bound what they take together.
///
/// A partition's part holds what has come over its link and what is on its way to the handler. What a handler keeps is
/// its own affair. One event at a time fits into any part, so the bound is the budget and one largest event for each
/// partition. The size of an event is that of its encoded message.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes: usize,
    most_per_partition: usize,
    partitions: AtomicUsize,
}

impl MemoryBudget {
    /// Bytes of a processor's own budget.
    pub const DEFAULT_BYTES: usize = 256 << 20;

    /// Most bytes of one partition, however few draw on the budget.
    pub const DEFAULT_BYTES_PER_PARTITION: usize = 8 << 20;

    /// A budget of so many bytes, of which no partition gets more than 8 MiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self::with_most_per_partition(bytes, Self::DEFAULT_BYTES_PER_PARTITION)
    }

    /// A budget of so many bytes, of which no partition gets more than `most_per_partition`.
    #[must_use]
    pub fn with_most_per_partition(bytes: usize, most_per_partition: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                bytes,
                most_per_partition,
                partitions: AtomicUsize::new(0),
            }),
        }
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.bytes
    }

    /// Partitions that draw on it now.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.shared.partitions.load(Ordering::Relaxed)
    }

    /// Draws on the budget for as long as the draw lives.
    pub(super) fn draw(&self) -> Draw {
        self.shared.partitions.fetch_add(1, Ordering::Relaxed);
        Draw {
            budget: self.clone(),
        }
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(Self::DEFAULT_BYTES)
    }
}

/// One partition's part of a budget.
#[derive(Debug)]
pub(super) struct Draw {
    budget: MemoryBudget,
}

impl Draw {
    /// Bytes of the part. Changes as partitions come and go.
    pub(super) fn bytes(&self) -> usize {
        let Shared {
            bytes,
            most_per_partition,
            ..
        } = &*self.budget.shared;
        let part = bytes / self.budget.partitions().max(1);
        part.min(*most_per_partition)
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        self.budget
            .shared
            .partitions
            .fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_get_the_same_and_nobody_more_than_the_most() {
        let budget = MemoryBudget::with_most_per_partition(1000, 300);
        let first = budget.draw();
        assert_eq!(first.bytes(), 300);
        let others: Vec<_> = (0..4).map(|_| budget.clone().draw()).collect();
        assert_eq!(first.bytes(), 200);
        drop(others);
        assert_eq!((first.bytes(), budget.partitions()), (300, 1));
    }
}
