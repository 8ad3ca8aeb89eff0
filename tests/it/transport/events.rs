//! The way of the events: past the AMQP library, within limits, and with everything that can be wrong with them.

use eventhubs_processor::CloudEvent;

use super::recovery::bomb;
use super::*;

/// Whether at least as many bytes as that wait to be received.
fn holds(receiver: &dyn PartitionReceiver, bytes: usize) -> bool {
    receiver.buffered_bytes().unwrap() >= bytes
}

#[tokio::test]
async fn large_events_stay_within_the_limit_while_nobody_receives() {
    const MIB: usize = 1024 * 1024;
    let (emulator, client) = setup().await;
    for _ in 0..40 {
        emulator
            .send(HUB, Some("0"), Event::new(vec![b'x'; 1_000_000]))
            .unwrap();
    }
    let mut options = at("0", EventPosition::Earliest);
    options.prefetch_bytes = 4 * MIB;
    let mut receiver = client.open_receiver(options).await.unwrap();
    eventually(|| holds(&*receiver, MIB)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let held = receiver.buffered_bytes().unwrap();
    assert!(held <= 4 * MIB, "{held}");
    // A lower limit takes effect as the credit is used up.
    receiver.set_byte_limit(MIB);
    receive(&mut receiver, 4).await;
    for number in 4..40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let held = receiver.buffered_bytes().unwrap();
        assert!(held <= 2 * MIB, "{held}");
        let event = &receive(&mut receiver, 1).await[0];
        assert_eq!(event.sequence_number(), number);
        assert_eq!(event.body().len(), 1_000_000);
        assert!(event.encoded_len() > 1_000_000);
    }
    client.close().await;
}

#[tokio::test]
async fn events_of_many_frames_on_one_connection_come_whole() {
    let (emulator, client) = setup().await;
    let client = Arc::new(client);
    for number in 0..200_usize {
        for partition in ["0", "1", "2", "3"] {
            let size = [90_000, 10, 200_000, 65_000][number % 4];
            let body = vec![u8::try_from(number).unwrap(); size];
            emulator
                .send(HUB, Some(partition), Event::new(body))
                .unwrap();
        }
    }
    let mut receivers = tokio::task::JoinSet::new();
    for partition in ["0", "1", "2", "3"] {
        let client = Arc::clone(&client);
        receivers.spawn(async move {
            let options = at(partition, EventPosition::Earliest);
            let mut receiver = client.open_receiver(options).await.unwrap();
            let events = receive(&mut receiver, 200).await;
            for (number, event) in events.iter().enumerate() {
                let size = [90_000, 10, 200_000, 65_000][number % 4];
                let expected = u8::try_from(number).unwrap();
                assert_eq!(event.body().len(), size);
                assert!(event.body().iter().all(|&byte| byte == expected));
            }
        });
    }
    receivers.join_all().await;
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

#[tokio::test]
async fn what_came_before_a_loss_is_handed_out_and_what_was_stolen_is_not() {
    let (emulator, client) = setup().await;
    for partition in ["0", "1", "2"] {
        send(&emulator, partition, 0..8);
    }
    let open = async |partition| {
        let options = at(partition, EventPosition::Earliest);
        let receiver = client.open_receiver(options).await.unwrap();
        // Eight is the first credit.
        eventually(|| holds(&*receiver, 8 * 50)).await;
        receiver
    };
    let mut detached = open("0").await;
    let mut stolen = open("1").await;
    let mut cut = open("2").await;
    let other = self::client(&emulator);
    let _thief = other
        .open_receiver(at("1", EventPosition::Latest))
        .await
        .unwrap();
    eventually(|| stolen.buffered_bytes() == Some(0)).await;
    let error = error_of(&mut stolen).await;
    assert!(error.is_ownership_lost(), "{error}");

    let faults = emulator.faults();
    faults.detach_receivers(HUB, Some("0"), "amqp:link:detach-forced", "idle");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(receive(&mut detached, 8).await.len(), 8);
    let error = error_of(&mut detached).await;
    assert_eq!(error.kind(), Kind::LinkDetached, "{error}");

    faults.drop_connections();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(receive(&mut cut, 8).await.len(), 8);
    let error = error_of(&mut cut).await;
    assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
}

#[tokio::test]
async fn a_message_that_is_no_event_is_told_with_its_place_and_passed() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..2);
    for depth in [70, 20_000] {
        emulator.send(HUB, Some("0"), bomb(depth)).unwrap();
    }
    send(&emulator, "0", 4..6);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    assert_eq!(bodies(&receive(&mut receiver, 2).await), ["0", "1"]);
    for number in [2, 3] {
        let error = error_of(&mut receiver).await;
        assert_eq!(error.kind(), Kind::UndecodableMessage, "{error}");
        let undecodable = error.undecodable().unwrap();
        assert_eq!(undecodable.sequence_number(), Some(number));
        assert!(undecodable.offset().is_some());
        assert!(!undecodable.raw().is_empty());
    }
    assert_eq!(bodies(&receive(&mut receiver, 2).await), ["4", "5"]);
    client.close().await;
}

/// The service adds its annotations to an event that is as large as an event may be.
#[tokio::test]
async fn the_largest_event_that_may_be_sent_is_received() {
    const LIMIT: usize = 1 << 20;
    // Descriptor, type and length of the only section.
    const AROUND: usize = 8;
    let (emulator, client) = setup().await;
    let event = Event::new(vec![b'x'; LIMIT - AROUND]);
    emulator.send(HUB, Some("0"), event).unwrap();
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let event = receive(&mut receiver, 1).await.remove(0);
    assert_eq!(event.body().len(), LIMIT - AROUND);
    assert!(event.encoded_len() > LIMIT);
    client.close().await;
}

#[tokio::test]
async fn an_event_beyond_the_accepted_size_is_told_and_passed() {
    let emulator = emulator().await;
    let text = emulator.event_hubs_connection_string();
    let options = options().with_max_message_size(100_000);
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options).unwrap();
    for size in [90_000, 300_000, 80_000] {
        emulator
            .send(HUB, Some("0"), Event::new(vec![b'x'; size]))
            .unwrap();
    }
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    assert_eq!(receive(&mut receiver, 1).await[0].body().len(), 90_000);
    let error = error_of(&mut receiver).await;
    let undecodable = error.undecodable().unwrap();
    assert_eq!(undecodable.sequence_number(), Some(1));
    assert!(error.to_string().contains("300"), "{error}");
    assert_eq!(receive(&mut receiver, 1).await[0].body().len(), 80_000);
    client.close().await;
}

#[tokio::test]
async fn events_that_stream_on_keep_a_connection_alive() {
    let (emulator, client) = setup().await;
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    // Longer than the idle timeout of four seconds. The emulator sends no heartbeat while it sends events.
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < Duration::from_secs(9) {
        send(&emulator, "0", sent..sent + 1);
        assert_eq!(bodies(&receive(&mut receiver, 1).await), [sent.to_string()]);
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

/// Puts a length before some bytes, behind their type.
fn sized(code: u8, bytes: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// A section that is a map of names to encoded values.
fn section(descriptor: u8, key_code: u8, entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut items = (u32::try_from(entries.len()).unwrap() * 2)
        .to_be_bytes()
        .to_vec();
    for (name, value) in entries {
        items.extend(sized(key_code, name.as_bytes()));
        items.extend_from_slice(value);
    }
    let len = u32::try_from(items.len()).unwrap().to_be_bytes();
    [&[0x00, 0x53, descriptor, 0xd1][..], &len, &items].concat()
}

#[tokio::test]
async fn what_others_put_into_events_arrives_typed() {
    const TIMESTAMP: u8 = 0x83;
    const LONG: u8 = 0x81;
    let fixed = |code: u8, number: i64| [&[code][..], &number.to_be_bytes()].concat();
    let text = |text: &str| sized(0xa1, text.as_bytes());
    let described =
        |name: &str, value: Vec<u8>| [vec![0x00], sized(0xa3, name.as_bytes()), value].concat();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let annotations = [
        ("iothub-connection-device-id", text("pump-7")),
        ("iothub-enqueuedtime", fixed(TIMESTAMP, 1_700_000_000_000)),
        ("iothub-message-source", text("Telemetry")),
    ];
    let ticks = 621_355_968_000_000_000;
    let properties = [
        (
            "span",
            described("com.microsoft:timespan", fixed(LONG, 5_000_000)),
        ),
        (
            "time",
            described("com.microsoft:datetime-offset", fixed(LONG, ticks)),
        ),
        (
            "uri",
            described("com.microsoft:uri", text("https://example.com/")),
        ),
        ("traceparent", text(trace)),
        ("cloudEvents:specversion", text("1.0")),
        ("cloudEvents:id", text("1")),
        ("cloudEvents:source", text("/pumps")),
        ("cloudEvents:type", text("started")),
    ];
    let parts = [
        section(0x72, 0xa3, &annotations),
        section(0x74, 0xa1, &properties),
        [vec![0x00, 0x53, 0x75], sized(0xa0, b"{}")].concat(),
    ];
    let (emulator, client) = setup().await;
    let event = Event::from_encoded(parts.concat());
    emulator.send(HUB, Some("0"), event).unwrap();
    let options = at("0", EventPosition::Earliest);
    let mut receiver = client.open_receiver(options).await.unwrap();
    let event = receive(&mut receiver, 1).await.remove(0);

    let iot_hub = event.iot_hub().unwrap();
    assert_eq!(iot_hub.device_id, "pump-7");
    assert_eq!(iot_hub.module_id, None);
    assert_eq!(iot_hub.message_source, Some("Telemetry"));
    let enqueued = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    assert_eq!(iot_hub.enqueued_time, Some(enqueued));
    let property = |name: &str| &event.properties()[name];
    assert_eq!(
        property("span").as_duration(),
        Some(Duration::from_millis(500))
    );
    assert_eq!(property("time").as_time(), Some(SystemTime::UNIX_EPOCH));
    assert_eq!(property("uri").as_uri(), Some("https://example.com/"));
    assert_eq!(event.trace_context().unwrap().trace_parent(), trace);
    let Some(CloudEvent::Binary(attributes)) = event.cloud_event() else {
        panic!("{:?}", event.cloud_event());
    };
    assert_eq!((attributes.id(), attributes.source()), ("1", "/pumps"));
    client.close().await;
}
