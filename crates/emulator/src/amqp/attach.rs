//! What becomes of an attach.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::address::Address;
use super::cbs;
use super::codec::Value;
use super::codec::incoming::Attach;
use super::connection::Core;
use super::consumer::Consumer;
use super::delivery::Credit;
use super::errors::{
    AmqpError, condition, entity_not_found, partition_out_of_range, tracking, unauthorized,
};
use super::fault_rules::Effect;
use super::limits::{PUBLISHER_CREDIT, REQUEST_CREDIT};
use super::link::{Incoming, LinkKind, Node, PublishTarget, Replies};
use super::sas::now_s;
use super::selector;
use super::signal::{LinkHandle, LinkKey, receiver_name};
use crate::broker::{Claim, Hub, Position, PositionError, Refusal, SubscribeError};

/// Capability of a receiver that wants to know how far the partition is with each event.
const RUNTIME_METRIC: &str = "com.microsoft:enable-receiver-runtime-metric";
/// Capability of a peer that takes offsets for what they are: text.
const GEO_REPLICATION: &str = "com.microsoft:georeplication";
const EPOCH: &str = "com.microsoft:epoch";
const RECEIVER_NAME: &str = "com.microsoft:receiver-name";
const SND_SETTLED: u8 = 1;
const SND_MIXED: u8 = 2;

/// A link that may be attached.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) kind: LinkKind,
    pub(crate) snd_settle_mode: u8,
    pub(crate) resource: Option<String>,
}

/// The sender settle mode of the answer.
///
/// A mode that was asked for is given; otherwise deliveries are settled as the service's are, which
/// saves a disposition per event.
fn snd_settle_mode(attach: &Attach) -> u8 {
    match attach.snd_settle_mode {
        Some(0) => 0,
        Some(1) => SND_SETTLED,
        None if attach.is_receiver => SND_SETTLED,
        _ => SND_MIXED,
    }
}

/// The event hub and the partition an attach is about, for the scopes of faults.
pub(crate) fn place(attach: &Attach) -> (Option<String>, Option<String>) {
    match Address::parse(address(attach)) {
        Address::Hub { hub } => (Some(hub), None),
        Address::Partition { hub, partition } | Address::Consumer { hub, partition, .. } => {
            (Some(hub), Some(partition))
        }
        Address::Cbs | Address::Management | Address::Unknown => (None, None),
    }
}

fn address(attach: &Attach) -> &str {
    let terminus = if attach.is_receiver {
        &attach.source
    } else {
        &attach.target
    };
    terminus.address.as_deref().unwrap_or_default()
}

/// Decides on an attach, with all its effects on the broker.
pub(crate) fn decide(
    attach: &Attach,
    key: LinkKey,
    core: &mut Core,
) -> Result<Accepted, AmqpError> {
    let address = address(attach);
    if !matches!(Address::parse(address), Address::Cbs | Address::Management) {
        core.service.counts.attaches.fetch_add(1, Ordering::Relaxed);
    }
    match (Address::parse(address), attach.is_receiver) {
        (Address::Cbs, is_receiver) => {
            let seat = match core.service.has_single_cbs {
                true => match core.cbs_seats.take(is_receiver) {
                    None => return Err(cbs::already_open(core.id)),
                    seat => seat,
                },
                false => None,
            };
            Ok(node(attach, core, Node::Cbs, seat))
        }
        (Address::Management, _) => Ok(node(attach, core, Node::Management, None)),
        (Address::Hub { hub }, false) => publisher(attach, core, &hub, None),
        (Address::Partition { hub, partition }, false) => {
            publisher(attach, core, &hub, Some(partition))
        }
        (
            Address::Consumer {
                hub,
                group,
                partition,
            },
            true,
        ) => consumer(attach, key, core, &hub, &group, &partition),
        _ => Err(entity_not_found(address)),
    }
}

fn node(attach: &Attach, core: &Core, node: Node, seat: Option<cbs::Seat>) -> Accepted {
    let snd_settle_mode = snd_settle_mode(attach);
    let kind = if attach.is_receiver {
        LinkKind::Replies(Box::new(Replies {
            node,
            target: attach.target.address.clone(),
            settled: snd_settle_mode == SND_SETTLED,
            credit: Credit::default(),
            queue: std::collections::VecDeque::new(),
            unsent: None,
            _seat: seat,
        }))
    } else {
        LinkKind::Requests {
            node,
            incoming: incoming(attach, core, REQUEST_CREDIT),
            _seat: seat,
        }
    };
    Accepted {
        kind,
        snd_settle_mode,
        resource: None,
    }
}

fn incoming(attach: &Attach, core: &Core, credit: u32) -> Incoming {
    let incomplete = core.service.incomplete.clone();
    Incoming::new(
        attach.initial_delivery_count.unwrap_or(0),
        credit,
        incomplete,
    )
}

fn publisher(
    attach: &Attach,
    core: &Core,
    hub_name: &str,
    partition: Option<String>,
) -> Result<Accepted, AmqpError> {
    let resource = match &partition {
        Some(id) => format!("{hub_name}/Partitions/{id}"),
        None => hub_name.to_owned(),
    };
    let hub = reachable(core, hub_name, partition.as_deref(), &resource, "Send")?;
    if let Some(id) = &partition
        && hub.partition(id).is_none()
    {
        return Err(partition_out_of_range(hub.name(), hub.partitions().len()));
    }
    let faults = &core.service.faults;
    let id = partition.as_deref();
    let credit = if faults.strikes(Some(hub_name), id, &Effect::WithholdCredit) {
        0
    } else {
        PUBLISHER_CREDIT
    };
    let target = PublishTarget { hub, partition };
    Ok(Accepted {
        kind: LinkKind::Publisher {
            target,
            incoming: incoming(attach, core, credit),
        },
        snd_settle_mode: snd_settle_mode(attach),
        resource: Some(resource),
    })
}

fn consumer(
    attach: &Attach,
    key: LinkKey,
    core: &Core,
    hub_name: &str,
    group: &str,
    partition_id: &str,
) -> Result<Accepted, AmqpError> {
    let resource = format!("{hub_name}/ConsumerGroups/{group}/Partitions/{partition_id}");
    let hub = reachable(core, hub_name, Some(partition_id), &resource, "Listen")?;
    if !hub.has_group(group) {
        return Err(entity_not_found(&resource));
    }
    let out_of_range = || partition_out_of_range(hub.name(), hub.partitions().len());
    let partition = hub.partition(partition_id).ok_or_else(out_of_range)?;
    let entity = format!("{}~{partition_id}|{group}", hub.name());
    let argument =
        |text: &str| AmqpError::new(condition::ARGUMENT, format!("{text} {}", tracking(&entity)));
    // The position first: a receiver that cannot start must not displace another.
    let position =
        selector::position(&attach.source.filter).map_err(|e| argument(&e.to_string()))?;
    let misplaced = |error: &PositionError| match error {
        PositionError::Replicated { .. } => AmqpError::new(
            condition::GEO_OFFSET,
            format!("{error} {}", tracking(&entity)),
        ),
        PositionError::Offset { .. } | PositionError::SequenceNumber { .. } => {
            argument(&error.to_string())
        }
    };
    // The service is known to refuse offsets that are numbers; that it refuses all offsets of a
    // receiver without the capability, and only those, is a guess.
    if let Position::Offset { text, .. } = &position
        && hub.is_geo_replicated()
        && !desires(attach, GEO_REPLICATION)
    {
        let given = text.clone();
        return Err(misplaced(&PositionError::Replicated { given }));
    }
    let next = partition.resolve(&position).map_err(|e| misplaced(&e))?;

    let property = |name| attach.properties.entry(name);
    let claim = Claim {
        epoch: property(EPOCH).and_then(Value::as_i64),
        name: property(RECEIVER_NAME)
            .and_then(Value::as_text)
            .map(str::to_owned),
    };
    let handle = LinkHandle::new(key, core.id, entity.clone(), core.signals.clone());
    let subscription = hub
        .subscribe(group, partition_id, &claim, handle)
        .map_err(|error| match error {
            SubscribeError::NoSuchPartition => out_of_range(),
            SubscribeError::Refused(refusal) => refused(&refusal, &claim, &entity),
        })?;
    subscription.note(0, next);
    let snd_settle_mode = snd_settle_mode(attach);
    let consumer = Consumer {
        subscription,
        next,
        settled: snd_settle_mode == SND_SETTLED,
        with_metrics: desires(attach, RUNTIME_METRIC),
        credit: Credit::default(),
        unsent: None,
        disturbed: std::collections::VecDeque::new(),
    };
    Ok(Accepted {
        kind: LinkKind::Consumer(Box::new(consumer)),
        snd_settle_mode,
        resource: Some(resource),
    })
}

fn desires(attach: &Attach, capability: &str) -> bool {
    let desired = &attach.desired_capabilities;
    desired.iter().any(|name| name == capability)
}

/// The capabilities an answer offers, of those that were desired.
pub(crate) fn offered(attach: &Attach, is_geo_replicated: bool) -> Vec<&'static str> {
    let is_event_link = place(attach).0.is_some();
    [
        (RUNTIME_METRIC, attach.is_receiver),
        (GEO_REPLICATION, is_event_link && is_geo_replicated),
    ]
    .into_iter()
    .filter(|(name, is_offered)| *is_offered && desires(attach, name))
    .map(|(name, _)| name)
    .collect()
}

/// The event hub, if no fault is set for it, it exists and the connection may use it.
fn reachable(
    core: &Core,
    hub_name: &str,
    partition: Option<&str>,
    resource: &str,
    claim: &str,
) -> Result<Arc<Hub>, AmqpError> {
    if let Some(error) = core.service.faults.on_attach(hub_name, partition) {
        return Err(error);
    }
    if core.service.keys.is_checking() && !core.grants.covers(resource, now_s()) {
        return Err(unauthorized(claim, resource));
    }
    core.service
        .broker
        .hub(hub_name)
        .ok_or_else(|| entity_not_found(resource))
}

fn refused(refusal: &Refusal, claim: &Claim, entity: &str) -> AmqpError {
    let tail = tracking(entity);
    match refusal {
        Refusal::EpochReceiverExists { epoch } => AmqpError::new(
            condition::LINK_STOLEN,
            format!(
                "At least one receiver for the endpoint is created with epoch of '{epoch}', and so \
                 non-epoch receiver is not allowed. Either reconnect with a higher epoch, or make \
                 sure all epoch receivers are closed or disconnected. {tail}"
            ),
        ),
        Refusal::HigherEpochExists { current } => AmqpError::new(
            condition::LINK_STOLEN,
            format!(
                "Receiver '{}' with a higher epoch '{}' already exists. Receiver '{}' with epoch \
                 {} cannot be created. Make sure you are creating receiver with increasing epoch \
                 value to ensure connectivity, or ensure all old epoch receivers are closed or \
                 disconnected. {tail}",
                receiver_name(current),
                current.epoch.unwrap_or(0),
                receiver_name(claim),
                claim.epoch.unwrap_or(0)
            ),
        ),
        Refusal::TooMany { names } => {
            let names: Vec<_> = names
                .iter()
                .map(|n| n.as_deref().unwrap_or("nil"))
                .collect();
            AmqpError::new(
                condition::RESOURCE_LIMIT,
                format!(
                    "Exceeded the maximum number of allowed receivers per partition in a consumer \
                     group which is {}. List of connected receivers - {}. {tail}",
                    names.len(),
                    names.join(", ")
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::incoming::Terminus;
    use super::*;

    #[test]
    fn capabilities_are_offered_to_those_who_desire_them() {
        let attach = |is_receiver, address: &str, desired: &[&str]| {
            let terminus = || Terminus {
                address: Some(address.to_owned()),
                filter: Value::Null,
            };
            Attach {
                name: "link".to_owned(),
                handle: 0,
                is_receiver,
                snd_settle_mode: None,
                rcv_settle_mode: None,
                raw_source: None,
                raw_target: None,
                source: terminus(),
                target: terminus(),
                initial_delivery_count: None,
                desired_capabilities: desired.iter().map(|&name| name.to_owned()).collect(),
                properties: Value::Null,
            }
        };
        let both = [GEO_REPLICATION, RUNTIME_METRIC];
        let consumer = "hub/ConsumerGroups/$Default/Partitions/0";
        let offered_for = |is_receiver, address, is_replicated| {
            offered(&attach(is_receiver, address, &both), is_replicated)
        };
        assert_eq!(offered_for(true, consumer, false), [RUNTIME_METRIC]);
        assert_eq!(
            offered_for(true, consumer, true),
            [RUNTIME_METRIC, GEO_REPLICATION]
        );
        assert_eq!(offered_for(false, "hub", true), [GEO_REPLICATION]);
        assert!(offered_for(false, "$cbs", true).is_empty());
        assert!(offered(&attach(true, consumer, &[]), true).is_empty());
    }
}
