//! The record that says how far a consumer group has come in a partition.

use super::{Offset, PartitionId};

/// Progress of a consumer group in one partition: everything up to and including this event is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The partition the record is about.
    pub partition_id: PartitionId,
    /// Offset of the last processed event. `None` in records of writers that leave it out
    /// (.NET 5.11 did); ours always carry it.
    pub offset: Option<Offset>,
    /// Sequence number of the last processed event. `None` in records of writers that leave it out.
    pub sequence_number: Option<i64>,
}
