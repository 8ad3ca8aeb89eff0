//! Requests and replies over a pair of links, as `$cbs` and `$management` use them.

use fe2o3_amqp::link::{CreditMode, delivery::Sendable};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Message, MessageId, Properties, Target,
};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use uuid::Uuid;

use crate::error::{TransportError, TransportErrorKind};

use super::connection::Sessions;
use super::deadline::Deadline;
use super::errors::classify_status;
use super::failure::{self, Failure};

/// Replies that may be on their way; one request is out at a time, the rest is for late ones.
const CREDIT: u32 = 10;

/// A sender and a receiver on one node. One request at a time; a reply that comes after its request was given
/// up is recognized by its correlation id and ignored.
#[derive(Debug)]
pub(super) struct RpcLink {
    node: &'static str,
    reply_to: String,
    next_id: u64,
    sender: Sender,
    receiver: Receiver,
    // Dropped last: dropping it ends the session under the links.
    _session: SessionHandle<()>,
}

/// A request: its application properties and its body.
pub(super) struct Request {
    pub(super) properties: Vec<(&'static str, SimpleValue)>,
    pub(super) body: Value,
}

impl RpcLink {
    /// Opens a session and both links in it.
    pub(super) async fn attach(
        node: &'static str,
        sessions: &Sessions,
        deadline: &Deadline,
    ) -> Result<Self, Failure> {
        let doing = format!("opening {node}");
        let mut session = sessions.begin(CREDIT, deadline).await?;
        let id = Uuid::new_v4();
        let reply_to = format!("{}-reply-to-{id}", node.trim_start_matches('$'));
        let sender = Sender::builder()
            .name(format!("{node}-sender-{id}"))
            .target(node)
            .attach(&mut session);
        let sender = deadline
            .wait(&doing, sender)
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::attach_sender(&doing, error))?;
        let receiver = Receiver::builder()
            .name(format!("{node}-receiver-{id}"))
            .source(node)
            .target(Target::builder().address(reply_to.as_str()).build())
            .credit_mode(CreditMode::Auto(CREDIT))
            .attach(&mut session);
        let receiver = deadline
            .wait(&doing, receiver)
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::attach_receiver(&doing, error))?;
        Ok(Self {
            node,
            reply_to,
            next_id: 0,
            sender,
            receiver,
            _session: session,
        })
    }

    /// Sends a request and waits for the body of its reply. After a [`Refusal::Broken`] the link is of no
    /// more use.
    pub(super) async fn call(
        &mut self,
        doing: &str,
        request: Request,
        deadline: &Deadline,
    ) -> Result<Body<Value>, Refusal> {
        let id = MessageId::Ulong(self.next_id);
        self.next_id += 1;
        let mut properties = ApplicationProperties::builder();
        for (name, value) in request.properties {
            properties = properties.insert(name, value);
        }
        let message = Message::builder()
            .properties(
                Properties::builder()
                    .message_id(id.clone())
                    .reply_to(self.reply_to.clone())
                    .build(),
            )
            .application_properties(properties.build())
            .value(request.body)
            .build();
        // Settled: the reply says all there is to say, as .NET does it.
        let message = Sendable::builder().message(message).settled(true).build();
        deadline
            .wait(doing, self.sender.send(message))
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::send(doing, error))?;
        let reply = deadline
            .wait(doing, self.reply(doing, &id))
            .await
            .map_err(Failure::of_link)??;
        let status = Status::of(&reply).ok_or_else(|| {
            Refusal::Broken(Failure::of_link(TransportError::new(
                TransportErrorKind::Rejected,
                format!("{doing}: the reply of {} has no status", self.node),
            )))
        })?;
        if (200..300).contains(&status.code) {
            Ok(reply.body)
        } else {
            Err(Refusal::Status(status.into_error(doing)))
        }
    }

    async fn reply(
        &mut self,
        doing: &str,
        id: &MessageId,
    ) -> Result<Message<Body<Value>>, Failure> {
        loop {
            let delivery = self
                .receiver
                .recv::<Body<Value>>()
                .await
                .map_err(|error| failure::receive(doing, error))?;
            // Settles, and counts the credit: the library refills it only here.
            self.receiver
                .accept(&delivery)
                .await
                .map_err(|error| failure::illegal_state(doing, error))?;
            let message = delivery.into_message();
            let correlation_id = message
                .properties
                .as_ref()
                .and_then(|properties| properties.correlation_id.as_ref());
            if correlation_id == Some(id) {
                return Ok(message);
            }
        }
    }
}

/// Why a request got no good answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The link, or more, is broken.
    Broken(Failure),
    /// The node answered no. The link is fine.
    Status(TransportError),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure)
    }
}

/// The status of a reply.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    code: i64,
    description: String,
    condition: Option<String>,
}

impl Status {
    /// INTEROP: the keys come in two spellings and the code in any integer type; JS and Go accept them all.
    fn of(reply: &Message<Body<Value>>) -> Option<Self> {
        let properties = &reply.application_properties.as_ref()?.0;
        let get = |names: [&str; 2]| names.into_iter().find_map(|name| properties.get(name));
        Some(Self {
            code: integer(get(["status-code", "statusCode"])?)?,
            description: get(["status-description", "statusDescription"])
                .and_then(text)
                .unwrap_or_default(),
            condition: get(["error-condition", "errorCondition"]).and_then(text),
        })
    }

    fn into_error(self, doing: &str) -> TransportError {
        let kind = classify_status(self.code, self.condition.as_deref(), &self.description);
        let error = TransportError::new(
            kind,
            format!("{doing}: status {} {}", self.code, self.description),
        );
        match self.condition {
            Some(condition) => error.with_condition(condition),
            None => error,
        }
    }
}

fn integer(value: &SimpleValue) -> Option<i64> {
    match value {
        SimpleValue::Int(n) => Some((*n).into()),
        SimpleValue::Long(n) => Some(*n),
        SimpleValue::Short(n) => Some((*n).into()),
        SimpleValue::Uint(n) => Some((*n).into()),
        SimpleValue::Ushort(n) => Some((*n).into()),
        SimpleValue::Ulong(n) => (*n).try_into().ok(),
        _ => None,
    }
}

fn text(value: &SimpleValue) -> Option<String> {
    match value {
        SimpleValue::String(text) => Some(text.clone()),
        SimpleValue::Symbol(text) => Some(text.0.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(properties: Vec<(&str, SimpleValue)>) -> Message<Body<Value>> {
        let mut builder = ApplicationProperties::builder();
        for (name, value) in properties {
            builder = builder.insert(name, value);
        }
        Message::builder()
            .application_properties(builder.build())
            .body(Body::Empty)
            .build()
    }

    #[test]
    fn a_status_is_read_in_every_spelling() {
        for code in [
            SimpleValue::Int(404),
            SimpleValue::Long(404),
            SimpleValue::Ushort(404),
        ] {
            for keys in [
                ["status-code", "status-description", "error-condition"],
                ["statusCode", "statusDescription", "errorCondition"],
            ] {
                let status = Status::of(&reply(vec![
                    (keys[0], code.clone()),
                    (keys[1], SimpleValue::String("gone".to_owned())),
                    (keys[2], SimpleValue::Symbol("amqp:not-found".into())),
                ]))
                .unwrap();
                let error = status.into_error("reading");
                assert_eq!(error.kind(), TransportErrorKind::NotFound);
                assert_eq!(error.condition(), Some("amqp:not-found"));
                assert!(error.to_string().contains("404 gone"), "{error}");
            }
        }
    }

    #[test]
    fn no_status_is_no_success() {
        assert_eq!(Status::of(&reply(Vec::new())), None);
        let odd = SimpleValue::String("200".to_owned());
        assert_eq!(Status::of(&reply(vec![("status-code", odd)])), None);
    }
}
