//! A dead letter as JSON. Pure. The format is documented at [`BlobDeadLetters`](super::BlobDeadLetters).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};

use super::DeadLetter;
use super::event_hub::millis;
use crate::model::{AmqpBody, MessageProperties, Value};

/// The letter in version 1 of the format.
pub(super) fn encode(letter: &DeadLetter) -> Vec<u8> {
    let event = &letter.event;
    let mut fields = json!({
        "version": 1,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "failedAt": millis(letter.failed_at),
        "namespace": letter.scope.fully_qualified_namespace(),
        "eventHub": letter.scope.event_hub_name(),
        "consumerGroup": letter.scope.consumer_group(),
        "partitionId": letter.partition_id.as_str(),
        "ownerId": letter.owner_id.as_str(),
        "sequenceNumber": event.sequence_number().to_string(),
        "offset": event.offset().as_str(),
        "enqueuedTime": millis(event.enqueued_time()),
        "body": body(event.amqp_body()),
        "properties": values(event.properties()),
        "systemProperties": values(event.system_properties()),
        "messageProperties": message_properties(event.message_properties()),
    });
    if let (Some(key), Some(fields)) = (event.partition_key(), fields.as_object_mut()) {
        fields.insert("partitionKey".to_owned(), key.into());
    }
    if let (Some(reason), Some(fields)) = (letter.undecodable, fields.as_object_mut()) {
        fields.insert("undecodable".to_owned(), reason.to_string().into());
    }
    fields.to_string().into_bytes()
}

fn body(body: &AmqpBody) -> Json {
    match body {
        AmqpBody::Data(bytes) => json!({"kind": "data", "base64": BASE64.encode(bytes)}),
        AmqpBody::Value(inner) => json!({"kind": "value", "value": value(inner)}),
        AmqpBody::Sequence(sections) => {
            let sections: Vec<Vec<Json>> = sections
                .iter()
                .map(|section| section.iter().map(value).collect())
                .collect();
            json!({"kind": "sequence", "sections": sections})
        }
    }
}

fn values(values: &BTreeMap<String, Value>) -> Json {
    let pairs = values
        .iter()
        .map(|(name, inner)| (name.clone(), value(inner)));
    Json::Object(pairs.collect())
}

fn message_properties(properties: &MessageProperties) -> Json {
    let binary = |bytes: &bytes::Bytes| value(&Value::Binary(bytes.clone()));
    let text = |text: &String| Json::from(text.as_str());
    let fields = [
        ("messageId", properties.message_id.as_ref().map(value)),
        ("userId", properties.user_id.as_ref().map(binary)),
        ("to", properties.to.as_ref().map(text)),
        ("subject", properties.subject.as_ref().map(text)),
        ("replyTo", properties.reply_to.as_ref().map(text)),
        (
            "correlationId",
            properties.correlation_id.as_ref().map(value),
        ),
        ("contentType", properties.content_type.as_ref().map(text)),
        (
            "contentEncoding",
            properties.content_encoding.as_ref().map(text),
        ),
        (
            "absoluteExpiryTime",
            properties
                .absolute_expiry_time
                .map(|time| millis(time).into()),
        ),
        (
            "creationTime",
            properties.creation_time.map(|time| millis(time).into()),
        ),
        ("groupId", properties.group_id.as_ref().map(text)),
        ("groupSequence", properties.group_sequence.map(Json::from)),
        (
            "replyToGroupId",
            properties.reply_to_group_id.as_ref().map(text),
        ),
    ];
    let present = fields
        .into_iter()
        .filter_map(|(name, field)| Some((name.to_owned(), field?)));
    Json::Object(present.collect::<Map<_, _>>())
}

fn value(inner: &Value) -> Json {
    let (kind, plain): (&str, Json) = match inner {
        Value::Null => return json!({"type": "null"}),
        Value::Described {
            descriptor,
            value: described,
        } => {
            return json!({
                "type": "described",
                "descriptor": value(descriptor),
                "value": value(described),
            });
        }
        Value::Bool(truth) => ("boolean", (*truth).into()),
        Value::U8(n) => ("ubyte", (*n).into()),
        Value::U16(n) => ("ushort", (*n).into()),
        Value::U32(n) => ("uint", (*n).into()),
        Value::U64(n) => ("ulong", n.to_string().into()),
        Value::I8(n) => ("byte", (*n).into()),
        Value::I16(n) => ("short", (*n).into()),
        Value::I32(n) => ("int", (*n).into()),
        Value::I64(n) => ("long", n.to_string().into()),
        Value::F32(n) => ("float", number((*n).into())),
        Value::F64(n) => ("double", number(*n)),
        Value::Decimal32(bytes) => ("decimal32", hex(bytes).into()),
        Value::Decimal64(bytes) => ("decimal64", hex(bytes).into()),
        Value::Decimal128(bytes) => ("decimal128", hex(bytes).into()),
        Value::Char(c) => ("char", c.to_string().into()),
        Value::Timestamp(millis) => ("timestamp", millis.to_string().into()),
        Value::Uuid(bytes) => ("uuid", hex(bytes).into()),
        Value::Binary(bytes) => ("binary", BASE64.encode(bytes).into()),
        Value::String(text) => ("string", text.as_str().into()),
        Value::Symbol(text) => ("symbol", text.as_str().into()),
        Value::List(items) => ("list", items.iter().map(value).collect()),
        Value::Array(items) => ("array", items.iter().map(value).collect()),
        Value::Map(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, inner)| Json::from(vec![value(key), value(inner)]));
            ("map", pairs.collect())
        }
    };
    json!({"type": kind, "value": plain})
}

/// JSON has no numbers that are none.
fn number(n: f64) -> Json {
    serde_json::Number::from_f64(n).map_or_else(|| n.to_string().into(), Json::Number)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::dead_letter::Source;
    use crate::model::{EventParts, GroupScope, ReceivedEvent};

    fn encoded(parts: EventParts) -> Json {
        let source = Source {
            scope: &GroupScope::new("ns", "hub", "$Default"),
            partition_id: &"3".into(),
            owner_id: &"me".into(),
        };
        let event = ReceivedEvent::new(parts);
        let letter = DeadLetter::new(source, &event, "because of \"this\"", 2);
        serde_json::from_slice(&encode(&letter)).unwrap()
    }

    fn parts() -> EventParts {
        let enqueued = UNIX_EPOCH + Duration::from_millis(1_764_158_399_123);
        EventParts::new(i64::MAX, "8591964920", enqueued, "hello")
    }

    #[test]
    fn a_letter_says_where_the_event_was_and_why() {
        let mut parts = parts();
        parts.partition_key = Some("key".to_owned());
        parts.message_properties.content_type = Some("text/plain".to_owned());
        parts.message_properties.message_id = Some(Value::U64(7));
        let mut letter = encoded(parts);
        let failed_at = letter["failedAt"].take();
        assert!(failed_at.as_i64().unwrap() > 1_700_000_000_000);
        let expected = json!({
            "version": 1, "reason": "because of \"this\"", "attempts": 2, "failedAt": null,
            "namespace": "ns", "eventHub": "hub", "consumerGroup": "$Default", "partitionId": "3", "ownerId": "me",
            "sequenceNumber": "9223372036854775807", "offset": "8591964920", "enqueuedTime": 1_764_158_399_123_i64,
            "partitionKey": "key", "body": {"kind": "data", "base64": "aGVsbG8="},
            "properties": {}, "systemProperties": {},
            "messageProperties": {
                "contentType": "text/plain", "messageId": {"type": "ulong", "value": "7"},
            },
        });
        assert_eq!(letter, expected);
    }

    #[test]
    fn every_type_keeps_its_name_and_its_value() {
        let text = |text: &str| Value::String(text.to_owned());
        let symbol = || Value::Symbol("s".to_owned());
        for (amqp, expected) in [
            (Value::Null, json!({"type": "null"})),
            (Value::Bool(true), json!({"type": "boolean", "value": true})),
            (Value::U8(1), json!({"type": "ubyte", "value": 1})),
            (Value::U16(1), json!({"type": "ushort", "value": 1})),
            (Value::U32(1), json!({"type": "uint", "value": 1})),
            (
                Value::U64(u64::MAX),
                json!({"type": "ulong", "value": "18446744073709551615"}),
            ),
            (Value::I8(-1), json!({"type": "byte", "value": -1})),
            (Value::I16(-1), json!({"type": "short", "value": -1})),
            (Value::I32(-1), json!({"type": "int", "value": -1})),
            (Value::I64(-1), json!({"type": "long", "value": "-1"})),
            (Value::F32(0.5), json!({"type": "float", "value": 0.5})),
            (
                Value::F32(f32::NAN),
                json!({"type": "float", "value": "NaN"}),
            ),
            (
                Value::F64(f64::NEG_INFINITY),
                json!({"type": "double", "value": "-inf"}),
            ),
            (
                Value::Decimal32([0, 1, 2, 255]),
                json!({"type": "decimal32", "value": "000102ff"}),
            ),
            (
                Value::Decimal64([1; 8]),
                json!({"type": "decimal64", "value": "0101010101010101"}),
            ),
            (
                Value::Decimal128([1; 16]),
                json!({"type": "decimal128", "value": "01".repeat(16)}),
            ),
            (Value::Char('ä'), json!({"type": "char", "value": "ä"})),
            (
                Value::Timestamp(-5),
                json!({"type": "timestamp", "value": "-5"}),
            ),
            (
                Value::Uuid([7; 16]),
                json!({"type": "uuid", "value": "07".repeat(16)}),
            ),
            (
                Value::Binary("\0".into()),
                json!({"type": "binary", "value": "AA=="}),
            ),
            (text("t"), json!({"type": "string", "value": "t"})),
            (symbol(), json!({"type": "symbol", "value": "s"})),
            (
                Value::List(vec![Value::Null]),
                json!({"type": "list", "value": [{"type": "null"}]}),
            ),
            (Value::Array(vec![]), json!({"type": "array", "value": []})),
            (
                Value::Map(vec![(text("k"), Value::Null)]),
                json!({"type": "map", "value": [[{"type": "string", "value": "k"}, {"type": "null"}]]}),
            ),
            (
                Value::Described {
                    descriptor: Box::new(symbol()),
                    value: Box::new(Value::Null),
                },
                json!({
                    "type": "described", "descriptor": {"type": "symbol", "value": "s"}, "value": {"type": "null"},
                }),
            ),
        ] {
            let mut parts = parts();
            parts.properties.insert("p".to_owned(), amqp.clone());
            parts.system_properties.insert("q".to_owned(), amqp.clone());
            parts.body = AmqpBody::Value(amqp.clone());
            let letter = encoded(parts);
            assert_eq!(letter["properties"]["p"], expected, "{amqp:?}");
            assert_eq!(letter["systemProperties"]["q"], expected);
            let body = json!({"kind": "value", "value": expected});
            assert_eq!(letter["body"], body);
        }
    }

    #[test]
    fn a_sequence_keeps_its_sections() {
        let mut parts = parts();
        parts.body = AmqpBody::Sequence(vec![vec![Value::Null], vec![]]);
        let expected = json!({"kind": "sequence", "sections": [[{"type": "null"}], []]});
        assert_eq!(encoded(parts)["body"], expected);
    }
}
