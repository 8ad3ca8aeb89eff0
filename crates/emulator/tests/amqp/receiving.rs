//! Positions, credit and owner levels.

use eventhubs_emulator::{Emulator, Event};
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use tokio::time::timeout;

use super::support::{Client, PATIENCE, Reading, emulator, is_silent, lookup, receive, text};

#[tokio::test]
async fn credit_is_honoured_exactly() {
    let emulator = emulator().await;
    for n in 0..10 {
        emulator
            .send("hub", Some("0"), Event::new(format!("{n}")))
            .unwrap();
    }
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Manual,
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    assert!(is_silent(&mut receiver).await);
    receiver.set_credit(3).await.unwrap();
    for _ in 0..3 {
        receive(&mut receiver).await;
    }
    assert!(is_silent(&mut receiver).await);
    receiver.set_credit(1).await.unwrap();
    assert_eq!(text(&receive(&mut receiver).await), "3");
    assert!(is_silent(&mut receiver).await);
}

#[tokio::test]
async fn a_waiting_receiver_gets_new_events_at_once() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        position: "x-opt-offset > '@latest'",
        metrics: true,
        ..Reading::default()
    };
    emulator.send("hub", Some("2"), "before").unwrap();
    let mut receiver = client.receiver("2", reading).await;
    let sent = emulator.send("hub", Some("2"), "after").unwrap();
    let delivery = receive(&mut receiver).await;
    assert_eq!(text(&delivery), "after");
    let annotations = delivery.message().delivery_annotations.as_ref().unwrap();
    let last = lookup(&annotations.0, "last_enqueued_sequence_number");
    assert_eq!(last, Some(&Value::Long(sent.sequence_number)));
    let offset = lookup(&annotations.0, "last_enqueued_offset");
    assert_eq!(offset, Some(&Value::String(sent.offset)));
}

#[tokio::test]
async fn each_kind_of_position_starts_where_it_says() {
    let emulator = emulator().await;
    let sent: Vec<_> = (0..5)
        .map(|n| emulator.send("hub", Some("0"), &*format!("{n}")).unwrap())
        .collect();
    let offset = sent[2].offset.clone();
    for (position, first) in [
        ("x-opt-offset > '-1'".to_owned(), "0"),
        (format!("x-opt-offset > '{offset}'"), "3"),
        (format!("x-opt-offset >= '{offset}'"), "2"),
        (format!("x-opt-offset > {offset}"), "3"),
        ("x-opt-sequence-number > '2'".to_owned(), "3"),
        ("x-opt-sequence-number >= '2'".to_owned(), "2"),
        ("x-opt-enqueued-time > '0'".to_owned(), "0"),
    ] {
        let mut client = Client::connect(&emulator).await;
        let reading = Reading {
            position: position.clone().leak(),
            ..Reading::default()
        };
        let mut receiver = client.receiver("0", reading).await;
        assert_eq!(text(&receive(&mut receiver).await), first, "{position}");
        client.close().await;
    }
}

#[tokio::test]
async fn an_impossible_attach_is_refused_with_the_service_s_condition() {
    let emulator = emulator().await;
    emulator.send("hub", Some("0"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    for (partition, position, condition) in [
        (
            "9",
            "x-opt-offset > '-1'",
            "com.microsoft:argument-out-of-range",
        ),
        (
            "00",
            "x-opt-offset > '-1'",
            "com.microsoft:argument-out-of-range",
        ),
        (
            "0",
            "x-opt-sequence-number > '99'",
            "com.microsoft:argument-error",
        ),
        (
            "0",
            "x-opt-offset > '99999999999'",
            "com.microsoft:argument-error",
        ),
        ("0", "x-opt-offset > 'abc'", "com.microsoft:argument-error"),
        ("0", "no selector", "com.microsoft:argument-error"),
    ] {
        let reading = Reading {
            position,
            ..Reading::default()
        };
        let error = client.refusal(partition, reading).await;
        assert!(error.contains(condition), "{error}");
    }
    let error = Receiver::attach(
        &mut client.session,
        "r",
        "nohub/ConsumerGroups/$Default/Partitions/0",
    )
    .await
    .unwrap_err();
    assert!(format!("{error:?}").contains("NotFound"), "{error:?}");
}

#[tokio::test]
async fn owner_levels_decide_who_reads() {
    let emulator = emulator().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(&emulator).await);
    }
    let at_level = |epoch| Reading {
        epoch,
        ..Reading::default()
    };
    let mut first = clients[0].receiver("0", at_level(Some(1))).await;
    for epoch in [None, Some(0)] {
        let error = clients[1].refusal("0", at_level(epoch)).await;
        assert!(error.contains("Stolen"), "{error}");
    }
    let mut second = clients[2].receiver("0", at_level(Some(1))).await;
    let error = timeout(PATIENCE, first.recv::<Body<Value>>())
        .await
        .unwrap()
        .unwrap_err();
    assert!(format!("{error:?}").contains("Stolen"), "{error:?}");
    emulator.send("hub", Some("0"), "x").unwrap();
    assert_eq!(text(&receive(&mut second).await), "x");
    assert_eq!(emulator.receiver_count("hub", "0").unwrap(), 1);

    // A connection that breaks frees its place and its level.
    drop(second);
    emulator.faults().drop_connections();
    while emulator.connection_count() > 0 {
        tokio::task::yield_now().await;
    }
    let mut again = Client::connect(&emulator).await;
    let mut receiver = again.receiver("0", at_level(None)).await;
    assert_eq!(text(&receive(&mut receiver).await), "x");
}

#[tokio::test]
async fn a_sixth_receiver_without_a_level_is_refused() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut receivers = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let reading = Reading {
            name,
            ..Reading::default()
        };
        receivers.push(client.receiver("0", reading).await);
    }
    let reading = Reading {
        name: "f",
        ..Reading::default()
    };
    let error = client.refusal("0", reading).await;
    assert!(error.contains("ResourceLimit"), "{error}");
    emulator.send("hub", Some("0"), "to all").unwrap();
    for receiver in &mut receivers {
        assert_eq!(text(&receive(receiver).await), "to all");
    }
}

#[tokio::test]
async fn retention_moves_the_start_of_a_partition() {
    let emulator = Emulator::builder()
        .with_hub("hub", 1)
        .with_retention(3, usize::MAX)
        .start()
        .await
        .unwrap();
    for n in 0..10 {
        emulator.send("hub", None, &*format!("{n}")).unwrap();
    }
    let properties = emulator.partition_properties("hub", "0").unwrap();
    assert_eq!(properties.begin_sequence_number, 7);
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        position: "x-opt-sequence-number > '2'",
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    assert_eq!(text(&receive(&mut receiver).await), "7");
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_does_not_hold_up_others() {
    let emulator = emulator().await;
    let mut slow = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Auto(1_000_000),
        ..Reading::default()
    };
    let _never_read = slow.receiver("0", reading).await;
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Auto(1000),
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    let body = "x".repeat(100_000);
    for _ in 0..200 {
        emulator.send("hub", Some("0"), &*body).unwrap();
    }
    for _ in 0..200 {
        receive(&mut receiver).await;
    }
}
