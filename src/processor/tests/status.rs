//! What a processor says about itself.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::support::{Act, FlakyStore, Recorder, builder, delivered, eventually, kin_builder};
use crate::error::{LastError, StoreErrorKind, TransportErrorKind};
use crate::processor::{
    CheckpointPolicy, FailureAction, FailurePolicy, PartitionState, PartitionStatus,
    ProcessorHandle,
};
use crate::transport::fake::FakeEventHub;

fn partition(handle: &ProcessorHandle, id: &str) -> Option<PartitionStatus> {
    handle.status().partitions.remove(&id.into())
}

async fn reaches(handle: &ProcessorHandle, id: &str, state: PartitionState) {
    eventually(&format!("{state:?}"), || async {
        partition(handle, id).is_some_and(|partition| partition.state == state)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn positions_and_counts_follow_the_events() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let recorder = Recorder::without_checkpoints().acting("0", 2, Act::Fail(1));
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::retry(0).then(FailureAction::Skip))
        .with_checkpoint_policy(CheckpointPolicy::EveryEvents(
            std::num::NonZeroU64::new(5).unwrap(),
        ))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    for _ in 0..5 {
        hub.send("0", "a");
    }
    delivered(&recorder, "0", &[0, 1, 2, 3, 4]).await;
    sleep(Duration::from_secs(61)).await;
    let status = handle.status();
    assert_eq!(status.owner_id, "me".into());
    let first = &status.partitions[&"0".into()];
    assert_eq!(first.state, PartitionState::Reading);
    assert_eq!(
        (first.last_delivered, first.last_processed),
        (Some(4), Some(4))
    );
    assert_eq!(first.last_checkpointed, Some(4));
    assert!(first.checkpoint_age(status.taken_at).is_some());
    assert_eq!((first.events, first.skipped, first.failures), (5, 1, 1));
    assert_eq!((first.events_in_flight, first.running_calls), (0, 0));
    assert_eq!(first.lag_events, Some(0));
    assert_eq!(first.lag(status.taken_at), Some(Duration::ZERO));
    let error = first.last_error.as_ref().unwrap();
    assert!(error.message.contains("sequence number 2"), "{error:?}");
    // Nothing was sent here: the service was asked.
    let second = &status.partitions[&"1".into()];
    assert_eq!((second.lag_events, second.events), (Some(0), 0));
    assert_eq!(
        (second.last_delivered, second.last_checkpointed),
        (None, None)
    );

    assert_eq!(status.load_balancing.claims, 2);
    assert_eq!(
        (status.load_balancing.steals, status.load_balancing.losses),
        (0, 0)
    );
    assert!(status.load_balancing.cycles >= 60);
    assert_eq!(status.storage.checkpoint, 2, "one for each start");
    assert_eq!(status.storage.update_checkpoint, 1);
    assert!(status.storage.claim_ownership >= 2 && status.storage.failed == 0);
    assert!(status.storage.list_ownership >= status.load_balancing.cycles);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_fails_shows_for_as_long_as_it_does_and_in_the_last_state() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let handle = builder(&hub, &store, "me")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    let shown = |handle: &ProcessorHandle| {
        let status = handle.status();
        let of = |error: Option<LastError>| error.map(|error| error.message);
        (
            of(status.event_hub_credential_error),
            of(status.store_credential_error),
        )
    };
    let error = |text: &str| Some(LastError::new(text, SystemTime::UNIX_EPOCH));
    let text = |text: &str| Some(text.to_owned());
    for (of_hub, of_store) in [(None, None), (Some("a"), None), (None, Some("b"))] {
        hub.set_credential_error(of_hub.and_then(error));
        store.set_credential_error(of_store.and_then(error));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(
            shown(&handle),
            (of_hub.and_then(text), of_store.and_then(text))
        );
    }
    let watch = handle.status_watch();
    handle.shutdown().await.unwrap();
    assert!(watch.status().store_credential_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn lag_counts_from_what_is_done_not_from_what_is_handed_out() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new().acting("0", 3, Act::Hang);
    for _ in 0..10 {
        hub.send("0", "a");
    }
    let handle = builder(&hub, &store, "me")
        .with_shutdown_timeout(Duration::from_secs(1))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1, 2, 3]).await;
    sleep(Duration::from_secs(61)).await;
    let status = handle.status();
    let partition = &status.partitions[&"0".into()];
    assert_eq!(
        (partition.last_delivered, partition.last_processed),
        (Some(3), Some(2))
    );
    assert_eq!(partition.lag_events, Some(7));
    let enqueued = partition.last_processed_enqueued_time.unwrap();
    let now = enqueued + Duration::from_secs(42);
    assert_eq!(partition.lag(now), Some(Duration::from_secs(42)));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn states_say_what_a_partition_waits_for() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new().acting("0", 1, Act::Fail(1));
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::retry(0).then(FailureAction::StopPartition))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    reaches(&handle, "0", PartitionState::Reading).await;
    hub.fail_next_open(TransportErrorKind::ServerBusy);
    hub.disconnect("0", TransportErrorKind::LinkDetached);
    reaches(&handle, "0", PartitionState::Reconnecting).await;
    reaches(&handle, "0", PartitionState::Reading).await;
    handle.pause(&"0".into());
    reaches(&handle, "0", PartitionState::Paused).await;
    handle.resume(&"0".into());
    reaches(&handle, "0", PartitionState::Reading).await;
    hub.send("0", "a");
    hub.send("0", "b");
    reaches(&handle, "0", PartitionState::Stopped).await;
    assert_eq!(partition(&handle, "0").unwrap().restarts, 1);
    handle.resume(&"0".into());
    reaches(&handle, "0", PartitionState::Reading).await;
    handle.pause(&"0".into());
    reaches(&handle, "0", PartitionState::Paused).await;
    handle.resume(&"0".into());
    // An outsider takes the partition without owning it.
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    reaches(&handle, "0", PartitionState::HeldOff).await;
    reaches(&handle, "0", PartitionState::Reading).await;
    assert_eq!(handle.status().load_balancing.losses, 1);

    store.fail(Some(StoreErrorKind::Unavailable));
    eventually("a cycle fails", || async {
        let status = handle.status();
        status.load_balancing.failed_cycles > 0 && status.storage.failed > 0
    })
    .await;
    assert!(partition(&handle, "0").is_some(), "no view, no loss");
    store.fail(None);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn steals_and_losses_are_told_apart() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let first = kin_builder(&hub, &store, "first")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("the first has all", || async {
        first.status().partitions.len() == 4
    })
    .await;
    let second = kin_builder(&hub, &store, "second")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("they share", || async {
        first.status().partitions.len() == 2 && second.status().partitions.len() == 2
    })
    .await;
    let (a, b) = (
        first.status().load_balancing,
        second.status().load_balancing,
    );
    assert_eq!((a.claims, a.steals, a.losses), (4, 0, 2));
    assert_eq!((b.claims, b.steals, b.losses), (0, 2, 0));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_of_changes_at_its_own_pace_and_of_the_end() {
    let (hub, store, recorder) = (FakeEventHub::new(1), FlakyStore::new(), Recorder::new());
    let processor = builder(&hub, &store, "me").build(recorder.clone()).unwrap();
    let mut watch = processor.status_watch();
    let before = watch.changed().await.unwrap();
    assert!(before.partitions.is_empty() && !before.has_ended);
    let stop = CancellationToken::new();
    let running = tokio::spawn(processor.run(stop.clone()));
    let begun = Instant::now();
    let mut told = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        hub.send("0", "a");
        tokio::time::timeout(Duration::from_millis(20), async {
            while watch.changed().await.is_some() {
                told += 1;
            }
        })
        .await
        .unwrap_err();
    }
    assert!((10..=21).contains(&told), "{told}");
    stop.cancel();
    running.await.unwrap().unwrap();
    let mut last = watch.changed().await.unwrap();
    while let Some(next) = watch.changed().await {
        last = next;
    }
    assert!(last.has_ended && last.partitions.is_empty());
    assert_eq!(watch.status().storage, last.storage);
}

#[tokio::test]
async fn a_watch_on_a_processor_that_never_ran_ends_with_it() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let processor = builder(&hub, &store, "me").build(Recorder::new()).unwrap();
    let mut watch = processor.status_watch();
    drop(processor);
    assert!(watch.changed().await.unwrap().has_ended);
    assert!(watch.changed().await.is_none());
}
