//! Processors over the transport.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_emulator::Emulator;
use eventhubs_processor::{
    BlobCheckpointStore, EventHandler, EventPosition, EventProcessor, EventProcessorBuilder,
    PartitionContext, handler_fn_with,
};
use eventhubs_processor_azeventhubs::AzEventHubsTransport;

use crate::world::{Factory, emulator, eventually, send, transport};

/// Sequence numbers as they were delivered, by partition.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<BTreeMap<String, Vec<i64>>>>);

impl Log {
    fn add(&self, partition: String, number: i64) {
        let mut log = self.0.lock().unwrap();
        log.entry(partition).or_default().push(number);
    }

    fn partitions(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn total(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Vec<i64>> {
        self.0.lock().unwrap().clone()
    }
}

/// Notes each event and checkpoints it.
pub(crate) fn noting(log: &Log) -> impl EventHandler {
    handler_fn_with(log.clone(), async |log: Log, context, event| {
        let context: PartitionContext = context;
        let partition = context.partition_id().to_string();
        log.add(partition, event.sequence_number());
        context.update_checkpoint(&event).await?;
        Ok(())
    })
}

async fn with_store(partitions: u32) -> Emulator {
    let emulator = emulator(partitions).await;
    emulator.create_container("checkpoints").unwrap();
    emulator
}

pub(crate) fn processor(
    emulator: &Emulator,
    transport: AzEventHubsTransport,
) -> EventProcessorBuilder {
    let storage = emulator.storage_connection_string();
    let store = BlobCheckpointStore::from_connection_string(&storage, "checkpoints").unwrap();
    EventProcessor::builder(transport, "$Default", store)
        .with_load_balancing_interval(Duration::from_millis(500))
        .with_partition_ownership_expiration(Duration::from_secs(5))
        .with_default_starting_position(EventPosition::Earliest)
        .with_retry_delay(Duration::from_millis(50), Duration::from_secs(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_lose_and_repeat_nothing() {
    let emulator = with_store(4).await;
    let factory = Factory::new(&emulator);
    let log = Log::default();
    let adapter = factory.connect().await.unwrap();
    let handle = processor(&emulator, adapter)
        .build(noting(&log))
        .unwrap()
        .spawn();
    for kill in 1..=3 {
        send(&emulator, 4, 25);
        eventually(|| log.total() >= kill * 100).await;
        emulator.faults().drop_connections();
    }
    send(&emulator, 4, 25);
    eventually(|| log.total() >= 400).await;
    handle.shutdown().await.unwrap();
    for (partition, seen) in log.all() {
        assert_eq!(seen, Vec::from_iter(0..100), "partition {partition}");
    }
    // The first, and one for each receiver before and after each loss.
    assert!(factory.made() > 4 * 4, "{}", factory.made());
    eventually(|| emulator.connection_count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processors_share_and_one_goes_on_from_the_checkpoints() {
    let emulator = with_store(4).await;
    let (first, second) = (Log::default(), Log::default());
    send(&emulator, 4, 10);
    let run = async |log: &Log| {
        processor(&emulator, transport(&emulator).await)
            .build(noting(log))
            .unwrap()
            .spawn()
    };
    let a = run(&first).await;
    eventually(|| first.total() == 40).await;
    let b = run(&second).await;
    // Until the newcomer has its half, new events show whose they are.
    eventually(|| {
        send(&emulator, 4, 1);
        second.partitions() == 2
    })
    .await;
    b.shutdown().await.unwrap();
    let ends = |emulator: &Emulator| {
        Vec::from_iter(["0", "1", "2", "3"].map(|partition| {
            let state = emulator.partition_properties("hub", partition).unwrap();
            state.last_enqueued_sequence_number
        }))
    };
    send(&emulator, 4, 10);
    let ends = ends(&emulator);
    let all_seen = || {
        let (first, second) = (first.all(), second.all());
        ["0", "1", "2", "3"]
            .into_iter()
            .zip(&ends)
            .all(|(id, end)| {
                let of =
                    |log: &BTreeMap<String, Vec<i64>>| log.get(id).cloned().unwrap_or_default();
                let seen = BTreeSet::from_iter(of(&first).into_iter().chain(of(&second)));
                seen == BTreeSet::from_iter(0..=*end)
            })
    };
    eventually(all_seen).await;
    a.shutdown().await.unwrap();
    let total = usize::try_from(ends.iter().sum::<i64>() + 4).unwrap();
    assert_eq!(
        first.total() + second.total(),
        total,
        "what was checkpointed came again"
    );
    eventually(|| emulator.connection_count() == 0).await;
}
