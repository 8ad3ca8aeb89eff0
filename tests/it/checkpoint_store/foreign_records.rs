//! Records as other SDKs, older releases and accidents leave them.

use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore, WriteCondition,
    WriteOutcome,
};
use eventhubs_processor::error::StoreErrorKind;
use eventhubs_processor::{Checkpoint, GroupScope};

use super::{BACKENDS, Endpoint, azurite};

fn scope() -> GroupScope {
    GroupScope::new("Contoso.servicebus.windows.net", "Hub", "$Default")
}

const GROUP: &str = "contoso.servicebus.windows.net/hub/$default";

for_each_backend! {
    records_come_and_go_on_azurite,
    records_come_and_go_on_the_emulator,
}

async fn records_come_and_go_on_azurite(backend: BlobBackend) {
    if let Some(endpoint) = azurite().await {
        records_come_and_go(&endpoint, backend).await;
    }
}

async fn records_come_and_go_on_the_emulator(backend: BlobBackend) {
    records_come_and_go(&Endpoint::emulator().await, backend).await;
}

#[tokio::test]
async fn more_than_a_page_is_listed_on_the_emulator() {
    more_than_a_page_is_listed(&Endpoint::emulator().await).await;
}

#[tokio::test]
async fn more_than_a_page_is_listed_on_azurite() {
    if let Some(endpoint) = azurite().await {
        more_than_a_page_is_listed(&endpoint).await;
    }
}

async fn records_come_and_go(endpoint: &Endpoint, backend: BlobBackend) {
    a_vanished_record_comes_back(endpoint, backend).await;
    what_is_written_is_what_others_read(endpoint, backend).await;
    a_missing_container_is_no_lost_race(endpoint, backend).await;
}

async fn a_vanished_record_comes_back(endpoint: &Endpoint, backend: BlobBackend) {
    let store = endpoint.store(backend);
    let claim = |condition| {
        let store = store.clone();
        async move {
            store
                .claim_ownership(&scope(), &"77".into(), Some(&"me".into()), &condition)
                .await
                .unwrap()
        }
    };
    let WriteOutcome::Written(written) = claim(WriteCondition::Absent).await else {
        panic!("the partition is free");
    };
    let name = format!("{GROUP}/ownership/77");
    endpoint.raw.delete(&endpoint.container, &name).await;
    // Azure answers 404 here and Azurite 412; after the latter the next listing shows the record is gone.
    if let WriteOutcome::Lost = claim(WriteCondition::Matches(written.etag)).await {
        let listing = store.list_ownership(&scope()).await.unwrap();
        let gone = listing
            .ownerships
            .iter()
            .all(|o| o.partition_id != "77".into());
        assert!(gone, "a lost write created nothing");
        let again = claim(WriteCondition::Absent).await;
        assert!(matches!(again, WriteOutcome::Written(_)), "{again:?}");
    }
    assert_eq!(
        endpoint.raw.head(&endpoint.container, &name).await.status,
        200
    );
}

async fn what_is_written_is_what_others_read(endpoint: &Endpoint, backend: BlobBackend) {
    let store = endpoint.store(backend);
    let scope = GroupScope::new("Written.Example", "HUB", "$Default");
    let outcome = store
        .claim_ownership(
            &scope,
            &"0".into(),
            Some(&"Owner-1".into()),
            &WriteCondition::Absent,
        )
        .await
        .unwrap();
    let WriteOutcome::Written(written) = outcome else {
        panic!("{outcome:?}");
    };
    let group = "written.example/hub/$default";
    let read = |name: String| async move { endpoint.raw.head(&endpoint.container, &name).await };
    let metadata = |answer: &super::raw_blob::Answer| {
        let mut keys: Vec<_> = answer
            .headers
            .iter()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix("x-ms-meta-")?.to_owned(), value.clone()))
            })
            .collect();
        keys.sort();
        keys
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());

    let answer = read(format!("{group}/ownership/0")).await;
    assert_eq!(answer.header("content-length"), Some("0"));
    assert_eq!(answer.header("x-ms-blob-type"), Some("BlockBlob"));
    assert_eq!(metadata(&answer), [pair("ownerid", "Owner-1")]);

    let matches = WriteCondition::Matches(written.etag);
    store
        .claim_ownership(&scope, &"0".into(), None, &matches)
        .await
        .unwrap();
    let answer = read(format!("{group}/ownership/0")).await;
    assert_eq!(
        metadata(&answer),
        [pair("ownerid", "")],
        "the key stays, its value goes"
    );

    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("8589934592".into()),
        sequence_number: Some(12),
        client_identifier: None,
    };
    for condition in [WriteCondition::Absent, WriteCondition::Unconditional] {
        store
            .update_checkpoint(&scope, &checkpoint, &condition)
            .await
            .unwrap();
        let answer = read(format!("{group}/checkpoint/0")).await;
        assert_eq!(
            metadata(&answer),
            [pair("offset", "8589934592"), pair("sequencenumber", "12")]
        );
    }
}

async fn a_missing_container_is_no_lost_race(endpoint: &Endpoint, backend: BlobBackend) {
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    let store = BlobCheckpointStore::from_connection_string_with_options(
        &endpoint.connection_string,
        "no-such-container",
        options,
    )
    .unwrap();
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("1".into()),
        sequence_number: Some(1),
        client_identifier: None,
    };
    let (scope, me) = (scope(), "me".into());
    let matches = WriteCondition::Matches("0x1".into());
    for error in [
        store.list_ownership(&scope).await.unwrap_err(),
        store.list_checkpoints(&scope).await.unwrap_err(),
        store.checkpoint(&scope, &"0".into()).await.unwrap_err(),
        store
            .claim_ownership(&scope, &"0".into(), Some(&me), &WriteCondition::Absent)
            .await
            .unwrap_err(),
        store
            .claim_ownership(&scope, &"0".into(), Some(&me), &matches)
            .await
            .unwrap_err(),
        store
            .update_checkpoint(&scope, &checkpoint, &WriteCondition::Unconditional)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::ContainerNotFound, "{error}");
    }
}

async fn more_than_a_page_is_listed(endpoint: &Endpoint) {
    const COUNT: usize = 5100;
    let name = |n: usize| format!("{GROUP}/ownership/{n}");
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..16 {
        let (raw, container) = (endpoint.raw.clone(), endpoint.container.clone());
        tasks.spawn(async move {
            for n in (worker..COUNT).step_by(16) {
                raw.put(&container, &name(n), &[("ownerid", "a")]).await;
            }
        });
    }
    tasks.join_all().await;
    for backend in BACKENDS {
        let store = endpoint.store(*backend);
        let listing = store.list_ownership(&scope()).await.unwrap();
        assert_eq!(listing.ownerships.len(), COUNT, "{backend:?}");
    }
}
