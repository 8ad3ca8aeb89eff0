//! Requests to `$cbs` and `$management`, and their replies.

use bytes::{Bytes, BytesMut};

use super::codec::encode::{ListWriter, put_descriptor, put_value};
use super::codec::{DecodeError, Decoder, Value, descriptor};

/// A request message.
#[derive(Debug)]
pub(crate) struct Request {
    message_id: Value,
    pub(crate) reply_to: Option<String>,
    application_properties: Value,
    body: Value,
}

impl Request {
    pub(crate) fn parse(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut request = Self {
            message_id: Value::Null,
            reply_to: None,
            application_properties: Value::Null,
            body: Value::Null,
        };
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            match decoder.descriptor()? {
                descriptor::PROPERTIES => {
                    let mut fields = decoder.list()?;
                    request.message_id = fields.value()?;
                    // user-id, to, subject
                    for _ in 0..3 {
                        fields.raw()?;
                    }
                    request.reply_to = fields.text()?;
                }
                descriptor::APPLICATION_PROPERTIES => {
                    request.application_properties = decoder.value()?;
                }
                descriptor::AMQP_VALUE => request.body = decoder.value()?,
                _ => {
                    decoder.skip()?;
                }
            }
        }
        Ok(request)
    }

    /// An application property that is text.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.application_properties
            .entry(name)
            .and_then(Value::as_text)
    }

    /// The text of the body.
    pub(crate) fn text(&self) -> Option<&str> {
        self.body.as_text()
    }

    /// Encodes the reply to this request.
    ///
    /// INTEROP: the correlation id keeps the type of the message id, or Python waits for a minute;
    /// the keys are strings in this spelling; the status is an int.
    pub(crate) fn reply(&self, reply: &Reply) -> Bytes {
        let mut buf = BytesMut::with_capacity(512);
        let mut fields = ListWriter::described(&mut buf, descriptor::PROPERTIES);
        // message-id, user-id, to, subject, reply-to, then correlation-id and seven more
        fields.nulls(5).value(&self.message_id).nulls(7);
        fields.finish();

        let mut properties = vec![
            (Value::from("status-code"), Value::Int(reply.status)),
            (
                Value::from("status-description"),
                Value::from(&*reply.description),
            ),
        ];
        if let Some(condition) = reply.condition {
            // INTEROP: .NET takes the condition only as a symbol.
            let symbol = Value::Symbol(condition.to_owned());
            properties.push((Value::from("error-condition"), symbol));
        }
        put_descriptor(&mut buf, descriptor::APPLICATION_PROPERTIES);
        put_value(&mut buf, &Value::Map(properties));
        put_descriptor(&mut buf, descriptor::AMQP_VALUE);
        put_value(&mut buf, &reply.body);
        buf.freeze()
    }
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: i32,
    pub(crate) description: String,
    pub(crate) condition: Option<&'static str>,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn success(status: i32, description: &str, body: Value) -> Self {
        Self {
            status,
            description: description.to_owned(),
            condition: None,
            body,
        }
    }

    pub(crate) fn failure(status: i32, condition: &'static str, description: String) -> Self {
        Self {
            status,
            description,
            condition: Some(condition),
            body: Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(message_id: Value) -> Request {
        Request {
            message_id,
            reply_to: None,
            application_properties: Value::Null,
            body: Value::Null,
        }
    }

    #[test]
    fn a_reply_carries_the_message_id_with_its_type() {
        for id in [
            Value::Uuid([7; 16]),
            Value::Ulong(0),
            Value::Ulong(300),
            Value::from("1"),
        ] {
            let reply = Reply::success(202, "Accepted", Value::Null);
            let encoded = request(id.clone()).reply(&reply);
            let mut decoder = Decoder::new(&encoded);
            assert_eq!(decoder.descriptor(), Ok(descriptor::PROPERTIES));
            let Ok(Value::List(fields)) = decoder.value() else {
                panic!("properties")
            };
            assert_eq!(fields.len(), 13);
            assert_eq!(fields[5], id);
            assert_eq!(decoder.descriptor(), Ok(descriptor::APPLICATION_PROPERTIES));
            let properties = decoder.value().unwrap();
            assert_eq!(properties.entry("status-code"), Some(&Value::Int(202)));
            assert_eq!(properties.entry("error-condition"), None);
        }
    }
}
