//! A received event.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::{LastEnqueuedEventProperties, Offset, Value};

/// Body of a message, in the form the producer chose.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AmqpBody {
    /// Bytes; several data sections are joined. What every SDK sends for bytes and text.
    Data(Bytes),
    /// One typed value.
    Value(Value),
    /// Lists of typed values.
    Sequence(Vec<Vec<Value>>),
}

/// The standard properties of an AMQP message. All optional, none interpreted.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MessageProperties {
    /// `message-id`: text, number, uuid or bytes.
    pub message_id: Option<Value>,
    /// `user-id`
    pub user_id: Option<Bytes>,
    /// `to`
    pub to: Option<String>,
    /// `subject`
    pub subject: Option<String>,
    /// `reply-to`
    pub reply_to: Option<String>,
    /// `correlation-id`: text, number, uuid or bytes.
    pub correlation_id: Option<Value>,
    /// `content-type`
    pub content_type: Option<String>,
    /// `content-encoding`
    pub content_encoding: Option<String>,
    /// `absolute-expiry-time`
    pub absolute_expiry_time: Option<SystemTime>,
    /// `creation-time`
    pub creation_time: Option<SystemTime>,
    /// `group-id`
    pub group_id: Option<String>,
    /// `group-sequence`
    pub group_sequence: Option<u32>,
    /// `reply-to-group-id`
    pub reply_to_group_id: Option<String>,
}

/// Everything a [`ReceivedEvent`] is made of; for transports and for tests of handlers.
#[derive(Clone, Debug, PartialEq)]
pub struct EventParts {
    /// Position of the event in its partition, without gaps in a normal partition.
    pub sequence_number: i64,
    /// Opaque place of the event in its partition's log.
    pub offset: Offset,
    /// When the service enqueued the event.
    pub enqueued_time: SystemTime,
    /// The key that chose the partition, if the event was sent with one.
    pub partition_key: Option<String>,
    /// The body.
    pub body: AmqpBody,
    /// Application properties.
    pub properties: BTreeMap<String, Value>,
    /// Message annotations that are not part of the fields above, such as those of IoT Hub.
    pub system_properties: BTreeMap<String, Value>,
    /// Standard message properties.
    pub message_properties: MessageProperties,
    /// Newest event of the partition, if the receiver tracks it.
    pub last_enqueued: Option<LastEnqueuedEventProperties>,
}

impl EventParts {
    /// An event with a binary body and nothing else.
    pub fn new(
        sequence_number: i64,
        offset: impl Into<Offset>,
        enqueued_time: SystemTime,
        body: impl Into<Bytes>,
    ) -> Self {
        Self {
            sequence_number,
            offset: offset.into(),
            enqueued_time,
            partition_key: None,
            body: AmqpBody::Data(body.into()),
            properties: BTreeMap::new(),
            system_properties: BTreeMap::new(),
            message_properties: MessageProperties::default(),
            last_enqueued: None,
        }
    }
}

/// An event as it came from a partition. Cheap to clone.
///
/// Its `Debug` form shows the position and sizes, never the content.
#[derive(Clone, PartialEq)]
pub struct ReceivedEvent {
    parts: Arc<EventParts>,
}

impl ReceivedEvent {
    /// Makes an event of its parts.
    #[must_use]
    pub fn new(parts: EventParts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Position of the event in its partition: grows by one from event to event in a normal partition.
    #[must_use]
    pub fn sequence_number(&self) -> i64 {
        self.parts.sequence_number
    }

    /// Opaque place of the event in its partition's log.
    #[must_use]
    pub fn offset(&self) -> &Offset {
        &self.parts.offset
    }

    /// When the service enqueued the event.
    #[must_use]
    pub fn enqueued_time(&self) -> SystemTime {
        self.parts.enqueued_time
    }

    /// The key that chose the partition, if the event was sent with one.
    #[must_use]
    pub fn partition_key(&self) -> Option<&str> {
        self.parts.partition_key.as_deref()
    }

    /// The bytes of the body: of the data sections, or of a value body that holds text or bytes. Empty
    /// for other value bodies and for sequences; see [`amqp_body`](Self::amqp_body).
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match &self.parts.body {
            AmqpBody::Data(bytes) | AmqpBody::Value(Value::Binary(bytes)) => bytes,
            AmqpBody::Value(value) => value.as_str().unwrap_or_default().as_bytes(),
            AmqpBody::Sequence(_) => &[],
        }
    }

    /// The bytes of [`body`](Self::body) as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn body_as_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.body())
    }

    /// The body in the form the producer chose.
    #[must_use]
    pub fn amqp_body(&self) -> &AmqpBody {
        &self.parts.body
    }

    /// Application properties, as the producer set them.
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<String, Value> {
        &self.parts.properties
    }

    /// What the service or a broker in front of it (IoT Hub) added, beyond the position.
    #[must_use]
    pub fn system_properties(&self) -> &BTreeMap<String, Value> {
        &self.parts.system_properties
    }

    /// Standard message properties.
    #[must_use]
    pub fn message_properties(&self) -> &MessageProperties {
        &self.parts.message_properties
    }

    /// Newest event of the partition when this one was sent, if the receiver tracks it.
    #[must_use]
    pub fn last_enqueued(&self) -> Option<&LastEnqueuedEventProperties> {
        self.parts.last_enqueued.as_ref()
    }
}

impl From<EventParts> for ReceivedEvent {
    fn from(parts: EventParts) -> Self {
        Self::new(parts)
    }
}

impl fmt::Debug for ReceivedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedEvent")
            .field("sequence_number", &self.parts.sequence_number)
            .field("offset", &self.parts.offset)
            .field("body_len", &self.body().len())
            .field("properties", &self.parts.properties.len())
            .finish_non_exhaustive()
    }
}
