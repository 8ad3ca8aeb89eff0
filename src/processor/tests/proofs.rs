//! When nobody confirms that a partition is ours, and when somebody else goes by our name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::support::{
    FlakyStore, Recorder, Seen, delivered, eventually, kin_builder, owners, stored,
};
use crate::error::{CheckpointError, StoreErrorKind, TransportError, TransportErrorKind};
use crate::model::{
    EventHubProperties, EventParts, EventPosition, PartitionId, PartitionProperties, ReceivedEvent,
};
use crate::processor::{
    EventProcessor, EventProcessorBuilder, PartitionState, ProcessorHandle, UnprovenOwnership,
};
use crate::transport::fake::FakeEventHub;
use crate::transport::{PartitionReceiver, ReceiverOptions, Transport};

/// A hub whose receivers say how long their link has been silent.
#[derive(Clone, Debug)]
struct Talkative {
    hub: FakeEventHub,
    silence: Arc<AtomicU64>,
    /// Whether the hub answers questions about itself.
    is_mute: Arc<std::sync::atomic::AtomicBool>,
}

#[derive(Debug)]
struct TalkativeReceiver {
    inner: Box<dyn PartitionReceiver>,
    silence: Arc<AtomicU64>,
}

impl Talkative {
    fn new(hub: &FakeEventHub) -> Self {
        Self {
            hub: hub.clone(),
            silence: Arc::default(),
            is_mute: Arc::default(),
        }
    }

    fn set_silence(&self, seconds: u64) {
        self.silence.store(seconds, Ordering::Relaxed);
    }
}

#[async_trait]
impl Transport for Talkative {
    fn fully_qualified_namespace(&self) -> &str {
        self.hub.fully_qualified_namespace()
    }

    fn event_hub_name(&self) -> &str {
        self.hub.event_hub_name()
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        if self.is_mute.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.hub.event_hub_properties().await
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        self.hub.partition_properties(partition_id).await
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        let inner = self.hub.open_receiver(options).await?;
        let silence = Arc::clone(&self.silence);
        Ok(Box::new(TalkativeReceiver { inner, silence }))
    }

    async fn close(&self) {}
}

#[async_trait]
impl PartitionReceiver for TalkativeReceiver {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        self.inner.receive(max).await
    }

    fn silence(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.silence.load(Ordering::Relaxed)))
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

fn talkative_builder(hub: &Talkative, store: &FlakyStore) -> EventProcessorBuilder {
    EventProcessor::builder(hub.clone(), "$Default", store.clone())
        .with_seed(1)
        .with_load_balancing_interval(Duration::from_secs(2))
        .with_partition_ownership_expiration(Duration::from_secs(20))
        .with_default_starting_position(EventPosition::Earliest)
}

#[tokio::test(start_paused = true)]
async fn without_both_proofs_the_handler_pauses_and_either_brings_it_back() {
    for policy in [UnprovenOwnership::Pause, UnprovenOwnership::Continue] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        let talkative = Talkative::new(&hub);
        let recorder = Recorder::without_checkpoints();
        let handle = talkative_builder(&talkative, &store)
            .with_unproven_ownership(policy)
            .build(recorder.clone())
            .unwrap()
            .spawn();
        hub.send("0", "x");
        delivered(&recorder, "0", &[0]).await;
        let context = recorder.contexts().remove(0);

        // The store is down: the link is enough, for as long as it is.
        store.fail(Some(StoreErrorKind::Unavailable));
        sleep(Duration::from_secs(60)).await;
        hub.send("0", "x");
        delivered(&recorder, "0", &[0, 1]).await;

        talkative.set_silence(61);
        hub.send("0", "x");
        hub.send("0", "x");
        sleep(Duration::from_secs(30)).await;
        let unproven = Seen::Error(
            Some("0".into()),
            "it is not certain that this processor still owns the partition; it pauses".into(),
        );
        if policy == UnprovenOwnership::Continue {
            assert_eq!(recorder.events("0"), [0, 1, 2, 3]);
            assert!(!recorder.seen().contains(&unproven));
            handle.shutdown().await.unwrap();
            continue;
        }
        assert_eq!(recorder.events("0"), [0, 1]);
        let told = recorder.seen().into_iter().filter(|seen| *seen == unproven);
        assert_eq!(told.count(), 1);
        let parts = EventParts::new(0, "0", SystemTime::UNIX_EPOCH, "x");
        let event = ReceivedEvent::new(parts);
        let refused = context.update_checkpoint(&event).await.unwrap_err();
        assert!(
            matches!(refused, CheckpointError::OwnershipUnproven),
            "{refused:?}"
        );
        assert!(refused.is_transient() && !refused.is_ownership_lost());
        assert_eq!(stored(&store, "0").await, None);

        // A frame on the link is a proof.
        talkative.set_silence(1);
        delivered(&recorder, "0", &[0, 1, 2, 3]).await;
        talkative.set_silence(61);
        hub.send("0", "x");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(recorder.events("0"), [0, 1, 2, 3]);
        // And so is a renewal.
        store.fail(None);
        delivered(&recorder, "0", &[0, 1, 2, 3, 4]).await;
        context.update_checkpoint(&event).await.unwrap();
        assert_eq!(hub.opened_at("0").len(), 1, "the term went on");
        handle.shutdown().await.unwrap();
    }
}

/// Nothing comes, although the service holds more: on purpose.
#[tokio::test(start_paused = true)]
async fn a_partition_that_waits_for_a_proof_is_not_taken_for_stalled() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let talkative = Talkative::new(&hub);
    let recorder = Recorder::without_checkpoints();
    let handle = talkative_builder(&talkative, &store)
        .with_stall_timeout(Some(Duration::from_secs(8)))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    let state = || handle.status().partitions[&"0".into()].state;
    hub.send("0", "x");
    delivered(&recorder, "0", &[0]).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    talkative.set_silence(61);
    sleep(Duration::from_secs(60)).await;
    for _ in 0..500 {
        hub.send("0", "x");
    }
    sleep(Duration::from_secs(600)).await;
    assert_eq!(state(), PartitionState::Unproven);
    assert_eq!(hub.opened_at("0").len(), 1);
    store.fail(None);
    let all: Vec<_> = (0..=500).collect();
    delivered(&recorder, "0", &all).await;
    assert_eq!(state(), PartitionState::Reading);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_slept_through_its_lease_asks_the_link_before_it_calls_the_handler() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let gate = Arc::new(tokio::sync::Semaphore::new(1));
    let recorder = Recorder::without_checkpoints().gated(&gate);
    let handle = kin_builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    for _ in 0..5 {
        hub.send("0", "x");
    }
    delivered(&recorder, "0", &[0]).await;
    // Nothing of ours reaches the store any more, and somebody takes the partition; the news has not been read, since
    // the handler is busy with what came before.
    store.fail(Some(StoreErrorKind::Unavailable));
    sleep(Duration::from_secs(60)).await;
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    gate.add_permits(10);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(recorder.events("0"), [0, 1], "one call was under way");
    handle.shutdown().await.unwrap();
}

/// Events that were taken already are no reason to ask less.
#[tokio::test(start_paused = true)]
async fn who_holds_many_events_asks_the_link_all_the_same() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let gate = Arc::new(tokio::sync::Semaphore::new(1));
    let recorder = Recorder::without_checkpoints().gated(&gate);
    for _ in 0..400 {
        hub.send("0", "x");
    }
    let handle = kin_builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0]).await;
    // After a call that takes a while the link is asked for news, and brings more events.
    sleep(Duration::from_secs(1)).await;
    gate.add_permits(1);
    delivered(&recorder, "0", &[0, 1]).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    sleep(Duration::from_secs(60)).await;
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    gate.add_permits(400);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(recorder.events("0"), [0, 1, 2], "one call was under way");
    handle.shutdown().await.unwrap();
}

/// The lease is renewed by a whisker, again and again; the link is there all the time.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_after_a_lease_that_ran_out_during_the_call_is_covered_by_the_link() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let talkative = Talkative::new(&hub);
    let gate = Arc::new(tokio::sync::Semaphore::new(1));
    let recorder = Recorder::new().gated(&gate);
    let handle = talkative_builder(&talkative, &store)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "x");
    delivered(&recorder, "0", &[0]).await;
    // Nobody has asked the link since it was opened.
    sleep(Duration::from_secs(100)).await;
    hub.send("0", "x");
    sleep(Duration::from_millis(100)).await;
    store.fail_ownership(true);
    sleep(Duration::from_secs(10)).await;
    gate.add_permits(1);
    eventually("stored", || async { stored(&store, "0").await == Some(1) }).await;
    assert_eq!(recorder.events("0"), [0, 1]);
    store.fail_ownership(false);
    handle.shutdown().await.unwrap();
}

/// A processor that reads its only partition and has not reached the store for so long that its lease is over; with its
/// way to the store.
async fn without_a_lease(hub: &FakeEventHub, store: &FlakyStore) -> (FlakyStore, ProcessorHandle) {
    let (way, recorder) = (store.beside(), Recorder::new());
    let handle = kin_builder(hub, &way, "me")
        .with_retry_delay(Duration::from_millis(10), Duration::from_millis(10))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "x");
    delivered(&recorder, "0", &[0]).await;
    way.fail(Some(StoreErrorKind::Unavailable));
    sleep(Duration::from_secs(30)).await;
    (way, handle)
}

/// A processor that was not scheduled for long has no lease any more, and its link has broken.
#[tokio::test(start_paused = true)]
async fn who_has_neither_lease_nor_link_looks_at_the_records_before_it_attaches_again() {
    for is_lost in [true, false] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        let (way, handle) = without_a_lease(&hub, &store).await;
        if is_lost {
            store.put(&"0".into(), &"foreign".into()).await;
        }
        way.fail(None);
        hub.disconnect("0", TransportErrorKind::LinkDetached);
        hub.send("0", "x");
        sleep(Duration::from_secs(3)).await;
        let opened = if is_lost { 1 } else { 2 };
        assert_eq!(hub.opened_at("0").len(), opened);
        drop(handle);
    }
}

/// Not scheduled for a minute in the middle of the look, it looks again before it attaches.
#[tokio::test(start_paused = true)]
async fn who_sleeps_through_its_look_looks_again() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (way, handle) = without_a_lease(&hub, &store).await;
    hub.disconnect("0", TransportErrorKind::LinkDetached);
    sleep(Duration::from_secs(2)).await;
    way.stall(true);
    way.fail(None);
    tokio::time::advance(Duration::from_secs(60)).await;
    store.put(&"0".into(), &"foreign".into()).await;
    sleep(Duration::from_millis(100)).await;
    way.stall(false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        hub.opened_at("0").len(),
        1,
        "it displaced who reads by right"
    );
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_while_the_store_is_down_is_opened_again_without_a_lease() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::without_checkpoints();
    let handle = kin_builder(&hub, &store, "me")
        .with_retry_delay(Duration::from_millis(10), Duration::from_millis(10))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "x");
    delivered(&recorder, "0", &[0]).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    sleep(Duration::from_secs(30)).await;
    for number in 1..4 {
        let broken = Instant::now();
        hub.disconnect("0", TransportErrorKind::LinkDetached);
        hub.send("0", "x");
        let all: Vec<_> = (0..=number).collect();
        delivered(&recorder, "0", &all).await;
        // The first time the records might still tell.
        let bound = if number == 1 { 6 } else { 1 };
        let took = broken.elapsed();
        assert!(took < Duration::from_secs(bound), "{took:?}");
    }
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn two_processors_with_one_name_are_told_and_do_not_fight() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let (a, b) = (Recorder::new(), Recorder::new());
    let first = kin_builder(&hub, &store, "same")
        .build(a.clone())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(10)).await;
    let second = kin_builder(&hub, &store, "same")
        .build(b.clone())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(60)).await;
    let error = Seen::Error(
        None,
        "another processor uses the owner id `rs1-5000-same`".into(),
    );
    assert!(a.seen().contains(&error) || b.seen().contains(&error));
    let opened: usize = (0..4).map(|id| hub.opened_at(id.to_string()).len()).sum();
    sleep(Duration::from_secs(120)).await;
    let later: usize = (0..4).map(|id| hub.opened_at(id.to_string()).len()).sum();
    assert_eq!(opened, later, "partitions go to and fro");
    for partition in 0..4 {
        assert_eq!(hub.receivers(partition.to_string()), 1);
    }
    drop((first, second));
}

/// Both think that what either of them takes is theirs.
#[tokio::test(start_paused = true)]
async fn two_thieves_with_one_name_read_nothing_twice_at_a_time_and_leave_nothing_unread() {
    for promises in [true, false] {
        let (hub, store) = (FakeEventHub::new(8), FlakyStore::new());
        let recorders = [Recorder::new(), Recorder::new(), Recorder::new()];
        let start = |name: &str, recorder: &Recorder| {
            let mut builder = kin_builder(&hub, &store, name);
            if !promises {
                builder = super::support::builder(&hub, &store, name);
            }
            builder.build(recorder.clone()).unwrap().spawn()
        };
        let victim = start("victim", &recorders[0]);
        sleep(Duration::from_secs(20)).await;
        let thieves = (start("same", &recorders[1]), start("same", &recorders[2]));
        sleep(Duration::from_secs(60)).await;
        for partition in 0..8 {
            let partition = partition.to_string();
            assert_eq!(hub.receivers(partition.as_str()), 1, "{partition}");
            hub.send(partition.as_str(), "x");
        }
        sleep(Duration::from_secs(5)).await;
        for partition in 0..8 {
            let partition = partition.to_string();
            let seen = recorders.iter().map(|r| r.events(&partition).len());
            assert_eq!(seen.sum::<usize>(), 1, "{partition}");
        }
        let is_told = |recorder: &&Recorder| {
            let is_twin =
                |seen: &Seen| matches!(seen, Seen::Error(_, text) if text.contains("owner id"));
            recorder.seen().iter().any(is_twin)
        };
        assert!(recorders[1..].iter().any(|recorder| is_told(&recorder)));
        assert!(!is_told(&&recorders[0]));
        drop((victim, thieves));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_hub_that_does_not_answer_costs_no_partition() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let talkative = Talkative::new(&hub);
    let recorder = Recorder::new();
    let handle = talkative_builder(&talkative, &store)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(5)).await;
    talkative.is_mute.store(true, Ordering::Relaxed);
    let other = kin_builder(&hub, &store, "other")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(120)).await;
    let mine = owners(&store)
        .await
        .into_values()
        .filter(|owner| owner.as_ref() == Some(handle.owner_id()));
    assert_eq!(mine.count(), 1);
    drop((handle, other));
}

#[tokio::test(start_paused = true)]
async fn new_partitions_are_read_within_two_intervals() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = kin_builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(30)).await;
    let grown = Instant::now();
    hub.send("1", "x");
    eventually("read", || async { recorder.events("1") == [0] }).await;
    assert!(
        grown.elapsed() <= Duration::from_secs(4),
        "{:?}",
        grown.elapsed()
    );
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_day_that_the_local_clock_shows_changes_nothing() {
    for days in [-1000_i64, 1000] {
        let (hub, store) = (FakeEventHub::new(4), FlakyStore::days_off(days));
        let (a, b) = (Recorder::new(), Recorder::new());
        let first = kin_builder(&hub, &store, "a")
            .build(a.clone())
            .unwrap()
            .spawn();
        let second = kin_builder(&hub, &store, "b")
            .build(b.clone())
            .unwrap()
            .spawn();
        sleep(Duration::from_secs(30)).await;
        let before = owners(&store).await;
        let opened = hub.opened_at("0").len();
        sleep(Duration::from_secs(300)).await;
        assert_eq!(owners(&store).await, before);
        assert_eq!(hub.opened_at("0").len(), opened);
        drop(first);
        sleep(Duration::from_secs(5 + 3)).await;
        for partition in 0..4 {
            hub.send(partition.to_string(), "x");
            delivered(&b, &partition.to_string(), &[0]).await;
        }
        second.shutdown().await.unwrap();
    }
}
