//! What the emulator is doing.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Emulator;
use crate::amqp::Service;
use crate::blob::{BlobAccount, BlobOperation};
use crate::broker::Hub;

/// What an emulator is doing at one moment, from [`Emulator::status`]; `GET /status` of the control
/// port shows the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// How many AMQP connections are open.
    pub connections: usize,
    /// Which, oldest first.
    pub open_connections: Vec<ConnectionStatus>,
    /// All event hubs, by name.
    pub hubs: Vec<HubStatus>,
    /// How many requests of each kind the blob side has let through.
    pub blob_requests: BTreeMap<BlobOperation, u64>,
}

/// An open AMQP connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// Its number, for [`Faults::on_connection`](crate::Faults::on_connection).
    pub id: u64,
    /// What its peer calls itself, once it has.
    pub container_id: Option<String>,
}

/// An event hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HubStatus {
    /// Its name.
    pub name: String,
    /// All its partitions, in the order of their numbers.
    pub partitions: Vec<PartitionStatus>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Its id.
    pub id: String,
    /// How many receivers are attached, in all consumer groups together.
    pub receivers: usize,
    /// The sequence number of the oldest event kept.
    pub begin_sequence_number: i64,
    /// The sequence number of the newest event, -1 if there never was one.
    pub last_enqueued_sequence_number: i64,
    /// The offset of the newest event.
    pub last_enqueued_offset: Option<String>,
    /// Bytes of memory its events take.
    pub bytes: usize,
    /// The receivers.
    pub readers: Vec<ReaderStatus>,
}

/// A receiver of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReaderStatus {
    /// Its consumer group, in lower case.
    pub consumer_group: String,
    /// What it calls itself.
    pub name: Option<String>,
    /// Its owner level ("epoch" on the wire).
    pub owner_level: Option<i64>,
    /// The number of its connection.
    pub connection: u64,
    /// Events it was sent.
    pub delivered: u64,
    /// The sequence number of the next event it gets.
    pub next_sequence_number: i64,
}

impl Emulator {
    /// What it is doing now.
    #[must_use]
    pub fn status(&self) -> Status {
        of(&self.service, &self.blob.account())
    }
}

pub(crate) fn of(service: &Service, account: &BlobAccount) -> Status {
    let infos = service.connections();
    let open_connections: Vec<_> = infos
        .into_iter()
        .map(|info| ConnectionStatus {
            id: info.id,
            container_id: info.container_id,
        })
        .collect();
    let hubs = service.broker.hubs();
    Status {
        connections: open_connections.len(),
        open_connections,
        hubs: hubs.iter().map(|hub| hub_of(hub)).collect(),
        blob_requests: account.counts().into_iter().collect(),
    }
}

fn hub_of(hub: &Hub) -> HubStatus {
    // Sorted by consumer group; one pass gives them to their partitions.
    let mut readers: BTreeMap<String, Vec<ReaderStatus>> = BTreeMap::new();
    for reader in hub.readers() {
        let of_partition = readers.entry(reader.partition).or_default();
        of_partition.push(ReaderStatus {
            consumer_group: reader.group,
            name: reader.claim.name,
            owner_level: reader.claim.epoch,
            connection: reader.connection,
            delivered: reader.delivered,
            next_sequence_number: reader.next,
        });
    }
    let partitions = hub.partitions();
    let partitions = partitions.iter().map(|partition| {
        let state = partition.state();
        let readers = readers.remove(partition.id()).unwrap_or_default();
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
