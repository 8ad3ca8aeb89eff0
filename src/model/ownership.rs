//! The record that says which processor holds a partition.

use std::time::SystemTime;

use super::{ETag, OwnerId, PartitionId};

/// One ownership record as a store returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The partition the record is about.
    pub partition_id: PartitionId,
    /// Who holds it. `None`: somebody gave it back, or the record names nobody.
    pub owner_id: Option<OwnerId>,
    /// Version of the record, for the next conditional write.
    pub etag: ETag,
    /// When the record was last written, by the store's clock (blob storage resolves one second).
    /// `None` if the store did not say.
    pub last_modified: Option<SystemTime>,
}
