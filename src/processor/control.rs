//! The loop: observe → plan → act → reconcile, and the stop at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rand::RngExt as _;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;

use super::pump::{Pump, PumpEnd, Shared};
use super::report::Reporter;
use super::signal::StopSignal;
use super::stop::{StopReport, stop};
use crate::balance::{self, BalanceRule, Claim, Plan, Snapshot};
use crate::checkpoint::{OwnershipListing, WriteOutcome};
use crate::error::{
    ProcessingError, ProcessorError, StoreError, StoreErrorKind, TransportError, TransportErrorKind,
};
use crate::model::{ETag, PartitionId};
use crate::retry::Backoff;
use crate::telemetry;

/// Ownership writes under way at once: enough that 1024 renewals fit into a cycle, few enough for any storage account.
const MAX_CONCURRENT_WRITES: usize = 32;

/// How long a listing of the event hub's partitions is believed: new partitions are read this much later at most.
const PARTITIONS_TTL: Duration = Duration::from_secs(60);

/// How long a cycle may go on once the processor stops. What it leaves open is found by a listing at the end.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A running processor.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) shutdown: CancellationToken,
    pub(super) pumps: JoinMap<PartitionId, PumpEnd>,
    /// What we own, at the version we last wrote.
    pub(super) owned: BTreeMap<PartitionId, ETag>,
    /// Whether a write of ours may have taken effect unseen.
    pub(super) is_uncertain: bool,
    signals: BTreeMap<PartitionId, StopSignal>,
    /// Partitions whose receiver was displaced before the records named another owner.
    held_off: BTreeMap<PartitionId, HeldOff>,
    partitions: BTreeSet<PartitionId>,
    partitions_read: Option<Instant>,
    reporter: Reporter,
}

/// A partition not to be read for a while.
#[derive(Debug)]
struct HeldOff {
    until: Instant,
    /// What displaced us; told once the records still say that the partition is ours.
    error: Option<TransportError>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        let reporter = Reporter::new(Arc::clone(&shared.handler));
        Self {
            shared,
            shutdown,
            pumps: JoinMap::new(),
            owned: BTreeMap::new(),
            is_uncertain: false,
            signals: BTreeMap::new(),
            held_off: BTreeMap::new(),
            partitions: BTreeSet::new(),
            partitions_read: None,
            reporter,
        }
    }

    pub(super) async fn run(mut self) -> Result<StopReport, ProcessorError> {
        self.check_configuration().await?;
        let mut next_cycle = Instant::now();
        while !self.shutdown.is_cancelled() {
            tokio::select! {
                // The stop first, then pumps: what they tell may change what the next cycle does.
                biased;
                () = self.shutdown.cancelled() => {}
                Some((partition_id, end)) = self.pumps.join_next() => {
                    self.pump_ended(partition_id, end);
                    next_cycle = Instant::now();
                }
                () = tokio::time::sleep_until(next_cycle) => {
                    next_cycle = Instant::now() + self.cycle().await;
                }
            }
        }
        Ok(stop(self).await)
    }

    /// Asks both sides once, with patience for what may pass, and refuses to start with a configuration that cannot
    /// work: an operator sees at once what would otherwise be retried for ever.
    async fn check_configuration(&mut self) -> Result<(), ProcessorError> {
        let options = &self.shared.options;
        let mut backoff = Backoff::new(options.retry_delay, options.max_retry_delay);
        while !self.shutdown.is_cancelled() {
            let error = match self.read_partitions().await {
                Err(error) if is_fatal_transport(error.kind()) => {
                    return Err(ProcessorError::EventHub(error));
                }
                Err(error) => ProcessingError::EventHub(error),
                Ok(()) => {
                    let listing = self.shared.store.list_ownership(&self.shared.scope);
                    match until(&self.shutdown, listing).await {
                        Some(Err(error)) if is_fatal_store(error.kind()) => {
                            return Err(ProcessorError::CheckpointStore(error));
                        }
                        Some(Err(error)) => ProcessingError::LoadBalancing(error),
                        Some(Ok(_)) | None => return Ok(()),
                    }
                }
            };
            self.reporter.report(error);
            let delay = backoff.next_delay(&mut rand::rng());
            until(&self.shutdown, tokio::time::sleep(delay)).await;
        }
        Ok(())
    }

    /// One cycle. Returns how long to wait before the next.
    async fn cycle(&mut self) -> Duration {
        let interval = self.shared.options.load_balancing_interval;
        let settled = self.balance().await;
        if settled {
            interval.mul_f64(rand::rng().random_range(0.9..1.1))
        } else {
            let hurry = (interval / 8).min(Duration::from_secs(1));
            hurry.mul_f64(rand::rng().random_range(0.7..1.3))
        }
    }

    /// Observes, plans, acts and reconciles. Returns whether there is nothing left to do for now.
    async fn balance(&mut self) -> bool {
        if self
            .partitions_read
            .is_none_or(|read| read.elapsed() >= PARTITIONS_TTL)
            && let Err(error) = self.read_partitions().await
        {
            self.reporter.report(ProcessingError::EventHub(error));
        }
        let listing = self.shared.store.list_ownership(&self.shared.scope);
        let listing = match until(&self.shutdown, listing).await {
            Some(Ok(listing)) => listing,
            Some(Err(error)) => {
                // No view, no decision: what we own goes on being read.
                self.reporter.report(ProcessingError::LoadBalancing(error));
                return true;
            }
            None => return true,
        };
        let plan = self.plan(listing);
        let is_quiet = plan.is_settled && plan.claim.is_empty() && plan.steal.is_empty();
        let owned_before = self.owned.len();
        self.act(plan).await;
        self.reconcile();
        // After a claim look again soon: JS and Python peers may overwrite a record that is brand new.
        is_quiet && self.owned.len() >= owned_before
    }

    fn plan(&self, listing: OwnershipListing) -> Plan {
        let snapshot = Snapshot {
            partitions: self.partitions.clone(),
            ownerships: listing
                .ownerships
                .into_iter()
                .map(|ownership| (ownership.partition_id.clone(), ownership))
                .collect(),
            as_of: listing.as_of,
        };
        let rule = BalanceRule {
            strategy: self.shared.options.load_balancing_strategy,
            ownership_expiration: self.shared.options.partition_ownership_expiration,
        };
        let plan = balance::plan(&snapshot, &self.shared.owner_id, rule, &mut rand::rng());
        tracing::debug!(
            target: telemetry::LOAD_BALANCER,
            owner_id = %self.shared.owner_id,
            partitions = snapshot.partitions.len(),
            renew = plan.renew.len(), claim = plan.claim.len(), steal = plan.steal.len(),
            "load balancing"
        );
        plan
    }

    /// Writes what was planned. Afterwards `owned` is what the store confirmed, and what it could not deny.
    async fn act(&mut self, plan: Plan) {
        let renewals: BTreeSet<_> = plan
            .renew
            .iter()
            .map(|claim| claim.partition_id.clone())
            .collect();
        self.owned
            .retain(|partition_id, _| renewals.contains(partition_id));
        let shared = Arc::clone(&self.shared);
        let mut writes = stream::iter(plan.renew.into_iter().chain(plan.claim).chain(plan.steal))
            .map(|claim| write(Arc::clone(&shared), claim))
            .buffer_unordered(MAX_CONCURRENT_WRITES);
        let shutdown = self.shutdown.clone();
        let grace = async move {
            shutdown.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::pin!(grace);
        loop {
            let next = tokio::select! {
                biased;
                next = writes.next() => next,
                () = &mut grace => {
                    self.is_uncertain = true;
                    return;
                }
            };
            let Some((partition_id, outcome)) = next else {
                return;
            };
            match outcome {
                Ok(WriteOutcome::Written(written)) => {
                    if self
                        .owned
                        .insert(partition_id.clone(), written.etag)
                        .is_none()
                    {
                        tracing::info!(
                            target: telemetry::LOAD_BALANCER,
                            %partition_id, owner_id = %shared.owner_id,
                            "partition claimed"
                        );
                    }
                }
                Ok(WriteOutcome::Lost) => {
                    self.owned.remove(&partition_id);
                }
                Ok(WriteOutcome::Unknown(error)) => {
                    self.is_uncertain = true;
                    self.reporter.report(ProcessingError::LoadBalancing(error));
                }
                Err(error) => self.reporter.report(ProcessingError::LoadBalancing(error)),
            }
        }
    }

    /// Starts and stops pumps so that they match what we own.
    fn reconcile(&mut self) {
        let changes = balance::reconcile(self.pumps.keys(), self.owned.keys());
        for partition_id in changes.stop {
            if let Some(signal) = self.signals.get(&partition_id) {
                signal.lose();
            }
        }
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
            let signal = StopSignal::new(&self.shutdown);
            self.signals.insert(partition_id.clone(), signal.clone());
            let pump = Pump::new(Arc::clone(&self.shared), partition_id.clone(), signal);
            self.pumps.spawn(partition_id, pump.run());
        }
    }

    fn pump_ended(&mut self, partition_id: PartitionId, end: Result<PumpEnd, JoinError>) {
        self.signals.remove(&partition_id);
        match end {
            Ok(PumpEnd {
                displaced: Some(error),
                ..
            }) => {
                let until = Instant::now() + self.shared.options.load_balancing_interval;
                self.held_off.insert(
                    partition_id,
                    HeldOff {
                        until,
                        error: Some(error),
                    },
                );
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

    async fn read_partitions(&mut self) -> Result<(), TransportError> {
        let properties = self.shared.transport.event_hub_properties();
        let Some(properties) = until(&self.shutdown, properties).await else {
            return Ok(());
        };
        // Partitions are never taken away from an event hub: a shorter answer is a wrong one.
        self.partitions.extend(properties?.partition_ids);
        self.partitions_read = Some(Instant::now());
        Ok(())
    }
}

async fn write(
    shared: Arc<Shared>,
    claim: Claim,
) -> (PartitionId, Result<WriteOutcome, StoreError>) {
    let owner_id = Some(&shared.owner_id);
    let outcome = shared
        .store
        .claim_ownership(
            &shared.scope,
            &claim.partition_id,
            owner_id,
            &claim.condition,
        )
        .await;
    (claim.partition_id, outcome)
}

/// The future's result, or `None` once the processor stops. Only for futures that leave nothing half done.
async fn until<T>(shutdown: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        value = future => Some(value),
    }
}

fn is_fatal_transport(kind: TransportErrorKind) -> bool {
    matches!(
        kind,
        TransportErrorKind::Closed
            | TransportErrorKind::NotFound
            | TransportErrorKind::Rejected
            | TransportErrorKind::Unauthorized
    )
}

fn is_fatal_store(kind: StoreErrorKind) -> bool {
    matches!(
        kind,
        StoreErrorKind::ContainerNotFound
            | StoreErrorKind::InvalidValue
            | StoreErrorKind::Unauthorized
    )
}
