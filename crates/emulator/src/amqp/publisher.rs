//! Sender links of peers: from a message to the log of a partition.

use tokio::time::Instant;

use super::codec::outgoing::Outcome;
use super::connection::Core;
use super::errors::{AmqpError, condition, entity_not_found, message_too_large, server_busy};
use super::fault_rules::Effect;
use super::limits::MAX_MESSAGE;
use super::link::{Arrived, PublishTarget};
use crate::broker::{BATCH_FORMAT, Message};

/// As [`publish`], unless a fault is set. None if the sender is not to hear of it.
pub(crate) fn publish_disturbed(
    core: &mut Core,
    target: &PublishTarget,
    message: &Arrived,
) -> Option<Outcome> {
    let (hub, partition) = target.place();
    let faults = &core.service.faults;
    let rejection = faults.take(hub, partition, |effect| match effect {
        Effect::RejectMessage(error) => Some(error.clone()),
        _ => None,
    });
    if let Some(error) = rejection {
        return Some(Outcome::Rejected(error));
    }
    let outcome = publish(target, message, core.now);
    if faults.strikes(hub, partition, &Effect::ResetAfterStore) {
        core.is_cut = true;
        return None;
    }
    let is_lost = faults.strikes(hub, partition, &Effect::LoseDisposition);
    (!is_lost).then_some(outcome)
}

/// Stores the events of a message and tells what became of it.
fn publish(target: &PublishTarget, message: &Arrived, now: Instant) -> Outcome {
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
