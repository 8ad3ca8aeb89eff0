//! The transport by itself.

use std::num::NonZeroU32;
use std::time::Duration;

use eventhubs_emulator::{Event, PropertyValue};
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::{AmqpTransport, EventPosition, Transport};

use crate::world::{
    Factory, HUB, at, builder, emulator, error_of, eventually, in_time, numbers, receive, send,
    transport,
};

/// What cannot be misread alike: the transport of the library decodes by itself.
#[tokio::test]
async fn events_are_those_that_the_own_transport_receives() {
    let emulator = emulator(1).await;
    let sent = [
        Event::new("first")
            .with_partition_key("key")
            .with_message_id("id")
            .with_correlation_id("other")
            .with_content_type("application/json")
            .with_property("text", PropertyValue::String("t".into()))
            .with_property("number", PropertyValue::Long(-7)),
        Event::new(""),
        // A value body: a list of a described value, a map, an array of int and a null.
        Event::from_encoded(
            [
                &[0x00, 0x53, 0x77, 0xc0, 0x23, 4][..],
                &[0x00, 0xa3, 3, b'd', b'/', b't', 0x55, 5],
                &[0xc1, 5, 2, 0xa1, 1, b'k', 0x41],
                &[0xf0, 0, 0, 0, 13, 0, 0, 0, 2, 0x71, 0, 0, 0, 1, 0, 0, 0, 2],
                &[0x40],
            ]
            .concat(),
        ),
        // Two sequence sections.
        Event::from_encoded([
            0x00, 0x53, 0x76, 0xc0, 3, 1, 0x54, 9, 0x00, 0x53, 0x76, 0x45,
        ]),
        // Two data sections.
        Event::from_encoded([
            0x00, 0x53, 0x75, 0xa0, 2, b'a', b'b', 0x00, 0x53, 0x75, 0xa0, 1, b'c',
        ]),
    ];
    let count = sent.len();
    for event in sent {
        emulator.send(HUB, Some("0"), event).unwrap();
    }
    let adapter = transport(&emulator).await;
    let mut receiver = adapter
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let events = receive(&mut receiver, count).await;
    assert_eq!(numbers(&events), [0, 1, 2, 3, 4]);
    adapter.close().await;

    let own = emulator.event_hubs_connection_string();
    let own = AmqpTransport::from_connection_string(&own, HUB).unwrap();
    let mut receiver = own
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let expected = receive(&mut receiver, count).await;
    for (event, expected) in events.iter().zip(&expected) {
        assert_eq!(event, expected, "{:?}", expected.amqp_body());
    }
    assert_eq!(events[0].partition_key(), Some("key"));
    assert_eq!(events[4].body(), b"abc");
    own.close().await;
}

#[tokio::test]
async fn reading_starts_where_it_is_told_to() {
    let emulator = emulator(1).await;
    send(&emulator, 1, 5);
    let adapter = transport(&emulator).await;
    let open = async |position| adapter.open_receiver(at("0", position)).await.unwrap();
    let events = receive(&mut open(EventPosition::Earliest).await, 5).await;
    let offset = events[2].offset().clone();
    let time = events[0].enqueued_time();
    for (position, first) in [
        (EventPosition::sequence_number(2), 3),
        (EventPosition::sequence_number(2).inclusive(), 2),
        (EventPosition::offset(offset.clone()), 3),
        (EventPosition::offset(offset).inclusive(), 2),
        (EventPosition::enqueued_time(time).inclusive(), 0),
    ] {
        let mut receiver = open(position.clone()).await;
        let next = receive(&mut receiver, 1).await;
        assert_eq!(numbers(&next), [first], "{position:?}");
        receiver.close().await;
    }
    // The number goes before the offset, here that of another event.
    let mut options = at("0", EventPosition::offset(events[0].offset().clone()));
    options.after_sequence_number = Some(2);
    let mut receiver = adapter.open_receiver(options).await.unwrap();
    assert_eq!(numbers(&receive(&mut receiver, 1).await), [3]);
    receiver.close().await;
    let mut receiver = open(EventPosition::Latest).await;
    send(&emulator, 1, 1);
    assert_eq!(numbers(&receive(&mut receiver, 1).await), [5]);
    adapter.close().await;
}

#[tokio::test]
async fn the_newest_event_of_the_partition_comes_along_if_asked_for() {
    let emulator = emulator(1).await;
    send(&emulator, 1, 3);
    let adapter = transport(&emulator).await;
    let mut options = at("0", EventPosition::Earliest);
    options.track_last_enqueued_event_properties = true;
    let mut receiver = adapter.open_receiver(options).await.unwrap();
    let events = receive(&mut receiver, 1).await;
    assert_eq!(events[0].last_enqueued().unwrap().sequence_number, 2);
    adapter.close().await;
}

#[tokio::test]
async fn a_lost_connection_costs_one_receiver_and_no_event() {
    let emulator = emulator(4).await;
    let factory = Factory::new(&emulator);
    let adapter = factory.connect().await.unwrap();
    let partitions = ["0", "1", "2", "3"];
    let mut receivers = Vec::new();
    for partition in partitions {
        let options = at(partition, EventPosition::Earliest);
        receivers.push(adapter.open_receiver(options).await.unwrap());
    }
    for kill in 0..3 {
        send(&emulator, 4, 10);
        let first = kill * 10;
        for receiver in &mut receivers {
            let events = receive(receiver, 10).await;
            assert_eq!(numbers(&events), Vec::from_iter(first..first + 10));
        }
        emulator.faults().drop_connections();
        for (partition, receiver) in partitions.into_iter().zip(&mut receivers) {
            let error = error_of(receiver).await;
            assert!(error.is_transient(), "{error:?}");
            let position = EventPosition::sequence_number(first + 9);
            *receiver = adapter
                .open_receiver(at(partition, position))
                .await
                .unwrap();
        }
    }
    // And questions get their answer, over a new connection.
    let made = factory.made();
    let properties = adapter.partition_properties(&"3".into()).await.unwrap();
    assert_eq!(properties.last_enqueued_sequence_number, 29);
    assert_eq!(factory.made(), made + 1);
    adapter.close().await;
}

#[tokio::test]
async fn a_reader_that_nobody_reads_holds_the_service_back() {
    const EVENTS: usize = 2000;
    let emulator = emulator(1).await;
    send(&emulator, 1, EVENTS);
    let adapter = transport(&emulator).await;
    let mut options = at("0", EventPosition::Earliest);
    options.prefetch = NonZeroU32::new(50).unwrap();
    let mut receiver = adapter.open_receiver(options).await.unwrap();
    let delivered = || {
        let status = emulator.status();
        let readers = &status.hubs[0].partitions[0].readers;
        readers.first().map_or(0, |reader| reader.delivered)
    };
    // Until nothing more comes.
    let mut before = 0;
    in_time(async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = delivered();
            if now > 0 && now == before {
                break;
            }
            before = now;
        }
    })
    .await;
    // What waits in the queue of the adapter, and twice the credit.
    assert!(before <= 128 + 2 * 50, "{before}");
    let events = receive(&mut receiver, EVENTS).await;
    assert_eq!(numbers(&events), Vec::from_iter(0..2000));
    adapter.close().await;
}

#[tokio::test]
async fn a_theft_is_told_and_not_undone() {
    let emulator = emulator(2).await;
    send(&emulator, 2, 1);
    let factory = Factory::new(&emulator);
    let adapter = factory.connect().await.unwrap();
    let mut receivers = Vec::new();
    for partition in ["0", "1"] {
        let options = at(partition, EventPosition::Earliest);
        let mut receiver = adapter.open_receiver(options).await.unwrap();
        receive(&mut receiver, 1).await;
        receivers.push(receiver);
    }
    let made = factory.made();
    let thief = transport(&emulator).await;
    let mut stolen = Vec::new();
    for (partition, receiver) in ["0", "1"].into_iter().zip(&mut receivers) {
        let options = at(partition, EventPosition::sequence_number(0));
        stolen.push(thief.open_receiver(options).await.unwrap());
        let error = error_of(receiver).await;
        assert!(error.is_ownership_lost(), "{error:?}");
        assert_eq!(error.condition(), Some("amqp:link:stolen"));
    }
    // azeventhubs takes back within two seconds what it takes back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    send(&emulator, 2, 1);
    for receiver in &mut stolen {
        assert_eq!(numbers(&receive(receiver, 1).await), [1]);
    }
    assert_eq!(factory.made(), made);
    adapter.close().await;
    thief.close().await;
    eventually(|| emulator.connection_count() == 0).await;
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let emulator = emulator(1).await;
    send(&emulator, 1, 1);
    let adapter = transport(&emulator).await;
    let refused = async |partition, position| {
        let opening = adapter.open_receiver(at(partition, position));
        in_time(opening).await.unwrap_err()
    };
    let error = refused("7", EventPosition::Earliest).await;
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    // The last from the service.
    for offset in ["", "1' OR '1' = '1", "999999999999999"] {
        let error = refused("0", EventPosition::offset(offset)).await;
        assert_eq!(error.kind(), Kind::InvalidPosition, "{error:?}");
    }
    let unknown = "7".into();
    let question = adapter.partition_properties(&unknown);
    let error = in_time(question).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
    adapter.close().await;

    let mut wrong = Factory::new(&emulator);
    wrong.key = "wrong-key-of-the-adapter-tests";
    let adapter = wrong.connect().await.unwrap();
    let error = adapter
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    assert!(!format!("{error:?} {error} {adapter:?}").contains(wrong.key));
    adapter.close().await;
    eventually(|| emulator.connection_count() == 0).await;
}

#[tokio::test]
async fn what_azeventhubs_cannot_decode_is_an_error_that_says_so() {
    let emulator = emulator(1).await;
    send(&emulator, 1, 1);
    // A .NET `TimeSpan` as an application property.
    let timespan = [
        &[0x00, 0x53, 0x74, 0xc1, 31, 2, 0xa1, 1, b't', 0x00, 0xa3, 22][..],
        b"com.microsoft:timespan",
        &[0x55, 5, 0x00, 0x53, 0x75, 0xa0, 0],
    ];
    let event = Event::from_encoded(timespan.concat());
    emulator.send(HUB, Some("0"), event).unwrap();
    let adapter = transport(&emulator).await;
    let mut receiver = adapter
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    assert_eq!(numbers(&receive(&mut receiver, 1).await), [0]);
    let error = error_of(&mut receiver).await;
    assert_eq!(error.kind(), Kind::UndecodableMessage, "{error:?}");
    assert!(error.undecodable().is_none(), "the receiver is done");
    adapter.close().await;
}

#[tokio::test]
async fn a_silent_service_times_out() {
    let emulator = emulator(1).await;
    let adapter = transport(&emulator)
        .await
        .with_operation_timeout(Duration::from_secs(1));
    emulator.faults().freeze_connections(true);
    let opening = adapter.open_receiver(at("0", EventPosition::Earliest));
    let error = in_time(opening).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    let error = in_time(adapter.event_hub_properties()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    emulator.faults().freeze_connections(false);
    let properties = in_time(adapter.event_hub_properties()).await.unwrap();
    assert_eq!(properties.partition_ids.len(), 1);
    adapter.close().await;
}

#[tokio::test]
async fn closing_ends_everything_and_a_dropped_receiver_leaves_nothing() {
    let emulator = builder(2).start().await.unwrap();
    let adapter = transport(&emulator).await;
    let open = async |partition| {
        let options = at(partition, EventPosition::Earliest);
        adapter.open_receiver(options).await
    };
    let attached = |partition: &str| emulator.receiver_count(HUB, partition).unwrap();
    // Nothing has come for either.
    let dropped = open("0").await.unwrap();
    let mut kept = open("1").await.unwrap();
    assert_eq!((attached("0"), attached("1")), (1, 1));
    drop(dropped);
    eventually(|| attached("0") == 0).await;
    in_time(adapter.close()).await;
    assert_eq!(emulator.connection_count(), 0);
    assert_eq!(attached("1"), 0);
    let error = in_time(kept.receive(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Closed);
    assert_eq!(open("0").await.unwrap_err().kind(), Kind::Closed);
    let error = adapter.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Closed);
}
