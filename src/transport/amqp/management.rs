//! Reading the properties of the event hub and its partitions from `$management`.

use std::time::UNIX_EPOCH;

use fe2o3_amqp_types::messaging::{AmqpValue, Body};
use fe2o3_amqp_types::primitives::{SimpleValue, Value as Wire};

use crate::credential::Secret;
use crate::error::{TransportError, TransportErrorKind};
use crate::model::{EventHubProperties, PartitionId, PartitionProperties, Value};

use super::connection::Connection;
use super::convert::{from_wire, system_time};
use super::deadline::Deadline;
use super::failure::Failure;
use super::rpc::{Refusal, Request, RpcLink};

/// What is read.
pub(super) enum Entity<'a> {
    EventHub,
    Partition(&'a PartitionId),
}

/// Reads one entity. The links are kept for the next time; links that turn out to be stale are replaced once.
pub(super) async fn read(
    connection: &Connection,
    event_hub: &str,
    entity: &Entity<'_>,
    token: &Secret,
    deadline: &Deadline,
) -> Result<Reply, Failure> {
    let doing = match entity {
        Entity::EventHub => format!("reading the properties of event hub {event_hub}"),
        Entity::Partition(id) => {
            format!("reading the properties of partition {id} of event hub {event_hub}")
        }
    };
    let mut kept = deadline
        .wait(&doing, connection.management.lock())
        .await
        .map_err(Failure::of_link)?;
    loop {
        // CANCEL: taken out, so that a call which is given up midway takes its links with it.
        let (mut link, reused) = match kept.take() {
            Some(link) => (link, true),
            None => (
                RpcLink::attach("$management", &connection.sessions, deadline).await?,
                false,
            ),
        };
        match link
            .call(&doing, request(event_hub, entity, token), deadline)
            .await
        {
            Ok(body) => {
                *kept = Some(link);
                return Reply::new(&doing, body).map_err(Failure::of_link);
            }
            Err(Refusal::Status(error)) => {
                *kept = Some(link);
                return Err(Failure::of_link(error));
            }
            Err(Refusal::Broken(failure)) => {
                let stale = failure.error.kind() == TransportErrorKind::LinkDetached;
                if !(reused && stale) {
                    return Err(failure);
                }
            }
        }
    }
}

fn request(event_hub: &str, entity: &Entity<'_>, token: &Secret) -> Request {
    let mut properties = vec![
        ("operation", SimpleValue::from("READ")),
        ("name", SimpleValue::from(event_hub)),
        ("security_token", SimpleValue::from(token.expose())),
    ];
    match entity {
        Entity::EventHub => {
            properties.push(("type", SimpleValue::from("com.microsoft:eventhub")));
        }
        Entity::Partition(id) => {
            properties.push(("type", SimpleValue::from("com.microsoft:partition")));
            properties.push(("partition", SimpleValue::from(id.as_str())));
        }
    }
    Request {
        properties,
        body: Wire::Null,
    }
}

/// The map that `$management` answered with.
#[derive(Debug)]
pub(super) struct Reply {
    doing: String,
    fields: Vec<(Value, Value)>,
}

impl Reply {
    fn new(doing: &str, body: Body<Wire>) -> Result<Self, TransportError> {
        match body {
            Body::Value(AmqpValue(map @ Wire::Map(_))) => match from_wire(map) {
                Value::Map(fields) => Ok(Self {
                    doing: doing.to_owned(),
                    fields,
                }),
                _ => Err(malformed(doing, "its body is no map")),
            },
            Body::Value(_) | Body::Data(_) | Body::Sequence(_) | Body::Empty => {
                Err(malformed(doing, "its body is no map"))
            }
        }
    }

    /// The value of a field, read by `read`, which takes every type that a server may reasonably choose.
    fn get<'a, T>(
        &'a self,
        name: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, TransportError> {
        self.fields
            .iter()
            .find(|(key, _)| key.as_str() == Some(name))
            .and_then(|(_, value)| read(value))
            .ok_or_else(|| malformed(&self.doing, name))
    }

    pub(super) fn event_hub(&self) -> Result<EventHubProperties, TransportError> {
        let ids = self.get("partition_ids", |value| match value {
            Value::Array(ids) | Value::List(ids) => ids
                .iter()
                .map(|id| id.as_str().map(PartitionId::from))
                .collect::<Option<Vec<_>>>(),
            _ => None,
        })?;
        let name = self.get("name", Value::as_str)?;
        let properties = EventHubProperties::new(name, ids);
        Ok(match self.get("created_at", time) {
            Ok(created_at) => properties.with_created_at(created_at),
            Err(_) => properties,
        })
    }

    pub(super) fn partition(&self) -> Result<PartitionProperties, TransportError> {
        Ok(PartitionProperties {
            event_hub_name: self.get("name", Value::as_str)?.to_owned(),
            partition_id: self.get("partition", Value::as_str)?.into(),
            beginning_sequence_number: self.get("begin_sequence_number", Value::as_i64)?,
            last_enqueued_sequence_number: self
                .get("last_enqueued_sequence_number", Value::as_i64)?,
            last_enqueued_offset: self
                .get("last_enqueued_offset", |value| match value {
                    Value::String(text) => Some(text.clone()),
                    number => number.as_i64().map(|number| number.to_string()),
                })?
                .into(),
            last_enqueued_time: self.get("last_enqueued_time_utc", time)?,
            is_empty: self.get("is_partition_empty", Value::as_bool)?,
        })
    }
}

/// INTEROP: an empty partition has the time 0001-01-01, which some machines cannot represent; Python shows the
/// epoch for it.
fn time(value: &Value) -> Option<std::time::SystemTime> {
    match value {
        Value::Timestamp(millis) => Some(system_time(*millis).unwrap_or(UNIX_EPOCH)),
        _ => None,
    }
}

fn malformed(doing: &str, what: &str) -> TransportError {
    TransportError::new(
        TransportErrorKind::Rejected,
        format!("{doing}: the reply cannot be read: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reply(fields: Vec<(&str, Value)>) -> Reply {
        Reply {
            doing: "reading".to_owned(),
            fields: fields
                .into_iter()
                .map(|(key, value)| (Value::String(key.to_owned()), value))
                .collect(),
        }
    }

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    fn partition_fields() -> Vec<(&'static str, Value)> {
        vec![
            ("name", text("hub")),
            ("partition", text("1")),
            ("begin_sequence_number", Value::I64(5)),
            ("last_enqueued_sequence_number", Value::I64(9)),
            ("last_enqueued_offset", text("8:1:2")),
            ("last_enqueued_time_utc", Value::Timestamp(1500)),
            ("is_partition_empty", Value::Bool(false)),
        ]
    }

    #[test]
    fn reads_a_hub_with_ids_in_an_array_or_a_list() {
        let ids = vec![text("0"), text("1")];
        for ids in [Value::Array(ids.clone()), Value::List(ids)] {
            let hub = reply(vec![("name", text("hub")), ("partition_ids", ids)])
                .event_hub()
                .unwrap();
            assert_eq!(hub.partition_ids, ["0".into(), "1".into()]);
            assert_eq!(hub.created_at, None);
        }
        let odd = Value::List(vec![text("0"), Value::I32(1)]);
        let odd = reply(vec![("name", text("hub")), ("partition_ids", odd)]);
        assert!(odd.event_hub().is_err());
    }

    #[test]
    fn reads_a_partition_and_misses_nothing_silently() {
        let partition = reply(partition_fields()).partition().unwrap();
        assert_eq!(partition.last_enqueued_offset.as_str(), "8:1:2");
        assert_eq!(
            partition.last_enqueued_time,
            UNIX_EPOCH + Duration::from_millis(1500)
        );
        for left_out in 0..partition_fields().len() {
            let mut fields = partition_fields();
            fields.remove(left_out);
            assert!(reply(fields).partition().is_err(), "{left_out}");
        }
    }

    #[test]
    fn an_offset_may_be_a_number_and_a_time_before_all_time() {
        let mut fields = partition_fields();
        fields[4].1 = Value::I64(77);
        fields[5].1 = Value::Timestamp(i64::MIN);
        let partition = reply(fields).partition().unwrap();
        assert_eq!(partition.last_enqueued_offset.as_str(), "77");
    }
}
