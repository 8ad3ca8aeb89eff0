//! Messages into events. Everything that can be wrong with a message is found when it comes; what an application
//! does not ask for is not decoded.

mod walk;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use self::walk::{
    Body, ENQUEUED_TIME, Found, Layout, OFFSET, PARTITION_KEY, SEQUENCE_NUMBER, Span, walk,
};
use super::super::convert::system_time;
use super::read::{Malformed, Reader, Token};
use crate::model::{
    AmqpBody, EncodedSections, LastEnqueuedEventProperties, MessageProperties, Offset, Position,
    ReceivedEvent, UndecodableEvent, UndecodableReason, Value,
};

/// Makes an event of an encoded message.
///
/// # Errors
///
/// A message that cannot be decoded to its end, with as much of its position as could be read.
pub(in crate::transport::amqp) fn event(
    raw: Bytes,
) -> Result<ReceivedEvent, Box<UndecodableEvent>> {
    let mut found = Found::default();
    let layout = match walk(&raw, &mut found) {
        Ok(layout) => layout,
        Err(Malformed) => return Err(undecodable(&raw, found, UndecodableReason::Malformed)),
    };
    let missing = match found {
        Found {
            sequence_number: Some(sequence_number),
            offset: Some(_),
            enqueued_time: Some(enqueued_time),
            ..
        } => {
            return Ok(ReceivedEvent::from_encoded(
                sequence_number,
                enqueued_time,
                Encoded { raw, layout },
            ));
        }
        Found {
            sequence_number: None,
            ..
        } => SEQUENCE_NUMBER,
        Found { offset: None, .. } => OFFSET,
        Found { .. } => ENQUEUED_TIME,
    };
    let reason = UndecodableReason::NoPosition {
        annotation: missing,
    };
    Err(undecodable(&raw, found, reason))
}

/// What is told of a message that grew too large, of which this is the beginning.
pub(in crate::transport::amqp) fn too_large(start: &Bytes, len: u64) -> Box<UndecodableEvent> {
    let mut found = Found::default();
    // It ends somewhere in the middle; the position is at the beginning.
    let _ = walk(start, &mut found);
    undecodable(start, found, UndecodableReason::TooLarge { len })
}

fn undecodable(raw: &Bytes, found: Found<'_>, reason: UndecodableReason) -> Box<UndecodableEvent> {
    let position = Position {
        sequence_number: found.sequence_number,
        offset: found.offset.map(Offset::from),
        enqueued_time: found.enqueued_time,
    };
    Box::new(UndecodableEvent::new(reason, position, raw.clone()))
}

/// A message that has been walked over.
struct Encoded {
    raw: Bytes,
    layout: Layout,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("len", &self.raw.len())
            .finish_non_exhaustive()
    }
}

impl Encoded {
    /// The entries of a map section with a name.
    fn entries(&self, section: Option<Span>) -> Result<BTreeMap<String, Value>, Malformed> {
        let Some(section) = section else {
            return Ok(BTreeMap::new());
        };
        let Token::Map(items) = Reader::new(section.get(&self.raw)).token()? else {
            return Err(Malformed);
        };
        let mut reader = Reader::new(items.bytes);
        let mut entries = BTreeMap::new();
        for _ in 0..items.count / 2 {
            let key = reader.value(&self.raw)?;
            let value = reader.value(&self.raw)?;
            if let Value::Symbol(name) | Value::String(name) = key {
                entries.insert(name, value);
            }
        }
        Ok(entries)
    }

    fn read_properties(&self) -> Result<MessageProperties, Malformed> {
        let mut properties = MessageProperties::default();
        let Some(section) = self.layout.properties else {
            return Ok(properties);
        };
        let Token::List(items) = Reader::new(section.get(&self.raw)).token()? else {
            return Err(Malformed);
        };
        let mut reader = Reader::new(items.bytes);
        for index in 0..items.count {
            let value = reader.value(&self.raw)?;
            match (index, value) {
                (_, Value::Null) => {}
                (0, id) => properties.message_id = Some(id),
                (1, Value::Binary(id)) => properties.user_id = Some(id),
                (5, id) => properties.correlation_id = Some(id),
                (_, Value::String(text) | Value::Symbol(text)) => {
                    let field = match index {
                        2 => &mut properties.to,
                        3 => &mut properties.subject,
                        4 => &mut properties.reply_to,
                        6 => &mut properties.content_type,
                        7 => &mut properties.content_encoding,
                        10 => &mut properties.group_id,
                        12 => &mut properties.reply_to_group_id,
                        _ => return Err(Malformed),
                    };
                    *field = Some(text);
                }
                (8, Value::Timestamp(millis)) => {
                    properties.absolute_expiry_time = system_time(millis);
                }
                (9, Value::Timestamp(millis)) => properties.creation_time = system_time(millis),
                (11, Value::U32(number)) => properties.group_sequence = Some(number),
                _ => return Err(Malformed),
            }
        }
        Ok(properties)
    }

    fn sequences(&self, lists: Span) -> Result<Vec<Vec<Value>>, Malformed> {
        let mut reader = Reader::new(lists.get(&self.raw));
        let mut sequences = Vec::new();
        while !reader.is_at_end() {
            match reader.value(&self.raw)? {
                Value::Described { value, .. } => match *value {
                    Value::List(items) => sequences.push(items),
                    _ => return Err(Malformed),
                },
                _ => return Err(Malformed),
            }
        }
        Ok(sequences)
    }

    fn read_body(&self) -> Result<AmqpBody, Malformed> {
        Ok(match &self.layout.body {
            Body::Empty => AmqpBody::Data(Bytes::new()),
            Body::Data(span) => AmqpBody::Data(self.raw.slice_ref(span.get(&self.raw))),
            Body::Joined(bytes) => AmqpBody::Data(bytes.clone()),
            Body::Value(span, _) => {
                AmqpBody::Value(Reader::new(span.get(&self.raw)).value(&self.raw)?)
            }
            Body::Sequence(span) => AmqpBody::Sequence(self.sequences(*span)?),
        })
    }
}

/// What was walked over can be decoded; the tests and the fuzz targets hold that.
fn decoded<T>(result: Result<T, Malformed>) -> Option<T> {
    debug_assert!(
        result.is_ok(),
        "the walk let through what cannot be decoded"
    );
    result.ok()
}

impl EncodedSections for Encoded {
    fn encoded_len(&self) -> usize {
        self.raw.len()
    }

    fn offset(&self) -> &str {
        self.layout.offset.map_or("", |span| span.text(&self.raw))
    }

    fn partition_key(&self) -> Option<&str> {
        self.layout.partition_key.map(|span| span.text(&self.raw))
    }

    fn body_bytes(&self) -> &[u8] {
        match &self.layout.body {
            Body::Data(span) | Body::Value(_, Some(span)) => span.get(&self.raw),
            Body::Joined(bytes) => bytes,
            Body::Empty | Body::Value(_, None) | Body::Sequence(_) => &[],
        }
    }

    fn body(&self) -> AmqpBody {
        decoded(self.read_body()).unwrap_or(AmqpBody::Data(Bytes::new()))
    }

    fn properties(&self) -> BTreeMap<String, Value> {
        decoded(self.entries(self.layout.application_properties)).unwrap_or_default()
    }

    fn system_properties(&self) -> BTreeMap<String, Value> {
        let mut entries =
            decoded(self.entries(self.layout.message_annotations)).unwrap_or_default();
        for position in [SEQUENCE_NUMBER, OFFSET, ENQUEUED_TIME] {
            entries.remove(position);
        }
        if self.layout.partition_key.is_some() {
            entries.remove(PARTITION_KEY);
        }
        entries
    }

    fn message_properties(&self) -> MessageProperties {
        decoded(self.read_properties()).unwrap_or_default()
    }

    /// All four or nothing: half of them says nothing about the lag.
    fn last_enqueued(&self) -> Option<LastEnqueuedEventProperties> {
        self.layout.delivery_annotations?;
        let mut entries = decoded(self.entries(self.layout.delivery_annotations))?;
        let mut take = |name| entries.remove(name);
        let time = |value| match value {
            Some(Value::Timestamp(millis)) => system_time(millis),
            _ => None,
        };
        Some(LastEnqueuedEventProperties {
            sequence_number: match take("last_enqueued_sequence_number") {
                Some(Value::I64(number)) => number,
                _ => return None,
            },
            offset: match take("last_enqueued_offset") {
                Some(Value::String(text)) => Offset::from(text),
                _ => return None,
            },
            enqueued_time: time(take("last_enqueued_time_utc"))?,
            retrieval_time: time(take("runtime_info_retrieval_time_utc"))?,
        })
    }
}

#[cfg(test)]
mod tests;
