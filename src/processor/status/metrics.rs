//! The numbers of a [`Board`], passed on to the `metrics` facade once a second. Names and meanings: `src/observability.md`.
//!
//! Counters go out as differences, so that two processors of one program add up. Only the durations of calls are recorded
//! where they happen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use super::board::Board;
use super::cell::PartitionCell;
use super::{LoadBalancingStatus, PartitionStatus, ProcessorStatus, StorageOperations};
use crate::model::{GroupScope, PartitionId};

const CONSUMED: &str = "messaging.client.consumed.messages";
const DURATION: &str = "messaging.process.duration";

/// Counters of a partition, with where each is read.
type Read = fn(&PartitionCell) -> &AtomicU64;
const COUNTERS: [(&str, Read); 8] = [
    (CONSUMED, |cell| &cell.delivered),
    ("eventhubs.processor.events.processed", |cell| {
        &cell.processed
    }),
    ("eventhubs.processor.events.skipped", |cell| &cell.skipped),
    ("eventhubs.processor.events.dead_lettered", |cell| {
        &cell.dead_letters
    }),
    ("eventhubs.processor.handler.failures", |cell| {
        &cell.failures
    }),
    ("eventhubs.processor.handler.slow_calls", |cell| {
        &cell.slow_calls
    }),
    ("eventhubs.processor.partition.restarts", |cell| {
        &cell.restarts
    }),
    ("eventhubs.processor.partition.stalls", |cell| &cell.stalls),
];

/// Gauges of a partition. Zero once it is not ours, so that the sum over all processors is right.
type Measure = fn(&PartitionStatus, SystemTime) -> Option<f64>;
const GAUGES: [(&str, Measure); 5] = [
    ("eventhubs.processor.lag.events", |status, _| {
        Some(number(status.lag_events?))
    }),
    ("eventhubs.processor.lag.time", |status, now| {
        Some(status.lag(now)?.as_secs_f64())
    }),
    ("eventhubs.processor.checkpoint.age", |status, now| {
        Some(status.checkpoint_age(now)?.as_secs_f64())
    }),
    ("eventhubs.processor.events.in_flight", |status, _| {
        Some(number(status.events_in_flight as u64))
    }),
    ("eventhubs.processor.handler.running", |status, _| {
        Some(number(status.running_calls as u64))
    }),
];

const OWNED: &str = "eventhubs.processor.partitions.owned";
const REPAIRED: &str = "eventhubs.processor.checkpoint.regressions_repaired";
const STORAGE: &str = "eventhubs.processor.storage.operations";
const STORAGE_FAILURES: &str = "eventhubs.processor.storage.failures";
const CREDENTIALS: &str = "eventhubs.processor.credentials.failing";

/// What the credentials are for, as values of the label `service`.
type Fails = fn(&ProcessorStatus) -> bool;
const SERVICES: [(&str, Fails); 2] = [
    ("event_hub", |status| {
        status.event_hub_credential_error.is_some()
    }),
    ("store", |status| status.store_credential_error.is_some()),
];

/// Counters of load balancing.
type Balanced = fn(&LoadBalancingStatus) -> u64;
const BALANCING: [(&str, Balanced); 5] = [
    ("eventhubs.processor.load_balancing.cycles", |status| {
        status.cycles
    }),
    (
        "eventhubs.processor.load_balancing.failed_cycles",
        |status| status.failed_cycles,
    ),
    ("eventhubs.processor.load_balancing.claims", |status| {
        status.claims
    }),
    ("eventhubs.processor.load_balancing.steals", |status| {
        status.steals
    }),
    ("eventhubs.processor.load_balancing.losses", |status| {
        status.losses
    }),
];

/// Storage operations by the value of their label `operation`.
type Stored = fn(&StorageOperations) -> u64;
const OPERATIONS: [(&str, Stored); 5] = [
    ("list_ownership", |storage| storage.list_ownership),
    ("claim_ownership", |storage| storage.claim_ownership),
    ("list_checkpoints", |storage| storage.list_checkpoints),
    ("checkpoint", |storage| storage.checkpoint),
    ("update_checkpoint", |storage| storage.update_checkpoint),
];

/// The histogram of one partition's calls.
pub(super) fn durations(scope: &GroupScope, partition_id: &PartitionId) -> Histogram {
    histogram!(DURATION, partition_labels(scope, partition_id))
}

/// A counter and what of it has been passed on.
struct Total {
    counter: Counter,
    passed_on: u64,
}

impl Total {
    fn new(counter: Counter) -> Self {
        Self {
            counter,
            passed_on: 0,
        }
    }

    fn set(&mut self, total: u64) {
        self.counter.increment(total.saturating_sub(self.passed_on));
        self.passed_on = total;
    }
}

struct Partition {
    counters: [Total; COUNTERS.len()],
    gauges: [Gauge; GAUGES.len()],
    is_owned: bool,
}

/// Passes a processor's numbers on.
pub(super) struct Publisher {
    partitions: BTreeMap<PartitionId, Partition>,
    owned: Gauge,
    balancing: [Total; BALANCING.len()],
    operations: [Total; OPERATIONS.len()],
    storage_failures: Total,
    repaired: Total,
    credentials: [Gauge; SERVICES.len()],
}

impl Publisher {
    pub(super) fn new(board: &Board) -> Self {
        describe();
        let labels = labels(&board.scope);
        let with = |name, value| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts(name, value));
            labels
        };
        let operations = OPERATIONS.map(|(operation, _)| {
            let labels = with("operation", operation);
            Total::new(counter!(STORAGE, labels))
        });
        let credentials =
            SERVICES.map(|(service, _)| gauge!(CREDENTIALS, with("service", service)));
        Self {
            partitions: BTreeMap::new(),
            owned: gauge!(OWNED, labels.clone()),
            balancing: BALANCING.map(|(name, _)| Total::new(counter!(name, labels.clone()))),
            operations,
            storage_failures: Total::new(counter!(STORAGE_FAILURES, labels.clone())),
            repaired: Total::new(counter!(REPAIRED, labels)),
            credentials,
        }
    }

    /// The last numbers: whoever has ended lacks nothing.
    pub(super) fn finish(mut self, board: &Board) {
        self.publish(board);
        for gauge in self.credentials {
            gauge.set(0.0);
        }
    }

    pub(super) fn publish(&mut self, board: &Board) {
        for (partition_id, cell, status) in board.all() {
            let labels = || partition_labels(&board.scope, &partition_id);
            let partition = self
                .partitions
                .entry(partition_id.clone())
                .or_insert_with(|| Partition {
                    counters: COUNTERS.map(|(name, _)| Total::new(counter!(name, labels()))),
                    gauges: GAUGES.map(|(name, _)| gauge!(name, labels())),
                    is_owned: false,
                });
            for (total, (_, read)) in partition.counters.iter_mut().zip(COUNTERS) {
                total.set(read(&cell).load(Ordering::Relaxed));
            }
            let was_owned = std::mem::replace(&mut partition.is_owned, status.is_some());
            for (gauge, (_, measure)) in partition.gauges.iter().zip(GAUGES) {
                match &status {
                    Some(status) => {
                        if let Some(value) = measure(status, SystemTime::now()) {
                            gauge.set(value);
                        }
                    }
                    None if was_owned => gauge.set(0.0),
                    None => {}
                }
            }
        }
        let status = board.status();
        self.owned.set(number(status.partitions.len() as u64));
        for (total, (_, read)) in self.balancing.iter_mut().zip(BALANCING) {
            total.set(read(&status.load_balancing));
        }
        for (total, (_, read)) in self.operations.iter_mut().zip(OPERATIONS) {
            total.set(read(&status.storage));
        }
        self.storage_failures.set(status.storage.failed);
        self.repaired.set(status.checkpoint_regressions_repaired);
        for (gauge, (_, fails)) in self.credentials.iter().zip(SERVICES) {
            gauge.set(f64::from(u8::from(fails(&status))));
        }
    }
}

fn labels(scope: &GroupScope) -> Vec<Label> {
    vec![
        Label::from_static_parts("messaging.system", "eventhubs"),
        Label::new(
            "server.address",
            scope.fully_qualified_namespace().to_owned(),
        ),
        Label::new(
            "messaging.destination.name",
            scope.event_hub_name().to_owned(),
        ),
        Label::new(
            "messaging.consumer.group.name",
            scope.consumer_group().to_owned(),
        ),
    ]
}

fn partition_labels(scope: &GroupScope, partition_id: &PartitionId) -> Vec<Label> {
    let mut labels = labels(scope);
    let partition_id = partition_id.as_str().to_owned();
    labels.push(Label::new(
        "messaging.destination.partition.id",
        partition_id,
    ));
    labels
}

/// Above 2^53 the last digits go; a gauge shows fewer.
#[allow(clippy::cast_precision_loss, reason = "a gauge")]
fn number(value: u64) -> f64 {
    value as f64
}

fn describe() {
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "Duration of calls of on_event or on_event_batch"
    );
    describe_counter!(CONSUMED, Unit::Count, "Events handed to the handler");
    for (name, text) in [
        (COUNTERS[1].0, "Events that are done"),
        (COUNTERS[2].0, "Events passed over"),
        (COUNTERS[3].0, "Events that became dead letters"),
        (COUNTERS[4].0, "Calls of hooks that failed"),
        (COUNTERS[5].0, "Calls of hooks that took long"),
        (COUNTERS[6].0, "Terms that failed and were begun again"),
        (COUNTERS[7].0, "Times that deliveries stopped"),
        (BALANCING[0].0, "Load-balancing cycles"),
        (BALANCING[1].0, "Load-balancing cycles that failed"),
        (BALANCING[2].0, "Partitions claimed that nobody held"),
        (BALANCING[3].0, "Partitions claimed from live owners"),
        (BALANCING[4].0, "Partitions claimed by others"),
        (STORAGE, "Operations of the checkpoint store"),
        (
            STORAGE_FAILURES,
            "Operations of the checkpoint store that failed",
        ),
        (REPAIRED, "Checkpoints that had been moved back"),
    ] {
        describe_counter!(name, Unit::Count, text);
    }
    for (name, unit, text) in [
        (
            GAUGES[0].0,
            Unit::Count,
            "Events enqueued after the last one done",
        ),
        (
            GAUGES[1].0,
            Unit::Seconds,
            "Age of the oldest event not done, at most",
        ),
        (
            GAUGES[2].0,
            Unit::Seconds,
            "Time since the last checkpoint was written",
        ),
        (GAUGES[3].0, Unit::Count, "Events handed out and not done"),
        (
            GAUGES[4].0,
            Unit::Count,
            "Calls of on_event or on_event_batch that are running",
        ),
        (OWNED, Unit::Count, "Partitions owned"),
        (
            CREDENTIALS,
            Unit::Count,
            "1 while there is no new token or signature",
        ),
    ] {
        describe_gauge!(name, unit, text);
    }
}
