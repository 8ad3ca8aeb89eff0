//! Decisions by example; `properties` and `invariants` hold what is always true.
//!
//! What a group of processors promises, and the tests that would fail without it. N partitions, M owners, interval I,
//! expiration E; `sim` is the simulator, whose oracle checks all of them in every run.
//!
//! | | invariant | tests |
//! |---|---|---|
//! | 1 | a handler starts only while a write of ours counts, or a link excludes others | `fence`, `processor::tests::proofs` |
//! | 2 | every change of owner is conditional on the version it was planned from; one creates | `every_plan_keeps_the_rules`, `conformance::one_of_many_creators_wins` |
//! | 3 | nothing is stolen from who has no more than its share | `nothing_is_stolen_from_who_has_no_more_than_its_share` |
//! | 4 | nothing is stolen while something is free for us | the same |
//! | 5 | a checkpoint never goes back through us | `register`, `processor::tests::checkpoints` |
//! | 6 | no local clock takes part | `the_clock_that_everybody_shares_may_show_any_time`, `the_day_that_the_local_clock_shows_changes_nothing` |
//! | 7 | a plan follows from its arguments, takes any record, and leaves balance alone | `every_plan_keeps_the_rules`, `a_balanced_view_planned_twice_yields_nothing` |
//! | 8 | what is written is what others read | `conformance`, `tests/it/checkpoint_store/raw_blob.rs`, `an_owner_is_one_owner_in_any_case` |
//! | 9 | nothing is unread for longer than the suspect time after a crash, a cycle after a stop | `figures`, `processor::tests::balancing`, `processor::tests::replacing` |
//! | 10 | balance within a number of rounds that grows with log(N/M) | `a_group_is_balanced_within_a_number_of_rounds` |
//! | 11 | no more moves than it takes, none in a day | `no_more_moves_than_it_takes`, `a_settled_group_moves_nothing_in_a_day` |
//! | 12 | no partition goes to and fro | the same |
//! | 13 | a newcomer gets something although owners always write first | `a_newcomer_gets_its_first_partition_although_the_owner_always_writes_first` |
//! | 14 | a store that was down moves nothing | `figures` (180 s), `a_silence_that_the_store_explains_is_held_against_nobody` |
//! | 15 | a slow store moves nothing | `figures` (0.8 s a write) |
//! | 16 | a settled group costs about two operations a partition and six an owner in a minute at 10 s | `figures`, `a_heartbeat_each_interval_and_each_record_once_in_three` |
//! | 17 | a stop ends in time, with the store down and from inside a handler | `processor::tests::stopping` (`a_handler_can_stop_the_processor_that_calls_it`), `a_stop_with_the_store_down_ends_in_time_and_cuts_nothing` |
//! | 18 | with other SDKs: coverage, balance, no moves once settled | `sim` (`peers`), `tests/interop/mixed_group.rs` |
//! | 19 | nothing that others write ends our loop | `every_plan_keeps_the_rules`, `tests/it/checkpoint_store/foreign_records.rs` |
//! | 20 | new partitions are read within two intervals, unknown ones left alone | `new_partitions_are_read_within_two_intervals`, `only_what_the_hub_has_is_claimed_renewed_or_stolen` |

mod handing_over;
mod invariants;
mod liveness;
mod properties;
mod support;

use std::collections::BTreeSet;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::support::{Member, group, id, seconds};
use super::plan::Reason;
use super::{LoadBalancingStrategy, Outcome, Plan, reconcile};
use crate::model::{PartitionId, WriteCondition};

fn partitions(claims: &[super::Claim]) -> BTreeSet<&str> {
    claims.iter().map(|c| c.partition_id.as_str()).collect()
}

fn moves_nothing(plan: &Plan) -> bool {
    plan.claim.is_empty() && plan.steal.is_empty()
}

#[test]
fn a_lone_greedy_processor_claims_in_chunks_that_double() {
    let mut me = Member::new("me");
    let mut cluster = support::Cluster::new(32);
    for chunk in [1, 2, 4, 8, 16, 1] {
        let view = cluster.snapshot.clone();
        let mut planned = me.clone();
        let plan = planned.plan(&view);
        assert_eq!(plan.claim.len(), chunk);
        assert!(
            plan.claim
                .iter()
                .all(|claim| claim.condition == WriteCondition::Absent)
        );
        let delay = cluster.step(&mut me, &view, 1);
        let is_last = chunk == 1 && plan.reason != Reason::MoreToClaim;
        assert!(is_last || delay.as_millis() < 100, "{delay:?}");
    }
    assert!(moves_nothing(&me.plan(&cluster.snapshot)));
}

#[test]
fn a_balanced_processor_claims_one_a_cycle() {
    let mut me = Member::with_strategy("me", LoadBalancingStrategy::Balanced);
    for _ in 0..3 {
        let plan = me.plan(&group(32, &[]));
        assert_eq!(plan.claim.len(), 1);
        assert_eq!(plan.reason, Reason::Unsettled);
    }
}

#[test]
fn free_records_are_claimed_at_the_version_seen() {
    let group = group(3, &[(0, "dead", 121), (1, "", 0), (2, "alive", 120)]);
    let mut me = Member::settled("me", &group);
    me.memory.chunk = 2;
    let plan = me.plan(&group);
    assert_eq!(partitions(&plan.claim), BTreeSet::from(["0", "1"]));
    for claim in &plan.claim {
        let seen = group.ownerships[&claim.partition_id].etag.clone();
        assert_eq!(claim.condition, WriteCondition::Matches(seen));
    }
}

#[test]
fn claims_that_fail_for_ever_do_not_end_in_an_overflow() {
    let mut me = Member::new("me");
    for _ in 0..70 {
        assert!(!me.plan(&group(4, &[])).claim.is_empty());
    }
}

#[test]
fn a_newcomer_steals_one_then_waits_for_others_to_show_up_then_a_third_of_what_is_missing() {
    let mut records: Vec<_> = (0..32).map(|id| (id, "a", 0)).collect();
    let mut me = Member::new("me");
    let snapshot = group(32, &records);
    let plan = me.plan(&snapshot);
    assert_eq!(plan.steal.len(), 1, "to be seen");
    assert_eq!(plan.reason, Reason::Unsettled);

    // Another newcomer shows up meanwhile.
    records[31].1 = "me";
    records[30].1 = "b";
    let snapshot = group(32, &records);
    me.held.insert(id(31), "v31".into());
    let plan = me.plan(&snapshot);
    assert!(moves_nothing(&plan), "the group still grows");
    let plan = me.plan(&snapshot);
    assert_eq!(plan.steal.len(), 4, "a third of 11 less 1");
    assert!(plan.steal.iter().all(|claim| claim.partition_id != id(30)));
}

#[test]
fn a_group_that_never_stops_growing_does_not_keep_a_newcomer_waiting_for_ever() {
    let mut me = Member::new("me");
    let names: Vec<_> = (0..40).map(|n| format!("n{n}")).collect();
    let mut steals = 0;
    for round in 0..20 {
        let mut records: Vec<_> = (0..100).map(|id| (id, "a", 0)).collect();
        records[0].1 = "me";
        for (at, name) in names[..round].iter().enumerate() {
            records[at + 1].1 = name;
        }
        me.held.insert(id(0), "v0".into());
        steals += me.plan(&group(100, &records)).steal.len();
    }
    assert!(steals > 0);
}

#[test]
fn who_lost_a_race_looks_again_at_once_and_takes_what_was_renewed_last() {
    let records: Vec<_> = (0..9).map(|id| (id, "a", 8 - id as u64)).collect();
    let snapshot = group(9, &records);
    let mut me = Member::new("me");
    let plan = me.plan(&snapshot);
    let lost = Outcome { lost: 1 };
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..3 {
        let delay = me.memory.next_delay(&plan, lost, &me.rule, &mut rng);
        assert!(delay.as_millis() < 100, "{delay:?}");
        let plan = me.plan(&snapshot);
        assert_eq!(partitions(&plan.steal), BTreeSet::from(["8"]));
    }
    let delay = me.memory.next_delay(&plan, lost, &me.rule, &mut rng);
    assert!(delay.as_millis() > 500, "not for ever: {delay:?}");
}

#[test]
fn nobody_steals_for_an_extra_partition_while_the_difference_is_one() {
    let owners = ["a", "b", "c"];
    let records: Vec<_> = (0..10).map(|id| (id, owners[id % 3], 0)).collect();
    let group = group(10, &records);
    for owner in owners {
        let plan = Member::settled(owner, &group).plan(&group);
        assert!(moves_nothing(&plan), "{owner}");
        assert_eq!(plan.reason, Reason::Settled);
    }
}

#[test]
fn an_extra_is_taken_from_somebody_who_has_two_more() {
    // 13 over 3: a has 6, b 4, me 3.
    let mut records: Vec<_> = (0..6).map(|id| (id, "a", 0)).collect();
    records.extend((6..10).map(|id| (id, "b", 0)));
    records.extend((10..13).map(|id| (id, "me", 0)));
    let group = group(13, &records);
    let plan = Member::settled("me", &group).plan(&group);
    assert_eq!(plan.steal.len(), 1);
    assert!(plan.steal[0].partition_id.as_str().parse::<u32>().unwrap() < 6);
}

#[test]
fn more_processors_than_partitions_leave_some_idle() {
    let group = group(2, &[(0, "a", 0), (1, "b", 0)]);
    let plan = Member::settled("me", &group).plan(&group);
    assert!(moves_nothing(&plan));
    assert_eq!(plan.reason, Reason::Settled);
}

#[test]
fn what_nobody_else_takes_is_taken_in_the_end() {
    // Two members with equal shares, and the other one never claims its own.
    let group = group(4, &[(0, "me", 0), (1, "me", 0), (2, "a", 0)]);
    let mut me = Member::settled("me", &group);
    let rounds = (0..60)
        .position(|_| !me.plan(&group).claim.is_empty())
        .unwrap();
    assert!((12..30).contains(&rounds), "{rounds}");
}

#[test]
fn a_partition_left_by_our_kind_is_claimed_and_waited_for() {
    let group = group(2, &[(0, "rs1-0-a", 3), (1, "me", 0)]);
    let mut me = Member::settled("me", &group);
    let plan = me.plan(&group);
    assert_eq!(partitions(&plan.claim), BTreeSet::from(["0"]));
    assert!(
        plan.claim[0].waits_for.is_none(),
        "without a promise nobody tells us"
    );
    assert!(!plan.has_kin, "who leaves takes nothing over");

    // While it is waited for it is ours, but not renewed: its version is the sign.
    let group = support::group(2, &[(0, "me", 9), (1, "me", 0)]);
    let mut me = Member::settled("me", &group);
    me.awaited.insert(id(0));
    let plan = me.plan(&group);
    assert!(plan.keep.contains(&id(0)));
    assert!(plan.renew.is_empty());
}

#[test]
fn a_heartbeat_each_interval_and_each_record_once_in_three() {
    let mut records: Vec<_> = (0..7).map(|id| (id, "me", 10 + 4 * id as u64)).collect();
    let snapshot = group(7, &records);
    let plan = Member::settled("me", &snapshot).plan(&snapshot);
    assert_eq!(partitions(&plan.renew), BTreeSet::from(["4", "5", "6"]));

    // Where nothing is due, one shows that we live.
    let young: Vec<_> = (0..7).map(|id| (id, "me", 8 + id as u64)).collect();
    let snapshot = group(7, &young);
    let plan = Member::settled("me", &snapshot).plan(&snapshot);
    assert_eq!(partitions(&plan.renew), BTreeSet::from(["6"]));

    // With a heartbeat just made, only what is overdue.
    records[0].2 = 0;
    records[6].2 = 41;
    let snapshot = group(7, &records);
    let plan = Member::settled("me", &snapshot).plan(&snapshot);
    assert_eq!(partitions(&plan.renew), BTreeSet::from(["6"]));
}

#[test]
fn after_an_outage_everything_is_renewed_first() {
    let records: Vec<_> = (0..7).map(|id| (id, "me", 35)).collect();
    let snapshot = group(7, &records);
    let mut me = Member::settled("me", &snapshot);
    me.store_up_for = Some(seconds(0));
    assert_eq!(me.plan(&snapshot).renew.len(), 7);
}

#[test]
fn what_was_ours_before_a_restart_is_taken_up_again_whatever_its_age_and_case() {
    let snapshot = group(2, &[(0, "ME", 600), (1, "me", 1)]);
    let plan = Member::new("me").plan(&snapshot);
    assert_eq!(plan.keep.len(), 2);
    assert_eq!(plan.renew.len(), 2, "a write makes sure that it is ours");
    assert!(moves_nothing(&plan));
}

#[test]
fn a_settled_group_is_looked_at_once_an_interval_and_a_changed_one_each_second() {
    let mut records = vec![(0, "me", 0), (1, "a", 0), (2, "b", 0)];
    let mut snapshot = group(3, &records);
    let mut me = Member::settled("me", &snapshot);
    let mut rng = StdRng::seed_from_u64(1);
    let mut delay = |me: &mut Member, snapshot: &_| {
        let plan = me.plan(snapshot);
        let rule = me.rule;
        me.memory
            .next_delay(&plan, Outcome::default(), &rule, &mut rng)
    };
    let quick = (0..10)
        .take_while(|_| delay(&mut me, &snapshot) < seconds(2))
        .count();
    assert_eq!(quick, 4);
    assert!(delay(&mut me, &snapshot) >= seconds(9));
    records.pop();
    snapshot = group(3, &records);
    snapshot
        .ownerships
        .insert(id(2), snapshot.ownerships[&id(1)].clone());
    assert!(delay(&mut me, &snapshot) < seconds(2), "b is gone");
}

#[test]
fn who_seems_late_is_looked_at_when_it_would_be_too_late() {
    let snapshot = group(2, &[(0, "me", 0), (1, "rs1-25000-a", 22)]);
    let mut me = Member::settled("me", &snapshot);
    let mut rng = StdRng::seed_from_u64(1);
    let mut delays = (0..10).map(|_| {
        let plan = me.plan(&snapshot);
        let rule = me.rule;
        me.memory
            .next_delay(&plan, Outcome::default(), &rule, &mut rng)
    });
    let last = delays.by_ref().last().unwrap();
    assert!(last > seconds(3) && last < seconds(5), "{last:?}");
}

#[test]
fn reconcile_starts_what_is_ours_and_stops_what_is_not() {
    let [a, b, c] = ["0", "1", "2"].map(PartitionId::from);
    let changes = reconcile([&a, &b], [&b, &c]);
    assert_eq!(changes.start, [c]);
    assert_eq!(changes.stop, [a]);
}
