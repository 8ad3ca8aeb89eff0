//! The register that only grows.

use std::time::{Duration, SystemTime};

use super::support::{FlakyStore, Recorder, Seen, builder, delivered, scope, stored};
use crate::checkpoint::{CheckpointStore as _, WriteCondition, WriteOutcome};
use crate::error::{CheckpointError, StoreErrorKind};
use crate::model::{Checkpoint, EventParts, ReceivedEvent};
use crate::processor::{CheckpointRegression, CloseReason, PartitionContext};
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
async fn a_checkpoint_that_was_moved_back_is_written_again_and_counted() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (handle, context) = ten_delivered(&hub, &store).await;
    context.update_checkpoint(&event(4)).await.unwrap();
    foreign_write(&store, 1).await;
    context.update_checkpoint(&event(4)).await.unwrap();
    assert_eq!(handle.checkpoint_regressions_repaired(), 0, "not seen yet");
    context.update_checkpoint(&event(6)).await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(6));
    assert_eq!(handle.checkpoint_regressions_repaired(), 1);
    foreign_write(&store, 8).await;
    context.update_checkpoint(&event(9)).await.unwrap();
    assert_eq!(
        handle.checkpoint_regressions_repaired(),
        1,
        "8 is no step back"
    );
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_term_that_adopts_a_rewound_checkpoint_writes_no_other() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..10 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_regression(CheckpointRegression::Adopt)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &(0..10).collect::<Vec<_>>()).await;
    let context = recorder.contexts().pop().unwrap();
    context.update_checkpoint(&event(5)).await.unwrap();
    foreign_write(&store, 2).await;
    // At once: the term has not had its turn to end.
    let rewound = context.update_checkpoint(&event(6)).await.unwrap_err();
    let expected = CheckpointError::MovedBack { from: 5, to: 2 };
    assert_eq!(rewound.to_string(), expected.to_string());
    assert!(context.update_checkpoint(&event(7)).await.is_err());
    assert_eq!(stored(&store, "0").await, Some(2), "the rewind was undone");
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_foreign_checkpoint_ahead_of_ours_is_a_reason_to_look_whose_the_partition_is() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..10 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_partition_ownership_expiration(Duration::from_secs(3600))
        .with_load_balancing_interval(Duration::from_secs(600))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &(0..10).collect::<Vec<_>>()).await;
    let context = recorder.contexts().pop().unwrap();
    // What follows a claim soon is over.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let listing = store.inner.list_ownership(&scope()).await.unwrap();
    let etag = listing.ownerships[0].etag.clone();
    let (condition, other) = (WriteCondition::Matches(etag), "other".into());
    store
        .inner
        .claim_ownership(&scope(), &"0".into(), Some(&other), &condition)
        .await
        .unwrap();
    let listings = store.listings();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.listings(), listings, "nobody looks yet");
    foreign_write(&store, 9).await;
    context.update_checkpoint(&event(5)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = Seen::Closed("0".into(), CloseReason::OwnershipLost);
    assert!(recorder.seen().contains(&lost), "{:?}", recorder.seen());
    handle.shutdown().await.unwrap();
}

/// What becomes of the request of an older owner that arrives after the partition was taken over from it, and of the
/// checkpoint of a partition that has none.
#[tokio::test(start_paused = true)]
async fn with_strict_fencing_no_older_owner_moves_the_checkpoint() {
    for is_strict in [false, true] {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        for _ in 0..10 {
            hub.send("0", "a");
            hub.send("1", "a");
        }
        foreign_write(&store, 4).await;
        let before = store.inner.checkpoint(&scope(), &"0".into()).await.unwrap();
        let before = before.unwrap();
        store.lose_answers(usize::from(is_strict));
        let recorder = Recorder::without_checkpoints();
        let handle = builder(&hub, &store, "me")
            .with_strict_fencing(is_strict)
            .build(recorder.clone())
            .unwrap()
            .spawn();
        delivered(&recorder, "0", &[5, 6, 7, 8, 9]).await;
        let touched = store.inner.checkpoint(&scope(), &"0".into()).await.unwrap();
        let touched = touched.unwrap();
        assert_eq!(touched.checkpoint, before.checkpoint, "the position");
        assert_eq!(touched.etag != before.etag, is_strict, "the version");
        let late = Checkpoint {
            sequence_number: Some(5),
            offset: Some("500".into()),
            ..before.checkpoint.clone()
        };
        let late = store
            .inner
            .update_checkpoint(&scope(), &late, &before.condition())
            .await;
        let is_refused = matches!(late.unwrap(), WriteOutcome::Lost);
        assert_eq!(is_refused, is_strict, "the late request of an older owner");
        assert_eq!(stored(&store, "1").await, None, "a checkpoint of nothing");
        // The version that fencing left is the one to continue with.
        let context = recorder.contexts().into_iter();
        let context = context.rev().find(|c| c.partition_id().as_str() == "0");
        context.unwrap().update_checkpoint(&event(9)).await.unwrap();
        assert_eq!(stored(&store, "0").await, Some(9));
        handle.shutdown().await.unwrap();
    }
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
