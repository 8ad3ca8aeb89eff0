//! The whole stack: processors over AMQP and blobs, in real time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::checkpoint::WriteCondition;
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, Checkpoint, CheckpointPolicy, CheckpointStore as _,
    EventHubConsumerClient, EventPosition, EventProcessor, EventProcessorBuilder, GroupScope,
    InvalidPosition, ProcessorError, ReceivedEvent, Transport as _, handler_fn_with,
};
use tokio_util::sync::CancellationToken;

pub(crate) const HUB: &str = "hub";

pub(crate) async fn emulator(partitions: u32) -> Emulator {
    let emulator = Emulator::builder()
        .with_hub(HUB, partitions)
        .start()
        .await
        .unwrap();
    emulator.create_container("checkpoints").unwrap();
    emulator
}

fn store(emulator: &Emulator) -> BlobCheckpointStore {
    BlobCheckpointStore::from_connection_string(
        &emulator.storage_connection_string(),
        "checkpoints",
    )
    .unwrap()
}

fn transport(emulator: &Emulator) -> AmqpTransport {
    AmqpTransport::from_connection_string(&emulator.event_hubs_connection_string(), HUB).unwrap()
}

pub(crate) fn builder(emulator: &Emulator) -> EventProcessorBuilder {
    EventProcessor::builder(transport(emulator), "$Default", store(emulator))
        .with_load_balancing_interval(Duration::from_millis(500))
        .with_partition_ownership_expiration(Duration::from_secs(3))
        .with_default_starting_position(EventPosition::Earliest)
        .with_retry_delay(Duration::from_millis(50), Duration::from_secs(1))
}

/// Sequence numbers as they were delivered, by partition.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<BTreeMap<String, Vec<i64>>>>);

impl Log {
    fn add(&self, partition: &str, event: &ReceivedEvent) {
        self.0
            .lock()
            .unwrap()
            .entry(partition.to_owned())
            .or_default()
            .push(event.sequence_number());
    }

    fn distinct(&self) -> usize {
        let log = self.0.lock().unwrap();
        log.values()
            .map(|seen| seen.iter().collect::<BTreeSet<_>>().len())
            .sum()
    }

    fn total(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    /// What a partition delivered, in order.
    pub(crate) fn of(&self, partition: &str) -> Vec<i64> {
        self.0
            .lock()
            .unwrap()
            .get(partition)
            .cloned()
            .unwrap_or_default()
    }

    /// Fails after half a minute of real time.
    pub(crate) async fn until(&self, distinct: usize) {
        let all = async {
            while self.distinct() < distinct {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), all)
            .await
            .is_err()
        {
            panic!("{} of {distinct} events after 30 s", self.distinct());
        }
    }
}

/// Notes each event and checkpoints it.
pub(crate) fn noting(log: &Log) -> impl eventhubs_processor::EventHandler {
    handler_fn_with(log.clone(), async |log: Log, context, event| {
        let context: eventhubs_processor::PartitionContext = context;
        log.add(context.partition_id().as_str(), &event);
        context.update_checkpoint(&event).await?;
        Ok(())
    })
}

pub(crate) fn send(emulator: &Emulator, partitions: u32, events: usize) {
    for number in 0..events {
        for partition in 0..partitions {
            let event = Event::new(format!("{partition}/{number}"));
            emulator
                .send(HUB, Some(&partition.to_string()), event)
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_hand_over_repeats_nothing_and_a_crash_loses_nothing() {
    let emulator = emulator(4).await;
    let (first, second) = (Log::default(), Log::default());
    send(&emulator, 4, 50);
    let a = builder(&emulator).build(noting(&first)).unwrap().spawn();
    first.until(200).await;
    assert!(a.shutdown().await.unwrap().cut_partitions.is_empty());
    assert_eq!(first.total(), 200);

    let b = builder(&emulator).build(noting(&second)).unwrap().spawn();
    send(&emulator, 4, 50);
    second.until(200).await;
    assert_eq!(second.total(), 200, "what was checkpointed came again");
    drop(b);

    // The abort takes effect where the tasks wait next: some of these may still be noted, and checkpointed, by the
    // one that crashes. Hence one log for both.
    send(&emulator, 4, 25);
    let c = builder(&emulator).build(noting(&second)).unwrap().spawn();
    second.until(300).await;
    c.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_another_event_hub_are_replaced_if_a_policy_says_so() {
    let emulator = emulator(2).await;
    send(&emulator, 2, 10);
    let scope = GroupScope::new(
        transport(&emulator).fully_qualified_namespace(),
        HUB,
        "$Default",
    );
    // The service refuses the offset of one; the number of the other is beyond the end.
    for (partition, offset, sequence_number) in [("0", "999999", 1), ("1", "1", 1000)] {
        let checkpoint = Checkpoint {
            partition_id: partition.into(),
            offset: Some(offset.into()),
            sequence_number: Some(sequence_number),
            client_identifier: None,
        };
        store(&emulator)
            .update_checkpoint(&scope, &checkpoint, &WriteCondition::Absent)
            .await
            .unwrap();
    }
    let log = Log::default();
    let handler = handler_fn_with(log.clone(), async |log: Log, context, event| {
        let context: eventhubs_processor::PartitionContext = context;
        log.add(context.partition_id().as_str(), &event);
        Ok(())
    });
    let handle = builder(&emulator)
        .with_invalid_position(InvalidPosition::Earliest)
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(handler)
        .unwrap()
        .spawn();
    log.until(20).await;
    handle.shutdown().await.unwrap();
    for partition in ["0", "1"] {
        let stored = store(&emulator).checkpoint(&scope, &partition.into()).await;
        let checkpoint = stored.unwrap().unwrap().checkpoint;
        assert_eq!(checkpoint.sequence_number, Some(9), "partition {partition}");
        assert!(checkpoint.client_identifier.is_some(), "who wrote it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_links_sessions_and_connections_lose_and_repeat_nothing() {
    let emulator = emulator(2).await;
    let log = Log::default();
    let handle = builder(&emulator).build(noting(&log)).unwrap().spawn();
    let faults = emulator.faults();
    let mut expected = 0;
    for round in 0..7 {
        send(&emulator, 2, 20);
        expected += 40;
        log.until(expected).await;
        match round {
            0 => faults.detach_receivers(HUB, None, "amqp:link:detach-forced", "idle"),
            1 => faults.end_sessions("amqp:internal-error", "session"),
            2 => faults.close_connections("amqp:connection:forced", "upgrade"),
            3 => faults.drop_connections(),
            4 => {
                faults.refuse_attaches(HUB, None, "com.microsoft:server-busy", "busy", 3);
                faults.drop_connections();
            }
            5 => {
                faults.answer_cbs(401, 1);
                faults.drop_connections();
            }
            _ => {}
        }
    }
    assert_eq!(log.total(), expected, "an event came twice within one term");
    handle.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reads_like_the_python_one() {
    let emulator = emulator(2).await;
    send(&emulator, 2, 10);
    let client = EventHubConsumerClient::from_connection_string(
        &emulator.event_hubs_connection_string(),
        "$Default",
        HUB,
        store(&emulator),
    )
    .unwrap();
    let log = Log::default();
    let (noted, closing) = (log.clone(), client.clone());
    let watch = tokio::spawn({
        let log = log.clone();
        async move {
            log.until(20).await;
            closing.close().await;
        }
    });
    client
        .receive(move |context, event| {
            let noted = noted.clone();
            async move {
                noted.add(context.partition_id().as_str(), &event);
                context.update_checkpoint(&event).await?;
                Ok(())
            }
        })
        .with_starting_position(EventPosition::Earliest)
        .on_error(|_, error| panic!("{error}"))
        .await
        .unwrap();
    watch.await.unwrap();
    assert_eq!(log.total(), 20);
    let scope = GroupScope::new(
        transport(&emulator).fully_qualified_namespace(),
        HUB,
        "$Default",
    );
    let ownerships = store(&emulator)
        .list_ownership(&scope)
        .await
        .unwrap()
        .ownerships;
    assert_eq!(ownerships.len(), 2);
    assert!(
        ownerships
            .iter()
            .all(|ownership| ownership.owner_id.is_none()),
        "not given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn receive_batch_hands_over_what_is_there() {
    let emulator = emulator(1).await;
    send(&emulator, 1, 500);
    let client = EventHubConsumerClient::new(transport(&emulator), "$Default", store(&emulator));
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let stop = CancellationToken::new();
    let (noted, enough) = (Arc::clone(&sizes), stop.clone());
    client
        .receive_batch(move |context, events| {
            let (noted, enough) = (Arc::clone(&noted), enough.clone());
            async move {
                noted.lock().unwrap().push(events.len());
                if let Some(last) = events.last() {
                    context.update_checkpoint(last).await?;
                    if last.sequence_number() == 499 {
                        enough.cancel();
                    }
                }
                Ok(())
            }
        })
        .with_starting_position(EventPosition::Earliest)
        .with_shutdown(stop)
        .await
        .unwrap();
    let sizes = sizes.lock().unwrap();
    assert_eq!(sizes.iter().sum::<usize>(), 500);
    assert!(
        sizes.iter().all(|size| (1..=300).contains(size)),
        "{sizes:?}"
    );
    assert!(sizes.len() < 100, "batches of single events: {sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_and_keys_end_run_with_an_error_that_says_so() {
    let emulator = Emulator::builder()
        .with_hub(HUB, 1)
        .with_sas_key("listen", "right-key")
        .start()
        .await
        .unwrap();
    emulator.create_container("checkpoints").unwrap();
    let hubs = emulator.event_hubs_connection_string();
    let storage = emulator.storage_connection_string();
    let run = async |hubs: &str, hub: &str, storage: &str, container: &str| {
        let transport = AmqpTransport::from_connection_string(hubs, hub).unwrap();
        let store = BlobCheckpointStore::from_connection_string(storage, container).unwrap();
        let processor = EventProcessor::builder(transport, "$Default", store)
            .build(noting(&Log::default()))
            .unwrap();
        let run = processor.run(CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(20), run)
            .await
            .unwrap()
            .unwrap_err()
    };
    use eventhubs_processor::error::{StoreErrorKind as S, TransportErrorKind as T};
    let wrong_key = hubs.replace("right-key", "wrong-key");
    assert_ne!(wrong_key, hubs);
    let error = run(&wrong_key, HUB, &storage, "checkpoints").await;
    assert!(
        matches!(&error, ProcessorError::EventHub(e) if e.kind() == T::Unauthorized),
        "{error:?}"
    );
    assert!(!format!("{error:?}").contains("wrong-key"));
    let error = run(&hubs, "nope", &storage, "checkpoints").await;
    assert!(
        matches!(&error, ProcessorError::EventHub(e) if e.kind() == T::NotFound),
        "{error:?}"
    );
    let error = run(&hubs, HUB, &storage, "nope").await;
    assert!(
        matches!(&error, ProcessorError::CheckpointStore(e) if e.kind() == S::ContainerNotFound),
        "{error:?}"
    );
    let wrong_key = storage.replace("AccountKey=", "AccountKey=AAAA");
    let error = run(&hubs, HUB, &wrong_key, "checkpoints").await;
    assert!(
        matches!(&error, ProcessorError::CheckpointStore(e) if e.kind() == S::Unauthorized),
        "{error:?}"
    );
}
