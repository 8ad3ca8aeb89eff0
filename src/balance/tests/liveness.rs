//! Who counts as dead, and when nobody does.

use super::support::{Member, group, id, now, seconds};
use super::{moves_nothing, partitions};
use std::collections::BTreeSet;

const KIN: &str = "rs1-25000-a";

#[test]
fn our_own_kind_is_judged_by_its_newest_record_and_its_own_promise() {
    // Me, kin a with an old and a fresh record, kin b silent, kin c slow by promise, a foreigner.
    let records = [
        (0, "me", 0),
        (1, KIN, 100),
        (2, KIN, 24),
        (3, "rs1-25000-b", 26),
        (4, "rs1-75000-c", 70),
        (5, "foreign", 119),
        (6, "me", 0),
    ];
    let snapshot = group(7, &records);
    let mut me = Member::settled("me", &snapshot);
    assert!(
        moves_nothing(&me.plan(&snapshot)),
        "at its share: {:?}",
        me.memory
    );
    // Without me the silent one's partition goes to whoever is short.
    let mut newcomer = Member::new("new");
    newcomer.memory = me.memory.clone();
    let plan = newcomer.plan(&snapshot);
    assert_eq!(partitions(&plan.claim), BTreeSet::from(["3"]));
}

#[test]
fn a_foreign_record_counts_until_it_is_older_than_the_expiration() {
    let snapshot = group(2, &[(0, "dead", 121), (1, "alive", 120)]);
    let mut me = Member::settled("me", &snapshot);
    assert_eq!(partitions(&me.plan(&snapshot).claim), BTreeSet::from(["0"]));
}

#[test]
fn a_record_from_the_future_or_without_a_date_is_alive() {
    let mut group = group(2, &[(0, "other", 0), (1, "other", 0)]);
    group.ownerships.get_mut(&id(0)).unwrap().last_modified = Some(now() + seconds(600));
    group.ownerships.get_mut(&id(1)).unwrap().last_modified = None;
    let plan = Member::new("me").plan(&group);
    assert!(plan.claim.is_empty());
    assert_eq!(plan.steal.len(), 1);
}

#[test]
fn a_silence_that_the_store_explains_is_held_against_nobody() {
    let records = [
        (0, "me", 200),
        (1, KIN, 200),
        (2, "rs1-25000-b", 200),
        (3, "foreign", 200),
    ];
    let snapshot = group(4, &records);
    let mut me = Member::settled("me", &snapshot);
    me.store_up_for = Some(seconds(0));
    assert!(moves_nothing(&me.plan(&snapshot)));
    // Nothing is stolen from those in doubt either, even by one who is short.
    let mut other = Member::settled("other", &snapshot);
    other.store_up_for = Some(seconds(0));
    assert!(moves_nothing(&other.plan(&snapshot)));
    // Who stays silent once the store is back is dead after the same time as ever.
    me.store_up_for = Some(seconds(26));
    me.memory.chunk = 4;
    assert_eq!(me.plan(&snapshot).claim.len(), 1);
    me.store_up_for = None;
    assert_eq!(me.plan(&snapshot).claim.len(), 3);
}

#[test]
fn a_newcomer_that_finds_everybody_silent_suspects_the_store() {
    let records = [(0, KIN, 60), (1, "rs1-25000-b", 60), (2, "rs1-25000-c", 1)];
    let snapshot = group(3, &records);
    let plan = Member::new("me").plan(&snapshot);
    assert!(plan.is_suspicious);
    assert!(moves_nothing(&plan));
    // One dead owner is a crash.
    let snapshot = group(1, &[(0, KIN, 60)]);
    let plan = Member::new("me").plan(&snapshot);
    assert!(!plan.is_suspicious);
    assert_eq!(plan.claim.len(), 1);
}

#[test]
fn a_look_is_planned_for_the_moment_at_which_a_silence_gets_too_long() {
    let snapshot = group(3, &[(0, "me", 0), (1, KIN, 18), (2, "foreign", 119)]);
    let mut me = Member::settled("me", &snapshot);
    assert_eq!(me.plan(&snapshot).next_suspicion, Some(seconds(1)));
    let snapshot = group(2, &[(0, "me", 0), (1, KIN, 18)]);
    let mut me = Member::settled("me", &snapshot);
    assert_eq!(me.plan(&snapshot).next_suspicion, Some(seconds(7)));
}

#[test]
fn whoever_writes_in_our_name_is_noticed_left_alone_and_outlived() {
    let mut snapshot = group(2, &[(0, "me", 0), (1, "me", 0)]);
    let mut me = Member::settled("me", &snapshot);
    snapshot.ownerships.get_mut(&id(1)).unwrap().etag = "another".into();
    let plan = me.plan(&snapshot);
    assert!(plan.twins.is_empty(), "once may be an operator");
    assert!(plan.renew.iter().any(|claim| claim.partition_id == id(1)));
    let plan = me.plan(&snapshot);
    assert_eq!(plan.twins, [id(1)]);
    assert_eq!(plan.keep, BTreeSet::from([id(0)]));
    assert!(moves_nothing(&plan));
    // A write of our own whose answer was lost is no twin.
    me.doubtful.insert(id(1));
    let plan = me.plan(&snapshot);
    assert!(plan.twins.is_empty());
    assert!(plan.renew.iter().any(|claim| claim.partition_id == id(1)));
    // Silent for the suspect time: nobody is there.
    me.doubtful.clear();
    me.held.remove(&id(1));
    snapshot.ownerships.get_mut(&id(1)).unwrap().last_modified = Some(now() - seconds(26));
    assert_eq!(partitions(&me.plan(&snapshot).claim), BTreeSet::from(["1"]));
}
