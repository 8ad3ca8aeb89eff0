//! Records of the same consumer group under other spellings of its names.
//!
//! Event Hubs does not tell cases apart, blob storage does, and not every SDK folds its names (Go and the official Rust
//! crate do not). Two halves of a group that do not see each other both read every partition.

use std::collections::{BTreeMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::container::{Deadline, Listing};
use super::names::{self, BlobNames};
use super::writes::Write;
use super::{BlobCheckpointStore, NameCase, SplitGroup, metadata, records};
use crate::checkpoint::{
    CheckpointStore as _, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome,
};
use crate::error::{StoreError, StoreErrorKind};
use crate::model::{GroupScope, PartitionId};

/// Within this age an ownership record says that its owner runs. The longest default expiration of any SDK
/// (Python's) is 180 s.
const LIVE: Duration = Duration::from_secs(180);

/// What stands in the container about a consumer group under another spelling of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherSpelling {
    /// The names as they are spelled there.
    pub scope: GroupScope,
    /// The ownership records there.
    pub ownership: OwnershipListing,
    /// The checkpoints there. Their versions are those of the records there.
    pub checkpoints: Vec<StoredCheckpoint>,
}

impl OtherSpelling {
    /// Whether somebody renewed an ownership there within the last three minutes before the listing: the longest that
    /// any SDK waits by default before it takes an owner for dead.
    #[must_use]
    pub fn has_live_owner(&self) -> bool {
        self.ownership.ownerships.iter().any(|ownership| {
            ownership.owner_id.is_some()
                && ownership.last_modified.is_some_and(|written| {
                    let age = self.ownership.as_of.duration_since(written);
                    age.unwrap_or_default() < LIVE
                })
        })
    }
}

/// What [`BlobCheckpointStore::migrate_checkpoints`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointMigration {
    /// Partitions whose checkpoint was taken over.
    pub taken: Vec<PartitionId>,
    /// Partitions whose checkpoint here was as far or further, or changed meanwhile, or where the one there lacks
    /// what a checkpoint needs.
    pub kept: Vec<PartitionId>,
}

impl BlobCheckpointStore {
    /// Looks for records of the same consumer group under other spellings of its names: as the caller spells them,
    /// folded to lower case, and with `$Default` in its usual spelling, whichever of these this store does not use.
    /// Spellings without records are left out.
    ///
    /// The store looks by itself once for each group, and acts as [`SplitGroup`] says.
    ///
    /// # Errors
    ///
    /// As [`list_ownership`](crate::CheckpointStore::list_ownership).
    ///
    /// # Cancel safety
    ///
    /// Only reads.
    pub async fn other_spellings(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<OtherSpelling>, StoreError> {
        self.spellings(self.deadline(), scope).await
    }

    /// Takes over checkpoints that stand under [other spellings](Self::other_spellings) of the group's names: each for
    /// which there is none here, or one with a lower sequence number. Nothing is deleted, and no checkpoint here goes
    /// back. Calling it again is harmless.
    ///
    /// # Errors
    ///
    /// As [`update_checkpoint`](crate::CheckpointStore::update_checkpoint), also where nobody knows whether a write took
    /// effect; [`SplitGroup`](StoreErrorKind::SplitGroup) if processors still run there, since they would go on there.
    /// Some checkpoints may have been taken over then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves some checkpoints taken over and others not.
    pub async fn migrate_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<CheckpointMigration, StoreError> {
        let others = self.spellings(self.deadline(), scope).await?;
        if let Some(other) = others.iter().find(|other| other.has_live_owner()) {
            return Err(split(scope, other));
        }
        let mut here = by_partition(self.list_checkpoints(scope).await?);
        let mut done = CheckpointMigration::default();
        for found in others.into_iter().flat_map(|other| other.checkpoints) {
            let partition_id = found.checkpoint.partition_id.clone();
            match self
                .take_over(scope, here.get(&partition_id), &found)
                .await?
            {
                Some(taken) => {
                    here.insert(partition_id.clone(), taken);
                    done.taken.push(partition_id);
                }
                None => done.kept.push(partition_id),
            }
        }
        Ok(done)
    }

    /// Writes a checkpoint found elsewhere, if it is ahead of the one here.
    async fn take_over(
        &self,
        scope: &GroupScope,
        here: Option<&StoredCheckpoint>,
        found: &StoredCheckpoint,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        if !is_ahead(found, here) {
            return Ok(None);
        }
        let checkpoint = &found.checkpoint;
        let Ok(metadata) = metadata::write_checkpoint(checkpoint) else {
            tracing::warn!(
                group = %scope,
                partition = %checkpoint.partition_id,
                "a checkpoint under another spelling lacks offset or sequence number and is not taken over"
            );
            return Ok(None);
        };
        let name = self.names(scope)?.checkpoint(&checkpoint.partition_id)?;
        let write = Write {
            container: &self.shared.container,
            deadline: self.deadline(),
            name: &name,
            metadata: &metadata,
        };
        let condition = here.map_or(WriteCondition::Absent, StoredCheckpoint::condition);
        match write.on(&condition, true).await? {
            WriteOutcome::Written(written) => Ok(Some(StoredCheckpoint {
                checkpoint: checkpoint.clone(),
                etag: Some(written.etag),
            })),
            WriteOutcome::Lost => Ok(None),
            WriteOutcome::Unknown(error) => Err(error),
        }
    }

    /// Looks, once for each group, for other processors of it that keep their records under another spelling.
    ///
    /// Fails only if the options say so: where it must be certain that there are none.
    pub(super) async fn check_spellings(
        &self,
        deadline: Deadline,
        scope: &GroupScope,
    ) -> Result<(), StoreError> {
        if self.spellings_checked().contains(scope) {
            return Ok(());
        }
        match self.report_spellings(deadline, scope).await {
            Ok(()) => {
                self.spellings_checked().insert(scope.clone());
                Ok(())
            }
            Err(error) if self.shared.options.split_group == SplitGroup::Refuse => Err(error),
            Err(error) => {
                tracing::debug!(group = %scope, %error, "cannot look for other spellings of the group");
                Ok(())
            }
        }
    }

    async fn report_spellings(
        &self,
        deadline: Deadline,
        scope: &GroupScope,
    ) -> Result<(), StoreError> {
        for other in self.spellings(deadline, scope).await? {
            if other.has_live_owner() {
                if self.shared.options.split_group == SplitGroup::Refuse {
                    return Err(split(scope, &other));
                }
                tracing::warn!(
                    group = %scope,
                    other = %other.scope,
                    "other processors of this consumer group keep their records under another spelling of its \
                     names: neither side sees the other, and both read every partition. Spell the names in lower \
                     case everywhere, or choose NameCase::Verbatim and spell them alike"
                );
            } else if !other.checkpoints.is_empty() {
                let here = by_partition(self.list_checkpoints(scope).await?);
                let ahead = other
                    .checkpoints
                    .iter()
                    .filter(|found| is_ahead(found, here.get(&found.checkpoint.partition_id)));
                let partitions = ahead.count();
                if partitions > 0 {
                    tracing::warn!(
                        group = %scope,
                        other = %other.scope,
                        partitions,
                        "there are checkpoints under another spelling of the group's names that are ahead of those \
                         here; BlobCheckpointStore::migrate_checkpoints takes them over"
                    );
                }
            }
        }
        Ok(())
    }

    async fn spellings(
        &self,
        deadline: Deadline,
        scope: &GroupScope,
    ) -> Result<Vec<OtherSpelling>, StoreError> {
        let mut found = Vec::new();
        for scope in names::other_spellings(scope, self.shared.options.name_case) {
            let names = BlobNames::new(&scope, NameCase::Verbatim)?;
            let Listing { as_of, records } = self.list(deadline, names.prefix()).await?;
            if records.is_empty() {
                continue;
            }
            let (owned, others) = (names.ownership_prefix(), names.checkpoint_prefix());
            let (ownership, checkpoints) = records
                .into_iter()
                .partition(|record| record.name.starts_with(&owned));
            let listing = |records| Listing { as_of, records };
            found.push(OtherSpelling {
                ownership: records::ownerships(&owned, listing(ownership)),
                checkpoints: records::checkpoints(&others, listing(checkpoints)),
                scope,
            });
        }
        Ok(found)
    }

    fn spellings_checked(&self) -> MutexGuard<'_, HashSet<GroupScope>> {
        let checked = &self.shared.spellings_checked;
        checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a checkpoint found elsewhere may take the place of the one here: of two positions that cannot be compared,
/// the one here stays.
fn is_ahead(found: &StoredCheckpoint, here: Option<&StoredCheckpoint>) -> bool {
    let Some(here) = here else {
        return true;
    };
    let numbers = (
        found.checkpoint.sequence_number,
        here.checkpoint.sequence_number,
    );
    matches!(numbers, (Some(found), Some(here)) if found > here)
}

fn by_partition(checkpoints: Vec<StoredCheckpoint>) -> BTreeMap<PartitionId, StoredCheckpoint> {
    let pairs = checkpoints
        .into_iter()
        .map(|stored| (stored.checkpoint.partition_id.clone(), stored));
    pairs.collect()
}

fn split(scope: &GroupScope, other: &OtherSpelling) -> StoreError {
    StoreError::new(
        StoreErrorKind::SplitGroup,
        format!(
            "processors of {scope} keep their records under {}",
            other.scope
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{Checkpoint, Ownership};

    fn owned(owner: Option<&str>, age: u64) -> OtherSpelling {
        let as_of = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        OtherSpelling {
            scope: GroupScope::new("NS", "Hub", "g"),
            ownership: OwnershipListing {
                as_of,
                ownerships: vec![Ownership {
                    partition_id: "0".into(),
                    owner_id: owner.map(Into::into),
                    etag: "e".into(),
                    last_modified: Some(as_of - Duration::from_secs(age)),
                }],
            },
            checkpoints: Vec::new(),
        }
    }

    #[test]
    fn only_a_recent_owner_is_live() {
        assert!(owned(Some("a"), 50).has_live_owner());
        assert!(!owned(Some("a"), 300).has_live_owner());
        assert!(!owned(None, 50).has_live_owner());
    }

    #[test]
    fn a_checkpoint_is_ahead_of_none_and_of_a_lower_one() {
        let at = |sequence_number| StoredCheckpoint {
            checkpoint: Checkpoint {
                partition_id: "0".into(),
                offset: Some("1".into()),
                sequence_number,
                client_identifier: None,
            },
            etag: None,
        };
        let ahead = |found, here: Option<Option<i64>>| is_ahead(&at(found), here.map(at).as_ref());
        assert!(ahead(Some(5), None));
        assert!(ahead(None, None));
        assert!(ahead(Some(5), Some(Some(4))));
        assert!(!ahead(Some(5), Some(Some(5))));
        assert!(!ahead(Some(5), Some(Some(6))));
        assert!(!ahead(Some(5), Some(None)));
        assert!(!ahead(None, Some(Some(4))));
    }
}
