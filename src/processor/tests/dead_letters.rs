//! Events that become dead letters, and those behind them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::sticky::{Hanging, StickyHub};
use super::support::{FlakyStore, builder, eventually, stored};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::{BoxError, DeadLetterError, ProcessingError};
use crate::model::{EventPosition, ReceivedEvent};
use crate::processor::{
    CheckpointPolicy, EventHandler, EventProcessor, FailureAction, FailurePolicy, HandlerResult,
    PartitionContext,
};
use crate::transport::fake::FakeEventHub;

/// Keeps letters, after it has failed so many times.
#[derive(Clone, Debug, Default)]
struct Letters {
    failures: Arc<AtomicUsize>,
    stored: Arc<Mutex<Vec<DeadLetter>>>,
}

impl Letters {
    fn failing(times: usize) -> Self {
        let letters = Self::default();
        letters.failures.store(times, Ordering::Relaxed);
        letters
    }

    fn numbers(&self) -> Vec<i64> {
        let stored = self.stored.lock().unwrap();
        stored
            .iter()
            .map(|letter| letter.event.sequence_number())
            .collect()
    }
}

#[async_trait]
impl DeadLetterSink for Letters {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let fails = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if fails.is_ok() {
            return Err("full".into());
        }
        self.stored.lock().unwrap().push(letter.clone());
        Ok(())
    }
}

/// Cannot process event 1.
#[derive(Clone, Default)]
struct Picky {
    done: Arc<Mutex<Vec<i64>>>,
    errors: Arc<Mutex<Vec<String>>>,
    /// Buries what it cannot process itself.
    buries: bool,
    buried: Arc<Mutex<Option<Result<(), DeadLetterError>>>>,
}

impl EventHandler for Picky {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let number = event.sequence_number();
        if number == 1 && self.buries {
            let result = context.dead_letter(&event, "odd").await;
            *self.buried.lock().unwrap() = Some(result);
        } else if number == 1 {
            return Err("x".repeat(2 * DeadLetter::MAX_REASON).into());
        }
        self.done.lock().unwrap().push(number);
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        self.errors.lock().unwrap().push(error.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_waits_until_its_letter_is_safe_and_nothing_behind_it_goes_ahead() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..4 {
        hub.send("0", "a");
    }
    let (letters, picky) = (Letters::failing(6), Picky::default());
    let handle = builder(&hub, &store, "me")
        .with_checkpoint_policy(CheckpointPolicy::EveryEvents(1.try_into().unwrap()))
        .with_failure_policy(FailurePolicy::retry(1).then(FailureAction::DeadLetter))
        .with_retry_delay(Duration::from_secs(1), Duration::from_secs(10))
        .with_dead_letter_sink(letters.clone())
        .build(picky.clone())
        .unwrap()
        .spawn();
    eventually("the sink has failed a few times", || async {
        letters.failures.load(Ordering::Relaxed) <= 2
    })
    .await;
    assert_eq!(*picky.done.lock().unwrap(), [0], "passed over");
    assert_eq!(stored(&store, "0").await, Some(0));
    eventually("the rest", || async {
        picky.done.lock().unwrap().len() == 3
    })
    .await;
    assert_eq!(*picky.done.lock().unwrap(), [0, 2, 3]);
    assert_eq!(letters.numbers(), [1]);
    let letter = letters.stored.lock().unwrap()[0].clone();
    assert_eq!(letter.attempts, 2);
    assert_eq!(letter.partition_id, "0".into());
    assert_eq!(letter.owner_id, "me".into());
    assert!(letter.reason.starts_with("`on_event` failed: xxx"));
    assert!(letter.reason.len() <= DeadLetter::MAX_REASON);
    assert!(letter.reason.ends_with('…'));
    let told = picky.errors.lock().unwrap().clone();
    let full = told.iter().filter(|told| *told == "storing a dead letter");
    assert_eq!(full.count(), 6, "{told:?}");
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_sink_fails_leaves_the_event_to_the_next_owner() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..3 {
        hub.send("0", "a");
    }
    let start = |letters: &Letters, picky: &Picky| {
        builder(&hub, &store, "me")
            .with_checkpoint_policy(CheckpointPolicy::Automatic)
            .with_failure_policy(FailurePolicy::default().then(FailureAction::DeadLetter))
            .with_dead_letter_sink(letters.clone())
            .build(picky.clone())
            .unwrap()
            .spawn()
    };
    let (full, picky) = (Letters::failing(usize::MAX), Picky::default());
    let handle = start(&full, &picky);
    eventually("the sink fails", || async {
        full.failures.load(Ordering::Relaxed) < usize::MAX - 2
    })
    .await;
    let report = handle.shutdown().await.unwrap();
    assert!(report.cut_partitions.is_empty(), "a wait is not cut");
    assert_eq!(stored(&store, "0").await, Some(0));
    let (letters, next) = (Letters::default(), Picky::default());
    let handle = start(&letters, &next);
    eventually("the rest", || async {
        !next.done.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(letters.numbers(), [1]);
    assert_eq!(*next.done.lock().unwrap(), [2]);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_an_event_that_cannot_be_buried_is_bounded() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..10_000 {
        hub.send("0", "a");
    }
    let taken = Arc::<AtomicUsize>::default();
    let counting = StickyHub {
        inner: hub.clone(),
        hanging: Hanging::Nothing,
        taken: Arc::clone(&taken),
    };
    let (full, picky) = (Letters::failing(usize::MAX), Picky::default());
    let handle = EventProcessor::builder(counting, "$Default", store)
        .with_default_starting_position(EventPosition::Earliest)
        .with_failure_policy(FailurePolicy::default().then(FailureAction::DeadLetter))
        .with_dead_letter_sink(full.clone())
        .build(picky.clone())
        .unwrap()
        .spawn();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(full.failures.load(Ordering::Relaxed) < usize::MAX - 50);
    assert_eq!(*picky.done.lock().unwrap(), [0]);
    let in_memory = taken.load(Ordering::Relaxed);
    assert!(in_memory <= 400, "{in_memory} events in memory");
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_buries_a_single_event() {
    for (has_sink, fails) in [(true, 0), (true, 1), (false, 0)] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        for _ in 0..3 {
            hub.send("0", "a");
        }
        let letters = Letters::failing(fails);
        let picky = Picky {
            buries: true,
            ..Picky::default()
        };
        let mut builder = builder(&hub, &store, "me").with_max_batch_size(10.try_into().unwrap());
        if has_sink {
            builder = builder.with_dead_letter_sink(letters.clone());
        }
        let handle = builder.build(picky.clone()).unwrap().spawn();
        eventually("all", || async { picky.done.lock().unwrap().len() == 3 }).await;
        let result = picky.buried.lock().unwrap().take().unwrap();
        match (has_sink, fails) {
            (true, 0) => {
                result.unwrap();
                let letter = letters.stored.lock().unwrap()[0].clone();
                assert_eq!((letter.event.sequence_number(), letter.attempts), (1, 1));
                assert_eq!(letter.reason, "odd");
            }
            (true, _) => {
                let error = result.unwrap_err();
                assert!(matches!(error, DeadLetterError::Store(_)), "{error:?}");
                assert!(error.is_transient());
            }
            (false, _) => {
                let error = result.unwrap_err();
                assert!(matches!(error, DeadLetterError::NoSink), "{error:?}");
                assert!(!error.is_transient());
            }
        }
        handle.shutdown().await.unwrap();
    }
}
