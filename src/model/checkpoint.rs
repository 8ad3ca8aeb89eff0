//! The record that says how far a consumer group has come in a partition.

use super::{Offset, OwnerId, PartitionId};

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
    /// Who wrote the record: .NET's `clientidentifier`. `None` in records of the other SDKs, which neither write nor
    /// keep it. Nothing but the reading of a lost answer may depend on it.
    pub client_identifier: Option<OwnerId>,
}
