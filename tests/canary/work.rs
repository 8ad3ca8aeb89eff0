//! A processor at work, with everything that can go wrong, and what it says about it.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_emulator::{Emulator, Event, PropertyValue};
use eventhubs_processor::checkpoint::{BlobBackend, BlobCheckpointStoreOptions};
use eventhubs_processor::transport::ReceiverOptions;
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, BlobDeadLetters, CloseReason, EventHandler,
    EventHubDeadLetters, EventPosition, EventProcessor, FailureAction, FailurePolicy,
    HandlerResult, PartitionContext, ProcessingError, ProcessorHandle, ReceivedEvent,
    Transport as _,
};

use super::capture::Capture;
use super::{BODY, HUB, LETTERS, PROPERTY, STOLEN, UNDECODABLE, print, print_error};

/// Does what the event id says, and shows what it is given.
#[derive(Clone)]
struct Clumsy {
    capture: Capture,
    seen: Arc<Mutex<BTreeSet<(String, i64)>>>,
    errors: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl EventHandler for Clumsy {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        print(&self.capture, context);
        print(&self.capture, &event);
        assert!(event.body_as_str().contains(BODY));
        let partition = context.partition_id().to_string();
        let id = event.message_properties().message_id.clone();
        match id.as_ref().and_then(|id| id.as_str()) {
            Some("fails") => return Err("the handler says no".into()),
            Some("panics") => panic!("the handler panics"),
            _ => {}
        }
        context.update_checkpoint(&event).await?;
        let mut seen = self.seen.lock().unwrap();
        seen.insert((partition, event.sequence_number()));
        Ok(())
    }

    async fn on_partition_close(&self, _: &PartitionContext, reason: CloseReason) -> HandlerResult {
        print(&self.capture, &reason);
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        print(&self.capture, &context);
        print_error(&self.capture, error);
        let mut errors = self.errors.lock().unwrap();
        if is_theft(error) {
            errors.insert("theft");
        }
        errors.insert(match error {
            ProcessingError::Handler { .. } => "handler",
            ProcessingError::Undecodable { .. } => "undecodable",
            ProcessingError::Receive(_) => "receive",
            ProcessingError::DeadLetter { .. } => "dead letter",
            _ => "other",
        });
    }
}

fn is_theft(error: &ProcessingError) -> bool {
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(STOLEN) {
            return true;
        }
        next = error.source();
    }
    false
}

pub(crate) fn transport(emulator: &Emulator, hub: &str) -> AmqpTransport {
    let text = emulator.event_hubs_connection_string();
    AmqpTransport::from_connection_string(&text, hub).unwrap()
}

fn event(id: &str) -> Event {
    Event::new(format!("{id}: {BODY}"))
        .with_message_id(id)
        .with_property("p", PropertyValue::String(PROPERTY.to_owned()))
        .with_property(
            "Diagnostic-Id",
            PropertyValue::String(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
            ),
        )
}

/// An application property without a name, and a body.
fn undecodable() -> Event {
    let len = u8::try_from(UNDECODABLE.len()).unwrap();
    let start = [
        0x00, 0x53, 0x74, 0xc1, 3, 2, 0x40, 0x40, 0x00, 0x53, 0x75, 0xa0, len,
    ];
    Event::from_encoded([&start, UNDECODABLE.as_bytes()].concat())
}

/// Whether a condition comes to hold in time.
async fn within(limit: Duration, condition: impl Fn() -> bool + Send + Sync) -> bool {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.is_ok()
}

async fn eventually(what: &str, capture: &Capture, condition: impl Fn() -> bool + Send + Sync) {
    if !within(Duration::from_secs(60), condition).await {
        let text = capture.text();
        let told: Vec<_> = text
            .lines()
            .filter(|line| line.contains(" WARN "))
            .collect();
        panic!("not in a minute: {what}: {told:#?}");
    }
}

/// Processes events of all kinds over faults of all kinds, with blobs over one client library.
pub(crate) async fn run(capture: &Capture, emulator: &Emulator, backend: BlobBackend) {
    let handler = Clumsy {
        capture: capture.clone(),
        seen: Arc::default(),
        errors: Arc::default(),
    };
    for partition in ["0", "1"] {
        for id in ["first", "fails", "panics", "between"] {
            emulator.send(HUB, Some(partition), event(id)).unwrap();
        }
        emulator.send(HUB, Some(partition), undecodable()).unwrap();
        emulator.send(HUB, Some(partition), event("last")).unwrap();
    }
    let seen = |count| {
        let seen = Arc::clone(&handler.seen);
        move || seen.lock().unwrap().len() >= count
    };
    let one = start(capture, emulator, backend, &handler, true);
    eventually("the first events", capture, seen(6)).await;

    emulator.faults().answer_cbs(401, 1);
    emulator.faults().drop_connections();
    emulator.blob_faults().fail_next(3, 503, "ServerBusy", None);
    emulator.blob_faults().drop_reply_after_apply(2);
    emulator.send(HUB, Some("0"), event("later")).unwrap();
    emulator.send(HUB, Some("1"), event("later")).unwrap();
    eventually("events over faults", capture, seen(8)).await;

    // A thief, who lets go again; once more if the processor was just about to attach, and took the partition back.
    let outsider = transport(emulator, HUB);
    let is_told = || handler.errors.lock().unwrap().contains("theft");
    for _ in 0..20 {
        let mut options = ReceiverOptions::new("$Default", "0".into(), EventPosition::Latest);
        options.owner_level = Some(0);
        let thief = outsider.open_receiver(options).await.unwrap();
        let is_told = within(Duration::from_secs(3), is_told).await;
        thief.close().await;
        if is_told {
            break;
        }
    }
    outsider.close().await;

    let two = start(capture, emulator, backend, &handler, false);
    let status = || {
        print(capture, &one.status());
        two.status().partitions.len() == 1
    };
    eventually("a partition for the second", capture, status).await;
    print(capture, &two.status());
    print(capture, &two.shutdown().await.unwrap());
    emulator.send(HUB, Some("0"), event("again")).unwrap();
    emulator.send(HUB, Some("1"), event("again")).unwrap();
    eventually("events after the theft", capture, seen(10)).await;
    print(capture, &one.shutdown().await.unwrap());
    let errors = handler.errors.lock().unwrap().clone();
    for kind in ["handler", "undecodable", "receive", "theft"] {
        assert!(errors.contains(kind), "{kind}: {errors:?}");
    }
}

fn start(
    capture: &Capture,
    emulator: &Emulator,
    backend: BlobBackend,
    handler: &Clumsy,
    has_blob_letters: bool,
) -> ProcessorHandle {
    let storage = emulator.storage_connection_string();
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    let store = BlobCheckpointStore::from_connection_string_with_options(
        &storage,
        "checkpoints",
        options.clone(),
    )
    .unwrap();
    let builder = EventProcessor::builder(transport(emulator, HUB), "$Default", store)
        .with_load_balancing_interval(Duration::from_millis(500))
        .with_partition_ownership_expiration(Duration::from_secs(5))
        .with_default_starting_position(EventPosition::Earliest)
        .with_retry_delay(Duration::from_millis(50), Duration::from_secs(1))
        .with_failure_policy(
            FailurePolicy::default()
                .then(FailureAction::DeadLetter)
                .undecodable(FailureAction::DeadLetter),
        );
    let builder = if has_blob_letters {
        let letters =
            BlobDeadLetters::from_connection_string_with_options(&storage, "checkpoints", options);
        builder.with_dead_letter_sink(letters.unwrap())
    } else {
        builder.with_dead_letter_sink(EventHubDeadLetters::new(transport(emulator, LETTERS)))
    };
    print(capture, &builder);
    let processor = builder.build(handler.clone()).unwrap();
    print(capture, &processor);
    let handle = processor.spawn();
    print(capture, &handle);
    handle
}
