//! Sender links of peers: from a message to the log of a partition.

use super::codec::outgoing::Outcome;
use tokio::time::Instant;

use super::errors::{AmqpError, condition, entity_not_found, message_too_large, server_busy};
use super::limits::MAX_MESSAGE;
use super::link::{Arrived, PublishTarget};
use crate::broker::{BATCH_FORMAT, Message};

/// Stores the events of a message and tells what became of it.
pub(crate) fn publish(target: &PublishTarget, message: &Arrived, now: Instant) -> Outcome {
    let Some(bytes) = &message.bytes else {
        let error = message_too_large(message.delivery_id, message.size, MAX_MESSAGE);
        return Outcome::Rejected(error);
    };
    let parsed = if message.message_format == BATCH_FORMAT {
        Message::parse_batch(bytes)
    } else {
        Message::parse(bytes).map(|message| vec![message])
    };
    let messages = match parsed {
        Ok(messages) => messages,
        Err(error) => {
            return Outcome::Rejected(AmqpError::new(condition::DECODE, error.to_string()));
        }
    };
    if let Some(throttle) = &target.hub.throttle
        && !throttle.admit(messages.len(), bytes.len(), now)
    {
        return Outcome::Rejected(server_busy(target.hub.name()));
    }
    let partition = match &target.partition {
        Some(id) => target.hub.partition(id),
        None => target.hub.route(&messages),
    };
    match partition {
        Some(partition) => match partition.append(&messages) {
            Ok(_) => Outcome::Accepted,
            Err(error) => {
                let hub = target.hub.name();
                tracing::error!(hub, partition = partition.id(), %error, "events not stored");
                Outcome::Rejected(not_stored(&error))
            }
        },
        None => Outcome::Rejected(entity_not_found(target.hub.name())),
    }
}

/// INTEROP: every SDK sends again after an internal error.
fn not_stored(error: &std::io::Error) -> AmqpError {
    AmqpError::new(
        condition::INTERNAL,
        format!("The events could not be stored: {error}"),
    )
}
