use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::plan::BalanceRule;
use super::{LoadBalancingStrategy, Plan, Snapshot, plan, reconcile};
use crate::model::{ETag, OwnerId, Ownership, PartitionId, WriteCondition};

const EXPIRATION: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn record(partition: usize, owner: Option<&str>, age: u64) -> Ownership {
    Ownership {
        partition_id: partition.to_string().into(),
        owner_id: owner.map(OwnerId::from),
        etag: ETag::from(format!("v{partition}")),
        last_modified: Some(now() - Duration::from_secs(age)),
    }
}

/// A hub of `partitions` with one record for each `(partition, owner, age in s)`.
fn group(partitions: usize, records: &[(usize, &str, u64)]) -> Snapshot {
    Snapshot {
        partitions: (0..partitions)
            .map(|id| PartitionId::from(id.to_string()))
            .collect(),
        ownerships: records
            .iter()
            .map(|&(id, owner, age)| {
                let owner = (!owner.is_empty()).then_some(owner);
                (id.to_string().into(), record(id, owner, age))
            })
            .collect(),
        as_of: now(),
    }
}

fn decide(snapshot: &Snapshot, me: &str, strategy: LoadBalancingStrategy) -> Plan {
    let rule = BalanceRule {
        strategy,
        ownership_expiration: EXPIRATION,
    };
    plan(snapshot, &me.into(), rule, &mut StdRng::seed_from_u64(7))
}

#[test]
fn a_lone_greedy_processor_claims_everything_at_once() {
    let plan = decide(&group(32, &[]), "me", LoadBalancingStrategy::Greedy);
    assert_eq!(plan.claim.len(), 32);
    assert!(
        plan.claim
            .iter()
            .all(|claim| claim.condition == WriteCondition::Absent)
    );
    assert!(plan.is_settled);
}

#[test]
fn a_balanced_processor_claims_one_a_cycle() {
    let plan = decide(&group(32, &[]), "me", LoadBalancingStrategy::Balanced);
    assert_eq!(plan.claim.len(), 1);
    assert!(!plan.is_settled);
}

#[test]
fn expired_and_relinquished_records_are_free_and_claimed_at_their_version() {
    let group = group(3, &[(0, "dead", 61), (1, "", 0), (2, "alive", 60)]);
    let plan = decide(&group, "me", LoadBalancingStrategy::Greedy);
    let claimed: BTreeSet<_> = plan.claim.iter().map(|c| c.partition_id.as_str()).collect();
    assert_eq!(claimed, BTreeSet::from(["0", "1"]));
    assert!(
        plan.claim
            .iter()
            .all(|c| matches!(c.condition, WriteCondition::Matches(_)))
    );
}

#[test]
fn our_own_record_is_renewed_however_old_it_is_and_in_any_case() {
    let plan = decide(
        &group(1, &[(0, "ME", 600)]),
        "me",
        LoadBalancingStrategy::Greedy,
    );
    assert_eq!(plan.renew.len(), 1);
    assert!(plan.claim.is_empty() && plan.steal.is_empty());
}

#[test]
fn a_record_from_the_future_or_without_a_date_is_alive() {
    let mut group = group(2, &[(0, "other", 0), (1, "other", 0)]);
    group.ownerships.get_mut(&"0".into()).unwrap().last_modified =
        Some(now() + Duration::from_secs(600));
    group.ownerships.get_mut(&"1".into()).unwrap().last_modified = None;
    let plan = decide(&group, "me", LoadBalancingStrategy::Greedy);
    assert!(plan.claim.is_empty());
    assert_eq!(plan.steal.len(), 1);
}

#[test]
fn a_newcomer_steals_from_the_largest_owner_only() {
    let group = group(
        6,
        &[
            (0, "a", 0),
            (1, "a", 0),
            (2, "a", 0),
            (3, "a", 0),
            (4, "b", 0),
            (5, "b", 0),
        ],
    );
    let plan = decide(&group, "me", LoadBalancingStrategy::Greedy);
    assert_eq!(plan.steal.len(), 1);
    assert!(plan.steal[0].partition_id.as_str() < "4");
}

#[test]
fn nobody_steals_for_an_extra_partition_while_the_difference_is_one() {
    // 32 over 10 is 3 with two extras; the extras are where they are.
    let mut records = Vec::new();
    let owners = ["a", "b", "c"];
    for id in 0..10 {
        records.push((id, owners[id % 3], 0));
    }
    let group = group(10, &records);
    for owner in owners {
        let plan = decide(&group, owner, LoadBalancingStrategy::Greedy);
        assert!(
            plan.claim.is_empty() && plan.steal.is_empty() && plan.is_settled,
            "{owner}"
        );
    }
}

#[test]
fn more_processors_than_partitions_leave_some_idle() {
    let plan = decide(
        &group(2, &[(0, "a", 0), (1, "b", 0)]),
        "me",
        LoadBalancingStrategy::Greedy,
    );
    assert!(plan.claim.is_empty() && plan.steal.is_empty() && plan.is_settled);
}

#[test]
fn reconcile_starts_what_is_ours_and_stops_what_is_not() {
    let [a, b, c] = ["0", "1", "2"].map(PartitionId::from);
    let changes = reconcile([&a, &b], [&b, &c]);
    assert_eq!(changes.start, [c]);
    assert_eq!(changes.stop, [a]);
}

/// A group of processors over a shared store, stepped in random order.
struct Cluster {
    snapshot: Snapshot,
    writes: u64,
    steals: u64,
}

impl Cluster {
    fn new(partitions: usize) -> Self {
        Self {
            snapshot: group(partitions, &[]),
            writes: 0,
            steals: 0,
        }
    }

    /// One processor's cycle, planned on `view` and applied by compare-and-set to the present.
    fn step(&mut self, me: &str, view: &Snapshot, strategy: LoadBalancingStrategy, seed: u64) {
        let rule = BalanceRule {
            strategy,
            ownership_expiration: EXPIRATION,
        };
        let plan = plan(view, &me.into(), rule, &mut StdRng::seed_from_u64(seed));
        self.steals += plan.steal.len() as u64;
        for claim in plan.renew.into_iter().chain(plan.claim).chain(plan.steal) {
            let current = self
                .snapshot
                .ownerships
                .get(&claim.partition_id)
                .map(|o| &o.etag);
            let holds = match &claim.condition {
                WriteCondition::Absent => current.is_none(),
                WriteCondition::Matches(etag) => current == Some(etag),
                WriteCondition::Unconditional => unreachable!("never planned"),
            };
            if holds {
                self.writes += 1;
                let ownership = Ownership {
                    partition_id: claim.partition_id.clone(),
                    owner_id: Some(me.into()),
                    etag: ETag::from(self.writes.to_string()),
                    last_modified: Some(now()),
                };
                self.snapshot
                    .ownerships
                    .insert(claim.partition_id, ownership);
            }
        }
    }

    fn loads(&self, members: usize) -> Vec<usize> {
        let mut loads: BTreeMap<String, usize> = (0..members)
            .map(|member| (format!("p{member}"), 0))
            .collect();
        for ownership in self.snapshot.ownerships.values() {
            *loads
                .entry(ownership.owner_id.as_ref().unwrap().to_string())
                .or_default() += 1;
        }
        loads.into_values().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the sizes, strategies and races, the group ends balanced and then stops moving.
    #[test]
    fn every_group_converges_and_stays(
        partitions in 1_usize..80,
        members in 1_usize..12,
        seed in any::<u64>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::new(partitions);
        let strategies: Vec<_> = (0..members)
            .map(|_| if rng.random() {
                LoadBalancingStrategy::Greedy
            } else {
                LoadBalancingStrategy::Balanced
            })
            .collect();
        let round = |cluster: &mut Cluster, rng: &mut StdRng, stale: bool| {
            let before = cluster.snapshot.clone();
            for (member, strategy) in strategies.iter().enumerate() {
                // A stale view is what a processor has whose listing raced with the others' writes.
                let view =
                    if stale && rng.random() { before.clone() } else { cluster.snapshot.clone() };
                cluster.step(&format!("p{member}"), &view, *strategy, rng.random());
            }
        };
        for _ in 0..2 * partitions + 4 {
            round(&mut cluster, &mut rng, true);
        }
        for _ in 0..2 * partitions + 4 {
            round(&mut cluster, &mut rng, false);
        }
        let loads = cluster.loads(members);
        prop_assert_eq!(loads.iter().sum::<usize>(), partitions);
        prop_assert!(
            loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1,
            "loads {:?}", loads
        );
        let settled = cluster.steals;
        for _ in 0..5 {
            round(&mut cluster, &mut rng, false);
        }
        prop_assert_eq!(cluster.steals, settled, "a balanced group moved");
    }

    /// A plan never breaks a rule that other processors rely on, whatever the records are.
    #[test]
    fn every_plan_keeps_the_rules(
        partitions in 1_usize..40,
        records in proptest::collection::vec((0_usize..50, 0_usize..8, 0_u64..120), 0..60),
        greedy in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let owners = ["", "me", "a", "b", "c", "d", "e", "f"];
        let records: Vec<_> =
            records.into_iter().map(|(id, owner, age)| (id, owners[owner], age)).collect();
        let snapshot = group(partitions, &records);
        let strategy = if greedy {
            LoadBalancingStrategy::Greedy
        } else {
            LoadBalancingStrategy::Balanced
        };
        let rule = BalanceRule { strategy, ownership_expiration: EXPIRATION };
        let me = OwnerId::from("me");
        let plan1 = plan(&snapshot, &me, rule, &mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(&plan1, &plan(&snapshot, &me, rule, &mut StdRng::seed_from_u64(seed)));
        prop_assert!(plan1.steal.is_empty() || plan1.claim.is_empty());
        for claim in plan1.renew.iter().chain(&plan1.claim).chain(&plan1.steal) {
            prop_assert!(snapshot.partitions.contains(&claim.partition_id));
            let seen = snapshot.ownerships.get(&claim.partition_id);
            match &claim.condition {
                WriteCondition::Absent => prop_assert!(seen.is_none()),
                WriteCondition::Matches(etag) => prop_assert_eq!(Some(etag), seen.map(|o| &o.etag)),
                WriteCondition::Unconditional => prop_assert!(false, "unconditional"),
            }
        }
    }
}
