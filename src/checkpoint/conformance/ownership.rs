//! Claiming, renewing, stealing, giving back, and reading who owns what.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::support::{
    claim, create, fresh_scope, list, lost, matches, ok, only, put, read, refused, update, winners,
};
use crate::checkpoint::{CheckpointStore, WriteCondition, WriteOutcome};
use crate::error::StoreErrorKind;
use crate::model::{ETag, GroupScope, PartitionId};

/// How far two times of one store may lie apart: stores may resolve one second only, and requests take time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// A group that nobody wrote to has no records, which is no error.
pub async fn an_unknown_group_is_empty(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    assert!(
        list(store, &scope).await.ownerships.is_empty(),
        "a group without records lists no ownership"
    );
    assert!(
        ok(store.list_checkpoints(&scope).await, "list checkpoints").is_empty(),
        "a group without records lists no checkpoint"
    );
}

/// What was written is listed at once, as it was written.
pub async fn a_created_record_is_listed(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let written = create(store, &scope, "0", "owner-A").await;
    let record = only(list(store, &scope).await);
    assert_eq!(
        record.partition_id,
        "0".into(),
        "the partition id is kept verbatim"
    );
    assert_eq!(
        record.owner_id,
        Some("owner-A".into()),
        "the owner id is kept verbatim"
    );
    assert_eq!(
        record.etag, written.etag,
        "the version in a listing is the one that the write returned, quotes or not"
    );
    if let (Some(listed), Some(returned)) = (record.last_modified, written.last_modified) {
        assert_eq!(
            listed, returned,
            "the time in a listing is the one of the write"
        );
    }
}

/// Creating is only for partitions without a record, also for the same owner.
pub async fn creating_twice_loses(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    create(store, &scope, "0", "a").await;
    for owner in ["b", "a"] {
        let outcome = claim(store, &scope, "0", Some(owner), &WriteCondition::Absent).await;
        lost(outcome, "creating an existing record");
    }
    let record = only(list(store, &scope).await);
    assert_eq!(
        record.owner_id,
        Some("a".into()),
        "a lost create changes nothing"
    );
}

/// A renewal writes the same owner and gets a new version, which the next renewal needs.
pub async fn renewing_changes_the_version(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let mut seen = HashSet::new();
    let mut etag = create(store, &scope, "0", "a").await.etag;
    for _ in 0..5 {
        assert!(
            seen.insert(etag.clone()),
            "every write gives a version never seen before"
        );
        etag = update(store, &scope, "0", Some("a"), &etag).await.etag;
    }
    assert_eq!(
        only(list(store, &scope).await).etag,
        etag,
        "the listing shows the version of the last renewal"
    );
}

/// Naming the current version of another's record takes it over.
pub async fn stealing_takes_over(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let first = create(store, &scope, "0", "a").await;
    let listed = only(list(store, &scope).await);
    update(store, &scope, "0", Some("b"), &listed.etag).await;
    let outcome = claim(store, &scope, "0", Some("a"), &matches(&first.etag)).await;
    lost(outcome, "the former owner's renewal");
    let record = only(list(store, &scope).await);
    assert_eq!(record.owner_id, Some("b".into()), "the thief is the owner");
}

/// A version that was current once does not do any more.
pub async fn a_stale_version_loses(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let first = create(store, &scope, "0", "a").await.etag;
    let second = update(store, &scope, "0", Some("a"), &first).await.etag;
    for (owner, what) in [
        (Some("a"), "renewing with a stale version"),
        (Some("b"), "stealing with a stale version"),
        (None, "giving back with a stale version"),
    ] {
        lost(
            claim(store, &scope, "0", owner, &matches(&first)).await,
            what,
        );
    }
    let record = only(list(store, &scope).await);
    assert_eq!(
        (record.owner_id, record.etag),
        (Some("a".into()), second),
        "a lost write changes nothing"
    );
}

/// A version that the record never had loses; where there is no record, a store may create one or not, but
/// its answer and its listing agree.
pub async fn an_unknown_version_never_overwrites(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let etag = create(store, &scope, "0", "a").await.etag;
    let other = ETag::new("0xDEADBEEF");
    assert_ne!(etag, other, "the version is not the made-up one");
    lost(
        claim(store, &scope, "0", Some("b"), &matches(&other)).await,
        "writing with a version that never was",
    );
    let outcome = claim(store, &scope, "1", Some("b"), &matches(&other)).await;
    let listing = list(store, &scope).await;
    let vanished = listing
        .ownerships
        .iter()
        .find(|record| record.partition_id == "1".into());
    match ok(outcome, "writing a record that vanished") {
        WriteOutcome::Written(written) => assert_eq!(
            vanished.map(|record| &record.etag),
            Some(&written.etag),
            "a record that was created anew is listed"
        ),
        WriteOutcome::Lost => assert_eq!(vanished, None, "a lost write creates nothing"),
        WriteOutcome::Unknown(error) => panic!("the outcome is known without a fault: {error}"),
    }
    lost(
        claim(store, &scope, "2", None, &matches(&other)).await,
        "giving back a record that does not exist",
    );
}

/// A partition that was given back keeps its record, which names nobody, with a fresh version and time.
pub async fn giving_back_leaves_an_unowned_record(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let claimed = create(store, &scope, "0", "a").await;
    let returned = update(store, &scope, "0", None, &claimed.etag).await;
    let record = only(list(store, &scope).await);
    assert_eq!(
        record.owner_id, None,
        "a partition that was given back is unowned"
    );
    assert_eq!(
        record.etag, returned.etag,
        "giving back changes the version"
    );
    assert_ne!(record.etag, claimed.etag, "giving back changes the version");
}

/// Whoever lost a partition cannot give it back over the new owner's head.
pub async fn giving_back_after_a_steal_loses(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let first = create(store, &scope, "0", "a").await.etag;
    update(store, &scope, "0", Some("b"), &first).await;
    lost(
        claim(store, &scope, "0", None, &matches(&first)).await,
        "giving back what somebody else owns",
    );
    let record = only(list(store, &scope).await);
    assert_eq!(record.owner_id, Some("b".into()), "the new owner stays");
}

/// An unowned record is claimed with its version, not by creating.
pub async fn an_unowned_record_can_be_claimed(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let claimed = create(store, &scope, "0", "a").await.etag;
    let returned = update(store, &scope, "0", None, &claimed).await.etag;
    lost(
        claim(store, &scope, "0", Some("b"), &WriteCondition::Absent).await,
        "creating over an unowned record",
    );
    update(store, &scope, "0", Some("b"), &returned).await;
    let record = only(list(store, &scope).await);
    assert_eq!(
        record.owner_id,
        Some("b".into()),
        "the claim names the new owner"
    );
}

/// A listing holds the records of its group and of no other, whose name may begin alike.
pub async fn groups_do_not_see_each_other(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let group = scope.consumer_group();
    let (namespace, hub) = (scope.fully_qualified_namespace(), scope.event_hub_name());
    let others = [
        GroupScope::new(namespace, hub, format!("{group}2")),
        GroupScope::new(namespace, format!("{hub}2"), group),
        GroupScope::new(format!("x{namespace}"), hub, group),
    ];
    create(store, &scope, "0", "a").await;
    for (index, other) in others.iter().enumerate() {
        let partition = format!("{}", index + 1);
        create(store, other, &partition, "b").await;
        put(store, other, &partition, "1", 1, &WriteCondition::Absent).await;
    }
    let record = only(list(store, &scope).await);
    assert_eq!(
        record.owner_id,
        Some("a".into()),
        "a listing is of one group only"
    );
    let checkpoints = ok(store.list_checkpoints(&scope).await, "list checkpoints");
    assert!(
        checkpoints.is_empty(),
        "a listing of checkpoints is of one group only"
    );
}

/// Names with characters that mean something in a path either are refused or stay among themselves.
pub async fn names_do_not_reach_into_other_groups(store: &dyn CheckpointStore) {
    let base = fresh_scope();
    let namespace = base.fully_qualified_namespace();
    let victim = GroupScope::new(namespace, "hub", "group");
    let odd = [
        (GroupScope::new(namespace, "hub/group", "x"), "0"),
        (GroupScope::new(namespace, "x", "../hub/group"), "0"),
        (GroupScope::new(namespace, "hub%2Fgroup", "x"), "0"),
        (GroupScope::new(namespace, "hub", "group?x#y"), "0"),
        (
            GroupScope::new(namespace, "hub", "x"),
            "../../group/ownership/0",
        ),
        (GroupScope::new(namespace, "..", "hub"), "0"),
    ];
    for (scope, partition) in &odd {
        match claim(store, scope, partition, Some("a"), &WriteCondition::Absent).await {
            Ok(WriteOutcome::Written(_)) => {
                let record = only(list(store, scope).await);
                assert_eq!(
                    record.partition_id,
                    PartitionId::from(*partition),
                    "an odd name reads back as it was written ({scope})"
                );
            }
            Ok(outcome) => panic!("a fresh odd name is written or refused, not {outcome:?}"),
            Err(error) => assert_eq!(
                error.kind(),
                StoreErrorKind::InvalidValue,
                "an odd name is refused as invalid ({scope}): {error}"
            ),
        }
    }
    assert!(
        list(store, &victim).await.ownerships.is_empty(),
        "no name reaches into another group"
    );
}

/// An owner id that not every SDK can read back is refused before it is written.
pub async fn unwritable_owner_ids_are_refused(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let too_long = "x".repeat(129);
    for owner in [
        "",
        " ",
        " a",
        "a\nb",
        "a\r\nx-ms-meta-x: y",
        "owner-é",
        &too_long,
    ] {
        let outcome = claim(store, &scope, "0", Some(owner), &WriteCondition::Absent).await;
        refused(outcome, &format!("the owner id {owner:?}"));
    }
    assert!(
        list(store, &scope).await.ownerships.is_empty(),
        "a refused write writes nothing"
    );
    let longest = "x".repeat(128);
    create(store, &scope, "0", &longest).await;
    let record = only(list(store, &scope).await);
    assert_eq!(record.owner_id, Some(longest.into()), "128 characters fit");
}

/// Ownership is only written on a condition: anything else takes partitions without a trace.
pub async fn unconditional_ownership_is_refused(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let outcome = claim(
        store,
        &scope,
        "0",
        Some("a"),
        &WriteCondition::Unconditional,
    )
    .await;
    refused(outcome, "an unconditional claim");
}

/// Ages come out right: a listing is dated by the clock that dates the records, and never earlier than the
/// one before.
pub async fn the_store_clock_is_usable(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let mut earlier: Option<SystemTime> = None;
    let mut etag = create(store, &scope, "0", "a").await.etag;
    for _ in 0..3 {
        let listing = list(store, &scope).await;
        if let Some(earlier) = earlier {
            assert!(
                listing.as_of >= earlier,
                "the dates of listings do not go back"
            );
        }
        earlier = Some(listing.as_of);
        if let Some(last_modified) = only(listing.clone()).last_modified {
            let apart = listing
                .as_of
                .duration_since(last_modified)
                .unwrap_or_else(|error| error.duration());
            assert!(
                apart <= CLOCK_TOLERANCE,
                "a record just written is {apart:?} away from the date of its listing"
            );
        }
        etag = update(store, &scope, "0", Some("a"), &etag).await.etag;
    }
}

/// Every record of a large group is listed, exactly once, with its owner.
pub async fn many_partitions_are_listed(store: &dyn CheckpointStore, partitions: usize) {
    let scope = fresh_scope();
    let ids: Vec<String> = (0..partitions).map(|n| n.to_string()).collect();
    for chunk in ids.chunks(16) {
        join_all(chunk.iter().map(|id| create(store, &scope, id, "a"))).await;
        let checkpoints = chunk.iter().map(|id| {
            let scope = &scope;
            async move { put(store, scope, id, id, 1, &WriteCondition::Absent).await }
        });
        join_all(checkpoints).await;
    }
    let listing = list(store, &scope).await;
    assert_eq!(
        listing.ownerships.len(),
        partitions,
        "no record is missing or doubled"
    );
    let listed: HashSet<_> = listing
        .ownerships
        .iter()
        .map(|record| record.partition_id.as_str())
        .collect();
    assert_eq!(
        listed,
        ids.iter().map(String::as_str).collect(),
        "all partitions are listed"
    );
    let checkpoints = ok(store.list_checkpoints(&scope).await, "list checkpoints");
    assert_eq!(
        checkpoints.len(),
        partitions,
        "no checkpoint is missing or doubled"
    );
    for stored in checkpoints {
        assert_eq!(
            stored
                .checkpoint
                .offset
                .as_ref()
                .map(|offset| offset.as_str()),
            Some(stored.checkpoint.partition_id.as_str()),
            "each checkpoint is that of its partition"
        );
    }
}

/// Of many that create a record at the same time, one wins and the others lose.
pub async fn one_of_many_creators_wins(store: &dyn CheckpointStore, racers: usize) {
    let scope = fresh_scope();
    race_for_ownership(store, &scope, racers, &WriteCondition::Absent).await;
}

/// Of many that name the same version at the same time, one wins and the others lose.
pub async fn one_of_many_thieves_wins(store: &dyn CheckpointStore, racers: usize) {
    let scope = fresh_scope();
    let etag = create(store, &scope, "0", "victim").await.etag;
    race_for_ownership(store, &scope, racers, &matches(&etag)).await;
}

async fn race_for_ownership(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    racers: usize,
    condition: &WriteCondition,
) {
    let owners: Vec<String> = (0..racers).map(|n| format!("racer-{n}")).collect();
    let claims = owners
        .iter()
        .map(|owner| claim(store, scope, "0", Some(owner), condition));
    let winners = winners(join_all(claims).await, "racing for a record");
    assert_eq!(winners.len(), 1, "exactly one of {racers} racers wins");
    let (winner, written) = &winners[0];
    let record = only(list(store, scope).await);
    assert_eq!(
        (record.owner_id, record.etag),
        (Some(owners[*winner].as_str().into()), written.etag.clone()),
        "the record is the winner's"
    );
}

/// Names that differ in case only are one group: Event Hubs does not tell them apart either.
pub async fn names_are_folded(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let shouted = GroupScope::new(
        scope.fully_qualified_namespace().to_ascii_uppercase(),
        scope.event_hub_name().to_ascii_uppercase(),
        scope.consumer_group().to_ascii_uppercase(),
    );
    create(store, &shouted, "0", "a").await;
    let record = only(list(store, &scope).await);
    assert_eq!(
        record.owner_id,
        Some("a".into()),
        "names are folded to lower case"
    );
    put(store, &scope, "0", "1", 1, &WriteCondition::Absent).await;
    let read = read(store, &shouted, "0").await;
    assert!(
        read.is_some(),
        "names of checkpoints are folded to lower case"
    );
}
