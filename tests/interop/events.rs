//! Everything that a Python producer can send, as ours receives it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventhubs_processor::{
    AmqpBody, AmqpTransport, EventPosition, EventProcessor, InMemoryCheckpointStore,
    ProcessorHandle, ReceivedEvent, Value, handler_fn_with,
};
use tokio::sync::mpsc;

use crate::setup::{Group, HUB, PARTITIONS, START, Tools, emulator, within};

const UUID: [u8; 16] = [
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];

/// Ours, receiving from the beginning of all partitions into a channel.
struct Receiver {
    processor: ProcessorHandle,
    events: mpsc::UnboundedReceiver<(String, ReceivedEvent)>,
}

impl Receiver {
    fn start(connection_string: &str) -> Self {
        let hub = AmqpTransport::from_connection_string(connection_string, HUB).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let handler = handler_fn_with(sender, async |sender, context, event| {
            sender.send((context.partition_id().as_str().to_owned(), event))?;
            Ok(())
        });
        let processor =
            EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::default())
                .with_default_starting_position(EventPosition::Earliest)
                .build(handler)
                .unwrap()
                .spawn();
        Self { processor, events }
    }

    /// The next so many events, by partition.
    async fn receive(&mut self, count: usize) -> BTreeMap<String, Vec<ReceivedEvent>> {
        let mut received = BTreeMap::<_, Vec<_>>::new();
        for so_far in 0..count {
            let next = tokio::time::timeout(START, self.events.recv());
            let Ok(Some((partition, event))) = next.await else {
                panic!("{so_far} of {count} events came");
            };
            received.entry(partition).or_default().push(event);
        }
        received
    }

    async fn stop(self) {
        self.processor.shutdown().await.unwrap();
    }
}

/// The service's part of every event: numbers without gaps, offsets and times that grow.
fn assert_in_order(events: &[ReceivedEvent]) {
    for (expected, event) in (0..).zip(events) {
        assert_eq!(event.sequence_number(), expected);
        let age = SystemTime::now()
            .duration_since(event.enqueued_time())
            .unwrap_or_default();
        assert!(age < Duration::from_secs(120), "{event:?} is {age:?} old");
    }
    for pair in events.windows(2) {
        assert!(pair[0].enqueued_time() <= pair[1].enqueued_time());
        assert_ne!(pair[0].offset(), pair[1].offset());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_sends_to_all_partitions_arrives_in_order() {
    let Some(tools) = Tools::from_env("what_python_sends_to_all_partitions_arrives_in_order")
    else {
        return;
    };
    within(Duration::from_secs(240), all_partitions(tools)).await;
}

async fn all_partitions(tools: Tools) {
    let emulator = emulator(|builder| builder).await;
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    let mut receiver = Receiver::start(&group.event_hubs_connection_string);

    let mut producer = group
        .producer(&["steady", "--rate", "500", "--batch", "5", "--count", "400"])
        .spawn();
    let received = receiver.receive(400).await;
    producer.exited(START).await;
    producer.succeeded();
    let mut sent = BTreeMap::<String, Vec<String>>::new();
    for line in producer.lines() {
        let batch = &line.value["sent"];
        let bodies = batch["bodies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|body| body.as_str().unwrap().to_owned());
        sent.entry(batch["partition"].as_str().unwrap().to_owned())
            .or_default()
            .extend(bodies);
    }
    assert_eq!(sent.len(), PARTITIONS.len());
    for (partition, bodies) in &sent {
        assert_in_order(&received[partition]);
        let arrived: Vec<_> = received[partition]
            .iter()
            .map(|event| event.body_as_str().into_owned())
            .collect();
        assert_eq!(&arrived, bodies, "partition {partition}");
    }
    receiver.stop().await;
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_sends_with_a_key_arrives_together_and_with_the_key() {
    let test = "what_python_sends_with_a_key_arrives_together_and_with_the_key";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(240), keyed(tools)).await;
}

async fn keyed(tools: Tools) {
    let emulator = emulator(|builder| builder).await;
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    let mut receiver = Receiver::start(&group.event_hubs_connection_string);

    let mut producer = group
        .producer(&["keyed", "--keys", "16", "--count", "10"])
        .spawn();
    let received = receiver.receive(160).await;
    producer.exited(START).await;
    producer.succeeded();
    let mut partitions = BTreeMap::<String, BTreeSet<String>>::new();
    let mut numbers = BTreeMap::<String, Vec<usize>>::new();
    for (partition, events) in &received {
        assert_in_order(events);
        for event in events {
            let body = event.body_as_str();
            let (key, number) = body.split_once('/').unwrap();
            assert_eq!(event.partition_key(), Some(key));
            partitions
                .entry(key.to_owned())
                .or_default()
                .insert(partition.clone());
            numbers
                .entry(key.to_owned())
                .or_default()
                .push(number.parse().unwrap());
        }
    }
    assert_eq!(partitions.len(), 16);
    assert!(
        partitions.values().all(|partitions| partitions.len() == 1),
        "{partitions:?}"
    );
    assert!(
        numbers
            .values()
            .all(|numbers| numbers.iter().copied().eq(0..10)),
        "{numbers:?}"
    );
    receiver.stop().await;
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_event_that_python_sends_arrives_as_it_was() {
    let test = "every_kind_of_event_that_python_sends_arrives_as_it_was";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(240), kinds(tools)).await;
}

async fn kinds(tools: Tools) {
    let emulator = emulator(|builder| builder).await;
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    let mut receiver = Receiver::start(&group.event_hubs_connection_string);

    let singles = [
        "text",
        "unicode",
        "empty",
        "binary",
        "200 kB",
        "properties",
        "described",
        "every message property",
        "binary id",
        "annotated",
        "several data sections",
        "value",
        "sequence",
    ];
    let batch = (0..10).map(|number| format!("batch {number}"));
    let expected: Vec<_> = singles
        .iter()
        .map(ToString::to_string)
        .chain(batch)
        .chain(singles[..8].iter().map(ToString::to_string))
        .collect();
    let mut producer = group.producer(&["kinds", "--partition", "2"]).spawn();
    let received = receiver.receive(expected.len()).await;
    producer.exited(START).await;
    producer.succeeded();
    assert_eq!(received.keys().collect::<Vec<_>>(), ["2"]);
    let events = &received["2"];
    assert_in_order(events);
    let labels: Vec<_> = events
        .iter()
        .map(|event| event.properties()["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, expected);
    for event in events {
        assert_kind(event);
        assert_eq!(event.partition_key(), None);
    }
    receiver.stop().await;
    emulator.stop().await;
}

fn assert_kind(event: &ReceivedEvent) {
    let text = |text: &str| Value::String(text.to_owned());
    let properties = event.message_properties();
    let label = event.properties()["label"].as_str().unwrap();
    match label {
        "text" => assert_eq!(event.body(), b"text"),
        "unicode" => assert_eq!(event.body_as_str(), "žluťoučký 🦀 日本"),
        "empty" => assert_eq!(event.body(), b""),
        "binary" => assert!(event.body().iter().copied().eq(0..=255)),
        "200 kB" => {
            assert_eq!(event.body().len(), 200_000);
            assert!(
                event
                    .body()
                    .iter()
                    .zip((0..=250_u8).cycle())
                    .all(|(got, sent)| *got == sent)
            );
        }
        "properties" => assert_eq!(event.properties(), &application_properties()),
        "described" => {
            assert_eq!(properties.message_id, Some(text("message 1")));
            assert_eq!(properties.correlation_id, Some(text("correlation 1")));
            assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        }
        "every message property" => {
            let at = |milliseconds| Some(UNIX_EPOCH + Duration::from_millis(milliseconds));
            assert_eq!(properties.message_id, Some(Value::Uuid(UUID)));
            assert_eq!(properties.user_id.as_deref(), Some(&b"user"[..]));
            assert_eq!(properties.to.as_deref(), Some("to"));
            assert_eq!(properties.subject.as_deref(), Some("subject"));
            assert_eq!(properties.reply_to.as_deref(), Some("reply to"));
            assert_eq!(properties.correlation_id, Some(text("correlation 2")));
            assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
            assert_eq!(properties.content_encoding.as_deref(), Some("utf-8"));
            assert_eq!(properties.absolute_expiry_time, at(1_709_208_000_123));
            assert_eq!(properties.creation_time, at(1_709_208_000_000));
            assert_eq!(properties.group_id.as_deref(), Some("group"));
            assert_eq!(properties.group_sequence, Some(7));
            assert_eq!(properties.reply_to_group_id.as_deref(), Some("reply group"));
        }
        "binary id" => {
            assert_eq!(
                properties.message_id,
                Some(Value::Binary(vec![1, 2].into()))
            );
        }
        "annotated" => {
            let annotations = event.system_properties();
            assert_eq!(annotations["x-opt-custom"].as_str(), Some("mine"));
            assert_eq!(annotations["x-opt-number"].as_i64(), Some(5));
        }
        "several data sections" => assert_eq!(event.body(), b"onetwo"),
        "value" => {
            let list = Value::List(vec![
                text("list"),
                Value::I32(1),
                Value::Bool(true),
                Value::Null,
            ]);
            assert_eq!(
                event.amqp_body(),
                &AmqpBody::Value(Value::Map(vec![(text("key"), list)]))
            );
        }
        "sequence" => {
            let lists =
                [("a", 1), ("b", 2)].map(|(name, number)| vec![text(name), Value::I32(number)]);
            assert_eq!(event.amqp_body(), &AmqpBody::Sequence(lists.to_vec()));
        }
        _ => {
            assert_eq!(event.body_as_str(), label);
            let number = event.properties()["number"].as_i64().unwrap();
            assert_eq!(format!("batch {number}"), label);
        }
    }
}

/// `PROPERTIES` of `produce.py`
fn application_properties() -> BTreeMap<String, Value> {
    let mut decimal128 = [0; 16];
    // 1 × 10⁰: the exponent's bias, and a significand of 1.
    decimal128[..2].copy_from_slice(&[0x30, 0x40]);
    decimal128[15] = 1;
    BTreeMap::from(
        [
            ("label", Value::String("properties".to_owned())),
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("ubyte", Value::U8(u8::MAX)),
            ("ushort", Value::U16(u16::MAX)),
            ("uint", Value::U32(u32::MAX)),
            ("ulong", Value::U64(u64::MAX)),
            ("byte", Value::I8(i8::MIN)),
            ("short", Value::I16(i16::MIN)),
            ("int", Value::I32(i32::MIN)),
            ("long", Value::I64(i64::MIN)),
            ("float", Value::F32(1.5)),
            ("double", Value::F64(-2.25)),
            ("decimal128", Value::Decimal128(decimal128)),
            ("timestamp", Value::Timestamp(1_709_208_000_123)),
            ("uuid", Value::Uuid(UUID)),
            ("binary", Value::Binary(vec![0x00, 0xff].into())),
            ("string", Value::String("žluťoučký 🦀".to_owned())),
            ("empty string", Value::String(String::new())),
            ("symbol", Value::Symbol("sym".to_owned())),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}
