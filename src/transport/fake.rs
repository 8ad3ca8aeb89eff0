//! An event hub in memory, for tests of everything above the transport in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{PartitionReceiver, ReceiverOptions, Transport};
use crate::error::{LastError, TransportError, TransportErrorKind};
use crate::model::{
    EventHubProperties, EventParts, EventPosition, Offset, PartitionId, PartitionProperties,
    Position, ReceivedEvent, UndecodableEvent, UndecodableReason,
};

/// An event hub that lives in memory and misbehaves on request. Clones share it; its time is tokio's, so a paused
/// clock moves it.
#[derive(Clone, Debug)]
pub struct FakeEventHub {
    state: Arc<Mutex<State>>,
    /// Changes with every append and every disconnection.
    changed: watch::Sender<u64>,
    started: (SystemTime, Instant),
}

#[derive(Debug)]
struct State {
    partitions: BTreeMap<PartitionId, Partition>,
    next_receiver: u64,
    /// The connection that new receivers get.
    connection: u64,
    open_failures: VecDeque<TransportErrorKind>,
    properties_failures: VecDeque<TransportErrorKind>,
    credential_error: Option<LastError>,
}

#[derive(Debug, Default)]
struct Partition {
    events: Vec<ReceivedEvent>,
    /// How many were returned by receivers, however often.
    taken: usize,
    /// Which of them come as what cannot be decoded, and whether that says where it stands.
    undecodable: BTreeMap<usize, bool>,
    /// Index of the first event that has not expired.
    retained_from: usize,
    receivers: BTreeMap<u64, Attached>,
    opened_at: Vec<EventPosition>,
    opened_after: Vec<Option<i64>>,
    /// Swallows the deliveries of every receiver.
    is_stalled: bool,
    /// The connection that swallows deliveries.
    bad_connection: Option<u64>,
}

/// What it takes until a stalled partition delivers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StalledUntil {
    /// Until the receivers that are attached now tell their credit again.
    Reminded,
    /// Until another receiver is opened.
    Reopened,
    /// Until another receiver is opened on another connection.
    Reconnected,
    /// Until [`FakeEventHub::heal`].
    Healed,
}

#[derive(Debug)]
struct Attached {
    owner_level: Option<i64>,
    ended: Option<TransportErrorKind>,
    jump_to: Option<usize>,
    /// Swallows deliveries.
    stalled: Option<StalledUntil>,
    connection: u64,
}

impl FakeEventHub {
    /// A hub with partitions `0` to `partitions - 1`. Must be made inside a tokio runtime.
    #[must_use]
    pub fn new(partitions: usize) -> Self {
        let partitions = (0..partitions)
            .map(|id| (id.to_string().into(), Partition::default()))
            .collect();
        let state = State {
            partitions,
            next_receiver: 0,
            connection: 0,
            open_failures: VecDeque::new(),
            properties_failures: VecDeque::new(),
            credential_error: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            started: (
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                Instant::now(),
            ),
        }
    }

    /// Appends an event to a partition, adding the partition if it is new. Returns its sequence number.
    pub fn send(&self, partition_id: impl Into<PartitionId>, body: impl Into<Vec<u8>>) -> i64 {
        let enqueued_time = self.now();
        let sequence_number = {
            let mut state = self.lock();
            let partition = state.partitions.entry(partition_id.into()).or_default();
            let sequence_number = i64::try_from(partition.events.len()).unwrap_or(i64::MAX);
            let offset = Offset::from((sequence_number * 100).to_string());
            let parts = EventParts::new(sequence_number, offset, enqueued_time, body.into());
            partition.events.push(ReceivedEvent::new(parts));
            sequence_number
        };
        self.changed.send_modify(|changes| *changes += 1);
        sequence_number
    }

    /// Ends the receivers of a partition with an error.
    pub fn disconnect(&self, partition_id: impl Into<PartitionId>, kind: TransportErrorKind) {
        if let Some(partition) = self.lock().partitions.get_mut(&partition_id.into()) {
            for receiver in partition.receivers.values_mut() {
                receiver.ended.get_or_insert(kind);
            }
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Refuses the next attempt to open a receiver; several calls queue.
    pub fn fail_next_open(&self, kind: TransportErrorKind) {
        self.lock().open_failures.push_back(kind);
    }

    /// Refuses the next reading of a partition's properties; several calls queue.
    pub fn fail_next_partition_properties(&self, kind: TransportErrorKind) {
        self.lock().properties_failures.push_back(kind);
    }

    /// Sets what [`credential_error`](Transport::credential_error) tells.
    pub fn set_credential_error(&self, error: Option<LastError>) {
        self.lock().credential_error = error;
    }

    /// Appends a message that cannot be decoded. `has_place`: it says where it stands.
    pub fn send_undecodable(
        &self,
        partition_id: impl Into<PartitionId>,
        body: impl Into<Vec<u8>>,
        has_place: bool,
    ) -> i64 {
        let partition_id = partition_id.into();
        // Before it can be read.
        if let Some(partition) = self.lock().partitions.get_mut(&partition_id) {
            let index = partition.events.len();
            partition.undecodable.insert(index, has_place);
        }
        self.send(partition_id, body)
    }

    /// Has the attached receivers of a partition go on with an earlier or a later event, as a faulty service would.
    pub fn jump_to(&self, partition_id: impl Into<PartitionId>, sequence_number: i64) {
        if let Some(partition) = self.lock().partitions.get_mut(&partition_id.into()) {
            let index = usize::try_from(sequence_number).unwrap_or_default();
            for receiver in partition.receivers.values_mut() {
                receiver.jump_to = Some(index);
            }
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Delivers nothing of a partition any more, and says nothing about it: receivers stay attached, events arrive, and
    /// its properties tell of them.
    pub fn stall(&self, partition_id: impl Into<PartitionId>, until: StalledUntil) {
        let mut state = self.lock();
        let connection = state.connection;
        let Some(partition) = state.partitions.get_mut(&partition_id.into()) else {
            return;
        };
        match until {
            StalledUntil::Reminded | StalledUntil::Reopened => {
                for receiver in partition.receivers.values_mut() {
                    receiver.stalled = Some(until);
                }
            }
            StalledUntil::Reconnected => partition.bad_connection = Some(connection),
            StalledUntil::Healed => partition.is_stalled = true,
        }
    }

    /// Ends what [`stall`](Self::stall) began.
    pub fn heal(&self, partition_id: impl Into<PartitionId>) {
        if let Some(partition) = self.lock().partitions.get_mut(&partition_id.into()) {
            partition.is_stalled = false;
            partition.bad_connection = None;
            for receiver in partition.receivers.values_mut() {
                receiver.stalled = None;
            }
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Makes a partition anew, as if the event hub had been deleted and created again: no events, numbers from 0, and
    /// whoever read it has to come again.
    pub fn recreate(&self, partition_id: impl Into<PartitionId>) {
        let partition_id = partition_id.into();
        if let Some(partition) = self.lock().partitions.get_mut(&partition_id) {
            partition.events.clear();
            partition.retained_from = 0;
        }
        self.disconnect(partition_id, TransportErrorKind::NotFound);
    }

    /// Lets the events before `first_retained` expire.
    pub fn expire(&self, partition_id: impl Into<PartitionId>, first_retained: i64) {
        if let Some(partition) = self.lock().partitions.get_mut(&partition_id.into()) {
            partition.retained_from = usize::try_from(first_retained).unwrap_or_default();
        }
    }

    /// How many events of a partition its receivers have returned, repetitions included.
    #[must_use]
    pub fn taken(&self, partition_id: impl Into<PartitionId>) -> usize {
        let state = self.lock();
        let partition = state.partitions.get(&partition_id.into());
        partition.map_or(0, |partition| partition.taken)
    }

    /// How many receivers of a partition are attached.
    #[must_use]
    pub fn receivers(&self, partition_id: impl Into<PartitionId>) -> usize {
        self.lock()
            .partitions
            .get(&partition_id.into())
            .map_or(0, |partition| {
                partition
                    .receivers
                    .values()
                    .filter(|receiver| receiver.ended.is_none())
                    .count()
            })
    }

    /// Where receivers of a partition were opened, in order.
    #[must_use]
    pub fn opened_at(&self, partition_id: impl Into<PartitionId>) -> Vec<EventPosition> {
        let state = self.lock();
        state
            .partitions
            .get(&partition_id.into())
            .map_or_else(Vec::new, |p| p.opened_at.clone())
    }

    /// The [`after_sequence_number`](ReceiverOptions::after_sequence_number) of each of them.
    #[must_use]
    pub fn opened_after(&self, partition_id: impl Into<PartitionId>) -> Vec<Option<i64>> {
        let state = self.lock();
        state
            .partitions
            .get(&partition_id.into())
            .map_or_else(Vec::new, |p| p.opened_after.clone())
    }

    fn now(&self) -> SystemTime {
        self.started.0 + self.started.1.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(kind: TransportErrorKind) -> TransportError {
    TransportError::new(kind, "on request")
}

fn undecodable(event: &ReceivedEvent, has_place: bool) -> TransportError {
    let position = Position {
        sequence_number: has_place.then(|| event.sequence_number()),
        offset: has_place.then(|| event.offset().clone()),
        enqueued_time: Some(event.enqueued_time()),
    };
    let raw = Bytes::copy_from_slice(event.body());
    let reason = UndecodableReason::Malformed;
    let undecodable = UndecodableEvent::new(reason, position, raw);
    TransportError::of_undecodable("receiving", Box::new(undecodable))
}

fn not_found(partition_id: &PartitionId) -> TransportError {
    TransportError::new(
        TransportErrorKind::NotFound,
        format!("partition {partition_id}"),
    )
}

#[async_trait]
impl Transport for FakeEventHub {
    fn fully_qualified_namespace(&self) -> &str {
        "fake.servicebus.windows.net"
    }

    fn event_hub_name(&self) -> &str {
        "hub"
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        let partition_ids = self.lock().partitions.keys().cloned().collect();
        Ok(EventHubProperties::new("hub", partition_ids))
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        let mut state = self.lock();
        if let Some(kind) = state.properties_failures.pop_front() {
            return Err(TransportError::new(kind, "on request"));
        }
        let partition = state
            .partitions
            .get(partition_id)
            .ok_or_else(|| not_found(partition_id))?;
        let last = partition.events.last();
        Ok(PartitionProperties {
            event_hub_name: "hub".to_owned(),
            partition_id: partition_id.clone(),
            beginning_sequence_number: i64::try_from(partition.retained_from).unwrap_or(i64::MAX),
            last_enqueued_sequence_number: last.map_or(-1, ReceivedEvent::sequence_number),
            last_enqueued_offset: last.map_or_else(|| "-1".into(), |event| event.offset().clone()),
            last_enqueued_time: last.map_or(SystemTime::UNIX_EPOCH, ReceivedEvent::enqueued_time),
            is_empty: last.is_none(),
        })
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        let mut state = self.lock();
        if let Some(kind) = state.open_failures.pop_front() {
            return Err(failed(kind));
        }
        let id = state.next_receiver;
        state.next_receiver += 1;
        let connection = state.connection;
        let partition = state
            .partitions
            .get_mut(&options.partition_id)
            .ok_or_else(|| not_found(&options.partition_id))?;
        let attached = || {
            partition
                .receivers
                .values()
                .filter(|receiver| receiver.ended.is_none())
        };
        if attached().any(|receiver| receiver.owner_level > options.owner_level) {
            return Err(failed(TransportErrorKind::OwnershipLost));
        }
        if options.owner_level.is_some() {
            for receiver in partition.receivers.values_mut() {
                receiver
                    .ended
                    .get_or_insert(TransportErrorKind::OwnershipLost);
            }
        }
        let next = start_index(&partition.events, &options.position).max(partition.retained_from);
        partition.opened_at.push(options.position);
        partition.opened_after.push(options.after_sequence_number);
        let attached = Attached {
            owner_level: options.owner_level,
            ended: None,
            jump_to: None,
            stalled: None,
            connection,
        };
        partition.receivers.insert(id, attached);
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
        let partition_id = options.partition_id;
        let changed = self.changed.subscribe();
        Ok(Box::new(FakeReceiver {
            hub: self.clone(),
            changed,
            partition_id,
            id,
            next,
        }))
    }

    fn credential_error(&self) -> Option<LastError> {
        self.lock().credential_error.clone()
    }

    async fn close(&self) {}
}

/// Index of the first event to deliver.
fn start_index(events: &[ReceivedEvent], position: &EventPosition) -> usize {
    let is_after = |event: &ReceivedEvent| match position {
        EventPosition::Earliest => true,
        EventPosition::Latest => false,
        EventPosition::Offset { offset, inclusive } => {
            // The offsets of this hub are numbers.
            let wanted = offset.as_str().parse::<i64>().unwrap_or(-1);
            let here = event.sequence_number() * 100;
            here > wanted || (*inclusive && here == wanted)
        }
        EventPosition::SequenceNumber {
            sequence_number,
            inclusive,
        } => {
            event.sequence_number() > *sequence_number
                || (*inclusive && event.sequence_number() == *sequence_number)
        }
        EventPosition::EnqueuedTime { time, inclusive } => {
            event.enqueued_time() > *time || (*inclusive && event.enqueued_time() == *time)
        }
    };
    events.iter().position(is_after).unwrap_or(events.len())
}

#[derive(Debug)]
struct FakeReceiver {
    hub: FakeEventHub,
    changed: watch::Receiver<u64>,
    partition_id: PartitionId,
    id: u64,
    next: usize,
}

#[async_trait]
impl PartitionReceiver for FakeReceiver {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        loop {
            self.changed.borrow_and_update();
            {
                let mut state = self.hub.lock();
                let partition = state
                    .partitions
                    .get_mut(&self.partition_id)
                    .ok_or_else(|| not_found(&self.partition_id))?;
                let mut is_stalled = partition.is_stalled;
                if let Some(attached) = partition.receivers.get_mut(&self.id) {
                    if let Some(kind) = attached.ended {
                        return Err(failed(kind));
                    }
                    is_stalled |= attached.stalled.is_some()
                        || partition.bad_connection == Some(attached.connection);
                    self.next = attached.jump_to.take().unwrap_or(self.next);
                }
                let events = partition.events.get(self.next..).unwrap_or_default();
                if let Some(has_place) = partition.undecodable.get(&self.next)
                    && !is_stalled
                {
                    let error = undecodable(&events[0], *has_place);
                    self.next += 1;
                    return Err(error);
                }
                let next_undecodable = partition.undecodable.range(self.next..).next();
                let decodable = next_undecodable.map_or(max, |(index, _)| index - self.next);
                if !events.is_empty() && !is_stalled {
                    let taken = events[..events.len().min(max).min(decodable)].to_vec();
                    self.next += taken.len();
                    partition.taken += taken.len();
                    return Ok(taken);
                }
            }
            // The sender lives in `hub`.
            let _ = self.changed.changed().await;
        }
    }

    fn remind(&mut self) {
        if let Some(partition) = self.hub.lock().partitions.get_mut(&self.partition_id)
            && let Some(attached) = partition.receivers.get_mut(&self.id)
            && attached.stalled == Some(StalledUntil::Reminded)
        {
            attached.stalled = None;
        }
    }

    fn abandon_connection(&self) {
        let mut state = self.hub.lock();
        let receivers = state.partitions.get(&self.partition_id);
        let attached = receivers.and_then(|partition| partition.receivers.get(&self.id));
        if attached.is_some_and(|attached| attached.connection == state.connection) {
            state.connection += 1;
        }
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for FakeReceiver {
    fn drop(&mut self) {
        if let Some(partition) = self.hub.lock().partitions.get_mut(&self.partition_id) {
            partition.receivers.remove(&self.id);
        }
    }
}
