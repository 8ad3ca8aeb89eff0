//! The loop: load-balancing cycles, pumps that end, and the stop.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;

use super::fence::Fence;
use super::former::Former;
use super::handover::{Heir, hand_over};
use super::pump::{Displaced, Pump, PumpEnd, Shared};
use super::report::Reporter;
use super::signal::StopSignal;
use super::status::{Holding, Monitor};
use super::stop::{StopReport, release, stop};
use crate::balance::{self, Memory, Waiting};
use crate::error::{
    ProcessingError, ProcessorError, StoreErrorKind, TransportError, TransportErrorKind,
};
use crate::model::{ETag, EventHubProperties, OwnerId, PartitionId};
use crate::retry::{Backoff, RetryMode};
use crate::telemetry;

/// How soon the next cycle comes after the end of a pump, or when somebody else checkpoints a partition of ours. A
/// processor that gives up hundreds of partitions does not list the group hundreds of times.
const SOON: Duration = Duration::from_millis(500);

/// A running processor.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) begun: Instant,
    pub(super) shutdown: CancellationToken,
    /// Stops the pumps. Not the shutdown itself, after which they may go on for a while.
    pub(super) pumps_stop: CancellationToken,
    pub(super) pumps: JoinMap<PartitionId, PumpEnd>,
    /// Where the pumps run, and with them the hooks: the runtime that the processor was started on.
    hooks: Handle,
    pub(super) signals: BTreeMap<PartitionId, StopSignal>,
    /// What we own, at the version we last wrote.
    pub(super) owned: BTreeMap<PartitionId, ETag>,
    /// The versions before that.
    pub(super) former: Former,
    pub(super) fences: BTreeMap<PartitionId, Arc<Fence>>,
    /// Owned since then, but the owner before has not finished yet.
    pub(super) awaited: BTreeMap<PartitionId, (Instant, Waiting)>,
    /// When what we own was claimed.
    pub(super) claimed: BTreeMap<PartitionId, Instant>,
    /// No longer awaited since the last listing.
    pub(super) arrived: BTreeSet<PartitionId>,
    /// Others of our kind that have claimed what we read; they wait for our handlers to finish.
    pub(super) heirs: BTreeMap<PartitionId, Heir>,
    /// Read by us, but somebody has written the record: the next listing tells who.
    pub(super) contested: BTreeSet<PartitionId>,
    /// Heirs being told, and links being closed after that.
    pub(super) closing: JoinSet<()>,
    /// Partitions where a write of ours may have taken effect unseen, and the owner that we would have to wait for.
    pub(super) doubtful: BTreeMap<PartitionId, Option<OwnerId>>,
    /// Ours until others of our kind claimed it; when that was seen, and whom we waited for ourselves. As long as they wait for
    /// us they may write our name back.
    pub(super) passed_on: BTreeMap<PartitionId, (Instant, Option<OwnerId>)>,
    /// Whether a stop would go on reading until others have taken over.
    pub(super) lingers: Arc<AtomicBool>,
    pub(super) partitions: BTreeSet<PartitionId>,
    pub(super) memory: Memory,
    pub(super) store: StoreHealth,
    pub(super) list_backoff: Backoff,
    pub(super) is_told_of_foreigners: bool,
    /// When the last listing that succeeded was asked for.
    pub(super) listed: Option<Instant>,
    /// When to plan again.
    pub(super) next_plan: Instant,
    /// When to look whether what we wait for has come.
    pub(super) next_look: Instant,
    pub(super) reporter: Reporter,
    /// Partitions whose receiver was displaced before the records named another owner.
    pub(super) held_off: BTreeMap<PartitionId, HeldOff>,
    partitions_read: Option<Instant>,
    reading_partitions: JoinSet<Result<EventHubProperties, TransportError>>,
}

/// What we know of the store's health: while it fails for us it may fail for everybody, so nobody is judged by a
/// silence that began before it worked again.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    /// Last proof that the store lists and writes.
    pub(super) proven: Option<Instant>,
    /// Since when listings fail.
    pub(super) failing_since: Option<Instant>,
    /// Since when it works again after it did not.
    pub(super) up_since: Option<Instant>,
}

/// A partition not to be read for a while.
#[derive(Debug)]
pub(super) struct HeldOff {
    pub(super) until: Instant,
    /// It is not even ours: it was given back because nothing came, and is left to others for a while.
    pub(super) is_given_back: bool,
    /// No receiver could be opened: somebody reads it at a higher level, whoever owns it.
    pub(super) is_refused: bool,
    /// What displaced us; told once the records still say that the partition is ours.
    error: Option<TransportError>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, shutdown: &CancellationToken) -> Self {
        let reporter = Reporter::new(Arc::clone(&shared.handler));
        let interval = shared.options.load_balancing_interval;
        Self {
            shared,
            begun: Instant::now(),
            // Ours to cancel: the caller's may stop other things, too.
            shutdown: shutdown.child_token(),
            pumps_stop: CancellationToken::new(),
            pumps: JoinMap::new(),
            hooks: Handle::current(),
            signals: BTreeMap::new(),
            owned: BTreeMap::new(),
            former: Former::default(),
            fences: BTreeMap::new(),
            awaited: BTreeMap::new(),
            claimed: BTreeMap::new(),
            arrived: BTreeSet::new(),
            heirs: BTreeMap::new(),
            contested: BTreeSet::new(),
            closing: JoinSet::new(),
            doubtful: BTreeMap::new(),
            passed_on: BTreeMap::new(),
            lingers: Arc::default(),
            partitions: BTreeSet::new(),
            memory: Memory::default(),
            store: StoreHealth::default(),
            list_backoff: Backoff::new(RetryMode::Exponential, interval / 8, interval),
            is_told_of_foreigners: false,
            listed: None,
            next_plan: Instant::now(),
            next_look: Instant::now(),
            reporter,
            held_off: BTreeMap::new(),
            partitions_read: None,
            reading_partitions: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<StopReport, ProcessorError> {
        let monitor = Monitor::new(Arc::clone(&self.shared));
        let (shutdown, pumps_stop) = (self.shutdown.clone(), self.pumps_stop.clone());
        let lingers = Arc::clone(&self.lingers);
        // Pumps that nobody takes over from need not wait for a cycle that is still writing.
        let shared = Arc::clone(&self.shared);
        let stop_pumps = async move {
            tokio::select! {
                () = shutdown.cancelled() => shared.stopper.stop(),
                () = shared.stopper.asked() => shutdown.cancel(),
            }
            if !lingers.load(Ordering::Relaxed) {
                pumps_stop.cancel();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // The watcher first, or a busy loop would put it off.
            biased;
            () = stop_pumps => {}
            result = self.run_cycles() => result?,
        }
        let shared = Arc::clone(&self.shared);
        let report = stop(self).await;
        shared.stopper.ended(report.clone());
        shared.board.set_owned(BTreeMap::new());
        monitor.finish().await;
        match shared.stopper.take_cause() {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    async fn run_cycles(&mut self) -> Result<(), ProcessorError> {
        self.check_configuration().await?;
        let notes = Arc::clone(&self.shared.notes);
        self.next_plan = Instant::now();
        while !self.shutdown.is_cancelled() {
            let next_cycle = if self.awaited.is_empty() {
                self.next_plan
            } else {
                self.next_plan.min(self.next_look)
            };
            tokio::select! {
                // The stop first, then what may change what the next cycle does.
                biased;
                () = self.shutdown.cancelled() => {}
                Some((partition_id, end)) = self.pumps.join_next() => {
                    self.pump_ended(partition_id, end);
                    self.next_plan = self.next_plan.min(Instant::now() + SOON);
                }
                () = notes.look_now.notified() => {
                    self.next_plan = self.next_plan.min(Instant::now() + SOON);
                }
                Some(_) = self.closing.join_next() => {}
                Some(read) = self.reading_partitions.join_next() => {
                    if self.partitions_read(read) {
                        self.next_plan = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(next_cycle) => {
                    self.read_partitions_if_due();
                    self.cycle().await;
                }
            }
        }
        Ok(())
    }

    /// Asks both sides once, with patience for what may pass, and refuses to start with a configuration that cannot
    /// work: an operator sees at once what would otherwise be retried for ever.
    async fn check_configuration(&mut self) -> Result<(), ProcessorError> {
        let mut backoff = self.shared.options.backoff();
        while !self.shutdown.is_cancelled() {
            let error = match self.read_partitions().await {
                Err(error) if is_fatal_transport(error.kind()) => {
                    return Err(ProcessorError::EventHub(error));
                }
                Err(error) => ProcessingError::EventHub(error),
                Ok(()) => {
                    let asked = Instant::now();
                    let listing = self.shared.store.list_ownership(&self.shared.scope);
                    match until(&self.shutdown, listing).await {
                        Some(Err(error)) if is_fatal_store(error.kind()) => {
                            return Err(ProcessorError::CheckpointStore(error));
                        }
                        Some(Err(error)) => {
                            // Others may have been silent because of it.
                            self.store.failing_since.get_or_insert(asked);
                            ProcessingError::LoadBalancing(error)
                        }
                        Some(Ok(_)) | None => return Ok(()),
                    }
                }
            };
            let asked = error.retry_after();
            self.reporter.report(error);
            let delay = self.shared.draw(|rng| backoff.next_delay(asked, rng));
            until(&self.shutdown, tokio::time::sleep(delay)).await;
        }
        Ok(())
    }

    async fn read_partitions(&mut self) -> Result<(), TransportError> {
        let properties = self.shared.transport.event_hub_properties();
        let Some(properties) = until(&self.shutdown, properties).await else {
            return Ok(());
        };
        self.partitions.extend(properties?.partition_ids);
        self.partitions_read = Some(Instant::now());
        Ok(())
    }

    /// Asks for the partitions once an interval, beside the cycles: an event hub that does not answer must not keep
    /// ownership from being renewed.
    fn read_partitions_if_due(&mut self) {
        let interval = self.shared.options.load_balancing_interval;
        let is_due = self
            .partitions_read
            .is_none_or(|read| read.elapsed() >= interval.mul_f64(0.9));
        if is_due && self.reading_partitions.is_empty() {
            self.partitions_read = Some(Instant::now());
            let transport = Arc::clone(&self.shared.transport);
            self.reading_partitions
                .spawn(async move { transport.event_hub_properties().await });
        }
    }

    /// Returns whether there are new partitions.
    fn partitions_read(
        &mut self,
        read: Result<Result<EventHubProperties, TransportError>, JoinError>,
    ) -> bool {
        match read {
            Ok(Ok(properties)) => {
                let known = self.partitions.len();
                // Partitions are never taken away from an event hub: a shorter answer is a wrong one.
                self.partitions.extend(properties.partition_ids);
                self.partitions.len() > known
            }
            Ok(Err(error)) => {
                self.reporter.report(ProcessingError::EventHub(error));
                false
            }
            Err(error) => {
                tracing::error!(target: telemetry::PROCESSOR, %error, "reading the partitions ended out of turn");
                false
            }
        }
    }

    /// Starts and stops pumps so that they match what we own.
    pub(super) fn reconcile(&mut self) {
        let Self {
            owned, contested, ..
        } = self;
        self.fences
            .retain(|id, _| owned.contains_key(id) || contested.contains(id));
        self.awaited.retain(|id, _| self.owned.contains_key(id));
        self.claimed.retain(|id, _| self.owned.contains_key(id));
        self.former.retain(|id| self.owned.contains_key(id));
        let to_read = self
            .owned
            .keys()
            .filter(|id| !self.awaited.contains_key(*id));
        let changes = balance::reconcile(self.pumps.keys(), to_read);
        for partition_id in changes.stop {
            if self.heirs.contains_key(&partition_id) || self.contested.contains(&partition_id) {
                continue;
            }
            if let Some(signal) = self.signals.get(&partition_id) {
                signal.lose();
            }
        }
        let arrived = std::mem::take(&mut self.arrived);
        let now = Instant::now();
        self.held_off.retain(|_, held_off| held_off.until > now);
        for partition_id in changes.start {
            if self.shutdown.is_cancelled() {
                return;
            }
            if let Some(held_off) = self.held_off.get_mut(&partition_id) {
                // Somebody reads the partition at our level or above without owning it. We do not fight.
                if let Some(error) = held_off.error.take() {
                    self.reporter.report(ProcessingError::Receive(error));
                }
                continue;
            }
            let Some(fence) = self.fences.get(&partition_id).map(Arc::clone) else {
                continue;
            };
            let signal = StopSignal::new(&self.pumps_stop);
            self.signals.insert(partition_id.clone(), signal.clone());
            let shared = Arc::clone(&self.shared);
            let mut pump = Pump::new(shared, partition_id.clone(), signal, fence);
            pump.is_listed = arrived.contains(&partition_id);
            self.pumps.spawn_on(partition_id, pump.run(), &self.hooks);
        }
        self.note_owned();
    }

    fn note_owned(&self) {
        let owned = self.owned.keys().map(|partition_id| {
            let holding = if self.awaited.contains_key(partition_id) {
                Holding::Awaited
            } else if self.pumps.contains_key(partition_id) {
                Holding::Read
            } else {
                Holding::HeldOff
            };
            (partition_id.clone(), holding)
        });
        self.shared.board.set_owned(owned.collect());
    }

    fn pump_ended(&mut self, partition_id: PartitionId, end: Result<PumpEnd, JoinError>) {
        let signal = self.signals.remove(&partition_id);
        let is_passed_on = self.heirs.contains_key(&partition_id);
        if is_passed_on || signal.is_some_and(|signal| signal.is_lost()) {
            self.shared.board.balancing.lost();
        }
        if let Some(heir) = self.heirs.remove(&partition_id) {
            // Before the next plan there may be a look, which must not begin to read what has been passed on. The heir
            // may have withdrawn its claim, and the record is in our name again.
            self.owned.remove(&partition_id);
            self.doubtful.insert(partition_id.clone(), None);
            let shared = Arc::clone(&self.shared);
            shared.board.note(partition_id.clone(), None);
            self.closing
                .spawn(hand_over(shared, partition_id, heir, end.ok(), true));
            return;
        }
        match end {
            Ok(PumpEnd {
                displaced: Some(displaced),
                ..
            }) => {
                let Displaced {
                    error,
                    asked_for,
                    is_refused,
                } = displaced;
                let claimed = self.claimed.get(&partition_id);
                if !is_refused && claimed.is_some_and(|claimed| asked_for < *claimed) {
                    // Maybe by an owner from whom we have taken the partition since: a handler that ran may have kept the
                    // news from us. Whoever is no owner does it again.
                    return;
                }
                self.shared.board.balancing.lost();
                let holding = self.owned.get(&partition_id).map(|_| Holding::HeldOff);
                self.shared.board.note(partition_id.clone(), holding);
                let until = Instant::now() + self.shared.options.load_balancing_interval;
                let held_off = HeldOff {
                    until,
                    is_given_back: false,
                    is_refused,
                    error: Some(error),
                };
                self.held_off.insert(partition_id, held_off);
            }
            Ok(PumpEnd {
                has_stalled: true, ..
            }) => {
                // Long enough for a cycle of everybody else's.
                let interval = self.shared.options.load_balancing_interval;
                let held_off = HeldOff {
                    until: Instant::now() + interval * 3 / 2,
                    is_given_back: true,
                    is_refused: false,
                    error: None,
                };
                self.held_off.insert(partition_id.clone(), held_off);
                self.doubtful.insert(partition_id.clone(), None);
                self.shared.board.note(partition_id.clone(), None);
                if let Some(etag) = self.owned.remove(&partition_id) {
                    let shared = Arc::clone(&self.shared);
                    self.closing.spawn(release(shared, partition_id, etag));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(
                    target: telemetry::PROCESSOR,
                    %partition_id, is_panic = error.is_panic(),
                    "a partition's task ended out of turn; it is started again"
                );
            }
        }
    }
}

/// The future's result, or `None` once the processor stops. Only for futures that leave nothing half done.
pub(super) async fn until<T>(
    shutdown: &CancellationToken,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        value = future => Some(value),
    }
}

fn is_fatal_transport(kind: TransportErrorKind) -> bool {
    matches!(
        kind,
        TransportErrorKind::Certificate
            | TransportErrorKind::Closed
            | TransportErrorKind::NotFound
            | TransportErrorKind::Proxy
            | TransportErrorKind::Rejected
            | TransportErrorKind::Unauthorized
    )
}

fn is_fatal_store(kind: StoreErrorKind) -> bool {
    matches!(
        kind,
        StoreErrorKind::Certificate
            | StoreErrorKind::ContainerNotFound
            | StoreErrorKind::InvalidValue
            | StoreErrorKind::Proxy
            | StoreErrorKind::Rejected
            | StoreErrorKind::SplitGroup
            | StoreErrorKind::Unauthorized
    )
}
