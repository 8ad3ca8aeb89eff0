//! The watchdog: what it does about deliveries that stop, and whom it leaves alone.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::support::{
    Act, Applied, FlakyStore, Recorder, Seen, builder, delivered, eventually, owners,
};
use crate::error::StoreErrorKind;
use crate::model::EventPosition;
use crate::processor::{
    CloseReason, EventProcessorBuilder, FailurePolicy, PartitionState, ProcessorHandle,
};
use crate::transport::fake::{FakeEventHub, StalledUntil};

const TIMEOUT: Duration = Duration::from_secs(8);
const LONG: Duration = Duration::from_secs(600);

fn watched(hub: &FakeEventHub, store: &FlakyStore, owner: &str) -> EventProcessorBuilder {
    builder(hub, store, owner).with_stall_timeout(Some(TIMEOUT))
}

/// The remedies that the application was told of, as the last words of the message.
fn remedies(recorder: &Recorder) -> Vec<String> {
    let seen = recorder.seen().into_iter();
    seen.filter_map(|seen| match seen {
        Seen::Error(Some(partition), message) => {
            assert_eq!(partition, "0");
            let remedy = message.split("although there are some; ").nth(1)?;
            Some(remedy.to_owned())
        }
        _ => None,
    })
    .collect()
}

const REOPEN: &str = "the receiver is opened again";
const RECONNECT: &str = "the receiver is opened again on a new connection";
const RELEASE: &str = "the partition is given back";

/// A processor that has delivered event 0 and whose partition swallows event 1.
async fn stalled(
    until: StalledUntil,
    change: impl FnOnce(EventProcessorBuilder) -> EventProcessorBuilder,
) -> (FakeEventHub, FlakyStore, Recorder, ProcessorHandle, Instant) {
    let (hub, store, recorder) = (FakeEventHub::new(1), FlakyStore::new(), Recorder::new());
    let processor = change(watched(&hub, &store, "me"))
        .build(recorder.clone())
        .unwrap();
    let handle = processor.spawn();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    hub.stall("0", until);
    hub.send("0", "b");
    (hub, store, recorder, handle, Instant::now())
}

fn partition(handle: &ProcessorHandle) -> crate::processor::PartitionStatus {
    handle.status().partitions[&"0".into()].clone()
}

#[tokio::test(start_paused = true)]
async fn credit_that_was_lost_is_told_again_before_anybody_calls_it_a_stall() {
    let (hub, _store, recorder, handle, since) = stalled(StalledUntil::Reminded, |b| b).await;
    delivered(&recorder, "0", &[0, 1]).await;
    assert!(since.elapsed() < TIMEOUT, "{:?}", since.elapsed());
    assert_eq!(hub.opened_at("0").len(), 1);
    assert_eq!(remedies(&recorder), [""; 0]);
    assert_eq!(partition(&handle).stalls, 0);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_brings_nothing_is_opened_again_after_the_last_event() {
    let (hub, _store, recorder, handle, since) = stalled(StalledUntil::Reopened, |b| b).await;
    delivered(&recorder, "0", &[0, 1]).await;
    // The time itself, until the next question and the next look, and the wait before the receiver is opened.
    let limit = TIMEOUT + TIMEOUT / 2 + Duration::from_secs(2);
    assert!(
        since.elapsed() >= TIMEOUT && since.elapsed() < limit,
        "{:?}",
        since.elapsed()
    );
    assert_eq!(hub.opened_at("0")[1..], [EventPosition::offset("0")]);
    assert_eq!(remedies(&recorder), [REOPEN]);
    eventually("it counts as over", || async {
        partition(&handle).state == PartitionState::Reading
    })
    .await;
    let status = partition(&handle);
    assert_eq!((status.stalls, status.events), (1, 2));
    assert!(status.last_error.unwrap().message.contains(REOPEN));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn then_the_connection_is_changed() {
    let (hub, _store, recorder, handle, since) = stalled(StalledUntil::Reconnected, |b| b).await;
    eventually("it is called a stall", || async {
        partition(&handle).state == PartitionState::Stalled
    })
    .await;
    delivered(&recorder, "0", &[0, 1]).await;
    assert!(since.elapsed() < TIMEOUT * 3, "{:?}", since.elapsed());
    assert_eq!(remedies(&recorder), [REOPEN, RECONNECT]);
    assert_eq!(hub.opened_at("0").len(), 3);
    assert_eq!(partition(&handle).stalls, 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_the_end_the_partition_goes_to_somebody_else() {
    let (hub, store, recorder, handle, _) = stalled(StalledUntil::Healed, |b| b).await;
    let other = Recorder::new();
    let second = watched(&hub, &store, "other")
        .build(other.clone())
        .unwrap()
        .spawn();
    let given_back = Applied::GivenBack("0".to_owned());
    eventually("it is given back", || async {
        store.applied().contains(&given_back)
    })
    .await;
    let closed = Seen::Closed("0".to_owned(), CloseReason::Stalled);
    assert!(recorder.seen().contains(&closed));
    assert_eq!(remedies(&recorder), [REOPEN, RECONNECT, RELEASE]);
    eventually("the other has it", || async {
        owners(&store).await[&"0".into()] == Some("other".into())
    })
    .await;
    hub.heal("0");
    delivered(&other, "0", &[1]).await;
    assert!(!handle.status().partitions.contains_key(&"0".into()));
    assert_eq!(recorder.events("0"), [0]);
    handle.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_is_alone_leaves_the_partition_for_a_while_and_tries_again() {
    let (hub, store, recorder, handle, _) = stalled(StalledUntil::Healed, |b| b).await;
    let given_back = Applied::GivenBack("0".to_owned());
    eventually("it is given back", || async {
        store.applied().contains(&given_back)
    })
    .await;
    let left = Instant::now();
    eventually("it is claimed again", || async {
        owners(&store).await[&"0".into()] == Some("me".into())
    })
    .await;
    assert!(
        left.elapsed() >= Duration::from_millis(1400),
        "{:?}",
        left.elapsed()
    );
    hub.heal("0");
    delivered(&recorder, "0", &[0, 1]).await;
    assert_eq!(partition(&handle).stalls, 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stall_from_the_start_is_found_too() {
    let (hub, store, recorder) = (FakeEventHub::new(1), FlakyStore::new(), Recorder::new());
    hub.send("0", "a");
    hub.stall("0", StalledUntil::Reconnected);
    let handle = watched(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0]).await;
    assert_eq!(remedies(&recorder), [REOPEN, RECONNECT]);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_calls_and_keys_in_parallel_hide_no_stall() {
    let idle = |b: EventProcessorBuilder| b.with_max_wait_time(Duration::from_millis(300));
    let (_hub, _store, recorder, handle, _) = stalled(StalledUntil::Reopened, idle).await;
    delivered(&recorder, "0", &[0, 1]).await;
    assert_eq!(remedies(&recorder), [REOPEN]);
    handle.shutdown().await.unwrap();

    let parallel = |b: EventProcessorBuilder| b.with_concurrency(NonZeroUsize::new(4).unwrap());
    let (_hub, _store, recorder, handle, _) = stalled(StalledUntil::Reopened, parallel).await;
    delivered(&recorder, "0", &[0, 1]).await;
    assert_eq!(remedies(&recorder), [REOPEN]);
    handle.shutdown().await.unwrap();
}

/// Nothing was done: one receiver, and no error.
fn untouched(hub: &FakeEventHub, recorder: &Recorder) {
    assert_eq!(hub.opened_at("0").len(), 1);
    assert_eq!(remedies(recorder), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_partition_is_never_touched() {
    let (hub, store, recorder) = (FakeEventHub::new(1), FlakyStore::new(), Recorder::new());
    let handle = watched(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    sleep(LONG).await;
    untouched(&hub, &recorder);
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    sleep(LONG).await;
    untouched(&hub, &recorder);
    // What has expired does not count: it never comes.
    for _ in 0..5 {
        hub.stall("0", StalledUntil::Healed);
        hub.send("0", "b");
    }
    hub.expire("0", 6);
    hub.heal("0");
    sleep(LONG).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn events_that_expired_unread_are_waited_for_by_nobody() {
    let (hub, store, recorder) = (FakeEventHub::new(1), FlakyStore::new(), Recorder::new());
    for _ in 0..6 {
        hub.send("0", "a");
    }
    hub.expire("0", 6);
    let handle = watched(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    sleep(LONG).await;
    untouched(&hub, &recorder);
    assert_eq!(partition(&handle).lag_events, Some(0));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_warned_of_once_and_never_disturbed() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new().acting("0", 1, Act::Hang);
    let handle = watched(&hub, &store, "me")
        .with_shutdown_timeout(Duration::from_secs(1))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    for _ in 0..1000 {
        hub.send("0", "a");
    }
    delivered(&recorder, "0", &[0, 1]).await;
    sleep(LONG).await;
    untouched(&hub, &recorder);
    let status = partition(&handle);
    assert_eq!((status.slow_calls, status.stalls), (1, 0));
    assert_eq!((status.running_calls, status.events_in_flight), (1, 1));
    assert_eq!(status.lag_events, Some(999));
    assert_eq!(owners(&store).await[&"0".into()], Some("me".into()));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_its_time_for_what_it_has_is_no_stall() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    // Shorter and longer than what counts as being at work.
    for takes in [Duration::from_millis(700), TIMEOUT * 2] {
        let recorder = Recorder::new().taking(takes);
        let handle = watched(&hub, &store, "me")
            .build(recorder.clone())
            .unwrap()
            .spawn();
        let opened = hub.opened_at("0").len();
        for _ in 0..30 {
            hub.send("0", "a");
        }
        sleep(LONG).await;
        assert_eq!(recorder.events("0").len(), 30);
        assert_eq!(hub.opened_at("0").len(), opened + 1);
        assert_eq!(remedies(&recorder), [""; 0]);
        handle.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_on_purpose_is_not_stalled() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new()
        .acting("0", 1, Act::Fail(1))
        .acting("0", 3, Act::Fail(500));
    let policy = FailurePolicy::retry(u32::MAX);
    let handle = watched(&hub, &store, "me")
        .with_failure_policy(policy)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    assert!(handle.pause(&"0".into()));
    hub.send("0", "b");
    sleep(LONG).await;
    untouched(&hub, &recorder);
    assert_eq!(partition(&handle).state, PartitionState::Paused);
    assert_eq!(partition(&handle).lag_events, Some(1));

    handle.resume(&"0".into());
    delivered(&recorder, "0", &[0, 1, 1]).await;
    hub.send("0", "c");
    hub.send("0", "d");
    sleep(LONG).await;
    untouched(&hub, &recorder);
    assert_eq!(partition(&handle).state, PartitionState::Retrying);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_watchdog_has_none() {
    let off = |b: EventProcessorBuilder| b.with_stall_timeout(None);
    let (hub, _store, recorder, handle, _) = stalled(StalledUntil::Reopened, off).await;
    sleep(LONG).await;
    untouched(&hub, &recorder);
    // It is seen all the same.
    assert_eq!(partition(&handle).lag_events, Some(1));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stall_during_an_outage_of_the_store_is_treated_and_given_back_later() {
    let (_hub, store, recorder, handle, _) = stalled(StalledUntil::Healed, |b| b).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    eventually("it is to be given back", || async {
        remedies(&recorder).contains(&RELEASE.to_owned())
    })
    .await;
    sleep(Duration::from_secs(5)).await;
    store.fail(None);
    // Either way it is read again, by us: nobody else is there.
    eventually("it is claimed again", || async {
        handle.status().partitions.contains_key(&"0".into())
    })
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_partition_that_stalls_disturbs_no_other() {
    let (hub, store, recorder) = (FakeEventHub::new(2), FlakyStore::new(), Recorder::new());
    let gate = Arc::new(Semaphore::new(1000));
    let handle = watched(&hub, &store, "me")
        .build(recorder.clone().gated(&gate))
        .unwrap()
        .spawn();
    hub.send("0", "a");
    hub.send("1", "a");
    delivered(&recorder, "0", &[0]).await;
    delivered(&recorder, "1", &[0]).await;
    hub.stall("0", StalledUntil::Healed);
    hub.send("0", "b");
    for number in 1..=60 {
        hub.send("1", "b");
        sleep(Duration::from_secs(1)).await;
        let expected: Vec<_> = (0..=number).collect();
        delivered(&recorder, "1", &expected).await;
    }
    assert!(remedies(&recorder).contains(&RELEASE.to_owned()));
    assert_eq!(hub.opened_at("1").len(), 1);
    handle.shutdown().await.unwrap();
}
