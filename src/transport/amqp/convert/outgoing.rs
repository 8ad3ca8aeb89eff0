//! Events into messages of the wire. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use fe2o3_amqp_types::messaging::{
    AmqpSequence, AmqpValue, ApplicationProperties, Batch, Body, Data, Message, MessageAnnotations,
    MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{
    Array, Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Uuid, Value as Wire,
};
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use serde_amqp::primitives::{Dec32, Dec64, Dec128};

use super::PARTITION_KEY;
use crate::model::{AmqpBody, MessageProperties, Value};
use crate::transport::OutgoingEvent;

/// A value where AMQP has no place for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot hold this type of value")]
pub(in super::super) struct Misplaced {
    what: &'static str,
}

/// Makes a message of an event.
pub(in super::super) fn message(event: &OutgoingEvent) -> Result<Message<Body<Wire>>, Misplaced> {
    let mut application_properties = OrderedMap::new();
    for (name, value) in &event.properties {
        let value = simple(value).ok_or(Misplaced {
            what: "an application property",
        })?;
        application_properties.insert(name.clone(), value);
    }
    let annotations = event.partition_key.as_ref().map(|key| {
        let entry = (PARTITION_KEY.into(), Wire::String(key.clone()));
        MessageAnnotations([entry].into_iter().collect())
    });
    let properties = &event.message_properties;
    let properties = (*properties != MessageProperties::default())
        .then(|| message_properties(properties))
        .transpose()?;
    Ok(Message {
        header: None,
        delivery_annotations: None,
        message_annotations: annotations,
        properties,
        application_properties: (!event.properties.is_empty())
            .then_some(ApplicationProperties(application_properties)),
        body: body(&event.body)?,
        footer: None,
    })
}

fn body(body: &AmqpBody) -> Result<Body<Wire>, Misplaced> {
    Ok(match body {
        AmqpBody::Data(bytes) => Body::Data(Batch::new(vec![Data(Binary::from(bytes.to_vec()))])),
        AmqpBody::Value(value) => Body::Value(AmqpValue(to_wire(value)?)),
        AmqpBody::Sequence(sections) => {
            let sections: Result<Vec<_>, _> = sections
                .iter()
                .map(|section| to_wires(section).map(AmqpSequence))
                .collect();
            Body::Sequence(Batch::new(sections?))
        }
    })
}

fn message_properties(properties: &MessageProperties) -> Result<Properties, Misplaced> {
    let id = |id: &Option<Value>| id.as_ref().map(message_id).transpose();
    let symbol = |text: &Option<String>| text.as_deref().map(Symbol::from);
    let time = |time: Option<SystemTime>| time.map(timestamp);
    let user_id = properties.user_id.as_ref();
    Ok(Properties {
        message_id: id(&properties.message_id)?,
        user_id: user_id.map(|id| Binary::from(id.to_vec())),
        to: properties.to.clone(),
        subject: properties.subject.clone(),
        reply_to: properties.reply_to.clone(),
        correlation_id: id(&properties.correlation_id)?,
        content_type: symbol(&properties.content_type),
        content_encoding: symbol(&properties.content_encoding),
        absolute_expiry_time: time(properties.absolute_expiry_time),
        creation_time: time(properties.creation_time),
        group_id: properties.group_id.clone(),
        group_sequence: properties.group_sequence,
        reply_to_group_id: properties.reply_to_group_id.clone(),
    })
}

fn message_id(id: &Value) -> Result<MessageId, Misplaced> {
    match id {
        Value::U64(number) => Ok(MessageId::Ulong(*number)),
        Value::Uuid(bytes) => Ok(MessageId::Uuid(Uuid::from(*bytes))),
        Value::Binary(bytes) => Ok(MessageId::Binary(Binary::from(bytes.to_vec()))),
        Value::String(text) => Ok(MessageId::String(text.clone())),
        _ => Err(Misplaced {
            what: "a message id",
        }),
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let millis = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    Timestamp::from_milliseconds(millis)
}

/// PROTOCOL: application properties hold no lists, maps and arrays.
fn simple(value: &Value) -> Option<SimpleValue> {
    SimpleValue::try_from(to_wire(value).ok()?).ok()
}

fn to_wires(values: &[Value]) -> Result<Vec<Wire>, Misplaced> {
    values.iter().map(to_wire).collect()
}

fn to_wire(value: &Value) -> Result<Wire, Misplaced> {
    Ok(match value {
        Value::Null => Wire::Null,
        Value::Bool(truth) => Wire::Bool(*truth),
        Value::U8(n) => Wire::Ubyte(*n),
        Value::U16(n) => Wire::Ushort(*n),
        Value::U32(n) => Wire::Uint(*n),
        Value::U64(n) => Wire::Ulong(*n),
        Value::I8(n) => Wire::Byte(*n),
        Value::I16(n) => Wire::Short(*n),
        Value::I32(n) => Wire::Int(*n),
        Value::I64(n) => Wire::Long(*n),
        Value::F32(n) => Wire::Float((*n).into()),
        Value::F64(n) => Wire::Double((*n).into()),
        Value::Decimal32(bytes) => Wire::Decimal32(Dec32::from(*bytes)),
        Value::Decimal64(bytes) => Wire::Decimal64(Dec64::from(*bytes)),
        Value::Decimal128(bytes) => Wire::Decimal128(Dec128::from(*bytes)),
        Value::Char(c) => Wire::Char(*c),
        Value::Timestamp(millis) => Wire::Timestamp(Timestamp::from_milliseconds(*millis)),
        Value::Uuid(bytes) => Wire::Uuid(Uuid::from(*bytes)),
        Value::Binary(bytes) => Wire::Binary(Binary::from(bytes.to_vec())),
        Value::String(text) => Wire::String(text.clone()),
        Value::Symbol(text) => Wire::Symbol(Symbol::from(text.as_str())),
        Value::List(items) => Wire::List(to_wires(items)?),
        Value::Array(items) => Wire::Array(Array::from(to_wires(items)?)),
        Value::Map(entries) => {
            let mut map = OrderedMap::new();
            for (key, value) in entries {
                map.insert(to_wire(key)?, to_wire(value)?);
            }
            Wire::Map(map)
        }
        Value::Described { descriptor, value } => {
            let descriptor = match &**descriptor {
                Value::Symbol(name) => Descriptor::Name(Symbol::from(name.as_str())),
                Value::U64(code) => Descriptor::Code(*code),
                _ => {
                    return Err(Misplaced {
                        what: "a descriptor",
                    });
                }
            };
            let value = to_wire(value)?;
            Wire::Described(Box::new(Described { descriptor, value }))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fe2o3_amqp_types::messaging::annotations::OwnedKey;
    use fe2o3_amqp_types::messaging::message::__private::Serializable;
    use proptest::prelude::*;

    use super::*;
    use crate::model::ReceivedEvent;
    use crate::transport::amqp::wire;

    /// What a receiver of the message gets, with a position as the service adds it.
    fn received(event: &OutgoingEvent) -> ReceivedEvent {
        let mut message = message(event).unwrap();
        let annotations = message.message_annotations.get_or_insert_default();
        for (name, value) in [
            ("x-opt-sequence-number", Wire::Long(1)),
            ("x-opt-offset", Wire::String("1".to_owned())),
            (
                "x-opt-enqueued-time",
                Wire::Timestamp(Timestamp::from_milliseconds(0)),
            ),
        ] {
            annotations.0.insert(OwnedKey::from(name), value);
        }
        let raw = serde_amqp::to_vec(&Serializable(message)).unwrap();
        wire::message::event(raw.into()).unwrap()
    }

    fn event(body: AmqpBody) -> OutgoingEvent {
        OutgoingEvent {
            body,
            properties: Default::default(),
            message_properties: MessageProperties::default(),
            partition_key: None,
        }
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<u8>().prop_map(Value::U8),
            any::<u16>().prop_map(Value::U16),
            any::<u32>().prop_map(Value::U32),
            any::<u64>().prop_map(Value::U64),
            any::<i8>().prop_map(Value::I8),
            any::<i16>().prop_map(Value::I16),
            any::<i32>().prop_map(Value::I32),
            any::<i64>().prop_map(Value::I64),
            (-1e9f32..1e9).prop_map(Value::F32),
            (-1e9f64..1e9).prop_map(Value::F64),
            any::<[u8; 4]>().prop_map(Value::Decimal32),
            any::<[u8; 8]>().prop_map(Value::Decimal64),
            any::<[u8; 16]>().prop_map(Value::Decimal128),
            any::<char>().prop_map(Value::Char),
            any::<i64>().prop_map(Value::Timestamp),
            any::<[u8; 16]>().prop_map(Value::Uuid),
            any::<Vec<u8>>().prop_map(|bytes| Value::Binary(bytes.into())),
            ".{0,8}".prop_map(Value::String),
            "[a-z:-]{0,8}".prop_map(Value::Symbol),
            ("[a-z:]{1,8}", any::<i64>()).prop_map(|(name, n)| Value::Described {
                descriptor: Box::new(Value::Symbol(name)),
                value: Box::new(Value::I64(n)),
            }),
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        scalar().prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
                proptest::collection::vec(any::<i32>().prop_map(Value::I32), 0..3)
                    .prop_map(Value::Array),
                ("[a-z]{1,4}", inner)
                    .prop_map(|(key, value)| Value::Map(vec![(Value::String(key), value)])),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_body_arrives_as_it_was(value in any_value(), bytes: Vec<u8>) {
            for body in [
                AmqpBody::Data(bytes.into()),
                AmqpBody::Value(value.clone()),
                AmqpBody::Sequence(vec![vec![value.clone()], vec![value]]),
            ] {
                let received = received(&event(body.clone()));
                prop_assert_eq!(received.amqp_body(), &body);
            }
        }

        #[test]
        fn every_property_arrives_as_it_was(value in scalar()) {
            let mut event = event(AmqpBody::Data("".into()));
            event.properties.insert("p".to_owned(), value.clone());
            let received = received(&event);
            prop_assert_eq!(&received.properties()["p"], &value);
        }
    }

    #[test]
    fn message_properties_and_key_arrive_as_they_were() {
        let mut event = event(AmqpBody::Data("".into()));
        event.partition_key = Some("key".to_owned());
        let time = Some(UNIX_EPOCH + Duration::from_millis(1500));
        event.message_properties = MessageProperties {
            message_id: Some(Value::Uuid([7; 16])),
            user_id: Some("me".into()),
            to: Some("to".to_owned()),
            subject: Some("subject".to_owned()),
            reply_to: Some("reply".to_owned()),
            correlation_id: Some(Value::String("c".to_owned())),
            content_type: Some("text/plain".to_owned()),
            content_encoding: Some("utf-8".to_owned()),
            absolute_expiry_time: time,
            creation_time: time,
            group_id: Some("g".to_owned()),
            group_sequence: Some(3),
            reply_to_group_id: Some("r".to_owned()),
        };
        let received = received(&event);
        assert_eq!(received.message_properties(), &event.message_properties);
        assert_eq!(received.partition_key(), event.partition_key.as_deref());
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let mut misplaced = event(AmqpBody::Data("".into()));
        let list = Value::List(vec![]);
        misplaced.properties.insert("p".to_owned(), list.clone());
        assert!(message(&misplaced).is_err());
        let mut misplaced = event(AmqpBody::Data("".into()));
        misplaced.message_properties.message_id = Some(list);
        assert!(message(&misplaced).is_err());
    }
}
