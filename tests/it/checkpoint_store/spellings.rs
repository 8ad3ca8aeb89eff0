//! One consumer group under two spellings of its names.

use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStoreOptions, CheckpointStore, NameCase, SplitGroup, WriteCondition,
};
use eventhubs_processor::error::StoreErrorKind;
use eventhubs_processor::{Checkpoint, GroupScope, PartitionId};

use super::log::Log;
use super::{Endpoint, azurite};

const SPLIT: &str = "neither side sees the other";
const LEFT_BEHIND: &str = "migrate_checkpoints takes them over";

for_each_backend! {
    on_azurite,
    on_the_emulator,
}

async fn on_azurite(backend: BlobBackend) {
    if let Some(endpoint) = azurite().await {
        all(&endpoint, backend).await;
    }
}

async fn on_the_emulator(backend: BlobBackend) {
    all(&Endpoint::emulator().await, backend).await;
}

async fn all(endpoint: &Endpoint, backend: BlobBackend) {
    a_group_of_one_spelling_is_left_in_peace(endpoint, backend).await;
    live_owners_elsewhere_are_told_of(endpoint, backend).await;
    live_owners_elsewhere_keep_a_careful_store_from_starting(endpoint, backend).await;
    the_usual_spelling_of_the_default_group_is_looked_at(endpoint, backend).await;
    a_store_that_keeps_spellings_looks_at_the_folded_one(endpoint, backend).await;
    checkpoints_elsewhere_are_taken_over_once_and_never_back(endpoint, backend).await;
}

fn spelled(hub: &str) -> GroupScope {
    GroupScope::new("Contoso.servicebus.windows.net", hub, "$Default")
}

fn at(spelling: &str, what: &str, partition: &str) -> String {
    format!("{spelling}/{what}/{partition}")
}

async fn a_group_of_one_spelling_is_left_in_peace(endpoint: &Endpoint, backend: BlobBackend) {
    let (log, _guard) = Log::start();
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_split_group(SplitGroup::Refuse);
    let store = endpoint.store_with(options);
    let scope = spelled("Peace");
    let name = at(
        "contoso.servicebus.windows.net/peace/$default",
        "ownership",
        "0",
    );
    endpoint.put(&name, &[("ownerid", "ours")]).await;
    let listing = store.list_ownership(&scope).await.unwrap();
    assert_eq!(listing.ownerships.len(), 1);
    assert_eq!(store.other_spellings(&scope).await.unwrap(), []);
    assert_eq!(log.warnings(""), 0, "{}", log.text());
}

async fn live_owners_elsewhere_are_told_of(endpoint: &Endpoint, backend: BlobBackend) {
    let (log, _guard) = Log::start();
    let scope = spelled("Live");
    let spelling = "Contoso.servicebus.windows.net/Live/$Default";
    endpoint
        .put(&at(spelling, "ownership", "0"), &[("ownerid", "go")])
        .await;
    let store = endpoint.store(backend);
    for _ in 0..2 {
        let listing = store.list_ownership(&scope).await.unwrap();
        assert!(listing.ownerships.is_empty(), "the other half is not ours");
    }
    assert_eq!(log.warnings(SPLIT), 1, "told once: {}", log.text());

    let others = store.other_spellings(&scope).await.unwrap();
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others[0].scope, scope);
    assert!(others[0].has_live_owner());
    assert_eq!(
        others[0].ownership.ownerships[0].owner_id,
        Some("go".into())
    );

    // Whoever still runs there would go on there.
    endpoint
        .put(
            &at(spelling, "checkpoint", "0"),
            &[("offset", "1"), ("sequencenumber", "1")],
        )
        .await;
    let error = store.migrate_checkpoints(&scope).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::SplitGroup);
    assert_eq!(store.list_checkpoints(&scope).await.unwrap(), []);
}

async fn live_owners_elsewhere_keep_a_careful_store_from_starting(
    endpoint: &Endpoint,
    backend: BlobBackend,
) {
    let scope = spelled("Careful");
    let name = at(
        "Contoso.servicebus.windows.net/Careful/$Default",
        "ownership",
        "0",
    );
    endpoint.put(&name, &[("ownerid", "go")]).await;
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_split_group(SplitGroup::Refuse);
    let store = endpoint.store_with(options);
    for _ in 0..2 {
        let error = store.list_ownership(&scope).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::SplitGroup, "{error}");
        assert!(!error.is_transient());
    }
    // They have given their partitions back.
    endpoint.put(&name, &[("ownerid", "")]).await;
    store.list_ownership(&scope).await.unwrap();
}

async fn the_usual_spelling_of_the_default_group_is_looked_at(
    endpoint: &Endpoint,
    backend: BlobBackend,
) {
    let (log, _guard) = Log::start();
    let scope = GroupScope::new("contoso.servicebus.windows.net", "usual", "$default");
    let name = at(
        "contoso.servicebus.windows.net/usual/$Default",
        "ownership",
        "0",
    );
    endpoint.put(&name, &[("ownerid", "go")]).await;
    endpoint
        .store(backend)
        .list_ownership(&scope)
        .await
        .unwrap();
    assert_eq!(log.warnings(SPLIT), 1, "{}", log.text());
}

async fn a_store_that_keeps_spellings_looks_at_the_folded_one(
    endpoint: &Endpoint,
    backend: BlobBackend,
) {
    let (log, _guard) = Log::start();
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_name_case(NameCase::Verbatim);
    let name = at(
        "contoso.servicebus.windows.net/verbatim/$default",
        "ownership",
        "0",
    );
    endpoint.put(&name, &[("ownerid", "python")]).await;
    let store = endpoint.store_with(options);
    store.list_ownership(&spelled("Verbatim")).await.unwrap();
    assert_eq!(log.warnings(SPLIT), 1, "{}", log.text());
}

async fn checkpoints_elsewhere_are_taken_over_once_and_never_back(
    endpoint: &Endpoint,
    backend: BlobBackend,
) {
    let (log, _guard) = Log::start();
    let scope = spelled("Moved");
    let there = "Contoso.servicebus.windows.net/Moved/$Default";
    let here = "contoso.servicebus.windows.net/moved/$default";
    let position = |number: &'static str| [("offset", number), ("sequencenumber", number)];
    for (partition, left, ours) in [
        ("0", "10", None),
        ("1", "10", Some("5")),
        ("2", "10", Some("10")),
        ("3", "10", Some("20")),
    ] {
        endpoint
            .put(&at(there, "checkpoint", partition), &position(left))
            .await;
        if let Some(ours) = ours {
            endpoint
                .put(&at(here, "checkpoint", partition), &position(ours))
                .await;
        }
    }
    // One that Python and JS could not read, and one of whose position nobody can say whether it is ahead.
    endpoint
        .put(&at(there, "checkpoint", "4"), &[("offset", "10")])
        .await;
    endpoint
        .put(&at(there, "checkpoint", "5"), &position("10"))
        .await;
    endpoint
        .put(&at(here, "checkpoint", "5"), &[("offset", "20")])
        .await;
    // An owner that is gone.
    endpoint
        .put(&at(there, "ownership", "0"), &[("ownerid", "")])
        .await;

    let store = endpoint.store(backend);
    store.list_ownership(&scope).await.unwrap();
    assert_eq!(log.warnings(LEFT_BEHIND), 1, "{}", log.text());
    assert_eq!(log.warnings(SPLIT), 0);

    let done = store.migrate_checkpoints(&scope).await.unwrap();
    let ids = |ids: &[&str]| {
        ids.iter()
            .map(|id| PartitionId::new(*id))
            .collect::<Vec<_>>()
    };
    assert_eq!(done.taken, ids(&["0", "1"]));
    assert_eq!(done.kept, ids(&["2", "3", "4", "5"]));
    let mut numbers: Vec<_> = store
        .list_checkpoints(&scope)
        .await
        .unwrap()
        .into_iter()
        .map(|stored| {
            (
                stored.checkpoint.partition_id,
                stored.checkpoint.sequence_number,
            )
        })
        .collect();
    numbers.sort();
    let expected = [
        ("0", Some(10)),
        ("1", Some(10)),
        ("2", Some(10)),
        ("3", Some(20)),
        ("5", None),
    ];
    assert_eq!(numbers, expected.map(|(id, number)| (id.into(), number)));
    assert_eq!(
        endpoint.metadata(&at(there, "checkpoint", "0")).await.len(),
        2,
        "nothing is deleted there"
    );

    // Ours goes on; what is left there takes it back no more, and nobody is told again.
    let moved_on = Checkpoint {
        partition_id: "0".into(),
        offset: Some("30".into()),
        sequence_number: Some(30),
        client_identifier: None,
    };
    store
        .update_checkpoint(&scope, &moved_on, &WriteCondition::Unconditional)
        .await
        .unwrap();
    let again = store.migrate_checkpoints(&scope).await.unwrap();
    assert_eq!(again.taken, []);
    let stored = store.checkpoint(&scope, &"0".into()).await.unwrap();
    assert_eq!(stored.unwrap().checkpoint, moved_on);
    endpoint
        .put(&at(there, "checkpoint", "4"), &position("1"))
        .await;
    let done = store.migrate_checkpoints(&scope).await.unwrap();
    assert_eq!(done.taken, ids(&["4"]));
    let (log, _guard) = Log::start();
    endpoint
        .store(backend)
        .list_ownership(&scope)
        .await
        .unwrap();
    assert_eq!(log.warnings(""), 0, "{}", log.text());
}
