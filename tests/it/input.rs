//! What the outside world may hand over that is odd and has to work, or has to be refused by name: names, ids,
//! addresses and records. Connection strings and options are tested where they are parsed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventhubs_emulator::Emulator;
use eventhubs_processor::checkpoint::{InMemoryCheckpointStore, WriteCondition, WriteOutcome};
use eventhubs_processor::error::{StoreErrorKind, TransportError};
use eventhubs_processor::transport::fake::FakeEventHub;
use eventhubs_processor::transport::{PartitionReceiver, ReceiverOptions};
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, CheckpointStore as _, EventHubProperties, EventPosition,
    EventProcessor, GroupScope, PartitionContext, PartitionId, PartitionProperties, Transport,
    handler_fn,
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn names_that_lead_out_of_their_place_are_refused_before_a_request() {
    // Nothing listens there: a request would fail otherwise.
    let store = BlobCheckpointStore::from_connection_string(
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=YQ==;\
         BlobEndpoint=http://127.0.0.1:1/devstoreaccount1",
        "checkpoints",
    )
    .unwrap();
    let long = "x".repeat(1100);
    for bad in ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0", &long] {
        for scope in [
            GroupScope::new(bad, "hub", "$Default"),
            GroupScope::new("ns", bad, "$Default"),
            GroupScope::new("ns", "hub", bad),
        ] {
            let error = store.list_ownership(&scope).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::InvalidValue, "{bad:?}");
        }
        let scope = GroupScope::new("ns", "hub", "$Default");
        let claim = store
            .claim_ownership(&scope, &bad.into(), None, &WriteCondition::Absent)
            .await;
        let error = claim.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::InvalidValue, "{bad:?}");
    }
}

/// A record of ours replaces all metadata, so what fills the 8 KiB of a blob stops nobody.
#[tokio::test]
async fn a_record_filled_up_by_others_can_be_written() {
    let emulator = Emulator::builder().start().await.unwrap();
    emulator.create_container("checkpoints").unwrap();
    let full = "x".repeat(8000);
    let pairs = [("ownerid", "theirs"), ("junk", full.as_str())];
    emulator
        .put_blob("checkpoints", "ns/hub/$default/ownership/0", &pairs)
        .unwrap();
    let store = BlobCheckpointStore::from_connection_string(
        &emulator.storage_connection_string(),
        "checkpoints",
    )
    .unwrap();
    let scope = GroupScope::new("ns", "hub", "$Default");
    let listed = store.list_ownership(&scope).await.unwrap().ownerships;
    assert_eq!(listed[0].owner_id, Some("theirs".into()));
    let version = WriteCondition::Matches(listed[0].etag.clone());
    let outcome = store
        .claim_ownership(&scope, &"0".into(), Some(&"me".into()), &version)
        .await
        .unwrap();
    assert!(matches!(outcome, WriteOutcome::Written(_)), "{outcome:?}");
    let listed = store.list_ownership(&scope).await.unwrap().ownerships;
    assert_eq!(listed[0].owner_id, Some("me".into()));
}

/// An event hub whose partitions have names and not numbers, one of them told twice.
#[derive(Debug)]
struct Named(FakeEventHub);

const NAMES: [(&str, &str); 3] = [("West-10", "0"), ("Ost", "1"), ("010", "2")];

fn real(name: &PartitionId) -> PartitionId {
    let known = NAMES.iter().find(|(known, _)| *known == name.as_str());
    known.map_or_else(|| name.clone(), |(_, id)| (*id).into())
}

#[async_trait]
impl Transport for Named {
    fn fully_qualified_namespace(&self) -> &str {
        self.0.fully_qualified_namespace()
    }

    fn event_hub_name(&self) -> &str {
        self.0.event_hub_name()
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        let names = NAMES.iter().chain(&NAMES[..1]);
        let ids = names.map(|(name, _)| PartitionId::from(*name)).collect();
        Ok(EventHubProperties::new(self.event_hub_name(), ids))
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        self.0.partition_properties(&real(partition_id)).await
    }

    async fn open_receiver(
        &self,
        mut options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        options.partition_id = real(&options.partition_id);
        self.0.open_receiver(options).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn partition_ids_are_texts_and_count_once() {
    let hub = FakeEventHub::new(3);
    for id in ["0", "1", "2"] {
        hub.send(id, "event");
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (sink, done) = (Arc::clone(&seen), CancellationToken::new());
    let all = done.clone();
    let processor = EventProcessor::builder(Named(hub), "$Default", InMemoryCheckpointStore::new())
        .with_default_starting_position(EventPosition::Earliest)
        .build(handler_fn(move |context: PartitionContext, _| {
            let mut seen = sink.lock().unwrap();
            seen.push(context.partition_id().to_string());
            if seen.len() == NAMES.len() {
                all.cancel();
            }
            async { Ok(()) }
        }))
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(processor.run(stop.clone()));
    tokio::time::timeout(Duration::from_secs(600), done.cancelled())
        .await
        .unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let mut names: Vec<_> = NAMES.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    assert_eq!(seen, names);
}

/// With IPv6 only: the address stands in brackets in the connection string.
#[tokio::test]
async fn an_event_hub_on_ipv6_is_read() {
    let emulator = Emulator::builder()
        .with_host("::1".parse().unwrap())
        .with_hub("hub", 1)
        .start()
        .await
        .unwrap();
    emulator.send("hub", Some("0"), "over six").unwrap();
    let text = format!(
        "Endpoint=sb://[::1]:{};SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true",
        emulator.amqp_addr().port()
    );
    let transport = AmqpTransport::from_connection_string(&text, "hub").unwrap();
    let hub = transport.event_hub_properties().await.unwrap();
    assert_eq!(hub.partition_ids, ["0".into()]);
    let options = ReceiverOptions::new("$Default", "0".into(), EventPosition::Earliest);
    let mut receiver = transport.open_receiver(options).await.unwrap();
    let events = receiver.receive(10).await.unwrap();
    assert_eq!(events.len(), 1);
    transport.close().await;
}
