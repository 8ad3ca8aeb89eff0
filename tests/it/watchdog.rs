//! Deliveries that stop without an error, end to end and in real time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, CloseReason, EventHandler, EventPosition, EventProcessor,
    HandlerResult, PartitionContext, PartitionState, ProcessingError, ReceivedEvent, StallReason,
    StallRemedy,
};

const HUB: &str = "hub";

#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    events: BTreeMap<String, Vec<i64>>,
    stalls: Vec<(String, StallReason, StallRemedy)>,
    others: Vec<String>,
    closed: Vec<(String, CloseReason)>,
}

impl EventHandler for Noting {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let partition = context.partition_id().to_string();
        let number = event.sequence_number();
        self.0
            .lock()
            .unwrap()
            .events
            .entry(partition)
            .or_default()
            .push(number);
        context.update_checkpoint(&event).await?;
        Ok(())
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        let partition = context.partition_id().to_string();
        self.0.lock().unwrap().closed.push((partition, reason));
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        let partition = context.map_or_else(String::new, |c| c.partition_id().to_string());
        let mut noted = self.0.lock().unwrap();
        match error {
            ProcessingError::Stalled { reason, remedy, .. } => {
                noted.stalls.push((partition, *reason, *remedy));
            }
            error => noted.others.push(format!("{partition}: {error}")),
        }
    }
}

impl Noting {
    async fn until(&self, what: &str, holds: impl Fn(&Noted) -> bool) {
        for _ in 0..1500 {
            if holds(&self.0.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within 30 s: {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_swallows_events_is_found_and_worked_on_step_by_step() {
    let emulator = Emulator::builder().with_hub(HUB, 2).start().await.unwrap();
    emulator.create_container("checkpoints").unwrap();
    let transport =
        AmqpTransport::from_connection_string(&emulator.event_hubs_connection_string(), HUB);
    let store = BlobCheckpointStore::from_connection_string(
        &emulator.storage_connection_string(),
        "checkpoints",
    );
    let noting = Noting::default();
    let handle = EventProcessor::builder(transport.unwrap(), "$Default", store.unwrap())
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(5))
        .with_default_starting_position(EventPosition::Earliest)
        .with_retry_delay(Duration::from_millis(20), Duration::from_millis(50))
        .with_stall_timeout(Some(Duration::from_secs(1)))
        .build(noting.clone())
        .unwrap()
        .spawn();
    let send = |partition: &str| {
        emulator
            .send(HUB, Some(partition), Event::new("a"))
            .unwrap()
    };
    let state = |partition: &str| {
        let status = handle.status();
        status
            .partitions
            .get(&partition.into())
            .map(|partition| partition.state)
    };
    send("0");
    send("1");
    noting
        .until("both deliver", |noted| noted.events.len() == 2)
        .await;
    assert_eq!(emulator.status().connections, 1);

    emulator
        .faults()
        .on_partition(HUB, "0")
        .withhold_deliveries(true);
    send("0");
    let treated = |remedy| {
        move |noted: &Noted| {
            noted
                .stalls
                .last()
                .is_some_and(|(_, _, last)| *last == remedy)
        }
    };
    noting
        .until("the receiver is opened again", treated(StallRemedy::Reopen))
        .await;
    assert_eq!(state("0"), Some(PartitionState::Stalled));
    noting
        .until("the connection is changed", treated(StallRemedy::Reconnect))
        .await;
    noting
        .until("the partition is given back", treated(StallRemedy::Release))
        .await;
    // The other partition is still on the first connection.
    assert_eq!(emulator.status().connections, 2);
    send("1");
    noting
        .until("the other goes on", |noted| noted.events["1"] == [0, 1])
        .await;

    emulator.faults().clear();
    noting
        .until("it is read again", |noted| noted.events["0"] == [0, 1])
        .await;
    let status = handle.status();
    handle.shutdown().await.unwrap();

    let noted = noting.0.lock().unwrap();
    let reopened = ("0".to_owned(), StallReason::Stopped, StallRemedy::Reopen);
    assert_eq!(noted.stalls[0], reopened);
    assert_eq!(noted.stalls[1].1, StallReason::NeverStarted);
    assert_eq!(noted.closed[0], ("0".to_owned(), CloseReason::Stalled));
    assert_eq!(noted.others, [""; 0]);
    assert_eq!(status.partitions[&"1".into()].stalls, 0);
    assert!(status.partitions[&"0".into()].stalls >= 1);
}
