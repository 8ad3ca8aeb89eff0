//! Every feature of the unmodified official Rust SDK, one after the other, as JSON lines; shared by `rust-0.15` and
//! `rust-0.16`.
//!
//! What each line has to hold stands in `../strangers/features.rs`, which prepares the event hubs, gives the settings,
//! and compares everything with what the emulator has.

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_messaging_eventhubs::models::{AmqpSimpleValue, EventData, ReceivedEventData};
use azure_messaging_eventhubs::{
    ConsumerClient, EventDataBatchOptions, OpenReceiverOptions, ProducerClient, SendEventOptions,
    StartLocation, StartPosition,
};
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};

use crate::namespace::{AnyToken, BoxError, Namespace, print_line, required};

const WAIT: Duration = Duration::from_secs(20);

/// Not text for anybody who looks.
fn body(text: &str) -> Vec<u8> {
    [&[0x00, 0xff], text.as_bytes()].concat()
}

pub fn events(label: &str, count: usize) -> Vec<EventData> {
    (0..count)
        .map(|n| {
            EventData::builder()
                .with_body(body(&format!("{label} {n}")))
                .build()
        })
        .collect()
}

pub async fn features() -> Result<(), BoxError> {
    tell_properties().await?;
    send().await?;
    crate::buffered::send().await?;
    receive().await?;
    unsupported("last_enqueued", "no option and no accessor");
    Ok(())
}

pub fn unsupported(feature: &str, reason: &str) {
    print_line(&json!({ "unsupported": { "feature": feature, "reason": reason } }));
}

async fn producer(hub: &str) -> Result<ProducerClient, BoxError> {
    let namespace = Namespace::from_env();
    let builder = ProducerClient::builder().with_custom_endpoint(namespace.custom_endpoint());
    Ok(builder.open(&namespace.host, hub, AnyToken::new()).await?)
}

/// Under its name it owns partitions; without one it has a name that nobody had before.
pub async fn consumer(name: Option<&str>) -> Result<ConsumerClient, BoxError> {
    let namespace = Namespace::from_env();
    let mut builder = ConsumerClient::builder()
        .with_custom_endpoint(namespace.custom_endpoint())
        // INTEROP: this SDK writes the names of blobs as they are given, the others in lower case.
        .with_consumer_group("$default".to_owned());
    if let Some(name) = name {
        builder = builder.with_application_id(name.to_owned());
    }
    let hub = required("EVENTHUB_NAME");
    Ok(builder.open(&namespace.host, hub, AnyToken::new()).await?)
}

async fn tell_properties() -> Result<(), BoxError> {
    let client = producer(&required("EVENTHUB_NAME")).await?;
    let hub = client.get_eventhub_properties().await?;
    print_line(&json!({ "hub": {
        "name": hub.name,
        "partition_ids": hub.partition_ids,
        "created_ms": hub.created_on.map(milliseconds),
    }}));
    for partition in ["0", "1"] {
        let told = client.get_partition_properties(partition).await?;
        print_line(&json!({ "partition": {
            "hub": told.eventhub,
            "id": told.id,
            "begin": told.beginning_sequence_number,
            "last": told.last_enqueued_sequence_number,
            "last_offset": told.last_enqueued_offset,
            "last_time_ms": told.last_enqueued_time_utc.map(milliseconds),
            "is_empty": told.is_empty,
        }}));
    }
    client.close().await?;
    Ok(())
}

async fn send() -> Result<(), BoxError> {
    let client = producer(&required("SEND_EVENTHUB_NAME")).await?;
    client
        .send_event(events("single", 1).remove(0), None::<SendEventOptions>)
        .await?;
    print_line(&json!({ "sent": "single" }));
    send_batch(&client, "batch", 100, EventDataBatchOptions::default()).await?;
    let to_key = EventDataBatchOptions {
        partition_key: Some("7".to_owned()),
        ..EventDataBatchOptions::default()
    };
    send_batch(&client, "key", 5, to_key).await?;
    let to_partition = EventDataBatchOptions {
        partition_id: Some("2".to_owned()),
        ..EventDataBatchOptions::default()
    };
    send_batch(&client, "partition", 5, to_partition).await?;
    client.close().await?;
    Ok(())
}

async fn send_batch(
    client: &ProducerClient,
    label: &str,
    count: usize,
    options: EventDataBatchOptions,
) -> Result<(), BoxError> {
    let batch = client.create_batch(Some(options)).await?;
    for event in events(label, count) {
        if !batch.try_add_event_data(event, None)? {
            return Err("the batch is full".into());
        }
    }
    client.send_batch(batch, None).await?;
    print_line(&json!({ "sent": label }));
    Ok(())
}

async fn receive() -> Result<(), BoxError> {
    let last: i64 = required("LAST_SEQUENCE_NUMBER").parse()?;
    let offset = StartLocation::Offset(required("MIDDLE_OFFSET"));
    let number = StartLocation::SequenceNumber(required("MIDDLE_SEQUENCE_NUMBER").parse()?);
    let time = UNIX_EPOCH + Duration::from_millis(required("MIDDLE_TIME_MS").parse()?);
    let time = StartLocation::EnqueuedTime(time);
    for (name, location, inclusive) in [
        ("earliest", StartLocation::Earliest, false),
        ("after_offset", offset.clone(), false),
        ("at_offset", offset, true),
        ("after_sequence_number", number.clone(), false),
        ("at_sequence_number", number, true),
        ("after_time", time.clone(), false),
        ("at_time", time, true),
    ] {
        let mut receiver = Receiver::open(
            "1",
            StartPosition {
                location,
                inclusive,
            },
            None,
        )
        .await?;
        let seen = receiver.receive_until(last).await?;
        print_line(&json!({ "received": { "position": name, "events": seen } }));
    }
    Ok(())
}

/// The event comes once this receiver is there.
pub async fn latest() -> Result<(), BoxError> {
    let latest = StartPosition {
        location: StartLocation::Latest,
        inclusive: false,
    };
    let mut receiver = Receiver::open("1", latest, None).await?;
    let event = receiver.next().await?;
    print_line(&json!({ "received": { "position": "latest", "events": [event] } }));
    Ok(())
}

/// Each event comes once the receiver of that level is there.
pub async fn owner_levels() -> Result<(), BoxError> {
    let earliest = StartPosition {
        location: StartLocation::Earliest,
        inclusive: false,
    };
    let mut first = Receiver::open("3", earliest.clone(), Some(1)).await?;
    first.receive_until(0).await?;
    let mut second = Receiver::open("3", earliest.clone(), Some(2)).await?;
    second.receive_until(0).await?;
    let error = first
        .next()
        .await
        .err()
        .ok_or("the first receiver goes on")?;
    second.receive_until(1).await?;
    print_line(&json!({ "taken": error.to_string() }));
    let refused = match Receiver::open("3", earliest, Some(1)).await {
        Ok(mut third) => third
            .next()
            .await
            .err()
            .ok_or("the third receiver is let in")?,
        Err(error) => error,
    };
    print_line(&json!({ "refused": refused.to_string(), "seen": [] }));
    second.receive_until(2).await?;
    print_line(&json!({ "kept": [] }));
    Ok(())
}

type Events = Pin<Box<dyn Stream<Item = azure_messaging_eventhubs::Result<ReceivedEventData>>>>;

/// A receiver of one partition, with a connection of its own.
struct Receiver {
    events: Events,
}

impl Receiver {
    async fn open(
        partition: &str,
        start: StartPosition,
        owner_level: Option<i64>,
    ) -> Result<Self, BoxError> {
        let client = consumer(None).await?;
        let options = OpenReceiverOptions {
            owner_level,
            start_position: Some(start),
            ..OpenReceiverOptions::default()
        };
        let receiver = client
            .open_receiver_on_partition(partition.to_owned(), Some(options))
            .await?;
        // The stream borrows the receiver, and the receiver wants the client to live.
        let events = async_stream::stream! {
            let _client = client;
            let mut events = receiver.stream_events();
            while let Some(event) = events.next().await {
                yield event;
            }
        };
        Ok(Self {
            events: Box::pin(events),
        })
    }

    async fn next(&mut self) -> Result<Value, BoxError> {
        let next = tokio::time::timeout(WAIT, self.events.next()).await?;
        match next.ok_or("the stream ended")? {
            Ok(event) => Ok(show(&event)),
            // The kind says more than the text.
            Err(error) => Err(format!("{:?}: {error}", error.kind).into()),
        }
    }

    async fn receive_until(&mut self, last: i64) -> Result<Vec<Value>, BoxError> {
        let mut seen = Vec::new();
        loop {
            let event = self.next().await?;
            let is_last = event["sequence_number"].as_i64() >= Some(last);
            seen.push(event);
            if is_last {
                return Ok(seen);
            }
        }
    }
}

fn show(event: &ReceivedEventData) -> Value {
    let data = event.event_data();
    let hex: String = data
        .body()
        .unwrap_or_default()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let n = match data.properties().and_then(|properties| properties.get("n")) {
        Some(AmqpSimpleValue::Long(n)) => Some(*n),
        _ => None,
    };
    json!({
        "sequence_number": event.sequence_number(),
        "offset": event.offset(),
        "enqueued_time_ms": event.enqueued_time().map(milliseconds),
        "partition_key": event.partition_key(),
        "body": hex,
        "n": n,
    })
}

pub fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(-1, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
