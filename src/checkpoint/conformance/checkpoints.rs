//! Writing and reading how far a group has come.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::support::{
    create, fresh_scope, list, lost, matches, ok, position, put, read, refused, update, winners,
};
use crate::checkpoint::{CheckpointStore, WriteCondition};
use crate::model::Checkpoint;

/// A partition without a checkpoint reads as `None`, which is no error.
pub async fn a_missing_checkpoint_is_none(store: &dyn CheckpointStore) {
    let scope = fresh_scope();
    assert!(
        read(store, &scope, "0").await.is_none(),
        "no checkpoint, no error"
    );
}

/// Offset and sequence number come back as they were written, also where the offset is no number, and so does the
/// name of the writer.
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
            stored.etag,
            Some(written.etag),
            "reading shows the version of the write"
        );
    }
    let signed = Checkpoint {
        client_identifier: Some("me".into()),
        ..position("3", "1", 1)
    };
    let written = store
        .update_checkpoint(&scope, &signed, &WriteCondition::Absent)
        .await;
    ok(written, "write a checkpoint with the name of its writer");
    assert_eq!(
        read(store, &scope, "3")
            .await
            .map(|stored| stored.checkpoint),
        Some(signed),
        "the name of the writer reads back"
    );
    let mut listed = ok(store.list_checkpoints(&scope).await, "list checkpoints");
    listed.sort_by(|a, b| a.checkpoint.partition_id.cmp(&b.checkpoint.partition_id));
    assert_eq!(listed.len(), 4, "all checkpoints are listed");
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
        Some((position("0", "20", 2), Some(third))),
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
            client_identifier: None,
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
