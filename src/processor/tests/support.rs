//! A handler that writes down what happens to it, and a store that fails on request.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::checkpoint::{
    CheckpointStore, InMemoryCheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition,
    WriteOutcome,
};
use crate::error::{LastError, ProcessingError, StoreError, StoreErrorKind};
use crate::model::{
    Checkpoint, ETag, EventPosition, GroupScope, OwnerId, PartitionId, ReceivedEvent,
};
use crate::processor::{
    CloseReason, EventHandler, EventProcessor, EventProcessorBuilder, FailureAction, HandlerResult,
    PartitionContext,
};
use crate::transport::fake::FakeEventHub;

/// One thing that happened, in the order it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Initialized(String),
    Event(String, i64),
    Batch(String, Vec<i64>),
    Idle(String),
    Closed(String, CloseReason),
    Error(Option<String>, String),
}

/// Writes down every call, checkpoints every event, and misbehaves on request.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// What the next deliveries of a `(partition, sequence number)` do.
    acts: Mutex<BTreeMap<(String, i64), Act>>,
    checkpoints: AtomicBool,
    start: Mutex<Option<EventPosition>>,
    contexts: Mutex<Vec<PartitionContext>>,
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// How long each delivery takes.
    takes: Mutex<Duration>,
    /// When a partition's last delivery was, and the longest time between two.
    delivered: Mutex<BTreeMap<String, Instant>>,
    longest_pause: Mutex<Duration>,
}

/// How a delivery misbehaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Fails this many times.
    Fail(usize),
    /// Fails once, and says what is to be done about it.
    FailWith(FailureAction),
    /// Panics once.
    Panic,
    /// Never returns.
    Hang,
    /// Asks to go on with this event, and fails.
    Seek(i64),
}

impl Recorder {
    pub(super) fn new() -> Self {
        let recorder = Self::default();
        recorder.shared.checkpoints.store(true, Ordering::Relaxed);
        recorder
    }

    pub(super) fn without_checkpoints() -> Self {
        Self::default()
    }

    pub(super) fn acting(self, partition: &str, sequence_number: i64, act: Act) -> Self {
        self.shared
            .acts
            .lock()
            .unwrap()
            .insert((partition.to_owned(), sequence_number), act);
        self
    }

    pub(super) fn starting_at(self, position: EventPosition) -> Self {
        *self.shared.start.lock().unwrap() = Some(position);
        self
    }

    /// Makes each delivery wait for a permit.
    pub(super) fn gated(self, gate: &Arc<Semaphore>) -> Self {
        *self.shared.gate.lock().unwrap() = Some(Arc::clone(gate));
        self
    }

    /// Makes each delivery take a while.
    pub(super) fn taking(self, time: Duration) -> Self {
        *self.shared.takes.lock().unwrap() = time;
        self
    }

    /// The longest time between two deliveries of one partition.
    pub(super) fn longest_pause(&self) -> Duration {
        *self.shared.longest_pause.lock().unwrap()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Sequence numbers delivered for a partition, in order, repetitions included.
    pub(super) fn events(&self, partition: &str) -> Vec<i64> {
        self.seen()
            .into_iter()
            .filter_map(|seen| match seen {
                Seen::Event(id, sequence_number) if id == partition => Some(sequence_number),
                _ => None,
            })
            .collect()
    }

    pub(super) fn contexts(&self) -> Vec<PartitionContext> {
        self.shared.contexts.lock().unwrap().clone()
    }

    fn note(&self, seen: Seen) {
        self.shared.seen.lock().unwrap().push(seen);
    }

    fn next_act(&self, partition: &str, sequence_number: i64) -> Option<Act> {
        let mut acts = self.shared.acts.lock().unwrap();
        let key = (partition.to_owned(), sequence_number);
        let act = acts.remove(&key)?;
        match act {
            Act::Fail(0) => return None,
            Act::Fail(times) => {
                acts.insert(key, Act::Fail(times - 1));
            }
            Act::FailWith(_) | Act::Panic | Act::Hang | Act::Seek(_) => {}
        }
        Some(act)
    }
}

impl EventHandler for Recorder {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let gate = self.shared.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await?.forget();
        }
        let partition = context.partition_id().to_string();
        self.note(Seen::Event(partition.clone(), event.sequence_number()));
        let now = Instant::now();
        let before = self
            .shared
            .delivered
            .lock()
            .unwrap()
            .insert(partition.clone(), now);
        if let Some(before) = before {
            let mut longest = self.shared.longest_pause.lock().unwrap();
            *longest = (*longest).max(now - before);
        }
        let takes = *self.shared.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        match self.next_act(&partition, event.sequence_number()) {
            None => {}
            Some(Act::Fail(_)) => return Err("on request".into()),
            Some(Act::FailWith(action)) => return Err(action.because("on request")),
            Some(Act::Panic) => panic!("on request"),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Seek(number)) => {
                context.seek(EventPosition::sequence_number(number).inclusive())?;
                return Err("on request".into());
            }
        }
        if self.shared.checkpoints.load(Ordering::Relaxed) {
            context.update_checkpoint(&event).await?;
        }
        Ok(())
    }

    async fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> HandlerResult {
        let numbers = events.iter().map(ReceivedEvent::sequence_number).collect();
        self.note(Seen::Batch(context.partition_id().to_string(), numbers));
        if let Some(last) = events.last() {
            context.update_checkpoint(last).await?;
        }
        Ok(())
    }

    async fn on_idle(&self, context: &PartitionContext) -> HandlerResult {
        self.note(Seen::Idle(context.partition_id().to_string()));
        Ok(())
    }

    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        self.note(Seen::Initialized(context.partition_id().to_string()));
        self.shared.contexts.lock().unwrap().push(context.clone());
        Ok(self.shared.start.lock().unwrap().clone())
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        self.note(Seen::Closed(context.partition_id().to_string(), reason));
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        let partition = context.map(|context| context.partition_id().to_string());
        self.note(Seen::Error(partition, error.to_string()));
    }
}

/// A write that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Checkpoint(String, i64),
    GivenBack(String),
}

/// What becomes of the next claim or renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It takes effect, and the answer is lost.
    LandsUnseen,
    /// It has no effect, and nobody knows.
    Vanishes,
    /// It takes effect, and no answer ever comes.
    NeverAnswered,
}

/// An in-memory store whose calls fail, get lost or are applied without an answer, on request.
#[derive(Clone, Debug)]
pub(super) struct FlakyStore {
    pub(super) inner: InMemoryCheckpointStore,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    threads: Mutex<BTreeSet<String>>,
    down: AtomicBool,
    ownership_down: AtomicBool,
    /// The next checkpoint writes are applied, and the answer is lost.
    lost_answers: AtomicUsize,
    kind: Mutex<Option<StoreErrorKind>>,
    writes: AtomicUsize,
    /// Writes that took effect, in order.
    applied: Mutex<Vec<Applied>>,
    /// How long a checkpoint write takes, how many are under way in each partition, and the most there ever were.
    checkpoint_delay: Mutex<Duration>,
    under_way: Mutex<BTreeMap<PartitionId, usize>>,
    most_under_way: AtomicUsize,
    listings: AtomicUsize,
    /// How long a write that gives a partition back takes.
    give_back_delay: Mutex<Duration>,
    /// The partition whose checkpoint cannot be read.
    malformed: Mutex<Option<PartitionId>>,
    intruder: Mutex<Option<OwnerId>>,
    fate: Mutex<Option<Fate>>,
    credential: Mutex<Option<LastError>>,
    /// Whether calls wait.
    is_stalled: tokio::sync::watch::Sender<bool>,
}

impl FlakyStore {
    pub(super) fn new() -> Self {
        Self {
            inner: InMemoryCheckpointStore::new(),
            faults: Arc::default(),
        }
    }

    /// The same records by another way, which fails for itself.
    pub(super) fn beside(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            faults: Arc::default(),
        }
    }

    pub(super) fn set_credential_error(&self, error: Option<LastError>) {
        *self.faults.credential.lock().unwrap() = error;
    }

    /// Decides what becomes of the next claim or renewal.
    pub(super) fn decide(&self, fate: Fate) {
        *self.faults.fate.lock().unwrap() = Some(fate);
    }

    /// Whether a fate that was decided has come true.
    pub(super) fn is_decided(&self) -> bool {
        self.faults.fate.lock().unwrap().is_none()
    }

    /// Has every call wait until further notice.
    pub(super) fn stall(&self, is_stalled: bool) {
        self.faults.is_stalled.send_replace(is_stalled);
    }

    /// The names of the threads that have called.
    pub(super) fn threads(&self) -> BTreeSet<String> {
        self.faults.threads.lock().unwrap().clone()
    }

    async fn passage(&self) {
        let thread = std::thread::current().name().unwrap_or("?").to_owned();
        self.faults.threads.lock().unwrap().insert(thread);
        let mut stalled = self.faults.is_stalled.subscribe();
        // The sender lives as long as this store.
        let _ = stalled.wait_for(|is_stalled| !is_stalled).await;
    }

    /// Has somebody write his name into the record that is claimed or renewed next, just before that.
    pub(super) fn intrude(&self, owner_id: &str) {
        *self.faults.intruder.lock().unwrap() = Some(owner_id.into());
    }

    /// Writes a name into a record, whoever had it.
    pub(super) async fn put(&self, partition_id: &PartitionId, owner_id: &OwnerId) -> ETag {
        let listing = self.inner.list_ownership(&scope()).await.unwrap();
        let mut records = listing.ownerships.into_iter();
        let record = records.find(|record| record.partition_id == *partition_id);
        let condition = record.map_or(WriteCondition::Absent, |record| {
            WriteCondition::Matches(record.etag)
        });
        let outcome = self
            .inner
            .claim_ownership(&scope(), partition_id, Some(owner_id), &condition)
            .await;
        let Ok(WriteOutcome::Written(written)) = outcome else {
            panic!("{outcome:?}");
        };
        written.etag
    }

    /// A store whose clock is off by so many days.
    pub(super) fn days_off(days: i64) -> Self {
        let off = Duration::from_secs(days.unsigned_abs() * 24 * 3600);
        let now = SystemTime::now();
        let base = if days < 0 { now - off } else { now + off };
        Self {
            inner: InMemoryCheckpointStore::starting_at(base),
            faults: Arc::default(),
        }
    }

    /// Fails every call with `kind` from now on; `None` heals.
    pub(super) fn fail(&self, kind: Option<StoreErrorKind>) {
        *self.faults.kind.lock().unwrap() = kind;
        self.faults.down.store(kind.is_some(), Ordering::Relaxed);
    }

    /// Fails whatever concerns ownership from now on, or not.
    pub(super) fn fail_ownership(&self, fails: bool) {
        self.faults.ownership_down.store(fails, Ordering::Relaxed);
    }

    pub(super) fn lose_answers(&self, times: usize) {
        self.faults.lost_answers.store(times, Ordering::Relaxed);
    }

    /// Has every giving back take this long.
    pub(super) fn delay_giving_back(&self, delay: Duration) {
        *self.faults.give_back_delay.lock().unwrap() = delay;
    }

    /// Makes the checkpoint of one partition unreadable; `None` heals.
    pub(super) fn spoil_checkpoint(&self, partition: Option<&str>) {
        *self.faults.malformed.lock().unwrap() = partition.map(PartitionId::from);
    }

    /// Has every checkpoint write take this long.
    pub(super) fn delay_checkpoints(&self, delay: Duration) {
        *self.faults.checkpoint_delay.lock().unwrap() = delay;
    }

    /// The most checkpoint writes of one partition that were ever under way together.
    pub(super) fn most_under_way(&self) -> usize {
        self.faults.most_under_way.load(Ordering::Relaxed)
    }

    /// The writes that took effect, in order.
    pub(super) fn applied(&self) -> Vec<Applied> {
        self.faults.applied.lock().unwrap().clone()
    }

    /// The sequence numbers that were written for a partition, in order.
    pub(super) fn written(&self, partition: &str) -> Vec<i64> {
        self.applied()
            .into_iter()
            .filter_map(|applied| match applied {
                Applied::Checkpoint(id, number) if id == partition => Some(number),
                _ => None,
            })
            .collect()
    }

    /// How often the group was listed.
    pub(super) fn listings(&self) -> usize {
        self.faults.listings.load(Ordering::Relaxed)
    }

    fn note(&self, outcome: &WriteOutcome, applied: Applied) {
        if matches!(outcome, WriteOutcome::Written(_)) {
            self.faults.applied.lock().unwrap().push(applied);
        }
    }

    /// Checkpoint writes that reached the store.
    pub(super) fn checkpoint_writes(&self) -> usize {
        self.faults.writes.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), StoreError> {
        if !self.faults.down.load(Ordering::Relaxed) {
            return Ok(());
        }
        let kind = self
            .faults
            .kind
            .lock()
            .unwrap()
            .unwrap_or(StoreErrorKind::Unavailable);
        Err(StoreError::new(kind, "on request"))
    }

    fn check_ownership(&self) -> Result<(), StoreError> {
        if self.faults.ownership_down.load(Ordering::Relaxed) {
            let kind = StoreErrorKind::Unavailable;
            return Err(StoreError::new(kind, "on request"));
        }
        self.check()
    }

    fn loses_answer(&self) -> bool {
        self.faults
            .lost_answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

#[async_trait]
impl CheckpointStore for FlakyStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        self.passage().await;
        self.check_ownership()?;
        self.faults.listings.fetch_add(1, Ordering::Relaxed);
        self.inner.list_ownership(scope).await
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        self.passage().await;
        self.check_ownership()?;
        let fate = owner_id.and_then(|_| self.faults.fate.lock().unwrap().take());
        let unseen = || {
            let error = StoreError::new(StoreErrorKind::Unavailable, "on request");
            Ok(WriteOutcome::Unknown(error))
        };
        if fate == Some(Fate::Vanishes) {
            return unseen();
        }
        let intruder = owner_id.and_then(|_| self.faults.intruder.lock().unwrap().take());
        if let Some(intruder) = intruder {
            self.put(partition_id, &intruder).await;
        }
        if owner_id.is_none() {
            let delay = *self.faults.give_back_delay.lock().unwrap();
            tokio::time::sleep(delay).await;
        }
        let outcome = self
            .inner
            .claim_ownership(scope, partition_id, owner_id, condition)
            .await?;
        if owner_id.is_none() {
            self.note(&outcome, Applied::GivenBack(partition_id.to_string()));
        }
        match fate {
            Some(Fate::LandsUnseen) => unseen(),
            Some(Fate::NeverAnswered) => std::future::pending().await,
            _ => Ok(outcome),
        }
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.passage().await;
        self.check()?;
        self.inner.list_checkpoints(scope).await
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.passage().await;
        self.check()?;
        if self.faults.malformed.lock().unwrap().as_ref() == Some(partition_id) {
            return Err(StoreError::new(
                StoreErrorKind::MalformedRecord,
                "on request",
            ));
        }
        self.inner.checkpoint(scope, partition_id).await
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        self.passage().await;
        self.check()?;
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        let delay = *self.faults.checkpoint_delay.lock().unwrap();
        if !delay.is_zero() {
            let partition_id = &checkpoint.partition_id;
            let now = {
                let mut under_way = self.faults.under_way.lock().unwrap();
                let now = under_way.entry(partition_id.clone()).or_default();
                *now += 1;
                *now
            };
            self.faults.most_under_way.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(delay).await;
            if let Some(now) = self.faults.under_way.lock().unwrap().get_mut(partition_id) {
                *now -= 1;
            }
        }
        let outcome = self
            .inner
            .update_checkpoint(scope, checkpoint, condition)
            .await?;
        if *condition == WriteCondition::Unconditional {
            self.spoil_checkpoint(None);
        }
        let number = checkpoint.sequence_number.unwrap_or(-1);
        let partition = checkpoint.partition_id.to_string();
        self.note(&outcome, Applied::Checkpoint(partition, number));
        if self.loses_answer() {
            let error = StoreError::new(StoreErrorKind::Timeout, "the answer is lost on request");
            return Ok(WriteOutcome::Unknown(error));
        }
        Ok(outcome)
    }

    fn credential_error(&self) -> Option<LastError> {
        self.faults.credential.lock().unwrap().clone()
    }
}

/// A builder with times that suit tests: a cycle each second, expiry after five.
pub(super) fn builder(
    hub: &FakeEventHub,
    store: &FlakyStore,
    owner: &str,
) -> EventProcessorBuilder {
    EventProcessor::builder(hub.clone(), "$Default", store.clone())
        .with_owner_id(owner)
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(5))
        .with_default_starting_position(EventPosition::Earliest)
}

pub(super) fn scope() -> GroupScope {
    GroupScope::new("fake.servicebus.windows.net", "hub", "$Default")
}

/// The stored sequence number of a partition.
pub(super) async fn stored(store: &FlakyStore, partition: &str) -> Option<i64> {
    let found = store
        .inner
        .checkpoint(&scope(), &partition.into())
        .await
        .unwrap();
    found.and_then(|found| found.checkpoint.sequence_number)
}

/// Who owns what, as the store says.
pub(super) async fn owners(store: &FlakyStore) -> BTreeMap<PartitionId, Option<OwnerId>> {
    let listing = store.inner.list_ownership(&scope()).await.unwrap();
    listing
        .ownerships
        .into_iter()
        .map(|o| (o.partition_id, o.owner_id))
        .collect()
}

/// Waits, in virtual time, until something holds; fails after a virtual minute.
pub(super) async fn eventually<Fut: Future<Output = bool>>(
    what: &str,
    mut holds: impl FnMut() -> Fut,
) {
    for _ in 0..6000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Waits until a partition's deliveries are `expected`.
pub(super) async fn delivered(recorder: &Recorder, partition: &str, expected: &[i64]) {
    eventually(
        &format!("partition {partition} delivers {expected:?}"),
        || async { recorder.events(partition) == expected },
    )
    .await;
}

/// The same for a processor whose id makes the promise of our own kind.
pub(super) fn kin_builder(
    hub: &FakeEventHub,
    store: &FlakyStore,
    name: &str,
) -> EventProcessorBuilder {
    EventProcessor::builder(hub.clone(), "$Default", store.clone())
        .with_owner_name(name)
        .with_load_balancing_interval(Duration::from_secs(2))
        .with_partition_ownership_expiration(Duration::from_secs(20))
        .with_default_starting_position(EventPosition::Earliest)
        .with_seed(name.bytes().map(u64::from).sum())
}
