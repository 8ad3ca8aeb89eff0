//! Whether a processor knows its own writes again, and does not take them for those of a namesake.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::support::{FlakyStore, Recorder, Seen, delivered, eventually, owners, scope};
use crate::checkpoint::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome,
};
use crate::error::StoreError;
use crate::model::{Checkpoint, EventPosition, GroupScope, OwnerId, PartitionId};
use crate::processor::{EventProcessor, EventProcessorBuilder};
use crate::transport::fake::FakeEventHub;

/// A store between which and us things are sent twice, or come late.
#[derive(Clone, Debug)]
struct Echo {
    store: FlakyStore,
    /// Every second write to an ownership record is sent twice, and the second answer counts.
    is_doubled: Arc<AtomicBool>,
    writes: Arc<Mutex<BTreeMap<PartitionId, usize>>>,
    /// What listings show instead.
    past: Arc<Mutex<Option<OwnershipListing>>>,
}

impl Echo {
    fn new(store: &FlakyStore) -> Self {
        Self {
            store: store.clone(),
            is_doubled: Arc::default(),
            writes: Arc::default(),
            past: Arc::default(),
        }
    }

    async fn now(&self) -> OwnershipListing {
        self.store.list_ownership(&scope()).await.unwrap()
    }

    fn show(&self, past: Option<OwnershipListing>) {
        *self.past.lock().unwrap() = past;
    }
}

#[async_trait]
impl CheckpointStore for Echo {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let now = self.store.list_ownership(scope).await?;
        let past = self.past.lock().unwrap().clone();
        Ok(OwnershipListing {
            as_of: now.as_of,
            ..past.unwrap_or(now)
        })
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let write = || {
            self.store
                .claim_ownership(scope, partition_id, owner_id, condition)
        };
        let outcome = write().await?;
        let is_odd = {
            let mut writes = self.writes.lock().unwrap();
            let number = writes.entry(partition_id.clone()).or_default();
            *number += 1;
            *number % 2 == 1
        };
        if is_odd && self.is_doubled.load(Ordering::Relaxed) {
            return write().await;
        }
        Ok(outcome)
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.store.list_checkpoints(scope).await
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.store.checkpoint(scope, partition_id).await
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        self.store
            .update_checkpoint(scope, checkpoint, condition)
            .await
    }
}

fn builder(hub: &FakeEventHub, echo: &Echo) -> EventProcessorBuilder {
    EventProcessor::builder(hub.clone(), "$Default", echo.clone())
        .with_owner_name("me")
        .with_seed(1)
        .with_load_balancing_interval(Duration::from_secs(2))
        .with_partition_ownership_expiration(Duration::from_secs(20))
        .with_default_starting_position(EventPosition::Earliest)
}

/// Read from the first event on by one term and one receiver.
fn assert_never_stopped(hub: &FakeEventHub, recorder: &Recorder, partition: &str) {
    assert_eq!(hub.opened_at(partition).len(), 1, "partition {partition}");
    let is_trouble = |seen: &Seen| matches!(seen, Seen::Closed(..) | Seen::Error(..));
    let trouble: Vec<_> = recorder.seen().into_iter().filter(is_trouble).collect();
    assert!(trouble.is_empty(), "{trouble:?}");
}

#[tokio::test(start_paused = true)]
async fn writes_that_were_sent_twice_are_our_own_however_often_that_happens() {
    let (hub, store) = (FakeEventHub::new(3), FlakyStore::new());
    let (echo, recorder) = (Echo::new(&store), Recorder::new());
    echo.is_doubled.store(true, Ordering::Relaxed);
    let handle = builder(&hub, &echo)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    for number in 0..60 {
        for partition in ["0", "1", "2"] {
            hub.send(partition, "x");
            let all: Vec<_> = (0..=number).collect();
            delivered(&recorder, partition, &all).await;
        }
        sleep(Duration::from_secs(2)).await;
    }
    for partition in ["0", "1", "2"] {
        assert_never_stopped(&hub, &recorder, partition);
    }
    echo.is_doubled.store(false, Ordering::Relaxed);
    handle.shutdown().await.unwrap();
    assert!(owners(&store).await.into_values().all(|o| o.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_listing_of_the_past_takes_nothing_from_us() {
    for is_before_the_claim in [true, false] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        let (echo, recorder) = (Echo::new(&store), Recorder::new());
        let partition: PartitionId = "0".into();
        store.put(&partition, &"rs1-5000-dead".into()).await;
        let mut past = echo.now().await;
        let handle = builder(&hub, &echo)
            .build(recorder.clone())
            .unwrap()
            .spawn();
        let us = Some(handle.owner_id().clone());
        eventually("claimed", || async {
            owners(&store).await[&partition] == us
        })
        .await;
        if !is_before_the_claim {
            sleep(Duration::from_secs(10)).await;
            past = echo.now().await;
            let before = past.ownerships[0].etag.clone();
            eventually("renewed", || async {
                echo.now().await.ownerships[0].etag != before
            })
            .await;
        }
        echo.show(Some(past));
        let until = Instant::now() + Duration::from_secs(3);
        let mut number = 0;
        while number < 20 {
            if Instant::now() >= until {
                echo.show(None);
            }
            hub.send("0", "x");
            delivered(&recorder, "0", &(0..=number).collect::<Vec<_>>()).await;
            sleep(Duration::from_secs(1)).await;
            number += 1;
        }
        assert_never_stopped(&hub, &recorder, "0");
        drop(handle);
    }
}

/// Others may see the present: they go by when we wrote last, so we must not fall silent, however long listings show us
/// what has been replaced.
#[tokio::test(start_paused = true)]
async fn a_past_that_lasts_does_not_make_us_silent() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let (echo, recorder) = (Echo::new(&store), Recorder::new());
    let handle = builder(&hub, &echo)
        .build(recorder.clone())
        .unwrap()
        .spawn();
    hub.send("0", "x");
    delivered(&recorder, "0", &[0]).await;
    sleep(Duration::from_secs(10)).await;
    echo.show(Some(echo.now().await));
    let mut versions = vec![echo.now().await.ownerships[0].etag.clone()];
    for _ in 0..12 {
        sleep(Duration::from_secs(1)).await;
        let version = echo.now().await.ownerships[0].etag.clone();
        if versions.last() != Some(&version) {
            versions.push(version);
        }
    }
    // A sign of life in every interval of two seconds, and then some.
    assert!((6..=8).contains(&versions.len()), "{versions:?}");
    echo.show(None);
    hub.send("0", "x");
    delivered(&recorder, "0", &[0, 1]).await;
    assert_never_stopped(&hub, &recorder, "0");
    drop(handle);
}
