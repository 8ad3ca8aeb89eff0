//! What to take from others when nothing is free.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cadence::Memory;
use super::claims::preference;
use super::kin::promised_suspect_time;
use super::quota::Quota;
use super::snapshot::{Snapshot, Standing};
use crate::model::PartitionId;

/// Partitions to take from others, at most `wanted`: always from the largest owner, and only while that makes the loads
/// more even.
///
/// After a lost race, what was renewed last, which its owner will not write again for longest. A newcomer that always
/// meets the owner's renewal would never get anything (azure-sdk-for-js#6945).
///
/// Not the newest record of one of our kind, by which everybody sees that it is alive: without it an owner that has done
/// nothing wrong would look dead until its next renewal.
///
/// Not what is just being passed on: taken from an heir that has not seen yet that it may begin, the partition would have
/// nobody to pass it on again.
pub(super) fn victims(
    snapshot: &Snapshot,
    standing: &Standing<'_>,
    others: BTreeMap<String, Vec<PartitionId>>,
    quota: &Quota,
    memory: &Memory,
    wanted: usize,
) -> Vec<PartitionId> {
    let me = standing.owner_id;
    let by_age = memory.retries > 0;
    let age = |id: &PartitionId| {
        snapshot
            .ownerships
            .get(id)
            .map(|record| snapshot.age(record))
    };
    let mut others: Vec<_> = others
        .into_iter()
        .map(|(name, mut held)| {
            let load = held.len();
            let is_kin = promised_suspect_time(&name.as_str().into()).is_some();
            let sign_of_life = held.iter().min_by_key(|id| (age(id), *id)).cloned();
            held.retain(|id| {
                let is_kept = (is_kin && Some(id) == sign_of_life.as_ref())
                    || standing.handing_over.contains(id)
                    || memory.is_in_transit(snapshot, id);
                !is_kept
            });
            // Taken from the end.
            held.sort_by_cached_key(|id| {
                (
                    Reverse(memory.may_be_in_transit(snapshot, id)),
                    by_age.then(|| Reverse(age(id))),
                    Reverse(preference(id.as_str(), me)),
                )
            });
            (load, preference(&name, me), held)
        })
        .collect();
    let mut stolen = Vec::new();
    while stolen.len() < wanted {
        // Of owners with equal loads everybody prefers another one.
        let largest = others
            .iter_mut()
            .filter(|(_, _, held)| !held.is_empty())
            .max_by_key(|(load, preference, _)| (*load, *preference));
        let Some((load, _, held)) = largest else {
            break;
        };
        if *load <= quota.spared(stolen.len()) {
            break;
        }
        *load -= 1;
        stolen.extend(held.pop());
    }
    stolen
}
