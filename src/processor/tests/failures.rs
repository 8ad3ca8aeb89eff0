//! What becomes of events whose hook fails.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::support::{
    Act, FlakyStore, Recorder, Seen, builder, delivered, eventually, owners, stored,
};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::{BoxError, BuildError, ProcessorError, TransportErrorKind};
use crate::processor::{
    CheckpointPolicy, CloseReason, FailureAction, FailurePolicy, ProcessorHandle,
};
use crate::transport::fake::FakeEventHub;

/// Four events in one partition, one of which fails as the recorder says.
fn started(
    recorder: &Recorder,
    policy: FailurePolicy,
) -> (FakeEventHub, FlakyStore, ProcessorHandle) {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..4 {
        hub.send("0", "a");
    }
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(policy)
        .with_dead_letter_sink(Letters::default())
        .build(recorder.clone())
        .unwrap()
        .spawn();
    (hub, store, handle)
}

fn errors(recorder: &Recorder) -> Vec<String> {
    let errors = recorder.seen().into_iter().filter_map(|seen| match seen {
        Seen::Error(_, error) => Some(error),
        _ => None,
    });
    errors.collect()
}

fn terms(recorder: &Recorder) -> usize {
    let starts = |seen: &Seen| matches!(seen, Seen::Initialized(_));
    recorder.seen().iter().filter(|seen| starts(seen)).count()
}

/// Keeps dead letters, and fails on request.
#[derive(Clone, Debug, Default)]
struct Letters {
    kept: Arc<Mutex<Vec<DeadLetter>>>,
    failures: Arc<Mutex<usize>>,
}

#[async_trait]
impl DeadLetterSink for Letters {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err("the sink is full".into());
        }
        self.kept.lock().unwrap().push(letter.clone());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_happens_in_place_and_nothing_overtakes_it() {
    let recorder = Recorder::new().acting("0", 1, Act::Fail(2));
    let (_hub, store, handle) = started(&recorder, FailurePolicy::retry(5));
    delivered(&recorder, "0", &[0, 1, 1, 1, 2, 3]).await;
    eventually("all is checkpointed", || async {
        stored(&store, "0").await == Some(3)
    })
    .await;
    assert_eq!(terms(&recorder), 1, "no new term");
    assert_eq!(errors(&recorder), ["`on_event` failed"; 2]);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_retried_like_an_error() {
    let recorder = Recorder::new().acting("0", 1, Act::Panic);
    let (_hub, _store, handle) = started(&recorder, FailurePolicy::retry(1));
    delivered(&recorder, "0", &[0, 1, 1, 2, 3]).await;
    assert_eq!(terms(&recorder), 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn once_the_retries_are_used_up_the_event_is_skipped_and_that_is_said() {
    let recorder = Recorder::without_checkpoints().acting("0", 1, Act::Fail(usize::MAX));
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..4 {
        hub.send("0", "a");
    }
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::retry(2).then(FailureAction::Skip))
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1, 1, 1, 2, 3]).await;
    let skipped = "the event with sequence number 1 is skipped";
    assert_eq!(errors(&recorder).last().unwrap(), skipped);
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(3), "it counts as done");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_not_passed_over_before_its_dead_letter_is_stored() {
    let letters = Letters::default();
    *letters.failures.lock().unwrap() = 3;
    let recorder = Recorder::new().acting("0", 1, Act::Fail(2));
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for body in ["a", "b", "c"] {
        hub.send("0", body);
    }
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::retry(1).then(FailureAction::DeadLetter))
        .with_dead_letter_sink(letters.clone())
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("the sink has been asked", || async {
        *letters.failures.lock().unwrap() == 2
    })
    .await;
    assert_eq!(recorder.events("0"), [0, 1, 1], "it waits for the sink");
    delivered(&recorder, "0", &[0, 1, 1, 2]).await;
    {
        let kept = letters.kept.lock().unwrap();
        let [letter] = &kept[..] else {
            panic!("one letter: {kept:?}")
        };
        assert_eq!(letter.event.body(), b"b");
        assert_eq!(letter.attempts, 2);
        assert_eq!(letter.reason, "`on_event` failed: on request");
        assert_eq!(letter.partition_id.as_str(), "0");
    }
    let told = errors(&recorder);
    assert_eq!(
        told.iter()
            .filter(|e| *e == "storing a dead letter")
            .count(),
        3
    );
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_says_itself_what_is_to_be_done() {
    let recorder = Recorder::new().acting("0", 1, Act::FailWith(FailureAction::Skip));
    let (_hub, _store, handle) = started(&recorder, FailurePolicy::default());
    delivered(&recorder, "0", &[0, 1, 2, 3]).await;
    assert_eq!(terms(&recorder), 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stopped_partition_stays_owned_until_it_is_resumed() {
    let recorder = Recorder::new().acting("0", 1, Act::Fail(1));
    let policy = FailurePolicy::default().then(FailureAction::StopPartition);
    let (_hub, store, handle) = started(&recorder, policy);
    eventually("it is stopped", || async {
        errors(&recorder).contains(&"the partition is stopped until it is resumed".to_owned())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(recorder.events("0"), [0, 1]);
    assert_eq!(owners(&store).await[&"0".into()], Some("me".into()));
    assert!(handle.resume(&"0".into()));
    delivered(&recorder, "0", &[0, 1, 1, 2, 3]).await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stopped_partition_does_not_hold_up_the_shutdown() {
    let recorder = Recorder::new().acting("0", 1, Act::Fail(1));
    let policy = FailurePolicy::default().then(FailureAction::StopPartition);
    let (_hub, store, handle) = started(&recorder, policy);
    delivered(&recorder, "0", &[0, 1]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let begun = Instant::now();
    assert_eq!(handle.shutdown().await.unwrap().cut_partitions, []);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(owners(&store).await[&"0".into()], None);
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_stop_the_processor_and_run_says_why() {
    let recorder = Recorder::new().acting("0", 1, Act::FailWith(FailureAction::StopProcessor));
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    for _ in 0..3 {
        hub.send("0", "a");
    }
    let processor = builder(&hub, &store, "me").build(recorder.clone()).unwrap();
    let callers = CancellationToken::new();
    let ended = timeout(Duration::from_secs(60), processor.run(callers.clone()));
    let error = ended.await.unwrap().unwrap_err();
    let ProcessorError::Handler { partition_id, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(partition_id.as_str(), "0");
    assert_eq!(recorder.events("0"), [0, 1]);
    assert_eq!(
        stored(&store, "0").await,
        Some(0),
        "what failed is not done"
    );
    assert!(
        owners(&store).await.values().all(Option::is_none),
        "a graceful stop"
    );
    assert!(!callers.is_cancelled(), "that token is not ours");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_during_a_retry_loses_nothing() {
    let recorder = Recorder::new().acting("0", 1, Act::Fail(4));
    let (hub, _store, handle) = started(&recorder, FailurePolicy::retry(10));
    delivered(&recorder, "0", &[0, 1, 1]).await;
    hub.disconnect("0", TransportErrorKind::LinkDetached);
    delivered(&recorder, "0", &[0, 1, 1, 1, 1, 1, 2, 3]).await;
    assert_eq!(terms(&recorder), 1);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_displaced_during_a_retry_tries_no_more() {
    let recorder = Recorder::new().acting("0", 1, Act::Fail(usize::MAX));
    let (hub, store, handle) = started(&recorder, FailurePolicy::retry(u32::MAX));
    delivered(&recorder, "0", &[0, 1, 1, 1]).await;
    store.put(&"0".into(), &"other".into()).await;
    hub.disconnect("0", TransportErrorKind::OwnershipLost);
    eventually("the term is closed", || async {
        let closed = Seen::Closed("0".to_owned(), CloseReason::OwnershipLost);
        recorder.seen().contains(&closed)
    })
    .await;
    let tried = recorder.events("0").len();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(recorder.events("0").len(), tried);
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_retry_and_nothing_of_it_is_checkpointed() {
    let recorder = Recorder::without_checkpoints().acting("0", 1, Act::Fail(usize::MAX));
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..3 {
        hub.send("0", "a");
    }
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::default().then(FailureAction::Retry))
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .with_retry_delay(Duration::from_secs(100), Duration::from_secs(1000))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1]).await;
    let begun = Instant::now();
    assert_eq!(handle.shutdown().await.unwrap().cut_partitions, []);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(stored(&store, "0").await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_skipped_as_a_whole() {
    struct Failing(Recorder);
    impl crate::processor::EventHandler for Failing {
        async fn on_event(
            &self,
            context: &crate::processor::PartitionContext,
            event: crate::model::ReceivedEvent,
        ) -> crate::processor::HandlerResult {
            self.0.on_event(context, event).await
        }
        async fn on_error(
            &self,
            context: Option<&crate::processor::PartitionContext>,
            error: &crate::error::ProcessingError,
        ) {
            self.0.on_error(context, error).await;
        }
    }
    let recorder = Recorder::without_checkpoints().acting("0", 1, Act::Fail(usize::MAX));
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..6 {
        hub.send("0", "a");
    }
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::default().then(FailureAction::Skip))
        .with_max_batch_size(NonZeroUsize::new(3).unwrap())
        .build(Failing(recorder.clone()))
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0, 1, 3, 4, 5]).await;
    let skipped = errors(&recorder)
        .iter()
        .filter(|e| e.ends_with("is skipped"))
        .count();
    assert_eq!(skipped, 3);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_waits_and_the_others_go_on() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "a");
    delivered(&recorder, "0", &[0]).await;
    assert!(handle.pause(&"0".into()));
    assert!(
        recorder
            .contexts()
            .iter()
            .any(|context| context.is_paused())
    );
    for partition in ["0", "1", "0", "1"] {
        hub.send(partition, "a");
    }
    delivered(&recorder, "1", &[0, 1]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(recorder.events("0"), [0]);
    assert_eq!(owners(&store).await[&"0".into()], Some("me".into()));
    handle.resume(&"0".into());
    delivered(&recorder, "0", &[0, 1, 2]).await;
    assert!(!handle.pause(&"7".into()), "nobody reads that one");
    handle.pause(&"0".into());
    let begun = Instant::now();
    handle.shutdown().await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "a pause holds up no stop"
    );
}

#[tokio::test]
async fn dead_letters_without_a_place_for_them_are_refused() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let refused = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::default().undecodable(FailureAction::DeadLetter))
        .build(Recorder::new())
        .unwrap_err();
    assert!(
        matches!(
            refused,
            BuildError::InvalidOption {
                option: "failure_policy",
                ..
            }
        ),
        "{refused}"
    );
}
