//! A store in memory, for tests, simulations and single-process use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome, Written,
    validate,
};
use crate::error::StoreError;
use crate::model::{Checkpoint, ETag, GroupScope, OwnerId, Ownership, PartitionId};

/// Keeps ownership and checkpoint records in memory. Clones share the records.
///
/// Conditions, outcomes and version tags are those of the blob store, so that a test that passes here means
/// something there: every write changes the tag, a stale tag loses, names of namespace, event hub and
/// consumer group are compared in lower case. A write that names a version of a record that does not exist
/// creates it, as the blob store does with a record that vanished; giving back such a record is lost.
///
/// The store's clock starts at the time of creation and advances with tokio's clock, so that ownership
/// expires in virtual time too.
///
/// No method waits for anything: the futures are ready at once.
#[derive(Clone)]
pub struct InMemoryCheckpointStore {
    shared: Arc<Shared>,
}

struct Shared {
    base_time: SystemTime,
    started: Instant,
    records: Mutex<Records>,
}

type Key = (GroupScope, PartitionId);

#[derive(Default)]
struct Records {
    writes: u64,
    ownerships: BTreeMap<Key, Record<Option<OwnerId>>>,
    checkpoints: BTreeMap<Key, Record<Checkpoint>>,
}

struct Record<T> {
    value: T,
    etag: ETag,
    last_modified: SystemTime,
}

impl InMemoryCheckpointStore {
    /// An empty store whose clock starts at the current system time.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(SystemTime::now())
    }

    /// An empty store whose clock starts at `base_time`, for reproducible tests.
    #[must_use]
    pub fn starting_at(base_time: SystemTime) -> Self {
        Self {
            shared: Arc::new(Shared {
                base_time,
                started: Instant::now(),
                records: Mutex::default(),
            }),
        }
    }

    fn now(&self) -> SystemTime {
        self.shared.base_time + self.shared.started.elapsed()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // A panic cannot leave the maps half changed, so a poisoned lock guards sound records.
        self.shared
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for InMemoryCheckpointStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for InMemoryCheckpointStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.records();
        f.debug_struct("InMemoryCheckpointStore")
            .field("ownerships", &records.ownerships.len())
            .field("checkpoints", &records.checkpoints.len())
            .finish_non_exhaustive()
    }
}

/// The one place that decides whether a write goes through.
fn write<T>(
    records: &mut BTreeMap<Key, Record<T>>,
    writes: &mut u64,
    now: SystemTime,
    key: Key,
    value: T,
    condition: &WriteCondition,
    creates: bool,
) -> WriteOutcome {
    let stored = records.get(&key).map(|record| &record.etag);
    let holds = match (condition, stored) {
        (WriteCondition::Absent, stored) => stored.is_none(),
        (WriteCondition::Matches(etag), Some(stored)) => etag == stored,
        (WriteCondition::Matches(_), None) => creates,
        (WriteCondition::Unconditional, _) => true,
    };
    if !holds {
        return WriteOutcome::Lost;
    }
    *writes += 1;
    let etag = ETag::new(format!("0x{writes:X}"));
    records.insert(
        key,
        Record {
            value,
            etag: etag.clone(),
            last_modified: now,
        },
    );
    WriteOutcome::Written(Written {
        etag,
        last_modified: Some(now),
    })
}

#[async_trait]
impl CheckpointStore for InMemoryCheckpointStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let scope = scope.folded();
        let records = self.records();
        let of_scope = records.ownerships.iter().filter(|((s, _), _)| *s == scope);
        let ownerships = of_scope
            .map(|((_, partition_id), record)| Ownership {
                partition_id: partition_id.clone(),
                owner_id: record.value.clone(),
                etag: record.etag.clone(),
                last_modified: Some(record.last_modified),
            })
            .collect();
        Ok(OwnershipListing {
            as_of: self.now(),
            ownerships,
        })
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        if let Some(owner_id) = owner_id {
            validate::owner_id(owner_id)?;
        }
        match condition {
            WriteCondition::Absent => {}
            WriteCondition::Matches(etag) => validate::etag(etag)?,
            WriteCondition::Unconditional => return Err(validate::unconditional_ownership()),
        }
        let key = (scope.folded(), partition_id.clone());
        let mut records = self.records();
        let Records {
            writes, ownerships, ..
        } = &mut *records;
        let owner = owner_id.cloned();
        let creates = owner.is_some();
        Ok(write(
            ownerships,
            writes,
            self.now(),
            key,
            owner,
            condition,
            creates,
        ))
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let scope = scope.folded();
        let records = self.records();
        let of_scope = records.checkpoints.iter().filter(|((s, _), _)| *s == scope);
        Ok(of_scope.map(|(_, record)| stored(record)).collect())
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let key = (scope.folded(), partition_id.clone());
        Ok(self.records().checkpoints.get(&key).map(stored))
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        validate::checkpoint(checkpoint)?;
        if let WriteCondition::Matches(etag) = condition {
            validate::etag(etag)?;
        }
        let key = (scope.folded(), checkpoint.partition_id.clone());
        let mut records = self.records();
        let Records {
            writes,
            checkpoints,
            ..
        } = &mut *records;
        let value = checkpoint.clone();
        Ok(write(
            checkpoints,
            writes,
            self.now(),
            key,
            value,
            condition,
            true,
        ))
    }
}

fn stored(record: &Record<Checkpoint>) -> StoredCheckpoint {
    StoredCheckpoint {
        checkpoint: record.value.clone(),
        etag: Some(record.etag.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ages_follow_the_virtual_clock() {
        let store = InMemoryCheckpointStore::new();
        let scope = GroupScope::new("ns", "hub", "$Default");
        store
            .claim_ownership(
                &scope,
                &"0".into(),
                Some(&"me".into()),
                &WriteCondition::Absent,
            )
            .await
            .unwrap();
        tokio::time::advance(Duration::from_secs(120)).await;
        let listing = store.list_ownership(&scope).await.unwrap();
        let written = listing.ownerships[0].last_modified.unwrap();
        let age = listing.as_of.duration_since(written).unwrap();
        assert_eq!(age, Duration::from_secs(120));
    }

    #[tokio::test]
    async fn clones_share_their_records() {
        let store = InMemoryCheckpointStore::new();
        let scope = GroupScope::new("ns", "hub", "g");
        let checkpoint = Checkpoint {
            partition_id: "3".into(),
            offset: Some("7".into()),
            sequence_number: Some(1),
            client_identifier: None,
        };
        store
            .clone()
            .update_checkpoint(&scope, &checkpoint, &WriteCondition::Absent)
            .await
            .unwrap();
        let stored = store.checkpoint(&scope, &"3".into()).await.unwrap();
        assert_eq!(stored.unwrap().checkpoint, checkpoint);
    }
}
