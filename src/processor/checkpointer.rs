//! The checkpoint of one term: a register that only grows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::fence::Fence;
use crate::checkpoint::{CheckpointStore, StoredCheckpoint, WriteCondition, WriteOutcome};
use crate::error::{CheckpointError, StoreError, StoreErrorKind};
use crate::model::{Checkpoint, ETag, GroupScope, PartitionId};

/// Writes a term's checkpoints so that none ever replaces a later one (ADR-0006).
///
/// INVARIANT: a write is conditional on exactly the version whose sequence number is known to be lower, so a deposed
/// owner, however late its request arrives, cannot move the checkpoint back. After a lost race both the version *and*
/// the number read with it are remembered: a conditional write that keeps the old number still regresses.
pub(super) struct Checkpointer {
    store: Arc<dyn CheckpointStore>,
    scope: GroupScope,
    partition_id: PartitionId,
    stored: Mutex<Stored>,
    /// Highest sequence number handed to the handler in this term.
    last_delivered: AtomicI64,
    ended: CancellationToken,
    fence: Arc<Fence>,
}

/// What we last saw in the store.
#[derive(Clone, Debug, Default)]
struct Stored {
    sequence_number: Option<i64>,
    version: Option<ETag>,
}

/// A write that loses this many races in a row gives up: with one owner the second try wins.
const MAX_TRIES: usize = 4;

impl Checkpointer {
    pub(super) fn new(
        store: Arc<dyn CheckpointStore>,
        scope: GroupScope,
        partition_id: PartitionId,
        fence: Arc<Fence>,
    ) -> Self {
        Self {
            store,
            scope,
            partition_id,
            stored: Mutex::default(),
            last_delivered: AtomicI64::new(i64::MIN),
            ended: CancellationToken::new(),
            fence,
        }
    }

    pub(super) fn partition_id(&self) -> &PartitionId {
        &self.partition_id
    }

    /// Reads where the term starts.
    pub(super) async fn read(&self) -> Result<Option<Checkpoint>, StoreError> {
        let mut stored = self.stored.lock().await;
        self.refresh(&mut stored).await
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

    /// Writes a checkpoint unless the stored one is as far already.
    pub(super) async fn write(&self, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let wanted = checkpoint.sequence_number.unwrap_or(i64::MAX);
        if wanted > self.last_delivered.load(Ordering::Relaxed) {
            return Err(CheckpointError::NotDelivered {
                sequence_number: wanted,
            });
        }
        let mut stored = self.stored.lock().await;
        let mut unknown = None;
        for _ in 0..MAX_TRIES {
            if self.ended.is_cancelled() {
                return Err(CheckpointError::OwnershipLost);
            }
            if !self.fence.holds() {
                return Err(CheckpointError::OwnershipUnproven);
            }
            if stored
                .sequence_number
                .is_some_and(|sequence_number| sequence_number >= wanted)
            {
                return Ok(());
            }
            let condition = match &stored.version {
                Some(version) => WriteCondition::Matches(version.clone()),
                None => WriteCondition::Absent,
            };
            let outcome = self
                .store
                .update_checkpoint(&self.scope, checkpoint, &condition)
                .await
                .map_err(CheckpointError::Store)?;
            unknown = match outcome {
                WriteOutcome::Written(written) => {
                    *stored = Stored {
                        sequence_number: Some(wanted),
                        version: Some(written.etag),
                    };
                    return Ok(());
                }
                WriteOutcome::Lost => None,
                WriteOutcome::Unknown(error) => Some(error),
            };
            // Either somebody wrote in between or we may have written ourselves: the record knows.
            if let Err(error) = self.refresh(&mut stored).await {
                return Err(CheckpointError::Unknown(unknown.unwrap_or(error)));
            }
        }
        Err(unknown.map_or_else(
            || {
                let context = format!(
                    "partition {}: the checkpoint kept changing",
                    self.partition_id
                );
                CheckpointError::Store(StoreError::new(StoreErrorKind::Busy, context))
            },
            CheckpointError::Unknown,
        ))
    }

    async fn refresh(&self, stored: &mut Stored) -> Result<Option<Checkpoint>, StoreError> {
        let found = self
            .store
            .checkpoint(&self.scope, &self.partition_id)
            .await?;
        *stored = match &found {
            Some(StoredCheckpoint { checkpoint, etag }) => Stored {
                sequence_number: checkpoint.sequence_number,
                version: etag.clone(),
            },
            None => Stored::default(),
        };
        Ok(found.map(|found| found.checkpoint))
    }
}

impl fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointer")
            .field("partition_id", &self.partition_id)
            .finish_non_exhaustive()
    }
}
