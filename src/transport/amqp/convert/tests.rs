//! Tests of the conversion from messages to events.

use fe2o3_amqp_types::messaging::{
    AmqpSequence, AmqpValue, ApplicationProperties, Batch, Data, DeliveryAnnotations,
    MessageAnnotations,
};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, Symbol, Timestamp, Uuid};
use proptest::prelude::*;
use serde_amqp::primitives::{Array, Dec32, Dec64, Dec128};

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

fn message(entries: Vec<(&str, Wire)>, body: Body<Wire>) -> Message<Body<Wire>> {
    Message::builder()
        .message_annotations(MessageAnnotations(annotations(entries)))
        .body(body)
        .build()
}

fn data(sections: &[&[u8]]) -> Body<Wire> {
    let sections: Vec<_> = sections
        .iter()
        .map(|bytes| Data(Binary::from(bytes.to_vec())))
        .collect();
    Body::Data(Batch::new(sections))
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
            .content_type(Symbol::from("text/plain"))
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
    let parts = event_parts(message).unwrap();
    assert_eq!(parts.sequence_number, 42);
    assert_eq!(parts.offset.as_str(), "1:2:3");
    assert_eq!(
        parts.enqueued_time,
        UNIX_EPOCH + Duration::from_millis(1500)
    );
    assert_eq!(parts.partition_key.as_deref(), Some("key"));
    assert_eq!(parts.body, AmqpBody::Data("hello".into()));
    assert_eq!(parts.properties["n"], Value::U32(7));
    assert_eq!(
        parts.system_properties["iothub-connection-device-id"],
        Value::String("dev".to_owned())
    );
    assert_eq!(parts.system_properties.len(), 1);
    assert_eq!(parts.message_properties.message_id, Some(Value::U64(9)));
    assert_eq!(
        parts.message_properties.content_type.as_deref(),
        Some("text/plain")
    );
    let last = parts.last_enqueued.unwrap();
    assert_eq!(last.sequence_number, 50);
    assert_eq!(last.offset.as_str(), "9:9:9");
}

#[test]
fn a_position_is_never_guessed() {
    for index in 0..3 {
        let mut missing = position();
        missing.remove(index);
        assert!(event_parts(message(missing, Body::Empty)).is_err());
        for wrong in [
            Wire::Null,
            Wire::Int(42),
            Wire::Ulong(42),
            Wire::Binary(Binary::from(vec![1])),
        ] {
            let mut mistyped = position();
            mistyped[index].1 = wrong;
            assert!(event_parts(message(mistyped, Body::Empty)).is_err());
        }
    }
    let mut empty = position();
    empty[1].1 = Wire::String(String::new());
    assert!(event_parts(message(empty, Body::Empty)).is_err());
    let bare = Message::builder().body(Body::Empty).build();
    let error = event_parts(bare).unwrap_err();
    assert!(error.to_string().contains("x-opt-sequence-number"));
}

#[test]
fn every_form_of_body_arrives() {
    let body_of = |body| event_parts(message(position(), body)).unwrap().body;
    assert_eq!(body_of(Body::Empty), AmqpBody::Data(Bytes::new()));
    assert_eq!(
        body_of(data(&[b"a", b"", b"bc"])),
        AmqpBody::Data("abc".into())
    );
    assert_eq!(
        body_of(Body::Value(AmqpValue(Wire::Int(5)))),
        AmqpBody::Value(Value::I32(5))
    );
    let sequence = Body::Sequence(Batch::new(vec![AmqpSequence(vec![Wire::Bool(true)])]));
    assert_eq!(
        body_of(sequence),
        AmqpBody::Sequence(vec![vec![Value::Bool(true)]])
    );
}

#[test]
fn half_of_the_last_enqueued_properties_is_nothing() {
    let mut message = message(position(), Body::Empty);
    message.delivery_annotations = Some(DeliveryAnnotations(annotations(vec![(
        "last_enqueued_sequence_number",
        Wire::Long(50),
    )])));
    assert_eq!(event_parts(message).unwrap().last_enqueued, None);
}

#[test]
fn every_type_has_its_own_variant() {
    let described = Wire::Described(Box::new(Described {
        descriptor: Descriptor::Name(Symbol::from("com.microsoft:timespan")),
        value: Wire::Long(1),
    }));
    let map: OrderedMap<Wire, Wire> = [(Wire::Ubyte(1), Wire::Null)].into_iter().collect();
    let cases = [
        (Wire::Null, Value::Null),
        (Wire::Bool(true), Value::Bool(true)),
        (Wire::Ubyte(1), Value::U8(1)),
        (Wire::Ushort(1), Value::U16(1)),
        (Wire::Uint(1), Value::U32(1)),
        (Wire::Ulong(1), Value::U64(1)),
        (Wire::Byte(-1), Value::I8(-1)),
        (Wire::Short(-1), Value::I16(-1)),
        (Wire::Int(-1), Value::I32(-1)),
        (Wire::Long(-1), Value::I64(-1)),
        (Wire::from(1.5f32), Value::F32(1.5)),
        (Wire::from(1.5f64), Value::F64(1.5)),
        (
            Wire::Decimal32(Dec32::from([1; 4])),
            Value::Decimal32([1; 4]),
        ),
        (
            Wire::Decimal64(Dec64::from([1; 8])),
            Value::Decimal64([1; 8]),
        ),
        (
            Wire::Decimal128(Dec128::from([1; 16])),
            Value::Decimal128([1; 16]),
        ),
        (Wire::Char('x'), Value::Char('x')),
        (
            Wire::Timestamp(Timestamp::from_milliseconds(-5)),
            Value::Timestamp(-5),
        ),
        (Wire::Uuid(Uuid::from([7; 16])), Value::Uuid([7; 16])),
        (
            Wire::Binary(Binary::from(vec![1])),
            Value::Binary(vec![1].into()),
        ),
        (
            Wire::Symbol(Symbol::from("s")),
            Value::Symbol("s".to_owned()),
        ),
        (Wire::List(vec![Wire::Null]), Value::List(vec![Value::Null])),
        (
            Wire::Array(Array::from(vec![Wire::Int(1)])),
            Value::Array(vec![Value::I32(1)]),
        ),
        (
            Wire::Map(map),
            Value::Map(vec![(Value::U8(1), Value::Null)]),
        ),
        (
            described,
            Value::Described {
                descriptor: Box::new(Value::Symbol("com.microsoft:timespan".to_owned())),
                value: Box::new(Value::I64(1)),
            },
        ),
    ];
    for (wire, value) in cases {
        assert_eq!(from_wire(wire), value);
    }
}

proptest! {
    #[test]
    fn times_survive_or_are_refused(millis in any::<i64>()) {
        if let Some(time) = system_time(millis) {
            prop_assert_eq!(super::super::filter::unix_millis(time), millis);
        }
    }
}
