//! Checkpoints that the processor writes by itself.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use tokio::time::Instant;

use super::support::{
    Act, Applied, FlakyStore, Recorder, Seen, builder, delivered, eventually, kin_builder, owners,
    stored,
};
use crate::error::{StoreErrorKind, TransportErrorKind};
use crate::processor::{CheckpointPolicy, CloseReason, handler_fn_with};
use crate::transport::fake::FakeEventHub;

fn every_events(events: u64) -> CheckpointPolicy {
    CheckpointPolicy::EveryEvents(NonZeroU64::new(events).unwrap())
}

/// Runs a policy over ten events of 100 ms each. Returns what was written before the stop, and after it.
async fn written_under(policy: CheckpointPolicy) -> (Vec<i64>, Vec<i64>) {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..10 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints().taking(Duration::from_millis(100));
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(policy)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &(0..10).collect::<Vec<_>>()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let running = store.written("0");
    handle.shutdown().await.unwrap();
    (running, store.written("0"))
}

#[tokio::test(start_paused = true)]
async fn each_policy_writes_when_it_says_and_all_write_the_last_event_at_the_end() {
    assert_eq!(
        written_under(CheckpointPolicy::Manual).await,
        (vec![], vec![])
    );
    assert_eq!(
        written_under(every_events(4)).await,
        (vec![3, 7], vec![3, 7, 9])
    );
    let all: Vec<_> = (0..10).collect();
    assert_eq!(written_under(every_events(1)).await, (all.clone(), all));
    // The first event is done after 100 ms, and is 350 ms old when the fourth is.
    let (running, after) = written_under(CheckpointPolicy::Every(Duration::from_millis(350))).await;
    assert_eq!(running, [3, 7]);
    assert_eq!(after, [3, 7, 9]);
    assert_eq!(
        written_under(CheckpointPolicy::EveryBatch).await,
        (vec![9], vec![9])
    );
    assert_eq!(
        written_under(CheckpointPolicy::Automatic).await,
        (vec![], vec![9])
    );
}

#[tokio::test(start_paused = true)]
async fn automatic_writes_every_five_seconds_while_events_come_and_nothing_while_none_do() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(Recorder::without_checkpoints())
        .unwrap()
        .spawn();
    for _ in 0..60 {
        hub.send("0", "a");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let writes = store.checkpoint_writes();
    assert!((10..=12).contains(&writes), "{writes} in a minute");
    assert_eq!(stored(&store, "0").await, Some(59));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(store.checkpoint_writes(), writes, "nothing to write");
    handle.shutdown().await.unwrap();
    assert_eq!(store.checkpoint_writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_checkpointed_at_its_end() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..5 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints().taking(Duration::from_millis(100));
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(CheckpointPolicy::EveryBatch)
        .with_max_batch_size(NonZeroUsize::new(3).unwrap())
        .build(handler_fn_with(
            recorder,
            async |recorder, context, event| {
                crate::processor::EventHandler::on_event(&recorder, &context, event).await
            },
        ))
        .unwrap()
        .spawn();
    eventually("both batches are checkpointed", || async {
        store.written("0") == [2, 4]
    })
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_holds_up_no_handler_and_sees_one_write_at_a_time() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    store.delay_checkpoints(Duration::from_secs(10));
    let recorder = Recorder::without_checkpoints().taking(Duration::from_millis(100));
    for _ in 0..200 {
        hub.send("0", "a");
        hub.send("1", "a");
    }
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(every_events(1))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("the first event", || async {
        !recorder.events("0").is_empty()
    })
    .await;
    let begun = Instant::now();
    delivered(&recorder, "0", &(0..200).collect::<Vec<_>>()).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(21), "20 s of work took {took:?}");
    eventually("the last event is checkpointed", || async {
        stored(&store, "0").await == Some(199) && stored(&store, "1").await == Some(199)
    })
    .await;
    assert_eq!(store.most_under_way(), 1);
    // One at a time, each with the latest of what had come: 0, what 10 s brought, 20 s, the rest.
    assert!(store.written("0").len() <= 4, "{:?}", store.written("0"));
    handle.shutdown().await.unwrap();
}

/// The acceptance test of `tests/interop/outage.rs` in virtual time: two processors, four partitions, the store away for
/// a minute under load.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_stops_nothing_and_ends_with_one_write_a_partition() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let partitions = ["0", "1", "2", "3"];
    let recorders = [(); 2].map(|()| Recorder::without_checkpoints());
    let handles = recorders.each_ref().map(|recorder| {
        builder(
            &hub,
            &store,
            if std::ptr::eq(recorder, &recorders[0]) {
                "a"
            } else {
                "b"
            },
        )
        .with_checkpoint_policy(every_events(1))
        .build(recorder.clone())
        .unwrap()
        .spawn()
    });
    let load = async |seconds: u64| {
        for _ in 0..seconds * 10 {
            for partition in partitions {
                hub.send(partition, "a");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    load(20).await;
    let before = owners(&store).await;
    assert_eq!(before.len(), 4);
    let calm = recorders.each_ref().map(|recorder| recorder.seen().len());

    store.fail(Some(StoreErrorKind::Unavailable));
    load(60).await;
    let done = i64::from(80 * 10 - 1);
    for partition in partitions {
        let newest = recorders
            .iter()
            .filter_map(|recorder| recorder.events(partition).last().copied())
            .max();
        assert_eq!(
            newest,
            Some(done),
            "events of partition {partition} stopped"
        );
    }
    let writes = store.applied().len();
    store.fail(None);
    eventually("all partitions have caught up", || async {
        let mut caught_up = true;
        for partition in partitions {
            caught_up &= stored(&store, partition).await == Some(done);
        }
        caught_up
    })
    .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let caught_up: Vec<_> = store.applied()[writes..].to_vec();
    assert_eq!(caught_up.len(), 4, "one write a partition: {caught_up:?}");
    assert_eq!(owners(&store).await, before, "ownership moved");
    for (recorder, calm) in recorders.iter().zip(calm) {
        let seen = recorder.seen().split_off(calm);
        let moved = |seen: &Seen| matches!(seen, Seen::Closed(..) | Seen::Initialized(_));
        assert!(!seen.iter().any(moved), "a term ended");
        let pause = recorder.longest_pause();
        assert!(pause <= Duration::from_millis(200), "a pause of {pause:?}");
        for partition in partitions {
            let error = Seen::Error(Some(partition.into()), "writing the checkpoint".into());
            let told = seen.iter().filter(|seen| **seen == error).count();
            if recorder.events(partition).is_empty() || told == 0 {
                continue;
            }
            // Waits of at most a second, the interval of these processors, and of half a second at least.
            assert!((30..=130).contains(&told), "{told} errors in a minute");
        }
        let told = |seen: &&Seen| matches!(seen, Seen::Error(Some(_), _));
        assert!(seen.iter().any(|seen| told(&seen)), "nobody was told");
    }
    for handle in handles {
        handle.shutdown().await.unwrap();
    }
}

/// A processor whose handler fails at event 5 for ever has the events before it checkpointed and nothing else.
#[tokio::test(start_paused = true)]
async fn nothing_at_or_past_a_failed_event_is_checkpointed() {
    for policy in [
        every_events(1),
        every_events(4),
        every_events(100),
        CheckpointPolicy::Every(Duration::from_millis(1)),
        CheckpointPolicy::EveryBatch,
        CheckpointPolicy::Automatic,
    ] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        for _ in 0..10 {
            hub.send("0", "a");
        }
        for act in [Act::Fail(usize::MAX), Act::Panic] {
            let recorder = Recorder::without_checkpoints().acting("0", 5, act);
            let handle = builder(&hub, &store, "me")
                .with_checkpoint_policy(policy)
                .build(recorder.clone())
                .unwrap()
                .spawn();
            eventually("event 5 is tried again", || async {
                recorder.events("0").iter().filter(|n| **n == 5).count() > 1
            })
            .await;
            if matches!(act, Act::Fail(_)) {
                tokio::time::sleep(Duration::from_secs(30)).await;
                let written = store.written("0");
                assert_eq!(written.last(), Some(&4), "{policy:?}: {written:?}");
                let events = recorder.events("0");
                assert_eq!(events[..6], [0, 1, 2, 3, 4, 5], "{policy:?}");
                assert!(
                    events[6..].iter().all(|number| *number == 5),
                    "{policy:?}: what was done came again: {events:?}"
                );
            }
            handle.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_counts_for_nothing() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..9 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints().acting("0", 4, Act::Fail(usize::MAX));
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(every_events(1))
        .with_max_batch_size(NonZeroUsize::new(3).unwrap())
        .build(handler_fn_with(
            recorder.clone(),
            async |recorder, context, event| {
                crate::processor::EventHandler::on_event(&recorder, &context, event).await
            },
        ))
        .unwrap()
        .spawn();
    eventually("the batch is tried again", || async {
        recorder.events("0").iter().filter(|n| **n == 4).count() > 2
    })
    .await;
    assert_eq!(
        store.written("0"),
        [2],
        "event 3 was done, its batch was not"
    );
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_checkpoint_is_written_before_the_partition_is_given_back() {
    let (hub, store) = (FakeEventHub::new(3), FlakyStore::new());
    store.delay_checkpoints(Duration::from_millis(700));
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(CheckpointPolicy::Every(Duration::from_secs(3600)))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    for partition in ["0", "1", "2"] {
        for _ in 0..5 {
            hub.send(partition, "a");
        }
        delivered(&recorder, partition, &[0, 1, 2, 3, 4]).await;
    }
    handle.shutdown().await.unwrap();
    let applied = store.applied();
    assert_eq!(applied.len(), 6, "{applied:?}");
    for partition in ["0", "1", "2"] {
        let at = |wanted: Applied| applied.iter().position(|applied| *applied == wanted);
        let written = at(Applied::Checkpoint(partition.into(), 4)).unwrap();
        let given_back = at(Applied::GivenBack(partition.into())).unwrap();
        assert!(written < given_back, "{applied:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_repeats_nothing_that_only_a_policy_checkpoints() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let policy = CheckpointPolicy::Every(Duration::from_secs(3600));
    let (old, new) = (
        Recorder::without_checkpoints(),
        Recorder::without_checkpoints(),
    );
    let first = kin_builder(&hub, &store, "old")
        .with_checkpoint_policy(policy)
        .build(old.clone())
        .unwrap()
        .spawn();
    let partitions = ["0", "1", "2", "3"];
    for partition in partitions {
        for _ in 0..5 {
            hub.send(partition, "a");
        }
        delivered(&old, partition, &[0, 1, 2, 3, 4]).await;
    }
    let second = kin_builder(&hub, &store, "new")
        .with_checkpoint_policy(policy)
        .build(new.clone())
        .unwrap()
        .spawn();
    eventually("the newcomer has its share", || async {
        let owners = owners(&store).await;
        let is_new = |owner: &&crate::model::OwnerId| owner.as_str().contains("new");
        owners.values().flatten().filter(is_new).count() == 2
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    first.shutdown().await.unwrap();
    for partition in partitions {
        hub.send(partition, "a");
    }
    for partition in partitions {
        eventually("each event once, by one or the other", || async {
            [old.events(partition), new.events(partition)].concat() == [0, 1, 2, 3, 4, 5]
        })
        .await;
    }
    second.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_was_displaced_writes_no_last_checkpoint() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(every_events(100))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    let ended = Seen::Closed("0".into(), CloseReason::OwnershipLost);
    eventually("the term ended", || async {
        recorder.seen().contains(&ended)
    })
    .await;
    assert_eq!(store.checkpoint_writes(), 0);
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_store_that_does_not_answer() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    store.delay_checkpoints(Duration::from_secs(3600));
    hub.send("0", "a");
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(every_events(1))
        .with_shutdown_timeout(Duration::from_secs(9))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0]).await;
    let begun = Instant::now();
    let report = handle.shutdown().await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(report.cut_partitions.is_empty(), "no handler was cut");
    let closed = Seen::Closed("0".into(), CloseReason::Shutdown);
    assert!(recorder.seen().contains(&closed));
}
