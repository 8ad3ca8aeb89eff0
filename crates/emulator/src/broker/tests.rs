//! Storage and routing, without connections.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::log::{Appended, Log};
use super::message::{Message, Stamp};
use super::position::{Position, PositionError};
use super::{Broker, Retention};
use crate::amqp::codec::encode::{put_binary, put_descriptor, put_value};
use crate::amqp::codec::{Decoder, Value, descriptor};

const KEEP_ALL: Retention = Retention {
    events: usize::MAX,
    bytes: usize::MAX,
};

fn section(code: u64, value: &Value) -> Vec<u8> {
    let mut buf = BytesMut::new();
    put_descriptor(&mut buf, code);
    put_value(&mut buf, value);
    buf.to_vec()
}

fn data(bytes: &[u8]) -> Vec<u8> {
    let mut buf = BytesMut::new();
    put_descriptor(&mut buf, descriptor::DATA);
    put_binary(&mut buf, bytes);
    buf.to_vec()
}

fn annotations(entries: &[(&str, Value)]) -> Vec<u8> {
    let entries = entries
        .iter()
        .map(|(name, value)| (Value::Symbol((*name).to_owned()), value.clone()));
    section(
        descriptor::MESSAGE_ANNOTATIONS,
        &Value::Map(entries.collect()),
    )
}

fn event(body: &str) -> Message {
    Message::parse(&data(body.as_bytes()).into()).unwrap()
}

fn append(log: &mut Log, messages: &[Message], now_ms: i64) -> Appended {
    log.append(messages, now_ms).unwrap().unwrap()
}

/// The sections of a stored event, in order.
fn sections(encoded: &[u8]) -> Vec<(u64, Value)> {
    let mut decoder = Decoder::new(encoded);
    let mut sections = Vec::new();
    while !decoder.is_empty() {
        sections.push((decoder.descriptor().unwrap(), decoder.value().unwrap()));
    }
    sections
}

fn stored(message: &Message) -> (usize, Vec<(u64, Value)>) {
    let stamp = Stamp {
        sequence_number: 5,
        offset: "123",
        enqueued_ms: 99,
    };
    let mut buf = BytesMut::new();
    let header_len = message.encode(stamp, &mut buf);
    assert!(buf.len() <= message.stored_len());
    (header_len, sections(&buf))
}

/// The standard allows one section; a peer that sends two must not spoil the partition for its readers.
#[test]
fn of_two_sections_of_annotations_the_last_counts() {
    let message = [
        annotations(&[("x-opt-partition-key", Value::from("key"))]),
        annotations(&[("custom", Value::Int(1))]),
        data(b"one"),
    ];
    let message = Message::parse(&message.concat().into()).unwrap();
    assert_eq!(message.partition_key(), None);
    let (_, sections) = stored(&message);
    assert_eq!(sections.len(), 2);
    assert_eq!(sections[0].1.entry("custom"), Some(&Value::Int(1)));
    assert_eq!(sections[0].1.entry("x-opt-partition-key"), None);
}

#[test]
fn a_stored_event_keeps_its_sections_and_gets_the_system_annotations() {
    let header = section(descriptor::HEADER, &Value::List(vec![Value::Bool(true)]));
    let message = [
        header.clone(),
        section(descriptor::DELIVERY_ANNOTATIONS, &Value::Map(Vec::new())),
        annotations(&[
            ("x-opt-sequence-number", Value::Long(77)),
            ("x-opt-partition-key", Value::from("key")),
            ("custom", Value::Int(1)),
        ]),
        section(descriptor::PROPERTIES, &Value::List(Vec::new())),
        data(b"one"),
        data(b"two"),
        section(descriptor::FOOTER, &Value::Map(Vec::new())),
    ];
    let message = Message::parse(&message.concat().into()).unwrap();
    assert_eq!(message.partition_key(), Some("key"));
    let (header_len, sections) = stored(&message);
    assert_eq!(header_len, header.len());
    let codes: Vec<u64> = sections.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [0x70, 0x72, 0x73, 0x75, 0x75, 0x78]);
    let annotations = &sections[1].1;
    assert_eq!(
        annotations.entry("x-opt-sequence-number"),
        Some(&Value::Long(5))
    );
    assert_eq!(annotations.entry("x-opt-offset"), Some(&Value::from("123")));
    assert_eq!(
        annotations.entry("x-opt-enqueued-time"),
        Some(&Value::Timestamp(99))
    );
    assert_eq!(
        annotations.entry("x-opt-partition-key"),
        Some(&Value::from("key"))
    );
    assert_eq!(annotations.entry("custom"), Some(&Value::Int(1)));
}

#[test]
fn a_batch_gives_its_key_to_events_without_one() {
    let keyed = annotations(&[("x-opt-partition-key", Value::from("own"))]);
    let inner = [data(b"a"), [keyed, data(b"b")].concat()];
    let batch = [
        annotations(&[("x-opt-partition-key", Value::from("batch"))]),
        section(descriptor::PROPERTIES, &Value::List(Vec::new())),
        data(&inner[0]),
        data(&inner[1]),
    ];
    let messages = Message::parse_batch(&batch.concat().into()).unwrap();
    let keys: Vec<_> = messages.iter().map(Message::partition_key).collect();
    assert_eq!(keys, [Some("batch"), Some("own")]);
    let (_, sections) = stored(&messages[0]);
    assert_eq!(
        sections[0].1.entry("x-opt-partition-key"),
        Some(&Value::from("batch"))
    );
    assert_eq!(
        sections[1],
        (descriptor::DATA, Value::Binary(Bytes::from_static(b"a")))
    );
}

#[test]
fn bodies_nobody_can_decode_are_stored_as_they_are() {
    // An amqp-value nested deeper than any decoder goes.
    let deep = [&[0x00, 0x53, 0x77][..], &[0x00; 5000], &[0x40; 5001]].concat();
    let message = Message::parse(&deep.clone().into()).unwrap();
    let mut buf = BytesMut::new();
    let stamp = Stamp {
        sequence_number: 0,
        offset: "1",
        enqueued_ms: 0,
    };
    message.encode(stamp, &mut buf);
    assert!(buf.ends_with(&deep));
}

#[test]
fn what_is_no_message_is_refused() {
    for bytes in [
        &b"text"[..],
        b"\x00\x53\x75",
        b"\x00\x53\x75\xa0\x05abc",
        b"\x00\x53\x10\x45",
        b"\x00\x53\x72\xc1\x03\x01\xa3\x00",
    ] {
        assert!(
            Message::parse(&Bytes::copy_from_slice(bytes)).is_err(),
            "{bytes:?}"
        );
        assert!(
            Message::parse_batch(&Bytes::copy_from_slice(bytes)).is_err(),
            "{bytes:?}"
        );
    }
}

#[test]
fn positions_resolve_to_sequence_numbers() {
    let mut log = Log::new(KEEP_ALL);
    let offsets: Vec<u64> = (0..5)
        .map(|n| append(&mut log, &[event("x")], 1000 + n * 10).offset.number)
        .collect();
    let offset = |text: String, inclusive| Position::Offset { text, inclusive };
    let time = |millis, inclusive| Position::EnqueuedTime { millis, inclusive };
    let number = |number, inclusive| Position::SequenceNumber { number, inclusive };
    for (position, expected) in [
        (Position::Start, 0),
        (Position::End, 5),
        (offset(offsets[2].to_string(), false), 3),
        (offset(offsets[2].to_string(), true), 2),
        (offset(offsets[4].to_string(), false), 5),
        // Between two events: offsets of events that retention has dropped, or of other hubs.
        (offset((offsets[2] + 1).to_string(), true), 3),
        (offset("0".to_owned(), false), 0),
        (number(2, false), 3),
        (number(2, true), 2),
        (number(4, false), 5),
        (number(5, true), 5),
        (time(1020, false), 3),
        (time(1020, true), 2),
        (time(0, false), 0),
        (time(9999, false), 5),
    ] {
        assert_eq!(log.resolve(&position), Ok(expected), "{position:?}");
    }
    let beyond = (offsets[4] + 1).to_string();
    assert!(matches!(
        log.resolve(&offset(beyond, false)),
        Err(PositionError::Offset { .. })
    ));
    assert_eq!(
        log.resolve(&number(5, false)),
        Err(PositionError::SequenceNumber { given: 5, last: 4 })
    );
}

#[test]
fn retention_by_bytes_keeps_at_least_the_newest_event() {
    let mut log = Log::new(Retention {
        events: usize::MAX,
        bytes: 500,
    });
    for _ in 0..10 {
        append(&mut log, &[event(&"x".repeat(200))], 0);
    }
    let state = log.state();
    assert_eq!(
        (state.begin_sequence_number, state.last_sequence_number),
        (9, 9)
    );
    append(&mut log, &[event(&"x".repeat(2000))], 0);
    assert_eq!(log.state().begin_sequence_number, 10);
    assert!(!log.state().is_empty);
    let (from, events) = log.read(0, 10, 10);
    assert_eq!((from, events.len()), (10, 1));
}

proptest! {
    #[test]
    fn numbers_grow_whatever_the_clock_does(
        batches in prop::collection::vec((1_usize..5, 0_i64..1000), 1..30),
        keep in 1_usize..20,
    ) {
        let mut log = Log::new(Retention { events: keep, bytes: usize::MAX });
        let mut last_offset = 0;
        let mut last_time = 0;
        let mut next = 0;
        for (count, clock) in batches {
            let messages: Vec<_> = (0..count).map(|_| event("x")).collect();
            let appended = append(&mut log, &messages, clock);
            next += count as i64;
            prop_assert_eq!(appended.sequence_number, next - 1);
            prop_assert!(appended.offset.number > last_offset);
            last_offset = appended.offset.number;
            let state = log.state();
            prop_assert!(state.last_enqueued_ms >= last_time.max(clock));
            last_time = state.last_enqueued_ms;
            prop_assert_eq!(log.end(), next);
            prop_assert!((log.end() - state.begin_sequence_number) as usize <= keep);
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Message::parse(&bytes.clone().into());
        let _ = Message::parse_batch(&bytes.into());
    }
}

#[test]
fn hubs_are_found_in_any_case_and_ids_are_text() {
    let broker = Broker::new(KEEP_ALL, super::Clock::Wall);
    assert!(broker.create_hub("Telemetry", 3));
    assert!(!broker.create_hub("telemetry", 3));
    let hub = broker.hub("TELEMETRY").unwrap();
    assert_eq!(hub.name(), "Telemetry");
    assert!(hub.partition("2").is_some());
    for id in ["3", "02", "+2", "", "x"] {
        assert!(hub.partition(id).is_none(), "{id}");
    }
    let turns: Vec<_> = (0..4)
        .map(|_| hub.route(&[event("x")]).unwrap().id().to_owned())
        .collect();
    assert_eq!(turns, ["0", "1", "2", "0"]);
}

#[test]
fn old_events_go_with_the_newest_and_numbers_stay() {
    let clock = super::Clock::Wall;
    let mut log = Log::in_memory(KEEP_ALL, Some(std::time::Duration::from_secs(60)));
    append(&mut log, &[event("a"), event("b")], clock.now_ms() - 61_000);
    append(&mut log, &[event("c")], clock.now_ms() - 30_000);
    assert!(log.expire(clock));
    assert_eq!(log.state().begin_sequence_number, 2);
    let mut log = Log::in_memory(KEEP_ALL, Some(std::time::Duration::from_secs(60)));
    append(&mut log, &[event("a"), event("b")], clock.now_ms() - 61_000);
    assert!(log.expire(clock) && !log.expire(clock));
    let state = log.state();
    assert!(state.is_empty);
    assert_eq!(
        (state.begin_sequence_number, state.last_sequence_number),
        (2, 1)
    );
    assert_eq!(append(&mut log, &[event("c")], 0).sequence_number, 2);
}

#[test]
fn the_largest_partition_makes_room_when_memory_is_used_up() {
    let settings = super::Settings {
        budget: std::sync::Arc::new(super::Budget::new(100_000)),
        ..super::Settings::new(KEEP_ALL, super::Clock::Wall)
    };
    let broker = Broker::open(settings, None).unwrap();
    broker.add_hub("hub", 2).unwrap();
    let hub = broker.hub("hub").unwrap();
    let (small, large) = (hub.partition("0").unwrap(), hub.partition("1").unwrap());
    for _ in 0..5 {
        small.append(&[event(&"x".repeat(1_000))]).unwrap();
    }
    for _ in 0..500 {
        large.append(&[event(&"x".repeat(1_000))]).unwrap();
    }
    assert_eq!(small.state().begin_sequence_number, 0);
    let state = large.state();
    assert!(state.begin_sequence_number > 400, "{state:?}");
    assert_eq!(state.last_sequence_number, 499);
}

#[test]
fn groups_may_have_to_be_named_first() {
    let settings = super::Settings {
        has_strict_groups: true,
        ..super::Settings::new(KEEP_ALL, super::Clock::Wall)
    };
    let broker = Broker::open(settings, None).unwrap();
    broker.add_hub("hub", 1).unwrap();
    let hub = broker.hub("hub").unwrap();
    hub.add_group("Mine").unwrap();
    for (group, is_there) in [("$Default", true), ("MINE", true), ("other", false)] {
        assert_eq!(hub.has_group(group), is_there, "{group}");
    }
}

#[test]
fn partitions_are_added_while_others_are_used() {
    let broker = Broker::new(KEEP_ALL, super::Clock::Wall);
    broker.add_hub("hub", 1).unwrap();
    let hub = broker.hub("hub").unwrap();
    hub.partition("0").unwrap().append(&[event("x")]).unwrap();
    broker.grow_hub(&hub, |there| there + 2).unwrap();
    assert_eq!(hub.partitions().len(), 3);
    assert!(hub.partition("2").unwrap().state().is_empty);
    assert_eq!(hub.partition("0").unwrap().state().last_sequence_number, 0);
    assert!(broker.grow_hub(&hub, |_| 2001).is_err());
}
