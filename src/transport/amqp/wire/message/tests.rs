//! Messages as the library writes them, as strangers write them, and as nobody should.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Buf as _;
use fe2o3_amqp_types::messaging::annotations::{Annotations, OwnedKey};
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{
    AmqpSequence, AmqpValue, ApplicationProperties, Batch, Body as WireBody, Data,
    DeliveryAnnotations, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{
    Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Uuid, Value as Wire,
};
use proptest::prelude::*;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use serde_amqp::primitives::{Array, Dec32, Dec64, Dec128};

use super::super::super::convert::from_wire;
use super::*;

fn annotations(entries: Vec<(&str, Wire)>) -> Annotations {
    entries
        .into_iter()
        .map(|(key, value)| (OwnedKey::from(key), value))
        .collect()
}

fn position() -> Vec<(&'static str, Wire)> {
    vec![
        (SEQUENCE_NUMBER, Wire::Long(42)),
        (OFFSET, Wire::String("1:2:3".to_owned())),
        (
            ENQUEUED_TIME,
            Wire::Timestamp(Timestamp::from_milliseconds(1500)),
        ),
    ]
}

fn message(entries: Vec<(&str, Wire)>, body: WireBody<Wire>) -> Message<WireBody<Wire>> {
    Message::builder()
        .message_annotations(MessageAnnotations(annotations(entries)))
        .body(body)
        .build()
}

fn data(sections: &[&[u8]]) -> WireBody<Wire> {
    let sections: Vec<_> = sections
        .iter()
        .map(|bytes| Data(Binary::from(bytes.to_vec())))
        .collect();
    WireBody::Data(Batch::new(sections))
}

fn encode(message: Message<WireBody<Wire>>) -> Bytes {
    serde_amqp::to_vec(&Serializable(message)).unwrap().into()
}

fn received(message: Message<WireBody<Wire>>) -> Result<ReceivedEvent, Box<UndecodableEvent>> {
    event(encode(message))
}

/// A section with the position. The library writes a body of null where there is none.
fn bare_position() -> Vec<u8> {
    let raw = encode(message(position(), WireBody::Empty));
    raw.strip_suffix(&[0x00, 0x53, 0x77, 0x40])
        .unwrap()
        .to_vec()
}

/// The position and some bytes behind it.
fn with(sections: &[u8]) -> Result<ReceivedEvent, Box<UndecodableEvent>> {
    event([&bare_position(), sections].concat().into())
}

#[test]
fn an_event_keeps_all_its_parts() {
    let mut entries = position();
    entries.push((PARTITION_KEY, Wire::String("key".to_owned())));
    entries.push((
        "iothub-connection-device-id",
        Wire::String("dev".to_owned()),
    ));
    let mut message = message(entries, data(&[b"hello"]));
    message.application_properties = Some(
        ApplicationProperties::builder()
            .insert("n", SimpleValue::Uint(7))
            .build(),
    );
    message.properties = Some(
        Properties::builder()
            .message_id(MessageId::Ulong(9))
            .user_id(Binary::from(vec![1, 2]))
            .to("to".to_owned())
            .subject("subject")
            .reply_to("reply".to_owned())
            .correlation_id(MessageId::Uuid(Uuid::from([3; 16])))
            .content_type(Symbol::from("text/plain"))
            .content_encoding(Symbol::from("gzip"))
            .absolute_expiry_time(Timestamp::from_milliseconds(1))
            .creation_time(Timestamp::from_milliseconds(2))
            .group_id("group".to_owned())
            .group_sequence(11)
            .reply_to_group_id("other".to_owned())
            .build(),
    );
    message.delivery_annotations = Some(DeliveryAnnotations(annotations(vec![
        ("last_enqueued_sequence_number", Wire::Long(50)),
        ("last_enqueued_offset", Wire::String("9:9:9".to_owned())),
        (
            "last_enqueued_time_utc",
            Wire::Timestamp(Timestamp::from_milliseconds(2000)),
        ),
        (
            "runtime_info_retrieval_time_utc",
            Wire::Timestamp(Timestamp::from_milliseconds(3000)),
        ),
    ])));
    let raw = encode(message);
    let event = event(raw.clone()).unwrap();
    assert_eq!(event.sequence_number(), 42);
    assert_eq!(event.offset().as_str(), "1:2:3");
    assert_eq!(
        event.enqueued_time(),
        UNIX_EPOCH + Duration::from_millis(1500)
    );
    assert_eq!(event.partition_key(), Some("key"));
    assert_eq!(event.encoded_len(), raw.len());
    assert_eq!(event.amqp_body(), &AmqpBody::Data("hello".into()));
    let body = event.body().as_ptr() as usize;
    let whole = raw.as_ptr() as usize..raw.as_ptr() as usize + raw.len();
    assert!(whole.contains(&body), "the body is where it was received");
    assert_eq!(event.properties()["n"], Value::U32(7));
    assert_eq!(
        event.system_properties()["iothub-connection-device-id"],
        Value::String("dev".to_owned())
    );
    assert_eq!(event.system_properties().len(), 1);
    let text = |text: &str| Some(text.to_owned());
    let expected = MessageProperties {
        message_id: Some(Value::U64(9)),
        user_id: Some(vec![1, 2].into()),
        to: text("to"),
        subject: text("subject"),
        reply_to: text("reply"),
        correlation_id: Some(Value::Uuid([3; 16])),
        content_type: text("text/plain"),
        content_encoding: text("gzip"),
        absolute_expiry_time: Some(UNIX_EPOCH + Duration::from_millis(1)),
        creation_time: Some(UNIX_EPOCH + Duration::from_millis(2)),
        group_id: text("group"),
        group_sequence: Some(11),
        reply_to_group_id: text("other"),
    };
    assert_eq!(event.message_properties(), &expected);
    let last = event.last_enqueued().unwrap();
    assert_eq!(last.sequence_number, 50);
    assert_eq!(last.offset.as_str(), "9:9:9");
    assert_eq!(last.retrieval_time, UNIX_EPOCH + Duration::from_secs(3));
    assert!(!format!("{event:?}").contains("hello"));
}

#[test]
fn a_position_is_never_guessed() {
    let names = [SEQUENCE_NUMBER, OFFSET, ENQUEUED_TIME];
    let reason = |entries| {
        let undecodable = received(message(entries, WireBody::Empty)).unwrap_err();
        undecodable.reason()
    };
    for (index, annotation) in names.into_iter().enumerate() {
        let mut missing = position();
        missing.remove(index);
        assert_eq!(
            reason(missing),
            UndecodableReason::NoPosition { annotation }
        );
        for wrong in [
            Wire::Null,
            Wire::Int(42),
            Wire::Ulong(42),
            Wire::Binary(Binary::from(vec![1])),
        ] {
            let mut mistyped = position();
            mistyped[index].1 = wrong;
            assert_eq!(
                reason(mistyped),
                UndecodableReason::NoPosition { annotation }
            );
        }
    }
    let mut empty = position();
    empty[1].1 = Wire::String(String::new());
    assert!(received(message(empty, WireBody::Empty)).is_err());
    let error = event(Bytes::new()).unwrap_err();
    assert!(error.reason().to_string().contains("x-opt-sequence-number"));
}

#[test]
fn what_can_be_read_of_a_bad_message_is_told() {
    let undecodable = with(&[0x00, 0x53, 0x75, 0xa0, 0x05, 1, 2]).unwrap_err();
    assert_eq!(undecodable.reason(), UndecodableReason::Malformed);
    assert_eq!(undecodable.sequence_number(), Some(42));
    assert_eq!(undecodable.offset().unwrap().as_str(), "1:2:3");
    assert!(undecodable.enqueued_time().is_some());
    assert!(undecodable.raw().ends_with(&[0xa0, 0x05, 1, 2]));

    let start = encode(message(position(), data(&[&[7; 500]]))).slice(..200);
    let undecodable = too_large(&start, 5_000_000);
    assert_eq!(undecodable.sequence_number(), Some(42));
    assert_eq!(
        undecodable.reason(),
        UndecodableReason::TooLarge { len: 5_000_000 }
    );
    assert_eq!(event(vec![0xff; 9].into()).unwrap_err().offset(), None);
}

#[test]
fn every_form_of_body_arrives() {
    let body_of = |body| {
        let event = received(message(position(), body)).unwrap();
        (event.amqp_body().clone(), event.body().to_vec())
    };
    let bytes = |bytes: &'static [u8]| (AmqpBody::Data(bytes.into()), bytes.to_vec());
    assert_eq!(with(&[]).unwrap().amqp_body(), &bytes(b"").0);
    assert_eq!(body_of(data(&[b"a", b"", b"bc"])), bytes(b"abc"));
    let value = |wire| body_of(WireBody::Value(AmqpValue(wire)));
    assert_eq!(
        value(Wire::Int(5)),
        (AmqpBody::Value(Value::I32(5)), Vec::new())
    );
    assert_eq!(
        value(Wire::String("text".to_owned())),
        (
            AmqpBody::Value(Value::String("text".to_owned())),
            b"text".to_vec()
        )
    );
    let lists = [vec![Wire::Bool(true)], vec![Wire::Null, Wire::Int(1)]];
    let sequence = WireBody::Sequence(Batch::new(lists.map(AmqpSequence).to_vec()));
    assert_eq!(
        body_of(sequence).0,
        AmqpBody::Sequence(vec![
            vec![Value::Bool(true)],
            vec![Value::Null, Value::I32(1)]
        ])
    );
}

#[test]
fn half_of_the_last_enqueued_properties_is_nothing() {
    let mut message = message(position(), WireBody::Empty);
    message.delivery_annotations = Some(DeliveryAnnotations(annotations(vec![(
        "last_enqueued_sequence_number",
        Wire::Long(50),
    )])));
    assert_eq!(received(message).unwrap().last_enqueued(), None);
}

/// Lists in one another.
fn nested(depth: usize) -> Vec<u8> {
    (0..depth).fold(vec![0x40], |inner, _| {
        let size = (inner.len() as u32 + 4).to_be_bytes();
        [&[0xd0][..], &size, &[0, 0, 0, 1], &inner].concat()
    })
}

#[test]
fn hostile_messages_are_found_when_they_come() {
    let value = |value: &[u8]| [&[0x00, 0x53, 0x77][..], value].concat();
    let property = |value: &[u8]| {
        let size = u8::try_from(value.len() + 4).unwrap();
        [&[0x00, 0x53, 0x74, 0xc1, size, 2, 0xa1, 1, b'n'][..], value].concat()
    };
    let bad = [
        value(&nested(66)),
        value(&nested(3000)),
        value(&[0x00; 500]),
        // 65 536 times true in ten bytes.
        value(&[0xf0, 0, 0, 0, 5, 0, 1, 0, 0, 0x41]),
        value(&[0xb0, 0xff, 0xff, 0xff, 0xff]),
        value(&[0xd1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        value(&[0xc0, 0x03, 0x01, 0x40, 0x40]),
        value(&[0xc1, 0x02, 0x01, 0x40]),
        value(&[0x56, 0x02]),
        value(&[0x73, 0x00, 0x00, 0xd8, 0x00]),
        value(&[0xa1, 0x01, 0xff]),
        value(&[0x3f]),
        property(&[0xa1, 0x02, 0xc3, 0x28]),
        // A property whose name is a symbol, one without a value, and a list in place of the map.
        vec![0x00, 0x53, 0x74, 0xc1, 0x05, 2, 0xa3, 1, b'n', 0x40],
        vec![0x00, 0x53, 0x74, 0xc1, 0x04, 1, 0xa1, 1, b'n'],
        vec![0x00, 0x53, 0x74, 0x45],
        // A subject that is a number, and fourteen properties.
        vec![0x00, 0x53, 0x73, 0xc0, 0x05, 4, 0x40, 0x40, 0x40, 0x43],
        [&[0x00, 0x53, 0x73, 0xc0, 15, 14][..], &[0x40; 14]].concat(),
        // Two bodies, one section twice, one that does not exist, one with a name, and a value without a section.
        [value(&[0x40]), vec![0x00, 0x53, 0x75, 0xa0, 0]].concat(),
        [value(&[0x40]), value(&[0x40])].concat(),
        [property(&[0x40]), property(&[0x40])].concat(),
        vec![0x00, 0x53, 0x79, 0x40],
        [&[0x00, 0xa3, 17][..], b"amqp:data:binary ", &[0xa0, 0]].concat(),
        vec![0x40],
    ];
    for sections in bad {
        let undecodable = with(&sections).unwrap_err();
        assert_eq!(undecodable.reason(), UndecodableReason::Malformed);
        assert_eq!(undecodable.sequence_number(), Some(42), "{sections:02x?}");
    }
    // The limits themselves are fine.
    assert!(with(&value(&nested(64))).is_ok());
    let widthless = value(&[0xf0, 0, 0, 0, 5, 0, 0, 0x10, 0, 0x41]);
    let event = with(&widthless).unwrap();
    assert!(
        matches!(event.amqp_body(), AmqpBody::Value(Value::Array(items)) if items.len() == 4096)
    );
    assert!(with(&[widthless.clone(), widthless].concat()).is_err());
}

#[test]
fn odd_but_sound_messages_are_events() {
    // Descriptors in eight bytes, sections in another order, lists among the properties.
    let body = [&[0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x75][..], &[0xa0, 1, 9]].concat();
    let list = [
        0x00, 0x53, 0x74, 0xc1, 0x08, 2, 0xa1, 1, b'l', 0xc0, 0x02, 1, 0x41,
    ];
    let event = with(&[&body[..], &list].concat()).unwrap();
    assert_eq!(event.body(), [9]);
    assert_eq!(
        event.properties()["l"],
        Value::List(vec![Value::Bool(true)])
    );
}

fn wire() -> impl Strategy<Value = Wire> {
    let leaf = prop_oneof![
        Just(Wire::Null),
        any::<bool>().prop_map(Wire::Bool),
        any::<u8>().prop_map(Wire::Ubyte),
        any::<u16>().prop_map(Wire::Ushort),
        any::<u32>().prop_map(Wire::Uint),
        (0u32..300).prop_map(Wire::Uint),
        any::<u64>().prop_map(Wire::Ulong),
        (0u64..300).prop_map(Wire::Ulong),
        any::<i8>().prop_map(Wire::Byte),
        any::<i16>().prop_map(Wire::Short),
        any::<i32>().prop_map(Wire::Int),
        (-200i32..200).prop_map(Wire::Int),
        any::<i64>().prop_map(Wire::Long),
        (-200i64..200).prop_map(Wire::Long),
        (-1e30f32..1e30).prop_map(Wire::from),
        (-1e30f64..1e30).prop_map(Wire::from),
        any::<[u8; 4]>().prop_map(|bytes| Wire::Decimal32(Dec32::from(bytes))),
        any::<[u8; 8]>().prop_map(|bytes| Wire::Decimal64(Dec64::from(bytes))),
        any::<[u8; 16]>().prop_map(|bytes| Wire::Decimal128(Dec128::from(bytes))),
        any::<char>().prop_map(Wire::Char),
        any::<i64>().prop_map(|millis| Wire::Timestamp(Timestamp::from_milliseconds(millis))),
        any::<[u8; 16]>().prop_map(|bytes| Wire::Uuid(Uuid::from(bytes))),
        proptest::collection::vec(any::<u8>(), 0..300)
            .prop_map(|bytes| Wire::Binary(Binary::from(bytes))),
        ".{0,300}".prop_map(Wire::String),
        "[a-z]{0,9}".prop_map(|text| Wire::Symbol(Symbol::from(text))),
        proptest::collection::vec(any::<i32>().prop_map(Wire::Int), 1..9)
            .prop_map(|items| Wire::Array(Array::from(items))),
        any::<i64>().prop_map(|ticks| Wire::Described(Box::new(Described {
            descriptor: Descriptor::Name(Symbol::from("com.microsoft:timespan")),
            value: Wire::Long(ticks),
        }))),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Wire::List),
            proptest::collection::vec((".{0,9}", inner), 0..6).prop_map(|entries| {
                let map: OrderedMap<_, _> = entries
                    .into_iter()
                    .map(|(key, value)| (Wire::String(key), value))
                    .collect();
                Wire::Map(map)
            }),
        ]
    })
}

/// A message with a body and some system properties.
fn messages() -> impl Strategy<Value = Message<WireBody<Wire>>> {
    let body = prop_oneof![
        wire().prop_map(|value| WireBody::Value(AmqpValue(value))),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..99), 0..3)
            .prop_map(|sections| data(&sections.iter().map(Vec::as_slice).collect::<Vec<_>>())),
    ];
    (
        body,
        proptest::collection::btree_map("[a-z]{1,9}", wire(), 0..4),
    )
        .prop_map(|(body, extra)| {
            let mut entries = position();
            entries.extend(
                extra
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.clone())),
            );
            message(entries, body)
        })
}

proptest! {
    /// The library is the second witness: what it writes, we read, and as the same.
    #[test]
    fn what_the_library_writes_is_read_alike(message in messages()) {
        let raw = encode(message.clone());
        let event = event(raw).unwrap();
        let annotations = message.message_annotations.unwrap().0;
        for (key, value) in annotations {
            let OwnedKey::Symbol(name) = key else { continue };
            if !name.0.starts_with("x-opt") {
                prop_assert_eq!(&event.system_properties()[&name.0], &from_wire(value));
            }
        }
        match message.body {
            WireBody::Value(AmqpValue(value)) => {
                prop_assert_eq!(event.amqp_body(), &AmqpBody::Value(from_wire(value)));
            }
            WireBody::Data(sections) => {
                let joined: Vec<u8> = sections.into_iter().flat_map(|data| data.0.into_vec()).collect();
                prop_assert_eq!(event.body(), &joined[..]);
            }
            WireBody::Sequence(_) | WireBody::Empty => {}
        }
    }

    /// What the walk lets through can be decoded, however it was damaged.
    #[test]
    fn damaged_messages_are_found_or_decoded(
        message in messages(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut raw = encode(message).to_vec();
        for (index, byte) in damage {
            let at = index.index(raw.len());
            raw[at] = byte;
        }
        if is_cut {
            raw.truncate(cut.index(raw.len()));
        }
        if let Ok(event) = event(raw.into()) {
            // Whatever cannot be decoded panics here: `decoded` asserts.
            let _ = format!("{:?}{:?}", event.amqp_body(), event.properties());
            let _ = format!("{:?}{:?}", event.system_properties(), event.message_properties());
            let _ = event.last_enqueued();
        }
    }

    /// What the library decodes of a damaged message, and we do too, is the same.
    #[test]
    fn both_readers_agree(value in wire(), index in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut raw = serde_amqp::to_vec(&value).unwrap();
        let at = index.index(raw.len());
        raw[at] = byte;
        let raw = Bytes::from(raw);
        let mut scanner = super::super::super::scan::Scanner::default();
        // The library must not be shown what the scanner would not let through.
        if scanner.walk(&raw, 1) == Ok(raw.len()) {
            let theirs = serde_amqp::from_reader::<Wire>(raw.clone().reader());
            let mut reader = Reader::new(&raw);
            let ours = reader.value(&raw);
            if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
                prop_assert_eq!(format!("{:?}", from_wire(theirs)), format!("{ours:?}"));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = event(bytes.clone().into());
        let _ = with(&bytes);
    }
}
