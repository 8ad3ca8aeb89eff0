//! Dead letters in the container of the checkpoints, which the listings of others do not see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventhubs_processor::transport::fake::FakeEventHub;
use eventhubs_processor::{
    BlobDeadLetters, CheckpointPolicy, EventPosition, EventProcessor, FailureAction, FailurePolicy,
    PartitionContext, ReceivedEvent, handler_fn_with,
};
use serde_json::Value;

use crate::setup::{Tools, within};

const NAMES: [&str; 3] = ["fake.servicebus.windows.net", "hub", "workers"];

/// A whole processor of ours on that container: its records and its letters lie side by side.
#[tokio::test(flavor = "multi_thread")]
async fn python_and_javascript_list_records_and_no_letters() {
    let Some(tools) = Tools::from_env("python_and_javascript_list_records_and_no_letters") else {
        return;
    };
    within(Duration::from_secs(300), async {
        listings(&tools).await;
    })
    .await;
}

async fn listings(tools: &Tools) {
    let container = tools.create_container().await;
    let hub = FakeEventHub::new(2);
    for _ in 0..5 {
        hub.send("0", "bad");
        hub.send("1", "bad");
    }
    hub.send("0", "good");
    hub.send("1", "good");
    let done = Arc::<AtomicUsize>::default();
    let handler = handler_fn_with(Arc::clone(&done), async |done, _context, event| {
        let (_, event): (PartitionContext, ReceivedEvent) = (_context, event);
        let done: Arc<AtomicUsize> = done;
        if event.body() == b"bad" {
            return Err("cannot".into());
        }
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let letters = BlobDeadLetters::from_connection_string(tools.storage(), &container).unwrap();
    let handle = EventProcessor::builder(hub, NAMES[2], tools.store(&container))
        .with_default_starting_position(EventPosition::Earliest)
        .with_checkpoint_policy(CheckpointPolicy::EveryEvents(1.try_into().unwrap()))
        .with_failure_policy(FailurePolicy::default().then(FailureAction::DeadLetter))
        .with_dead_letter_sink(letters)
        .build(handler)
        .unwrap()
        .spawn();
    while done.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    handle.shutdown().await.unwrap();

    let python = async |command: &str| {
        let arguments = [&[command][..], &NAMES].concat();
        tools.store_py(&container, &arguments).await
    };
    let ownership = python("list-ownership").await;
    records(&ownership["ownership"], "partition_id");
    let checkpoints = python("list-checkpoints").await;
    records(&checkpoints["checkpoints"], "partition_id");

    let listed = tools.store_js(&container, &NAMES).await;
    records(&listed["ownership"], "partitionId");
    records(&listed["checkpoints"], "partitionId");
}

/// One record of each partition and nothing else.
fn records(listed: &Value, id: &str) {
    let mut ids: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record[id].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["0", "1"], "{listed}");
}
