//! Which pumps to start and stop, given what we own.

use std::collections::BTreeSet;

use crate::model::PartitionId;

/// The difference between the pumps that run and the partitions that are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PumpChanges {
    /// Ours, but nobody reads them.
    pub(crate) start: Vec<PartitionId>,
    /// Being read, but not ours any more.
    pub(crate) stop: Vec<PartitionId>,
}

/// Compares the pumps that run with the partitions that are ours.
pub(crate) fn reconcile<'a>(
    running: impl IntoIterator<Item = &'a PartitionId>,
    owned: impl IntoIterator<Item = &'a PartitionId>,
) -> PumpChanges {
    let running: BTreeSet<_> = running.into_iter().collect();
    let owned: BTreeSet<_> = owned.into_iter().collect();
    PumpChanges {
        start: owned.difference(&running).map(|id| (*id).clone()).collect(),
        stop: running.difference(&owned).map(|id| (*id).clone()).collect(),
    }
}
