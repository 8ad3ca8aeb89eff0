//! Records as other SDKs, older releases and accidents leave them.

use eventhubs_processor::checkpoint::{CheckpointStore, WriteCondition, WriteOutcome};
use eventhubs_processor::error::StoreErrorKind;
use eventhubs_processor::{Checkpoint, GroupScope};

use super::{Endpoint, azurite};

fn scope() -> GroupScope {
    GroupScope::new("Contoso.servicebus.windows.net", "Hub", "$Default")
}

const GROUP: &str = "contoso.servicebus.windows.net/hub/$default";

#[tokio::test]
async fn odd_records_spoil_nothing_on_azurite() {
    if let Some(endpoint) = azurite().await {
        odd_records_spoil_nothing(&endpoint).await;
    }
}

#[tokio::test]
async fn odd_records_spoil_nothing_on_the_emulator() {
    odd_records_spoil_nothing(&Endpoint::emulator().await).await;
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

async fn odd_records_spoil_nothing(endpoint: &Endpoint) {
    odd_ownership_spoils_nothing(endpoint).await;
    odd_checkpoints_spoil_nothing(endpoint).await;
    a_vanished_record_comes_back(endpoint).await;
    what_is_written_is_what_others_read(endpoint).await;
    another_spelling_is_found(endpoint).await;
    a_missing_container_is_no_lost_race(endpoint).await;
}

async fn odd_ownership_spoils_nothing(endpoint: &Endpoint) {
    for (partition, metadata) in [
        ("0", &[("ownerid", "python-owner")][..]),
        ("1", &[("OwnerId", "java-owner")]),
        ("2", &[("ownerid", "")]),
        ("3", &[]),
        ("4", &[("other", "x")]),
        ("5/extra", &[("ownerid", "x")]),
        ("dir", &[("hdi_isfolder", "true")]),
        ("6", &[("ownerid", "a"), ("epoch", "7")]),
    ] {
        let name = format!("{GROUP}/ownership/{partition}");
        endpoint.raw.put(&endpoint.container, &name, metadata).await;
    }
    let store = endpoint.store();
    let listing = store.list_ownership(&scope()).await.unwrap();
    let owners: Vec<_> = listing
        .ownerships
        .iter()
        .map(|o| {
            (
                o.partition_id.as_str(),
                o.owner_id.as_ref().map(|id| id.as_str()),
            )
        })
        .collect();
    assert_eq!(
        owners,
        [
            ("0", Some("python-owner")),
            ("1", Some("java-owner")),
            ("2", None),
            ("3", None),
            ("4", None),
            ("6", Some("a")),
        ]
    );
    // A record without the key is claimed with its version, as any other.
    let bare = WriteCondition::Matches(listing.ownerships[3].etag.clone());
    let outcome = store
        .claim_ownership(&scope(), &"3".into(), Some(&"me".into()), &bare)
        .await
        .unwrap();
    assert!(matches!(outcome, WriteOutcome::Written(_)), "{outcome:?}");
}

async fn odd_checkpoints_spoil_nothing(endpoint: &Endpoint) {
    for (partition, metadata) in [
        ("0", &[("offset", "42"), ("sequencenumber", "7")][..]),
        ("1", &[("offset", ""), ("sequencenumber", "7")]),
        ("2", &[("offset", "no offset"), ("sequencenumber", "7")]),
        ("3", &[("offset", "None"), ("sequencenumber", "7")]),
        ("4", &[("offset", "42")]),
        ("5", &[("offset", "42"), ("sequencenumber", "")]),
        (
            "6",
            &[
                ("Offset", "42"),
                ("SequenceNumber", "7"),
                ("clientidentifier", "x"),
            ],
        ),
        ("7", &[("sequencenumber", "abc")]),
        ("8", &[]),
        ("9", &[("offset", "1:2:geo"), ("sequencenumber", "7")]),
    ] {
        let name = format!("{GROUP}/checkpoint/{partition}");
        endpoint.raw.put(&endpoint.container, &name, metadata).await;
    }
    let store = endpoint.store();
    let listed = store.list_checkpoints(&scope()).await.unwrap();
    let positions: Vec<_> = listed
        .iter()
        .map(|stored| {
            let checkpoint = &stored.checkpoint;
            let offset = checkpoint.offset.as_ref().map(|offset| offset.as_str());
            (
                checkpoint.partition_id.as_str(),
                offset,
                checkpoint.sequence_number,
            )
        })
        .collect();
    assert_eq!(
        positions,
        [
            ("0", Some("42"), Some(7)),
            ("1", None, Some(7)),
            ("2", None, Some(7)),
            ("3", None, Some(7)),
            ("4", Some("42"), None),
            ("5", Some("42"), None),
            ("6", Some("42"), Some(7)),
            ("9", Some("1:2:geo"), Some(7)),
        ]
    );
    for stored in &listed {
        let partition_id = &stored.checkpoint.partition_id;
        let single = store.checkpoint(&scope(), partition_id).await.unwrap();
        assert_eq!(single.as_ref(), Some(stored), "both ways to read agree");
    }
    for partition in ["7", "8"] {
        let error = store
            .checkpoint(&scope(), &partition.into())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::MalformedRecord);
    }
}

async fn a_vanished_record_comes_back(endpoint: &Endpoint) {
    let store = endpoint.store();
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

async fn what_is_written_is_what_others_read(endpoint: &Endpoint) {
    let store = endpoint.store();
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

async fn another_spelling_is_found(endpoint: &Endpoint) {
    let store = endpoint.store();
    let scope = GroupScope::new("Twin.example", "Hub", "$Default");
    let none = store.verbatim_ownership(&scope).await.unwrap().unwrap();
    assert!(none.ownerships.is_empty());
    let name = "Twin.example/Hub/$Default/ownership/0";
    endpoint
        .raw
        .put(&endpoint.container, name, &[("ownerid", "go")])
        .await;
    assert!(
        store
            .list_ownership(&scope)
            .await
            .unwrap()
            .ownerships
            .is_empty()
    );
    let twin = store.verbatim_ownership(&scope).await.unwrap().unwrap();
    assert_eq!(twin.ownerships[0].owner_id, Some("go".into()));
    let folded = GroupScope::new("twin.example", "hub", "$default");
    assert!(store.verbatim_ownership(&folded).await.unwrap().is_none());
}

async fn a_missing_container_is_no_lost_race(endpoint: &Endpoint) {
    use eventhubs_processor::checkpoint::BlobCheckpointStore;

    let connection_string = &endpoint.connection_string;
    let store = BlobCheckpointStore::from_connection_string(connection_string, "no-such-container")
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
    let listing = endpoint.store().list_ownership(&scope()).await.unwrap();
    assert_eq!(listing.ownerships.len(), COUNT);
}
