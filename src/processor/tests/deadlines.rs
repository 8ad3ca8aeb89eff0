//! A stop is over in time, whatever hangs, and says what it left behind.

use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::sticky::{Hanging, StickyHub, StickyStore, Switch};
use super::support::{Act, FlakyStore, Recorder, builder, delivered, eventually, owners};
use crate::error::{ProcessingError, StoreErrorKind};
use crate::model::{EventPosition, OwnerId, PartitionId, ReceivedEvent};
use crate::processor::{
    CloseReason, EventHandler, EventProcessor, EventProcessorBuilder, HandlerResult,
    PartitionContext, StopReport, Stopper, handler_fn, handler_fn_with,
};
use crate::transport::fake::FakeEventHub;

struct Stubborn {
    hanging: Hanging,
    stopper: Arc<Mutex<Option<Stopper>>>,
    running: Arc<AtomicUsize>,
}

impl Stubborn {
    async fn hang_at(&self, place: Hanging) {
        if self.hanging == place {
            self.running.fetch_add(1, Ordering::Relaxed);
            pending::<()>().await;
        }
    }
}

impl EventHandler for Stubborn {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        self.hang_at(Hanging::Event).await;
        match self.hanging {
            Hanging::Error => return Err("on request".into()),
            Hanging::Checkpoint => context.update_checkpoint(&event).await?,
            Hanging::Stop => {
                let stopper = self.stopper.lock().unwrap().clone();
                self.running.fetch_add(1, Ordering::Relaxed);
                stopper.unwrap().stopped().await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn on_idle(&self, _: &PartitionContext) -> HandlerResult {
        self.hang_at(Hanging::Idle).await;
        Ok(())
    }

    async fn on_partition_initialize(
        &self,
        _: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        self.hang_at(Hanging::Initialize).await;
        Ok(None)
    }

    async fn on_partition_close(&self, _: &PartitionContext, _: CloseReason) -> HandlerResult {
        self.hang_at(Hanging::Close).await;
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, _: &ProcessingError) {
        self.hang_at(Hanging::Error).await;
    }
}

const PARTITIONS: usize = 3;

fn all() -> Vec<PartitionId> {
    (0..PARTITIONS).map(|id| id.to_string().into()).collect()
}

/// Stops while something hangs; returns what was reported and how long it took.
async fn stop_while(
    hanging: Hanging,
    timeout: Duration,
    by_option: bool,
) -> (StopReport, Duration) {
    let (hub, store) = (FakeEventHub::new(PARTITIONS), FlakyStore::new());
    let hangs = Switch::default();
    let running = Arc::<AtomicUsize>::default();
    let stopper = Arc::<Mutex<Option<Stopper>>>::default();
    let sticky_hub = StickyHub {
        inner: hub.clone(),
        hanging,
        taken: Arc::default(),
    };
    let sticky_store = StickyStore {
        inner: store.clone(),
        hangs: hangs.clone(),
        hanging,
    };
    let mut builder = EventProcessor::builder(sticky_hub, "$Default", sticky_store)
        .with_owner_id("me")
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(10))
        .with_default_starting_position(EventPosition::Earliest);
    if hanging == Hanging::Idle {
        builder = builder.with_max_wait_time(Duration::from_secs(1));
    }
    if by_option {
        builder = builder.with_shutdown_timeout(timeout);
    }
    let handler = Stubborn {
        hanging,
        stopper: Arc::clone(&stopper),
        running: Arc::clone(&running),
    };
    let processor = builder.build(handler).unwrap();
    *stopper.lock().unwrap() = Some(processor.stopper());
    let handle = processor.spawn();
    // Past the claims, and not at the moment of a renewal.
    sleep(Duration::from_millis(5300)).await;
    if matches!(
        hanging,
        Hanging::Store | Hanging::Checkpoint | Hanging::Claim
    ) {
        hangs.turn();
    }
    for partition in all() {
        hub.send(partition, "a");
    }
    // Long enough for a renewal to be due.
    let patience = if hanging == Hanging::Claim {
        15_300
    } else {
        2300
    };
    sleep(Duration::from_millis(patience)).await;
    let begun = Instant::now();
    let report = if by_option {
        handle.shutdown().await.unwrap()
    } else {
        handle.shutdown_within(timeout).await.unwrap()
    };
    let took = begun.elapsed();
    let metrics = tokio::runtime::Handle::current().metrics();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(metrics.num_alive_tasks(), 0, "{hanging:?} left a task");
    if !matches!(
        hanging,
        Hanging::Store | Hanging::Checkpoint | Hanging::Claim
    ) {
        let owned = owners(&store).await;
        assert!(
            owned.values().all(Option::is_none),
            "{hanging:?}: {owned:?}"
        );
    }
    (report, took)
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_over_a_second_after_its_deadline_whatever_hangs() {
    use Hanging as H;
    let timeouts = [0, 1, 300, 5000].map(Duration::from_millis);
    for hanging in [
        H::Nothing,
        H::Event,
        H::Initialize,
        H::Close,
        H::Error,
        H::Idle,
        H::Checkpoint,
        H::Store,
        H::Claim,
        H::Read,
        H::Attach,
        H::LinkClose,
        H::Stop,
    ] {
        for timeout in timeouts {
            for by_option in [false, true] {
                let (report, took) = stop_while(hanging, timeout, by_option).await;
                let what = format!("{hanging:?} hangs, {timeout:?}, took {took:?}: {report:?}");
                // A millisecond is what the clock of tokio rounds up to.
                let limit = timeout + Duration::from_millis(1001);
                assert!(took <= limit, "{what}");
                let is_hook = !matches!(
                    hanging,
                    H::Nothing | H::Store | H::Claim | H::Read | H::Attach | H::LinkClose
                );
                if is_hook {
                    assert_eq!(report.cut_partitions, all(), "{what}");
                    assert!(took >= timeout, "cut too early: {what}");
                } else if timeout >= Duration::from_secs(1) {
                    assert!(report.cut_partitions.is_empty(), "{what}");
                }
                if matches!(hanging, H::Store | H::Checkpoint | H::Claim) {
                    assert_eq!(report.not_given_back, all(), "{what}");
                } else {
                    assert!(report.not_given_back.is_empty(), "{what}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_named_for_what_it_did_not_take_back() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let handle = builder(&hub, &store, "me")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("started", || async { hub.receivers("1") == 1 }).await;
    sleep(Duration::from_millis(100)).await;
    store.fail(Some(StoreErrorKind::Unavailable));
    let report = handle.shutdown().await.unwrap();
    assert_eq!(report.not_given_back.len(), 2, "{report:?}");
    assert!(report.cut_partitions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_keeps_its_partitions_has_not_failed_to_give_them_back() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let handle = builder(&hub, &store, "me")
        .with_keep_ownership_on_stop(true)
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("started", || async { hub.receivers("1") == 1 }).await;
    let report = handle.shutdown().await.unwrap();
    assert_eq!(report, StopReport::default());
    let kept = owners(&store).await;
    assert!(kept.values().all(Option::is_some), "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_a_stop_get_its_report() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    hub.send("0", "a");
    let recorder = Recorder::new().acting("0", 0, Act::Hang);
    let handle = builder(&hub, &store, "me")
        .with_shutdown_timeout(Duration::from_secs(2))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0]).await;
    let stopper = handle.stopper();
    let early = tokio::spawn({
        let stopper = stopper.clone();
        async move { stopper.stopped().await }
    });
    sleep(Duration::from_secs(5)).await;
    assert!(!early.is_finished(), "waiting alone stops nothing");
    assert!(!stopper.is_stopping());
    for _ in 0..3 {
        stopper.clone().stop();
        handle.stopper().stop();
    }
    assert!(stopper.is_stopping());
    let expected = StopReport {
        cut_partitions: vec!["0".into()],
        not_given_back: Vec::new(),
    };
    assert_eq!(handle.join().await.unwrap(), expected);
    assert_eq!(early.await.unwrap().as_ref(), Some(&expected));
    assert_eq!(stopper.stopped().await.as_ref(), Some(&expected));
    // After the end it has no effect.
    stopper.stop_within(Duration::ZERO);
    assert_eq!(stopper.stopped().await, Some(expected));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_stop_that_never_comes_is_told() {
    let told = async |stopper: Stopper| {
        let told = tokio::time::timeout(Duration::from_secs(60), stopper.stopped());
        assert_eq!(told.await.expect("told"), None);
    };
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let build = || builder(&hub, &store, "me").build(Recorder::new()).unwrap();
    let never_run = build();
    let stopper = never_run.stopper();
    drop(never_run);
    told(stopper).await;

    let crashed = build().spawn();
    let stopper = crashed.stopper();
    eventually("started", || async { hub.receivers("0") == 1 }).await;
    drop(crashed);
    told(stopper).await;

    store.fail(Some(StoreErrorKind::ContainerNotFound));
    let misconfigured = build();
    let stopper = misconfigured.stopper();
    misconfigured
        .run(CancellationToken::new())
        .await
        .unwrap_err();
    told(stopper).await;
}

#[tokio::test(start_paused = true)]
async fn a_processor_that_was_stopped_before_it_ran_reads_nothing() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    hub.send("0", "a");
    let recorder = Recorder::new();
    let processor = builder(&hub, &store, "me").build(recorder.clone()).unwrap();
    let stopper = processor.stopper();
    stopper.stop();
    sleep(Duration::from_secs(3600)).await;
    let report = processor.run(CancellationToken::new()).await.unwrap();
    assert_eq!(report, StopReport::default());
    assert_eq!(stopper.stopped().await, Some(report));
    assert!(recorder.seen().is_empty());
    assert!(owners(&store).await.values().all(Option::is_none));
}

/// Stops the processor with its second event.
async fn stopping_itself(
    builder: EventProcessorBuilder,
    hub: &FakeEventHub,
) -> (StopReport, Vec<i64>) {
    for _ in 0..5 {
        hub.send("0", "a");
    }
    let seen = Arc::<Mutex<Vec<i64>>>::default();
    let handler = handler_fn_with(Arc::clone(&seen), async |seen, context, event| {
        let event: ReceivedEvent = event;
        let context: PartitionContext = context;
        let seen: Arc<Mutex<Vec<i64>>> = seen;
        if event.sequence_number() == 1 {
            context.stop_processor();
            context.stop_processor();
            sleep(Duration::from_secs(1)).await;
        }
        context.update_checkpoint(&event).await?;
        seen.lock().unwrap().push(event.sequence_number());
        Ok(())
    });
    let processor = builder.build(handler).unwrap();
    let report = processor.run(CancellationToken::new()).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (report, seen)
}

#[tokio::test(start_paused = true)]
async fn a_hook_stops_its_own_processor_and_finishes_first() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (report, seen) = stopping_itself(builder(&hub, &store, "me"), &hub).await;
    assert_eq!(report, StopReport::default());
    assert_eq!(seen, [0, 1]);
    assert!(owners(&store).await.values().all(Option::is_none));
}

#[tokio::test(start_paused = true)]
async fn a_second_call_can_hurry_a_stop_and_none_can_slow_it_down() {
    for hurried in [false, true] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        hub.send("0", "a");
        let recorder = Recorder::new().acting("0", 0, Act::Hang);
        let handle = builder(&hub, &store, "me")
            .with_shutdown_timeout(Duration::from_secs(20))
            .build(recorder.clone())
            .unwrap()
            .spawn();
        delivered(&recorder, "0", &[0]).await;
        let stopper = handle.stopper();
        let begun = Instant::now();
        stopper.stop();
        sleep(Duration::from_secs(2)).await;
        if hurried {
            stopper.stop_within(Duration::from_secs(3));
        }
        stopper.stop_within(Duration::MAX);
        stopper.stop();
        handle.join().await.unwrap();
        let took = begun.elapsed().as_secs();
        assert_eq!(took, if hurried { 5 } else { 20 });
    }
}

#[tokio::test(start_paused = true)]
async fn more_time_than_the_option_says_lets_a_slow_hook_finish() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    hub.send("0", "a");
    let recorder = Recorder::new().taking(Duration::from_secs(50));
    let handle = builder(&hub, &store, "me")
        .with_shutdown_timeout(Duration::from_secs(1))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    delivered(&recorder, "0", &[0]).await;
    let report = handle.shutdown_within(Duration::from_secs(60)).await;
    assert_eq!(report.unwrap(), StopReport::default());
    assert_eq!(super::support::stored(&store, "0").await, Some(0));
}

/// One that waits for others to take over, and is told to hurry.
#[tokio::test(start_paused = true)]
async fn a_stop_that_lingers_can_be_hurried() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let kin = store.beside();
    let leaver = super::support::kin_builder(&hub, &store, "leaver")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    let stays = super::support::kin_builder(&hub, &kin, "stays")
        .build(Recorder::new())
        .unwrap()
        .spawn();
    eventually("both have one", || async {
        let owners = owners(&store).await;
        let ids = owners.values().flatten().map(OwnerId::as_str);
        ids.filter(|id| id.ends_with("stays")).count() == 1
    })
    .await;
    sleep(Duration::from_secs(5)).await;
    // Alive, and not able to take anything over.
    kin.fail(Some(StoreErrorKind::Unavailable));
    let stopper = leaver.stopper();
    let begun = Instant::now();
    stopper.stop();
    sleep(Duration::from_secs(2)).await;
    stopper.stop_within(Duration::from_secs(1));
    let report = leaver.join().await.unwrap();
    let took = begun.elapsed();
    assert!(took <= Duration::from_secs(4), "{took:?}");
    assert_eq!(report, StopReport::default());
    let owners = owners(&store).await;
    let is_leaver = |owner: &&OwnerId| owner.as_str().contains("leaver");
    assert!(
        !owners.values().flatten().any(|owner| is_leaver(&owner)),
        "{owners:?}"
    );
    drop(stays);
}

/// Counts panics on the threads of one runtime.
fn count_panics(thread: &'static str) -> Arc<AtomicUsize> {
    let count = Arc::<AtomicUsize>::default();
    let (counted, before) = (Arc::clone(&count), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some(thread) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    count
}

#[test]
fn a_runtime_that_goes_while_processors_run_and_stop_causes_no_panic() {
    const THREAD: &str = "a-runtime-that-goes";
    let panics = count_panics(THREAD);
    for round in 0..20_u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(THREAD)
            .enable_all()
            .build()
            .unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let handles = runtime.block_on(async {
            let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
            for partition in ["0", "1", "2", "3"] {
                for _ in 0..100 {
                    hub.send(partition, "a");
                }
            }
            let handler = move || {
                let done = done.clone();
                handler_fn(move |context: PartitionContext, event: ReceivedEvent| {
                    let done = done.clone();
                    async move {
                        context.update_checkpoint(&event).await?;
                        // The test has gone on.
                        let _ = done.send(());
                        sleep(Duration::from_millis(1)).await;
                        Ok(())
                    }
                })
            };
            let stopping = builder(&hub, &store, "stopping").build(handler()).unwrap();
            let stopper = stopping.stopper();
            let handles = [stopping.spawn(), {
                let other = builder(&hub, &store, "other").build(handler()).unwrap();
                other.spawn()
            }];
            let waiting = stopper.clone();
            tokio::spawn(async move { waiting.stopped().await });
            if round % 2 == 0 {
                stopper.stop();
            }
            handles
        });
        if round % 2 == 1 {
            is_done.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        match round % 4 {
            0 | 1 => runtime.shutdown_background(),
            _ => drop(runtime),
        }
        // Outside of any runtime.
        for handle in handles {
            assert!(!fmt::format(format_args!("{handle:?}")).is_empty());
            handle.stopper().stop();
            drop(handle);
        }
    }
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}
