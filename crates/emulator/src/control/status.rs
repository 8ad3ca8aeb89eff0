//! What the emulator is doing.

use serde::Serialize;

use crate::amqp::Service;

#[derive(Debug, Serialize)]
pub(super) struct Status {
    connections: usize,
    hubs: Vec<HubStatus>,
}

#[derive(Debug, Serialize)]
struct HubStatus {
    name: String,
    partitions: Vec<PartitionStatus>,
}

#[derive(Debug, Serialize)]
struct PartitionStatus {
    id: String,
    receivers: usize,
    begin_sequence_number: i64,
    last_enqueued_sequence_number: i64,
    last_enqueued_offset: Option<String>,
}

pub(super) fn of(service: &Service) -> Status {
    let hubs = service.broker.hubs().into_iter().map(|hub| {
        let partitions = hub.partitions();
        let partitions = partitions.iter().map(|partition| {
            let state = partition.state();
            PartitionStatus {
                id: partition.id().to_owned(),
                receivers: hub.receiver_count(partition.id()),
                begin_sequence_number: state.begin_sequence_number,
                last_enqueued_sequence_number: state.last_sequence_number,
                last_enqueued_offset: state.last_offset.map(|offset| offset.to_string()),
            }
        });
        HubStatus {
            name: hub.name().to_owned(),
            partitions: partitions.collect(),
        }
    });
    Status {
        connections: service.connection_count(),
        hubs: hubs.collect(),
    }
}
