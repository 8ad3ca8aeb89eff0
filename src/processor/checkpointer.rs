//! The checkpoint of one term: reads and writes what the register decides.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::fence::Fence;
use super::policies::CheckpointRegression;
use super::pump::Shared;
use super::register::{Found, Register};
use super::restart::{Restart, RestartSlot};
use super::status::PartitionCell;
use crate::checkpoint::{CheckpointStore, StoredCheckpoint, WriteCondition, WriteOutcome};
use crate::error::{CheckpointError, StoreError, StoreErrorKind};
use crate::model::{Checkpoint, GroupScope, Offset, OwnerId, PartitionId};
use crate::telemetry;

/// Writes a term's checkpoints so that none ever replaces a later one (ADR-0006).
pub(super) struct Checkpointer {
    store: Arc<dyn CheckpointStore>,
    scope: GroupScope,
    owner_id: OwnerId,
    partition_id: PartitionId,
    on_regression: CheckpointRegression,
    /// Held across a write: one is under way at a time.
    register: Mutex<Register>,
    /// Highest sequence number handed to the handler in this term.
    last_delivered: AtomicI64,
    ended: CancellationToken,
    fence: Arc<Fence>,
    restarts: Arc<RestartSlot>,
    cell: Arc<PartitionCell>,
    notes: Arc<Notes>,
}

/// What checkpoints tell the rest of the processor.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Somebody else checkpoints a partition of ours: it is time to look whose it is.
    pub(super) look_now: Notify,
    /// Checkpoints that somebody had moved back and that were written again.
    pub(super) regressions_repaired: AtomicU64,
}

/// A write that loses this many races in a row gives up: with one owner the second try wins.
const MAX_TRIES: usize = 4;

impl Checkpointer {
    pub(super) fn new(
        shared: &Shared,
        partition_id: PartitionId,
        fence: Arc<Fence>,
        restarts: Arc<RestartSlot>,
        cell: Arc<PartitionCell>,
    ) -> Self {
        Self {
            store: Arc::clone(&shared.store),
            scope: shared.scope.clone(),
            owner_id: shared.owner_id.clone(),
            partition_id,
            on_regression: shared.options.checkpoint_regression,
            register: Mutex::default(),
            last_delivered: AtomicI64::new(i64::MIN),
            ended: CancellationToken::new(),
            fence,
            restarts,
            cell,
            notes: Arc::clone(&shared.notes),
        }
    }

    pub(super) fn partition_id(&self) -> &PartitionId {
        &self.partition_id
    }

    pub(super) fn restarts(&self) -> &RestartSlot {
        &self.restarts
    }

    pub(super) fn cell(&self) -> &PartitionCell {
        &self.cell
    }

    /// Reads where the term starts. `is_reset`: the first write of the term replaces the record, whatever it says.
    pub(super) async fn read(&self, is_reset: bool) -> Result<Option<Checkpoint>, StoreError> {
        let mut register = self.register.lock().await;
        match self.stored().await {
            Ok(found) => {
                register.begin(found.as_ref(), is_reset);
                Ok(found.map(|found| found.checkpoint))
            }
            Err(error) if is_reset && error.kind() == StoreErrorKind::MalformedRecord => {
                register.begin_unreadable();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads where the term starts and writes the same once more, so that no request of an older owner finds the
    /// version that it names. Nothing is written if there is no record: an empty one would stop other SDKs.
    pub(super) async fn read_and_touch(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut register = self.register.lock().await;
        let mut unknown = None;
        for _ in 0..MAX_TRIES {
            let found = self.stored().await.map_err(CheckpointError::Store)?;
            register.begin(found.as_ref(), false);
            let Some(found) = found else {
                return Ok(None);
            };
            let (condition, checkpoint) = (found.condition(), found.checkpoint);
            // INTEROP: an incomplete record is a foreign one; those who write such name no version.
            let is_complete = checkpoint.offset.is_some() && checkpoint.sequence_number.is_some();
            if condition == WriteCondition::Absent || !is_complete {
                return Ok(Some(checkpoint));
            }
            let touched = self
                .store
                .update_checkpoint(&self.scope, &checkpoint, &condition);
            unknown = match touched.await.map_err(CheckpointError::Store)? {
                WriteOutcome::Written(written) => {
                    register.touched(written.etag);
                    return Ok(Some(checkpoint));
                }
                WriteOutcome::Lost => None,
                WriteOutcome::Unknown(error) => Some(error),
            };
        }
        Err(self.gave_up(unknown))
    }

    /// Notes that an event goes to the handler.
    pub(super) fn delivered(&self, sequence_number: i64) {
        self.last_delivered
            .fetch_max(sequence_number, Ordering::Relaxed);
    }

    /// Refuses everything from now on.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Whether a checkpoint may be asked for.
    pub(super) fn check(&self, sequence_number: i64) -> Result<(), CheckpointError> {
        if self.has_ended() {
            return Err(CheckpointError::OwnershipLost);
        }
        if sequence_number > self.last_delivered.load(Ordering::Relaxed) {
            return Err(CheckpointError::NotDelivered { sequence_number });
        }
        Ok(())
    }

    /// Writes that everything up to an event is done, unless the stored checkpoint is as far already.
    pub(super) async fn write(
        &self,
        sequence_number: i64,
        offset: Offset,
    ) -> Result<(), CheckpointError> {
        self.check(sequence_number)?;
        let wanted = Checkpoint {
            partition_id: self.partition_id.clone(),
            offset: Some(offset),
            sequence_number: Some(sequence_number),
            client_identifier: Some(self.owner_id.clone()),
        };
        let mut register = self.register.lock().await;
        let mut unknown = None;
        let mut moved_back = None;
        for _ in 0..MAX_TRIES {
            if self.has_ended() {
                return Err(CheckpointError::OwnershipLost);
            }
            if !self.fence.holds() {
                return Err(CheckpointError::OwnershipUnproven);
            }
            let Some(condition) = register.condition(&wanted) else {
                return Ok(());
            };
            let outcome = self
                .store
                .update_checkpoint(&self.scope, &wanted, &condition)
                .await
                .map_err(CheckpointError::Store)?;
            unknown = match outcome {
                WriteOutcome::Written(written) => {
                    register.written(&wanted, written.etag);
                    self.cell.checkpointed(sequence_number);
                    self.note_repair(moved_back, sequence_number);
                    return Ok(());
                }
                WriteOutcome::Lost => None,
                WriteOutcome::Unknown(error) => Some(error),
            };
            // Either somebody wrote in between or we may have written ourselves: the record knows.
            let found = match self.stored().await {
                Ok(found) => found,
                Err(error) => return Err(CheckpointError::Unknown(unknown.unwrap_or(error))),
            };
            match register.found(found.as_ref(), &wanted, &self.owner_id) {
                Found::Behind => {}
                Found::Gone => self.warn_gone(),
                Found::Landed => {
                    self.cell.checkpointed(sequence_number);
                    self.note_repair(moved_back, sequence_number);
                    return Ok(());
                }
                Found::MovedBack { from, to } => {
                    if self.on_regression == CheckpointRegression::Adopt {
                        self.restarts.ask(Restart::AtCheckpoint);
                        // What this term has done counts no more; whatever else it writes would undo the rewind.
                        self.end();
                        return Err(CheckpointError::MovedBack { from, to });
                    }
                    moved_back = Some((from, to));
                }
                Found::Superseded => {
                    self.notes.look_now.notify_one();
                    return Ok(());
                }
            }
        }
        Err(self.gave_up(unknown))
    }

    /// Where a term that replays what lies below the record got to; `None` before its first checkpoint.
    pub(super) async fn replayed(&self) -> Replayed {
        let register = self.register.lock().await;
        match register.passed_over() {
            _ if register.is_settled() => Replayed::Beyond,
            Some(checkpoint) => Replayed::Until(checkpoint.clone()),
            None => Replayed::Nothing,
        }
    }

    async fn stored(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.store.checkpoint(&self.scope, &self.partition_id).await
    }

    fn gave_up(&self, unknown: Option<StoreError>) -> CheckpointError {
        match unknown {
            Some(error) => CheckpointError::Unknown(error),
            None => CheckpointError::Store(StoreError::new(
                StoreErrorKind::Busy,
                format!(
                    "partition {}: the checkpoint kept changing",
                    self.partition_id
                ),
            )),
        }
    }

    fn note_repair(&self, moved_back: Option<(i64, i64)>, now_at: i64) {
        let Some((from, to)) = moved_back else { return };
        let repaired = &self.notes.regressions_repaired;
        let checkpoint_regressions_repaired = repaired.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(
            target: telemetry::PROCESSOR,
            partition_id = %self.partition_id,
            from, to, now_at, checkpoint_regressions_repaired,
            "somebody had moved the checkpoint back; it is written again"
        );
    }

    fn warn_gone(&self) {
        tracing::warn!(
            target: telemetry::PROCESSOR,
            partition_id = %self.partition_id,
            "somebody deleted the checkpoint; it is written again"
        );
    }
}

/// How far a replay came, as the application's checkpoints say.
#[derive(Debug)]
pub(super) enum Replayed {
    Nothing,
    Until(Checkpoint),
    /// As far as the stored checkpoint, which counts from there on.
    Beyond,
}

impl fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointer")
            .field("partition_id", &self.partition_id)
            .finish_non_exhaustive()
    }
}
