//! What is shown, made of two looks at the emulator.

use std::time::Duration;

use eventhubs_emulator::{HubStatus, PartitionStatus, ReaderStatus, Status};

/// Everything on the screen that moves.
#[derive(Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) connections: usize,
    pub(super) receivers: usize,
    pub(super) incoming: f64,
    pub(super) outgoing: f64,
    pub(super) blob_requests: f64,
    pub(super) bytes: usize,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Row {
    Hub {
        name: String,
        partitions: usize,
        receivers: usize,
    },
    Partition {
        id: String,
        first: i64,
        last: i64,
        bytes: usize,
        incoming: f64,
        outgoing: f64,
        reader: Option<Reader>,
    },
    /// One more receiver of the partition above.
    Reader(Reader),
}

#[derive(Debug, PartialEq)]
pub(super) struct Reader {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) level: Option<i64>,
    /// Events of the partition it has not been sent.
    pub(super) lag: i64,
}

impl View {
    /// What is there now, and how fast it has changed since `before`.
    pub(super) fn new(before: Option<(&Status, Duration)>, now: &Status) -> Self {
        let mut view = Self {
            connections: now.connections,
            ..Self::default()
        };
        let rates = Rates { before };
        view.blob_requests = rates.blob_requests(now);
        for hub in &now.hubs {
            let receivers = hub.partitions.iter().map(|p| p.receivers).sum();
            view.receivers += receivers;
            view.rows.push(Row::Hub {
                name: hub.name.clone(),
                partitions: hub.partitions.len(),
                receivers,
            });
            for partition in &hub.partitions {
                let (incoming, outgoing) = rates.of(hub, partition);
                view.incoming += incoming;
                view.outgoing += outgoing;
                view.bytes += partition.bytes;
                let mut readers = partition.readers.iter().map(|r| reader(now, partition, r));
                view.rows.push(Row::Partition {
                    id: partition.id.clone(),
                    first: partition.begin_sequence_number,
                    last: partition.last_enqueued_sequence_number,
                    bytes: partition.bytes,
                    incoming,
                    outgoing,
                    reader: readers.next(),
                });
                view.rows.extend(readers.map(Row::Reader));
            }
        }
        view
    }
}

fn reader(now: &Status, partition: &PartitionStatus, reader: &ReaderStatus) -> Reader {
    // Python gives no name to a receiver, but one to its connection.
    let by_connection = || {
        let mut connections = now.open_connections.iter();
        let connection = connections.find(|connection| connection.id == reader.connection);
        connection.and_then(|connection| connection.container_id.clone())
    };
    let name = reader.name.clone().or_else(by_connection);
    let next = partition.last_enqueued_sequence_number + 1;
    Reader {
        group: reader.consumer_group.clone(),
        name: name.unwrap_or_else(|| format!("#{}", reader.connection)),
        level: reader.owner_level,
        lag: (next - reader.next_sequence_number).max(0),
    }
}

struct Rates<'a> {
    before: Option<(&'a Status, Duration)>,
}

impl Rates<'_> {
    fn per_second(&self, count: u64) -> f64 {
        let seconds = self
            .before
            .map_or(0.0, |(_, elapsed)| elapsed.as_secs_f64());
        if seconds > 0.0 {
            count as f64 / seconds
        } else {
            0.0
        }
    }

    fn blob_requests(&self, now: &Status) -> f64 {
        let total = |status: &Status| status.blob_requests.values().sum::<u64>();
        let before = self.before.map_or(0, |(before, _)| total(before));
        self.per_second(total(now).saturating_sub(before))
    }

    /// Events that came, and that went to receivers.
    fn of(&self, hub: &HubStatus, partition: &PartitionStatus) -> (f64, f64) {
        let Some(old) = self.before.and_then(|(before, _)| {
            let hub = before.hubs.iter().find(|other| other.name == hub.name)?;
            hub.partitions.iter().find(|other| other.id == partition.id)
        }) else {
            return (0.0, 0.0);
        };
        let came = partition.last_enqueued_sequence_number - old.last_enqueued_sequence_number;
        let went = partition.readers.iter().map(|reader| {
            let is_same = |other: &&ReaderStatus| {
                other.connection == reader.connection
                    && other.consumer_group == reader.consumer_group
                    && other.delivered <= reader.delivered
            };
            let before = old.readers.iter().find(is_same).map_or(0, |r| r.delivered);
            reader.delivered - before
        });
        // An event hub that was made again starts at zero.
        let came = u64::try_from(came).unwrap_or(0);
        (self.per_second(came), self.per_second(went.sum()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use eventhubs_emulator::{Emulator, Event};

    use super::*;

    /// What an emulator with two event hubs says, before and after some events came.
    pub(crate) async fn statuses() -> (Status, Status) {
        let emulator = Emulator::builder()
            .with_hub("orders", 1)
            .with_hub("telemetry", 3)
            .start()
            .await
            .unwrap();
        let before = emulator.status();
        for _ in 0..2500 {
            let event = Event::new("x".repeat(100));
            emulator.send("telemetry", Some("1"), event).unwrap();
        }
        let mut after = emulator.status();
        let mut first = ReaderStatus::default();
        first.consumer_group = "$default".to_owned();
        first.name = Some("worker-1".to_owned());
        first.owner_level = Some(0);
        first.connection = 7;
        first.delivered = 1500;
        first.next_sequence_number = 1500;
        let mut second = ReaderStatus::default();
        second.consumer_group = "audit".to_owned();
        second.connection = 8;
        second.next_sequence_number = 2500;
        let partition = &mut after.hubs[1].partitions[1];
        partition.readers = vec![first, second];
        partition.receivers = 2;
        after.connections = 2;
        (before, after)
    }

    #[tokio::test]
    async fn rates_and_lags_come_from_two_looks() {
        let (before, after) = statuses().await;
        let view = View::new(Some((&before, Duration::from_secs(2))), &after);
        assert_eq!((view.incoming, view.outgoing), (1250.0, 750.0));
        assert_eq!((view.connections, view.receivers), (2, 2));
        assert_eq!(view.rows.len(), 2 + 1 + 3 + 1);
        let Row::Partition { last, reader, .. } = &view.rows[4] else {
            panic!("{:?}", view.rows);
        };
        assert_eq!(*last, 2499);
        let reader = reader.as_ref().unwrap();
        assert_eq!((&*reader.name, reader.lag), ("worker-1", 1000));
        let Row::Reader(other) = &view.rows[5] else {
            panic!("{:?}", view.rows);
        };
        assert_eq!((&*other.name, other.lag), ("#8", 0));
        assert_eq!(View::new(None, &after).incoming, 0.0);
    }
}
