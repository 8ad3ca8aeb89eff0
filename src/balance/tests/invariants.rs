//! Invariants that no other test of the balancer states; the table in `mod.rs` has them all.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::partitions;
use super::support::{Cluster, INTERVAL, Member, SUSPECT, group, id, seconds};
use crate::model::OwnerId;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// A settled group of our kind.
fn settled(partitions: usize, count: usize) -> (Cluster, Vec<Member>) {
    let mut cluster = Cluster::new(partitions);
    let mut members: Vec<_> = (0..count)
        .map(|number| Member::new(&format!("rs1-25000-p{number}")))
        .collect();
    for _ in 0..partitions + 40 {
        cluster.cycle(&mut members, SECOND);
    }
    assert!(cluster.is_shared(&members), "{:?}", cluster.loads(&members));
    cluster.changes.clear();
    cluster.steals = 0;
    (cluster, members)
}

fn newcomers(count: usize) -> impl Iterator<Item = Member> {
    (0..count).map(|number| Member::new(&format!("rs1-25000-new{number}")))
}

/// How often a base has to be multiplied with itself.
fn log(value: f64, base: f64) -> usize {
    value.log(base).ceil().max(0.0) as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Invariants 3 and 4: nothing is stolen from an owner with no more than the share, or the share and one if that is
    /// all that the thief can win; and nothing at all while a partition is free.
    #[test]
    fn nothing_is_stolen_from_who_has_no_more_than_its_share(
        owners in proptest::collection::vec(0_usize..6, 1..60),
        age in 0_u64..20,
    ) {
        let names = ["rs1-25000-me", "rs1-25000-a", "rs1-25000-b", "c", "d", ""];
        let records: Vec<_> =
            owners.iter().enumerate().map(|(id, owner)| (id, names[*owner], age)).collect();
        let snapshot = group(records.len(), &records);
        let mut me = Member::settled(names[0], &snapshot);
        me.running_for = seconds(60);
        let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, owner, _) in records.iter().filter(|(_, owner, _)| !owner.is_empty()) {
            *loads.entry(owner).or_default() += 1;
        }
        let mut mine = loads.remove(names[0]).unwrap_or(0);
        let share = records.len() / (loads.len() + 1);
        let is_free = records.iter().any(|(_, owner, _)| owner.is_empty());
        for _ in 0..3 {
            let plan = me.plan(&snapshot);
            prop_assert!(!is_free || mine >= share || plan.steal.is_empty());
            let mut left = loads.clone();
            for claim in &plan.steal {
                let owner = snapshot.ownerships[&claim.partition_id].owner_id.clone().unwrap();
                let load = left.get_mut(owner.as_str()).unwrap();
                let least = if mine < share { share } else { share + 1 };
                prop_assert!(*load > least, "{load} of {share}, we have {mine}");
                *load -= 1;
                mine += 1;
            }
            mine -= plan.steal.len();
        }
    }

    /// Invariant 7: a group in balance is left as it is, however often one plans.
    #[test]
    fn a_balanced_view_planned_twice_yields_nothing(partitions in 1_usize..60, count in 1_usize..10) {
        let (cluster, mut members) = settled(partitions, count);
        for member in &mut members {
            for _ in 0..2 {
                let plan = member.plan(&cluster.snapshot);
                prop_assert!(plan.claim.is_empty() && plan.steal.is_empty());
            }
        }
    }

    /// Invariant 10: all is claimed and even after ⌈log₂(N/M)⌉ + 2 listings of everybody if it was free, and after
    /// 3 + ⌈log₁.₅(N/M)⌉ rounds if it has to be stolen, with a newcomer's first look and its wait for others before.
    #[test]
    fn a_group_is_balanced_within_a_number_of_rounds(partitions in 1_usize..200, count in 1_usize..12) {
        let each = partitions as f64 / count as f64;
        let mut cluster = Cluster::new(partitions);
        let mut members: Vec<_> = newcomers(count).collect();
        for _ in 0..log(each, 2.0) + 2 {
            cluster.cycle(&mut members, SECOND);
        }
        let all: usize = cluster.loads(&members).iter().sum();
        prop_assert_eq!(all, partitions, "free ones are left");

        let (mut cluster, mut members) = settled(partitions, 1);
        members.extend(newcomers(count));
        let rounds = 3 + log(partitions as f64 / (count + 1) as f64, 1.5);
        for _ in 0..rounds + 2 {
            cluster.cycle(&mut members, SECOND);
        }
        prop_assert!(cluster.is_shared(&members) || partitions <= count, "{:?}", cluster.loads(&members));
    }

    /// Invariants 11 and 12: newcomers take what they need and little more, of a crash exactly the orphans move, and no
    /// partition goes to and fro.
    #[test]
    fn no_more_moves_than_it_takes(partitions in 12_usize..80, count in 2_usize..6, joining in 1_usize..4) {
        let (mut cluster, mut members) = settled(partitions, count);
        members.extend(newcomers(joining));
        for _ in 0..60 {
            cluster.cycle(&mut members, SECOND);
        }
        prop_assert!(cluster.is_shared(&members));
        let least = joining * (partitions / members.len());
        let moves = usize::try_from(cluster.steals).unwrap();
        prop_assert!(moves <= (least as f64 * 1.4).ceil() as usize + joining, "{moves}, {least} needed");
        prop_assert!(cluster.changes.values().all(|changes| *changes <= 3));

        cluster.changes.clear();
        cluster.steals = 0;
        let dead = members.remove(0);
        let orphans = cluster.loads(std::slice::from_ref(&dead))[0];
        for _ in 0..SUSPECT.as_secs() + 60 {
            cluster.cycle(&mut members, SECOND);
        }
        prop_assert!(cluster.is_shared(&members));
        let moved: u32 = cluster.changes.values().sum();
        let moved = usize::try_from(moved).unwrap();
        prop_assert!((orphans..=orphans + members.len()).contains(&moved), "{moved}, {orphans} orphans");
        prop_assert!(cluster.changes.values().all(|changes| *changes <= 3));
    }
}

/// Invariants 11 and 12: in a day nothing moves.
#[test]
fn a_settled_group_moves_nothing_in_a_day() {
    let (mut cluster, mut members) = settled(13, 3);
    for _ in 0..24 * 3600 / INTERVAL.as_secs() {
        cluster.cycle(&mut members, INTERVAL);
    }
    assert_eq!(cluster.steals, 0);
    assert!(cluster.changes.is_empty());
    let oldest = cluster.snapshot.ownerships.values();
    let oldest = oldest.map(|record| cluster.snapshot.age(record)).max();
    assert!(oldest.unwrap() <= seconds(40), "{oldest:?}");
}

/// Invariant 13: the owner writes just before every claim of the newcomer, whatever it has to write.
#[test]
fn a_newcomer_gets_its_first_partition_although_the_owner_always_writes_first() {
    for name in 0..20 {
        let (mut cluster, mut members) = settled(32, 1);
        cluster.snapshot.as_of += seconds(60);
        let mut newcomer = Member::new(&format!("rs1-25000-new{name}"));
        let rounds = (0..10).position(|_| {
            cluster.snapshot.as_of += INTERVAL;
            newcomer.running_for += INTERVAL;
            let view = cluster.snapshot.clone();
            cluster.cycle(&mut members, SECOND);
            cluster.step(&mut newcomer, &view, 0);
            !newcomer.held.is_empty()
        });
        assert!(rounds.is_some_and(|rounds| rounds < 5), "{rounds:?}");
    }
}

/// Invariant 20: partitions that the hub does not have are left alone, new ones are claimed.
#[test]
fn only_what_the_hub_has_is_claimed_renewed_or_stolen() {
    let records: Vec<_> = (0..8)
        .map(|id| (id, if id < 4 { "me" } else { "" }, 9))
        .collect();
    let mut snapshot = group(8, &records);
    snapshot.partitions = [id(0), id(5), id(9)].into();
    let mut me = Member::settled("me", &snapshot);
    let (mut claimed, mut renewed) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let plan = me.plan(&snapshot);
        claimed.extend(partitions(&plan.claim).into_iter().map(str::to_owned));
        renewed.extend(partitions(&plan.renew).into_iter().map(str::to_owned));
        assert!(plan.steal.is_empty());
        assert_eq!(plan.keep, [id(0)].into());
    }
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed, ["5", "9"]);
    assert!(renewed.iter().all(|id| id == "0"), "{renewed:?}");
}

/// 13 over 3: whoever has one too few finds the one that has two more, and nobody else moves.
#[test]
fn thirteen_over_three_needs_one_move() {
    let owners = ["a"; 6].into_iter().chain(["b"; 4]).chain(["c"; 3]);
    let records: Vec<_> = owners
        .enumerate()
        .map(|(id, owner)| (id, owner, 9))
        .collect();
    let mut cluster = Cluster::new(13);
    cluster.snapshot = group(13, &records);
    let mut members: Vec<_> = ["a", "b", "c"]
        .map(|name| Member::settled(name, &cluster.snapshot))
        .into();
    for _ in 0..10 {
        cluster.cycle(&mut members, SECOND);
    }
    assert_eq!(cluster.loads(&members), [5, 4, 4]);
    assert_eq!(cluster.steals, 1);
}

/// An id that is written in another case is the same owner's (invariant 8: ids are compared as others compare them).
#[test]
fn an_owner_is_one_owner_in_any_case() {
    let snapshot = group(4, &[(0, "Me", 1), (1, "ME", 1), (2, "A", 1), (3, "a", 1)]);
    let mut me = Member::new("me");
    let plan = me.plan(&snapshot);
    assert_eq!(plan.keep, [id(0), id(1)].into());
    assert!(plan.steal.is_empty(), "two each");
    assert!(OwnerId::from("A").is_same_as(&"a".into()));
}
