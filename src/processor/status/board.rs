//! Where all of a processor's numbers come together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::cell::{PartitionCell, Stage};
use super::counted::StoreCalls;
use super::{LoadBalancingStatus, PartitionState, PartitionStatus, ProcessorStatus};
use crate::error::LastError;
use crate::model::{GroupScope, OwnerId, PartitionId};
use crate::processor::checkpointer::Notes;
use crate::processor::restart::Restarts;

/// Why a partition of ours is read, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::processor) enum Holding {
    Read,
    /// The owner before has not finished yet.
    Awaited,
    HeldOff,
}

/// Outlives the processor, so that the last state can be read.
#[derive(Debug)]
pub(in crate::processor) struct Board {
    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "labels of the metrics")
    )]
    pub(super) scope: GroupScope,
    owner_id: OwnerId,
    notes: Arc<Notes>,
    restarts: Arc<Restarts>,
    pub(in crate::processor) calls: Arc<StoreCalls>,
    pub(in crate::processor) balancing: Balancing,
    /// Of all partitions that were ever ours.
    cells: Mutex<BTreeMap<PartitionId, Arc<PartitionCell>>>,
    owned: Mutex<BTreeMap<PartitionId, Holding>>,
    credentials: Mutex<CredentialErrors>,
    /// Cancelled when the processor has ended.
    pub(in crate::processor) ended: CancellationToken,
}

/// What stands between us and the services, if anything does.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialErrors {
    pub(super) event_hub: Option<LastError>,
    pub(super) store: Option<LastError>,
}

/// What load balancing has done.
#[derive(Debug, Default)]
pub(in crate::processor) struct Balancing {
    cycles: AtomicU64,
    failed_cycles: AtomicU64,
    claims: AtomicU64,
    steals: AtomicU64,
    losses: AtomicU64,
}

impl Balancing {
    pub(in crate::processor) fn cycle(&self, is_ok: bool) {
        let count = if is_ok {
            &self.cycles
        } else {
            &self.failed_cycles
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::processor) fn claimed(&self, is_steal: bool) {
        let count = if is_steal { &self.steals } else { &self.claims };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::processor) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    fn status(&self) -> LoadBalancingStatus {
        LoadBalancingStatus {
            cycles: self.cycles.load(Ordering::Relaxed),
            failed_cycles: self.failed_cycles.load(Ordering::Relaxed),
            claims: self.claims.load(Ordering::Relaxed),
            steals: self.steals.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
        }
    }
}

impl Board {
    pub(in crate::processor) fn new(
        scope: GroupScope,
        owner_id: OwnerId,
        notes: Arc<Notes>,
        restarts: Arc<Restarts>,
        calls: Arc<StoreCalls>,
    ) -> Self {
        Self {
            scope,
            owner_id,
            notes,
            restarts,
            calls,
            balancing: Balancing::default(),
            cells: Mutex::default(),
            owned: Mutex::default(),
            credentials: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// Where a partition's numbers are kept.
    pub(in crate::processor) fn cell(&self, partition_id: &PartitionId) -> Arc<PartitionCell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = cells.entry(partition_id.clone()).or_insert_with(|| {
            let cell = PartitionCell::new();
            #[cfg(feature = "metrics")]
            let cell = cell.record_durations(super::metrics::durations(&self.scope, partition_id));
            Arc::new(cell)
        });
        Arc::clone(cell)
    }

    /// Every partition that was ever ours, and whether it is now.
    #[cfg(feature = "metrics")]
    pub(super) fn all(&self) -> Vec<(PartitionId, Arc<PartitionCell>, Option<PartitionStatus>)> {
        let cells = self
            .cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let owned = self.owned().clone();
        let all = cells.into_iter().map(|(partition_id, cell)| {
            let holding = owned.get(&partition_id);
            let status = holding.map(|holding| self.partition(&partition_id, *holding));
            (partition_id, cell, status)
        });
        all.collect()
    }

    pub(in crate::processor) fn set_owned(&self, owned: BTreeMap<PartitionId, Holding>) {
        *self.owned() = owned;
    }

    /// Notes one partition's holding between two cycles; `None`: it is not ours any more.
    pub(in crate::processor) fn note(&self, partition_id: PartitionId, holding: Option<Holding>) {
        let mut owned = self.owned();
        match holding {
            Some(holding) => owned.insert(partition_id, holding),
            None => owned.remove(&partition_id),
        };
    }

    pub(super) fn set_credential_errors(&self, errors: CredentialErrors) {
        *self.credentials() = errors;
    }

    /// The partitions that are ours and read, with their numbers.
    pub(super) fn read(&self) -> Vec<(PartitionId, Arc<PartitionCell>)> {
        let owned = self.owned().clone();
        owned
            .into_iter()
            .filter(|(_, holding)| *holding == Holding::Read)
            .map(|(partition_id, _)| {
                let cell = self.cell(&partition_id);
                (partition_id, cell)
            })
            .collect()
    }

    pub(super) fn is_paused(&self, partition_id: &PartitionId) -> bool {
        self.restarts
            .of(partition_id)
            .is_some_and(|slot| slot.is_paused())
    }

    /// Whether an event would be handed out: the partition is not paused, and a stream is asked for more.
    pub(super) fn is_open(&self, partition_id: &PartitionId) -> bool {
        self.restarts
            .of(partition_id)
            .is_none_or(|slot| slot.is_open())
    }

    pub(in crate::processor) fn status(&self) -> ProcessorStatus {
        let owned = self.owned().clone();
        let partitions = owned.into_iter().map(|(partition_id, holding)| {
            let status = self.partition(&partition_id, holding);
            (partition_id, status)
        });
        let credentials = self.credentials().clone();
        ProcessorStatus {
            taken_at: SystemTime::now(),
            owner_id: self.owner_id.clone(),
            partitions: partitions.collect(),
            load_balancing: self.balancing.status(),
            storage: self.calls.status(),
            checkpoint_regressions_repaired: self
                .notes
                .regressions_repaired
                .load(Ordering::Relaxed),
            event_hub_credential_error: credentials.event_hub,
            store_credential_error: credentials.store,
            has_ended: self.ended.is_cancelled(),
        }
    }

    fn partition(&self, partition_id: &PartitionId, holding: Holding) -> PartitionStatus {
        let cell = self.cell(partition_id);
        let seldom = cell.seldom();
        let last_processed = cell.last_processed();
        let lag_events = seldom.end.as_ref().and_then(|end| {
            if end.is_empty {
                return Some(0);
            }
            let before = last_processed.or_else(|| Some(end.beginning?.saturating_sub(1)))?;
            let lag = end.last.sequence_number.saturating_sub(before);
            // A partition that begins after the checkpoint has lost what lies between.
            Some(u64::try_from(lag).unwrap_or(0))
        });
        PartitionStatus {
            state: self.state(partition_id, holding, &cell),
            last_delivered: cell.last_delivered(),
            last_processed,
            last_checkpointed: seldom.last_checkpointed,
            last_checkpoint_time: seldom.last_checkpoint_time,
            events_in_flight: usize::try_from(cell.in_flight()).unwrap_or(usize::MAX),
            running_calls: cell.running_calls(),
            buffered_bytes: None,
            last_enqueued: seldom.end.map(|end| end.last),
            last_processed_enqueued_time: cell.processed_enqueued(),
            lag_events,
            events: cell.processed.load(Ordering::Relaxed),
            skipped: cell.skipped.load(Ordering::Relaxed),
            dead_letters: cell.dead_letters.load(Ordering::Relaxed),
            failures: cell.failures.load(Ordering::Relaxed),
            restarts: cell.restarts.load(Ordering::Relaxed),
            stalls: cell.stalls.load(Ordering::Relaxed),
            slow_calls: cell.slow_calls.load(Ordering::Relaxed),
            last_error: seldom
                .last_error
                .map(|(message, time)| LastError::new(message, time)),
        }
    }

    fn state(
        &self,
        partition_id: &PartitionId,
        holding: Holding,
        cell: &PartitionCell,
    ) -> PartitionState {
        match holding {
            Holding::Awaited => return PartitionState::WaitingForOwner,
            Holding::HeldOff => return PartitionState::HeldOff,
            Holding::Read => {}
        }
        if self.is_paused(partition_id) {
            return if cell.is_stopped() {
                PartitionState::Stopped
            } else {
                PartitionState::Paused
            };
        }
        if cell.is_unproven() {
            PartitionState::Unproven
        } else if cell.is_retrying() {
            PartitionState::Retrying
        } else if cell.is_stalled() {
            PartitionState::Stalled
        } else {
            match cell.stage() {
                Stage::Starting => PartitionState::Starting,
                Stage::Reading => PartitionState::Reading,
                Stage::Reconnecting => PartitionState::Reconnecting,
            }
        }
    }

    fn credentials(&self) -> MutexGuard<'_, CredentialErrors> {
        // Replaced as a whole.
        self.credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn owned(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Holding>> {
        // A panic cannot leave either map half changed.
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
