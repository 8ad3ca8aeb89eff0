//! Messages of azeventhubs into our events. Pure.
//!
//! From the raw message, because the getters of azeventhubs panic on types they do not expect.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use eventhubs_processor::{
    AmqpBody, EventParts, LastEnqueuedEventProperties, MessageProperties, Offset, ReceivedEvent,
    Value,
};
use fe2o3_amqp::types::messaging::annotations::{Annotations, OwnedKey};
use fe2o3_amqp::types::messaging::{Body, Message, MessageId, Properties};
use fe2o3_amqp::types::primitives::Value as Wire;
use serde_amqp::descriptor::Descriptor;

const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
const OFFSET: &str = "x-opt-offset";
const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const PARTITION_KEY: &str = "x-opt-partition-key";

/// A message that does not say where in its partition it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPosition {
    /// The first annotation that is missing or of the wrong type.
    pub(crate) annotation: &'static str,
}

/// Makes an event of a message.
pub(crate) fn event(message: Message<Body<Wire>>) -> Result<ReceivedEvent, NoPosition> {
    let annotations = message.message_annotations.map(|section| section.0);
    let mut system_properties = annotations.map(entries).unwrap_or_default();
    let mut take = |annotation| system_properties.remove(annotation);
    let missing = |annotation| NoPosition { annotation };
    let Some(Value::I64(sequence_number)) = take(SEQUENCE_NUMBER) else {
        return Err(missing(SEQUENCE_NUMBER));
    };
    let Some(Value::String(offset)) = take(OFFSET) else {
        return Err(missing(OFFSET));
    };
    let Some(enqueued_time) = take(ENQUEUED_TIME).as_ref().and_then(time) else {
        return Err(missing(ENQUEUED_TIME));
    };
    let partition_key = match take(PARTITION_KEY) {
        Some(Value::String(key) | Value::Symbol(key)) => Some(key),
        _ => None,
    };
    let properties = message.application_properties.map(|section| section.0);
    let last_enqueued = message
        .delivery_annotations
        .and_then(|section| last_enqueued(entries(section.0)));
    let mut parts = EventParts::new(sequence_number, offset, enqueued_time, Bytes::new());
    parts.partition_key = partition_key;
    parts.body = body(message.body);
    parts.properties = properties
        .into_iter()
        .flatten()
        .map(|(name, value)| (name, from_wire(value.into())))
        .collect();
    parts.system_properties = system_properties;
    parts.message_properties = message
        .properties
        .map(message_properties)
        .unwrap_or_default();
    parts.last_enqueued = last_enqueued;
    Ok(ReceivedEvent::new(parts))
}

fn entries(annotations: Annotations) -> BTreeMap<String, Value> {
    annotations
        .into_iter()
        .filter_map(|(key, value)| match key {
            OwnedKey::Symbol(name) => Some((name.0, from_wire(value))),
            OwnedKey::Ulong(_) => None,
        })
        .collect()
}

/// A time of the wire; `None` if it is none, or one that this machine cannot represent.
fn time(value: &Value) -> Option<SystemTime> {
    match *value {
        Value::Timestamp(millis) => system_time(millis),
        _ => None,
    }
}

fn system_time(millis: i64) -> Option<SystemTime> {
    let distance = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

/// All four or nothing: half of them says nothing about the lag.
fn last_enqueued(mut entries: BTreeMap<String, Value>) -> Option<LastEnqueuedEventProperties> {
    let mut take = |name| entries.remove(name);
    Some(LastEnqueuedEventProperties {
        sequence_number: match take("last_enqueued_sequence_number") {
            Some(Value::I64(number)) => number,
            _ => return None,
        },
        offset: match take("last_enqueued_offset") {
            Some(Value::String(text)) => Offset::from(text),
            _ => return None,
        },
        enqueued_time: time(&take("last_enqueued_time_utc")?)?,
        retrieval_time: time(&take("runtime_info_retrieval_time_utc")?)?,
    })
}

fn body(body: Body<Wire>) -> AmqpBody {
    match body {
        Body::Empty => AmqpBody::Data(Bytes::new()),
        Body::Data(sections) => {
            let mut sections = sections.into_iter().map(|data| data.0.into_vec());
            let first = sections.next().unwrap_or_default();
            AmqpBody::Data(Bytes::from(sections.fold(first, |mut joined, data| {
                joined.extend_from_slice(&data);
                joined
            })))
        }
        Body::Value(value) => AmqpBody::Value(from_wire(value.0)),
        Body::Sequence(lists) => AmqpBody::Sequence(
            lists
                .into_iter()
                .map(|list| list.0.into_iter().map(from_wire).collect())
                .collect(),
        ),
    }
}

fn message_properties(wire: Properties) -> MessageProperties {
    let mut properties = MessageProperties::default();
    properties.message_id = wire.message_id.map(message_id);
    properties.user_id = wire.user_id.map(|id| Bytes::from(id.into_vec()));
    properties.to = wire.to;
    properties.subject = wire.subject;
    properties.reply_to = wire.reply_to;
    properties.correlation_id = wire.correlation_id.map(message_id);
    properties.content_type = wire.content_type.map(|text| text.0);
    properties.content_encoding = wire.content_encoding.map(|text| text.0);
    properties.absolute_expiry_time = wire
        .absolute_expiry_time
        .and_then(|time| system_time(time.milliseconds()));
    properties.creation_time = wire
        .creation_time
        .and_then(|time| system_time(time.milliseconds()));
    properties.group_id = wire.group_id;
    properties.group_sequence = wire.group_sequence;
    properties.reply_to_group_id = wire.reply_to_group_id;
    properties
}

fn message_id(id: MessageId) -> Value {
    match id {
        MessageId::Ulong(number) => Value::U64(number),
        MessageId::Uuid(uuid) => Value::Uuid(uuid.into_inner()),
        MessageId::Binary(bytes) => Value::Binary(bytes.into_vec().into()),
        MessageId::String(text) => Value::String(text),
    }
}

fn from_wire(value: Wire) -> Value {
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
        Wire::Described(described) => Value::Described {
            descriptor: Box::new(match described.descriptor {
                Descriptor::Name(name) => Value::Symbol(name.0),
                Descriptor::Code(code) => Value::U64(code),
            }),
            value: Box::new(from_wire(described.value)),
        },
    }
}
