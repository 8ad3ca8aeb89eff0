//! Checkpoints that processors of earlier generations left.

use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore,
    LegacyCheckpoints, WriteOutcome,
};
use eventhubs_processor::error::StoreErrorKind;
use eventhubs_processor::{
    AmqpTransport, Checkpoint, EventPosition, EventProcessor, GroupScope, PartitionContext,
    Transport as _, handler_fn_with,
};
use tokio::sync::mpsc::UnboundedSender;

use super::log::Log;
use super::{Endpoint, azurite};

for_each_backend! {
    a_processor_goes_on_where_a_host_stopped,
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
    they_count_until_there_is_one_of_ours(endpoint, backend).await;
    those_of_a_host_are_found(endpoint, backend).await;
    odd_ones_are_none(endpoint, backend).await;
    a_missing_container_is_an_error(endpoint, backend).await;
}

fn scope(hub: &str) -> GroupScope {
    GroupScope::new("Contoso.servicebus.windows.net", hub, "$Default")
}

fn store(
    endpoint: &Endpoint,
    backend: BlobBackend,
    legacy: LegacyCheckpoints,
) -> BlobCheckpointStore {
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_legacy_checkpoints(legacy);
    endpoint.store_with(options)
}

async fn put(endpoint: &Endpoint, container: &str, name: &str, content: &str) {
    let metadata = [("owninghost", "host-1")];
    endpoint
        .raw
        .put_content(container, name, &metadata, content)
        .await;
}

fn json(offset: &str, sequence_number: i64) -> String {
    format!(
        r#"{{"PartitionId":"0","Owner":"h","Token":"t","Epoch":3,"Offset":"{offset}","SequenceNumber":{sequence_number}}}"#
    )
}

async fn they_count_until_there_is_one_of_ours(endpoint: &Endpoint, backend: BlobBackend) {
    let scope = scope("Functions");
    let name =
        |partition: &str| format!("Contoso.servicebus.windows.net/Functions/$Default/{partition}");
    for partition in ["0", "1", "2"] {
        let json = json("8591964920", 960_180);
        put(endpoint, &endpoint.container, &name(partition), &json).await;
    }
    // Ours, behind the old one; and one of ours that holds no position.
    let ours = "contoso.servicebus.windows.net/functions/$default/checkpoint";
    let behind = [("offset", "1"), ("sequencenumber", "1")];
    endpoint.put(&format!("{ours}/1"), &behind).await;
    endpoint.put(&format!("{ours}/2"), &[]).await;

    let without = endpoint.store(backend);
    assert_eq!(without.checkpoint(&scope, &"0".into()).await.unwrap(), None);

    let store = store(endpoint, backend, LegacyCheckpoints::azure_functions());
    let old = store
        .checkpoint(&scope, &"0".into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(old.checkpoint.offset, Some("8591964920".into()));
    assert_eq!(old.checkpoint.sequence_number, Some(960_180));
    assert_eq!(old.etag, None, "there is no record of ours to replace");
    let newer = store
        .checkpoint(&scope, &"1".into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(newer.checkpoint.sequence_number, Some(1), "ours counts");
    let error = store.checkpoint(&scope, &"2".into()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::MalformedRecord);
    assert_eq!(store.checkpoint(&scope, &"3".into()).await.unwrap(), None);
    let mut listed = store.list_checkpoints(&scope).await.unwrap();
    listed.sort_by(|a, b| a.checkpoint.partition_id.cmp(&b.checkpoint.partition_id));
    assert_eq!(listed, [old.clone(), newer]);

    // The first checkpoint takes its place; the old one stays as it was.
    let before = endpoint.raw.head(&endpoint.container, &name("0")).await;
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("8591965000".into()),
        sequence_number: Some(960_181),
        client_identifier: None,
    };
    let outcome = store
        .update_checkpoint(&scope, &checkpoint, &old.condition())
        .await
        .unwrap();
    assert!(matches!(outcome, WriteOutcome::Written(_)), "{outcome:?}");
    let stored = store.checkpoint(&scope, &"0".into()).await.unwrap();
    assert_eq!(stored.unwrap().checkpoint, checkpoint);
    let after = endpoint.raw.head(&endpoint.container, &name("0")).await;
    assert_eq!(before.header("etag"), after.header("etag"));
}

async fn those_of_a_host_are_found(endpoint: &Endpoint, backend: BlobBackend) {
    let scope = scope("Host");
    let leases = format!("{}-leases", endpoint.container);
    endpoint.raw.create_container(&leases).await;
    put(endpoint, &leases, "app-$Default/0", &json("100", 7)).await;
    // Another group, and what lies deeper.
    put(endpoint, &leases, "app-$Default2/1", &json("200", 8)).await;
    put(endpoint, &leases, "app-$Default/x/1", &json("300", 9)).await;
    let legacy = LegacyCheckpoints::event_processor_host("app-").with_container_name(&leases);
    let store = store(endpoint, backend, legacy);
    let old = store
        .checkpoint(&scope, &"0".into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(old.checkpoint.sequence_number, Some(7));
    assert_eq!(store.checkpoint(&scope, &"1".into()).await.unwrap(), None);
    assert_eq!(store.list_checkpoints(&scope).await.unwrap(), [old]);
}

async fn odd_ones_are_none(endpoint: &Endpoint, backend: BlobBackend) {
    let (log, _guard) = Log::start();
    let scope = scope("Odd");
    let long = format!("{}{}", json("1", 1), " ".repeat(100_000));
    for (partition, content) in [
        // Owned, and nothing processed yet: no checkpoint, and nothing to tell.
        ("0", r#"{"Offset":null,"SequenceNumber":0}"#),
        ("1", r#"{"Offset":"","SequenceNumber":0}"#),
        ("2", ""),
        // Not understood: told.
        ("3", r#"{"Offset":"#),
        ("4", "<xml/>"),
        // Blanks after the end change nothing, and nobody reads them all.
        ("5", &long),
    ] {
        let name = format!("Contoso.servicebus.windows.net/Odd/$Default/{partition}");
        put(endpoint, &endpoint.container, &name, content).await;
    }
    let store = store(endpoint, backend, LegacyCheckpoints::azure_functions());
    for partition in ["0", "1", "2", "3", "4"] {
        let found = store.checkpoint(&scope, &partition.into()).await.unwrap();
        assert_eq!(found, None, "{partition}");
    }
    assert_eq!(log.warnings("cannot be understood"), 2, "{}", log.text());
    let listed = store.list_checkpoints(&scope).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].checkpoint.partition_id, "5".into());
}

async fn a_missing_container_is_an_error(endpoint: &Endpoint, backend: BlobBackend) {
    let legacy = LegacyCheckpoints::event_processor_host("").with_container_name("no-such-leases");
    let store = store(endpoint, backend, legacy);
    for error in [
        store
            .checkpoint(&scope("Missing"), &"0".into())
            .await
            .unwrap_err(),
        store.list_checkpoints(&scope("Missing")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::ContainerNotFound, "{error}");
    }
}

/// A service that moves here from an `EventProcessorHost` neither repeats nor skips an event.
async fn a_processor_goes_on_where_a_host_stopped(backend: BlobBackend) {
    const HUB: &str = "moving";
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    let hub = AmqpTransport::from_connection_string(&emulator.event_hubs_connection_string(), HUB);
    let sent: Vec<_> = (0..10)
        .map(|n| emulator.send(HUB, Some("0"), Event::new(format!("{n}"))))
        .collect();
    let last_processed = sent[4].as_ref().unwrap().offset.to_string();
    let endpoint = Endpoint::new(emulator.storage_connection_string(), Some(emulator)).await;
    let lease = json(&last_processed, 4);
    put(&endpoint, &endpoint.container, "$Default/0", &lease).await;

    let store = store(
        &endpoint,
        backend,
        LegacyCheckpoints::event_processor_host(""),
    );
    let (seen, mut events) = tokio::sync::mpsc::unbounded_channel();
    let handler = handler_fn_with(seen, async |seen: UnboundedSender<i64>, context, event| {
        let context: PartitionContext = context;
        context.update_checkpoint(&event).await?;
        seen.send(event.sequence_number())?;
        Ok(())
    });
    let hub = hub.unwrap();
    let scope = GroupScope::new(hub.fully_qualified_namespace(), HUB, "$Default");
    let processor = EventProcessor::builder(hub, "$Default", store.clone())
        .with_default_starting_position(EventPosition::Earliest)
        .build(handler)
        .unwrap()
        .spawn();
    let mut numbers = Vec::new();
    while numbers.len() < 5 {
        let next = tokio::time::timeout(Duration::from_secs(30), events.recv()).await;
        numbers.push(next.unwrap().unwrap());
    }
    assert_eq!(numbers, [5, 6, 7, 8, 9]);
    processor.shutdown().await.unwrap();
    let stored = store
        .checkpoint(&scope, &"0".into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored.checkpoint.sequence_number, Some(9));
    assert!(stored.etag.is_some(), "a record of ours");
}
