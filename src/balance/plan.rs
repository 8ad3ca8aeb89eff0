//! One cycle's decision.

use std::collections::BTreeSet;
use std::time::Duration;

use super::LoadBalancingStrategy;
use super::cadence::Memory;
use super::claims::by_preference;
use super::kin::promised_suspect_time;
use super::quota::Quota;
use super::renewals::renewals;
use super::snapshot::{BalanceRule, Snapshot, Standing};
use super::steals::{Victims, victims};
use super::view::{Free, View};
use crate::model::{OwnerId, PartitionId, WriteCondition};

/// Rounds in a row in which a newcomer waits for others to show up before it steals more than one partition.
const MAX_DEFERRALS: u32 = 6;

/// Rounds in which free partitions are left to those whose share they are: longer than anybody of our kind sleeps.
/// Then somebody else is too slow for them, and a partition that is read counts for more than even loads.
const MAX_ORPHAN_ROUNDS: u32 = 20;

/// One conditional write of our owner id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) partition_id: PartitionId,
    /// The version seen in the snapshot: whoever writes in between wins.
    pub(crate) condition: WriteCondition,
    /// The owner before, if it will say when it has finished: one of our kind, staying or leaving.
    pub(crate) waits_for: Option<OwnerId>,
}

/// Why the next cycle comes when it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Free partitions are left for us.
    MoreToClaim,
    /// What is ours to take is on its way to somebody else.
    InTransit,
    /// Something moved, or will.
    Unsettled,
    /// Nothing to do.
    #[default]
    Settled,
}

/// What to do in this cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All partitions that are ours.
    pub(crate) keep: BTreeSet<PartitionId>,
    /// Those to write again now.
    pub(crate) renew: Vec<Claim>,
    /// Partitions nobody holds, or whose owner is leaving.
    pub(crate) claim: Vec<Claim>,
    /// Partitions of others who hold more than their share.
    pub(crate) steal: Vec<Claim>,
    pub(crate) reason: Reason,
    /// When the first live owner will have been silent for too long.
    pub(crate) next_suspicion: Option<Duration>,
    /// Whether nobody's silence so far may be held against them.
    pub(crate) is_suspicious: bool,
    /// Partitions that another processor holds under our own owner id.
    pub(crate) twins: Vec<PartitionId>,
    /// Whether others that follow our rules are alive and staying.
    pub(crate) has_kin: bool,
    /// Whether processors of other SDKs are alive, or ours under ids that promise nothing.
    pub(crate) has_foreigners: bool,
}

/// Decides what to do about the group in `snapshot`. The same arguments give the same plan; chance comes in only when
/// the next cycle is timed ([`Memory::next_delay`]).
pub(crate) fn plan(
    snapshot: &Snapshot,
    standing: &Standing<'_>,
    memory: &mut Memory,
    rule: &BalanceRule,
) -> Plan {
    memory.note_moves(snapshot, standing.running_for);
    let view = View::new(snapshot, standing, rule, memory);
    memory.surprises.retain(|id, at| {
        let since = snapshot.as_of.duration_since(*at).unwrap_or_default();
        view.twins.contains(id) || (view.mine.contains(id) && since < rule.ownership_expiration)
    });
    let surprises = view.surprises.iter().cloned();
    memory
        .surprises
        .extend(surprises.map(|id| (id, snapshot.as_of)));
    let members: BTreeSet<String> = view.others.keys().cloned().collect();
    let has_changed = memory.members.replace(members.clone()) != Some(members);

    let quota = Quota::new(
        snapshot.partitions.len(),
        view.mine.len(),
        view.others.values().map(Vec::len),
    );
    let renew = renewals(snapshot, standing, rule, &view.mine);
    let mut plan = Plan {
        renew: claims_of(snapshot, renew),
        next_suspicion: view.next_suspicion,
        is_suspicious: view.is_suspicious,
        has_kin: view.has_kin,
        has_foreigners: view.has_foreigners,
        ..Plan::default()
    };
    let mut missing = quota.missing();
    memory.orphan_rounds = if missing == 0 && !view.free.is_empty() {
        memory.orphan_rounds.saturating_add(1)
    } else {
        0
    };
    if memory.orphan_rounds > MAX_ORPHAN_ROUNDS {
        missing = 1;
    }
    if missing > 0 && !view.free.is_empty() {
        claim_free(
            &mut plan,
            snapshot,
            standing,
            memory,
            rule,
            view.free.clone(),
            missing,
        );
    } else {
        memory.chunk = 0;
        if missing > 0 {
            let wanted = to_steal(&view, memory, rule, missing, has_changed);
            let mut others = view.others;
            // Who goes by our own name is an error to be reported, not somebody to fight with.
            others.remove(&standing.owner_id.as_str().to_ascii_lowercase());
            let victims = victims(snapshot, standing, others, &quota, memory, wanted);
            plan.reason = match victims {
                _ if wanted == 0 || !victims.taken.is_empty() => Reason::Unsettled,
                Victims {
                    in_transit: true, ..
                } => Reason::InTransit,
                // Nobody has more than we may take.
                Victims { .. } => Reason::Settled,
            };
            plan.steal = claims_of(snapshot, victims.taken);
            for claim in &mut plan.steal {
                claim.waits_for = kin_before(snapshot, standing, &claim.partition_id);
            }
        } else if !view.free.is_empty() || has_changed {
            // Free ones that are not for us are for others, who have not taken them yet: look again soon.
            plan.reason = Reason::Unsettled;
        }
    }
    if plan.steal.is_empty() && (missing == 0 || plan.reason == Reason::Settled) {
        memory.deferrals = 0;
    }
    plan.keep = view.mine.into_iter().collect();
    plan.twins = view.twins;
    plan
}

/// Free partitions come in chunks that double, with a fresh listing before each: processors that start together meet
/// after the first, and one that is alone has everything after a few.
fn claim_free(
    plan: &mut Plan,
    snapshot: &Snapshot,
    standing: &Standing<'_>,
    memory: &mut Memory,
    rule: &BalanceRule,
    free: Vec<Free>,
    missing: usize,
) {
    memory.chunk = match rule.strategy {
        LoadBalancingStrategy::Balanced => 1,
        LoadBalancingStrategy::Greedy => memory.chunk.saturating_mul(2).max(1),
    };
    let available = free.len();
    plan.claim = by_preference(free, standing.owner_id)
        .into_iter()
        .take(missing.min(memory.chunk))
        .map(|free| Claim {
            condition: condition_of(snapshot, &free.partition_id),
            waits_for: free
                .is_handed_over
                .then(|| kin_before(snapshot, standing, &free.partition_id))
                .flatten(),
            partition_id: free.partition_id,
        })
        .collect();
    let claimed = plan.claim.len();
    let is_burst =
        rule.strategy == LoadBalancingStrategy::Greedy && claimed < missing && claimed < available;
    plan.reason = if is_burst {
        Reason::MoreToClaim
    } else {
        Reason::Unsettled
    };
}

/// How many partitions to take from live owners in this round.
fn to_steal(
    view: &View,
    memory: &mut Memory,
    rule: &BalanceRule,
    missing: usize,
    has_changed: bool,
) -> usize {
    if view.is_in_doubt {
        return 0;
    }
    if view.mine.is_empty() {
        // One record of our own makes us a member for everybody else.
        return 1;
    }
    if has_changed && memory.deferrals < MAX_DEFERRALS {
        // Who knows how many more are coming: what is taken now may be too much.
        memory.deferrals += 1;
        return 0;
    }
    memory.deferrals = 0;
    match rule.strategy {
        LoadBalancingStrategy::Balanced => 1,
        LoadBalancingStrategy::Greedy => missing.div_ceil(3),
    }
}

fn claims_of(snapshot: &Snapshot, partitions: Vec<PartitionId>) -> Vec<Claim> {
    partitions
        .into_iter()
        .map(|partition_id| Claim {
            condition: condition_of(snapshot, &partition_id),
            partition_id,
            waits_for: None,
        })
        .collect()
}

/// The owner that will say when it has finished with a partition, if it is one of our kind. It says so only to its kind.
fn kin_before(
    snapshot: &Snapshot,
    standing: &Standing<'_>,
    partition_id: &PartitionId,
) -> Option<OwnerId> {
    promised_suspect_time(standing.owner_id)?;
    let owner = snapshot.ownerships.get(partition_id)?.owner_id.as_ref()?;
    promised_suspect_time(owner).map(|_| owner.clone())
}

fn condition_of(snapshot: &Snapshot, partition_id: &PartitionId) -> WriteCondition {
    match snapshot.ownerships.get(partition_id) {
        Some(ownership) => WriteCondition::Matches(ownership.etag.clone()),
        None => WriteCondition::Absent,
    }
}
