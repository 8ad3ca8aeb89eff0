//! Publishing events.

use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Data, Message, MessageAnnotations, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};

use super::support::{Client, Reading, annotation, data, emulator, receive, text};

#[tokio::test]
async fn what_is_sent_is_received_in_order_with_system_annotations() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub/Partitions/1").await;
    for n in 0..10 {
        let outcome = sender.send(data(&format!("event {n}"))).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)));
    }
    let mut receiver = client.receiver("1", Reading::default()).await;
    let mut last_offset = 0;
    for n in 0..10_i64 {
        let delivery = receive(&mut receiver).await;
        assert_eq!(text(&delivery), format!("event {n}"));
        assert_eq!(
            annotation(&delivery, "x-opt-sequence-number"),
            &Value::Long(n)
        );
        let Value::String(offset) = annotation(&delivery, "x-opt-offset") else {
            panic!("offset");
        };
        let offset: u64 = offset.parse().unwrap();
        assert!(offset > last_offset && offset != n as u64);
        last_offset = offset;
        assert!(matches!(
            annotation(&delivery, "x-opt-enqueued-time"),
            Value::Timestamp(_)
        ));
        assert!(delivery.message().delivery_annotations.is_none());
    }
    receiver.close().await.unwrap();
    sender.close().await.unwrap();
    client.close().await;
    emulator.stop().await;
}

#[tokio::test]
async fn properties_and_large_bodies_pass_through_unchanged() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub/Partitions/0").await;
    // Many frames in each direction: the client and the server state 64 KiB or less.
    let body = "x".repeat(900_000);
    let message = Message::builder()
        .properties(
            Properties::builder()
                .message_id("id".to_owned())
                .content_type("text/plain")
                .build(),
        )
        .application_properties(
            ApplicationProperties::builder()
                .insert("n", 7_u32)
                .insert("s", SimpleValue::Symbol(Symbol::from("sym")))
                .build(),
        )
        .data(Data(body.clone().into_bytes().into()))
        .build();
    sender.send(message).await.unwrap();
    let mut receiver = client.receiver("0", Reading::default()).await;
    let delivery = receive(&mut receiver).await;
    assert_eq!(text(&delivery), body);
    let properties = delivery.message().properties.as_ref().unwrap();
    assert_eq!(
        properties.content_type.as_ref().unwrap().as_str(),
        "text/plain"
    );
    let application = delivery.message().application_properties.as_ref().unwrap();
    assert_eq!(application.0.get("n"), Some(&SimpleValue::Uint(7)));
    assert_eq!(
        application.0.get("s"),
        Some(&SimpleValue::Symbol(Symbol::from("sym")))
    );
}

#[tokio::test]
async fn a_message_of_the_largest_size_passes() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub").await;
    let body = vec![0_u8; 1024 * 1024 - 8];
    let message = Message::builder().data(Data(body.into())).build();
    let outcome = sender.send(message).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
}

#[tokio::test]
async fn keyed_messages_go_to_the_partition_of_the_hash() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("amqps://host:1/hub").await;
    for (key, partition) in [("7", "3"), ("131", "2"), ("FWfAT", "1")] {
        let before = emulator.partition_properties("hub", partition).unwrap();
        let message = Message::builder()
            .message_annotations(
                MessageAnnotations::builder()
                    .insert(Symbol::from("x-opt-partition-key"), key)
                    .build(),
            )
            .data(Data(vec![1].into()))
            .build();
        sender.send(message).await.unwrap();
        let after = emulator.partition_properties("hub", partition).unwrap();
        assert_eq!(
            after.last_enqueued_sequence_number,
            before.last_enqueued_sequence_number + 1
        );
    }
}
