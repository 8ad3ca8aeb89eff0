//! Partitions that start again elsewhere: because somebody asks, or because the checkpoint leads nowhere.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::support::{
    Act, FlakyStore, Recorder, Seen, builder, delivered, eventually, scope, stored,
};
use crate::checkpoint::{CheckpointStore as _, WriteCondition};
use crate::error::{CheckpointError, StoreErrorKind, TransportErrorKind};
use crate::model::{Checkpoint, EventPosition, ReceivedEvent};
use crate::processor::{
    CheckpointPolicy, CheckpointRegression, CloseReason, EventHandler, HandlerResult,
    InvalidPosition, PartitionContext, ProcessorHandle,
};
use crate::transport::fake::FakeEventHub;

fn every_event() -> CheckpointPolicy {
    CheckpointPolicy::EveryEvents(NonZeroU64::MIN)
}

async fn put(store: &FlakyStore, partition: &str, sequence_number: i64) {
    let checkpoint = Checkpoint {
        partition_id: partition.into(),
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

/// A hub with ten events in partition 0 and five in partition 1.
fn hub() -> FakeEventHub {
    let hub = FakeEventHub::new(2);
    for number in 0..10 {
        hub.send("0", "a");
        if number < 5 {
            hub.send("1", "b");
        }
    }
    hub
}

fn spawn(
    hub: &FakeEventHub,
    store: &FlakyStore,
    recorder: &Recorder,
    policy: InvalidPosition,
) -> ProcessorHandle {
    builder(hub, store, "me")
        .with_invalid_position(policy)
        .build(recorder.clone())
        .unwrap()
        .spawn()
}

fn told(recorder: &Recorder, partition: &str) -> usize {
    let error = Seen::Error(
        Some(partition.into()),
        "the position to start from is invalid".into(),
    );
    recorder
        .seen()
        .iter()
        .filter(|seen| **seen == error)
        .count()
}

const TEN: [i64; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

fn twice(from: usize) -> Vec<i64> {
    TEN.into_iter().chain(TEN[from..].to_vec()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_seek_replays_and_leaves_the_stored_checkpoint_where_it_is() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    delivered(&recorder, "0", &TEN).await;
    let position = EventPosition::sequence_number(4).inclusive();
    handle.seek(&"0".into(), position).unwrap();
    delivered(&recorder, "0", &twice(4)).await;
    assert_eq!(store.written("0"), TEN, "moved back, or written twice");
    hub.send("0", "a");
    eventually("it goes on from there", || async {
        stored(&store, "0").await == Some(10)
    })
    .await;
    assert_eq!(recorder.events("1"), [0, 1, 2, 3, 4], "the other partition");
    let restarted = Seen::Closed("0".into(), CloseReason::Restarted);
    assert!(recorder.seen().contains(&restarted));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_a_replay_and_keeps_a_reset_that_has_been_checkpointed() {
    for (is_reset, resumed) in [(false, &[][..]), (true, &[6, 7, 8, 9][..])] {
        let (hub, store) = (hub(), FlakyStore::new());
        // The replay stops at event 6, before it is done.
        let first = Recorder::new();
        let handle = spawn(&hub, &store, &first, InvalidPosition::Fail);
        delivered(&first, "0", &TEN).await;
        first.clone().acting("0", 6, Act::Hang);
        let position = EventPosition::sequence_number(3);
        let context = first
            .contexts()
            .into_iter()
            .find(|c| c.partition_id().as_str() == "0");
        let context = context.unwrap();
        let asked = if is_reset {
            context.reset_to(position)
        } else {
            context.seek(position)
        };
        asked.unwrap();
        delivered(&first, "0", &[&TEN[..], &[4, 5, 6]].concat()).await;
        let expected = if is_reset { 5 } else { 9 };
        assert_eq!(stored(&store, "0").await, Some(expected));
        drop(handle);
        let second = Recorder::new();
        let handle = spawn(&hub, &store, &second, InvalidPosition::Fail);
        delivered(&second, "0", resumed).await;
        handle.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_no_event_has_followed_yet_is_lost_in_a_crash() {
    let (hub, store) = (hub(), FlakyStore::new());
    let first = Recorder::new();
    let handle = spawn(&hub, &store, &first, InvalidPosition::Fail);
    delivered(&first, "0", &TEN).await;
    first.clone().acting("0", 0, Act::Hang);
    handle
        .reset_to(&"0".into(), EventPosition::Earliest)
        .unwrap();
    delivered(&first, "0", &[&TEN[..], &[0]].concat()).await;
    drop(handle);
    assert_eq!(stored(&store, "0").await, Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_policy_writes_a_reset_down_with_the_first_event() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(CheckpointPolicy::Every(Duration::from_secs(3600)))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &TEN).await;
    put(&store, "0", 9).await;
    let recorder = recorder.taking(Duration::from_secs(1));
    handle
        .reset_to(&"0".into(), EventPosition::Earliest)
        .unwrap();
    eventually("the reset is written down", || async {
        stored(&store, "0").await == Some(0)
    })
    .await;
    drop(recorder);
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_a_replay_goes_on_with_the_replay() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    delivered(&recorder, "0", &TEN).await;
    recorder.clone().acting("0", 2, Act::Fail(2));
    handle.seek(&"0".into(), EventPosition::Earliest).unwrap();
    let expected = [&TEN[..], &[0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9]].concat();
    delivered(&recorder, "0", &expected).await;
    // Without a checkpoint in the replay it begins anew.
    recorder.clone().acting("0", 0, Act::Fail(1));
    handle.seek(&"0".into(), EventPosition::Earliest).unwrap();
    delivered(&recorder, "0", &[&expected[..], &[0], &TEN].concat()).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_ask_and_what_it_asks_holds_even_if_it_fails_then() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new().acting("0", 5, Act::Seek(8));
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    delivered(&recorder, "0", &[0, 1, 2, 3, 4, 5, 8, 9]).await;
    assert_eq!(stored(&store, "0").await, Some(9));
    handle.shutdown().await.unwrap();
}

/// Seeks whenever a term begins, a thousand times.
#[derive(Default)]
struct Restless(Arc<AtomicUsize>);

impl EventHandler for Restless {
    async fn on_event(&self, _: &PartitionContext, _: ReceivedEvent) -> HandlerResult {
        Ok(())
    }

    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        if self.0.fetch_add(1, Ordering::Relaxed) < 1000 {
            context.seek(EventPosition::Earliest)?;
        }
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_and_again_before_the_first_event_has_to_wait() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let asked = Arc::<AtomicUsize>::default();
    let handle = builder(&hub, &store, "me")
        .build(Restless(Arc::clone(&asked)))
        .unwrap()
        .spawn();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = asked.load(Ordering::Relaxed);
    assert!((2..20).contains(&asked), "{asked} terms in a minute");
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_asks_while_the_store_is_away_is_heard_when_it_is_back() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    delivered(&recorder, "0", &TEN).await;
    recorder.clone().acting("0", 10, Act::Fail(1));
    hub.send("0", "a");
    delivered(&recorder, "0", &[&TEN[..], &[10]].concat()).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    tokio::time::sleep(Duration::from_secs(5)).await;
    handle
        .seek(&"0".into(), EventPosition::sequence_number(7))
        .unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let error = Seen::Error(Some("0".into()), "reading the checkpoint".into());
    let told = recorder
        .seen()
        .iter()
        .filter(|seen| **seen == error)
        .count();
    assert!((3..20).contains(&told), "{told} tries in 35 s");
    store.fail(None);
    delivered(&recorder, "0", &[&TEN[..], &[10, 8, 9, 10]].concat()).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_the_partition_cannot_move_it() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    delivered(&recorder, "0", &TEN).await;
    let unknown = handle.reset_to(&"7".into(), EventPosition::Earliest);
    assert!(unknown.unwrap_err().is_ownership_lost());
    let context = recorder.contexts().pop().unwrap();
    handle.shutdown().await.unwrap();
    let ended = context.reset_to(EventPosition::Earliest);
    assert!(matches!(ended, Err(CheckpointError::OwnershipLost)));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_position_holds_its_partition_back_and_is_tried_again_slowly() {
    let (hub, store) = (hub(), FlakyStore::new());
    put(&store, "0", 5).await;
    put(&store, "1", 1).await;
    // Once for each.
    for _ in 0..2 {
        hub.fail_next_open(TransportErrorKind::InvalidPosition);
    }
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    tokio::time::sleep(Duration::from_secs(20)).await;
    for partition in ["0", "1"] {
        assert_eq!(told(&recorder, partition), 1, "tried again at once");
        assert!(recorder.events(partition).is_empty());
    }
    assert_eq!(stored(&store, "0").await, Some(5));
    eventually(
        "both go on once the service accepts the position",
        || async { recorder.events("0") == [6, 7, 8, 9] && recorder.events("1") == [2, 3, 4] },
    )
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_hub_created_anew_is_noticed_and_only_a_policy_reads_it() {
    for policy in [InvalidPosition::Fail, InvalidPosition::Earliest] {
        let (hub, store) = (hub(), FlakyStore::new());
        put(&store, "0", 1000).await;
        let recorder = Recorder::new();
        let handle = spawn(&hub, &store, &recorder, policy);
        delivered(&recorder, "1", &[0, 1, 2, 3, 4]).await;
        if policy == InvalidPosition::Fail {
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert!(
                recorder.events("0").is_empty(),
                "read from nobody knows where"
            );
            assert_eq!(stored(&store, "0").await, Some(1000));
            assert!(told(&recorder, "0") >= 4, "reported once and forgotten");
        } else {
            delivered(&recorder, "0", &TEN).await;
            assert_eq!(stored(&store, "0").await, Some(9));
            assert_eq!(told(&recorder, "0"), 1);
        }
        handle.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_hub_created_anew_while_it_is_read_is_read_from_its_new_beginning() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Earliest);
    delivered(&recorder, "0", &TEN).await;
    // The service refuses to go on after offset 900.
    hub.fail_next_open(TransportErrorKind::InvalidPosition);
    hub.recreate("0");
    let new: Vec<_> = (0..20).map(|_| hub.send("0", "new")).collect();
    delivered(&recorder, "0", &[&TEN[..], &new].concat()).await;
    assert_eq!(store.written("0"), [&TEN[..], &new].concat(), "from 9 to 0");
    assert_eq!(told(&recorder, "0"), 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_answer_of_a_partition_that_lags_behind_its_checkpoint_moves_nothing() {
    let (hub, store) = (hub(), FlakyStore::new());
    put(&store, "0", 10).await;
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .with_invalid_position(InvalidPosition::Earliest)
        .with_retry_delay(Duration::from_secs(10), Duration::from_secs(60))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    tokio::time::sleep(Duration::from_secs(3)).await;
    hub.send("0", "it was there all the time");
    hub.send("0", "a");
    delivered(&recorder, "0", &[11]).await;
    assert_eq!(told(&recorder, "0"), 0);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_checkpoint_is_replaced_if_a_policy_says_so() {
    let (hub, store) = (hub(), FlakyStore::new());
    put(&store, "0", 3).await;
    store.spoil_checkpoint(Some("0"));
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_invalid_position(InvalidPosition::EnqueuedTime(
            std::time::SystemTime::UNIX_EPOCH,
        ))
        .with_checkpoint_policy(every_event())
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &TEN).await;
    eventually("the record is replaced", || async {
        stored(&store, "0").await == Some(9)
    })
    .await;
    assert_eq!(told(&recorder, "0"), 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn events_that_expired_unread_are_told_of_and_reading_goes_on() {
    let (hub, store) = (hub(), FlakyStore::new());
    put(&store, "0", 2).await;
    put(&store, "1", 2).await;
    hub.expire("0", 7);
    hub.expire("1", 3);
    let recorder = Recorder::new();
    let handle = spawn(&hub, &store, &recorder, InvalidPosition::Fail);
    delivered(&recorder, "0", &[7, 8, 9]).await;
    delivered(&recorder, "1", &[3, 4]).await;
    let errors: Vec<_> = recorder
        .seen()
        .into_iter()
        .filter(|seen| matches!(seen, Seen::Error(..)))
        .collect();
    let expired = "4 events after sequence number 2 have expired unread";
    assert_eq!(errors, [Seen::Error(Some("0".into()), expired.into())]);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rewound_checkpoint_is_adopted_if_that_is_the_policy() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_regression(CheckpointRegression::Adopt)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &TEN).await;
    put(&store, "0", 6).await;
    hub.send("0", "a");
    let expected = [&TEN[..], &[10, 7, 8, 9, 10]].concat();
    delivered(&recorder, "0", &expected).await;
    eventually("it grows again from there", || async {
        stored(&store, "0").await == Some(10)
    })
    .await;
    assert_eq!(handle.checkpoint_regressions_repaired(), 0);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_does_not_write_over_a_checkpoint_that_is_being_adopted() {
    let (hub, store) = (hub(), FlakyStore::new());
    let recorder = Recorder::without_checkpoints();
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_regression(CheckpointRegression::Adopt)
        .with_checkpoint_policy(every_event())
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &TEN).await;
    eventually("the last event is checkpointed", || async {
        stored(&store, "0").await == Some(9)
    })
    .await;
    put(&store, "0", 6).await;

    let written = store.written("0").len();
    hub.send("0", "a");
    delivered(&recorder, "0", &[&TEN[..], &[10, 7, 8, 9, 10]].concat()).await;
    let after = store.written("0").split_off(written);
    assert!(after.first() >= Some(&7) && after.is_sorted(), "{after:?}");
    handle.shutdown().await.unwrap();
}
