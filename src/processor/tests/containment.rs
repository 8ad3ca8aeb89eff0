//! A panic of the application ends nothing but its own call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::support::{FlakyStore, builder, eventually};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::{BoxError, ProcessingError};
use crate::model::{EventPosition, ReceivedEvent};
use crate::processor::{
    CloseReason, EventHandler, FailureAction, FailurePolicy, HandlerResult, PartitionContext,
};
use crate::transport::fake::FakeEventHub;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Event,
    EventBatch,
    Idle,
    Initialize,
    Close,
    Error,
    DeadLetter,
}

/// Panics once in one hook of partition 0, in its future or before there is one.
#[derive(Clone, Debug)]
struct Panicker {
    hook: Hook,
    is_early: bool,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    has_panicked: AtomicBool,
    has_failed: AtomicBool,
    done: Mutex<Vec<(String, i64)>>,
    errors: Mutex<Vec<String>>,
    letters: Mutex<Vec<i64>>,
}

impl Panicker {
    /// Called twice in each hook.
    fn strike(&self, hook: Hook, is_early: bool, partition: &str) {
        if hook == self.hook
            && is_early == self.is_early
            && partition == "0"
            && !self.shared.has_panicked.swap(true, Ordering::Relaxed)
        {
            panic!("on request");
        }
    }

    fn fail_once(&self, context: &PartitionContext) -> HandlerResult {
        let needs_failure = matches!(self.hook, Hook::Close | Hook::Error | Hook::DeadLetter);
        let is_first = !self.shared.has_failed.swap(true, Ordering::Relaxed);
        if needs_failure && context.partition_id().as_str() == "0" && is_first {
            let action = match self.hook {
                Hook::DeadLetter => FailureAction::DeadLetter,
                _ => FailureAction::Restart,
            };
            return Err(action.because("on request"));
        }
        Ok(())
    }

    fn note(&self, context: &PartitionContext, event: &ReceivedEvent) {
        let place = (context.partition_id().to_string(), event.sequence_number());
        self.shared.done.lock().unwrap().push(place);
    }
}

impl EventHandler for Panicker {
    fn on_event(
        &self,
        context: &PartitionContext,
        event: ReceivedEvent,
    ) -> impl Future<Output = HandlerResult> + Send {
        self.strike(Hook::Event, true, context.partition_id().as_str());
        async move {
            self.strike(Hook::Event, false, context.partition_id().as_str());
            if context.partition_id().as_str() == "0" {
                self.fail_once(context)?;
            }
            context.update_checkpoint(&event).await?;
            self.note(context, &event);
            Ok(())
        }
    }

    fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> impl Future<Output = HandlerResult> + Send {
        self.strike(Hook::EventBatch, true, context.partition_id().as_str());
        async move {
            self.strike(Hook::EventBatch, false, context.partition_id().as_str());
            for event in events {
                context.update_checkpoint(&event).await?;
                self.note(context, &event);
            }
            Ok(())
        }
    }

    fn on_idle(&self, context: &PartitionContext) -> impl Future<Output = HandlerResult> + Send {
        self.strike(Hook::Idle, true, context.partition_id().as_str());
        async move {
            self.strike(Hook::Idle, false, context.partition_id().as_str());
            Ok(())
        }
    }

    fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> impl Future<Output = HandlerResult<Option<EventPosition>>> + Send {
        self.strike(Hook::Initialize, true, context.partition_id().as_str());
        async move {
            self.strike(Hook::Initialize, false, context.partition_id().as_str());
            Ok(None)
        }
    }

    fn on_partition_close(
        &self,
        context: &PartitionContext,
        _: CloseReason,
    ) -> impl Future<Output = HandlerResult> + Send {
        self.strike(Hook::Close, true, context.partition_id().as_str());
        async move {
            self.strike(Hook::Close, false, context.partition_id().as_str());
            Ok(())
        }
    }

    fn on_error(
        &self,
        context: Option<&PartitionContext>,
        error: &ProcessingError,
    ) -> impl Future<Output = ()> + Send {
        let partition = context.map_or("", |context| context.partition_id().as_str());
        self.shared.errors.lock().unwrap().push(error.to_string());
        self.strike(Hook::Error, true, partition);
        async move {
            self.strike(Hook::Error, false, partition);
        }
    }
}

#[derive(Debug)]
struct Sink(Panicker);

#[async_trait]
impl DeadLetterSink for Sink {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let panicker = &self.0;
        panicker.strike(
            Hook::DeadLetter,
            panicker.is_early,
            letter.partition_id.as_str(),
        );
        let number = letter.event.sequence_number();
        panicker.shared.letters.lock().unwrap().push(number);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_any_hook_is_told_and_nothing_is_lost() {
    for (hook, name) in [
        (Hook::Event, "`on_event` panicked"),
        (Hook::EventBatch, "`on_event_batch` panicked"),
        (Hook::Idle, "`on_idle` panicked"),
        (Hook::Initialize, "`on_partition_initialize` panicked"),
        (Hook::Close, "`on_partition_close` panicked"),
        // Told what it panicked at, and nobody is left to be told of the panic.
        (Hook::Error, "`on_event` failed"),
        (Hook::DeadLetter, "storing a dead letter"),
    ] {
        for is_early in [false, true] {
            let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
            for partition in ["0", "1"] {
                for _ in 0..3 {
                    hub.send(partition, "a");
                }
            }
            let panicker = Panicker {
                hook,
                is_early,
                shared: Arc::default(),
            };
            let mut builder = builder(&hub, &store, "me")
                .with_failure_policy(FailurePolicy::default())
                .with_dead_letter_sink(Sink(panicker.clone()));
            if hook == Hook::EventBatch {
                builder = builder.with_max_batch_size(2.try_into().unwrap());
            }
            if hook == Hook::Idle {
                builder = builder.with_max_wait_time(Duration::from_secs(1));
            }
            let handle = builder.build(panicker.clone()).unwrap().spawn();
            let shared = &panicker.shared;
            let what = format!("{hook:?}, early: {is_early}");
            eventually(&format!("the panic: {what}"), || async {
                shared.has_panicked.load(Ordering::Relaxed)
            })
            .await;
            for partition in ["0", "1"] {
                hub.send(partition, "a");
            }
            eventually(&format!("all events: {what}"), || async {
                let mut done = shared.done.lock().unwrap().clone();
                let letters = shared.letters.lock().unwrap().clone();
                done.extend(letters.into_iter().map(|number| ("0".to_owned(), number)));
                ["0", "1"].into_iter().all(|partition| {
                    (0..4).all(|number| done.contains(&(partition.to_owned(), number)))
                })
            })
            .await;
            let errors = shared.errors.lock().unwrap().clone();
            assert!(
                errors.iter().any(|error| error == name),
                "{what}: {errors:?}"
            );
            let done = shared.done.lock().unwrap().clone();
            let others: Vec<_> = done.iter().filter(|place| place.0 == "1").collect();
            assert_eq!(others.len(), 4, "{what}: the other partition was disturbed");
            assert!(!handle.is_finished(), "{what}");
            let report = handle.shutdown().await.unwrap();
            assert!(report.cut_partitions.is_empty(), "{what}");
        }
    }
}
