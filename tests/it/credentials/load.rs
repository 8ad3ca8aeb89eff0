//! A processor under load while its tokens end every twenty seconds.
//!
//! Half a minute by default; `EHP_TOKEN_SECONDS=600` is the whole test.

use std::collections::BTreeMap;
use std::sync::Mutex;

use eventhubs_processor::checkpoint::{BlobCheckpointStore, BlobCheckpointStoreOptions};
use eventhubs_processor::credential::{StorageConnectionString, StorageCredential};
use eventhubs_processor::{
    CheckpointPolicy, EventHandler, EventProcessor, HandlerResult, PartitionContext,
    ProcessingError,
};

use super::*;

const LIFETIME: Duration = Duration::from_secs(20);
const PARTITIONS: u32 = 4;
/// Events a second in each partition.
const RATE: u64 = 50;

fn duration() -> Duration {
    let seconds = std::env::var("EHP_TOKEN_SECONDS").map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(26))
}

/// What came, and how late.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// How often each sequence number came, by partition.
    events: Arc<Mutex<BTreeMap<(String, i64), u32>>>,
    /// From being sent to being handled, in microseconds.
    latencies: Arc<Mutex<Vec<u64>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl EventHandler for Seen {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let sent: u64 = event.body_as_str().parse()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let latency = u64::try_from(now)?.saturating_sub(sent);
        self.latencies.lock().unwrap().push(latency);
        let place = (context.partition_id().to_string(), event.sequence_number());
        *self.events.lock().unwrap().entry(place).or_default() += 1;
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        let text = format!("{error}: {source:?}");
        self.errors.lock().unwrap().push(text);
    }
}

/// Sends at the rate for the time of the test, and runs `meanwhile` every lifetime of a token.
async fn run(
    emulator: &Arc<Emulator>,
    events: EventHubsCredential,
    blobs: StorageCredential,
    meanwhile: impl Fn(),
) -> (Seen, u64) {
    let seen = Seen::default();
    let storage = StorageConnectionString::parse(&emulator.storage_connection_string()).unwrap();
    let store = BlobCheckpointStore::new(
        storage.blob_endpoint(),
        "checkpoints",
        blobs,
        BlobCheckpointStoreOptions::default(),
    );
    let processor = EventProcessor::builder(client(emulator, events), "$Default", store.unwrap())
        .with_default_starting_position(EventPosition::Earliest)
        .with_checkpoint_policy(CheckpointPolicy::Every(Duration::from_millis(500)))
        .build(seen.clone())
        .unwrap()
        .spawn();
    eventually("all partitions are read", || {
        (0..PARTITIONS).all(|id| emulator.receiver_count(HUB, &id.to_string()).unwrap() == 1)
    })
    .await;

    let mut sent = 0;
    let begun = Instant::now();
    let mut next_event = begun;
    let mut next_end = begun + LIFETIME;
    while begun.elapsed() < duration() {
        tokio::time::sleep_until(next_event).await;
        next_event += Duration::from_millis(1000 / RATE);
        for partition in 0..PARTITIONS {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let event = Event::new(now.as_micros().to_string());
            emulator
                .send(HUB, Some(&partition.to_string()), event)
                .unwrap();
            sent += 1;
        }
        if Instant::now() >= next_end {
            next_end += LIFETIME;
            meanwhile();
        }
    }
    eventually("the rest arrives", || {
        seen.events.lock().unwrap().len() as u64 == sent
    })
    .await;
    processor.shutdown().await.unwrap();
    (seen, sent)
}

/// The greatest latency, in milliseconds, and a line for the log.
fn figures(what: &str, seen: &Seen, sent: u64, emulator: &Emulator) -> u64 {
    let mut latencies = std::mem::take(&mut *seen.latencies.lock().unwrap());
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    let repeated = seen
        .events
        .lock()
        .unwrap()
        .values()
        .filter(|n| **n > 1)
        .count();
    eprintln!(
        "{what}: {sent} events, {repeated} repeated; latency ms p50 {:.1} p99 {:.1} p99.9 {:.1} max {:.1}; {:?}; {} errors told",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        emulator.amqp_requests(),
        seen.errors.lock().unwrap().len(),
    );
    at(1.0) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_live_twenty_seconds_are_renewed_unnoticed() {
    let emulator = Arc::new(emulator().await);
    let (for_events, for_blobs) = (
        Issuer::new(&emulator, LIFETIME),
        Issuer::new(&emulator, LIFETIME),
    );
    let (seen, sent) = run(
        &emulator,
        EventHubsCredential::token(Arc::clone(&for_events) as _),
        StorageCredential::token(Arc::clone(&for_blobs) as _),
        || (),
    )
    .await;
    let slowest = figures("renewed", &seen, sent, &emulator);
    assert!(slowest <= 1000, "{slowest} ms");
    assert_eq!(*seen.errors.lock().unwrap(), Vec::<String>::new());
    let is_once = seen.events.lock().unwrap().values().all(|n| *n == 1);
    assert!(is_once, "events were repeated");
    // Two entities, each renewed after 14.4 to 16 seconds.
    let lives = duration().as_secs() / 14 + 1;
    let requests = emulator.amqp_requests();
    assert_eq!(requests.attaches, u64::from(PARTITIONS), "{requests:?}");
    assert_eq!(requests.tokens_refused, 0);
    assert!(requests.tokens_accepted <= 2 * lives, "{requests:?}");
    assert!(
        requests.tokens_accepted >= 2 * (duration().as_secs() / 20),
        "{requests:?}"
    );
    assert!(for_blobs.issued() as u64 <= lives, "{}", for_blobs.issued());
}

/// The fault: the service takes no notice of what tokens say, and detaches every receiver.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_the_service_ends_early_cost_each_partition_one_reattach() {
    let emulator = Arc::new(emulator().await);
    let storage = StorageConnectionString::parse(&emulator.storage_connection_string()).unwrap();
    let faults = emulator.faults();
    let (seen, sent) = run(
        &emulator,
        EventHubsCredential::shared_access_key(POLICY, KEY),
        storage.credential().clone(),
        || faults.expire_tokens(HUB, None),
    )
    .await;
    let slowest = figures("ended early", &seen, sent, &emulator);
    assert!(slowest <= 1500, "{slowest} ms");
    let requests = emulator.amqp_requests();
    let ends = duration().as_secs() / 20;
    assert!(
        requests.attaches <= u64::from(PARTITIONS) * (ends + 1) + 2,
        "{requests:?}"
    );
    assert_eq!(requests.tokens_refused, 0);
}
