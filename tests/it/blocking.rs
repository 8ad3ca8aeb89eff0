//! Handlers that block their threads: what goes on meanwhile, and what does not.

use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, CheckpointStore as _, ControlThread, EventHandler,
    EventPosition, EventProcessor, EventProcessorBuilder, GroupScope, HandlerResult,
    PartitionContext, ProcessingError, ReceivedEvent, Transport as _,
};
use tokio::runtime::{Builder, Runtime};

const HUB: &str = "hub";

/// Within this time others of our kind may take a silent owner for dead; half a second is theirs to be late in.
const SUSPECT_TIME: Duration = Duration::from_secs(3);
const LATEST: Duration = Duration::from_millis(2500);

async fn emulator(partitions: u32) -> Emulator {
    let emulator = Emulator::builder()
        .with_hub(HUB, partitions)
        .start()
        .await
        .unwrap();
    emulator.create_container("checkpoints").unwrap();
    emulator
}

fn transport(emulator: &Emulator) -> AmqpTransport {
    AmqpTransport::from_connection_string(&emulator.event_hubs_connection_string(), HUB).unwrap()
}

fn store(emulator: &Emulator) -> BlobCheckpointStore {
    let connection_string = emulator.storage_connection_string();
    BlobCheckpointStore::from_connection_string(&connection_string, "checkpoints").unwrap()
}

fn builder(emulator: &Emulator) -> EventProcessorBuilder {
    EventProcessor::builder(transport(emulator), "$Default", store(emulator))
        .with_load_balancing_interval(Duration::from_millis(500))
        .with_ownership_suspect_time(SUSPECT_TIME)
        .with_partition_ownership_expiration(Duration::from_secs(5))
        .with_default_starting_position(EventPosition::Earliest)
}

fn scope(emulator: &Emulator) -> GroupScope {
    let transport = transport(emulator);
    GroupScope::new(transport.fully_qualified_namespace(), HUB, "$Default")
}

/// Where the first event of each partition blocks.
#[derive(Clone, Copy)]
enum Blocks {
    Nowhere,
    /// The thread that called the hook.
    Here(Duration),
}

#[derive(Clone)]
struct Noting {
    blocks: Blocks,
    events: Arc<Mutex<Vec<i64>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Noting {
    fn new(blocks: Blocks) -> Self {
        Self {
            blocks,
            events: Arc::default(),
            errors: Arc::default(),
        }
    }

    fn events(&self) -> Vec<i64> {
        self.events.lock().unwrap().clone()
    }

    async fn until(&self, events: usize) {
        let begun = Instant::now();
        while self.events().len() < events {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.events()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl EventHandler for Noting {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let number = event.sequence_number();
        self.events.lock().unwrap().push(number);
        if number == 0 {
            match self.blocks {
                Blocks::Nowhere => {}
                Blocks::Here(time) => std::thread::sleep(time),
            }
        }
        context.update_checkpoint(&event).await?;
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        self.errors.lock().unwrap().push(error.to_string());
    }
}

/// The oldest that the youngest of the group's records gets within this time: how long nobody shows life.
async fn longest_silence(emulator: &Emulator, time: Duration) -> Duration {
    let (store, scope) = (store(emulator), scope(emulator));
    let begun = Instant::now();
    // The emulator's dates have whole seconds; changes of versions are exact.
    let (mut versions, mut changed, mut longest) = (Vec::new(), begun, Duration::ZERO);
    while begun.elapsed() < time {
        let listing = store.list_ownership(&scope).await.unwrap();
        let now: Vec<_> = listing
            .ownerships
            .into_iter()
            .map(|record| record.etag)
            .collect();
        if now != versions {
            versions = now;
            changed = Instant::now();
        }
        longest = longest.max(changed.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    longest
}

fn workers(count: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build()
        .unwrap()
}

/// Without a thread of its own nothing of the processor runs, so it falls silent and loses the partition. What is promised is that it notices: it hands out nothing more, and no checkpoint is lost.
#[tokio::test(flavor = "multi_thread")]
async fn who_blocks_every_worker_loses_the_partition_and_knows_it() {
    let emulator = emulator(1).await;
    let blocked = Noting::new(Blocks::Here(Duration::from_secs(8)));
    let runtime = workers(1);
    let processor = builder(&emulator)
        .with_control_thread(ControlThread::Shared)
        .build(blocked.clone())
        .unwrap();
    let guard = runtime.enter();
    let handle = processor.spawn();
    drop(guard);
    for _ in 0..5 {
        emulator.send(HUB, Some("0"), Event::new("a")).unwrap();
    }
    blocked.until(1).await;
    let heir = Noting::new(Blocks::Nowhere);
    let other = builder(&emulator).build(heir.clone()).unwrap().spawn();
    let silence = longest_silence(&emulator, Duration::from_secs(7)).await;
    assert!(
        silence > SUSPECT_TIME / 2,
        "the test blocks nothing: {silence:?}"
    );
    heir.until(5).await;
    assert_eq!(heir.events(), [0, 1, 2, 3, 4]);

    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        blocked.events(),
        [0],
        "woke up, and went on with what is not its own"
    );
    let stored = store(&emulator)
        .checkpoint(&scope(&emulator), &"0".into())
        .await
        .unwrap();
    assert_eq!(stored.unwrap().checkpoint.sequence_number, Some(4));
    other.shutdown().await.unwrap();
    handle.shutdown().await.unwrap();
    runtime.shutdown_background();
}

const BLOCKED: Duration = Duration::from_secs(6);

/// Hooks block every thread of `runtime`, on which the processor was started: for others it is alive all the time, its
/// links stay where they are, and it goes on where it was.
async fn outlives_blocked_workers(runtime: Runtime, control_thread: ControlThread) {
    let emulator = emulator(2).await;
    let handler = Noting::new(Blocks::Here(BLOCKED));
    let processor = builder(&emulator)
        .with_control_thread(control_thread)
        .build(handler.clone())
        .unwrap();
    let stopper = processor.stopper();
    let application =
        std::thread::spawn(move || runtime.block_on(async { processor.spawn().join().await }));
    for partition in ["0", "1"] {
        for _ in 0..3 {
            let event = Event::new("a");
            emulator.send(HUB, Some(partition), event).unwrap();
        }
    }
    handler.until(1).await;
    let silence = longest_silence(&emulator, BLOCKED - Duration::from_millis(500)).await;
    assert!(silence < LATEST, "{silence:?}");
    handler.until(6).await;
    stopper.stop();
    tokio::task::spawn_blocking(|| application.join().unwrap().unwrap())
        .await
        .unwrap();
    let mut events = handler.events();
    events.sort_unstable();
    assert_eq!(events, [0, 0, 1, 1, 2, 2]);
    assert_eq!(handler.errors.lock().unwrap().clone(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_outlives_hooks_that_block_every_worker() {
    outlives_blocked_workers(workers(1), ControlThread::Auto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_with_its_own_thread_outlives_hooks_that_block_the_only_other() {
    let single = Builder::new_current_thread().enable_all().build().unwrap();
    outlives_blocked_workers(single, ControlThread::Own).await;
}

/// A connection lives on the runtime that it was made on. Where that one is blocked, another does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_works_while_another_runtime_that_used_it_is_blocked() {
    let emulator = emulator(1).await;
    let transport = Arc::new(transport(&emulator));
    let used = Arc::clone(&transport);
    let (free, is_blocked) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (free_there, is_blocked_there) = (Arc::clone(&free), Arc::clone(&is_blocked));
    let other = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            used.event_hub_properties().await.unwrap();
            is_blocked_there.wait();
            free_there.wait();
            used.event_hub_properties().await.unwrap();
        });
    });
    is_blocked.wait();
    let asked = tokio::time::timeout(Duration::from_secs(10), transport.event_hub_properties());
    assert!(asked.await.is_ok(), "waits for the other runtime");
    assert_eq!(emulator.status().connections, 2);
    free.wait();
    other.join().unwrap();
    // The runtime that had the other connection is gone.
    transport.event_hub_properties().await.unwrap();
}
