//! The register that only grows.

use std::time::{Duration, SystemTime};

use super::support::{FlakyStore, Recorder, Seen, builder, delivered, scope, stored};
use crate::checkpoint::{CheckpointStore as _, WriteCondition};
use crate::error::{CheckpointError, StoreErrorKind};
use crate::model::{Checkpoint, EventParts, ReceivedEvent};
use crate::processor::PartitionContext;
use crate::transport::fake::FakeEventHub;

fn event(sequence_number: i64) -> ReceivedEvent {
    let offset = (sequence_number * 100).to_string();
    ReceivedEvent::new(EventParts::new(
        sequence_number,
        offset,
        SystemTime::UNIX_EPOCH,
        "x",
    ))
}

/// What a foreign SDK does: writes whatever it likes, whatever is there.
async fn foreign_write(store: &FlakyStore, sequence_number: i64) {
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some((sequence_number * 100).to_string().into()),
        sequence_number: Some(sequence_number),
        client_identifier: None,
    };
    store
        .inner
        .update_checkpoint(&scope(), &checkpoint, &WriteCondition::Unconditional)
        .await
        .unwrap();
}

/// A running processor that has delivered ten events of partition 0 and checkpointed none, and its context.
async fn ten_delivered(
    hub: &FakeEventHub,
    store: &FlakyStore,
) -> (crate::processor::ProcessorHandle, PartitionContext) {
    for _ in 0..10 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints();
    let handle = builder(hub, store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &(0..10).collect::<Vec<_>>()).await;
    let context = recorder.contexts().pop().unwrap();
    (handle, context)
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_never_goes_back_and_an_older_one_costs_no_write() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    context.update_checkpoint(&event(5)).await.unwrap();
    context.update_checkpoint(&event(3)).await.unwrap();
    context.update_checkpoint(&event(5)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(5));
    assert_eq!(store.checkpoint_writes(), 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_position_that_was_not_delivered_is_refused() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    let refused = context.update_checkpoint(&event(10)).await.unwrap_err();
    assert!(matches!(
        refused,
        CheckpointError::NotDelivered {
            sequence_number: 10
        }
    ));
    assert_eq!(stored(&store, "0").await, None);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_context_kept_after_its_term_is_refused() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    handle.shutdown().await.unwrap();
    let refused = context.update_checkpoint(&event(9)).await.unwrap_err();
    assert!(refused.is_ownership_lost());
    assert_eq!(stored(&store, "0").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_newer_foreign_checkpoint_is_kept_and_an_older_one_is_overtaken() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    context.update_checkpoint(&event(4)).await.unwrap();
    foreign_write(&store, 8).await;
    context.update_checkpoint(&event(6)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(8), "moved back");
    foreign_write(&store, 1).await;
    context.update_checkpoint(&event(9)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(9));
    handle.shutdown().await.unwrap();
}

/// The counter-example to a conditional write that forgets the number it read: write 5, lose to a foreign 8, and then
/// write 6 over it with the fresh version.
#[tokio::test(start_paused = true)]
async fn losing_a_race_to_a_higher_value_twice_does_not_regress() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    foreign_write(&store, 8).await;
    context.update_checkpoint(&event(5)).await.unwrap();
    context.update_checkpoint(&event(6)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(8));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_found_to_have_landed() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    store.lose_answers(1);
    context.update_checkpoint(&event(5)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(5));
    assert_eq!(store.checkpoint_writes(), 1, "written once, read back");
    context.update_checkpoint(&event(6)).await.unwrap();
    assert_eq!(
        store.checkpoint_writes(),
        2,
        "the version read back is the one to continue with"
    );
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_fails_is_the_callers_to_know_and_the_next_makes_good() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    let error = context.update_checkpoint(&event(5)).await.unwrap_err();
    assert!(
        error.is_transient() && matches!(error, CheckpointError::Store(_)),
        "{error:?}"
    );
    store.fail(None);
    context.update_checkpoint(&event(6)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(6));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_checkpoint_holds_its_partition_back_and_no_other() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    hub.send("0", "a");
    hub.send("1", "b");
    store.spoil_checkpoint(Some("0"));
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "1", &[0]).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(
        recorder.events("0").is_empty(),
        "started without knowing where"
    );
    let error = Seen::Error(
        Some("0".into()),
        "the position to start from is invalid".into(),
    );
    assert!(recorder.seen().contains(&error));
    store.spoil_checkpoint(None);
    delivered(&recorder, "0", &[0]).await;
    handle.shutdown().await.unwrap();
}
