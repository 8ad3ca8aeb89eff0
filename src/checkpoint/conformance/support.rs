//! What the checks are made of.

use std::fmt::Debug;

use uuid::Uuid;

use crate::checkpoint::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome, Written,
};
use crate::error::{StoreError, StoreErrorKind};
use crate::model::{Checkpoint, ETag, GroupScope, OwnerId, Ownership};

pub(super) type Outcome = Result<WriteOutcome, StoreError>;

pub(super) fn fresh_scope() -> GroupScope {
    let id = Uuid::new_v4().simple();
    GroupScope::new(format!("{id}.servicebus.windows.net"), "hub", "$default")
}

pub(super) fn matches(etag: &ETag) -> WriteCondition {
    WriteCondition::Matches(etag.clone())
}

pub(super) fn position(partition_id: &str, offset: &str, sequence_number: i64) -> Checkpoint {
    Checkpoint {
        partition_id: partition_id.into(),
        offset: Some(offset.into()),
        sequence_number: Some(sequence_number),
        client_identifier: None,
    }
}

pub(super) fn ok<T>(result: Result<T, StoreError>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}: {error:?}"),
    }
}

pub(super) fn written(outcome: Outcome, what: &str) -> Written {
    match ok(outcome, what) {
        WriteOutcome::Written(written) => written,
        other => panic!("{what} must be written, not {other:?}"),
    }
}

pub(super) fn lost(outcome: Outcome, what: &str) {
    match ok(outcome, what) {
        WriteOutcome::Lost => {}
        other => panic!("{what} must be lost, not {other:?}"),
    }
}

pub(super) fn refused(outcome: Outcome, what: &str) {
    match outcome {
        Err(error) if error.kind() == StoreErrorKind::InvalidValue => {}
        other => panic!("{what} must be refused as invalid, not {other:?}"),
    }
}

/// Which of the outcomes were written; the others must be lost.
pub(super) fn winners(outcomes: Vec<Outcome>, what: &str) -> Vec<(usize, Written)> {
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

pub(super) fn only(listing: OwnershipListing) -> Ownership {
    let [record] = exactly_one(listing.ownerships);
    record
}

fn exactly_one<T: Debug>(records: Vec<T>) -> [T; 1] {
    match records.try_into() {
        Ok(record) => record,
        Err(records) => panic!("the group has exactly one record, not {records:?}"),
    }
}

pub(super) async fn list(store: &dyn CheckpointStore, scope: &GroupScope) -> OwnershipListing {
    ok(store.list_ownership(scope).await, "list ownership")
}

pub(super) async fn claim(
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

pub(super) async fn create(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
    owner_id: &str,
) -> Written {
    let condition = WriteCondition::Absent;
    let outcome = claim(store, scope, partition_id, Some(owner_id), &condition).await;
    written(outcome, "a first claim")
}

pub(super) async fn update(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
    owner_id: Option<&str>,
    etag: &ETag,
) -> Written {
    let outcome = claim(store, scope, partition_id, owner_id, &matches(etag)).await;
    written(outcome, "a write with the current version")
}

pub(super) async fn put(
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

pub(super) async fn read(
    store: &dyn CheckpointStore,
    scope: &GroupScope,
    partition_id: &str,
) -> Option<StoredCheckpoint> {
    ok(
        store.checkpoint(scope, &partition_id.into()).await,
        "read a checkpoint",
    )
}
