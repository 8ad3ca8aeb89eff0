//! `$management`: READ of an event hub or a partition.

use super::codec::Value;
use super::errors::{condition, not_found_text, partition_out_of_range, unauthorized};
use super::request::{Reply, Request};
use super::sas::{Grants, now_s};
use super::service::Service;
use crate::broker::{Hub, Partition};

const OK: i32 = 200;

/// Answers a READ request.
pub(crate) fn answer(request: &Request, service: &Service, grants: &Grants) -> Reply {
    let hub_name = request.property("name").unwrap_or_default();
    let management = || format!("{hub_name}/$management");
    if request.property("operation") != Some("READ") {
        return Reply::failure(
            400,
            condition::ARGUMENT,
            "The operation is not READ.".to_owned(),
        );
    }
    if !is_authorized(request, service, grants, hub_name) {
        let error = unauthorized("Listen", &management());
        return Reply::failure(401, condition::UNAUTHORIZED, error.description);
    }
    let Some(hub) = service.broker.hub(hub_name) else {
        return Reply::failure(404, condition::NOT_FOUND, not_found_text(&management()));
    };
    match request.property("type") {
        Some("com.microsoft:eventhub") => Reply::success(OK, "OK", describe_hub(&hub)),
        Some("com.microsoft:partition") => {
            match request
                .property("partition")
                .and_then(|id| hub.partition(id))
            {
                Some(partition) => Reply::success(OK, "OK", describe_partition(&hub, &partition)),
                None => {
                    let error = partition_out_of_range(hub.name(), hub.partitions().len());
                    Reply::failure(400, condition::ARGUMENT_OUT_OF_RANGE, error.description)
                }
            }
        }
        _ => Reply::failure(
            400,
            condition::ARGUMENT,
            "The entity type is not known.".to_owned(),
        ),
    }
}

/// Each request brings its own token; the connection's grants do as well.
fn is_authorized(request: &Request, service: &Service, grants: &Grants, hub: &str) -> bool {
    if !service.keys.is_checking() {
        return true;
    }
    let now_s = now_s();
    let token = request.property("security_token").unwrap_or_default();
    service.keys.check(token, hub, now_s).is_ok()
        || grants.covers(&format!("{hub}/$management"), now_s)
}

/// INTEROP: partition ids are an array of string, not a list (Rust, Go, .NET, Java); the partition
/// count has to be there for Rust, the geo factor as an int for Go.
fn describe_hub(hub: &Hub) -> Value {
    let ids = hub
        .partitions()
        .iter()
        .map(|p| Value::from(p.id()))
        .collect();
    let count = i32::try_from(hub.partitions().len()).unwrap_or(i32::MAX);
    // INTEROP: SDKs take more than one for a geo-replicated namespace.
    let factor = if hub.is_geo_replicated() { 2 } else { 1 };
    map(vec![
        ("name", Value::from(hub.name())),
        ("type", Value::from("com.microsoft:eventhub")),
        ("created_at", Value::Timestamp(hub.created_ms())),
        ("partition_count", Value::Int(count)),
        ("partition_ids", Value::Array(ids)),
        ("georeplication_factor", Value::Int(factor)),
    ])
}

fn describe_partition(hub: &Hub, partition: &Partition) -> Value {
    let state = partition.state();
    let offset = state
        .last_offset
        .map_or_else(|| "-1".to_owned(), |offset| offset.to_string());
    map(vec![
        ("name", Value::from(hub.name())),
        ("type", Value::from("com.microsoft:partition")),
        ("partition", Value::from(partition.id())),
        (
            "begin_sequence_number",
            Value::Long(state.begin_sequence_number),
        ),
        ("begin_sequence_number_epoch", Value::Int(-1)),
        (
            "last_enqueued_sequence_number",
            Value::Long(state.last_sequence_number),
        ),
        ("last_enqueued_sequence_number_epoch", Value::Int(-1)),
        ("last_enqueued_offset", Value::from(&*offset)),
        (
            "last_enqueued_time_utc",
            Value::Timestamp(state.last_enqueued_ms),
        ),
        (
            "runtime_info_retrieval_time_utc",
            Value::Timestamp(hub.clock().now_ms()),
        ),
        ("is_partition_empty", Value::Bool(state.is_empty)),
    ])
}

fn map(entries: Vec<(&str, Value)>) -> Value {
    Value::Map(
        entries
            .into_iter()
            .map(|(key, value)| (Value::from(key), value))
            .collect(),
    )
}
