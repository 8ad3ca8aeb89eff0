//! The behaviour that every [`CheckpointStore`] must show, as functions that panic where it does not.
//!
//! Run all of them with [`run_all`] against a store of your own; each takes fresh names, so that a store may
//! be shared and hold records already. The messages say the rule that was broken.
//!
//! ```
//! # async fn check() {
//! use eventhubs_processor::checkpoint::{InMemoryCheckpointStore, conformance};
//!
//! let checks = conformance::run_all(&InMemoryCheckpointStore::new()).await;
//! assert!(checks > 20);
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check());
//! ```
#![allow(
    clippy::missing_panics_doc,
    reason = "panicking is how these functions tell that a rule is broken"
)]

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use uuid::Uuid;

use super::{CheckpointStore, OwnershipListing, WriteCondition, WriteOutcome, Written};
use crate::error::{StoreError, StoreErrorKind};
use crate::model::{Checkpoint, ETag, GroupScope, OwnerId, Ownership, PartitionId};

/// How far two times of one store may lie apart: stores may resolve one second only, and requests take time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// What may differ between stores that are all correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConformanceOptions {
    /// Whether names that differ in case only are the same group. Default `true`.
    pub folds_names: bool,
    /// How many partitions the group with many partitions has. Default 64.
    pub partitions: usize,
    /// How many tasks race. Default 16.
    pub racers: usize,
}

impl Default for ConformanceOptions {
    fn default() -> Self {
        Self {
            folds_names: true,
            partitions: 64,
            racers: 16,
        }
    }
}

impl ConformanceOptions {
    /// Sets [`folds_names`](Self::folds_names).
    #[must_use]
    pub fn with_folds_names(mut self, folds_names: bool) -> Self {
        self.folds_names = folds_names;
        self
    }

    /// Sets [`partitions`](Self::partitions).
    #[must_use]
    pub fn with_partitions(mut self, partitions: usize) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets [`racers`](Self::racers).
    #[must_use]
    pub fn with_racers(mut self, racers: usize) -> Self {
        self.racers = racers;
        self
    }
}

/// Runs every check with default options. Returns how many there were.
pub async fn run_all(store: &dyn CheckpointStore) -> usize {
    run_all_with(store, &ConformanceOptions::default()).await
}

/// Runs every check that the options allow. Returns how many there were.
pub async fn run_all_with(store: &dyn CheckpointStore, options: &ConformanceOptions) -> usize {
    let mut count = 0;
    macro_rules! run {
        ($($check:ident),* $(,)?) => {
            $(
                tracing::debug!(check = stringify!($check), "conformance");
                $check(store).await;
                count += 1;
            )*
        };
    }
    run!(
        an_unknown_group_is_empty,
        a_created_record_is_listed,
        creating_twice_loses,
        renewing_changes_the_version,
        stealing_takes_over,
        a_stale_version_loses,
        an_unknown_version_never_overwrites,
        giving_back_leaves_an_unowned_record,
        giving_back_after_a_steal_loses,
        an_unowned_record_can_be_claimed,
        groups_do_not_see_each_other,
        names_do_not_reach_into_other_groups,
        unwritable_owner_ids_are_refused,
        unconditional_ownership_is_refused,
        the_store_clock_is_usable,
        a_missing_checkpoint_is_none,
        a_checkpoint_reads_back,
        creating_a_checkpoint_twice_loses,
        a_checkpoint_moves_on_its_version,
        an_unconditional_checkpoint_always_writes,
        unreadable_checkpoints_are_refused,
        ownership_and_checkpoints_are_apart,
    );
    many_partitions_are_listed(store, options.partitions).await;
    one_of_many_creators_wins(store, options.racers).await;
    one_of_many_thieves_wins(store, options.racers).await;
    one_of_many_checkpoints_wins(store, options.racers).await;
    count += 4;
    if options.folds_names {
        names_are_folded(store).await;
        count += 1;
    }
    count
}

// ---- ownership ------------------------------------------------------------------------------------------

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

// ---- checkpoints ----------------------------------------------------------------------------------------

/// A partition without a checkpoint reads as `None`, which is no error.
pub async fn a_missing_checkpoint_is_none(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    assert!(
        read(store, &scope, "0").await.is_none(),
        "no checkpoint, no error"
    );
}

/// Offset and sequence number come back as they were written, also where the offset is no number.
pub async fn a_checkpoint_reads_back(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    for (partition, offset, number) in [
        ("0", "4294967296", 42),
        ("1", "0", 0),
        ("2", "17:8589934592:1", i64::MAX),
    ] {
        let written = put(
            store,
            &scope,
            partition,
            offset,
            number,
            &WriteCondition::Absent,
        )
        .await;
        let Some(stored) = read(store, &scope, partition).await else {
            panic!("a checkpoint just written is there");
        };
        assert_eq!(
            stored.checkpoint,
            position(partition, offset, number),
            "a checkpoint reads back as it was written"
        );
        assert_eq!(
            stored.etag, written.etag,
            "reading shows the version of the write"
        );
    }
    let mut listed = ok(store.list_checkpoints(&scope).await, "list checkpoints");
    listed.sort_by(|a, b| a.checkpoint.partition_id.cmp(&b.checkpoint.partition_id));
    assert_eq!(listed.len(), 3, "all checkpoints are listed");
    assert_eq!(
        listed[2].checkpoint,
        position("2", "17:8589934592:1", i64::MAX),
        "a listed checkpoint reads as a single one does"
    );
}

/// A first checkpoint does not overwrite one that is there.
pub async fn creating_a_checkpoint_twice_loses(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    put(store, &scope, "0", "10", 1, &WriteCondition::Absent).await;
    let second = position("0", "20", 2);
    lost(
        store
            .update_checkpoint(&scope, &second, &WriteCondition::Absent)
            .await,
        "creating an existing checkpoint",
    );
    let stored = read(store, &scope, "0").await;
    assert_eq!(
        stored.map(|stored| stored.checkpoint),
        Some(position("0", "10", 1)),
        "a lost write changes nothing"
    );
}

/// A checkpoint that names the current version is written, and one that names a former one loses.
pub async fn a_checkpoint_moves_on_its_version(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let first = put(store, &scope, "0", "10", 1, &WriteCondition::Absent)
        .await
        .etag;
    let second = put(store, &scope, "0", "20", 2, &matches(&first))
        .await
        .etag;
    assert_ne!(first, second, "every write changes the version");
    let stale = position("0", "15", 1);
    lost(
        store
            .update_checkpoint(&scope, &stale, &matches(&first))
            .await,
        "a checkpoint with a stale version",
    );
    let third = put(store, &scope, "0", "20", 2, &matches(&second))
        .await
        .etag;
    assert_ne!(
        second, third,
        "writing the same again changes the version too"
    );
    let stored = read(store, &scope, "0").await;
    assert_eq!(
        stored.map(|stored| (stored.checkpoint, stored.etag)),
        Some((position("0", "20", 2), third)),
        "the last write that went through is what is stored"
    );
}

/// Without a condition a checkpoint is written whether there is one or not, and may go back.
pub async fn an_unconditional_checkpoint_always_writes(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let mut versions = HashSet::new();
    for (offset, number) in [("10", 10), ("20", 20), ("5", 5)] {
        let written = put(
            store,
            &scope,
            "0",
            offset,
            number,
            &WriteCondition::Unconditional,
        )
        .await;
        assert!(
            versions.insert(written.etag),
            "every write changes the version"
        );
        let stored = read(store, &scope, "0").await;
        assert_eq!(
            stored.map(|stored| stored.checkpoint),
            Some(position("0", offset, number)),
            "an unconditional checkpoint replaces what was there"
        );
    }
}

/// A checkpoint that would stop the groups of other SDKs is refused: both values are there, the offset is
/// visible ASCII and no placeholder, the sequence number is that of an event.
pub async fn unreadable_checkpoints_are_refused(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let odd = [
        (None, Some(1)),
        (Some("1"), None),
        (None, None),
        (Some(""), Some(1)),
        (Some(" "), Some(1)),
        (Some("no offset"), Some(1)),
        (Some("None"), Some(1)),
        (Some("1\r\nx: y"), Some(1)),
        (Some("1"), Some(-1)),
    ];
    for (offset, sequence_number) in odd {
        let checkpoint = Checkpoint {
            partition_id: "0".into(),
            offset: offset.map(Into::into),
            sequence_number,
        };
        for condition in [WriteCondition::Absent, WriteCondition::Unconditional] {
            let outcome = store
                .update_checkpoint(&scope, &checkpoint, &condition)
                .await;
            refused(
                outcome,
                &format!("the checkpoint {offset:?}, {sequence_number:?}"),
            );
        }
    }
    assert!(
        read(store, &scope, "0").await.is_none(),
        "a refused write writes nothing"
    );
}

/// Ownership and checkpoint of a partition are two records with versions of their own.
pub async fn ownership_and_checkpoints_are_apart(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    let owned = create(store, &scope, "0", "a").await.etag;
    let first = put(store, &scope, "0", "1", 1, &WriteCondition::Absent)
        .await
        .etag;
    let owned = update(store, &scope, "0", Some("a"), &owned).await.etag;
    put(store, &scope, "0", "2", 2, &matches(&first)).await;
    update(store, &scope, "0", None, &owned).await;
    let stored = read(store, &scope, "0").await;
    assert_eq!(
        stored.map(|stored| stored.checkpoint),
        Some(position("0", "2", 2)),
        "giving a partition back leaves its checkpoint"
    );
    assert_eq!(
        list(store, &scope).await.ownerships.len(),
        1,
        "a checkpoint is no ownership"
    );
}

/// Of many checkpoints that name the same version at the same time, one wins and the others lose.
pub async fn one_of_many_checkpoints_wins(store: &dyn CheckpointStore, racers: usize) {
    let scope = fresh_scope();
    let first = put(store, &scope, "0", "1", 0, &WriteCondition::Absent).await;
    let condition = matches(&first.etag);
    let checkpoints: Vec<_> = (0..racers)
        .map(|n| position("0", &format!("{}", n + 2), 1))
        .collect();
    let writes = checkpoints
        .iter()
        .map(|checkpoint| store.update_checkpoint(&scope, checkpoint, &condition));
    let winners = winners(join_all(writes).await, "racing for a checkpoint");
    assert_eq!(winners.len(), 1, "exactly one of {racers} racers wins");
    let stored = read(store, &scope, "0").await;
    assert_eq!(
        stored.map(|stored| stored.checkpoint).as_ref(),
        Some(&checkpoints[winners[0].0]),
        "the record is the winner's"
    );
}

// ---- helpers --------------------------------------------------------------------------------------------

type Outcome = Result<WriteOutcome, StoreError>;

fn fresh_scope() -> GroupScope {
    let id = Uuid::new_v4().simple();
    GroupScope::new(format!("{id}.servicebus.windows.net"), "hub", "$default")
}

fn matches(etag: &ETag) -> WriteCondition {
    WriteCondition::Matches(etag.clone())
}

fn position(partition_id: &str, offset: &str, sequence_number: i64) -> Checkpoint {
    Checkpoint {
        partition_id: partition_id.into(),
        offset: Some(offset.into()),
        sequence_number: Some(sequence_number),
    }
}

fn ok<T>(result: Result<T, StoreError>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}: {error:?}"),
    }
}

fn written(outcome: Outcome, what: &str) -> Written {
    match ok(outcome, what) {
        WriteOutcome::Written(written) => written,
        other => panic!("{what} must be written, not {other:?}"),
    }
}

fn lost(outcome: Outcome, what: &str) {
    match ok(outcome, what) {
        WriteOutcome::Lost => {}
        other => panic!("{what} must be lost, not {other:?}"),
    }
}

fn refused(outcome: Outcome, what: &str) {
    match outcome {
        Err(error) if error.kind() == StoreErrorKind::InvalidValue => {}
        other => panic!("{what} must be refused as invalid, not {other:?}"),
    }
}

/// Which of the outcomes were written; the others must be lost.
fn winners(outcomes: Vec<Outcome>, what: &str) -> Vec<(usize, Written)> {
    let mut winners = Vec::new();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match ok(outcome, what) {
            WriteOutcome::Written(written) => winners.push((index, written)),
            WriteOutcome::Lost => {}
            WriteOutcome::Unknown(error) => panic!("{what} is known without a fault: {error}"),
        }
    }
    winners
}

fn only(listing: OwnershipListing) -> Ownership {
    let [record] = exactly_one(listing.ownerships);
    record
}

fn exactly_one<T: Debug>(records: Vec<T>) -> [T; 1] {
    match records.try_into() {
        Ok(record) => record,
        Err(records) => panic!("the group has exactly one record, not {records:?}"),
    }
}

async fn list(store: &dyn CheckpointStore, scope: &GroupScope) -> OwnershipListing {
    ok(store.list_ownership(scope).await, "list ownership")
}

async fn claim(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
    owner_id: Option<&str>,
    condition: &WriteCondition,
) -> Outcome {
    let owner_id = owner_id.map(OwnerId::from);
    store
        .claim_ownership(scope, &partition_id.into(), owner_id.as_ref(), condition)
        .await
}

async fn create(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
    owner_id: &str,
) -> Written {
    let condition = WriteCondition::Absent;
    let outcome = claim(store, scope, partition_id, Some(owner_id), &condition).await;
    written(outcome, "a first claim")
}

async fn update(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
    owner_id: Option<&str>,
    etag: &ETag,
) -> Written {
    let outcome = claim(store, scope, partition_id, owner_id, &matches(etag)).await;
    written(outcome, "a write with the current version")
}

async fn put(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
    offset: &str,
    sequence_number: i64,
    condition: &WriteCondition,
) -> Written {
    let checkpoint = position(partition_id, offset, sequence_number);
    let outcome = store.update_checkpoint(scope, &checkpoint, condition).await;
    written(outcome, "a checkpoint")
}

async fn read(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
) -> Option<super::StoredCheckpoint> {
    ok(
        store.checkpoint(scope, &partition_id.into()).await,
        "read a checkpoint",
    )
}
