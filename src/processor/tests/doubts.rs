//! Claims whose answers are lost: who made them learns from the records whether they landed, and waits all the same for
//! the owner before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::support::{
    Fate, FlakyStore, Recorder, Seen, delivered, eventually, kin_builder, owners,
};
use crate::model::{OwnerId, PartitionId};
use crate::processor::ProcessorHandle;
use crate::transport::fake::FakeEventHub;

/// One that has owned both partitions of a hub for a while, with a handler that waits for permits in each.
async fn settled(hub: &FakeEventHub, store: &FlakyStore, recorder: &Recorder) -> ProcessorHandle {
    let handle = kin_builder(hub, store, "a")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(20)).await;
    for partition in ["0", "1"] {
        hub.send(partition, "x");
    }
    sleep(Duration::from_secs(1)).await;
    handle
}

async fn held_by(store: &FlakyStore, owner: &OwnerId) -> Option<PartitionId> {
    let held = owners(store).await.into_iter();
    let mut held = held.filter(|(_, held)| held.as_ref() == Some(owner));
    held.next().map(|(id, _)| id)
}

fn twins(recorder: &Recorder) -> usize {
    let is_told = |seen: &&Seen| matches!(seen, Seen::Error(_, text) if text.contains("owner id"));
    recorder.seen().iter().filter(is_told).count()
}

#[tokio::test(start_paused = true)]
async fn a_free_partition_is_read_soon_whether_the_claim_landed_or_not() {
    for fate in [Fate::LandsUnseen, Fate::Vanishes] {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        let recorder = Recorder::new();
        store.decide(fate);
        let handle = kin_builder(&hub, &store, "a")
            .build(recorder.clone())
            .unwrap()
            .spawn();
        for partition in ["0", "1"] {
            hub.send(partition, "x");
        }
        sleep(Duration::from_secs(1)).await;
        assert!(store.is_decided());
        for partition in ["0", "1"] {
            assert_eq!(recorder.events(partition), [0], "{fate:?}");
            assert_eq!(hub.opened_at(partition).len(), 1);
        }
        assert_eq!(twins(&recorder), 0);
        handle.shutdown().await.unwrap();
        assert!(owners(&store).await.into_values().all(|o| o.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_theft_that_landed_unseen_waits_for_the_owner_like_any_other() {
    for fate in [Fate::LandsUnseen, Fate::Vanishes] {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        let gate = Arc::new(Semaphore::new(0));
        let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
        let _owner = settled(&hub, &store, &a).await;
        let way = store.beside();
        way.decide(fate);
        let thief = kin_builder(&hub, &way, "b")
            .build(b.clone())
            .unwrap()
            .spawn();
        eventually("claimed", || async {
            way.is_decided() && held_by(&store, thief.owner_id()).await.is_some()
        })
        .await;
        let partition = held_by(&store, thief.owner_id()).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let opened = || hub.opened_at(partition.clone()).len();
        assert_eq!(opened(), 1, "{fate:?}: read under the handler");
        gate.add_permits(10);
        hub.send(partition.clone(), "y");
        delivered(&b, partition.as_str(), &[1]).await;
        assert_eq!(a.events(partition.as_str()), [0], "{fate:?}");
        assert_eq!(twins(&a) + twins(&b), 0);
        thief.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_landed_unseen_is_no_word_to_begin() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
    let _owner = settled(&hub, &store, &a).await;
    let way = store.beside();
    let heir = kin_builder(&hub, &way, "b")
        .build(b.clone())
        .unwrap()
        .spawn();
    eventually("claimed", || async {
        held_by(&store, heir.owner_id()).await.is_some()
    })
    .await;
    let partition = held_by(&store, heir.owner_id()).await.unwrap();
    way.decide(Fate::LandsUnseen);
    eventually("renewed", || async { way.is_decided() }).await;
    sleep(Duration::from_secs(1)).await;
    let opened = || hub.opened_at(partition.clone()).len();
    assert_eq!(opened(), 1, "read under the handler");
    gate.add_permits(10);
    hub.send(partition.clone(), "y");
    delivered(&b, partition.as_str(), &[1]).await;
    assert_eq!(a.events(partition.as_str()), [0]);
    heir.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_returns_what_a_claim_under_way_took_from_an_owner_that_goes_on() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let a = Recorder::new().gated(&gate);
    let owner = settled(&hub, &store, &a).await;
    let way = store.beside();
    way.decide(Fate::NeverAnswered);
    let thief = kin_builder(&hub, &way, "b")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("claimed", || async {
        held_by(&store, thief.owner_id()).await.is_some()
    })
    .await;
    let partition = held_by(&store, thief.owner_id()).await.unwrap();
    thief.shutdown().await.unwrap();
    let held = owners(&store).await;
    assert_eq!(held[&partition].as_ref(), Some(owner.owner_id()));
    sleep(Duration::from_secs(10)).await;
    gate.add_permits(10);
    hub.send(partition.clone(), "y");
    delivered(&a, partition.as_str(), &[0, 1]).await;
    owner.shutdown().await.unwrap();
}

/// A processor that is not scheduled for longer than it promised to be alive: nothing of it reaches the store, and the
/// call that ran when it stopped has not ended.
#[tokio::test(start_paused = true)]
async fn who_wakes_up_after_its_promise_gives_way() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
    let way = store.beside();
    let victim = settled(&hub, &way, &a).await;
    for _ in 0..5 {
        for partition in ["0", "1"] {
            hub.send(partition, "x");
        }
    }
    way.stall(true);
    let heir = kin_builder(&hub, &store, "b")
        .build(b.clone())
        .unwrap()
        .spawn();
    let all = [0, 1, 2, 3, 4, 5];
    for partition in ["0", "1"] {
        delivered(&b, partition, &all).await;
    }
    sleep(Duration::from_secs(60)).await;
    way.stall(false);
    gate.add_permits(100);
    sleep(Duration::from_secs(20)).await;
    for partition in ["0", "1"] {
        assert_eq!(a.events(partition), [0], "the call that ran, and no other");
        assert!(!store.written(partition).is_empty());
        let written = [way.written(partition), store.written(partition)].concat();
        assert_eq!(written.iter().max(), store.written(partition).last());
        let refused = way.written(partition);
        assert!(refused.is_empty(), "{refused:?} written over the heir's");
        assert_eq!(b.events(partition), all, "nobody displaced the heir");
    }
    let lost = |partition: &str| {
        let closed = Seen::Closed(
            partition.into(),
            crate::processor::CloseReason::OwnershipLost,
        );
        a.seen().contains(&closed)
    };
    assert!(lost("0") && lost("1"));
    // It takes part again.
    eventually("shared", || async {
        held_by(&store, victim.owner_id()).await.is_some()
            && held_by(&store, heir.owner_id()).await.is_some()
    })
    .await;
    drop((victim, heir));
}
