//! What the emulator is doing.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::amqp::Service;
use crate::blob::{BlobAccount, BlobOperation};
use crate::broker::Hub;

#[derive(Debug, Serialize)]
pub(super) struct Status {
    connections: usize,
    open_connections: Vec<ConnectionStatus>,
    hubs: Vec<HubStatus>,
    blob_requests: BTreeMap<BlobOperation, u64>,
}

#[derive(Debug, Serialize)]
struct ConnectionStatus {
    id: u64,
    container_id: Option<String>,
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
    bytes: usize,
    readers: Vec<ReaderStatus>,
}

#[derive(Debug, Serialize)]
struct ReaderStatus {
    consumer_group: String,
    name: Option<String>,
    owner_level: Option<i64>,
    connection: u64,
    delivered: u64,
    next_sequence_number: i64,
}

pub(super) fn of(service: &Service, account: &BlobAccount) -> Status {
    let infos = service.connections();
    let open_connections: Vec<_> = infos
        .into_iter()
        .map(|info| ConnectionStatus {
            id: info.id,
            container_id: info.container_id,
        })
        .collect();
    Status {
        connections: open_connections.len(),
        open_connections,
        hubs: service
            .broker
            .hubs()
            .iter()
            .map(|hub| hub_of(hub))
            .collect(),
        blob_requests: account.counts().into_iter().collect(),
    }
}

fn hub_of(hub: &Hub) -> HubStatus {
    let readers = hub.readers();
    let partitions = hub.partitions();
    let partitions = partitions.iter().map(|partition| {
        let state = partition.state();
        let here = readers.iter().filter(|r| r.partition == partition.id());
        let readers: Vec<_> = here
            .map(|reader| ReaderStatus {
                consumer_group: reader.group.clone(),
                name: reader.claim.name.clone(),
                owner_level: reader.claim.epoch,
                connection: reader.connection,
                delivered: reader.delivered,
                next_sequence_number: reader.next,
            })
            .collect();
        PartitionStatus {
            id: partition.id().to_owned(),
            receivers: readers.len(),
            begin_sequence_number: state.begin_sequence_number,
            last_enqueued_sequence_number: state.last_sequence_number,
            last_enqueued_offset: state.last_offset.map(|offset| offset.to_string()),
            bytes: partition.bytes(),
            readers,
        }
    });
    HubStatus {
        name: hub.name().to_owned(),
        partitions: partitions.collect(),
    }
}
