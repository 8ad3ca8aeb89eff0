//! One cycle's decision.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::LoadBalancingStrategy;
use super::snapshot::{Holder, Snapshot};
use crate::model::{OwnerId, PartitionId, WriteCondition};

/// One conditional write of our owner id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) partition_id: PartitionId,
    /// The version seen in the snapshot: whoever writes in between wins.
    pub(crate) condition: WriteCondition,
}

/// What to do in this cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Partitions we hold: write again to stay alive.
    pub(crate) renew: Vec<Claim>,
    /// Partitions nobody holds.
    pub(crate) claim: Vec<Claim>,
    /// Partitions of others who hold more than their share.
    pub(crate) steal: Vec<Claim>,
    /// Whether this cycle leaves nothing to do for us: the next one may take its time.
    pub(crate) is_settled: bool,
}

/// The part of the options that decisions depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BalanceRule {
    pub(crate) strategy: LoadBalancingStrategy,
    pub(crate) ownership_expiration: Duration,
}

/// Decides what `me` does about the group in `snapshot`.
///
/// With N partitions and M live owners (`me` included), `q = N div M` and `r = N mod M`: everybody owns q, and r of
/// them one more. Nobody gives up an extra partition and nobody steals to get one unless somebody has two more than
/// q, so a balanced group stays as it is, whichever SDKs it is made of.
pub(crate) fn plan(
    snapshot: &Snapshot,
    me: &OwnerId,
    rule: BalanceRule,
    rng: &mut (impl Rng + ?Sized),
) -> Plan {
    let mut plan = Plan::default();
    let mut free = Vec::new();
    let mut others: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
    for id in &snapshot.partitions {
        match snapshot.holder(id, me, rule.ownership_expiration) {
            Holder::Nobody => free.push(id.clone()),
            Holder::Me => plan.renew.push(claim_of(snapshot, id)),
            Holder::Other(owner) => others.entry(owner).or_default().push(id.clone()),
        }
    }

    let mine = plan.renew.len();
    let quota = snapshot.partitions.len() / (others.len() + 1);
    let extras = snapshot.partitions.len() % (others.len() + 1);
    let others_with_extra = others.values().filter(|held| held.len() > quota).count();
    let target = quota + usize::from(extras > 0 && (mine > quota || others_with_extra < extras));
    let missing = target.saturating_sub(mine);

    if missing > 0 && !free.is_empty() {
        // Everybody prefers other partitions, so that simultaneous starters seldom want the same one.
        free.sort_by_key(|id| preference(id, me));
        let at_once = match rule.strategy {
            LoadBalancingStrategy::Balanced => 1,
            LoadBalancingStrategy::Greedy => missing,
        };
        plan.claim = free
            .iter()
            .take(at_once)
            .map(|id| claim_of(snapshot, id))
            .collect();
        plan.is_settled = plan.claim.len() == missing;
    } else if missing > 0 {
        let at_once = match rule.strategy {
            LoadBalancingStrategy::Balanced => 1,
            LoadBalancingStrategy::Greedy => missing.div_ceil(3),
        };
        plan.steal = victims(others, mine, quota, at_once, rng)
            .iter()
            .map(|id| claim_of(snapshot, id))
            .collect();
        plan.is_settled = plan.steal.is_empty();
    } else {
        // Free ones that are not for us are for others, who have not taken them yet: look again soon.
        plan.is_settled = free.is_empty();
    }
    plan
}

/// Partitions to take from others, at most `wanted`: always from the largest owner, and only while that lowers the
/// difference: from owners above `quota`, or above `quota + 1` once we have `quota` ourselves.
fn victims(
    mut others: BTreeMap<String, Vec<PartitionId>>,
    mut mine: usize,
    quota: usize,
    wanted: usize,
    rng: &mut (impl Rng + ?Sized),
) -> Vec<PartitionId> {
    for held in others.values_mut() {
        held.shuffle(rng);
    }
    let mut stolen = Vec::new();
    while stolen.len() < wanted {
        let spared = if mine < quota { quota } else { quota + 1 };
        let Some(largest) = others.values_mut().max_by_key(|held| held.len()) else {
            break;
        };
        if largest.len() <= spared {
            break;
        }
        stolen.extend(largest.pop());
        mine += 1;
    }
    stolen
}

fn claim_of(snapshot: &Snapshot, partition_id: &PartitionId) -> Claim {
    let condition = match snapshot.ownerships.get(partition_id) {
        Some(ownership) => WriteCondition::Matches(ownership.etag.clone()),
        None => WriteCondition::Absent,
    };
    Claim {
        partition_id: partition_id.clone(),
        condition,
    }
}

/// Rendezvous hash: orders partitions differently for every owner.
fn preference(partition_id: &PartitionId, me: &OwnerId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (me.as_str(), partition_id.as_str()).hash(&mut hasher);
    hasher.finish()
}
