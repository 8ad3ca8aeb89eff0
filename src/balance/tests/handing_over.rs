//! Moves between processors of our kind: who waits for whom, and what is not taken.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::partitions;
use super::support::{Member, SUSPECT, group, id, now, seconds};
use crate::balance::{Outcome, Snapshot, Waiting};
use crate::model::OwnerId;

const ME: &str = "rs1-25000-me";
const KIN: &str = "rs1-25000-a";

/// How long a version is to be known before its heir is.
const IN_TRANSIT: Duration = Duration::from_millis(500);

/// A newcomer's first plan for eight partitions that all belong to one owner.
fn waits_for(me: &str, owner: &str) -> Option<OwnerId> {
    let records: Vec<_> = (0..8).map(|id| (id, owner, 5)).collect();
    let plan = Member::new(me).plan(&group(8, &records));
    assert_eq!(plan.steal.len(), 1);
    plan.steal[0].waits_for.clone()
}

#[test]
fn only_our_kind_waits_and_only_for_its_kind() {
    assert_eq!(waits_for(ME, KIN), Some(KIN.into()));
    assert_eq!(waits_for(ME, "foreign"), None);
    assert_eq!(waits_for("stable", KIN), None, "nobody would tell it");
    // One that is leaving is waited for, one that is dead is not.
    for (owner, age, expected) in [("rs1-0-a", 3, Some("rs1-0-a")), (KIN, 26, None)] {
        let plan = Member::new(ME).plan(&group(1, &[(0, owner, age)]));
        assert_eq!(plan.claim[0].waits_for, expected.map(Into::into), "{owner}");
    }
}

#[test]
fn the_newest_record_of_our_kind_is_left_to_it() {
    // Old and due soon, but for one: without that one it would look dead.
    let records: Vec<_> = (0..8)
        .map(|id| (id, KIN, if id == 3 { 9 } else { 24 }))
        .collect();
    let snapshot = group(8, &records);
    for name in 0..50 {
        let mut me = Member::new(&format!("rs1-25000-m{name}"));
        // After a lost race what was renewed last would be preferred.
        me.memory.retries = u32::from(name % 2 == 0);
        assert!(!partitions(&me.plan(&snapshot).steal).contains("3"));
    }
    // Of a foreign owner each record counts for itself.
    let foreign: Vec<_> = (0..8)
        .map(|id| (id, "foreign", if id == 3 { 9 } else { 24 }))
        .collect();
    let mut me = Member::new(ME);
    me.memory.retries = 1;
    assert_eq!(
        partitions(&me.plan(&group(8, &foreign)).steal),
        BTreeSet::from(["3"])
    );
}

#[test]
fn what_we_are_still_finishing_for_another_is_not_taken_back() {
    let mut records: Vec<_> = (0..8).map(|id| (id, KIN, 5)).collect();
    records[7].1 = ME;
    let snapshot = group(8, &records);
    let mut me = Member::settled(ME, &snapshot);
    me.handing_over = (0..6).map(id).collect();
    for _ in 0..10 {
        let plan = me.plan(&snapshot);
        assert!(
            plan.steal.iter().all(|claim| claim.partition_id == id(6)),
            "{plan:?}"
        );
    }
}

#[test]
fn what_has_just_been_passed_on_is_left_to_the_heir() {
    // Seen with one owner, then with another, written this second: the heir may not know that it may begin.
    let mut records: Vec<_> = (0..12).map(|id| (id, KIN, 5)).collect();
    records[0].1 = ME;
    let mut me = Member::settled(ME, &group(12, &records));
    let moved = |age| {
        let mut records: Vec<_> = (0..12).map(|id| (id, "rs1-25000-b", age)).collect();
        records[0].1 = ME;
        group(12, &records)
    };
    let stolen = |me: &mut Member, snapshot: &_| {
        (0..10)
            .map(|_| me.plan(snapshot).steal.len())
            .sum::<usize>()
    };
    assert_eq!(stolen(&mut me, &moved(1)), 0);
    assert!(stolen(&mut me, &moved(2)) > 0);
    // What nobody passed on may be taken while it is new.
    let mut me = Member::settled(ME, &moved(1));
    me.running_for = IN_TRANSIT;
    assert!(stolen(&mut me, &moved(1)) > 0);
}

#[test]
fn an_owner_is_waited_for_as_long_as_it_promised_since_the_claim_or_its_last_sign_of_life() {
    let over = |records: &[(usize, &str, u64)], waited, up_for| {
        let mut waiting = Waiting::new("rs1-40000-a".into());
        waiting.is_over(&group(8, records), seconds(waited), SUSPECT, up_for)
    };
    let alive = [(1, "RS1-40000-A", 40)];
    assert!(!over(&alive, 40, None), "its own promise, not ours");
    assert!(over(&alive, 41, None), "alive, but it does not make way");
    assert!(over(&[(1, "rs1-40000-a", 41)], 0, None), "dead");
    assert!(!over(&[(1, "rs1-40000-b", 41)], 0, None), "another one is");
    assert!(
        !over(&[(1, "rs1-40000-a", 60)], 60, Some(seconds(40))),
        "the store was down"
    );
    assert!(over(&[(1, "rs1-40000-a", 60)], 60, Some(seconds(41))));

    // What others claim of it does not make it look dead at once, nor keep it alive.
    let mut waiting = Waiting::new(KIN.into());
    let mut snapshot = group(8, &[(1, KIN, 5)]);
    assert!(!waiting.is_over(&snapshot, seconds(0), SUSPECT, None));
    snapshot.ownerships.clear();
    snapshot.as_of = now() + seconds(20);
    assert!(!waiting.is_over(&snapshot, seconds(20), SUSPECT, None));
    snapshot.as_of += seconds(1);
    assert!(waiting.is_over(&snapshot, seconds(21), SUSPECT, None));

    let mut leaver = Waiting::new("rs1-0-a".into());
    assert!(!leaver.is_over(&group(8, &[]), SUSPECT, SUSPECT, None));
    assert!(leaver.is_over(
        &group(8, &[]),
        SUSPECT + Duration::from_millis(1),
        SUSPECT,
        None
    ));
}

#[test]
fn a_newcomer_takes_what_has_been_where_it_is_since_it_looked_for_the_first_time() {
    let records = |old: Option<usize>| -> Vec<_> {
        (0..8)
            .map(|id| (id, KIN, if Some(id) == old { 5 } else { 1 }))
            .collect()
    };
    let plan = Member::new(ME).plan(&group(8, &records(Some(3))));
    assert_eq!(partitions(&plan.steal), BTreeSet::from(["3"]));

    // It cannot know whether any of these has just been passed on. In half a second it does.
    let mut snapshot = group(8, &records(None));
    let mut me = Member::new(ME);
    let plan = me.plan(&snapshot);
    assert!(plan.steal.is_empty());
    let mut rng = StdRng::seed_from_u64(1);
    let delay = me
        .memory
        .next_delay(&plan, Outcome::default(), &me.rule, &mut rng);
    assert!(delay >= IN_TRANSIT && delay < 2 * IN_TRANSIT, "{delay:?}");
    me.running_for = delay;
    assert_eq!(me.clone().plan(&snapshot).steal.len(), 1);
    // Written meanwhile by the same owner, or by the one before it: its heir was told only then.
    for ownership in snapshot.ownerships.values_mut() {
        ownership.etag = "told".into();
    }
    assert!(me.plan(&snapshot).steal.is_empty());
    me.running_for += IN_TRANSIT;
    assert_eq!(me.plan(&snapshot).steal.len(), 1);
}

#[test]
fn a_newcomer_that_finds_nothing_but_partitions_in_transit_does_not_slow_down() {
    let records: Vec<_> = (0..8).map(|id| (id, KIN, 0)).collect();
    let mut snapshot = group(8, &records);
    let mut me = Member::new(ME);
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..20 {
        for ownership in snapshot.ownerships.values_mut() {
            ownership.etag = round.to_string().into();
        }
        let plan = me.plan(&snapshot);
        assert!(plan.steal.is_empty());
        let delay = me
            .memory
            .next_delay(&plan, Outcome::default(), &me.rule, &mut rng);
        assert!(delay < 2 * IN_TRANSIT, "{delay:?}");
        me.running_for += delay;
    }
}

#[test]
fn who_waits_for_all_it_has_shows_life_all_the_same() {
    let renewed = |age| {
        let snapshot = group(2, &[(0, ME, age), (1, KIN, 0)]);
        let mut me = Member::settled(ME, &snapshot);
        me.awaited.insert(id(0));
        me.plan(&snapshot).renew.len()
    };
    assert_eq!(renewed(9), 0);
    assert_eq!(renewed(10), 1);
}

#[test]
fn a_word_too_late_is_a_surprise_and_forgotten_after_a_while() {
    let mut snapshot = group(2, &[(0, ME, 0), (1, ME, 0)]);
    let mut me = Member::settled(ME, &snapshot);
    for _ in 0..3 {
        snapshot.ownerships.get_mut(&id(1)).unwrap().etag = "told".into();
        assert!(me.plan(&snapshot).twins.is_empty());
        me.held.insert(id(1), "told".into());
        snapshot.as_of += seconds(121);
        assert!(me.plan(&snapshot).keep.contains(&id(1)));
        me.held.insert(id(1), "renewed".into());
    }
}

#[test]
fn what_was_passed_on_may_be_written_again_by_whoever_had_it_before() {
    let mut snapshot = group(3, &[(0, ME, 0), (1, KIN, 0), (2, KIN, 0)]);
    let mut me = Member::settled(ME, &snapshot);
    let record = |snapshot: &mut Snapshot, owner: &str, version: &str| {
        let record = snapshot.ownerships.get_mut(&id(1)).unwrap();
        (record.owner_id, record.etag) = (Some(owner.into()), version.into());
    };
    // A claim that was sent twice, the word of the owner before, and that of the one before him.
    for version in ["claimed", "told", "told again"] {
        record(&mut snapshot, ME, version);
        let plan = me.plan(&snapshot);
        assert!(
            plan.keep.contains(&id(1)) && plan.twins.is_empty(),
            "{version}"
        );
        me.held
            .insert(id(1), format!("{version}, renewed").as_str().into());
        snapshot.as_of += seconds(10);
    }
    // Long after that it is somebody else who goes by our name.
    snapshot.as_of += seconds(60);
    record(&mut snapshot, ME, "once");
    assert!(me.plan(&snapshot).twins.is_empty());
    record(&mut snapshot, ME, "twice");
    assert_eq!(me.plan(&snapshot).twins, [id(1)]);
}
