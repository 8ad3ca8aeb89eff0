//! What the emulator says it holds, next to what a client sends and receives.

use std::net::{IpAddr, Ipv4Addr};
use std::time::UNIX_EPOCH;

use eventhubs_emulator::{Emulator, EmulatorError, Event, PartitionStatus};
use fe2o3_amqp_types::messaging::{Data, Message};
use fe2o3_amqp_types::primitives::Value;

use super::support::{Client, Reading, annotation, data, emulator, receive, text};

#[tokio::test]
async fn the_record_of_a_partition_is_what_its_receivers_get() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub/Partitions/1").await;
    for n in 0..3 {
        sender.send(data(&format!("event {n}"))).await.unwrap();
    }
    let sections = [&b"one "[..], b"\x00\xff"].map(|part| Data(part.to_vec().into()));
    let message = Message::builder().data_batch(sections).build();
    sender.send(message).await.unwrap();
    let keyed = Event::new("keyed").with_partition_key("key");
    emulator.send("hub", Some("1"), keyed).unwrap();

    let record = emulator.events("hub", "1").unwrap();
    assert_eq!(record.len(), 5);
    let mut receiver = client.receiver("1", Reading::default()).await;
    for (n, event) in (0_i64..).zip(&record) {
        let delivery = receive(&mut receiver).await;
        assert_eq!(event.sequence_number, n);
        assert_eq!(
            annotation(&delivery, "x-opt-offset"),
            &Value::String(event.offset.clone())
        );
        let millis = event.enqueued_time.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(
            annotation(&delivery, "x-opt-enqueued-time"),
            &Value::Timestamp(i64::try_from(millis.as_millis()).unwrap().into())
        );
        if n < 3 {
            assert_eq!(event.body, text(&delivery).as_bytes());
        }
        assert!(event.encoded.ends_with(&event.body[event.body.len() - 2..]));
    }
    assert_eq!(record[3].body, b"one \x00\xff");
    let keys: Vec<_> = record.iter().map(|e| e.partition_key.as_deref()).collect();
    assert_eq!(keys, [None, None, None, None, Some("key")]);

    assert!(emulator.events("hub", "0").unwrap().is_empty());
    assert!(matches!(
        emulator.events("hub", "4").unwrap_err(),
        EmulatorError::NoSuchPartition { .. }
    ));
    receiver.close().await.unwrap();
    sender.close().await.unwrap();
    client.close().await;
    emulator.stop().await;
}

#[tokio::test]
async fn the_owner_levels_of_receivers_are_told() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let levels = || {
        let partitions = emulator.status().hubs.remove(0).partitions;
        let levels = |partition: &PartitionStatus| -> Vec<_> {
            let readers = partition.readers.iter();
            readers.map(|reader| reader.owner_level).collect()
        };
        partitions.iter().map(levels).collect::<Vec<_>>()
    };
    assert_eq!(levels()[0], []);
    let named = |name, epoch| Reading {
        name,
        epoch,
        ..Reading::default()
    };
    let first = client.receiver("0", named("first", None)).await;
    let second = client.receiver("0", named("second", None)).await;
    assert_eq!(levels()[0], [None, None]);
    let third = client.receiver("0", named("third", Some(7))).await;
    assert_eq!(levels()[0], [Some(7)]);
    assert!(levels()[1..].iter().all(Vec::is_empty));
    drop((first, second, third));
    emulator.stop().await;
}

/// Linux has the whole network 127.0.0.0/8 on its loopback interface.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn connection_strings_name_the_address_that_is_listened_on() {
    let host = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
    let emulator = Emulator::builder().with_host(host).start().await.unwrap();
    let expected = format!("Endpoint=sb://127.0.0.77:{};", emulator.amqp_addr().port());
    let event_hubs = emulator.event_hubs_connection_string();
    assert!(event_hubs.starts_with(&expected), "{event_hubs}");
    let storage = emulator.storage_connection_string();
    assert!(storage.contains("=http://127.0.0.77:"), "{storage}");
    emulator.stop().await;
    let usual = Emulator::start().await.unwrap();
    assert!(
        usual
            .event_hubs_connection_string()
            .starts_with("Endpoint=sb://localhost:")
    );
    usual.stop().await;
}
