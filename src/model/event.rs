//! A received event.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
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

/// What a transport keeps encoded of an event until somebody asks for it. Whatever can be wrong with it has been found
/// before, so that nothing here can fail.
pub(crate) trait EncodedSections: fmt::Debug + Send + Sync + 'static {
    /// Size of the message on the wire.
    fn encoded_len(&self) -> usize;
    /// See [`ReceivedEvent::offset`].
    fn offset(&self) -> &str;
    /// See [`ReceivedEvent::partition_key`].
    fn partition_key(&self) -> Option<&str>;
    /// See [`ReceivedEvent::body`].
    fn body_bytes(&self) -> &[u8];
    /// See [`ReceivedEvent::amqp_body`].
    fn body(&self) -> AmqpBody;
    /// See [`ReceivedEvent::properties`].
    fn properties(&self) -> BTreeMap<String, Value>;
    /// See [`ReceivedEvent::system_properties`].
    fn system_properties(&self) -> BTreeMap<String, Value>;
    /// See [`ReceivedEvent::message_properties`].
    fn message_properties(&self) -> MessageProperties;
    /// See [`ReceivedEvent::last_enqueued`].
    fn last_enqueued(&self) -> Option<LastEnqueuedEventProperties>;
}

/// What everybody asks for, and what somebody has asked for. In front of where it comes from, so that an event is one
/// allocation.
#[derive(Debug)]
struct Lazy<S: ?Sized> {
    sequence_number: i64,
    enqueued_time: SystemTime,
    offset: OnceLock<Offset>,
    body: OnceLock<AmqpBody>,
    properties: OnceLock<BTreeMap<String, Value>>,
    system_properties: OnceLock<BTreeMap<String, Value>>,
    message_properties: OnceLock<Box<MessageProperties>>,
    last_enqueued: OnceLock<Option<Box<LastEnqueuedEventProperties>>>,
    sections: S,
}

/// An event as it came from a partition. Cheap to clone.
///
/// The position, the partition key and the bytes of the body are there at once; everything else is decoded when it is
/// asked for. The body is a slice of the buffer in which the event was received: an event that is kept for long keeps
/// that buffer (64 KiB or a little more), so copy out what you keep.
///
/// Its `Debug` form shows the position and sizes, never the content.
#[derive(Clone)]
pub struct ReceivedEvent {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Encoded(Arc<Lazy<dyn EncodedSections>>),
    Parts(Arc<EventParts>),
}

impl ReceivedEvent {
    /// Makes an event of its parts.
    #[must_use]
    pub fn new(parts: EventParts) -> Self {
        Self {
            source: Source::Parts(Arc::new(parts)),
        }
    }

    /// An event that is decoded as far as it is asked for.
    pub(crate) fn from_encoded(
        sequence_number: i64,
        enqueued_time: SystemTime,
        sections: impl EncodedSections,
    ) -> Self {
        Self {
            source: Source::Encoded(Arc::new(Lazy {
                sequence_number,
                enqueued_time,
                offset: OnceLock::new(),
                body: OnceLock::new(),
                properties: OnceLock::new(),
                system_properties: OnceLock::new(),
                message_properties: OnceLock::new(),
                last_enqueued: OnceLock::new(),
                sections,
            })),
        }
    }

    /// Position of the event in its partition: grows by one from event to event in a normal partition.
    #[must_use]
    pub fn sequence_number(&self) -> i64 {
        match &self.source {
            Source::Encoded(lazy) => lazy.sequence_number,
            Source::Parts(parts) => parts.sequence_number,
        }
    }

    /// Opaque place of the event in its partition's log.
    #[must_use]
    pub fn offset(&self) -> &Offset {
        match &self.source {
            Source::Encoded(lazy) => lazy
                .offset
                .get_or_init(|| Offset::from(lazy.sections.offset())),
            Source::Parts(parts) => &parts.offset,
        }
    }

    /// When the service enqueued the event.
    #[must_use]
    pub fn enqueued_time(&self) -> SystemTime {
        match &self.source {
            Source::Encoded(lazy) => lazy.enqueued_time,
            Source::Parts(parts) => parts.enqueued_time,
        }
    }

    /// The key that chose the partition, if the event was sent with one.
    #[must_use]
    pub fn partition_key(&self) -> Option<&str> {
        match &self.source {
            Source::Encoded(lazy) => lazy.sections.partition_key(),
            Source::Parts(parts) => parts.partition_key.as_deref(),
        }
    }

    /// Size in bytes of the whole event as it came: body, properties and annotations. For an event made of
    /// [`EventParts`] it is the size of the body.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match &self.source {
            Source::Encoded(lazy) => lazy.sections.encoded_len(),
            Source::Parts(_) => self.body().len(),
        }
    }

    /// The bytes of the body: of the data sections, or of a value body that holds text or bytes. Empty
    /// for other value bodies and for sequences; see [`amqp_body`](Self::amqp_body).
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match &self.source {
            Source::Encoded(lazy) => lazy.sections.body_bytes(),
            Source::Parts(parts) => match &parts.body {
                AmqpBody::Data(bytes) | AmqpBody::Value(Value::Binary(bytes)) => bytes,
                AmqpBody::Value(value) => value.as_str().unwrap_or_default().as_bytes(),
                AmqpBody::Sequence(_) => &[],
            },
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
        match &self.source {
            Source::Encoded(lazy) => lazy.body.get_or_init(|| lazy.sections.body()),
            Source::Parts(parts) => &parts.body,
        }
    }

    /// Application properties, as the producer set them.
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<String, Value> {
        match &self.source {
            Source::Encoded(lazy) => lazy.properties.get_or_init(|| lazy.sections.properties()),
            Source::Parts(parts) => &parts.properties,
        }
    }

    /// What the service or a broker in front of it (IoT Hub) added, beyond the position.
    #[must_use]
    pub fn system_properties(&self) -> &BTreeMap<String, Value> {
        match &self.source {
            Source::Encoded(lazy) => lazy
                .system_properties
                .get_or_init(|| lazy.sections.system_properties()),
            Source::Parts(parts) => &parts.system_properties,
        }
    }

    /// Standard message properties.
    #[must_use]
    pub fn message_properties(&self) -> &MessageProperties {
        match &self.source {
            Source::Encoded(lazy) => lazy
                .message_properties
                .get_or_init(|| Box::new(lazy.sections.message_properties())),
            Source::Parts(parts) => &parts.message_properties,
        }
    }

    /// Newest event of the partition when this one was sent, if the receiver tracks it.
    #[must_use]
    pub fn last_enqueued(&self) -> Option<&LastEnqueuedEventProperties> {
        match &self.source {
            Source::Encoded(lazy) => lazy
                .last_enqueued
                .get_or_init(|| lazy.sections.last_enqueued().map(Box::new))
                .as_deref(),
            Source::Parts(parts) => parts.last_enqueued.as_ref(),
        }
    }
}

impl From<EventParts> for ReceivedEvent {
    fn from(parts: EventParts) -> Self {
        Self::new(parts)
    }
}

/// Equal are events that answer every question alike, decoded or not.
impl PartialEq for ReceivedEvent {
    fn eq(&self, other: &Self) -> bool {
        self.sequence_number() == other.sequence_number()
            && self.offset() == other.offset()
            && self.enqueued_time() == other.enqueued_time()
            && self.partition_key() == other.partition_key()
            && self.amqp_body() == other.amqp_body()
            && self.properties() == other.properties()
            && self.system_properties() == other.system_properties()
            && self.message_properties() == other.message_properties()
            && self.last_enqueued() == other.last_enqueued()
    }
}

impl fmt::Debug for ReceivedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedEvent")
            .field("sequence_number", &self.sequence_number())
            .field("offset", self.offset())
            .field("body_len", &self.body().len())
            .field("encoded_len", &self.encoded_len())
            .finish_non_exhaustive()
    }
}
