//! What a processor makes of trouble with its credential.

use std::sync::Mutex;

use eventhubs_processor::credential::NamedKeyCredential;
use eventhubs_processor::{
    EventHandler, EventProcessor, HandlerResult, InMemoryCheckpointStore, PartitionContext,
    ProcessingError, ProcessorError, Reaction,
};
use tokio_util::sync::CancellationToken;

use super::*;

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
