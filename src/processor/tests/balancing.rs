//! Several processors in one group.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::log::Log;
use super::support::{
    FlakyStore, Recorder, Seen, builder, delivered, eventually, kin_builder, owners, scope,
};
use crate::checkpoint::{CheckpointStore as _, WriteCondition, WriteOutcome};
use crate::error::{ProcessorError, StoreErrorKind};
use crate::model::{EventPosition, OwnerId};
use crate::processor::CloseReason;
use crate::transport::fake::FakeEventHub;
use crate::transport::{ReceiverOptions, Transport as _};

/// Partitions of an owner, as the store says.
async fn load(store: &FlakyStore, owner: &str) -> usize {
    let owner = OwnerId::from(owner);
    owners(store)
        .await
        .into_values()
        .filter(|held| held.as_ref() == Some(&owner))
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_second_processor_gets_half_and_no_event_is_lost() {
    let (hub, store) = (FakeEventHub::new(8), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let first = builder(&hub, &store, "a").build(a.clone()).unwrap().spawn();
    eventually("a owns all", || async { load(&store, "a").await == 8 }).await;
    let second = builder(&hub, &store, "b").build(b.clone()).unwrap().spawn();
    for _ in 0..50 {
        for partition in 0..8 {
            hub.send(partition.to_string(), "x");
        }
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((load(&store, "a").await, load(&store, "b").await), (4, 4));
    for partition in 0..8 {
        let partition = partition.to_string();
        let all: BTreeSet<_> = a
            .events(&partition)
            .into_iter()
            .chain(b.events(&partition))
            .collect();
        assert_eq!(all, (0..50).collect(), "partition {partition}");
    }
    let lost = a
        .seen()
        .into_iter()
        .filter(|s| matches!(s, Seen::Closed(_, CloseReason::OwnershipLost)));
    assert_eq!(lost.count(), 4, "each partition moved once");
    let errors = a
        .seen()
        .into_iter()
        .filter(|seen| matches!(seen, Seen::Error(..)));
    assert_eq!(errors.count(), 0, "giving up a share is no error");
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crashed_processor_is_replaced_after_the_expiration() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let first = builder(&hub, &store, "a").build(a.clone()).unwrap().spawn();
    let second = builder(&hub, &store, "b").build(b.clone()).unwrap().spawn();
    eventually("balanced", || async {
        load(&store, "a").await == 2 && load(&store, "b").await == 2
    })
    .await;
    drop(first);
    for partition in 0..4 {
        hub.send(partition.to_string(), "x");
    }
    let crashed = Instant::now();
    for partition in 0..4 {
        delivered(&b, &partition.to_string(), &[0]).await;
    }
    let takeover = crashed.elapsed();
    assert!(
        takeover >= Duration::from_secs(3),
        "taken before it expired: {takeover:?}"
    );
    assert!(
        takeover <= Duration::from_secs(8),
        "expiration and two intervals: {takeover:?}"
    );
    assert_eq!(
        hub.receivers("0"),
        1,
        "the crashed processor's receivers are gone"
    );
    second.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stopped_processor_is_replaced_within_two_intervals() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let first = builder(&hub, &store, "a").build(a.clone()).unwrap().spawn();
    let second = builder(&hub, &store, "b").build(b.clone()).unwrap().spawn();
    eventually("balanced", || async { load(&store, "b").await == 2 }).await;
    first.shutdown().await.unwrap();
    let stopped = Instant::now();
    eventually("b owns all", || async { load(&store, "b").await == 4 }).await;
    assert!(
        stopped.elapsed() <= Duration::from_secs(2),
        "{:?}",
        stopped.elapsed()
    );
    second.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_stops_neither_reading_nor_the_processor() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    for number in 1..60 {
        hub.send("0", "a");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(recorder.events("0").last(), Some(&number));
    }
    let told = recorder
        .seen()
        .into_iter()
        .any(|s| s == Seen::Error(None, "load balancing".into()));
    assert!(told, "on_error hears of it");
    store.fail(None);
    hub.send("1", "b");
    delivered(&recorder, "1", &[0]).await;
    assert_eq!(hub.opened_at("0").len(), 1, "the outage moved nothing");
    handle.shutdown().await.unwrap();
}

/// What it saw of the outage before its first cycle counts, too.
#[tokio::test(start_paused = true)]
async fn who_starts_during_an_outage_blames_nobody_for_it() {
    let (hub, store) = (FakeEventHub::new(3), FlakyStore::new());
    let names = ["rs1-5000-x", "rs1-5000-y", "rs1-5000-z"];
    for (partition, name) in names.into_iter().enumerate() {
        store.put(&partition.to_string().into(), &name.into()).await;
    }
    store.fail(Some(StoreErrorKind::Unavailable));
    let handle = kin_builder(&hub, &store, "newcomer")
        .with_retry_delay(Duration::from_millis(100), Duration::from_millis(100))
        .build(Recorder::new())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(60)).await;
    // Two are back already, the third is not.
    for (partition, name) in names.into_iter().enumerate().skip(1) {
        store.put(&partition.to_string().into(), &name.into()).await;
    }
    store.fail(None);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(load(&store, names[0]).await, 1, "it has time to come back");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(load(&store, names[0]).await, 0, "but not for ever");
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_work_ends_run_at_the_start() {
    for (kind, is_fatal) in [
        (StoreErrorKind::ContainerNotFound, true),
        (StoreErrorKind::Rejected, true),
        (StoreErrorKind::Unauthorized, true),
        (StoreErrorKind::Unavailable, false),
        (StoreErrorKind::Busy, false),
    ] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        store.fail(Some(kind));
        let handle = builder(&hub, &store, "me")
            .build(Recorder::new())
            .unwrap()
            .spawn();
        sleep(Duration::from_secs(30)).await;
        assert_eq!(handle.is_finished(), is_fatal, "{kind:?}");
        if is_fatal {
            let error = handle.join().await.unwrap_err();
            assert!(matches!(error, ProcessorError::CheckpointStore(e) if e.kind() == kind));
        } else {
            handle.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn new_partitions_are_picked_up_while_running() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("started", || async { hub.receivers("0") == 1 }).await;
    hub.send("1", "a");
    sleep(Duration::from_secs(65)).await;
    assert_eq!(recorder.events("1"), [0]);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_partition_stops_even_if_its_receiver_was_never_displaced() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("started", || async { hub.receivers("0") == 1 }).await;
    // A foreign processor writes itself in without attaching a receiver yet.
    let listing = store.list_ownership(&scope()).await.unwrap();
    let condition = WriteCondition::Matches(listing.ownerships[0].etag.clone());
    let foreign = OwnerId::from("foreign");
    let outcome = store
        .claim_ownership(&scope(), &"0".into(), Some(&foreign), &condition)
        .await;
    assert!(matches!(outcome, Ok(WriteOutcome::Written(_))));
    eventually("closed", || async {
        recorder
            .seen()
            .contains(&Seen::Closed("0".into(), CloseReason::OwnershipLost))
    })
    .await;
    assert_eq!(hub.receivers("0"), 0);
    handle.shutdown().await.unwrap();
}

/// An outsider reads at a higher level, so every attach is refused, and a foreign processor takes back at once what we
/// claim. Each claim is a new reason to attach, but not to ask more often than the hold-off says.
#[tokio::test(start_paused = true)]
async fn who_is_refused_asks_once_an_interval_however_often_it_is_robbed_meanwhile() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let foreign = OwnerId::from("foreign");
    let mut outsiders = Vec::new();
    for partition in ["0", "1"] {
        store.put(&partition.into(), &foreign).await;
        let mut options =
            ReceiverOptions::new("$Default", partition.into(), EventPosition::Earliest);
        options.owner_level = Some(5);
        outsiders.push(hub.open_receiver(options).await.unwrap());
    }
    let recorder = Recorder::new();
    let interval = Duration::from_secs(10);
    let handle = builder(&hub, &store, "me")
        .with_load_balancing_interval(interval)
        .with_partition_ownership_expiration(interval * 12)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    let begun = Instant::now();
    let mut robberies = 0;
    while begun.elapsed() < interval * 12 {
        sleep(Duration::from_millis(100)).await;
        for (partition, owner) in owners(&store).await {
            if owner.as_ref() == Some(handle.owner_id()) {
                store.put(&partition, &foreign).await;
                robberies += 1;
            }
        }
    }
    assert!(robberies > 60, "{robberies}");
    for partition in ["0", "1"] {
        let begins = Seen::Initialized(partition.into());
        let tries = recorder
            .seen()
            .iter()
            .filter(|seen| **seen == begins)
            .count();
        assert!(
            tries <= 13,
            "partition {partition} was tried {tries} times in two minutes"
        );
    }

    // Once the outsider has gone, and nobody robs us, nothing more is waited for than the rest of the hold-off.
    drop(outsiders);
    hub.send("0", "x");
    hub.send("1", "x");
    sleep(interval * 3 / 2).await;
    let read = recorder.events("0").len() + recorder.events("1").len();
    assert_eq!(read, 1, "the other one is the foreign processor's");
    handle.shutdown().await.unwrap();
}

/// With 20 s somebody who renews every 30 s is robbed again and again.
#[tokio::test(start_paused = true)]
async fn a_short_expiration_is_warned_of_once_and_only_next_to_other_sdks() {
    for (owner, warnings) in [("foreign", 1), ("rs1-60000-kin", 0)] {
        let (log, _guard) = Log::listen();
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        store.put(&"0".into(), &owner.into()).await;
        let handle = kin_builder(&hub, &store, "me")
            .build(Recorder::new())
            .unwrap()
            .spawn();
        sleep(Duration::from_secs(15)).await;
        let is_warning = |line: &&String| line.contains("less than 90 s");
        assert_eq!(log.lines().iter().filter(is_warning).count(), warnings);
        handle.shutdown().await.unwrap();
    }
}
