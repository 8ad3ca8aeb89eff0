//! Dead letters in another event hub, over AMQP.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::transport::ReceiverOptions;
use eventhubs_processor::transport::fake::FakeEventHub;
use eventhubs_processor::{
    AmqpTransport, CheckpointPolicy, EventHandler, EventHubDeadLetters, EventPosition,
    EventProcessor, FailureAction, FailurePolicy, HandlerResult, InMemoryCheckpointStore,
    PartitionContext, ProcessingError, ReceivedEvent, Transport, Value,
};

const HUB: &str = "hub";
const FAILED: &str = "failed";

async fn emulator() -> Emulator {
    let builder = Emulator::builder().with_hub(HUB, 1).with_hub(FAILED, 1);
    builder.start().await.unwrap()
}

fn transport(emulator: &Emulator, hub: &str) -> AmqpTransport {
    AmqpTransport::from_connection_string(&emulator.event_hubs_connection_string(), hub).unwrap()
}

fn sink(emulator: &Emulator) -> EventHubDeadLetters {
    EventHubDeadLetters::from_connection_string(&emulator.event_hubs_connection_string(), FAILED)
        .unwrap()
}

/// What has arrived in the event hub of dead letters so far.
async fn arrived(emulator: &Emulator, count: usize) -> Vec<ReceivedEvent> {
    let client = transport(emulator, FAILED);
    let options = ReceiverOptions::new("$Default", "0".into(), EventPosition::Earliest);
    let mut receiver = client.open_receiver(options).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        let more = tokio::time::timeout(Duration::from_secs(20), receiver.receive(10));
        events.extend(more.await.expect("a dead letter").unwrap());
    }
    receiver.close().await;
    client.close().await;
    events
}

/// Cannot process what says so, and notes the rest.
#[derive(Clone, Default)]
struct Picky {
    done: Arc<Mutex<Vec<i64>>>,
    errors: Arc<Mutex<Vec<String>>>,
    /// The length of its errors.
    verbosity: usize,
}

impl Picky {
    fn failures_to_bury(&self) -> usize {
        let errors = self.errors.lock().unwrap();
        errors
            .iter()
            .filter(|error| error.starts_with("storing a dead letter"))
            .count()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool + Send + Sync) {
        let all = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), all).await;
        let mut told = self.errors.lock().unwrap().clone();
        told.truncate(3);
        assert!(
            in_time.is_ok(),
            "not in half a minute: {what}; told: {told:?}"
        );
    }
}

impl EventHandler for Picky {
    async fn on_event(&self, _: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        if event.body().starts_with(b"bad") {
            return Err(format!("cannot {}", "x".repeat(self.verbosity)).into());
        }
        self.done.lock().unwrap().push(event.sequence_number());
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(error) = next {
            text += &format!(": {error}");
            next = error.source();
        }
        self.errors.lock().unwrap().push(text);
    }
}

fn processor(
    hub: impl Transport,
    store: &InMemoryCheckpointStore,
    sink: EventHubDeadLetters,
    picky: &Picky,
) -> eventhubs_processor::ProcessorHandle {
    EventProcessor::builder(hub, "$Default", store.clone())
        .with_owner_id("me")
        .with_default_starting_position(EventPosition::Earliest)
        .with_checkpoint_policy(CheckpointPolicy::EveryEvents(1.try_into().unwrap()))
        .with_failure_policy(FailurePolicy::retry(1).then(FailureAction::DeadLetter))
        .with_retry_delay(Duration::from_millis(20), Duration::from_millis(100))
        .with_dead_letter_sink(sink)
        .build(picky.clone())
        .unwrap()
        .spawn()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_letter_is_the_event_and_says_where_it_was_and_why() {
    let emulator = emulator().await;
    let event = Event::new("bad")
        .with_partition_key("customer-12")
        .with_message_id("m-1")
        .with_correlation_id("c-1")
        .with_content_type("text/plain")
        .with_property("colour", "red")
        .with_property("size", 7_i64)
        .with_property("dead-letter-reason", "an old one");
    emulator.send(HUB, None, event).unwrap();
    emulator.send(HUB, Some("0"), Event::new("good")).unwrap();
    let (picky, store) = (Picky::default(), InMemoryCheckpointStore::new());
    let handle = processor(transport(&emulator, HUB), &store, sink(&emulator), &picky);
    picky
        .until("the next event", |picky| {
            !picky.done.lock().unwrap().is_empty()
        })
        .await;
    let sent = emulator.events(HUB, "0").unwrap().remove(0);
    let letter = arrived(&emulator, 1).await.remove(0);
    assert_eq!(letter.body(), b"bad");
    assert_eq!(letter.partition_key(), Some("customer-12"));
    let properties = letter.message_properties();
    assert_eq!(properties.message_id, Some(Value::String("m-1".to_owned())));
    assert_eq!(
        properties.correlation_id,
        Some(Value::String("c-1".to_owned()))
    );
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    let mut properties = letter.properties().clone();
    let text = |text: &str| Value::String(text.to_owned());
    let enqueued = sent
        .enqueued_time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let enqueued = i64::try_from(enqueued.as_millis()).unwrap();
    let namespace = transport(&emulator, HUB);
    for (name, expected) in [
        ("colour", text("red")),
        ("size", Value::I64(7)),
        ("dead-letter-reason", text("`on_event` failed: cannot ")),
        ("dead-letter-attempts", Value::U32(2)),
        (
            "dead-letter-namespace",
            text(namespace.fully_qualified_namespace()),
        ),
        ("dead-letter-event-hub", text(HUB)),
        ("dead-letter-consumer-group", text("$Default")),
        ("dead-letter-partition", text("0")),
        ("dead-letter-sequence-number", Value::I64(0)),
        ("dead-letter-offset", text(&sent.offset)),
        ("dead-letter-enqueued-time", Value::Timestamp(enqueued)),
        ("dead-letter-owner", text("me")),
    ] {
        assert_eq!(properties.remove(name), Some(expected), "{name}");
    }
    let failed_at = properties.remove("dead-letter-failed-at");
    assert!(
        matches!(failed_at, Some(Value::Timestamp(at)) if at >= enqueued),
        "{failed_at:?}"
    );
    assert!(properties.is_empty(), "{properties:?}");
    handle.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_while_letters_cannot_be_sent_and_nothing_is_passed_over() {
    let emulator = emulator().await;
    for body in ["good", "bad", "good", "bad", "good"] {
        emulator.send(HUB, Some("0"), Event::new(body)).unwrap();
    }
    let faults = emulator.faults();
    let busy = "com.microsoft:server-busy";
    faults.refuse_attaches(FAILED, None, busy, "busy", 4);
    let (picky, store) = (Picky::default(), InMemoryCheckpointStore::new());
    let handle = processor(transport(&emulator, HUB), &store, sink(&emulator), &picky);
    picky
        .until("failures", |picky| picky.failures_to_bury() >= 3)
        .await;
    assert_eq!(*picky.done.lock().unwrap(), [0], "an event was passed over");
    picky
        .until("the rest", |picky| picky.done.lock().unwrap().len() == 3)
        .await;
    assert_eq!(picky.failures_to_bury(), 4);
    // The link that was good for the last letter is gone, as after a long pause.
    for _ in 0..2 {
        faults.detach_senders(FAILED, None, "amqp:link:detach-forced", "idle");
        tokio::time::sleep(Duration::from_millis(100)).await;
        emulator.send(HUB, Some("0"), Event::new("bad")).unwrap();
        emulator.send(HUB, Some("0"), Event::new("good")).unwrap();
        let expected = picky.done.lock().unwrap().len() + 1;
        picky
            .until("more", |picky| picky.done.lock().unwrap().len() == expected)
            .await;
    }
    assert_eq!(
        picky.failures_to_bury(),
        4,
        "a dead link is replaced at once"
    );
    let letters = arrived(&emulator, 4).await;
    let numbers: Vec<_> = letters
        .iter()
        .map(|letter| {
            letter.properties()["dead-letter-sequence-number"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert_eq!(numbers, [1, 3, 5, 7]);
    handle.shutdown().await.unwrap();
}

/// The longest message that the emulator takes, as the service does in its standard tier.
const MAX_MESSAGE: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_with_its_reason_gets_a_shorter_one() {
    let emulator = emulator().await;
    let (hub, store) = (FakeEventHub::new(1), InMemoryCheckpointStore::new());
    let mut body = b"bad".to_vec();
    body.resize(MAX_MESSAGE - 3000, b'.');
    hub.send("0", body.clone());
    hub.send("0", "good");
    let picky = Picky {
        verbosity: 10_000,
        ..Picky::default()
    };
    let handle = processor(hub, &store, sink(&emulator), &picky);
    picky
        .until("the next event", |picky| {
            !picky.done.lock().unwrap().is_empty()
        })
        .await;
    assert_eq!(picky.failures_to_bury(), 0);
    let letter = arrived(&emulator, 1).await.remove(0);
    assert_eq!(letter.body(), body);
    let reason = letter.properties()["dead-letter-reason"].as_str().unwrap();
    assert!((500..3000).contains(&reason.len()), "{}", reason.len());
    assert!(reason.starts_with("`on_event` failed: cannot xxx") && reason.ends_with('…'));
    handle.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_shorter_reason_makes_fit_waits_and_says_so() {
    let emulator = emulator().await;
    let (hub, store) = (FakeEventHub::new(1), InMemoryCheckpointStore::new());
    let mut body = b"bad".to_vec();
    body.resize(MAX_MESSAGE - 100, b'.');
    hub.send("0", body);
    hub.send("0", "good");
    let picky = Picky::default();
    let handle = processor(hub, &store, sink(&emulator), &picky);
    picky
        .until("failures", |picky| picky.failures_to_bury() >= 3)
        .await;
    let told = picky.errors.lock().unwrap().last().cloned().unwrap();
    assert!(told.contains("the event hub takes 1048576"), "{told}");
    assert!(picky.done.lock().unwrap().is_empty(), "passed over");
    assert!(handle.shutdown().await.unwrap().cut_partitions.is_empty());
    assert!(emulator.events(FAILED, "0").unwrap().is_empty());
}

/// The runtime goes while links are open, letters are sent and a stop is under way; only its own threads count.
#[test]
fn a_runtime_that_goes_under_the_client_causes_no_panic() {
    const THREAD: &str = "runtime-under-the-client";
    let panics = Arc::<AtomicUsize>::default();
    let (counted, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some(THREAD) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    let serving = tokio::runtime::Runtime::new().unwrap();
    let emulator = serving.block_on(emulator());
    for round in 0..8 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(THREAD)
            .enable_all()
            .build()
            .unwrap();
        let picky = Picky::default();
        let store = InMemoryCheckpointStore::new();
        for body in ["bad", "good"].iter().cycle().take(100) {
            emulator.send(HUB, Some("0"), Event::new(*body)).unwrap();
        }
        let handle = runtime.block_on(async {
            let sink = sink(&emulator);
            let handle = processor(transport(&emulator, HUB), &store, sink, &picky);
            let begun = |picky: &Picky| !picky.done.lock().unwrap().is_empty();
            picky.until("the first events", begun).await;
            if round % 2 == 0 {
                handle.stopper().stop();
            }
            handle
        });
        if round % 4 < 2 {
            runtime.shutdown_background();
        } else {
            drop(runtime);
        }
        // Outside of any runtime.
        drop(handle);
    }
    assert_eq!(panics.load(Ordering::Relaxed), 0);
    serving.shutdown_background();
}

/// A batch goes under as a whole; each of its events has a letter of its own.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_batch_that_failed_has_a_letter() {
    let emulator = emulator().await;
    for number in 0..20 {
        let body = if number == 7 { "bad" } else { "good" };
        emulator.send(HUB, Some("0"), Event::new(body)).unwrap();
    }
    let (picky, store) = (Picky::default(), InMemoryCheckpointStore::new());
    let handle = EventProcessor::builder(transport(&emulator, HUB), "$Default", store)
        .with_default_starting_position(EventPosition::Earliest)
        .with_max_batch_size(NonZeroUsize::new(5).unwrap())
        .with_max_wait_time(Duration::from_secs(1))
        .with_failure_policy(FailurePolicy::default().then(FailureAction::DeadLetter))
        .with_dead_letter_sink(sink(&emulator))
        .build(picky.clone())
        .unwrap()
        .spawn();
    picky
        .until("the last event", |picky| {
            picky.done.lock().unwrap().contains(&19)
        })
        .await;
    let letters = arrived(&emulator, 5).await;
    let numbers: Vec<_> = letters
        .iter()
        .map(|letter| {
            letter.properties()["dead-letter-sequence-number"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert_eq!(numbers, [5, 6, 7, 8, 9]);
    handle.shutdown().await.unwrap();
}
