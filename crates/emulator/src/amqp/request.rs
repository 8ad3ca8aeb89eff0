//! Requests to `$cbs` and `$management`, and their replies.

use bytes::{Bytes, BytesMut};

use super::address::resource_path;
use super::codec::encode::{ListWriter, put_descriptor, put_value};
use super::codec::{DecodeError, Decoder, Value, descriptor};
use super::connection::Core;
use super::fault_kinds::ReplyFault;
use super::fault_rules::Effect;
use super::link::Node;

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

    /// This request as if another had been made: its reply has the type of id that is waited for,
    /// and another value.
    pub(crate) fn astray(mut self) -> Self {
        self.message_id = match self.message_id {
            Value::Uuid(mut id) => {
                for byte in &mut id {
                    *byte = !*byte;
                }
                Value::Uuid(id)
            }
            Value::Ulong(id) => Value::Ulong(!id),
            Value::String(id) => Value::String(format!("not-{id}")),
            _ => Value::from("not-yours"),
        };
        self
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

/// How the reply to a request is to fail, if it is.
pub(crate) fn reply_fault(core: &Core, node: Node, request: &Request) -> Option<ReplyFault> {
    let hub = hub(request);
    core.service
        .faults
        .take(hub.as_deref(), None, |effect| match (effect, node) {
            (Effect::ReplyCbs(fault), Node::Cbs)
            | (Effect::ReplyManagement(fault), Node::Management) => Some(fault.clone()),
            _ => None,
        })
}

/// Takes the last partitions away from a description of an event hub, if a fault wants that.
pub(crate) fn shorten(core: &Core, request: &Request, reply: &mut Reply) {
    let Value::Map(entries) = &mut reply.body else {
        return;
    };
    let key = Value::from("partition_ids");
    if !entries.iter().any(|(name, _)| *name == key) {
        return;
    }
    let hub = hub(request);
    let kept = core
        .service
        .faults
        .take(hub.as_deref(), None, |effect| match effect {
            Effect::FewerPartitions(kept) => Some(*kept),
            _ => None,
        });
    let Some(kept) = kept else {
        return;
    };
    for (name, value) in entries {
        match value {
            Value::Array(ids) => ids.truncate(kept as usize),
            Value::Int(count) if *name == Value::from("partition_count") => {
                *count = (*count).min(i32::try_from(kept).unwrap_or(i32::MAX));
            }
            _ => {}
        }
    }
}

/// The event hub a request is about: named as such, or the first part of an audience.
fn hub(request: &Request) -> Option<String> {
    let path = resource_path(request.property("name")?);
    path.split('/').next().map(str::to_owned)
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
