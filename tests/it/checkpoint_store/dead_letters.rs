//! Dead letters in blobs, which nobody takes for records.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStoreOptions, LegacyCheckpoints, WriteCondition,
};
use eventhubs_processor::credential::{StorageConnectionString, StorageCredential};
use eventhubs_processor::transport::fake::FakeEventHub;
use eventhubs_processor::{
    BlobDeadLetters, Checkpoint, CheckpointStore, EventHandler, EventPosition, EventProcessor,
    FailureAction, FailurePolicy, GroupScope, HandlerResult, InMemoryCheckpointStore,
    PartitionContext, ProcessingError, ReceivedEvent,
};

use super::{Endpoint, azurite};

for_each_backend! {
    the_emulator_keeps_letters,
    azurite_keeps_letters,
    letters_wait_for_a_container_that_comes_back,
}

// In lower case, so that its names are the same where they are not folded.
const GROUP: &str = "fake.servicebus.windows.net/hub/workers";

impl Endpoint {
    fn letters(&self, backend: BlobBackend, by_signature: bool) -> BlobDeadLetters {
        let options = BlobCheckpointStoreOptions::default().with_backend(backend);
        if by_signature {
            let parsed = StorageConnectionString::parse(&self.connection_string).unwrap();
            let signature = self.raw.container_signature(&self.container);
            let credential = StorageCredential::shared_access_signature(signature);
            let url = parsed.blob_endpoint();
            return BlobDeadLetters::new(url, &self.container, credential, options).unwrap();
        }
        BlobDeadLetters::from_connection_string_with_options(
            &self.connection_string,
            &self.container,
            options,
        )
        .unwrap()
    }
}

/// Fails for what is bad.
#[derive(Clone, Default)]
struct Picky {
    done: Arc<Mutex<Vec<i64>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl EventHandler for Picky {
    async fn on_event(&self, _: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        if event.body().starts_with(b"bad") {
            return Err("cannot".into());
        }
        self.done.lock().unwrap().push(event.sequence_number());
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        self.errors.lock().unwrap().push(error.to_string());
    }
}

impl Picky {
    /// Reads the hub from its beginning, as after a crash before the first checkpoint, until so many are done.
    async fn read(&self, hub: &FakeEventHub, letters: BlobDeadLetters, done: usize) {
        let store = InMemoryCheckpointStore::new();
        let handle = EventProcessor::builder(hub.clone(), "workers", store)
            .with_owner_id("me")
            .with_default_starting_position(EventPosition::Earliest)
            .with_failure_policy(FailurePolicy::default().then(FailureAction::DeadLetter))
            .with_retry_delay(Duration::from_millis(20), Duration::from_millis(100))
            .with_dead_letter_sink(letters)
            .build(self.clone())
            .unwrap()
            .spawn();
        let all = async {
            while self.done.lock().unwrap().len() < done {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), all).await;
        let told = self.errors.lock().unwrap().clone();
        assert!(in_time.is_ok(), "told: {told:?}");
        handle.shutdown().await.unwrap();
    }
}

async fn the_emulator_keeps_letters(backend: BlobBackend) {
    letters_are_kept(&Endpoint::emulator().await, backend).await;
}

async fn azurite_keeps_letters(backend: BlobBackend) {
    if let Some(endpoint) = azurite().await {
        letters_are_kept(&endpoint, backend).await;
    }
}

async fn letters_are_kept(endpoint: &Endpoint, backend: BlobBackend) {
    let hub = FakeEventHub::new(1);
    let mut large = b"bad".to_vec();
    large.resize(1 << 20, 0xff);
    hub.send("0", "good");
    hub.send("0", large.clone());
    hub.send("0", "good");
    // The second run stores it once more.
    for by_signature in [false, true] {
        let picky = Picky::default();
        let letters = endpoint.letters(backend, by_signature);
        picky.read(&hub, letters, 2).await;
        assert_eq!(*picky.done.lock().unwrap(), [0, 2]);
        let name = format!("{GROUP}/deadletter/0/00000000000000000001");
        let (answer, content) = endpoint.raw.get(&endpoint.container, &name).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let letter: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(letter["version"], 1);
        assert_eq!(letter["reason"], "`on_event` failed: cannot");
        assert_eq!(letter["sequenceNumber"], "1");
        assert_eq!(letter["consumerGroup"], "workers");
        let body = letter["body"]["base64"].as_str().unwrap();
        assert!(BASE64.decode(body).unwrap() == large, "the body is another");
    }
    nobody_takes_them_for_records(endpoint, backend).await;
}

/// A container that holds letters and records.
async fn nobody_takes_them_for_records(endpoint: &Endpoint, backend: BlobBackend) {
    let scope = GroupScope::new("fake.servicebus.windows.net", "hub", "workers");
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("100".into()),
        sequence_number: Some(1),
        client_identifier: None,
    };
    // Functions' layout lists the whole group.
    let legacy = LegacyCheckpoints::azure_functions();
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    for options in [options.clone(), options.with_legacy_checkpoints(legacy)] {
        let store = endpoint.store_with(options);
        let written = store
            .update_checkpoint(&scope, &checkpoint, &WriteCondition::Unconditional)
            .await;
        written.unwrap();
        let claimed = store
            .claim_ownership(
                &scope,
                &"0".into(),
                Some(&"me".into()),
                &WriteCondition::Absent,
            )
            .await;
        claimed.unwrap();
        let checkpoints = store.list_checkpoints(&scope).await.unwrap();
        assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
        let ownerships = store.list_ownership(&scope).await.unwrap().ownerships;
        assert_eq!(ownerships.len(), 1, "{ownerships:?}");
    }
}

async fn letters_wait_for_a_container_that_comes_back(backend: BlobBackend) {
    let endpoint = Endpoint::emulator().await;
    let hub = FakeEventHub::new(1);
    for body in ["good", "bad", "good"] {
        hub.send("0", body);
    }
    let picky = Picky::default();
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    let letters = BlobDeadLetters::from_connection_string_with_options(
        &endpoint.connection_string,
        "later",
        options,
    );
    let reading = picky.read(&hub, letters.unwrap(), 2);
    let creating = async {
        while picky.errors.lock().unwrap().len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*picky.done.lock().unwrap(), [0], "an event was passed over");
        endpoint.raw.create_container("later").await;
    };
    tokio::join!(reading, creating);
    assert_eq!(*picky.done.lock().unwrap(), [0, 2]);
    let told = picky.errors.lock().unwrap().clone();
    assert_eq!(told[0], "`on_event` failed");
    assert!(
        told[1..].iter().all(|told| told == "storing a dead letter"),
        "{told:?}"
    );
    let name = format!("{GROUP}/deadletter/0/00000000000000000001");
    assert_eq!(endpoint.raw.head("later", &name).await.status, 200);
}
