//! A move from one of our kind to another while both go on: nothing is read twice, and there is no gap; and what happens
//! when it does not go well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::support::{
    FlakyStore, Recorder, Seen, builder, delivered, eventually, kin_builder, owners, scope, stored,
};
use crate::checkpoint::CheckpointStore as _;
use crate::error::StoreErrorKind;
use crate::model::{OwnerId, PartitionId};
use crate::processor::{CloseReason, EventProcessorBuilder, ProcessorHandle};
use crate::transport::fake::FakeEventHub;

/// What the ids of [`kin_builder`] promise.
const PROMISE: Duration = Duration::from_secs(5);

/// Ages are rounded to a second, and a look takes a while.
const SLACK: Duration = Duration::from_secs(2);

fn spawn(builder: EventProcessorBuilder, recorder: &Recorder) -> ProcessorHandle {
    builder.build(recorder.clone()).unwrap().spawn()
}

/// A processor that has owned `partitions` for a while and looks at them every two seconds.
async fn settled(hub: &FakeEventHub, store: &FlakyStore, recorder: &Recorder) -> ProcessorHandle {
    let handle = spawn(kin_builder(hub, store, "a"), recorder);
    sleep(Duration::from_secs(20)).await;
    handle
}

/// The partition that an owner has claimed, once it has claimed one.
async fn claimed_by(store: &FlakyStore, owner: &OwnerId) -> PartitionId {
    let mut found = None;
    eventually("claimed", || async {
        owners(store)
            .await
            .values()
            .any(|held| held.as_ref() == Some(owner))
    })
    .await;
    for (partition, held) in owners(store).await {
        if held.as_ref() == Some(owner) {
            found = Some(partition);
        }
    }
    found.unwrap()
}

fn send_for_ever(hub: &FakeEventHub, partitions: usize) -> tokio::task::JoinHandle<()> {
    let hub = hub.clone();
    tokio::spawn(async move {
        loop {
            for partition in 0..partitions {
                hub.send(partition.to_string(), "x");
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
}

/// Every event once and in order.
fn assert_once_each(recorder: &Recorder, partitions: usize) {
    for partition in 0..partitions {
        let seen = recorder.events(&partition.to_string());
        let last = *seen.last().expect("events");
        assert_eq!(
            seen,
            (0..=last).collect::<Vec<_>>(),
            "partition {partition}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn scaling_up_and_down_under_load_repeats_nothing_and_leaves_no_gap() {
    const PARTITIONS: usize = 12;
    for seed in 0..5 {
        let (hub, store) = (FakeEventHub::new(PARTITIONS), FlakyStore::new());
        let recorder = Recorder::new().taking(Duration::from_millis(30));
        let start = |name: &str| {
            spawn(
                kin_builder(&hub, &store, &format!("{name}{seed}")),
                &recorder,
            )
        };
        let mut fleet = vec![start("a")];
        sleep(Duration::from_secs(10)).await;
        let sending = send_for_ever(&hub, PARTITIONS);
        sleep(Duration::from_secs(1)).await;
        for name in ["b", "c", "d"] {
            fleet.push(start(name));
            sleep(Duration::from_millis(700 * seed)).await;
        }
        sleep(Duration::from_secs(15)).await;
        let mut loads = BTreeMap::new();
        for owner in owners(&store).await.into_values() {
            *loads.entry(owner).or_insert(0) += 1;
        }
        assert!(
            loads.len() == 4 && loads.values().all(|load| *load == 3),
            "{loads:?}"
        );
        while fleet.len() > 1 {
            fleet.remove(0).shutdown().await.unwrap();
            sleep(Duration::from_millis(1500 * seed)).await;
        }
        sleep(Duration::from_secs(5)).await;
        sending.abort();
        sleep(Duration::from_secs(5)).await;
        assert_once_each(&recorder, PARTITIONS);
        let pause = recorder.longest_pause();
        assert!(pause < Duration::from_secs(1), "{pause:?} with seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_the_handler_and_the_last_checkpoint() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
    let _owner = settled(&hub, &store, &a).await;
    for _ in 0..3 {
        hub.send("0", "x");
        hub.send("1", "x");
    }
    let newcomer = spawn(kin_builder(&hub, &store, "b"), &b);
    let partition = claimed_by(&store, newcomer.owner_id()).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        hub.opened_at(partition.as_str()).len(),
        1,
        "read under the handler"
    );
    gate.add_permits(10);
    delivered(&b, partition.as_str(), &[1, 2]).await;
    // One call ran; of what was taken with it nothing else was handed out.
    assert_eq!(a.events(partition.as_str()), [0]);
    let closed = Seen::Closed(partition.to_string(), CloseReason::Shutdown);
    assert!(a.seen().contains(&closed), "checkpoints count to the end");
    assert_eq!(stored(&store, partition.as_str()).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_loses_to_one_of_our_kind_is_no_loss() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let a = Recorder::new().gated(&gate);
    let _owner = settled(&hub, &store, &a).await;
    for _ in 0..3 {
        hub.send("0", "x");
    }
    // Claimed after the listing, before the renewal that follows from it.
    store.intrude("rs1-5000-b");
    let heir = OwnerId::from("rs1-5000-b");
    claimed_by(&store, &heir).await;
    sleep(Duration::from_secs(1)).await;
    gate.add_permits(1);
    eventually("closed in order", || async {
        a.seen()
            .contains(&Seen::Closed("0".into(), CloseReason::Shutdown))
    })
    .await;
    assert_eq!(
        stored(&store, "0").await,
        Some(0),
        "the running call still counts"
    );
    assert_eq!(a.events("0"), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_loses_to_a_foreign_processor_is_a_loss() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let a = Recorder::new();
    let _owner = settled(&hub, &store, &a).await;
    store.intrude("foreign");
    let lost = Seen::Closed("0".into(), CloseReason::OwnershipLost);
    eventually("lost", || async { a.seen().contains(&lost) }).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_before_it_has_made_way_is_waited_for_as_long_as_it_promised() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let owner = settled(&hub, &store, &a).await;
    let newcomer = spawn(kin_builder(&hub, &store, "b"), &b);
    claimed_by(&store, newcomer.owner_id()).await;
    drop(owner);
    let died = Instant::now();
    for partition in ["0", "1"] {
        hub.send(partition, "x");
        delivered(&b, partition, &[0]).await;
    }
    assert!(died.elapsed() <= PROMISE + SLACK, "{:?}", died.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_reach_the_store_reads_on_until_it_is_displaced() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let (a, b) = (Recorder::without_checkpoints(), Recorder::new());
    let way = store.beside();
    let _owner = settled(&hub, &way, &a).await;
    way.fail(Some(StoreErrorKind::Unavailable));
    let newcomer = spawn(kin_builder(&hub, &store, "b"), &b);
    let partition = claimed_by(&store, newcomer.owner_id()).await;
    let claimed = Instant::now();
    sleep(PROMISE / 2).await;
    hub.send(partition.as_str(), "x");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(a.events(partition.as_str()), [0], "nobody else reads yet");
    eventually("taken over", || async {
        hub.opened_at(partition.as_str()).len() == 2
    })
    .await;
    assert!(
        claimed.elapsed() <= PROMISE + SLACK,
        "{:?}",
        claimed.elapsed()
    );
    hub.send(partition.as_str(), "x");
    eventually("read", || async {
        b.events(partition.as_str()).last() == Some(&1)
    })
    .await;
    assert_eq!(a.events(partition.as_str()), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_longer_than_the_promise_is_not_waited_for_and_cannot_move_the_checkpoint_back() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
    let _owner = settled(&hub, &store, &a).await;
    for _ in 0..3 {
        hub.send("0", "x");
        hub.send("1", "x");
    }
    let newcomer = spawn(kin_builder(&hub, &store, "b"), &b);
    let partition = claimed_by(&store, newcomer.owner_id()).await;
    let claimed = Instant::now();
    delivered(&b, partition.as_str(), &[0, 1, 2]).await;
    assert!(
        claimed.elapsed() <= PROMISE + SLACK,
        "{:?}",
        claimed.elapsed()
    );
    gate.add_permits(10);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(a.events(partition.as_str()), [0], "only the call that ran");
    assert_eq!(stored(&store, partition.as_str()).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn an_heir_that_dies_is_replaced_and_nothing_is_lost() {
    for before_the_word in [true, false] {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        let (a, b) = (Recorder::new(), Recorder::new());
        let _owner = settled(&hub, &store, &a).await;
        let newcomer = spawn(kin_builder(&hub, &store, "b"), &b);
        let partition = claimed_by(&store, newcomer.owner_id()).await;
        if !before_the_word {
            eventually("begun", || async {
                hub.opened_at(partition.as_str()).len() == 2
            })
            .await;
        }
        drop(newcomer);
        let died = Instant::now();
        hub.send(partition.as_str(), "x");
        eventually("read", || async {
            !a.events(partition.as_str()).is_empty()
        })
        .await;
        assert_eq!(a.events(partition.as_str()), [0]);
        // The owner's next cycle, and the promise from its word on.
        let bound = Duration::from_secs(2) + PROMISE + SLACK;
        assert!(died.elapsed() <= bound, "{:?}", died.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_heir_that_stops_before_it_was_told_leaves_everything_as_it_was() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let recorder = Recorder::new();
    let owner = settled(&hub, &store, &recorder).await;
    let sending = send_for_ever(&hub, 2);
    let newcomer = spawn(kin_builder(&hub, &store, "b"), &recorder);
    let partition = claimed_by(&store, newcomer.owner_id()).await;
    newcomer.shutdown().await.unwrap();
    assert_eq!(
        owners(&store).await[&partition].as_ref(),
        Some(owner.owner_id())
    );
    sleep(Duration::from_secs(10)).await;
    sending.abort();
    sleep(Duration::from_secs(1)).await;
    assert_once_each(&recorder, 2);
    assert_eq!(
        hub.opened_at(partition.as_str()).len(),
        1,
        "it never stopped"
    );
    assert!(recorder.longest_pause() < Duration::from_secs(1));
    owner.shutdown().await.unwrap();
    assert!(
        owners(&store)
            .await
            .into_values()
            .all(|owner| owner.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_stops_before_it_saw_the_claim_tells_the_heir_all_the_same() {
    for keeps in [false, true] {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        let recorder = Recorder::new();
        let owner = spawn(
            kin_builder(&hub, &store, "a").with_keep_ownership_on_stop(keeps),
            &recorder,
        );
        sleep(Duration::from_secs(20)).await;
        let sending = send_for_ever(&hub, 2);
        let newcomer = spawn(kin_builder(&hub, &store, "b"), &recorder);
        let partition = claimed_by(&store, newcomer.owner_id()).await;
        owner.shutdown().await.unwrap();
        let stopped = Instant::now();
        eventually("begun", || async {
            hub.opened_at(partition.as_str()).len() == 2
        })
        .await;
        assert!(
            stopped.elapsed() < Duration::from_secs(1),
            "{:?}",
            stopped.elapsed()
        );
        sleep(Duration::from_secs(10)).await;
        sending.abort();
        sleep(Duration::from_secs(1)).await;
        assert_once_each(&recorder, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_it_from_an_heir_that_waits_is_told_instead() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
    let _owner = settled(&hub, &store, &a).await;
    hub.send("0", "x");
    hub.send("1", "x");
    let first = spawn(kin_builder(&hub, &store, "b"), &b);
    let partition = claimed_by(&store, first.owner_id()).await;
    // The owner has seen the first heir and lets its handler finish.
    sleep(Duration::from_millis(2500)).await;
    let second = OwnerId::from("rs1-5000-c");
    let claim = store.put(&partition, &second).await;
    sleep(Duration::from_millis(500)).await;
    gate.add_permits(10);
    eventually("told", || async { hub.receivers(partition.as_str()) == 0 }).await;
    assert_eq!(owners(&store).await[&partition], Some(second.clone()));
    assert_ne!(store.put(&partition, &second).await, claim);
    assert!(
        b.events(partition.as_str()).is_empty(),
        "the first heir has stepped back"
    );
    assert_eq!(hub.opened_at(partition.as_str()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_promises_nothing_neither_waits_nor_is_waited_for() {
    for (owner_promises, newcomer_promises) in [(true, false), (false, true)] {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        let gate = Arc::new(Semaphore::new(0));
        let (a, b) = (Recorder::new().gated(&gate), Recorder::new());
        let build = |name, promises| {
            if promises {
                kin_builder(&hub, &store, name)
            } else {
                builder(&hub, &store, name)
            }
        };
        let _owner = spawn(build("a", owner_promises), &a);
        sleep(Duration::from_secs(15)).await;
        for partition in ["0", "1"] {
            hub.send(partition, "x");
        }
        let newcomer = spawn(build("b", newcomer_promises), &b);
        let partition = claimed_by(&store, newcomer.owner_id()).await;
        let claimed = Instant::now();
        delivered(&b, partition.as_str(), &[0]).await;
        assert!(
            claimed.elapsed() < Duration::from_secs(1),
            "{:?}",
            claimed.elapsed()
        );
        gate.add_permits(10);
        let lost = Seen::Closed(partition.to_string(), CloseReason::OwnershipLost);
        eventually("lost", || async { a.seen().contains(&lost) }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_displaced_term_hands_out_nothing_of_what_it_has_taken() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new().taking(Duration::from_millis(200));
    let _handle = settled(&hub, &store, &recorder).await;
    for _ in 0..50 {
        hub.send("0", "x");
    }
    delivered(&recorder, "0", &[0, 1, 2]).await;
    hub.disconnect("0", crate::error::TransportErrorKind::OwnershipLost);
    let lost = Seen::Closed("0".into(), CloseReason::OwnershipLost);
    eventually("lost", || async { recorder.seen().contains(&lost) }).await;
    assert_eq!(
        recorder.events("0"),
        [0, 1, 2],
        "taken before, handed out after"
    );
}

/// Between two plans there are looks at what is still to come.
#[tokio::test(start_paused = true)]
async fn what_was_passed_on_is_left_alone_while_we_wait_for_more() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let owner: OwnerId = "rs1-60000-owner".into();
    for partition in 0..4 {
        store.put(&partition.to_string().into(), &owner).await;
    }
    let recorder = Recorder::new();
    let handle = spawn(kin_builder(&hub, &store, "a"), &recorder);
    let us = handle.owner_id().clone();
    eventually("two claimed", || async {
        let held = owners(&store).await;
        held.values()
            .filter(|held| held.as_ref() == Some(&us))
            .count()
            == 2
    })
    .await;
    let passed_on = claimed_by(&store, &us).await;
    let id = passed_on.as_str();
    store.put(&passed_on, &us).await;
    hub.send(passed_on.clone(), "x");
    delivered(&recorder, id, &[0]).await;
    // We still wait for the other one.
    let claimed = store.put(&passed_on, &"rs1-60000-heir".into()).await;
    let version = || async {
        let listing = store.inner.list_ownership(&scope()).await.unwrap();
        let mut records = listing.ownerships.into_iter();
        records
            .find(|record| record.partition_id == passed_on)
            .unwrap()
            .etag
    };
    eventually("told", || async { version().await != claimed }).await;
    let told = version().await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(version().await, told, "told again");
    assert_eq!(hub.opened_at(passed_on.clone()).len(), 1, "read again");
    assert_eq!(hub.receivers(passed_on.clone()), 0);
    drop(handle);
}

/// The wait is over in the same moment in which somebody else's claim is seen.
#[tokio::test(start_paused = true)]
async fn what_was_claimed_from_us_when_the_wait_ends_is_not_opened() {
    for moment in (3_000..7_000).step_by(20) {
        let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
        for partition in ["0", "1"] {
            store.put(&partition.into(), &"rs1-5000-dead".into()).await;
        }
        let begun = Instant::now();
        let handle = spawn(kin_builder(&hub, &store, "a"), &Recorder::new());
        let partition = claimed_by(&store, handle.owner_id()).await;
        tokio::time::sleep_until(begun + Duration::from_millis(moment)).await;
        let opened = hub.opened_at(partition.clone()).len();
        store.put(&partition, &"rs1-60000-heir".into()).await;
        sleep(Duration::from_secs(5)).await;
        let opened_now = hub.opened_at(partition).len();
        assert_eq!(opened_now, opened, "claimed after {moment} ms");
        handle.shutdown().await.unwrap();
    }
}
