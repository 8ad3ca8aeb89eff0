//! Events that a test puts into a partition without a client.

use bytes::{Bytes, BytesMut};

use crate::amqp::codec::encode::{ListWriter, put_binary, put_descriptor, put_value};
use crate::amqp::codec::{Value, descriptor};

/// An event to append with [`Emulator::send`](crate::Emulator::send).
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Event {
    body: Vec<u8>,
    encoded: Option<Vec<u8>>,
    partition_key: Option<String>,
    message_id: Option<String>,
    correlation_id: Option<String>,
    content_type: Option<String>,
    properties: Vec<(String, PropertyValue)>,
}

/// A value of an application property.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PropertyValue {
    /// AMQP `boolean`.
    Bool(bool),
    /// AMQP `double`.
    Double(f64),
    /// AMQP `long`.
    Long(i64),
    /// AMQP `string`.
    String(String),
}

impl Event {
    /// An event with one data section as its body.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// An event that is an AMQP message already, sections in wire order.
    ///
    /// The parts are only split, not looked into: this is the way to put an event into a partition
    /// that a client cannot decode. Other settings of the event have no effect.
    pub fn from_encoded(message: impl Into<Vec<u8>>) -> Self {
        Self {
            encoded: Some(message.into()),
            ..Self::default()
        }
    }

    /// Sets the partition key, which also chooses the partition if none is named.
    pub fn with_partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// Sets the message id.
    pub fn with_message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Sets the correlation id.
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the content type.
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Adds an application property.
    pub fn with_property(
        mut self,
        name: impl Into<String>,
        value: impl Into<PropertyValue>,
    ) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    pub(crate) fn into_encoded(self) -> Bytes {
        if let Some(encoded) = self.encoded {
            return encoded.into();
        }
        let mut buf = BytesMut::with_capacity(self.body.len() + 256);
        if let Some(key) = &self.partition_key {
            put_descriptor(&mut buf, descriptor::MESSAGE_ANNOTATIONS);
            let symbol = Value::Symbol(crate::broker::PARTITION_KEY.to_owned());
            put_value(&mut buf, &Value::Map(vec![(symbol, Value::from(&**key))]));
        }
        if self.message_id.is_some() || self.correlation_id.is_some() || self.content_type.is_some()
        {
            let text = |text: Option<String>| text.map_or(Value::Null, Value::String);
            let mut fields = ListWriter::described(&mut buf, descriptor::PROPERTIES);
            // message-id, user-id, to, subject, reply-to, correlation-id, content-type
            fields
                .value(&text(self.message_id))
                .nulls(4)
                .value(&text(self.correlation_id));
            fields.value(&self.content_type.map_or(Value::Null, Value::Symbol));
            fields.finish();
        }
        if !self.properties.is_empty() {
            let entries = self.properties.into_iter();
            let map = entries
                .map(|(name, value)| (Value::String(name), value.into()))
                .collect();
            put_descriptor(&mut buf, descriptor::APPLICATION_PROPERTIES);
            put_value(&mut buf, &Value::Map(map));
        }
        put_descriptor(&mut buf, descriptor::DATA);
        put_binary(&mut buf, &self.body);
        buf.freeze()
    }
}

impl From<&str> for Event {
    fn from(body: &str) -> Self {
        Self::new(body)
    }
}

impl From<PropertyValue> for Value {
    fn from(value: PropertyValue) -> Self {
        match value {
            PropertyValue::Bool(flag) => Self::Bool(flag),
            PropertyValue::Double(number) => Self::Double(number),
            PropertyValue::Long(number) => Self::Long(number),
            PropertyValue::String(text) => Self::String(text),
        }
    }
}

impl From<bool> for PropertyValue {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<f64> for PropertyValue {
    fn from(number: f64) -> Self {
        Self::Double(number)
    }
}

impl From<i64> for PropertyValue {
    fn from(number: i64) -> Self {
        Self::Long(number)
    }
}

impl From<&str> for PropertyValue {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for PropertyValue {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}
