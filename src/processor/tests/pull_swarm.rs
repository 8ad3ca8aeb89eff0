//! Readers of streams that cancel, drop, fail and dawdle at random, over links and a store that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::support::{FlakyStore, builder, stored};
use crate::error::{StoreErrorKind, TransportErrorKind};
use crate::processor::{CheckpointPolicy, Partition};
use crate::transport::fake::FakeEventHub;

const PARTITIONS: [&str; 3] = ["0", "1", "2"];
const EVENTS: i64 = 40;

/// What the readers have done and are doing.
#[derive(Debug, Default)]
struct Ledger {
    done: BTreeMap<String, BTreeSet<i64>>,
    reading: BTreeMap<String, usize>,
    handed_out: usize,
}

impl Ledger {
    /// How many events of a partition are done without a gap.
    fn prefix(&self, partition: &str) -> i64 {
        let done = self.done.get(partition);
        let is_done = |number: &i64| done.is_some_and(|done| done.contains(number));
        (0..EVENTS)
            .find(|number| !is_done(number))
            .unwrap_or(EVENTS)
    }

    fn is_complete(&self) -> bool {
        PARTITIONS.iter().all(|id| self.prefix(id) == EVENTS)
    }
}

type Shared = Arc<Mutex<Ledger>>;

/// Reads until it is over, or the reader has had enough. What it says is done, it says before it asks for more.
async fn read(mut partition: Partition, ledger: Shared, mut rng: StdRng) {
    let id = partition.partition_id().to_string();
    {
        let mut ledger = ledger.lock().unwrap();
        let reading = ledger.reading.entry(id.clone()).or_default();
        *reading += 1;
        assert_eq!(*reading, 1, "two readers of partition {id}");
    }
    let mut last = -1;
    let mut in_hand = None;
    loop {
        if let Some(number) = in_hand.take() {
            let mut ledger = ledger.lock().unwrap();
            ledger.done.entry(id.clone()).or_default().insert(number);
        }
        let patience = Duration::from_millis(rng.random_range(0..40));
        match timeout(patience, partition.next()).await {
            Ok(Some(event)) => {
                let number = event.sequence_number();
                assert!(number > last, "{number} after {last}");
                last = number;
                in_hand = Some(number);
                ledger.lock().unwrap().handed_out += 1;
            }
            Ok(None) => break,
            Err(_) => {
                // Asked for, and left.
                sleep(Duration::from_millis(rng.random_range(0..400))).await;
            }
        }
        sleep(Duration::from_millis(rng.random_range(0..20))).await;
        match rng.random_range(0..40) {
            // Drops it with what it has.
            0 => break,
            1 if in_hand.take().is_some() => {
                partition.fail("on request");
                // Over by now, or soon.
                let end = timeout(Duration::from_secs(60), partition.next()).await;
                assert!(end.expect("the stream ends after a failure").is_none());
                break;
            }
            2 => {
                if let Some(number) = in_hand.take() {
                    let mut ledger = ledger.lock().unwrap();
                    ledger.done.entry(id.clone()).or_default().insert(number);
                }
                partition.complete();
            }
            3 => sleep(Duration::from_secs(1)).await,
            _ => {}
        }
    }
    // In this order, or the next reader may come before this one is known to be gone.
    *ledger.lock().unwrap().reading.get_mut(&id).unwrap() -= 1;
    drop(partition);
}

async fn swarm(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let (hub, store) = (FakeEventHub::new(PARTITIONS.len()), FlakyStore::new());
    for partition in PARTITIONS {
        for _ in 0..EVENTS {
            hub.send(partition, "a");
        }
    }
    let policy = match rng.random_range(0..3) {
        0 => CheckpointPolicy::EveryEvents(1.try_into().unwrap()),
        1 => CheckpointPolicy::EveryEvents(7.try_into().unwrap()),
        _ => CheckpointPolicy::Every(Duration::from_millis(100)),
    };
    let mut partitions = builder(&hub, &store, "me")
        .with_checkpoint_policy(policy)
        .with_retry_delay(Duration::from_millis(20), Duration::from_secs(1))
        .with_seed(seed)
        .build_pull()
        .unwrap()
        .spawn();
    let ledger = Shared::default();
    let mut readers = JoinSet::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1200);
    while !ledger.lock().unwrap().is_complete() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "seed {seed}: never done: {ledger:?}"
        );
        let pause = Duration::from_millis(rng.random_range(1..50));
        tokio::select! {
            biased;
            partition = partitions.next() => {
                let partition = partition.unwrap().unwrap();
                let own = StdRng::seed_from_u64(rng.random());
                readers.spawn(read(partition, Arc::clone(&ledger), own));
            }
            () = sleep(pause) => {}
        }
        while let Some(ended) = readers.try_join_next() {
            ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        let partition = PARTITIONS[rng.random_range(0..PARTITIONS.len())];
        match rng.random_range(0..120) {
            0 => hub.disconnect(partition, TransportErrorKind::LinkDetached),
            1 => hub.disconnect(partition, TransportErrorKind::OwnershipLost),
            2 => store.fail(Some(StoreErrorKind::Unavailable)),
            3..10 => store.fail(None),
            _ => {}
        }
        for partition in PARTITIONS {
            let checkpoint = stored(&store, partition).await.unwrap_or(-1);
            let prefix = ledger.lock().unwrap().prefix(partition);
            assert!(
                checkpoint < prefix,
                "seed {seed}: partition {partition} is checkpointed at {checkpoint}, {prefix} are done"
            );
        }
    }
    store.fail(None);
    let report = partitions.shutdown().await.unwrap();
    assert!(report.cut_partitions.is_empty(), "seed {seed}: {report:?}");
    while let Some(ended) = readers.join_next().await {
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    ledger.lock().unwrap().handed_out
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_checkpointed_early_whatever_readers_do() {
    let mut handed_out = 0;
    for seed in 0..100 {
        handed_out += swarm(seed).await;
    }
    let events = 100 * PARTITIONS.len() * usize::try_from(EVENTS).unwrap();
    // Drops and failures bring events again; none would mean that nothing was tried.
    assert!(handed_out > events + 1000, "{handed_out} for {events}");
}
