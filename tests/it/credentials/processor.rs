//! What a processor makes of trouble with its credential.

use std::sync::Mutex;

use eventhubs_processor::checkpoint::{BlobCheckpointStore, BlobCheckpointStoreOptions};
use eventhubs_processor::credential::{
    NamedKeyCredential, StorageConnectionString, StorageCredential,
};
use eventhubs_processor::{
    EventHandler, EventProcessor, HandlerResult, InMemoryCheckpointStore, LastError,
    PartitionContext, ProcessingError, ProcessorError, Reaction,
};
use tokio_util::sync::CancellationToken;

use super::*;

async fn within(limit: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Counts events, and keeps what it is told.
#[derive(Clone, Debug, Default)]
struct Told {
    events: Arc<AtomicUsize>,
    authorization: Arc<Mutex<Vec<Kind>>>,
}

impl EventHandler for Told {
    async fn on_event(&self, _: &PartitionContext, _: ReceivedEvent) -> HandlerResult {
        self.events.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        assert_eq!(error.reaction(), Reaction::Retries, "{error}");
        if let ProcessingError::Authorization(error) = error {
            self.authorization.lock().unwrap().push(error.kind());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_taken_is_told_to_on_error_while_events_go_on() {
    let emulator = emulator().await;
    let key = NamedKeyCredential::new(POLICY, KEY);
    let told = Told::default();
    let processor = EventProcessor::builder(
        client(&emulator, EventHubsCredential::named_key(key.clone())),
        "$Default",
        InMemoryCheckpointStore::new(),
    )
    .with_load_balancing_interval(Duration::from_millis(500))
    .with_default_starting_position(EventPosition::Earliest)
    .build(told.clone())
    .unwrap()
    .spawn();
    eventually("partitions are read", || {
        (0..4).all(|id| emulator.receiver_count(HUB, &id.to_string()).unwrap() == 1)
    })
    .await;
    let attaches = emulator.amqp_requests().attaches;
    key.update(POLICY, "wrong");
    eventually("it is told", || {
        !told.authorization.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(told.authorization.lock().unwrap()[0], Kind::Unauthorized);
    for id in 0..4 {
        send(&emulator, &id.to_string());
    }
    eventually("events go on", || told.events.load(Ordering::SeqCst) == 4).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = emulator.amqp_requests();
    assert_eq!(requests.attaches, attaches, "{requests:?}");
    // Two entities, each once in five seconds.
    assert!(requests.tokens_refused <= 4, "{requests:?}");
    key.update(POLICY, KEY);
    eventually("the right one is taken", || {
        emulator.amqp_requests().tokens_accepted >= 4
    })
    .await;
    processor.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_cannot_be_renewed_show_in_the_status_until_they_can() {
    let emulator = Arc::new(emulator().await);
    // Renewed after 6 s, and 5 s later again.
    let issuer = Issuer::new(&emulator, Duration::from_secs(8));
    let storage = StorageConnectionString::parse(&emulator.storage_connection_string()).unwrap();
    let store = BlobCheckpointStore::new(
        storage.blob_endpoint(),
        "checkpoints",
        StorageCredential::token(Arc::clone(&issuer) as _),
        BlobCheckpointStoreOptions::default(),
    );
    let credential = EventHubsCredential::token(Arc::clone(&issuer) as _);
    let told = Told::default();
    let client = client(&emulator, credential);
    let processor = EventProcessor::builder(client, "$Default", store.unwrap())
        .with_load_balancing_interval(Duration::from_millis(500))
        .with_default_starting_position(EventPosition::Earliest)
        .build(told.clone())
        .unwrap()
        .spawn();
    let shown = || {
        let status = processor.status();
        (
            status.event_hub_credential_error,
            status.store_credential_error,
        )
    };
    eventually("partitions are read", || {
        (0..4).all(|id| emulator.receiver_count(HUB, &id.to_string()).unwrap() == 1)
    })
    .await;
    assert_eq!(shown(), (None, None));
    issuer.fails_from.store(0, Ordering::SeqCst);
    within(Duration::from_secs(10), || {
        let (event_hub, store) = shown();
        let says = |error: Option<LastError>| {
            error.is_some_and(|error| {
                assert!(error.message.contains("the issuer is down"), "{error:?}");
                error.time.elapsed().unwrap() < Duration::from_secs(10)
            })
        };
        says(event_hub) && says(store)
    })
    .await;
    issuer.fails_from.store(usize::MAX, Ordering::SeqCst);
    within(Duration::from_secs(15), || shown() == (None, None)).await;
    for id in 0..4 {
        send(&emulator, &id.to_string());
    }
    within(Duration::from_secs(15), || {
        told.events.load(Ordering::SeqCst) == 4
    })
    .await;
    processor.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_ends_a_start_with_one_request() {
    let emulator = emulator().await;
    let credential = EventHubsCredential::shared_access_key(POLICY, "wrong");
    let processor = EventProcessor::builder(
        client(&emulator, credential),
        "$Default",
        InMemoryCheckpointStore::new(),
    )
    .build(Told::default())
    .unwrap();
    let run = processor.run(CancellationToken::new());
    let error = timeout(Duration::from_secs(10), run).await.unwrap();
    match error.unwrap_err() {
        ProcessorError::EventHub(error) => assert_eq!(error.kind(), Kind::Unauthorized),
        other => panic!("{other}"),
    }
    let requests = emulator.amqp_requests();
    assert_eq!(
        (requests.tokens_refused, requests.attaches),
        (1, 0),
        "{requests:?}"
    );
}
