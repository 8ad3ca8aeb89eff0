//! A hub and a store with latency, for measuring groups of whole processors in virtual time: the same assumptions as
//! the figures that other SDKs were measured with. A write takes 6-14 ms, a listing 10-20 ms and 20 µs a record, an
//! attach 150 ms; the store's dates are whole seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::support::scope;
use crate::balance::promised_suspect_time;
use crate::checkpoint::{
    CheckpointStore, InMemoryCheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition,
    WriteOutcome,
};
use crate::error::{StoreError, StoreErrorKind, TransportError, TransportErrorKind};
use crate::model::{
    Checkpoint, EventHubProperties, GroupScope, OwnerId, PartitionId, PartitionProperties,
    ReceivedEvent,
};
use crate::processor::{
    CloseReason, EventHandler, EventProcessor, EventProcessorBuilder, HandlerResult,
    PartitionContext, ProcessorHandle, handler_fn,
};
use crate::transport::{PartitionReceiver, ReceiverOptions, Transport};

#[derive(Clone, Debug)]
pub(super) struct World {
    store: InMemoryCheckpointStore,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    partitions: usize,
    slowness: f64,
    is_down: bool,
    lists: usize,
    writes: usize,
    owners: BTreeMap<PartitionId, Option<String>>,
    moves: usize,
    readers: BTreeMap<PartitionId, Reader>,
    /// Since when a partition is not read.
    unread: BTreeMap<PartitionId, Instant>,
    longest_gap: Duration,
    next_reader: u64,
    next_seed: u64,
    /// Every write, in order: when, what and for whom.
    trace: Vec<(Duration, PartitionId, Option<String>)>,
    begun: Instant,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    owner: String,
    displaced: CancellationToken,
}

impl World {
    pub(super) fn new(partitions: usize, seed: u64) -> Self {
        Self {
            store: InMemoryCheckpointStore::starting_at(
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            ),
            state: Arc::new(Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                partitions,
                slowness: 1.0,
                is_down: false,
                lists: 0,
                writes: 0,
                owners: BTreeMap::new(),
                moves: 0,
                readers: BTreeMap::new(),
                unread: BTreeMap::new(),
                longest_gap: Duration::ZERO,
                next_reader: 0,
                next_seed: seed << 32,
                trace: Vec::new(),
                begun: Instant::now(),
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A processor with default options and a seed of its own.
    pub(super) fn builder(&self) -> EventProcessorBuilder {
        let seed = {
            let mut state = self.state();
            state.next_seed += 1;
            state.next_seed
        };
        EventProcessor::builder(self.clone(), "$Default", self.clone()).with_seed(seed)
    }

    pub(super) fn start(&self) -> ProcessorHandle {
        start(self.builder())
    }

    /// Starts so many within so long.
    pub(super) async fn start_within(
        &self,
        count: usize,
        window: Duration,
    ) -> Vec<ProcessorHandle> {
        let mut at: Vec<Duration> = {
            let rng = &mut self.state().rng;
            (0..count)
                .map(|_| window.mul_f64(rng.random::<f64>()))
                .collect()
        };
        at.sort_unstable();
        let begun = Instant::now();
        let mut handles = Vec::new();
        for at in at {
            tokio::time::sleep_until(begun + at).await;
            handles.push(self.start());
        }
        handles
    }

    /// How many partitions a processor reads.
    pub(super) fn read_by(&self, handle: &ProcessorHandle) -> usize {
        let owner = handle.owner_id().as_str();
        let state = self.state();
        let is_read = |(id, reader): &(&PartitionId, &Reader)| {
            reader.owner == owner && !state.unread.contains_key(*id)
        };
        state.readers.iter().filter(is_read).count()
    }

    pub(super) fn random_below(&self, limit: usize) -> usize {
        self.state().rng.random_range(0..limit)
    }

    pub(super) fn set_slowness(&self, factor: f64) {
        self.state().slowness = factor;
    }

    pub(super) fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    pub(super) fn trace(&self) -> Vec<(Duration, PartitionId, Option<String>)> {
        self.state().trace.clone()
    }

    /// Changes of a partition from one owner to another, not counting what was free in between.
    pub(super) fn moves(&self) -> usize {
        self.state().moves
    }

    pub(super) fn operations(&self) -> usize {
        let state = self.state();
        state.lists + state.writes
    }

    /// The longest time for which a partition that had been read was not, up to now; forgets it.
    pub(super) fn take_longest_gap(&self) -> Duration {
        let mut state = self.state();
        let open = state.unread.values().map(Instant::elapsed).max();
        let longest = state.longest_gap.max(open.unwrap_or_default());
        state.longest_gap = Duration::ZERO;
        longest
    }

    pub(super) fn is_all_read(&self) -> bool {
        let state = self.state();
        state.readers.len() == state.partitions
    }

    /// Whether everything is owned and the loads of these differ by one at most.
    pub(super) fn is_balanced(&self, members: &[&ProcessorHandle]) -> bool {
        let mut loads: BTreeMap<String, usize> = members
            .iter()
            .map(|handle| (name(handle.owner_id()), 0))
            .collect();
        let state = self.state();
        for owner in state.owners.values().flatten() {
            *loads.entry(owner.clone()).or_default() += 1;
        }
        let total: usize = loads.values().sum();
        let spread = loads.values().max().unwrap() - loads.values().min().unwrap();
        total == state.partitions && spread <= 1 && loads.len() == members.len()
    }

    /// When a condition began to hold for good, looked at for `limit`. `None`: it does not hold at the end.
    pub(super) async fn settled(
        &self,
        limit: Duration,
        holds: impl Fn() -> bool,
    ) -> Option<Duration> {
        let begun = Instant::now();
        let mut since = None;
        while begun.elapsed() < limit {
            if holds() {
                since.get_or_insert_with(|| begun.elapsed());
            } else {
                since = None;
            }
            sleep(Duration::from_millis(50)).await;
        }
        since
    }

    async fn operate(&self, base: std::ops::Range<u64>, records: usize) -> Result<(), StoreError> {
        let (latency, is_down) = {
            let mut state = self.state();
            let micros = state.rng.random_range(base) + 20 * records as u64;
            (
                Duration::from_micros(micros).mul_f64(state.slowness),
                state.is_down,
            )
        };
        sleep(latency).await;
        if is_down || self.state().is_down {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "down"));
        }
        Ok(())
    }

    fn read_ended(&self, partition_id: &PartitionId, id: u64) {
        let mut state = self.state();
        if state.readers.get(partition_id).map(|reader| reader.id) == Some(id) {
            state.readers.remove(partition_id);
            let now = Instant::now();
            state.unread.entry(partition_id.clone()).or_insert(now);
        }
    }
}

pub(super) fn start(builder: EventProcessorBuilder) -> ProcessorHandle {
    builder
        .build(handler_fn(async |_, _| Ok(())))
        .unwrap()
        .spawn()
}

/// A handler whose partitions count as unread from the close hook on, not only once the link is closed.
pub(super) struct Closing(pub(super) World);

impl EventHandler for Closing {
    async fn on_event(&self, _: &PartitionContext, _: ReceivedEvent) -> HandlerResult {
        Ok(())
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        _: CloseReason,
    ) -> HandlerResult {
        let mut state = self.0.state();
        let partition_id = context.partition_id();
        let reader = state.readers.get(partition_id);
        if reader.is_some_and(|reader| reader.owner == context.owner_id().as_str()) {
            let now = Instant::now();
            state.unread.entry(partition_id.clone()).or_insert(now);
        }
        Ok(())
    }
}

/// What is the same in an owner's ids.
fn name(owner_id: &OwnerId) -> String {
    let text = owner_id.as_str();
    match promised_suspect_time(owner_id) {
        Some(_) => text.splitn(3, '-').last().unwrap().to_owned(),
        None => text.to_owned(),
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[async_trait]
impl CheckpointStore for World {
    async fn list_ownership(&self, group: &GroupScope) -> Result<OwnershipListing, StoreError> {
        self.state().lists += 1;
        let records = self.state().owners.len();
        self.operate(10_000..20_000, records).await?;
        let mut listing = self.store.list_ownership(group).await?;
        listing.as_of = whole_seconds(listing.as_of);
        for ownership in &mut listing.ownerships {
            ownership.last_modified = ownership.last_modified.map(whole_seconds);
        }
        Ok(listing)
    }

    async fn claim_ownership(
        &self,
        group: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        self.state().writes += 1;
        self.operate(6_000..14_000, 0).await?;
        let outcome = self
            .store
            .claim_ownership(group, partition_id, owner_id, condition)
            .await?;
        if matches!(outcome, WriteOutcome::Written(_)) {
            let mut state = self.state();
            let owner = owner_id.map(name);
            let at = state.begun.elapsed();
            state.trace.push((at, partition_id.clone(), owner.clone()));
            let before = state.owners.insert(partition_id.clone(), owner.clone());
            if before.flatten().is_some_and(|before| Some(before) != owner) && owner.is_some() {
                state.moves += 1;
            }
        }
        Ok(outcome)
    }

    async fn list_checkpoints(&self, _: &GroupScope) -> Result<Vec<StoredCheckpoint>, StoreError> {
        Ok(Vec::new())
    }

    async fn checkpoint(
        &self,
        _: &GroupScope,
        _: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        Ok(None)
    }

    async fn update_checkpoint(
        &self,
        _: &GroupScope,
        _: &Checkpoint,
        _: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        Ok(WriteOutcome::Lost)
    }
}

#[async_trait]
impl Transport for World {
    fn fully_qualified_namespace(&self) -> &str {
        "fake.servicebus.windows.net"
    }

    fn event_hub_name(&self) -> &str {
        "hub"
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        let partitions = self.state().partitions;
        let ids: BTreeSet<PartitionId> = (0..partitions).map(|id| id.to_string().into()).collect();
        Ok(EventHubProperties::new("hub", ids.into_iter().collect()))
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        Ok(PartitionProperties {
            event_hub_name: scope().event_hub_name().to_owned(),
            partition_id: partition_id.clone(),
            beginning_sequence_number: 0,
            last_enqueued_sequence_number: -1,
            last_enqueued_offset: "-1".into(),
            last_enqueued_time: SystemTime::UNIX_EPOCH,
            is_empty: true,
        })
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        sleep(Duration::from_millis(150)).await;
        let mut state = self.state();
        let partition_id = options.partition_id;
        let displaced = CancellationToken::new();
        state.next_reader += 1;
        let id = state.next_reader;
        if let Some(since) = state.unread.remove(&partition_id) {
            state.longest_gap = state.longest_gap.max(since.elapsed());
        }
        let reader = Reader {
            id,
            owner: options.receiver_name.unwrap_or_default(),
            displaced: displaced.clone(),
        };
        if let Some(before) = state.readers.insert(partition_id.clone(), reader) {
            before.displaced.cancel();
        }
        Ok(Box::new(Receiver {
            world: self.clone(),
            partition_id,
            id,
            displaced,
        }))
    }

    async fn close(&self) {}
}

#[derive(Debug)]
struct Receiver {
    world: World,
    partition_id: PartitionId,
    id: u64,
    displaced: CancellationToken,
}

#[async_trait]
impl PartitionReceiver for Receiver {
    async fn receive(&mut self, _: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        self.displaced.cancelled().await;
        Err(TransportError::new(
            TransportErrorKind::OwnershipLost,
            "displaced",
        ))
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.world.read_ended(&self.partition_id, self.id);
    }
}
