//! Messages that are no events.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::support::{FlakyStore, Recorder, Seen, builder, delivered, eventually, owners, stored};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::BoxError;
use crate::model::UndecodableReason;
use crate::processor::{
    CheckpointPolicy, EventProcessorBuilder, FailureAction, FailurePolicy, ProcessorHandle,
};
use crate::transport::fake::FakeEventHub;

#[derive(Clone, Debug, Default)]
struct Letters(Arc<Mutex<Vec<DeadLetter>>>);

#[async_trait]
impl DeadLetterSink for Letters {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(letter.clone());
        Ok(())
    }
}

/// Two events, one message that is none, two events.
fn started(
    hub: &FakeEventHub,
    store: &FlakyStore,
    recorder: &Recorder,
    has_place: bool,
    change: impl FnOnce(EventProcessorBuilder) -> EventProcessorBuilder,
) -> ProcessorHandle {
    hub.send("0", "a");
    hub.send("0", "b");
    hub.send_undecodable("0", "poison", has_place);
    hub.send("0", "c");
    hub.send("0", "d");
    let builder = builder(hub, store, "me").with_checkpoint_policy(CheckpointPolicy::Automatic);
    change(builder).build(recorder.clone()).unwrap().spawn()
}

fn policy(action: FailureAction) -> FailurePolicy {
    FailurePolicy::default().undecodable(action)
}

fn told(recorder: &Recorder, text: &str) -> usize {
    let is_it = |seen: &Seen| matches!(seen, Seen::Error(_, error) if error == text);
    recorder.seen().iter().filter(|seen| is_it(seen)).count()
}

#[tokio::test(start_paused = true)]
async fn by_default_the_partition_stands_still_and_says_so() {
    let (hub, store, recorder) = (
        FakeEventHub::new(1),
        FlakyStore::new(),
        Recorder::without_checkpoints(),
    );
    let handle = started(&hub, &store, &recorder, true, |builder| builder);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(
        recorder.events("0"),
        [0, 1],
        "nothing again, nothing beyond"
    );
    assert!(told(&recorder, "an event cannot be decoded") > 3);
    assert_eq!(stored(&store, "0").await, Some(1));
    assert_eq!(owners(&store).await[&"0".into()], Some("me".into()));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_is_skipped_if_that_is_the_policy_whether_it_says_where_it_stands_or_not() {
    for has_place in [true, false] {
        let (hub, store, recorder) = (
            FakeEventHub::new(1),
            FlakyStore::new(),
            Recorder::without_checkpoints(),
        );
        let handle = started(&hub, &store, &recorder, has_place, |builder| {
            builder.with_failure_policy(policy(FailureAction::Skip))
        });
        delivered(&recorder, "0", &[0, 1, 3, 4]).await;
        assert_eq!(
            told(&recorder, "the event with sequence number 2 is skipped"),
            1
        );
        assert_eq!(
            hub.opened_at("0").len(),
            1,
            "the link is good, and there is no gap"
        );
        handle.shutdown().await.unwrap();
        assert_eq!(stored(&store, "0").await, Some(4));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_the_last_is_checkpointed_if_it_says_where_it_stands() {
    for (has_place, expected) in [(true, 1), (false, 0)] {
        let (hub, store, recorder) = (
            FakeEventHub::new(1),
            FlakyStore::new(),
            Recorder::without_checkpoints(),
        );
        hub.send("0", "a");
        hub.send_undecodable("0", "poison", has_place);
        let handle = builder(&hub, &store, "me")
            .with_checkpoint_policy(CheckpointPolicy::Automatic)
            .with_failure_policy(policy(FailureAction::Skip))
            .build(recorder.clone())
            .unwrap()
            .spawn();
        eventually("it is skipped", || async {
            told(&recorder, "the event with sequence number 1 is skipped") == 1
        })
        .await;
        handle.shutdown().await.unwrap();
        assert_eq!(stored(&store, "0").await, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn it_becomes_a_dead_letter_as_it_came() {
    let (hub, store, recorder) = (
        FakeEventHub::new(1),
        FlakyStore::new(),
        Recorder::without_checkpoints(),
    );
    let letters = Letters::default();
    let sink = letters.clone();
    let handle = started(&hub, &store, &recorder, true, |builder| {
        builder
            .with_failure_policy(policy(FailureAction::DeadLetter))
            .with_dead_letter_sink(sink)
    });
    delivered(&recorder, "0", &[0, 1, 3, 4]).await;
    {
        let letters = letters.0.lock().unwrap();
        let [letter] = &letters[..] else {
            panic!("one letter: {letters:?}")
        };
        assert_eq!(letter.event.body(), b"poison");
        assert_eq!(letter.event.sequence_number(), 2);
        assert_eq!(letter.undecodable, Some(UndecodableReason::Malformed));
        assert_eq!(letter.attempts, 0);
    }
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn batches_end_before_it_and_begin_after_it() {
    let (hub, store, recorder) = (FakeEventHub::new(1), FlakyStore::new(), Recorder::new());
    let handle = started(&hub, &store, &recorder, true, |builder| {
        builder
            .with_failure_policy(policy(FailureAction::Skip))
            .with_max_batch_size(NonZeroUsize::new(100).unwrap())
            .with_max_wait_time(Duration::from_secs(1))
    });
    let batches = || {
        let batches = recorder.seen().into_iter().filter_map(|seen| match seen {
            Seen::Batch(_, numbers) => Some(numbers),
            _ => None,
        });
        batches.collect::<Vec<_>>()
    };
    eventually("both batches", || async {
        batches() == [vec![0, 1], vec![3, 4]]
    })
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_several_events_at_a_time_it_is_one_of_them() {
    let (hub, store, recorder) = (
        FakeEventHub::new(1),
        FlakyStore::new(),
        Recorder::without_checkpoints(),
    );
    let handle = started(&hub, &store, &recorder, false, |builder| {
        builder
            .with_failure_policy(policy(FailureAction::Skip))
            .with_concurrency(NonZeroUsize::new(4).unwrap())
    });
    eventually("all events", || async {
        let mut events = recorder.events("0");
        events.sort_unstable();
        events == [0, 1, 3, 4]
    })
    .await;
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(4));
}
