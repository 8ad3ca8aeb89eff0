//! A stop among others of our own kind: no gap, no repetition; and what happens when it does not go well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::support::{
    Act, FlakyStore, Recorder, Seen, delivered, eventually, kin_builder, owners, scope, stored,
};
use crate::checkpoint::{CheckpointStore as _, WriteCondition, WriteOutcome};
use crate::error::StoreErrorKind;
use crate::model::{OwnerId, PartitionId};
use crate::processor::{CloseReason, ProcessorHandle, StopReport};
use crate::transport::fake::FakeEventHub;

/// How many partitions a processor owns, as the store says.
async fn load(store: &FlakyStore, handle: &ProcessorHandle) -> usize {
    let owner = handle.owner_id().clone();
    owners(store)
        .await
        .into_values()
        .filter(|held| held.as_ref() == Some(&owner))
        .count()
}

/// Two processors that share the hub evenly.
async fn pair(
    hub: &FakeEventHub,
    store: &FlakyStore,
    recorders: [&Recorder; 2],
    each: usize,
) -> (ProcessorHandle, ProcessorHandle) {
    let a = kin_builder(hub, store, "a")
        .build(recorders[0].clone())
        .unwrap()
        .spawn();
    let b = kin_builder(hub, store, "b")
        .build(recorders[1].clone())
        .unwrap()
        .spawn();
    eventually("balanced", || async {
        load(store, &a).await == each && load(store, &b).await == each
    })
    .await;
    // Settled, so that nobody looks more often than it must.
    sleep(Duration::from_secs(10)).await;
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_under_load_repeats_nothing_and_leaves_no_gap() {
    const PARTITIONS: usize = 8;
    let (hub, store) = (FakeEventHub::new(PARTITIONS), FlakyStore::new());
    let recorder = Recorder::new().taking(Duration::from_millis(30));
    let mut fleet: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let builder = kin_builder(&hub, &store, name);
            builder.build(recorder.clone()).unwrap().spawn()
        })
        .collect();
    sleep(Duration::from_secs(20)).await;
    let sending = {
        let hub = hub.clone();
        tokio::spawn(async move {
            for _ in 0..2000 {
                for partition in 0..PARTITIONS {
                    hub.send(partition.to_string(), "x");
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
    };
    for name in ["d", "e", "f"] {
        sleep(Duration::from_secs(5)).await;
        let report = fleet.remove(0).shutdown().await.unwrap();
        assert!(report.cut_partitions.is_empty());
        sleep(Duration::from_secs(10)).await;
        let builder = kin_builder(&hub, &store, name);
        fleet.push(builder.build(recorder.clone()).unwrap().spawn());
        sleep(Duration::from_secs(5)).await;
    }
    sending.await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let all: Vec<_> = (0..2000).collect();
    for partition in 0..PARTITIONS {
        let seen = recorder.events(&partition.to_string());
        assert_eq!(seen, all, "partition {partition}");
    }
    assert!(
        recorder.longest_pause() < Duration::from_secs(1),
        "{:?}",
        recorder.longest_pause()
    );
}

#[tokio::test(start_paused = true)]
async fn the_heir_waits_for_a_handler_that_takes_its_time() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
    let (leaver, heir) = pair(&hub, &store, [&a, &b], 1).await;
    let mine = owners(&store).await;
    let (partition, _) = mine
        .iter()
        .find(|(_, owner)| owner.as_ref() == Some(leaver.owner_id()))
        .unwrap();
    hub.send(partition.as_str(), "x");
    sleep(Duration::from_secs(1)).await;
    let stopping = tokio::spawn(leaver.shutdown());
    eventually("claimed", || async { load(&store, &heir).await == 2 }).await;
    sleep(Duration::from_secs(3)).await;
    assert!(
        b.events(partition.as_str()).is_empty(),
        "read under the handler"
    );
    assert_eq!(hub.opened_at(partition.as_str()).len(), 1);
    gate.add_permits(10);
    stopping.await.unwrap().unwrap();
    hub.send(partition.as_str(), "y");
    delivered(&b, partition.as_str(), &[1]).await;
    assert_eq!(a.events(partition.as_str()), [0]);
    let closed = Seen::Closed(partition.to_string(), CloseReason::Shutdown);
    assert!(a.seen().contains(&closed));
    heir.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_heir_whose_predecessor_dies_begins_after_the_suspect_time() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let (leaver, heir) = pair(&hub, &store, [&a, &b], 1).await;
    let mut stopping = Box::pin(leaver.shutdown());
    // Marked, and then no more.
    let _ = tokio::time::timeout(Duration::from_millis(100), &mut stopping).await;
    drop(stopping);
    let died = Instant::now();
    for partition in ["0", "1"] {
        hub.send(partition, "x");
        delivered(&b, partition, &[0]).await;
    }
    let bound = Duration::from_secs(2 + 5 + 1);
    assert!(died.elapsed() <= bound, "{:?}", died.elapsed());
    heir.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_stops_together_does_not_wait_for_itself() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let (first, second) = pair(&hub, &store, [&a, &b], 2).await;
    let begun = Instant::now();
    let (one, two) = tokio::join!(first.shutdown(), second.shutdown());
    one.unwrap();
    two.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        owners(&store)
            .await
            .into_values()
            .all(|owner| owner.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn without_linger_or_without_kin_a_stop_gives_back_at_once() {
    for (with_kin, linger) in [(false, 15), (true, 0)] {
        let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
        let recorder = Recorder::new();
        let handle = kin_builder(&hub, &store, "me")
            .with_linger(Duration::from_secs(linger))
            .build(recorder.clone())
            .unwrap()
            .spawn();
        let other = with_kin.then(|| {
            let builder = kin_builder(&hub, &store, "other");
            builder.build(recorder.clone()).unwrap().spawn()
        });
        sleep(Duration::from_secs(20)).await;
        let begun = Instant::now();
        handle.shutdown().await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_millis(100),
            "{:?}",
            begun.elapsed()
        );
        drop(other);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_the_store_down_ends_in_time_and_cuts_nothing() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let (first, second) = pair(&hub, &store, [&a, &b], 2).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    let begun = Instant::now();
    let report = first.shutdown().await.unwrap();
    assert!(report.cut_partitions.is_empty());
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_while_handing_over_is_cut_at_the_deadline_and_the_heir_goes_on() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let (a, b) = (
        Recorder::new()
            .acting("0", 0, Act::Hang)
            .acting("1", 0, Act::Hang),
        Recorder::new(),
    );
    let (leaver, heir) = pair(&hub, &store, [&a, &b], 1).await;
    for partition in ["0", "1"] {
        hub.send(partition, "x");
    }
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let report = leaver.shutdown().await.unwrap();
    assert_eq!(report.cut_partitions.len(), 1);
    assert!(
        begun.elapsed() <= Duration::from_secs(31),
        "{:?}",
        begun.elapsed()
    );
    for partition in ["0", "1"] {
        delivered(&b, partition, &[0]).await;
    }
    heir.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_heir_hands_back_to_a_leaver_whose_handler_hangs_is_free_in_the_end() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let a = Recorder::new()
        .acting("0", 0, Act::Hang)
        .acting("1", 0, Act::Hang);
    let (leaver, heir) = pair(&hub, &store, [&a, &Recorder::new()], 1).await;
    for partition in ["0", "1"] {
        hub.send(partition, "x");
    }
    sleep(Duration::from_secs(1)).await;
    let leaving = tokio::spawn(leaver.shutdown());
    sleep(Duration::from_secs(4)).await;
    assert_eq!(load(&store, &heir).await, 2, "it has claimed the other");
    heir.shutdown().await.unwrap();
    let report = leaving.await.unwrap().unwrap();
    assert_eq!(report.cut_partitions.len(), 1);
    let left = owners(&store).await;
    assert!(left.values().all(Option::is_none), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn what_an_heir_hands_back_to_a_leaver_is_free_as_soon_as_its_handler_has_finished() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let a = Recorder::new().gated(&gate);
    let (leaver, heir) = pair(&hub, &store, [&a, &Recorder::new()], 2).await;
    for partition in 0..4 {
        hub.send(partition.to_string(), "x");
    }
    sleep(Duration::from_secs(1)).await;
    let leaving = tokio::spawn(leaver.shutdown());
    eventually("claimed", || async { load(&store, &heir).await == 4 }).await;
    // So that the leaver has seen it, and lets its handlers finish.
    sleep(Duration::from_secs(1)).await;
    heir.shutdown().await.unwrap();
    // One of the two handlers returns.
    gate.add_permits(1);
    eventually("given back", || async {
        owners(&store)
            .await
            .values()
            .filter(|o| o.is_none())
            .count()
            == 3
    })
    .await;
    assert!(!leaving.is_finished());
    gate.add_permits(10);
    leaving.await.unwrap().unwrap();
    assert!(owners(&store).await.into_values().all(|o| o.is_none()));
}

#[tokio::test(start_paused = true)]
async fn what_an_heir_hands_back_before_the_leaver_saw_it_is_left_to_the_next() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let (leaver, heir) = pair(&hub, &store, [&a, &b], 1).await;
    let partition: PartitionId = owners(&store)
        .await
        .into_iter()
        .find(|(_, owner)| owner.as_ref() == Some(leaver.owner_id()))
        .unwrap()
        .0;
    // Claimed and withdrawn in the leaver's full name just before it marks the record.
    let us = leaver.owner_id().clone();
    store.put(&partition, &"rs1-5000-gone".into()).await;
    store.put(&partition, &us).await;
    let stopped = Instant::now();
    leaver.shutdown().await.unwrap();
    hub.send(partition.clone(), "x");
    delivered(&b, partition.as_str(), &[0]).await;
    // The heir's next cycle, not the leaver's linger.
    assert!(
        stopped.elapsed() < Duration::from_secs(4),
        "{:?}",
        stopped.elapsed()
    );
    drop(heir);
}

/// The heir does not know that it may begin, having written its own name in between without an answer, and stops, too.
#[tokio::test(start_paused = true)]
async fn what_an_heir_hands_back_after_it_was_told_is_given_back_at_the_end() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let leaver = kin_builder(&hub, &store, "a")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("started", || async { load(&store, &leaver).await == 4 }).await;
    sleep(Duration::from_secs(10)).await;
    let partition = PartitionId::from("2");
    let heir = OwnerId::from("rs1-60000-heir");
    store.put(&partition, &heir).await;
    // The leaver has told it, and has planned again since.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(hub.receivers("2"), 0);
    let us = leaver.owner_id().clone();
    let leaving = tokio::spawn(leaver.shutdown());
    sleep(Duration::from_secs(1)).await;
    assert!(!leaving.is_finished(), "it lingers for the heir");
    store.put(&partition, &us).await;
    let report = leaving.await.unwrap().unwrap();
    assert_eq!(report, StopReport::default());
    assert!(owners(&store).await.into_values().all(|o| o.is_none()));
}

/// Who waits for a partition, loses it to a third and stops may find it in its name again: the third waits for it, and stops,
/// too. It goes back to the one that reads it.
#[tokio::test(start_paused = true)]
async fn what_is_handed_back_to_one_that_waited_itself_goes_back_to_who_reads_it() {
    let reader = OwnerId::from("rs1-60000-reader");
    let thief = OwnerId::from("rs1-60000-thief");
    for is_seen in [true, false] {
        let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
        for partition in ["1", "2", "3"] {
            store.put(&partition.into(), &reader).await;
        }
        let leaver = kin_builder(&hub, &store, "a")
            .build(Recorder::new())
            .unwrap()
            .spawn();
        let us = leaver.owner_id().clone();
        eventually("one is read, one awaited", || async {
            load(&store, &leaver).await == 2 && hub.receivers("0") == 1
        })
        .await;
        let held = owners(&store).await.into_iter();
        let mut awaited =
            held.filter(|(id, owner)| owner.as_ref() == Some(&us) && id.as_str() != "0");
        let (awaited, _) = awaited.next().unwrap();
        let leaving = if is_seen {
            store.put(&awaited, &thief).await;
            sleep(Duration::from_millis(600)).await;
            tokio::spawn(leaver.shutdown())
        } else {
            let leaving = tokio::spawn(leaver.shutdown());
            store.put(&awaited, &thief).await;
            leaving
        };
        sleep(Duration::from_millis(600)).await;
        assert!(!leaving.is_finished(), "it lingers for the others");
        store.put(&awaited, &us).await;
        leaving.await.unwrap().unwrap();
        let owners = owners(&store).await;
        assert_eq!(owners[&awaited].as_ref(), Some(&reader), "seen: {is_seen}");
        assert_eq!(owners[&PartitionId::from("0")], None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_leaver_owns_and_does_not_read_is_given_back_at_once() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let (leaver, heir) = pair(&hub, &store, [&a, &b], 2).await;
    let held = owners(&store).await;
    let mine = held
        .iter()
        .find(|(_, owner)| owner.as_ref() == Some(leaver.owner_id()));
    let (outside, _) = mine.unwrap();
    // Displaced by an outsider: held off for an interval.
    hub.disconnect(
        outside.as_str(),
        crate::error::TransportErrorKind::OwnershipLost,
    );
    sleep(Duration::from_millis(100)).await;
    let leaving = tokio::spawn(leaver.shutdown());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(owners(&store).await[outside], None);
    assert!(!leaving.is_finished(), "the other one is handed over");
    leaving.await.unwrap().unwrap();
    drop(heir);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_heir_is_not_written_over() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let (leaver, other) = pair(&hub, &store, [&a, &b], 1).await;
    let partition: PartitionId = owners(&store)
        .await
        .into_iter()
        .find(|(_, owner)| owner.as_ref() == Some(leaver.owner_id()))
        .unwrap()
        .0;
    let stopping = tokio::spawn(leaver.shutdown());
    sleep(Duration::from_millis(10)).await;
    // A foreign processor steals while we linger.
    let listing = store.list_ownership(&scope()).await.unwrap();
    let record = listing
        .ownerships
        .iter()
        .find(|record| record.partition_id == partition)
        .unwrap();
    let condition = WriteCondition::Matches(record.etag.clone());
    let foreign = OwnerId::from("foreign");
    let claimed = store
        .claim_ownership(&scope(), &partition, Some(&foreign), &condition)
        .await
        .unwrap();
    let WriteOutcome::Written(written) = claimed else {
        panic!("{claimed:?}");
    };
    stopping.await.unwrap().unwrap();
    let listing = store.list_ownership(&scope()).await.unwrap();
    let record = listing
        .ownerships
        .into_iter()
        .find(|record| record.partition_id == partition)
        .unwrap();
    assert_eq!(record.etag, written.etag);
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn a_processor_that_keeps_its_ownership_finds_it_again() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let build = |name: &str, recorder: &Recorder| {
        kin_builder(&hub, &store, name)
            .with_keep_ownership_on_stop(true)
            .build(recorder.clone())
            .unwrap()
            .spawn()
    };
    let (first, second) = (build("a", &a), build("b", &b));
    sleep(Duration::from_secs(20)).await;
    let before = owners(&store).await;
    let loads: BTreeMap<_, usize> = before.values().fold(BTreeMap::new(), |mut loads, owner| {
        *loads.entry(owner.clone()).or_default() += 1;
        loads
    });
    assert!(loads.values().all(|load| *load == 2), "{loads:?}");
    first.shutdown().await.unwrap();
    assert_eq!(owners(&store).await, before);
    sleep(Duration::from_secs(2)).await;
    let first = build("a", &a);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(owners(&store).await, before, "a restart moved something");
    for partition in 0..4 {
        hub.send(partition.to_string(), "x");
        eventually("stored", || async {
            stored(&store, &partition.to_string()).await == Some(0)
        })
        .await;
    }
    drop((first, second));
}
