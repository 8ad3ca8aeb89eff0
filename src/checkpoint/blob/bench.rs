//! Records to and from the metadata of a blob.

use std::collections::HashMap;

use super::metadata;
use crate::error::StoreError;
use crate::model::{Checkpoint, OwnerId, PartitionId};

/// Who owns the partition.
#[must_use]
pub fn read_owner(metadata: &HashMap<String, String>) -> Option<OwnerId> {
    metadata::read_owner(metadata)
}

/// The metadata of an ownership record.
#[must_use]
pub fn write_owner(owner_id: Option<&OwnerId>) -> HashMap<String, String> {
    metadata::write_owner(owner_id)
}

/// The position in a checkpoint record.
///
/// # Errors
///
/// If there is none.
pub fn read_checkpoint(
    partition_id: &PartitionId,
    metadata: &HashMap<String, String>,
) -> Result<Checkpoint, StoreError> {
    metadata::read_checkpoint(partition_id, metadata)
}

/// The metadata of a checkpoint record.
///
/// # Errors
///
/// If the checkpoint is none that every SDK can read.
pub fn write_checkpoint(checkpoint: &Checkpoint) -> Result<HashMap<String, String>, StoreError> {
    metadata::write_checkpoint(checkpoint)
}
