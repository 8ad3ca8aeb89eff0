//! What happens within one processor's partitions.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use super::support::{
    Act, FlakyStore, Recorder, Seen, builder, delivered, eventually, scope, stored,
};
use crate::checkpoint::{CheckpointStore as _, WriteCondition};
use crate::error::TransportErrorKind;
use crate::model::{Checkpoint, EventPosition};
use crate::processor::CloseReason;
use crate::transport::fake::FakeEventHub;

#[tokio::test(start_paused = true)]
async fn events_are_delivered_in_order_and_a_restart_continues_after_the_checkpoint() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    for _ in 0..5 {
        hub.send("0", "a");
        hub.send("1", "b");
    }
    let first = Recorder::new();
    let handle = builder(&hub, &store, "first")
        .build(first.clone())
        .unwrap()
        .spawn();
    delivered(&first, "0", &[0, 1, 2, 3, 4]).await;
    delivered(&first, "1", &[0, 1, 2, 3, 4]).await;
    handle.shutdown().await.unwrap();

    hub.send("0", "a");
    let second = Recorder::new();
    let handle = builder(&hub, &store, "second")
        .build(second.clone())
        .unwrap()
        .spawn();
    delivered(&second, "0", &[5]).await;
    handle.shutdown().await.unwrap();
    assert!(second.events("1").is_empty());
    assert_eq!(stored(&store, "0").await, Some(5));
}

#[tokio::test(start_paused = true)]
async fn a_failed_event_comes_again_and_is_never_skipped() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    for _ in 0..4 {
        hub.send("0", "a");
        hub.send("1", "b");
    }
    let recorder = Recorder::new().acting("0", 2, Act::Fail(3));
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1, 2, 2, 2, 2, 3]).await;
    // The other partition never noticed.
    delivered(&recorder, "1", &[0, 1, 2, 3]).await;
    let seen = recorder.seen();
    let failures = seen
        .iter()
        .filter(|s| **s == Seen::Closed("0".into(), CloseReason::Failed));
    assert_eq!(failures.count(), 3);
    let errors = Seen::Error(Some("0".into()), "`on_event` failed".into());
    assert_eq!(seen.iter().filter(|s| **s == errors).count(), 3);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_term_only() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    for _ in 0..3 {
        hub.send("0", "a");
        hub.send("1", "b");
    }
    let recorder = Recorder::new().acting("1", 1, Act::Panic);
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "1", &[0, 1, 1, 2]).await;
    delivered(&recorder, "0", &[0, 1, 2]).await;
    let error = Seen::Error(Some("1".into()), "`on_event` panicked".into());
    assert!(recorder.seen().contains(&error));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_any_failure_of_the_link_receiving_goes_on_after_the_last_delivered_event() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    // Without checkpoints: the position must come from what was delivered.
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    let mut expected = Vec::new();
    for kind in [
        TransportErrorKind::ConnectionLost,
        TransportErrorKind::LinkDetached,
        TransportErrorKind::ServerBusy,
        TransportErrorKind::Unauthorized,
        TransportErrorKind::NotFound,
        TransportErrorKind::Timeout,
    ] {
        expected.push(hub.send("0", "a"));
        delivered(&recorder, "0", &expected).await;
        hub.fail_next_open(kind);
        hub.disconnect("0", kind);
    }
    expected.push(hub.send("0", "a"));
    delivered(&recorder, "0", &expected).await;
    let initialized = recorder
        .seen()
        .into_iter()
        .filter(|s| *s == Seen::Initialized("0".into()))
        .count();
    assert_eq!(initialized, 1, "a link failure is not a new term");
    let resumed: Vec<_> = (0..6)
        .map(|last| EventPosition::offset((last * 100).to_string()))
        .collect();
    assert_eq!(hub.opened_at("0")[1..], resumed);
    let after = [None].into_iter().chain((0..6).map(Some));
    assert_eq!(hub.opened_after("0"), Vec::from_iter(after));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_term_that_failed_starts_from_the_checkpoint_not_from_the_last_delivered_event() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..3 {
        hub.send("0", "a");
    }
    let recorder = Recorder::without_checkpoints().acting("0", 2, Act::Fail(1));
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1, 2, 0, 1, 2]).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_start_position_is_checkpoint_then_hook_then_partition_then_default() {
    let (hub, store) = (FakeEventHub::new(3), FlakyStore::new());
    for partition in ["0", "1", "2"] {
        for _ in 0..4 {
            hub.send(partition, "a");
        }
    }
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "first")
        .with_default_starting_position(EventPosition::sequence_number(2))
        .with_starting_position("1", EventPosition::sequence_number(1).inclusive())
        .with_starting_position("2", EventPosition::Latest)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[3]).await;
    delivered(&recorder, "1", &[1, 2, 3]).await;
    handle.shutdown().await.unwrap();
    assert!(recorder.events("2").is_empty());

    let recorder = Recorder::new().starting_at(EventPosition::sequence_number(0));
    let handle = builder(&hub, &store, "second")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "2", &[1, 2, 3]).await;
    handle.shutdown().await.unwrap();
    assert!(
        recorder.events("0").is_empty(),
        "the checkpoint goes before the hook"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_hold_what_is_there_and_idle_is_called_when_nothing_is() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..5 {
        hub.send("0", "a");
    }
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .with_max_batch_size(NonZeroUsize::new(3).unwrap())
        .with_max_wait_time(Duration::from_secs(2))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("a third call", || async { recorder.seen().len() >= 4 }).await;
    let seen = recorder.seen();
    assert_eq!(seen[1], Seen::Batch("0".into(), vec![0, 1, 2]));
    assert_eq!(seen[2], Seen::Batch("0".into(), vec![3, 4]));
    assert_eq!(seen[3], Seen::Idle("0".into()));
    assert_eq!(stored(&store, "0").await, Some(4));
    handle.shutdown().await.unwrap();
}

/// For transports that resume by number: a number is told with an offset whose event is known, and with nothing else.
#[tokio::test(start_paused = true)]
async fn the_number_behind_an_offset_is_told_where_it_is_known() {
    let run = async |store: &FlakyStore, position: EventPosition| {
        let hub = FakeEventHub::new(1);
        for _ in 0..4 {
            hub.send("0", "a");
        }
        let recorder = Recorder::new();
        let handle = builder(&hub, store, "me")
            .with_default_starting_position(position)
            .build(recorder.clone())
            .unwrap()
            .spawn();
        eventually("all", || async { stored(store, "0").await == Some(3) }).await;
        (hub, recorder, handle)
    };
    for position in [
        EventPosition::Earliest,
        EventPosition::offset("100"),
        EventPosition::sequence_number(1),
        EventPosition::enqueued_time(SystemTime::UNIX_EPOCH),
    ] {
        let (hub, _, handle) = run(&FlakyStore::new(), position.clone()).await;
        assert_eq!(hub.opened_at("0"), [position]);
        assert_eq!(hub.opened_after("0"), [None]);
        handle.shutdown().await.unwrap();
    }
    // From what is stored.
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("200".into()),
        sequence_number: Some(2),
        client_identifier: None,
    };
    let store = FlakyStore::new();
    store
        .inner
        .update_checkpoint(&scope(), &checkpoint, &WriteCondition::Unconditional)
        .await
        .unwrap();
    let (hub, recorder, handle) = run(&store, EventPosition::Earliest).await;
    assert_eq!(recorder.events("0"), [3]);
    assert_eq!(hub.opened_at("0"), [EventPosition::offset("200")]);
    assert_eq!(hub.opened_after("0"), [Some(2)]);
    handle.shutdown().await.unwrap();
    // A replay begins at an offset of somebody's, and goes on after a checkpoint.
    let (hub, recorder, handle) = run(&FlakyStore::new(), EventPosition::Earliest).await;
    recorder.clone().acting("0", 3, Act::Fail(1));
    handle
        .seek(&"0".into(), EventPosition::offset("100"))
        .unwrap();
    delivered(&recorder, "0", &[0, 1, 2, 3, 2, 3, 3]).await;
    assert_eq!(hub.opened_after("0"), [None, None, Some(2)]);
    assert_eq!(hub.opened_at("0")[2], EventPosition::offset("200"));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_displaced_receiver_ends_the_term_and_is_not_attached_again_at_once() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    eventually("closed", || async {
        recorder
            .seen()
            .contains(&Seen::Closed("0".into(), CloseReason::OwnershipLost))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        hub.opened_at("0").len(),
        1,
        "attached again before a load-balancing interval"
    );
    // The records still say it is ours: the application hears of it, and after a while it is taken up again.
    let told = recorder
        .seen()
        .contains(&Seen::Error(None, "receiving".into()));
    assert!(told, "an outsider who displaces us is reported");
    hub.send("0", "a");
    delivered(&recorder, "0", &[0, 1]).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn latest_is_a_place_that_neither_a_failure_nor_a_lost_link_moves() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    for partition in ["0", "1"] {
        hub.send(partition, "before");
    }
    let recorder = Recorder::without_checkpoints().acting("0", 1, Act::Fail(2));
    let handle = builder(&hub, &store, "me")
        .with_default_starting_position(EventPosition::Latest)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("started", || async {
        hub.receivers("0") == 1 && hub.receivers("1") == 1
    })
    .await;
    hub.send("0", "fails twice");
    delivered(&recorder, "0", &[1, 1, 1]).await;

    hub.fail_next_open(TransportErrorKind::ServerBusy);
    hub.disconnect("1", TransportErrorKind::ConnectionLost);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(hub.receivers("1"), 0);
    hub.send("1", "while nobody reads");
    delivered(&recorder, "1", &[1]).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_service_repeats_within_a_term_is_delivered_once() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..3 {
        hub.send("0", "a");
    }
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1, 2]).await;
    hub.jump_to("0", 1);
    hub.send("0", "a");
    delivered(&recorder, "0", &[0, 1, 2, 3]).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_is_left_alone_for_four_seconds() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("attached", || async { hub.receivers("0") == 1 }).await;
    hub.disconnect("0", TransportErrorKind::ServerBusy);
    let begun = tokio::time::Instant::now();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4), "{took:?}");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_latest_is_looked_up_closes_what_was_initialized() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..1000 {
        hub.fail_next_partition_properties(TransportErrorKind::ServerBusy);
    }
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .with_default_starting_position(EventPosition::Latest)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("the partition is initialized", || async {
        recorder.seen().contains(&Seen::Initialized("0".into()))
    })
    .await;
    handle.shutdown().await.unwrap();
    let closed = Seen::Closed("0".into(), CloseReason::Shutdown);
    assert!(recorder.seen().contains(&closed), "{:?}", recorder.seen());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_idled_for_long_is_replaced_after_a_short_wait() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .with_retry_delay(Duration::from_secs(1), Duration::from_secs(600))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    // An idle link that the service drops now and then: no failure has to do with the one before.
    for _ in 0..8 {
        eventually("a receiver is attached", || async {
            hub.receivers("0") == 1
        })
        .await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        hub.disconnect("0", TransportErrorKind::LinkDetached);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    handle.shutdown().await.unwrap();
}
