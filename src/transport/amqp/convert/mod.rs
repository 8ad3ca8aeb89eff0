//! Messages of the wire into events and back, and AMQP values into ours and back. Pure.

pub(super) mod outgoing;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{Body, Message, MessageId, Properties, annotations::Annotations};
use fe2o3_amqp_types::primitives::{SimpleValue, Value as Wire};
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;

use crate::model::{
    AmqpBody, EventParts, LastEnqueuedEventProperties, MessageProperties, Offset, Value,
};

const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
const OFFSET: &str = "x-opt-offset";
const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const PARTITION_KEY: &str = "x-opt-partition-key";

/// A message without a usable position: what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message annotation `{annotation}` is missing or not a {expected}")]
pub(super) struct NoPosition {
    annotation: &'static str,
    expected: &'static str,
}

/// Makes an event of a message. The position must be there in the right types; everything else is carried
/// over as it is.
pub(super) fn event_parts(message: Message<Body<Wire>>) -> Result<EventParts, NoPosition> {
    let missing = |annotation, expected| NoPosition {
        annotation,
        expected,
    };
    let mut sequence_number = None;
    let mut offset = None;
    let mut enqueued_time = None;
    let mut partition_key = None;
    let mut system_properties = BTreeMap::new();
    for (key, value) in message.message_annotations.into_iter().flat_map(|a| a.0) {
        let OwnedKey::Symbol(name) = key else {
            continue;
        };
        match (name.0.as_str(), value) {
            (SEQUENCE_NUMBER, Wire::Long(number)) => sequence_number = Some(number),
            (OFFSET, Wire::String(text)) if !text.is_empty() => offset = Some(Offset::from(text)),
            (ENQUEUED_TIME, Wire::Timestamp(time)) => {
                enqueued_time = system_time(time.milliseconds());
            }
            (PARTITION_KEY, Wire::String(key)) => partition_key = Some(key),
            (PARTITION_KEY, Wire::Symbol(key)) => partition_key = Some(key.0),
            (SEQUENCE_NUMBER | OFFSET | ENQUEUED_TIME, _) => {}
            (_, value) => {
                system_properties.insert(name.0, from_wire(value));
            }
        }
    }
    Ok(EventParts {
        sequence_number: sequence_number.ok_or_else(|| missing(SEQUENCE_NUMBER, "long"))?,
        offset: offset.ok_or_else(|| missing(OFFSET, "string"))?,
        enqueued_time: enqueued_time.ok_or_else(|| missing(ENQUEUED_TIME, "timestamp"))?,
        partition_key,
        body: body(message.body),
        properties: message
            .application_properties
            .into_iter()
            .flat_map(|properties| properties.0)
            .map(|(name, value)| (name, from_simple(value)))
            .collect(),
        system_properties,
        message_properties: message
            .properties
            .map(message_properties)
            .unwrap_or_default(),
        last_enqueued: message
            .delivery_annotations
            .and_then(|annotations| last_enqueued(annotations.0)),
    })
}

/// All four or nothing: half of them says nothing about the lag.
fn last_enqueued(annotations: Annotations) -> Option<LastEnqueuedEventProperties> {
    let (mut sequence_number, mut offset) = (None, None);
    let (mut enqueued_time, mut retrieval_time) = (None, None);
    for (key, value) in annotations {
        let OwnedKey::Symbol(name) = key else {
            continue;
        };
        match (name.0.as_str(), value) {
            ("last_enqueued_sequence_number", Wire::Long(number)) => sequence_number = Some(number),
            ("last_enqueued_offset", Wire::String(text)) => offset = Some(Offset::from(text)),
            ("last_enqueued_time_utc", Wire::Timestamp(time)) => {
                enqueued_time = system_time(time.milliseconds());
            }
            ("runtime_info_retrieval_time_utc", Wire::Timestamp(time)) => {
                retrieval_time = system_time(time.milliseconds());
            }
            _ => {}
        }
    }
    Some(LastEnqueuedEventProperties {
        sequence_number: sequence_number?,
        offset: offset?,
        enqueued_time: enqueued_time?,
        retrieval_time: retrieval_time?,
    })
}

fn body(body: Body<Wire>) -> AmqpBody {
    match body {
        Body::Empty => AmqpBody::Data(Bytes::new()),
        Body::Value(value) => AmqpBody::Value(from_wire(value.0)),
        Body::Sequence(sections) => AmqpBody::Sequence(
            sections
                .into_iter()
                .map(|section| section.0.into_iter().map(from_wire).collect())
                .collect(),
        ),
        Body::Data(sections) => {
            let mut sections = sections.into_iter().map(|section| section.0);
            let first = sections.next().map(|data| Bytes::from(data.into_vec()));
            let Some(second) = sections.next() else {
                return AmqpBody::Data(first.unwrap_or_default());
            };
            let mut joined = BytesMut::from(first.unwrap_or_default());
            joined.extend_from_slice(&second);
            for section in sections {
                joined.extend_from_slice(&section);
            }
            AmqpBody::Data(joined.freeze())
        }
    }
}

fn message_properties(properties: Properties) -> MessageProperties {
    MessageProperties {
        message_id: properties.message_id.map(message_id),
        user_id: properties.user_id.map(|id| Bytes::from(id.into_vec())),
        to: properties.to,
        subject: properties.subject,
        reply_to: properties.reply_to,
        correlation_id: properties.correlation_id.map(message_id),
        content_type: properties.content_type.map(|text| text.0),
        content_encoding: properties.content_encoding.map(|text| text.0),
        absolute_expiry_time: properties
            .absolute_expiry_time
            .and_then(|time| system_time(time.milliseconds())),
        creation_time: properties
            .creation_time
            .and_then(|time| system_time(time.milliseconds())),
        group_id: properties.group_id,
        group_sequence: properties.group_sequence,
        reply_to_group_id: properties.reply_to_group_id,
    }
}

fn message_id(id: MessageId) -> Value {
    match id {
        MessageId::Ulong(number) => Value::U64(number),
        MessageId::Uuid(uuid) => Value::Uuid(uuid.into_inner()),
        MessageId::Binary(bytes) => Value::Binary(bytes.into_vec().into()),
        MessageId::String(text) => Value::String(text),
    }
}

/// A time of the wire; `None` if this machine cannot represent it.
pub(super) fn system_time(millis: i64) -> Option<SystemTime> {
    let distance = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

pub(super) fn from_wire(value: Wire) -> Value {
    match value {
        Wire::Null => Value::Null,
        Wire::Bool(truth) => Value::Bool(truth),
        Wire::Ubyte(n) => Value::U8(n),
        Wire::Ushort(n) => Value::U16(n),
        Wire::Uint(n) => Value::U32(n),
        Wire::Ulong(n) => Value::U64(n),
        Wire::Byte(n) => Value::I8(n),
        Wire::Short(n) => Value::I16(n),
        Wire::Int(n) => Value::I32(n),
        Wire::Long(n) => Value::I64(n),
        Wire::Float(n) => Value::F32(n.0),
        Wire::Double(n) => Value::F64(n.0),
        Wire::Decimal32(n) => Value::Decimal32(n.into_inner()),
        Wire::Decimal64(n) => Value::Decimal64(n.into_inner()),
        Wire::Decimal128(n) => Value::Decimal128(n.into_inner()),
        Wire::Char(c) => Value::Char(c),
        Wire::Timestamp(time) => Value::Timestamp(time.milliseconds()),
        Wire::Uuid(uuid) => Value::Uuid(uuid.into_inner()),
        Wire::Binary(bytes) => Value::Binary(bytes.into_vec().into()),
        Wire::String(text) => Value::String(text),
        Wire::Symbol(text) => Value::Symbol(text.0),
        Wire::List(items) => Value::List(items.into_iter().map(from_wire).collect()),
        Wire::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (from_wire(key), from_wire(value)))
                .collect(),
        ),
        Wire::Array(items) => Value::Array(items.into_iter().map(from_wire).collect()),
        Wire::Described(described) => from_described(*described),
    }
}

fn from_simple(value: SimpleValue) -> Value {
    match value {
        SimpleValue::Described(described) => from_described(*described),
        plain => from_wire(Wire::from(plain)),
    }
}

fn from_described(described: Described<Wire>) -> Value {
    Value::Described {
        descriptor: Box::new(match described.descriptor {
            Descriptor::Name(name) => Value::Symbol(name.0),
            Descriptor::Code(code) => Value::U64(code),
        }),
        value: Box::new(from_wire(described.value)),
    }
}

#[cfg(test)]
mod tests;
