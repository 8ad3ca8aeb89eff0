//! What to take from others when nothing is free.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::claims::preference;
use super::quota::Quota;
use super::snapshot::Snapshot;
use crate::model::{OwnerId, PartitionId};

/// Partitions to take from others, at most `wanted`: always from the largest owner, and only while that makes the loads
/// more even.
///
/// `by_age`: take what was renewed last, which its owner will not write again for longest. A newcomer that always meets
/// the owner's renewal would never get anything (azure-sdk-for-js#6945).
pub(super) fn victims(
    snapshot: &Snapshot,
    mut others: BTreeMap<String, Vec<PartitionId>>,
    quota: &Quota,
    me: &OwnerId,
    wanted: usize,
    by_age: bool,
) -> Vec<PartitionId> {
    let age = |id: &PartitionId| {
        snapshot
            .ownerships
            .get(id)
            .map(|record| snapshot.age(record))
    };
    for held in others.values_mut() {
        // Taken from the end.
        held.sort_by_cached_key(|id| {
            (
                by_age.then(|| Reverse(age(id))),
                Reverse(preference(id.as_str(), me)),
            )
        });
    }
    let mut stolen = Vec::new();
    while stolen.len() < wanted {
        // Of owners with equal loads everybody prefers another one.
        let largest = others
            .iter_mut()
            .max_by_key(|(name, held)| (held.len(), preference(name, me)));
        let Some((_, largest)) = largest else { break };
        if largest.len() <= quota.spared(stolen.len()) {
            break;
        }
        stolen.extend(largest.pop());
    }
    stolen
}
