//! What holds for every group, however it came to be.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::support::{Cluster, Member, group, seconds};
use crate::balance::LoadBalancingStrategy;
use crate::model::WriteCondition;

fn members(count: usize, rng: &mut StdRng) -> Vec<Member> {
    (0..count)
        .map(|number| {
            let strategy = if rng.random_ratio(1, 3) {
                LoadBalancingStrategy::Balanced
            } else {
                LoadBalancingStrategy::Greedy
            };
            // Some of our kind, some under names of their own.
            let name = if rng.random() {
                format!("rs1-25000-p{number}")
            } else {
                format!("p{number}")
            };
            Member::with_strategy(&name, strategy)
        })
        .collect()
}

fn spread(loads: &[usize]) -> usize {
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the sizes, strategies and races, the group ends balanced and then stops moving; also with more
    /// processors than partitions.
    #[test]
    fn every_group_converges_and_stays(
        partitions in 1_usize..80,
        count in 1_usize..14,
        seed in any::<u64>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut members = members(count, &mut rng);
        let mut cluster = Cluster::new(partitions);
        for _ in 0..partitions / 2 + 20 {
            cluster.round(&mut members, &mut rng, true);
        }
        for _ in 0..partitions + 40 {
            cluster.round(&mut members, &mut rng, false);
        }
        let loads = cluster.loads(&members);
        prop_assert_eq!(loads.iter().sum::<usize>(), partitions);
        prop_assert!(spread(&loads) <= 1, "loads {:?}", loads);
        let settled = cluster.steals;
        for _ in 0..20 {
            cluster.round(&mut members, &mut rng, true);
        }
        prop_assert_eq!(cluster.steals, settled, "a balanced group moved");
    }

    /// With members that come and go every few rounds the group never loses its way, and calms down when they do.
    #[test]
    fn a_group_that_changes_all_the_time_calms_down_when_it_stops(
        partitions in 1_usize..60,
        count in 2_usize..10,
        seed in any::<u64>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let all = members(count, &mut rng);
        let mut present = vec![all[0].clone()];
        let mut cluster = Cluster::new(partitions);
        for round in 0..60 {
            if round % 5 == 0 {
                let name = rng.random_range(0..count);
                let joined = present.iter().position(|m| m.owner_id == all[name].owner_id);
                match joined {
                    // A crash: nothing is given back.
                    Some(at) if present.len() > 1 => { present.remove(at); }
                    Some(_) => {}
                    None => present.push(all[name].clone()),
                }
            }
            cluster.round(&mut present, &mut rng, true);
        }
        // Long enough for foreign records to expire.
        for _ in 0..120 + partitions + 40 {
            cluster.round(&mut present, &mut rng, false);
        }
        let loads = cluster.loads(&present);
        prop_assert_eq!(loads.iter().sum::<usize>(), partitions);
        prop_assert!(spread(&loads) <= 1, "loads {:?}", loads);
    }

    /// A plan never breaks a rule that other processors rely on, whatever the records are.
    #[test]
    fn every_plan_keeps_the_rules(
        partitions in 1_usize..40,
        records in proptest::collection::vec((0_usize..50, 0_usize..11, 0_u64..200), 0..60),
        greedy in any::<bool>(),
        is_first in any::<bool>(),
        store_up_for in proptest::option::of(0_u64..200),
        chunk in 0_usize..64,
    ) {
        let owners = [
            "", "me", "a", "b", "rs1-25000-c", "rs1-0-d", "RS1-25000-C", "rs1-", "rs1-99999-e", "rs1-x-f",
            "rs1-18446744073709551615-g",
        ];
        let records: Vec<_> =
            records.into_iter().map(|(id, owner, age)| (id, owners[owner], age)).collect();
        let snapshot = group(partitions, &records);
        let mut me = Member::settled("me", &snapshot);
        if is_first {
            me = Member::new("me");
        }
        if !greedy {
            me.rule.strategy = LoadBalancingStrategy::Balanced;
        }
        me.store_up_for = store_up_for.map(seconds);
        me.memory.chunk = chunk;
        let mut again = me.clone();
        let plan = me.plan(&snapshot);
        prop_assert_eq!(&plan, &again.plan(&snapshot), "the same view and state, another plan");

        // Every write is conditional on the version seen; nothing is planned twice or beyond the hub.
        let mut planned = std::collections::BTreeSet::new();
        for claim in plan.renew.iter().chain(&plan.claim).chain(&plan.steal) {
            prop_assert!(snapshot.partitions.contains(&claim.partition_id));
            prop_assert!(planned.insert(claim.partition_id.clone()), "planned twice");
            let seen = snapshot.ownerships.get(&claim.partition_id);
            match &claim.condition {
                WriteCondition::Absent => prop_assert!(seen.is_none()),
                WriteCondition::Matches(etag) => prop_assert_eq!(Some(etag), seen.map(|o| &o.etag)),
                WriteCondition::Unconditional => prop_assert!(false, "unconditional"),
            }
        }
        // No steal while something free is there for us.
        prop_assert!(plan.steal.is_empty() || plan.claim.is_empty());

        // A victim keeps its share: counted here by another rule than the plan's, all owners alive or not.
        let mut loads: BTreeMap<String, usize> = BTreeMap::new();
        for ownership in snapshot.ownerships.values() {
            if let Some(owner) = &ownership.owner_id
                && snapshot.partitions.contains(&ownership.partition_id)
            {
                *loads.entry(owner.as_str().to_ascii_lowercase()).or_default() += 1;
            }
        }
        let mine = plan.keep.len();
        for claim in &plan.steal {
            let owner = snapshot.ownerships[&claim.partition_id].owner_id.clone().unwrap();
            prop_assert!(!owner.is_same_as(&me.owner_id), "stolen from ourselves");
            let load = loads.get_mut(&owner.as_str().to_ascii_lowercase()).unwrap();
            *load -= 1;
            prop_assert!(*load >= mine, "a steal that makes nothing more even: {load} left, we had {mine}");
        }
    }

    /// Only differences of the store's own times count: shift its clock by any amount and nothing changes.
    #[test]
    fn the_clock_that_everybody_shares_may_show_any_time(
        records in proptest::collection::vec((0_usize..20, 0_usize..4, 0_u64..200), 0..30),
        shift in 0_u64..1_000_000_000,
    ) {
        let owners = ["", "me", "a", "rs1-25000-c"];
        let records: Vec<_> =
            records.into_iter().map(|(id, owner, age)| (id, owners[owner], age)).collect();
        let snapshot = group(20, &records);
        let mut shifted = snapshot.clone();
        shifted.as_of += seconds(shift);
        for ownership in shifted.ownerships.values_mut() {
            ownership.last_modified = ownership.last_modified.map(|at| at + seconds(shift));
        }
        prop_assert_eq!(Member::new("me").plan(&snapshot), Member::new("me").plan(&shifted));
    }
}

/// 32 partitions over 10: the first comer of Python's rule keeps 5 while others have 3. Ours does not.
#[test]
fn nobody_keeps_more_than_the_share_and_one() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut cluster = Cluster::new(32);
    let mut present = vec![Member::new("p0")];
    for number in 1..10 {
        for _ in 0..3 {
            cluster.round(&mut present, &mut rng, false);
        }
        present.push(Member::new(&format!("p{number}")));
    }
    for _ in 0..30 {
        cluster.round(&mut present, &mut rng, false);
    }
    let mut loads = cluster.loads(&present);
    loads.sort_unstable();
    assert_eq!(loads, [3, 3, 3, 3, 3, 3, 3, 3, 4, 4]);
}
