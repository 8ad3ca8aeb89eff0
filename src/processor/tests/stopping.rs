//! The graceful stop and the crash.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::support::{
    Act, FlakyStore, Recorder, Seen, builder, delivered, eventually, owners, stored,
};
use crate::error::{CheckpointError, StoreErrorKind};
use crate::model::{PartitionId, ReceivedEvent};
use crate::processor::{CloseReason, EventHandler, HandlerResult, PartitionContext, handler_fn};
use crate::transport::fake::FakeEventHub;

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_running_handler_and_gives_the_partition_back_after_it() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let gate = Arc::new(Semaphore::new(0));
    let recorder = Recorder::new().gated(&gate);
    hub.send("0", "a");
    hub.send("0", "b");
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("the handler waits", || async { hub.receivers("0") == 1 }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stopping = tokio::spawn(handle.shutdown());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!stopping.is_finished());
    assert!(
        owners(&store).await[&PartitionId::from("0")].is_some(),
        "given back under the handler"
    );
    assert_eq!(
        hub.receivers("0"),
        1,
        "the link is held until the partition is given back"
    );
    store.delay_giving_back(Duration::from_millis(500));
    gate.add_permits(10);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(hub.receivers("0"), 1, "closed before it was given back");
    let report = stopping.await.unwrap().unwrap();
    assert!(report.cut_partitions.is_empty());
    assert_eq!(recorder.events("0"), [0], "no new event after the stop");
    assert_eq!(
        stored(&store, "0").await,
        Some(0),
        "the checkpoint of the running call counts"
    );
    assert_eq!(
        recorder.seen().last(),
        Some(&Seen::Closed("0".into(), CloseReason::Shutdown))
    );
    assert_eq!(owners(&store).await[&PartitionId::from("0")], None);
    assert_eq!(hub.receivers("0"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_returns_is_cut_at_the_deadline_and_reported() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    hub.send("0", "a");
    let recorder = Recorder::new().acting("0", 0, Act::Hang);
    let handle = builder(&hub, &store, "me")
        .with_shutdown_timeout(Duration::from_secs(7))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0]).await;
    let begun = Instant::now();
    store.delay_giving_back(Duration::from_millis(300));
    let stopping = tokio::spawn(handle.shutdown());
    tokio::time::sleep(Duration::from_millis(7100)).await;
    assert_eq!(hub.receivers("0"), 0, "given back while its handler ran");
    assert!(owners(&store).await[&PartitionId::from("0")].is_some());
    let report = stopping.await.unwrap().unwrap();
    assert_eq!(report.cut_partitions, [PartitionId::from("0")]);
    assert!(
        begun.elapsed() <= Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        owners(&store)
            .await
            .into_values()
            .all(|owner| owner.is_none())
    );
    assert_eq!(hub.receivers("0"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_in_time_when_the_store_is_down() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let recorder = Recorder::new();
    let handle = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("started", || async {
        hub.receivers("0") == 1 && hub.receivers("1") == 1
    })
    .await;
    store.fail(Some(StoreErrorKind::Unavailable));
    let begun = Instant::now();
    handle.shutdown().await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(31));
    assert_eq!(hub.receivers("0"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_leaves_no_receiver_and_no_task() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let recorder = Recorder::new();
    let run = builder(&hub, &store, "me")
        .build(recorder.clone())
        .unwrap()
        .run(CancellationToken::new());
    {
        let run = std::pin::pin!(run);
        let _ = tokio::time::timeout(Duration::from_secs(3), run).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    for partition in 0..4 {
        assert_eq!(hub.receivers(partition.to_string()), 0);
    }
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
    assert!(
        owners(&store)
            .await
            .into_values()
            .all(|owner| owner.is_some()),
        "nothing given back"
    );
}

/// Checkpoints the last event when the partition closes, as the Python samples do.
struct CheckpointOnClose {
    last: Mutex<Option<ReceivedEvent>>,
    result: Arc<Mutex<Option<Result<(), CheckpointError>>>>,
}

impl EventHandler for CheckpointOnClose {
    async fn on_event(&self, _: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        *self.last.lock().unwrap() = Some(event);
        Ok(())
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        _: CloseReason,
    ) -> HandlerResult {
        let last = self.last.lock().unwrap().clone();
        if let Some(last) = last {
            let result = context.update_checkpoint(&last).await;
            *self.result.lock().unwrap() = Some(result);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_close_hook_can_checkpoint_on_shutdown_but_not_after_a_loss() {
    for lost in [false, true] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        let result = Arc::default();
        let handler = CheckpointOnClose {
            last: None.into(),
            result: Arc::clone(&result),
        };
        hub.send("0", "a");
        let handle = builder(&hub, &store, "me").build(handler).unwrap().spawn();
        eventually("started", || async { hub.receivers("0") == 1 }).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if lost {
            hub.disconnect("0", crate::error::TransportErrorKind::OwnershipLost);
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else {
            handle.shutdown().await.unwrap();
        }
        let result = result.lock().unwrap().take().unwrap();
        if lost {
            assert!(
                matches!(result, Err(CheckpointError::OwnershipLost)),
                "{result:?}"
            );
            assert_eq!(stored(&store, "0").await, None);
        } else {
            result.unwrap();
            assert_eq!(stored(&store, "0").await, Some(0));
        }
    }
}

/// Stops the processor when an event comes.
struct Stopper(CancellationToken);

impl EventHandler for Stopper {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        self.0.cancel();
        // The stop waits for this call, and this call does not wait for the stop.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(context.update_checkpoint(&event).await?)
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_stop_the_processor_that_calls_it() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    hub.send("0", "a");
    hub.send("0", "b");
    let token = CancellationToken::new();
    let processor = builder(&hub, &store, "me")
        .build(Stopper(token.clone()))
        .unwrap();
    let begun = Instant::now();
    let report = processor.run(token).await.unwrap();
    assert!(report.cut_partitions.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(stored(&store, "0").await, Some(0), "and no other event");
    assert!(owners(&store).await.into_values().all(|o| o.is_none()));
}

/// A task that a hook leaves behind is the application's. It keeps nothing of ours going, and what it holds says so.
#[tokio::test(start_paused = true)]
async fn tasks_that_a_hook_leaves_behind_hold_up_no_stop() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let leaked = Arc::<Mutex<Vec<(PartitionContext, ReceivedEvent)>>>::default();
    let kept = Arc::clone(&leaked);
    let handler = handler_fn(move |context: PartitionContext, event: ReceivedEvent| {
        let kept = Arc::clone(&kept);
        async move {
            context.update_checkpoint(&event).await?;
            kept.lock().unwrap().push((context.clone(), event));
            drop(tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(context);
            }));
            Ok(())
        }
    });
    for _ in 0..100 {
        hub.send("0", "a");
    }
    let handle = builder(&hub, &store, "a").build(handler).unwrap().spawn();
    while leaked.lock().unwrap().len() < 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    let report = handle.shutdown().await.unwrap();
    assert!(report.cut_partitions.is_empty(), "{report:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(hub.receivers("0"), 0);
    let (context, event) = leaked.lock().unwrap().pop().unwrap();
    let late = context.update_checkpoint(&event).await;
    assert!(late.unwrap_err().is_ownership_lost());
}
