//! A store over a scripted storage service, and what its writes came to.

use std::time::Duration;

use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore as _,
    WriteCondition, WriteOutcome,
};
use eventhubs_processor::credential::StorageCredential;
use eventhubs_processor::error::{StoreError, StoreErrorKind};
use eventhubs_processor::{Checkpoint, GroupScope};

use super::scripted_blob::ScriptedBlob;

pub(super) const LIMIT: Duration = Duration::from_millis(250);

pub(super) fn scope() -> GroupScope {
    GroupScope::new("ns.example", "hub", "g1")
}

pub(super) fn store(server: &ScriptedBlob, backend: BlobBackend) -> BlobCheckpointStore {
    let options = BlobCheckpointStoreOptions::default()
        .with_try_timeout(LIMIT)
        .with_operation_timeout(LIMIT * 6);
    store_with(server, backend, options)
}

pub(super) fn store_with(
    server: &ScriptedBlob,
    backend: BlobBackend,
    options: BlobCheckpointStoreOptions,
) -> BlobCheckpointStore {
    let credential = StorageCredential::account_key("account", "a2V5");
    let options = options.with_backend(backend);
    BlobCheckpointStore::new(&server.url(), "abc", credential, options).unwrap()
}

pub(super) async fn renew(store: &BlobCheckpointStore) -> Result<WriteOutcome, StoreError> {
    let condition = WriteCondition::Matches("0x1".into());
    store
        .claim_ownership(&scope(), &"0".into(), Some(&"me".into()), &condition)
        .await
}

pub(super) async fn create(store: &BlobCheckpointStore) -> Result<WriteOutcome, StoreError> {
    let condition = WriteCondition::Absent;
    store
        .claim_ownership(&scope(), &"0".into(), Some(&"me".into()), &condition)
        .await
}

pub(super) async fn checkpoint(
    store: &BlobCheckpointStore,
    condition: WriteCondition,
) -> Result<WriteOutcome, StoreError> {
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("100".into()),
        sequence_number: Some(7),
        client_identifier: None,
    };
    store
        .update_checkpoint(&scope(), &checkpoint, &condition)
        .await
}

pub(super) fn etag(outcome: Result<WriteOutcome, StoreError>) -> String {
    match outcome.unwrap() {
        WriteOutcome::Written(written) => written.etag.to_string(),
        other => panic!("not written: {other:?}"),
    }
}

pub(super) fn is_lost(outcome: Result<WriteOutcome, StoreError>) {
    match outcome.unwrap() {
        WriteOutcome::Lost => {}
        other => panic!("not lost: {other:?}"),
    }
}

pub(super) fn unknown(outcome: Result<WriteOutcome, StoreError>) -> StoreErrorKind {
    match outcome.unwrap() {
        WriteOutcome::Unknown(error) => error.kind(),
        other => panic!("not unknown: {other:?}"),
    }
}
