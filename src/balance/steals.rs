//! What to take from others when nothing is free.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cadence::Memory;
use super::claims::preference;
use super::kin::promised_suspect_time;
use super::quota::Quota;
use super::snapshot::{Snapshot, Standing};
use crate::model::PartitionId;

/// What to take from others.
#[derive(Debug, Default)]
pub(super) struct Victims {
    pub(super) taken: Vec<PartitionId>,
    /// Whether there would be more if it were not on its way to somebody else.
    pub(super) in_transit: bool,
}

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
/// nobody to pass it on again, and nobody would read it for as long as the heir has promised to be alive.
pub(super) fn victims(
    snapshot: &Snapshot,
    standing: &Standing<'_>,
    others: BTreeMap<String, Vec<PartitionId>>,
    quota: &Quota,
    memory: &Memory,
    wanted: usize,
) -> Victims {
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
            let mut owner = Owner {
                load: held.len(),
                preference: preference(&name, me),
                ..Owner::default()
            };
            if promised_suspect_time(&name.as_str().into()).is_some() {
                let sign_of_life = held.iter().min_by_key(|id| (age(id), *id)).cloned();
                held.retain(|id| Some(id) != sign_of_life.as_ref());
            }
            held.retain(|id| !standing.handing_over.contains(id));
            let in_transit =
                |id: &PartitionId| memory.is_in_transit(snapshot, standing.running_for, id);
            (owner.in_transit, owner.held) = held.into_iter().partition(in_transit);
            // Taken from the end.
            owner.held.sort_by_cached_key(|id| {
                (
                    by_age.then(|| Reverse(age(id))),
                    Reverse(preference(id.as_str(), me)),
                )
            });
            owner
        })
        .collect();
    let mut victims = Victims::default();
    while victims.taken.len() < wanted {
        // Of owners with equal loads everybody prefers another one.
        let largest = others
            .iter_mut()
            .filter(|owner| !owner.held.is_empty())
            .max_by_key(|owner| (owner.load, owner.preference));
        let Some(owner) = largest else {
            break;
        };
        if owner.load <= quota.spared(victims.taken.len()) {
            break;
        }
        owner.load -= 1;
        victims.taken.extend(owner.held.pop());
    }
    let spared = quota.spared(victims.taken.len());
    victims.in_transit = victims.taken.len() < wanted
        && others
            .iter()
            .any(|owner| owner.load > spared && !owner.in_transit.is_empty());
    victims
}

/// One of those who may have too much.
#[derive(Default)]
struct Owner {
    load: usize,
    /// How much we would rather take from it than from another with as much.
    preference: u64,
    /// What may be taken.
    held: Vec<PartitionId>,
    in_transit: Vec<PartitionId>,
}
