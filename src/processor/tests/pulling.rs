//! Partitions and events as streams.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::sticky::{Hanging, StickyHub};
use super::support::{FlakyStore, builder, eventually, owners, stored};
use crate::error::{
    BuildError, CheckpointError, ProcessorError, StoreErrorKind, TransportErrorKind,
};
use crate::model::{EventPosition, PartitionId};
use crate::processor::{
    CheckpointPolicy, CloseReason, EventProcessor, EventProcessorBuilder, FailureAction,
    FailurePolicy, Partition, Partitions, PullProcessor, StopReport, Stopper,
};
use crate::transport::fake::FakeEventHub;

fn is_spawnable<T: Send + 'static>() {}

#[test]
fn all_of_it_can_be_moved_into_a_task() {
    is_spawnable::<PullProcessor>();
    is_spawnable::<Partitions>();
    is_spawnable::<Partition>();
    is_spawnable::<Stopper>();
    fn is_stream<S: futures_util::Stream + Unpin>() {}
    is_stream::<Partitions>();
    is_stream::<Partition>();
}

/// A hub with so many events in each partition.
fn filled(partitions: usize, events: usize) -> FakeEventHub {
    let hub = FakeEventHub::new(partitions);
    for partition in 0..partitions {
        for _ in 0..events {
            hub.send(partition.to_string(), "a");
        }
    }
    hub
}

fn every_event(hub: &FakeEventHub, store: &FlakyStore) -> EventProcessorBuilder {
    let policy = CheckpointPolicy::EveryEvents(1.try_into().unwrap());
    builder(hub, store, "me").with_checkpoint_policy(policy)
}

/// Spawns, and notes what it is told.
fn spawn(builder: EventProcessorBuilder) -> (Partitions, Arc<Mutex<Vec<String>>>) {
    let errors = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&errors);
    let partitions = builder
        .build_pull()
        .unwrap()
        .on_error(move |_, error| told.lock().unwrap().push(error.to_string()))
        .spawn();
    (partitions, errors)
}

async fn next(partitions: &mut Partitions) -> Partition {
    let next = timeout(Duration::from_secs(60), partitions.next()).await;
    next.expect("a partition").unwrap().unwrap()
}

async fn number(partition: &mut Partition) -> i64 {
    let next = timeout(Duration::from_secs(60), partition.next()).await;
    next.expect("an event").unwrap().sequence_number()
}

#[tokio::test(start_paused = true)]
async fn an_event_is_done_when_the_next_is_asked_for() {
    let (hub, store) = (filled(1, 3), FlakyStore::new());
    let (mut partitions, errors) = spawn(every_event(&hub, &store));
    let mut partition = next(&mut partitions).await;
    assert_eq!(number(&mut partition).await, 0);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(stored(&store, "0").await, None, "not done yet");
    assert_eq!(number(&mut partition).await, 1);
    eventually("0 is done", || async {
        stored(&store, "0").await == Some(0)
    })
    .await;
    partition.complete();
    partition.complete();
    eventually("1 is done", || async {
        stored(&store, "0").await == Some(1)
    })
    .await;
    assert_eq!(number(&mut partition).await, 2);
    // Asking counts, even if nobody waits for the answer.
    assert!(partition.next().now_or_never().is_none());
    eventually("2 is done", || async {
        stored(&store, "0").await == Some(2)
    })
    .await;
    assert_eq!(partition.close_reason(), None);
    hub.send("0", "a");
    assert_eq!(partition.next().await.unwrap().sequence_number(), 3);
    drop(partition);
    assert!(errors.lock().unwrap().is_empty());
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_partition_is_read_in_a_task_of_its_own() {
    let (hub, store) = (filled(4, 100), FlakyStore::new());
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let stopper = partitions.stopper();
    let seen = Arc::<Mutex<Vec<(PartitionId, i64)>>>::default();
    let mut readers = tokio::task::JoinSet::new();
    let stop = tokio::spawn({
        let (seen, stopper) = (Arc::clone(&seen), stopper.clone());
        async move {
            eventually("all events", || async { seen.lock().unwrap().len() == 400 }).await;
            stopper.stop();
        }
    });
    while let Some(partition) = partitions.next().await {
        let mut partition = partition.unwrap();
        let seen = Arc::clone(&seen);
        readers.spawn(async move {
            while let Some(event) = partition.next().await {
                let place = (partition.partition_id().clone(), event.sequence_number());
                seen.lock().unwrap().push(place);
                partition.update_checkpoint(&event).await.unwrap();
            }
            partition.close_reason()
        });
    }
    stop.await.unwrap();
    let reasons = readers.join_all().await;
    assert_eq!(reasons, [Some(CloseReason::Shutdown); 4]);
    assert_eq!(partitions.shutdown().await.unwrap(), StopReport::default());
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 400);
    for partition in ["0", "1", "2", "3"] {
        assert_eq!(stored(&store, partition).await, Some(99));
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_are_streams() {
    let (hub, store) = (filled(1, 10), FlakyStore::new());
    let (mut partitions, _) = spawn(every_event(&hub, &store));
    let partition = futures_util::StreamExt::next(&mut partitions)
        .await
        .unwrap()
        .unwrap();
    let context = partition.context().clone();
    let numbers = partition.map(|event| event.sequence_number());
    let numbers: Vec<_> = numbers.take(5).collect().await;
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(context.partition_id(), &"0".into());
    // The fifth was not done when the stream went.
    let mut again = next(&mut partitions).await;
    assert_eq!(number(&mut again).await, 4);
    drop(again);
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_with_an_event_is_a_failure_and_the_event_comes_again() {
    // Even if the policy would go on: nobody has the events since the checkpoint any more.
    for policy in [
        FailurePolicy::default(),
        FailurePolicy::retry(9),
        FailurePolicy::default().then(FailureAction::Skip),
    ] {
        let (hub, store) = (filled(1, 5), FlakyStore::new());
        let (mut partitions, errors) = spawn(every_event(&hub, &store).with_failure_policy(policy));
        let mut partition = next(&mut partitions).await;
        assert_eq!(number(&mut partition).await, 0);
        assert_eq!(number(&mut partition).await, 1);
        let task = tokio::spawn(async move {
            let _partition = partition;
            panic!("on request");
        });
        assert!(task.await.unwrap_err().is_panic());
        let dropped = Instant::now();
        let mut again = next(&mut partitions).await;
        assert!(dropped.elapsed() > Duration::from_millis(100), "no wait");
        assert_eq!(stored(&store, "0").await, Some(0));
        for expected in 1..5 {
            assert_eq!(number(&mut again).await, expected);
        }
        assert_eq!(*errors.lock().unwrap(), ["`on_event` failed"]);
        drop(again);
        partitions.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_between_two_events_brings_all_since_the_checkpoint_again() {
    let (hub, store) = (filled(1, 3), FlakyStore::new());
    let (mut partitions, errors) = spawn(builder(&hub, &store, "me"));
    let mut partition = next(&mut partitions).await;
    let event = partition.next().await.unwrap();
    partition.update_checkpoint(&event).await.unwrap();
    for expected in 1..3 {
        assert_eq!(number(&mut partition).await, expected);
    }
    assert!(
        timeout(Duration::from_secs(9), partition.next())
            .await
            .is_err()
    );
    drop(partition);
    let mut again = next(&mut partitions).await;
    assert_eq!(number(&mut again).await, 1);
    assert_eq!(number(&mut again).await, 2);
    assert!(errors.lock().unwrap().is_empty());
    drop(again);
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_nobody_takes_waits_bounded_and_stays_owned() {
    let (hub, store) = (filled(1, 10_000), FlakyStore::new());
    let taken = Arc::<AtomicUsize>::default();
    let counting = StickyHub {
        inner: hub.clone(),
        hanging: Hanging::Nothing,
        taken: Arc::clone(&taken),
    };
    let builder_of_ours = EventProcessor::builder(counting, "$Default", store.clone())
        .with_owner_id("me")
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(10))
        .with_default_starting_position(EventPosition::Earliest);
    let (mut partitions, errors) = spawn(builder_of_ours);
    // Others would take it if it were not renewed.
    let others = store.beside();
    let rival = super::support::Recorder::new();
    let other = builder(&hub, &others, "rival")
        .build(rival.clone())
        .unwrap()
        .spawn();
    sleep(Duration::from_secs(3600)).await;
    let owner = owners(&store).await[&PartitionId::from("0")].clone();
    let opened = hub.opened_at("0").len();
    let rival_has_it = !rival.events("0").is_empty();
    assert_eq!((owner, opened, rival_has_it), (Some("me".into()), 1, false));
    let in_memory = taken.load(Ordering::Relaxed);
    assert!(in_memory <= 256, "{in_memory} events in memory");
    let status = partitions.handle().unwrap().status();
    let status = &status.partitions[&PartitionId::from("0")];
    assert_eq!(status.stalls, 0, "nobody asks: that is no stall");
    let mut partition = next(&mut partitions).await;
    for expected in 0..1000 {
        assert_eq!(number(&mut partition).await, expected);
    }
    assert!(errors.lock().unwrap().is_empty());
    drop(partition);
    other.shutdown().await.unwrap();
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_reader_and_its_last_checkpoint_counts() {
    let (hub, store) = (filled(1, 5), FlakyStore::new());
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let mut partition = next(&mut partitions).await;
    let first = partition.next().await.unwrap();
    let stopping = tokio::spawn(partitions.shutdown());
    sleep(Duration::from_secs(5)).await;
    assert!(!stopping.is_finished());
    assert!(partition.next().await.is_none(), "no event after the stop");
    assert_eq!(partition.close_reason(), Some(CloseReason::Shutdown));
    sleep(Duration::from_secs(5)).await;
    assert!(!stopping.is_finished());
    partition.update_checkpoint(&first).await.unwrap();
    assert!(owners(&store).await[&PartitionId::from("0")].is_some());
    drop(partition);
    assert_eq!(stopping.await.unwrap().unwrap(), StopReport::default());
    assert_eq!(stored(&store, "0").await, Some(0));
    assert_eq!(owners(&store).await[&PartitionId::from("0")], None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_come_back_is_cut_and_named() {
    for is_over in [false, true] {
        let (hub, store) = (filled(1, 5), FlakyStore::new());
        let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
        let mut partition = next(&mut partitions).await;
        let event = partition.next().await.unwrap();
        let stopper = partitions.stopper();
        let begun = Instant::now();
        stopper.stop_within(Duration::from_secs(4));
        if is_over {
            // The stream has ended, and the partition is kept all the same.
            assert!(partition.next().await.is_none());
        }
        let report = partitions.shutdown().await.unwrap();
        assert!(begun.elapsed() <= Duration::from_millis(5001));
        assert_eq!(report.cut_partitions, [PartitionId::from("0")]);
        assert!(partition.next().await.is_none());
        let refused = partition.update_checkpoint(&event).await;
        if is_over {
            drop(refused);
        } else {
            assert_eq!(partition.close_reason(), None, "nobody could tell it");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_event_that_nobody_took() {
    let (hub, store) = (filled(1, 1), FlakyStore::new());
    let (mut partitions, errors) = spawn(every_event(&hub, &store));
    let mut partition = next(&mut partitions).await;
    assert_eq!(number(&mut partition).await, 0);
    // Asked for, and not waited for.
    assert!(
        timeout(Duration::from_secs(1), partition.next())
            .await
            .is_err()
    );
    hub.send("0", "a");
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let stopping = tokio::spawn(partitions.shutdown());
    sleep(Duration::from_secs(1)).await;
    assert!(
        partition.next().await.is_none(),
        "it is left to the next owner"
    );
    drop(partition);
    assert_eq!(stopping.await.unwrap().unwrap(), StopReport::default());
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(errors.lock().unwrap().is_empty(), "it is no failure");
    assert_eq!(stored(&store, "0").await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_needs_nobody_for_partitions_that_were_not_taken() {
    let (hub, store) = (filled(3, 5), FlakyStore::new());
    let (partitions, _) = spawn(builder(&hub, &store, "me"));
    eventually("all are read", || async {
        ["0", "1", "2"].iter().all(|id| hub.receivers(*id) == 1)
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    assert_eq!(partitions.shutdown().await.unwrap(), StopReport::default());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_partition_ends_the_stream_and_refuses_checkpoints() {
    let (hub, store) = (filled(1, 5), FlakyStore::new());
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let mut partition = next(&mut partitions).await;
    let event = partition.next().await.unwrap();
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    // The link is asked for news every tenth of a second.
    sleep(Duration::from_secs(1)).await;
    assert!(partition.next().await.is_none());
    assert_eq!(partition.close_reason(), Some(CloseReason::OwnershipLost));
    let refused = partition.update_checkpoint(&event).await;
    assert!(matches!(refused, Err(CheckpointError::OwnershipLost)));
    drop(partition);
    // The records still say that it is ours.
    let mut again = next(&mut partitions).await;
    assert_eq!(number(&mut again).await, 0);
    drop(again);
    partitions.shutdown().await.unwrap();
}

/// A partition that nobody asks for the next event is like one that is paused: its link is heard.
#[tokio::test(start_paused = true)]
async fn a_loss_is_noticed_while_nobody_asks() {
    let (hub, store) = (filled(1, 5), FlakyStore::new());
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let partition = next(&mut partitions).await;
    eventually("it is read", || async { hub.receivers("0") == 1 }).await;
    sleep(Duration::from_secs(1)).await;
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(partition.close_reason(), Some(CloseReason::OwnershipLost));
    drop(partition);
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_failure_says_the_policy_or_the_error() {
    // Once more, and then again from the checkpoint.
    let (hub, store) = (filled(1, 5), FlakyStore::new());
    let policy = FailurePolicy::retry(1);
    let (mut partitions, errors) = spawn(every_event(&hub, &store).with_failure_policy(policy));
    let mut partition = next(&mut partitions).await;
    partition.fail("nothing to fail");
    assert_eq!(number(&mut partition).await, 0);
    assert_eq!(number(&mut partition).await, 1);
    partition.fail("first");
    assert_eq!(number(&mut partition).await, 1);
    partition.fail("second");
    assert!(partition.next().await.is_none());
    assert_eq!(partition.close_reason(), Some(CloseReason::Failed));
    let told = ["`on_event` failed"; 2];
    assert_eq!(*errors.lock().unwrap(), told);
    // The next stay does not begin beside this one.
    let other = timeout(Duration::from_secs(600), partitions.next()).await;
    assert!(other.is_err(), "two readers of one partition");
    drop(partition);
    let mut again = next(&mut partitions).await;
    assert_eq!(number(&mut again).await, 1);
    again.fail(FailureAction::Skip.because("this one is odd"));
    assert_eq!(number(&mut again).await, 2);
    again.fail(FailureAction::StopProcessor.because("enough"));
    assert!(again.next().await.is_none());
    drop(again);
    let error = partitions.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ProcessorError::Handler { .. }), "{error:?}");
    assert!(partitions.next().await.is_none());
    assert_eq!(stored(&store, "0").await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_seek_moves_the_stream() {
    let (hub, store) = (filled(1, 5), FlakyStore::new());
    let (mut partitions, errors) = spawn(builder(&hub, &store, "me"));
    let mut partition = next(&mut partitions).await;
    assert_eq!(number(&mut partition).await, 0);
    let position = EventPosition::sequence_number(3).inclusive();
    partition.context().seek(position).unwrap();
    assert!(partition.next().await.is_none());
    assert_eq!(partition.close_reason(), Some(CloseReason::Restarted));
    drop(partition);
    let mut moved = next(&mut partitions).await;
    assert_eq!(number(&mut moved).await, 3);
    assert_eq!(number(&mut moved).await, 4);
    assert!(timeout(Duration::from_secs(1), moved.next()).await.is_err());
    // A replay outlives a reader.
    drop(moved);
    let mut moved = next(&mut partitions).await;
    assert_eq!(number(&mut moved).await, 3);
    assert!(errors.lock().unwrap().is_empty());
    drop(moved);
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_hands_out_nothing() {
    let (hub, store) = (filled(1, 2), FlakyStore::new());
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let mut partition = next(&mut partitions).await;
    assert_eq!(number(&mut partition).await, 0);
    partition.context().pause();
    assert!(partition.context().is_paused());
    assert!(
        timeout(Duration::from_secs(600), partition.next())
            .await
            .is_err()
    );
    partition.context().resume();
    assert!(!partition.context().is_paused());
    assert_eq!(number(&mut partition).await, 1);
    drop(partition);
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_the_streams_and_a_wrong_start_is_told() {
    let (hub, store) = (filled(2, 5), FlakyStore::new());
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let mut partition = next(&mut partitions).await;
    assert_eq!(number(&mut partition).await, 0);
    drop(partitions);
    let end = timeout(Duration::from_secs(1), partition.next()).await;
    assert_eq!(end.unwrap(), None);
    assert_eq!(partition.close_reason(), None);
    drop(partition);
    let metrics = tokio::runtime::Handle::current().metrics();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(metrics.num_alive_tasks(), 0);
    let owned = owners(&store).await;
    assert!(
        owned.values().all(Option::is_some),
        "a crash gives nothing back"
    );

    store.fail(Some(StoreErrorKind::Unauthorized));
    let (mut partitions, _) = spawn(builder(&hub, &store, "me"));
    let error = partitions.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ProcessorError::CheckpointStore(_)));
    assert!(partitions.next().await.is_none());
    assert!(partitions.handle().is_none());
    partitions.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_for_a_stream_is_refused() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let two = 2.try_into().unwrap();
    for (option, builder) in [
        (
            "concurrency",
            builder(&hub, &store, "me").with_concurrency(two),
        ),
        (
            "max_batch_size",
            builder(&hub, &store, "me").with_max_batch_size(two),
        ),
        (
            "failure_policy",
            builder(&hub, &store, "me")
                .with_failure_policy(FailurePolicy::retry(1).then(FailureAction::DeadLetter)),
        ),
    ] {
        let Err(BuildError::InvalidOption {
            option: refused, ..
        }) = builder.build_pull()
        else {
            panic!("{option} was not refused");
        };
        assert_eq!(refused, option);
    }
}
