//! The AMQP client against the emulator: reading, and what the other modules share.

mod events;
mod flow;
mod geo;
mod identity;
mod recovery;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::credential::{AccessToken, EventHubsCredential, Secret, TokenCredential};
use eventhubs_processor::error::{BoxError, TransportError, TransportErrorKind as Kind};
use eventhubs_processor::transport::{
    AmqpOptions, AmqpTransport, PartitionReceiver, ReceiverOptions, Transport,
};
use eventhubs_processor::{EventPosition, Offset, ReceivedEvent};
use tokio::time::timeout;

const HUB: &str = "hub";

const KEY: &str = "the-canary-key";

/// Timeouts short enough for a test and long enough for a busy machine.
fn options() -> AmqpOptions {
    AmqpOptions::default()
        .with_operation_timeout(Duration::from_secs(10))
        .with_connect_timeout(Duration::from_secs(3))
        .with_close_timeout(Duration::from_secs(2))
        .with_idle_timeout(Duration::from_secs(4))
}

async fn emulator() -> Emulator {
    Emulator::builder().with_hub(HUB, 4).start().await.unwrap()
}

fn client(emulator: &Emulator) -> AmqpTransport {
    let text = emulator.event_hubs_connection_string();
    AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap()
}

async fn setup() -> (Emulator, AmqpTransport) {
    let emulator = emulator().await;
    let client = client(&emulator);
    (emulator, client)
}

fn send(emulator: &Emulator, partition: &str, bodies: std::ops::Range<usize>) -> Vec<i64> {
    bodies
        .map(|n| {
            emulator
                .send(HUB, Some(partition), Event::new(n.to_string()))
                .unwrap()
                .sequence_number
        })
        .collect()
}

fn at(partition: &str, position: EventPosition) -> ReceiverOptions {
    let mut options = ReceiverOptions::new("$Default", partition.into(), position);
    options.owner_level = Some(0);
    options
}

async fn receive(receiver: &mut Box<dyn PartitionReceiver>, count: usize) -> Vec<ReceivedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let more = timeout(
            Duration::from_secs(10),
            receiver.receive(count - events.len()),
        )
        .await
        .unwrap()
        .unwrap();
        assert!(!more.is_empty());
        events.extend(more);
    }
    events
}

fn bodies(events: &[ReceivedEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| event.body_as_str().into_owned())
        .collect()
}

async fn error_of(receiver: &mut Box<dyn PartitionReceiver>) -> TransportError {
    timeout(Duration::from_secs(15), receiver.receive(10))
        .await
        .unwrap()
        .unwrap_err()
}

async fn open_error(client: &AmqpTransport, options: ReceiverOptions) -> TransportError {
    timeout(Duration::from_secs(15), client.open_receiver(options))
        .await
        .unwrap()
        .map(drop)
        .unwrap_err()
}

#[tokio::test]
async fn reads_the_properties_of_hub_and_partition() {
    let (emulator, client) = setup().await;
    let sent = send(&emulator, "1", 0..3);
    let hub = client.event_hub_properties().await.unwrap();
    assert_eq!(hub.name, HUB);
    assert_eq!(hub.partition_ids.len(), 4);
    assert!(hub.created_at.is_some());
    let partition = client.partition_properties(&"1".into()).await.unwrap();
    assert_eq!(partition.last_enqueued_sequence_number, sent[2]);
    assert!(!partition.is_empty);
    let empty = client.partition_properties(&"0".into()).await.unwrap();
    assert!(empty.is_empty);
    let expected = emulator.partition_properties(HUB, "1").unwrap();
    assert_eq!(
        partition.last_enqueued_offset.as_str(),
        expected.last_enqueued_offset
    );
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

#[tokio::test]
async fn starts_at_every_position() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..3);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let middle = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(&emulator, "0", 3..5);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let all = receive(&mut receiver, 5).await;
    receiver.close().await;
    assert_eq!(bodies(&all), ["0", "1", "2", "3", "4"]);
    let third = &all[2];
    let cases = [
        (EventPosition::offset(third.offset().clone()), 3),
        (EventPosition::offset(third.offset().clone()).inclusive(), 2),
        (EventPosition::sequence_number(third.sequence_number()), 3),
        (
            EventPosition::sequence_number(third.sequence_number()).inclusive(),
            2,
        ),
        (EventPosition::enqueued_time(middle), 3),
        (EventPosition::enqueued_time(middle).inclusive(), 3),
    ];
    for (position, first) in cases {
        let mut receiver = client
            .open_receiver(at("0", position.clone()))
            .await
            .unwrap();
        let events = receive(&mut receiver, 5 - first).await;
        let expected: Vec<_> = (first..5).map(|n| n.to_string()).collect();
        assert_eq!(bodies(&events), expected, "{position:?}");
        receiver.close().await;
    }
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Latest))
        .await
        .unwrap();
    send(&emulator, "0", 5..6);
    assert_eq!(bodies(&receive(&mut receiver, 1).await), ["5"]);
    receiver.close().await;
    client.close().await;
}

#[tokio::test]
async fn an_event_arrives_with_all_its_parts() {
    let (emulator, client) = setup().await;
    let event = Event::new("body")
        .with_partition_key("key")
        .with_message_id("id")
        .with_property("n", 7_i64);
    let sent = emulator.send(HUB, Some("2"), event).unwrap();
    let mut options = at("2", EventPosition::Earliest);
    options.track_last_enqueued_event_properties = true;
    let mut receiver = client.open_receiver(options).await.unwrap();
    let event = &receive(&mut receiver, 1).await[0];
    assert_eq!(event.body(), b"body");
    assert_eq!(event.sequence_number(), sent.sequence_number);
    assert_eq!(event.offset(), &Offset::from(sent.offset));
    assert_eq!(event.partition_key(), Some("key"));
    assert_eq!(event.properties()["n"].as_i64(), Some(7));
    let id = event.message_properties().message_id.as_ref().unwrap();
    assert_eq!(id.as_str(), Some("id"));
    let last = event.last_enqueued().unwrap();
    assert_eq!(last.sequence_number, sent.sequence_number);
    client.close().await;
}

#[tokio::test]
async fn a_position_beyond_the_end_is_invalid() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..2);
    let error = open_error(&client, at("0", EventPosition::sequence_number(500))).await;
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error}");
    let error = open_error(&client, at("0", EventPosition::offset("' or '1'='1"))).await;
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error}");
}

async fn eventually(is_so: impl Fn() -> bool) {
    for _ in 0..100 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never");
}
